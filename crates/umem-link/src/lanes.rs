//! The open connections of a migration, and the threads inside them.

use crate::channel::{ByteCounts, ChannelControl};
use crate::lane::{FrameReader, LaneError};
use std::io::{self, Read};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use umem_wire::{MAX_CONTROL_BODY, WireError};

/// Most messages that have been read and not been looked at: more than the longest device state and the
/// discards of a terabyte have.
const MOST_WAITING: usize = 2048;

/// A message's place among those that wait to be looked at; free again when it is dropped.
pub(crate) struct Ticket(Arc<AtomicUsize>);

impl Drop for Ticket {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

#[derive(Default)]
struct Inner {
    controls: Vec<Arc<dyn ChannelControl>>,
    threads: Vec<JoinHandle<()>>,
    closed: bool,
}

/// All connections of one migration at one end. Shared with whoever counts bytes or ends them.
#[derive(Clone, Default)]
pub(crate) struct Lanes(Arc<Mutex<Inner>>);

impl Lanes {
    fn with<T>(&self, act: impl FnOnce(&mut Inner) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// One more connection; ended at once if all were.
    pub(crate) fn add(&self, control: Arc<dyn ChannelControl>) {
        self.with(|inner| {
            if inner.closed {
                control.shutdown();
            }
            inner.controls.push(control);
        });
    }

    /// Runs a thread that ends when its connection does.
    pub(crate) fn spawn(&self, name: &str, body: impl FnOnce() + Send + 'static) -> io::Result<()> {
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(body)?;
        self.with(|inner| inner.threads.push(thread));
        Ok(())
    }

    /// Reads a control connection in a thread of its own: each message, and at last why there are no
    /// more, goes to `hear`, until that wants no more. A peer that says more than is looked at ends it.
    pub(crate) fn listen<M: 'static>(
        &self,
        name: &str,
        reader: Box<dyn Read + Send>,
        decode: fn(u8, &[u8]) -> Result<M, WireError>,
        hear: impl Fn(Result<M, LaneError>, Ticket) -> bool + Send + 'static,
    ) -> io::Result<()> {
        self.spawn(name, move || {
            let mut frames = FrameReader::new(reader, MAX_CONTROL_BODY);
            let waiting = Arc::new(AtomicUsize::new(0));
            loop {
                let message = frames
                    .next()
                    .and_then(|frame| decode(frame.kind, frame.body).map_err(LaneError::from));
                let message = match waiting.fetch_add(1, Ordering::AcqRel) {
                    MOST_WAITING.. => Err(LaneError::Flood { messages: MOST_WAITING }),
                    _ => message,
                };
                let last = message.is_err();
                if !hear(message, Ticket(waiting.clone())) || last {
                    return;
                }
            }
        })
    }

    /// Ends all connections, those under way and those to come.
    pub(crate) fn close(&self) {
        self.with(|inner| {
            inner.closed = true;
            inner.controls.iter().for_each(|control| control.shutdown());
        });
    }

    /// Ends all connections and waits for their threads. Not to be called by one of them.
    pub(crate) fn close_and_join(&self) {
        self.close();
        loop {
            let threads = self.with(|inner| std::mem::take(&mut inner.threads));
            if threads.is_empty() {
                return;
            }
            for thread in threads {
                if thread.join().is_err() {
                    log::error!("a migration thread has panicked");
                }
            }
        }
    }

    /// Bytes on the wire.
    pub(crate) fn counts(&self) -> ByteCounts {
        let controls = self.with(|inner| inner.controls.clone());
        let mut sum = ByteCounts::default();
        controls.iter().for_each(|control| sum += control.counts());
        sum
    }
}

/// Lets threads that somebody waits for go before the calling one, which moves what nobody waits for. For
/// connections beyond the first, whose threads keep their share: where a guest takes all CPUs, the rest of its
/// memory has to come all the same.
pub(crate) fn give_way() {
    /// A ninth of the usual weight.
    const NICE: i32 = 10;
    // Raising the number needs no right; where it fails all the same, only latency suffers.
    if let Err(error) = rustix::process::setpriority_process(None, NICE) {
        log::debug!("the background runs at full priority: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use umem_wire::ToDestination;

    #[test]
    fn who_says_more_than_is_looked_at_is_not_heard_any_more() {
        for looked_at in [false, true] {
            let lanes = Lanes::default();
            let bytes = ToDestination::DigestAgreed.encode().repeat(MOST_WAITING + 1);
            let (sender, heard) = crossbeam_channel::unbounded();
            let hear = move |message: Result<ToDestination, LaneError>, ticket| {
                let ticket = (!looked_at).then_some(ticket);
                sender.send((message.map(drop), ticket)).is_ok()
            };
            let reader = Box::new(std::io::Cursor::new(bytes));
            lanes.listen("test", reader, ToDestination::decode, hear).unwrap();
            lanes.close_and_join();
            let last = heard.iter().last().unwrap().0.unwrap_err();
            assert_eq!(matches!(last, LaneError::Flood { .. }), !looked_at, "{last}");
        }
    }
}
