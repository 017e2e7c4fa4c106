//! Guest RAM: regions, backends, page sizes, dirty tracking.

pub use vm_memory::GuestAddress;

mod bitmap;
pub mod dirty;
mod layout;
mod page;
pub mod pagemap;
mod ram;

pub use bitmap::PageBitmap;
pub use dirty::{DirtyError, DirtyLog, DirtySource, HostWrites};
pub use layout::{LayoutError, RamBlock, RamBlockSpec, RamLayout};
pub use page::{PageIndex, PageRange, PageSize, repeated_byte};
pub use ram::{
    Backend, FrozenRam, GuestMemory, GuestRam, HugePages, MemoryKind, RamError, huge_page_pool,
    huge_pages,
};
