//! The open connections of a migration, and the threads inside them.

use crate::channel::{ByteCounts, ChannelControl};
use crate::lane::{FrameReader, LaneError};
use std::io::{self, Read};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use umem_wire::{MAX_CONTROL_BODY, WireError};

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
    /// more, goes to `hear`, until that wants no more.
    pub(crate) fn listen<M: 'static>(
        &self,
        name: &str,
        reader: Box<dyn Read + Send>,
        decode: fn(u8, &[u8]) -> Result<M, WireError>,
        hear: impl Fn(Result<M, LaneError>) -> bool + Send + 'static,
    ) -> io::Result<()> {
        self.spawn(name, move || {
            let mut frames = FrameReader::new(reader, MAX_CONTROL_BODY);
            loop {
                let message = frames
                    .next()
                    .and_then(|frame| decode(frame.kind, frame.body).map_err(LaneError::from));
                let last = message.is_err();
                if !hear(message) || last {
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

/// Lets threads that somebody waits for go before the calling one, which moves what nobody waits for.
pub(crate) fn give_way() {
    const NICE: i32 = 10;
    // Raising the number needs no right; where it fails all the same, only latency suffers.
    if let Err(error) = rustix::process::setpriority_process(None, NICE) {
        log::debug!("the background runs at full priority: {error}");
    }
}
