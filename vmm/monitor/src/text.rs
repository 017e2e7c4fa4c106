//! The text monitor.

use crate::command::{self, VERSION};
use crate::lines::{LINE_MAX, Line, Lines, TextLines};
use crate::outlet::Outlet;
use machine::VmControl;
use std::io::Read;

/// What the text monitor prints when it waits for a line.
pub(crate) const PROMPT: &str = "(umem) ";

pub(crate) fn greeting() -> String {
    format!("umem {VERSION} monitor - type 'help' for more information\n")
}

/// An answer, ready to be shown.
pub(crate) struct Reply {
    pub(crate) text: String,
    pub(crate) quit: bool,
}

/// Runs one line.
pub(crate) fn answer(vm: &dyn VmControl, line: &str) -> Reply {
    match command::run_line(vm, line) {
        Ok(done) => Reply { text: done.text, quit: done.quit },
        Err(error) => Reply { text: format!("Error: {error}\n"), quit: false },
    }
}

/// Serves a client until it goes away. One that ended its input has still its answers.
pub(crate) fn session(input: impl Read, outlet: &Outlet, vm: &dyn VmControl) {
    let mut lines = Lines::<_, TextLines>::new(input);
    let mut sent = outlet.send((greeting() + PROMPT).as_bytes());
    while sent.is_ok()
        && let Ok(Some(line)) = lines.next_line()
    {
        let reply = match line {
            Line::Text(line) => answer(vm, &line),
            Line::TooLong => complaint(&format!("the line is longer than {LINE_MAX} bytes")),
            Line::NotText => complaint("the line is no UTF-8 text"),
        };
        sent = outlet.send(if reply.quit { reply.text } else { reply.text + PROMPT }.as_bytes());
        if reply.quit {
            vm.quit();
            return;
        }
    }
}

fn complaint(text: &str) -> Reply {
    Reply { text: format!("Error: {text}\n"), quit: false }
}
