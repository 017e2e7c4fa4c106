//! The Linux guest's shell.

use crate::serial::Serial;

/// Types commands and reads what they print.
pub struct Shell<'a> {
    serial: &'a Serial,
    number: u32,
}

impl<'a> Shell<'a> {
    /// The shell behind this serial port; `number` tells its commands from those of others.
    #[must_use]
    pub fn new(serial: &'a Serial, number: u32) -> Self {
        Self { serial, number: number * 1000 }
    }

    /// Waits for the first prompt.
    pub fn wait_boot(&self) {
        let place = self.serial.wait_text(0, "umem Linux guest");
        self.serial.wait_text(place, "# ");
    }

    /// Starts a command and returns where its output begins; [`Shell::finish`] ends it.
    pub fn begin(&mut self, command: &str) -> (u32, usize) {
        self.number += 1;
        let (number, from) = (self.number, self.serial.position());
        // Quotes keep the echo of what is typed from looking like what is printed.
        let line = format!("echo BEG''IN-{number}; {command}; echo E''ND-{number}-$?\n");
        self.serial.send(line.as_bytes());
        (number, from)
    }

    /// Waits for the end of a command; its output.
    ///
    /// # Panics
    /// When it does not end well.
    pub fn finish(&self, (number, from): (u32, usize)) -> String {
        let start = self.serial.wait_text(from, &format!("BEGIN-{number}"));
        let mark = format!("END-{number}-");
        let end = self.serial.wait_text(start, &mark);
        let end_of_line = self.serial.wait_text(end, "\n");
        let text = self.serial.text_from(start);
        let all = text.get(..end_of_line - start).unwrap_or(&text);
        let (output, status) = all.split_once(&mark).unwrap_or((all, ""));
        assert_eq!(status.trim(), "0", "the command's status; it printed: {output}");
        output.trim().replace('\r', "")
    }

    /// Runs a command that must succeed; its output.
    pub fn run(&mut self, command: &str) -> String {
        let begun = self.begin(command);
        self.finish(begun)
    }
}
