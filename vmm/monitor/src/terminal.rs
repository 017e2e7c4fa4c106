//! The text monitor on a terminal, key by key.

use crate::command::completions;
use crate::editor::{Editor, Typed};
use crate::report;
use crate::text::{PROMPT, answer, greeting};
use machine::{VmControl, VmEvent};
use std::sync::Arc;

/// A text monitor for a terminal that neither echoes nor edits (raw input). It owns no file: its
/// user hands it keys and shows what it returns, so that it may share the terminal.
pub struct TerminalMonitor {
    vm: Arc<dyn VmControl>,
    editor: Editor,
    ended: bool,
}

impl std::fmt::Debug for TerminalMonitor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TerminalMonitor").field("ended", &self.ended).finish_non_exhaustive()
    }
}

impl TerminalMonitor {
    /// A monitor of this VM.
    #[must_use]
    pub fn new(vm: Arc<dyn VmControl>) -> Self {
        Self { vm, editor: Editor::default(), ended: false }
    }

    /// What to show first.
    #[must_use]
    pub fn greeting(&self) -> Vec<u8> {
        (greeting() + PROMPT).into_bytes()
    }

    /// What to show when the terminal comes back to the monitor.
    #[must_use]
    pub fn redraw(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.editor.draw(PROMPT, &mut out);
        out
    }

    /// What to show to put a line that nobody asked for above the one being edited, which stays.
    /// Nothing once the user has left.
    #[must_use]
    pub fn notice(&self, line: &str) -> Vec<u8> {
        if self.ended {
            return Vec::new();
        }
        let mut out = format!("\r\x1b[K{line}\n").into_bytes();
        self.editor.draw(PROMPT, &mut out);
        out
    }

    /// Takes a key; returns what to show. A finished line runs at once, `quit` ends the VM.
    pub fn key(&mut self, byte: u8) -> Vec<u8> {
        let mut out = Vec::new();
        if self.ended {
            return out;
        }
        match self.editor.key(byte, PROMPT, &completions, &mut out) {
            None => {}
            Some(Typed::End) => self.ended = true,
            Some(Typed::Line(line)) => {
                let reply = answer(&*self.vm, &line);
                out.extend_from_slice(reply.text.as_bytes());
                if reply.quit {
                    self.ended = true;
                    self.vm.quit();
                } else {
                    self.editor.draw(PROMPT, &mut out);
                }
            }
        }
        out
    }

    /// Whether the user has left (Ctrl-D, or `quit`); the monitor takes no more keys.
    #[must_use]
    pub const fn ended(&self) -> bool {
        self.ended
    }
}

/// How this VM's migrations end, from now on: a line each, for [`TerminalMonitor::notice`]. Waits for
/// the next; ends with the VM.
pub fn outcomes(vm: Arc<dyn VmControl>) -> impl Iterator<Item = String> + Send {
    let events = vm.events();
    let mut before = String::new();
    std::iter::from_fn(move || {
        loop {
            let VmEvent::Migration { phase } = events.recv().ok()? else { continue };
            // A phase may be told again, with more known about it.
            let again = phase == before;
            before = phase;
            let status = vm.migration().filter(|status| status.phase == before && !again);
            if let Some(line) = status.as_ref().and_then(report::outcome) {
                return Some(line);
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::double::Recorder;

    fn type_in(monitor: &mut TerminalMonitor, keys: &[u8]) -> String {
        let shown: Vec<u8> = keys.iter().flat_map(|key| monitor.key(*key)).collect();
        String::from_utf8(shown).unwrap()
    }

    #[test]
    fn a_notice_leaves_the_line_and_the_cursor_as_they_are() {
        let vm = Arc::new(Recorder::default());
        let mut monitor = TerminalMonitor::new(vm.clone());
        type_in(&mut monitor, b"stoX\x1b[D");
        let shown = String::from_utf8(monitor.notice("migration completed")).unwrap();
        assert_eq!(shown, "\r\x1b[Kmigration completed\n\r(umem) stoX\x1b[K\x1b[1D");
        type_in(&mut monitor, b"\x1b[3~p\r");
        assert_eq!(vm.calls(), ["stop"]);
    }

    #[test]
    fn each_end_of_a_migration_is_told_once() {
        let vm = Arc::new(Recorder::default());
        let mut lines = outcomes(vm.clone());
        let mut status = report::tests::sample();
        let mut enter = |phase: &str, error: Option<&str>| {
            status.phase = phase.into();
            status.error = error.map(str::to_owned);
            *vm.migration.lock().unwrap() = Some(status.clone());
            vm.tell(&VmEvent::Migration { phase: phase.into() });
        };
        enter("active", None);
        vm.tell(&VmEvent::Stop);
        enter("completed", None);
        let first = lines.next().unwrap();
        assert!(first.starts_with("migration completed in 1234.6 ms"), "{first}");
        enter("completed", None);
        enter("failed", Some("link lost"));
        assert_eq!(lines.next().as_deref(), Some("migration failed after 1234.6 ms: link lost"));
    }

    #[test]
    fn tab_completes_parameters() {
        let vm = Arc::new(Recorder::default());
        let mut monitor = TerminalMonitor::new(vm.clone());
        type_in(&mut monitor, b"migrate_set_p\tdown\t200\r");
        assert_eq!(vm.calls(), ["parameters"]);
        assert_eq!(vm.parameters().downtime_limit, 200);
        let shown = type_in(&mut monitor, b"migrate_set_parameter postcopy-s\t\t");
        assert!(
            shown
                .ends_with("\nauto  manual\n\r(umem) migrate_set_parameter postcopy-switch \x1b[K"),
            "{shown:?}"
        );
    }
}
