//! Pages that the guest gives up for a while.

use super::SavedVirtioBalloon;
use super::config::{Balloon, Size};
use crate::virtio::chain::Chain;
use crate::virtio::device::{ConfigSpace, Progress, TransportHandle, VirtioDevice};
use crate::virtio::memory::{GuestRange, Ram};
use crate::virtio::requests::{QueueError, Requests};
use std::sync::Arc;
use umem_memory::GuestAddress;
use umem_state::{SaveRestore, StateError};
use vm_memory::{GuestMemory, Permissions};

/// The driver may take pages out of the balloon when it has no others.
const FEATURE_DEFLATE_ON_OOM: u64 = 1 << 2;
const FEATURE_REPORTING: u64 = 1 << 5;

/// Queue of pages that come into the balloon.
const INFLATE: usize = 0;
/// Queue of pages that leave it.
const DEFLATE: usize = 1;
// The third queue is of free pages, where it is offered; else nobody uses it. Statistics and hints are not offered, and Linux and QEMU number
// only the queues that there are.

/// Bytes of a page as drivers count (section 5.5.6), whatever the guest's pages are.
const PAGE: u64 = 4096;
/// Page numbers read from a request at once.
const PIECE: usize = 1024;

/// Takes memory that the guest does not use.
///
/// The ranges are RAM, of whole pages of 4 KiB. Calls come from the device's worker and do not wait
/// for a page. A call may be repeated for a range that was given already.
pub trait GivenBack: Send + Sync {
    /// The guest does not need what the range holds. It may read as zeroes from now on, and is to be
    /// there again as soon as the guest writes to it; a page that has not arrived need not come.
    fn give_back(&self, range: GuestRange);
}

/// What a balloon offers its driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BalloonFeatures {
    /// It may take pages out when the guest has no others.
    pub deflate_on_oom: bool,
    /// It may say which pages are free, outside of the balloon.
    pub free_page_reporting: bool,
}

/// A balloon. Its pages and those that the driver reports as free go to a [`GivenBack`].
pub struct VirtioBalloon {
    balloon: Arc<Balloon>,
    features: BalloonFeatures,
    to: Arc<dyn GivenBack>,
}

impl VirtioBalloon {
    /// An empty balloon, whose pages go to `to`.
    #[must_use]
    pub fn new(features: BalloonFeatures, to: Arc<dyn GivenBack>) -> Self {
        Self { balloon: Arc::default(), features, to }
    }

    /// Its size, for the monitor.
    #[must_use]
    pub fn balloon(&self) -> Arc<Balloon> {
        self.balloon.clone()
    }

    /// Gives back the whole pages within the range, if it is RAM.
    fn give_back(&self, ram: &Ram, range: GuestRange) {
        let Some(end) = range.address.0.checked_add(range.bytes) else { return };
        let Some(start) = range.address.0.checked_next_multiple_of(PAGE) else { return };
        let Some(bytes) = (end / PAGE * PAGE).checked_sub(start).filter(|&bytes| bytes > 0) else {
            return;
        };
        let Ok(length) = usize::try_from(bytes) else { return };
        if ram.check_range(GuestAddress(start), length, Permissions::ReadWrite) {
            self.to.give_back(GuestRange { address: GuestAddress(start), bytes });
        }
    }

    /// A request of page numbers. Those of no RAM are passed over. When interrupted all of it is done
    /// again later, to the same end: its pages stay the balloon's until it is completed.
    fn inflate(&self, chain: &mut Chain, requests: &Requests<'_>) -> Result<(), QueueError> {
        let mut run: Option<GuestRange> = None;
        while chain.readable.bytes() >= size_of::<u32>() as u64 {
            requests.check_interrupted()?;
            let mut bytes = [0; PIECE * size_of::<u32>()];
            let piece = chain.readable.take_front(bytes.len() as u64);
            let count = piece.read(requests.ram(), &mut bytes)?;
            for number in bytes.get(..count).unwrap_or_default().as_chunks().0 {
                let address = GuestAddress(u64::from(u32::from_le_bytes(*number)) * PAGE);
                match &mut run {
                    Some(run) if run.address.0 + run.bytes == address.0 => run.bytes += PAGE,
                    other => {
                        let before = other.replace(GuestRange { address, bytes: PAGE });
                        before.into_iter().for_each(|run| self.give_back(requests.ram(), run));
                    }
                }
            }
        }
        run.into_iter().for_each(|run| self.give_back(requests.ram(), run));
        Ok(())
    }

    fn take_pages(&self, requests: &mut Requests<'_>) -> Result<Progress, QueueError> {
        while let Some(mut chain) = requests.take()? {
            let done = self.inflate(&mut chain, requests);
            if done == Err(QueueError::Interrupted) {
                requests.give_back();
            }
            done?;
            requests.complete(chain.head, 0)?;
        }
        Ok(Progress::Drained)
    }

    /// Pages that leave are the guest's again as they are.
    fn return_pages(requests: &mut Requests<'_>) -> Result<Progress, QueueError> {
        while let Some(chain) = requests.take_absent()? {
            requests.complete(chain.head, 0)?;
        }
        Ok(Progress::Drained)
    }

    /// The buffers of a report are themselves the free pages. They are not made present for it.
    fn take_reports(&self, requests: &mut Requests<'_>) -> Result<Progress, QueueError> {
        while let Some(chain) = requests.take_absent()? {
            for range in chain.writable.ranges() {
                self.give_back(requests.ram(), *range);
            }
            requests.complete(chain.head, 0)?;
        }
        Ok(Progress::Drained)
    }
}

impl VirtioDevice for VirtioBalloon {
    const ID: u32 = 5;

    fn features(&self) -> u64 {
        let BalloonFeatures { deflate_on_oom, free_page_reporting } = self.features;
        let offered = |on, feature| if on { feature } else { 0 };
        offered(deflate_on_oom, FEATURE_DEFLATE_ON_OOM)
            | offered(free_page_reporting, FEATURE_REPORTING)
    }

    fn queue_sizes(&self) -> &'static [u16] {
        &[128, 128, 128]
    }

    fn config(&self) -> Arc<dyn ConfigSpace> {
        self.balloon.clone()
    }

    fn connect(&mut self, transport: TransportHandle) {
        self.balloon.connect(transport);
    }

    fn process(
        &mut self,
        queue: usize,
        requests: &mut Requests<'_>,
    ) -> Result<Progress, QueueError> {
        match queue {
            INFLATE => self.take_pages(requests),
            DEFLATE => Self::return_pages(requests),
            _ => self.take_reports(requests),
        }
    }

    /// The next driver's balloon is empty; what is asked for stays.
    fn reset(&mut self) {
        self.balloon.replace(Size { actual_pages: 0, ..self.balloon.size() });
    }
}

impl SaveRestore for VirtioBalloon {
    type Saved = SavedVirtioBalloon;
    const VERSION: u32 = 1;

    fn save(&self) -> SavedVirtioBalloon {
        let Size { target_pages, actual_pages } = self.balloon.size();
        SavedVirtioBalloon { target_pages, actual_pages }
    }

    fn restore(&self, saved: SavedVirtioBalloon) -> Result<(), StateError> {
        let SavedVirtioBalloon { target_pages, actual_pages } = saved;
        self.balloon.replace(Size { target_pages, actual_pages });
        Ok(())
    }
}
