//! Requests of the driver to the disk.

use super::SavedVirtioBlk;
use super::disk::{Disk, SECTOR};
use crate::virtio::chain::{Buffers, Chain};
use crate::virtio::device::{ConfigSpace, Progress, VirtioDevice};
use crate::virtio::requests::{QueueError, Requests};
use std::sync::Arc;
use umem_state::{SaveRestore, StateError};

const FEATURE_SEGMENTS: u64 = 1 << 2;
const FEATURE_READ_ONLY: u64 = 1 << 5;
const FEATURE_BLOCK_SIZE: u64 = 1 << 6;
const FEATURE_FLUSH: u64 = 1 << 9;

const TYPE_READ: u32 = 0;
const TYPE_WRITE: u32 = 1;
const TYPE_FLUSH: u32 = 4;
const TYPE_ID: u32 = 8;

const STATUS_OK: u8 = 0;
const STATUS_ERROR: u8 = 1;
const STATUS_UNSUPPORTED: u8 = 2;

const QUEUE_SIZE: u16 = 256;
/// Type, reserved, sector.
const HEADER: usize = 16;
const ID_BYTES: usize = 20;
/// Most bytes for one system call, so that the worker comes to rest soon.
const CHUNK: u64 = 1 << 20;

/// A disk on a file.
#[derive(Debug)]
pub struct VirtioBlk {
    disk: Arc<Disk>,
    id: [u8; ID_BYTES],
}

/// What became of a request.
enum Outcome {
    /// Done; bytes written for the driver.
    Done(u64),
    Failed,
    Unsupported,
}

impl VirtioBlk {
    /// A disk that reports `id`, of at most 20 bytes, as its serial number. The caller locks and
    /// unlocks `disk`; requests fail while it is not locked.
    #[must_use]
    pub fn new(disk: Arc<Disk>, id: &str) -> Self {
        let mut bytes = [0; ID_BYTES];
        for (to, from) in bytes.iter_mut().zip(id.bytes()) {
            *to = from;
        }
        Self { disk, id: bytes }
    }

    fn serve(
        &self,
        chain: Chain,
        requests: &Requests<'_>,
    ) -> Result<(Buffers, u8, u64), QueueError> {
        let Chain { mut readable, mut writable, .. } = chain;
        let Some(status) = writable.take_back(1) else {
            return Err(QueueError::broken("a request without room for its status"));
        };
        let mut header = [0; HEADER];
        let front = readable.take_front(HEADER as u64);
        if front.read(requests.ram(), &mut header)? < HEADER {
            return Err(QueueError::broken(format!("a header of {} bytes", front.bytes())));
        }
        let [a, b, c, d, _, _, _, _, sector @ ..] = header;
        let sector = u64::from_le_bytes(sector);
        let outcome = match u32::from_le_bytes([a, b, c, d]) {
            TYPE_READ => self.transfer(sector, writable, requests, Disk::read)?,
            TYPE_WRITE => match self.transfer(sector, readable, requests, Disk::write)? {
                Outcome::Done(_) => Outcome::Done(0),
                other => other,
            },
            TYPE_FLUSH => self.flush(),
            TYPE_ID => {
                let room = writable.take_front(ID_BYTES as u64);
                Outcome::Done(room.write(requests.ram(), &self.id)? as u64)
            }
            _ => Outcome::Unsupported,
        };
        Ok(match outcome {
            Outcome::Done(bytes) => (status, STATUS_OK, bytes),
            Outcome::Failed => (status, STATUS_ERROR, 0),
            Outcome::Unsupported => (status, STATUS_UNSUPPORTED, 0),
        })
    }

    fn flush(&self) -> Outcome {
        match self.disk.flush() {
            Ok(()) => Outcome::Done(0),
            Err(error) => {
                log::warn!("disk: flush: {error}");
                Outcome::Failed
            }
        }
    }

    /// Moves data in chunks. When interrupted all of it is done again later, to the same end.
    fn transfer(
        &self,
        sector: u64,
        mut data: Buffers,
        requests: &Requests<'_>,
        call: impl Fn(&Disk, u64, &[crate::virtio::chain::RamSlice<'_>]) -> std::io::Result<()>,
    ) -> Result<Outcome, QueueError> {
        let bytes = data.bytes();
        let end = sector.checked_add(bytes / SECTOR);
        let fits = end.is_some_and(|end| end <= self.disk.sectors());
        if !bytes.is_multiple_of(SECTOR) || !fits {
            return Ok(Outcome::Failed);
        }
        let mut offset = sector * SECTOR;
        while data.bytes() > 0 {
            requests.check_interrupted()?;
            let chunk = data.take_front(CHUNK);
            if let Err(error) = call(&self.disk, offset, &chunk.slices(requests.ram())?) {
                log::warn!("disk: {} bytes at {offset}: {error}", chunk.bytes());
                return Ok(Outcome::Failed);
            }
            offset += chunk.bytes();
        }
        Ok(Outcome::Done(bytes))
    }
}

impl VirtioDevice for VirtioBlk {
    const ID: u32 = 2;

    fn features(&self) -> u64 {
        let read_only = if self.disk.is_read_only() { FEATURE_READ_ONLY } else { 0 };
        FEATURE_SEGMENTS | FEATURE_BLOCK_SIZE | FEATURE_FLUSH | read_only
    }

    fn queue_sizes(&self) -> &'static [u16] {
        &[QUEUE_SIZE]
    }

    fn config(&self) -> Arc<dyn ConfigSpace> {
        // Section 5.2.4: capacity, size_max, seg_max, geometry, blk_size.
        let mut space = self.disk.sectors().to_le_bytes().to_vec();
        space.extend([0; 4]);
        // Header and status take a descriptor each.
        space.extend(u32::from(QUEUE_SIZE - 2).to_le_bytes());
        space.extend([0; 4]);
        space.extend((SECTOR as u32).to_le_bytes());
        Arc::new(space)
    }

    fn process(
        &mut self,
        _queue: usize,
        requests: &mut Requests<'_>,
    ) -> Result<Progress, QueueError> {
        while let Some(chain) = requests.take()? {
            let head = chain.head;
            match self.serve(chain, requests) {
                Ok((at, status, bytes)) => {
                    at.write(requests.ram(), &[status])?;
                    requests.complete(head, bytes + 1)?;
                }
                Err(QueueError::Interrupted) => {
                    requests.give_back();
                    return Err(QueueError::Interrupted);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(Progress::Drained)
    }
}

impl SaveRestore for VirtioBlk {
    type Saved = SavedVirtioBlk;
    const VERSION: u32 = 1;

    fn save(&self) -> SavedVirtioBlk {
        SavedVirtioBlk { sectors: self.disk.sectors(), read_only: self.disk.is_read_only() }
    }

    fn restore(&self, saved: SavedVirtioBlk) -> Result<(), StateError> {
        let here = self.save();
        if saved == here {
            return Ok(());
        }
        let text = format!(
            "the source's disk has {} sectors (read-only: {}), the one here {} (read-only: {}); \
             give both ends the same disk",
            saved.sectors, saved.read_only, here.sectors, here.read_only
        );
        Err(StateError::refused("virtio-blk", text))
    }
}
