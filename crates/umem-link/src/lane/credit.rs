//! How much bulk may be under way: the receiver gives back what it has dealt with.

use super::{FrameReader, LaneError};
use std::io::{Read, Write};
use umem_wire::{decode_credit, encode_credit};

/// Longest body of a credit frame.
const CREDIT_BODY: usize = 8;

/// Bytes that the receiver may keep back before it gives credit, whatever the window.
const MOST_KEPT: u64 = 1 << 20;

/// Bytes that the receiver may keep back before it gives credit.
fn step(window: u64) -> u64 {
    (window / 4).min(MOST_KEPT)
}

/// The sender's side of a bulk lane's credit.
pub(crate) struct CreditWindow {
    frames: FrameReader,
    window: u64,
    /// What the sender itself holds to, within the window.
    limit: u64,
    outstanding: u64,
}

impl CreditWindow {
    /// At most `window` bytes under way; what is given back comes from `reader`.
    pub(crate) fn new(reader: Box<dyn Read + Send>, window: u64) -> Self {
        let frames = FrameReader::new(reader, CREDIT_BODY);
        Self { frames, window, limit: window, outstanding: 0 }
    }

    /// Lets no more than so many bytes be under way from now on: more would only lie in the receiver's
    /// buffers, where a page that is asked for meanwhile has to be sent again.
    pub(crate) fn limit(&mut self, bytes: u64) {
        self.limit = bytes.min(self.window);
    }

    /// Waits until `bytes` more may be sent, and counts them as sent. A frame of any length may go when
    /// no more is under way than the receiver may keep back: it will not give credit for that.
    pub(crate) fn take(&mut self, bytes: u64) -> Result<(), LaneError> {
        while self.outstanding > step(self.window)
            && self.outstanding.saturating_add(bytes) > self.limit
        {
            let frame = self.frames.next()?;
            let claimed = decode_credit(frame.kind, frame.body)?;
            let outstanding = self.outstanding;
            self.outstanding = outstanding
                .checked_sub(claimed)
                .ok_or(LaneError::Credit { claimed, outstanding })?;
        }
        self.outstanding += bytes;
        Ok(())
    }
}

/// The receiver's side.
pub(crate) struct CreditGiver {
    writer: Box<dyn Write + Send>,
    owed: u64,
    step: u64,
}

impl CreditGiver {
    /// Gives back in steps that are small beside the window.
    pub(crate) fn new(writer: Box<dyn Write + Send>, window: u64) -> Self {
        Self { writer, owed: 0, step: step(window) }
    }

    /// So many bytes were dealt with.
    pub(crate) fn give(&mut self, bytes: u64) -> Result<(), LaneError> {
        self.owed += bytes;
        if self.owed > self.step {
            self.writer.write_all(&encode_credit(self.owed))?;
            self.owed = 0;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::channel::{Faults, pair};

    #[test]
    fn never_more_than_the_window_is_under_way_and_nobody_waits_for_ever() {
        let (a, b) = pair(Faults::default(), Faults::default());
        let window = 1000;
        let mut credit = CreditWindow::new(a.reader, window);
        let (tell, told) = crossbeam_channel::unbounded();
        let receiver = std::thread::spawn(move || {
            let mut giver = CreditGiver::new(b.writer, window);
            let mut all = 0;
            while let Ok(bytes) = told.recv() {
                all += bytes;
                giver.give(bytes).unwrap();
            }
            all
        });
        let mut all = 0;
        for step in 0..500u64 {
            let bytes = step * 37 % 600 + 1;
            credit.take(bytes).unwrap();
            assert!(credit.outstanding <= window);
            tell.send(bytes).unwrap();
            all += bytes;
        }
        credit.take(5000).unwrap();
        tell.send(5000).unwrap();
        credit.limit(400);
        for _ in 0..100 {
            credit.take(300).unwrap();
            assert!(credit.outstanding <= 550, "{}", credit.outstanding);
            tell.send(300).unwrap();
            all += 300;
        }
        drop(tell);
        assert_eq!(receiver.join().unwrap(), all + 5000);
    }

    #[test]
    fn a_frame_as_long_as_the_window_does_not_wait_for_what_the_receiver_keeps() {
        let (a, b) = pair(Faults::default(), Faults::default());
        let mut credit = CreditWindow::new(a.reader, 1000);
        let mut giver = CreditGiver::new(b.writer, 1000);
        for bytes in [26, 999, 26, 250, 2000] {
            // Would wait for ever if both were not of one mind.
            credit.take(bytes).unwrap();
            giver.give(bytes).unwrap();
        }
    }

    #[test]
    fn credit_for_what_was_never_sent_is_an_error() {
        let (a, mut b) = pair(Faults::default(), Faults::default());
        let mut credit = CreditWindow::new(a.reader, 10);
        credit.take(10).unwrap();
        b.writer.write_all(&encode_credit(11)).unwrap();
        assert!(matches!(credit.take(1), Err(LaneError::Credit { claimed: 11, outstanding: 10 })));
    }
}
