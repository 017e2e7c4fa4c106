//! Guest RAM: regions, backends, page sizes.

pub use vm_memory::GuestAddress;

mod bitmap;
mod layout;
mod page;
mod ram;

pub use bitmap::PageBitmap;
pub use layout::{LayoutError, RamBlock, RamBlockSpec, RamLayout};
pub use page::{PageIndex, PageRange, PageSize};
pub use ram::{Backend, FrozenRam, GuestMemory, GuestRam, RamError};
