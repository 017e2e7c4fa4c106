//! Where a message of the JSON monitor ends. QEMU's clients need not end it with a line: an object is
//! whole at its last bracket, and may go over several lines.

use crate::lines::{Cut, Step};

/// Brackets within each other; more than any command has, and no more than the JSON parser takes.
const DEPTH_MAX: u32 = 64;

/// Cuts at the bracket that closes the first one, or at a line end where no bracket is open. What
/// cannot be JSON ends at the next line end, whatever is open: from there on the client is heard again.
#[derive(Debug, Default)]
pub(crate) struct Messages {
    /// Brackets open.
    depth: u32,
    /// Whether a message has begun.
    begun: bool,
    place: Place,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Place {
    #[default]
    Plain,
    String,
    /// Behind a backslash in a string.
    Escape,
    /// In what cannot be JSON.
    Wrong,
}

impl Cut for Messages {
    fn step(&mut self, byte: u8) -> Step {
        let step = self.next(byte);
        if matches!(step, Step::End | Step::KeepAndEnd) {
            *self = Self::default();
        } else {
            self.begun |= step == Step::Keep;
        }
        step
    }

    fn skip(&mut self) {
        self.place = Place::Wrong;
    }
}

impl Messages {
    fn next(&mut self, byte: u8) -> Step {
        match (self.place, byte) {
            (Place::Wrong | Place::String | Place::Escape, b'\n') => return Step::End,
            (Place::Wrong, _) => {}
            (Place::String, b'\\') => self.place = Place::Escape,
            (Place::String, b'"') => self.place = Place::Plain,
            (Place::String, _) => {}
            (Place::Escape, _) => self.place = Place::String,
            (Place::Plain, _) => return self.plain(byte),
        }
        Step::Keep
    }

    fn plain(&mut self, byte: u8) -> Step {
        match byte {
            b'\n' if self.depth == 0 && self.begun => return Step::End,
            b'\n' | b'\r' | b'\t' | b' ' if !self.begun => return Step::Drop,
            b'"' => self.place = Place::String,
            b'{' | b'[' if self.depth >= DEPTH_MAX => self.place = Place::Wrong,
            b'{' | b'[' => self.depth += 1,
            b'}' | b']' if self.depth == 1 => return Step::KeepAndEnd,
            b'}' | b']' => self.depth = self.depth.saturating_sub(1),
            // QEMU's clients send 255 to have what is half there forgotten.
            0..=8 | 11 | 12 | 14..=31 | 255 => self.place = Place::Wrong,
            _ => {}
        }
        Step::Keep
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lines::{LINE_MAX, Line, Lines};

    /// The messages of a stream, however it comes in pieces.
    fn all(bytes: &[u8]) -> Vec<Line> {
        struct ByteByByte<'b>(&'b [u8]);
        impl std::io::Read for ByteByByte<'_> {
            fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
                self.0.read(&mut buffer[..1])
            }
        }
        fn cut(input: impl std::io::Read) -> Vec<Line> {
            let mut lines = Lines::<_, Messages>::new(input);
            std::iter::from_fn(|| lines.next_line().unwrap()).collect()
        }
        let whole = cut(bytes);
        assert_eq!(cut(ByteByByte(bytes)), whole);
        whole
    }

    fn text(text: &str) -> Line {
        Line::Text(text.to_owned())
    }

    #[test]
    fn an_object_is_whole_at_its_last_bracket() {
        assert_eq!(all(b"{\"a\":{}}{} \r\n[1]"), [text("{\"a\":{}}"), text("{}"), text("[1]")]);
        assert_eq!(all(b"{\n \"a\":\r\n1 }\n"), [text("{\n \"a\":\r\n1 }")]);
        assert_eq!(all(b"{\"}\\\"}\": 1}"), [text("{\"}\\\"}\": 1}")]);
        assert_eq!(all(b"{\"half\":"), []);
    }

    #[test]
    fn what_cannot_be_json_ends_with_its_line() {
        assert_eq!(all(b"nonsense\n}\n{}"), [text("nonsense"), text("}"), text("{}")]);
        assert_eq!(all(b"{\"never closed\n{}"), [text("{\"never closed"), text("{}")]);
        assert_eq!(all(b"{\"a\":\xff\n{}"), [Line::NotText, text("{}")]);
        let deep = "[".repeat(1000);
        assert_eq!(all(format!("{deep}\n{{}}").as_bytes()), [text(&deep), text("{}")]);
        let long = format!("{{\"a\":\"{}\"}}\n{{}}", "x".repeat(2 * LINE_MAX));
        assert_eq!(all(long.as_bytes()), [Line::TooLong, text("{}")]);
    }
}
