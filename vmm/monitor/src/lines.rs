//! Lines from a client that may send anything.

use std::io::{self, Read};

/// Longest line taken, in bytes.
pub(crate) const LINE_MAX: usize = 64 * 1024;

/// One line of a client.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Line {
    /// Without its line end.
    Text(String),
    /// Was longer than [`LINE_MAX`]; it was read to its end and dropped.
    TooLong,
    /// Was no UTF-8.
    NotText,
}

/// What a byte does to the line that it comes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// Belongs to it.
    Keep,
    /// Belongs to no line.
    Drop,
    /// Ends it and belongs to it.
    KeepAndEnd,
    /// Ends it.
    End,
}

/// What a line is.
pub(crate) trait Cut {
    /// The next byte.
    fn step(&mut self, byte: u8) -> Step;
    /// The line is wrong: it ends at the next line end.
    fn skip(&mut self) {}
}

/// Lines of text.
#[derive(Debug, Default)]
pub(crate) struct TextLines;

impl Cut for TextLines {
    fn step(&mut self, byte: u8) -> Step {
        if byte == b'\n' { Step::End } else { Step::Keep }
    }
}

/// Cuts a stream into lines, holding never more than one of them.
pub(crate) struct Lines<R, C> {
    input: R,
    cut: C,
    chunk: Box<[u8]>,
    /// What of the chunk is not used yet.
    rest: std::ops::Range<usize>,
}

impl<R: Read, C: Cut + Default> Lines<R, C> {
    pub(crate) fn new(input: R) -> Self {
        Self { input, cut: C::default(), chunk: vec![0; 4096].into(), rest: 0..0 }
    }

    /// The next line; `None` at the end of the stream. A last line without its end counts not: its
    /// client went away within it, and may have meant more.
    pub(crate) fn next_line(&mut self) -> io::Result<Option<Line>> {
        let mut line = Vec::new();
        let mut too_long = false;
        loop {
            while let Some(byte) = self.chunk.get(self.rest.clone()).and_then(|rest| rest.first()) {
                self.rest.start += 1;
                let step = self.cut.step(*byte);
                if matches!(step, Step::Keep | Step::KeepAndEnd) && !too_long {
                    line.push(*byte);
                    if line.len() > LINE_MAX {
                        too_long = true;
                        line = Vec::new();
                        self.cut.skip();
                        continue;
                    }
                }
                if matches!(step, Step::End | Step::KeepAndEnd) {
                    return Ok(Some(finish(line, too_long)));
                }
            }
            let count = loop {
                match self.input.read(&mut self.chunk) {
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    other => break other?,
                }
            };
            if count == 0 {
                return Ok(None);
            }
            self.rest = 0..count;
        }
    }
}

fn finish(mut line: Vec<u8>, too_long: bool) -> Line {
    if too_long {
        return Line::TooLong;
    }
    if line.last() == Some(&b'\r') {
        line.pop();
    }
    String::from_utf8(line).map_or(Line::NotText, Line::Text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(bytes: &[u8]) -> Vec<Line> {
        let mut lines = Lines::<_, TextLines>::new(bytes);
        std::iter::from_fn(|| lines.next_line().unwrap()).collect()
    }

    #[test]
    fn a_stream_is_cut_at_line_ends_and_half_a_line_at_the_end_is_dropped() {
        let text = |text: &str| Line::Text(text.to_owned());
        assert_eq!(all(b"a\r\n\nb c\nrest"), [text("a"), text(""), text("b c")]);
        assert_eq!(all(b"\xff\xfe\nx\n"), [Line::NotText, text("x")]);
    }

    #[test]
    fn a_line_may_have_64_kib_and_the_line_behind_a_longer_one_is_whole() {
        let mut bytes = vec![b'x'; LINE_MAX];
        bytes.push(b'\n');
        assert!(matches!(&all(&bytes)[..], [Line::Text(line)] if line.len() == LINE_MAX));
        let mut bytes = vec![b'x'; 10 << 20];
        bytes.extend_from_slice(b"\nstop\n");
        assert_eq!(all(&bytes), [Line::TooLong, Line::Text("stop".to_owned())]);
    }
}
