//! Raw mode of the terminal, and its way back on every exit.

use rustix::termios::{
    InputModes, LocalModes, OptionalActions, OutputModes, SpecialCodeIndex, Termios, tcgetattr,
    tcsetattr,
};
use std::io::{self, IsTerminal as _};
use std::sync::{Mutex, Once, PoisonError};

/// The terminal's modes as they were found, while it is raw.
static FOUND: Mutex<Option<Termios>> = Mutex::new(None);

/// The terminal is raw for as long as this lives: keys come one by one and are not echoed. Output is
/// still processed, so that "\n" begins a line.
#[derive(Debug)]
pub(crate) struct RawTerminal(());

impl RawTerminal {
    /// Makes standard input raw if it is a terminal. With `signals`, Ctrl-C still ends the process.
    pub(crate) fn enter(signals: bool) -> io::Result<Option<Self>> {
        static HOOK: Once = Once::new();
        let input = io::stdin();
        if !input.is_terminal() {
            return Ok(None);
        }
        let found = tcgetattr(&input)?;
        let mut raw = found.clone();
        raw.input_modes -= InputModes::IGNBRK
            | InputModes::BRKINT
            | InputModes::PARMRK
            | InputModes::ISTRIP
            | InputModes::INLCR
            | InputModes::IGNCR
            | InputModes::ICRNL
            | InputModes::IXON;
        raw.output_modes |= OutputModes::OPOST | OutputModes::ONLCR;
        raw.local_modes -=
            LocalModes::ECHO | LocalModes::ECHONL | LocalModes::ICANON | LocalModes::IEXTEN;
        if !signals {
            raw.local_modes -= LocalModes::ISIG;
        }
        raw.special_codes[SpecialCodeIndex::VMIN] = 1;
        raw.special_codes[SpecialCodeIndex::VTIME] = 0;
        *FOUND.lock().unwrap_or_else(PoisonError::into_inner) = Some(found);
        tcsetattr(&input, OptionalActions::Now, &raw)?;
        HOOK.call_once(|| {
            let earlier = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |panic| {
                restore();
                earlier(panic);
            }));
        });
        Ok(Some(Self(())))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        restore();
    }
}

/// Gives the terminal back the modes it was found with.
pub(crate) fn restore() {
    if let Some(found) = FOUND.lock().unwrap_or_else(PoisonError::into_inner).take() {
        // A terminal that is gone needs no modes.
        let _ = tcsetattr(io::stdin(), OptionalActions::Drain, &found);
    }
}
