//! Serial port and text monitor on one terminal, as QEMU's users know it: Ctrl-A is the way out of
//! the guest.

/// Ctrl-A.
const ESCAPE: u8 = 1;

/// What the keys mean.
pub(super) const HELP: &str = "\
Ctrl-A h  show this\n\
Ctrl-A x  end the VM\n\
Ctrl-A c  switch between guest and monitor\n\
Ctrl-A Ctrl-A  send Ctrl-A\n";

/// Who gets the keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Focus {
    #[default]
    Guest,
    Monitor,
}

/// What a key is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Meaning {
    /// For the guest.
    Guest(u8),
    /// For the monitor.
    Monitor(u8),
    /// The keys have another owner now.
    Switched(Focus),
    Help,
    Quit,
    Nothing,
}

#[derive(Debug, Default)]
pub(super) struct Mux {
    focus: Focus,
    escaped: bool,
}

impl Mux {
    /// Who gets the keys now.
    pub(super) const fn focus(&self) -> Focus {
        self.focus
    }

    pub(super) fn key(&mut self, byte: u8) -> Meaning {
        if !std::mem::replace(&mut self.escaped, false) {
            if byte == ESCAPE {
                self.escaped = true;
                return Meaning::Nothing;
            }
            return self.plain(byte);
        }
        match byte {
            ESCAPE => self.plain(byte),
            b'c' => {
                self.focus = match self.focus {
                    Focus::Guest => Focus::Monitor,
                    Focus::Monitor => Focus::Guest,
                };
                Meaning::Switched(self.focus)
            }
            b'x' => Meaning::Quit,
            b'h' | b'?' => Meaning::Help,
            _ => Meaning::Nothing,
        }
    }

    pub(super) const fn focus_on_guest(&mut self) {
        self.focus = Focus::Guest;
    }

    const fn plain(&self, byte: u8) -> Meaning {
        match self.focus {
            Focus::Guest => Meaning::Guest(byte),
            Focus::Monitor => Meaning::Monitor(byte),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_go_to_the_guest_until_ctrl_a_c() {
        let mut mux = Mux::default();
        let mut keys = |bytes: &[u8]| -> Vec<Meaning> {
            let meanings = bytes.iter().map(|byte| mux.key(*byte));
            meanings.filter(|meaning| *meaning != Meaning::Nothing).collect()
        };
        assert_eq!(keys(b"ax\x03"), [b'a', b'x', 3].map(Meaning::Guest));
        assert_eq!(keys(b"\x01\x01"), [Meaning::Guest(1)]);
        assert_eq!(keys(b"\x01h\x01zb"), [Meaning::Help, Meaning::Guest(b'b')]);
        assert_eq!(keys(b"\x01cq"), [Meaning::Switched(Focus::Monitor), Meaning::Monitor(b'q')]);
        assert_eq!(keys(b"\x01cq"), [Meaning::Switched(Focus::Guest), Meaning::Guest(b'q')]);
        assert_eq!(keys(b"\x01x"), [Meaning::Quit]);
    }
}
