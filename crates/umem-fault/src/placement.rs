//! How pages come into memory: mapped by the copy itself, or by way of the memory's file.

use crate::error::FaultError;
use crate::plane::FaultPlane;
use crate::uffd::{Features, Partial, Userfaultfd};
use rustix::io::Errno;
use umem_memory::{GuestRam, MemoryKind, PageIndex, PageRange, RamError};

/// How pages come into memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Placement {
    /// `UFFDIO_COPY`: a page is mapped as it is copied.
    #[default]
    Copy,
    /// Into the page cache of the RAM's file, then `UFFDIO_CONTINUE`. RAM must be shared memory. A page of
    /// zeroes is left as a hole. The one way for huge pages.
    PageCache {
        /// Map pages as they arrive; else each is mapped when it is first touched, by a minor fault.
        map_on_arrival: bool,
    },
}

/// A placement and what it needs.
pub(crate) enum Place {
    Copy,
    Cache { ram: GuestRam, map_on_arrival: bool },
}

impl Place {
    /// Takes a placement for RAM, if the kernel and the RAM allow it.
    pub(crate) fn new(
        placement: Placement,
        ram: &GuestRam,
        features: Features,
    ) -> Result<Self, FaultError> {
        let huge = ram.kind() == MemoryKind::Huge;
        match placement {
            _ if !ram.kind().can_be_watched() => Err(FaultError::Kind(ram.kind())),
            Placement::Copy if huge => Ok(Self::Cache { ram: ram.clone(), map_on_arrival: true }),
            Placement::Copy => Ok(Self::Copy),
            Placement::PageCache { .. } if !ram.has_file() => {
                Err(FaultError::Placement("it needs RAM in a memfd"))
            }
            Placement::PageCache { .. }
                if huge && !features.contains(Features::MINOR_HUGETLBFS) =>
            {
                Err(FaultError::Placement("this kernel has no minor faults of huge pages (5.13)"))
            }
            Placement::PageCache { .. } if !huge && !features.contains(Features::MINOR_SHMEM) => {
                Err(FaultError::Placement(
                    "this kernel has no minor faults of shared memory (5.14)",
                ))
            }
            Placement::PageCache { map_on_arrival } => {
                Ok(Self::Cache { ram: ram.clone(), map_on_arrival })
            }
        }
    }

    /// Whether pages that are there may not be mapped yet.
    pub(crate) fn in_cache(&self) -> bool {
        matches!(self, Self::Cache { .. })
    }

    /// Whether what arrives is mapped before it is touched.
    pub(crate) fn maps_on_arrival(&self) -> bool {
        !matches!(self, Self::Cache { map_on_arrival: false, .. })
    }

    /// Puts bytes in place. Where host pages are larger than pages they are mapped later, all at once.
    pub(crate) fn put(
        &self,
        uffd: &Userfaultfd,
        address: u64,
        range: PageRange,
        bytes: &[u8],
    ) -> Result<(), Partial> {
        match self {
            Self::Copy => uffd.copy(address, bytes),
            Self::Cache { ram, map_on_arrival } => {
                ram.put_in_file(range, bytes)
                    .map_err(|error| Partial { done: 0, error: errno(&error) })?;
                let alone = ram.host_page() == ram.layout().page_size();
                if *map_on_arrival && alone {
                    uffd.map(address, bytes.len() as u64)
                } else {
                    Ok(())
                }
            }
        }
    }
}

fn errno(error: &RamError) -> Errno {
    match error {
        RamError::System { source, .. } => Errno::from_io_error(source).unwrap_or(Errno::IO),
        _ => Errno::IO,
    }
}

impl FaultPlane {
    /// Maps a page that is there, for who touches it or is about to. Zeroes were left as a hole.
    pub(crate) fn map_present(&self, page: PageIndex) {
        let range = self.unit_of(page);
        let (Ok(uffd), Some(address)) = (self.uffd(), self.regions.address(range)) else { return };
        let bytes = range.count << self.regions.page_size().shift();
        let mapped = match uffd.map(address, bytes) {
            Err(Partial { error: Errno::FAULT, .. }) => self.map_hole(&uffd, range, address, bytes),
            result => result,
        };
        let result = match mapped {
            // Mapped already: who waits looks again.
            Err(Partial { error: Errno::EXIST, .. }) => uffd.wake(address, bytes),
            Err(Partial { error, .. }) => Err(error),
            Ok(()) => Ok(()),
        };
        if let Err(error) = result {
            log::error!("cannot map {page}: {error}");
        }
    }

    /// Maps zeroes. Huge pages have no page of zeroes to be shared: they get memory.
    fn map_hole(
        &self,
        uffd: &Userfaultfd,
        range: PageRange,
        address: u64,
        bytes: u64,
    ) -> Result<(), Partial> {
        match &self.place {
            Place::Cache { ram, .. } if self.granules.is_some() => {
                ram.touch_in_file(range)
                    .map_err(|error| Partial { done: 0, error: errno(&error) })?;
                uffd.map(address, bytes)
            }
            _ => uffd.zero(address, bytes),
        }
    }
}
