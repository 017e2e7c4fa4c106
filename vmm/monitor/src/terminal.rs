//! The text monitor on a terminal, key by key.

use crate::command::TABLE;
use crate::editor::{Editor, Typed};
use crate::text::{PROMPT, answer, greeting};
use machine::VmControl;
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

fn completions(before: &str) -> Vec<String> {
    TABLE
        .iter()
        .filter_map(|row| row.text)
        .filter(|name| name.starts_with(before))
        .map(str::to_owned)
        .collect()
}
