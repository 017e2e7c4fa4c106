//! Fills the driver's buffers.

use super::SavedVirtioRng;
use crate::virtio::device::{ConfigSpace, Progress, VirtioDevice};
use crate::virtio::requests::{QueueError, Requests};
use std::sync::Arc;
use umem_state::{SaveRestore, StateError};

/// Most bytes for one request. A device may return fewer than asked for, at least one.
const MOST_BYTES: u64 = 64 << 10;
/// Bytes asked of the host at once.
const PIECE: usize = 1024;

/// An entropy device on the host's getrandom.
#[derive(Debug, Clone, Copy, Default)]
pub struct VirtioRng;

impl VirtioRng {
    /// The device.
    #[must_use]
    pub fn new() -> Self {
        Self
    }
}

impl VirtioDevice for VirtioRng {
    const ID: u32 = 4;

    fn features(&self) -> u64 {
        0
    }

    fn queue_sizes(&self) -> &'static [u16] {
        &[64]
    }

    fn config(&self) -> Arc<dyn ConfigSpace> {
        Arc::new(Vec::new())
    }

    fn process(
        &mut self,
        _queue: usize,
        requests: &mut Requests<'_>,
    ) -> Result<Progress, QueueError> {
        while let Some(mut chain) = requests.take()? {
            let mut left = chain.writable.take_front(MOST_BYTES);
            let mut written = 0;
            while left.bytes() > 0 {
                let piece = left.take_front(PIECE as u64);
                let mut bytes = [0; PIECE];
                // It fails on kernels older than any that we run on; the driver gets fewer bytes.
                if getrandom::fill(&mut bytes).is_err() {
                    break;
                }
                written += piece.write(requests.ram(), &bytes)? as u64;
            }
            requests.complete(chain.head, written)?;
        }
        Ok(Progress::Drained)
    }
}

impl SaveRestore for VirtioRng {
    type Saved = SavedVirtioRng;
    const VERSION: u32 = 1;

    fn save(&self) -> SavedVirtioRng {
        SavedVirtioRng {}
    }

    fn restore(&self, _saved: SavedVirtioRng) -> Result<(), StateError> {
        Ok(())
    }
}
