//! Editing of one line on a terminal whose keys come one by one and are not echoed: with a serial
//! console on the same terminal, the terminal cannot edit lines by itself.

use crate::lines::LINE_MAX;

/// Lines remembered.
const HISTORY_MAX: usize = 200;
/// Longest line, in characters; UTF-8 needs up to four bytes for one.
const LENGTH_MAX: usize = LINE_MAX / 4;

/// What a key completed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Typed {
    Line(String),
    /// Ctrl-D on an empty line.
    End,
}

/// Where the editor is within an escape sequence or a character of several bytes.
#[derive(Debug, Default)]
enum Partial {
    #[default]
    Nothing,
    Escape,
    /// Behind `ESC [` or `ESC O`, with its digits so far.
    Sequence(Vec<u8>),
    Utf8(Vec<u8>),
}

#[derive(Debug, Default)]
pub(crate) struct Editor {
    line: Vec<char>,
    cursor: usize,
    history: Vec<String>,
    /// Which line of the history is shown; its length when none is.
    shown: usize,
    /// What was typed before the history was looked at.
    draft: Vec<char>,
    partial: Partial,
}

impl Editor {
    /// Takes one byte from the terminal and appends to `out` what the terminal is to show. Tab asks
    /// `complete` for what may follow the text before the cursor.
    pub(crate) fn key(
        &mut self,
        byte: u8,
        prompt: &str,
        complete: &dyn Fn(&str) -> Vec<String>,
        out: &mut Vec<u8>,
    ) -> Option<Typed> {
        let before = self.line.len();
        match std::mem::take(&mut self.partial) {
            Partial::Escape if matches!(byte, b'[' | b'O') => {
                self.partial = Partial::Sequence(Vec::new());
                return None;
            }
            Partial::Escape => return None,
            Partial::Sequence(mut digits) if matches!(byte, b'0'..=b'9' | b';') => {
                if digits.len() < 8 {
                    digits.push(byte);
                }
                self.partial = Partial::Sequence(digits);
                return None;
            }
            Partial::Sequence(digits) => self.sequence(byte, &digits),
            Partial::Utf8(bytes) => self.continue_utf8(bytes, byte),
            Partial::Nothing => match byte {
                b'\r' | b'\n' => return Some(self.enter(out)),
                4 if self.line.is_empty() => return Some(Typed::End),
                3 => {
                    self.set(Vec::new());
                    out.extend_from_slice(b"^C\n");
                }
                12 => out.extend_from_slice(b"\x1b[H\x1b[2J"),
                b'\t' => self.complete(complete, out),
                other => self.plain(other),
            },
        }
        let typed_on = self.cursor == self.line.len() && self.line.len() == before + 1;
        match self.line.last().filter(|_| typed_on && byte.is_ascii_graphic()) {
            Some(letter) => out.extend_from_slice(letter.to_string().as_bytes()),
            None => self.draw(prompt, out),
        }
        None
    }

    /// Shows prompt and line as they are.
    pub(crate) fn draw(&self, prompt: &str, out: &mut Vec<u8>) {
        let line: String = self.line.iter().collect();
        out.extend_from_slice(format!("\r{prompt}{line}\x1b[K").as_bytes());
        let behind = self.line.len() - self.cursor;
        if behind > 0 {
            out.extend_from_slice(format!("\x1b[{behind}D").as_bytes());
        }
    }

    fn enter(&mut self, out: &mut Vec<u8>) -> Typed {
        out.push(b'\n');
        let line: String = self.line.iter().collect();
        self.set(Vec::new());
        if !line.trim().is_empty() && self.history.last() != Some(&line) {
            if self.history.len() >= HISTORY_MAX {
                self.history.remove(0);
            }
            self.history.push(line.clone());
        }
        self.shown = self.history.len();
        Typed::Line(line)
    }

    fn set(&mut self, line: Vec<char>) {
        self.cursor = line.len();
        self.line = line;
    }

    fn insert(&mut self, letter: char) {
        if self.line.len() < LENGTH_MAX {
            self.line.insert(self.cursor, letter);
            self.cursor += 1;
        }
    }

    fn delete_at(&mut self, place: usize) {
        if place < self.line.len() {
            self.line.remove(place);
            self.cursor = place;
        }
    }

    fn plain(&mut self, byte: u8) {
        match byte {
            0x1b => self.partial = Partial::Escape,
            8 | 0x7f if self.cursor > 0 => self.delete_at(self.cursor - 1),
            4 => self.delete_at(self.cursor),
            1 => self.cursor = 0,
            5 => self.cursor = self.line.len(),
            2 => self.cursor = self.cursor.saturating_sub(1),
            6 => self.cursor = (self.cursor + 1).min(self.line.len()),
            11 => self.line.truncate(self.cursor),
            21 => drop(self.line.drain(..std::mem::take(&mut self.cursor))),
            23 => self.delete_word(),
            16 => self.look_back(),
            14 => self.look_forward(),
            b' '..=b'~' => self.insert(char::from(byte)),
            0xc0.. => self.partial = Partial::Utf8(vec![byte]),
            _ => {}
        }
    }

    fn delete_word(&mut self) {
        let before = self.line.get(..self.cursor).unwrap_or_default();
        let end = before.iter().rposition(|c| !c.is_whitespace()).map_or(0, |last| last + 1);
        let word = before.get(..end).unwrap_or_default();
        let start = word.iter().rposition(|c| c.is_whitespace()).map_or(0, |last| last + 1);
        self.line.drain(start..self.cursor);
        self.cursor = start;
    }

    fn continue_utf8(&mut self, mut bytes: Vec<u8>, byte: u8) {
        bytes.push(byte);
        match std::str::from_utf8(&bytes) {
            Ok(text) => text.chars().filter(|c| !c.is_control()).for_each(|c| self.insert(c)),
            Err(error) if error.error_len().is_none() => self.partial = Partial::Utf8(bytes),
            Err(_) => {}
        }
    }

    fn sequence(&mut self, last: u8, digits: &[u8]) {
        match (last, digits) {
            (b'A', _) => self.look_back(),
            (b'B', _) => self.look_forward(),
            (b'C', _) => self.plain(6),
            (b'D', _) => self.plain(2),
            (b'H', _) | (b'~', b"1" | b"7") => self.plain(1),
            (b'F', _) | (b'~', b"4" | b"8") => self.plain(5),
            (b'~', b"3") => self.delete_at(self.cursor),
            _ => {}
        }
    }

    fn look_back(&mut self) {
        if self.shown == self.history.len() {
            self.draft.clone_from(&self.line);
        }
        if let Some(line) = self.shown.checked_sub(1).and_then(|place| self.history.get(place)) {
            let line = line.chars().collect();
            self.shown -= 1;
            self.set(line);
        }
    }

    fn look_forward(&mut self) {
        if self.shown < self.history.len() {
            self.shown += 1;
            let line = match self.history.get(self.shown) {
                Some(line) => line.chars().collect(),
                None => std::mem::take(&mut self.draft),
            };
            self.set(line);
        }
    }

    fn complete(&mut self, complete: &dyn Fn(&str) -> Vec<String>, out: &mut Vec<u8>) {
        let before: String = self.line.iter().take(self.cursor).collect();
        let choices = complete(&before);
        let Some(first) = choices.first() else { return };
        let common = choices.iter().fold(first.as_str(), |common, other| {
            let same = common.chars().zip(other.chars()).take_while(|(a, b)| a == b).count();
            let end = common.char_indices().nth(same).map_or(common.len(), |(place, _)| place);
            common.get(..end).unwrap_or_default()
        });
        let more: String = common.chars().skip(self.cursor).collect();
        if more.is_empty() && choices.len() > 1 {
            // Words that stand there already need not be shown again.
            let start = before.rfind(char::is_whitespace).map_or(0, |blank| blank + 1);
            let words: Vec<_> = choices.iter().filter_map(|choice| choice.get(start..)).collect();
            out.extend_from_slice(format!("\n{}\n", words.join("  ")).as_bytes());
        }
        more.chars().for_each(|letter| self.insert(letter));
        if choices.len() == 1 {
            self.insert(' ');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn type_all(editor: &mut Editor, keys: &[u8]) -> Vec<Typed> {
        let complete = |before: &str| {
            let names = ["info status", "info block", "stop"].map(str::to_owned);
            names.into_iter().filter(|name| name.starts_with(before)).collect()
        };
        let mut out = Vec::new();
        keys.iter().filter_map(|key| editor.key(*key, "> ", &complete, &mut out)).collect()
    }

    fn line(keys: &[u8]) -> String {
        match type_all(&mut Editor::default(), keys).as_slice() {
            [Typed::Line(line)] => line.clone(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn keys_edit_the_line() {
        assert_eq!(line(b"stoq\x7fp\r"), "stop");
        assert_eq!(line(b"top\x1b[Hs\r"), "stop");
        assert_eq!(line(b"sop\x1b[D\x1b[Dt\r"), "stop");
        assert_eq!(line(b"migrate tcp:x\x17unix:y\r"), "migrate unix:y");
        assert_eq!(line(b"garbage\x15quit\r"), "quit");
        assert_eq!(line(b"xstop\x01\x1b[3~\r"), "stop");
        assert_eq!(line("é\u{1F600}x\x7f\r".as_bytes()), "é\u{1F600}");
    }

    #[test]
    fn tab_completes_as_far_as_it_is_certain() {
        assert_eq!(line(b"s\t\r"), "stop ");
        assert_eq!(line(b"i\tb\t\r"), "info block ");
    }

    #[test]
    fn history_comes_back_and_the_draft_too() {
        let mut editor = Editor::default();
        type_all(&mut editor, b"one\rtwo\r");
        let again =
            type_all(&mut editor, b"dr\x1b[A\x1b[A\x1b[A\x1b[B\x1b[B\x1b[B\r\x1b[A\x1b[A\r");
        assert_eq!(again, [Typed::Line("dr".to_owned()), Typed::Line("two".to_owned())]);
    }

    #[test]
    fn any_bytes_leave_an_editor_that_works() {
        let mut editor = Editor::default();
        let mut seed = 1_u32;
        for _ in 0..200_000 {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            type_all(&mut editor, &[(seed >> 24) as u8]);
        }
        let last = type_all(&mut editor, b"zz\r\x15stop\r");
        assert_eq!(last.last(), Some(&Typed::Line("stop".to_owned())));
    }
}
