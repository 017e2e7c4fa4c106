//! The disk as the driver sees it: features, configuration, and its requests on their way to the host.

use super::SavedVirtioBlk;
use super::disk::{Disk, SECTOR};
use super::pool::Pool;
use super::request::{
    DISCARD_SECTORS, DISCARD_SEGMENTS, Done, ID_BYTES, Negotiated, Request, ZERO_SECTORS,
    ZERO_SEGMENTS,
};
use crate::virtio::chain::Chain;
use crate::virtio::device::{ConfigSpace, Progress, TransportHandle, VirtioDevice};
use crate::virtio::requests::{QueueError, Requests};
use std::sync::Arc;
use umem_state::{SaveRestore, StateError};

const FEATURE_SEGMENTS: u64 = 1 << 2;
const FEATURE_READ_ONLY: u64 = 1 << 5;
const FEATURE_BLOCK_SIZE: u64 = 1 << 6;
const FEATURE_FLUSH: u64 = 1 << 9;
const FEATURE_DISCARD: u64 = 1 << 13;
const FEATURE_WRITE_ZEROES: u64 = 1 << 14;

const QUEUE_SIZE: u16 = 256;
/// Most requests in flight, a thread each.
pub(super) const IN_FLIGHT: usize = 8;
/// Most bytes of a request in flight. A longer one is done by the worker itself, which can end it
/// half way and give it back. So the wait for a disk to come to rest is for so much data a thread.
pub(super) const IN_FLIGHT_BYTES: u64 = 2 << 20;

/// A disk on a file.
///
/// The worker takes requests, threads of a pool do them, the worker completes them in the order in
/// which they are done: the specification asks for no order among requests that are available
/// together (section 5.2.6.1), and a flush is for what was completed before it.
#[derive(Debug)]
pub struct VirtioBlk {
    disk: Arc<Disk>,
    id: [u8; ID_BYTES],
    negotiated: Negotiated,
    pool: Pool<Result<Done, QueueError>>,
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
        let negotiated = Negotiated::default();
        Self { disk, id: bytes, negotiated, pool: Pool::new(IN_FLIGHT) }
    }

    /// Does a request, or has it done.
    fn start(&mut self, chain: Chain, requests: &mut Requests<'_>) -> Result<(), QueueError> {
        let request = Request::read(chain, requests.ram(), &self.disk, self.negotiated)?;
        if request.disk_bytes().is_some_and(|bytes| bytes <= IN_FLIGHT_BYTES) {
            let (ram, disk) = (requests.ram().clone(), self.disk.clone());
            self.pool.submit(Box::new(move || request.run(&ram, &disk, &[], || Ok(()))));
            return Ok(());
        }
        let stopped = || requests.check_interrupted();
        let done = request.run(requests.ram(), &self.disk, &self.id, stopped);
        if done.as_ref().is_err_and(|error| *error == QueueError::Interrupted) {
            requests.give_back();
        }
        complete(&done?, requests)
    }
}

fn complete(done: &Done, requests: &mut Requests<'_>) -> Result<(), QueueError> {
    done.status_at.write(requests.ram(), &[done.status])?;
    requests.complete(done.head, done.bytes + 1)
}

impl VirtioDevice for VirtioBlk {
    const ID: u32 = 2;

    fn features(&self) -> u64 {
        let by_access = if self.disk.is_read_only() {
            FEATURE_READ_ONLY
        } else {
            FEATURE_DISCARD | FEATURE_WRITE_ZEROES
        };
        FEATURE_SEGMENTS | FEATURE_BLOCK_SIZE | FEATURE_FLUSH | by_access
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
        // Topology, writeback, number of queues: of features that are not offered.
        space.extend([0; 12]);
        if !self.disk.is_read_only() {
            // Sectors, segments and alignment of a discard; sectors and segments of zeroes.
            for field in [DISCARD_SECTORS, DISCARD_SEGMENTS, 1, ZERO_SECTORS, ZERO_SEGMENTS] {
                space.extend(field.to_le_bytes());
            }
            // Zeroes may be a hole.
            space.extend([1, 0, 0, 0]);
        }
        Arc::new(space)
    }

    fn connect(&mut self, transport: TransportHandle) {
        self.pool.connect(transport);
    }

    fn activate(&mut self, features: u64) {
        let has = |feature| features & feature != 0;
        self.negotiated = Negotiated {
            flush: has(FEATURE_FLUSH),
            discard: has(FEATURE_DISCARD),
            write_zeroes: has(FEATURE_WRITE_ZEROES),
        };
    }

    fn process(
        &mut self,
        _queue: usize,
        requests: &mut Requests<'_>,
    ) -> Result<Progress, QueueError> {
        loop {
            for done in self.pool.take_done() {
                complete(&done?, requests)?;
            }
            // What is done next kicks the queue.
            if !self.pool.has_room() {
                return Ok(Progress::Blocked);
            }
            let Some(chain) = requests.take()? else { return Ok(Progress::Drained) };
            self.start(chain, requests)?;
        }
    }

    fn has_in_flight(&self) -> bool {
        self.pool.in_flight() > 0
    }

    fn settle(&mut self, _queue: usize, requests: &mut Requests<'_>) -> Result<(), QueueError> {
        self.pool.await_done().into_iter().try_for_each(|done| complete(&done?, requests))
    }

    fn abandon(&mut self) {
        self.pool.await_done();
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
