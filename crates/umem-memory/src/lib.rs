//! Guest RAM: regions, backends, page sizes.

pub use vm_memory::GuestAddress;

mod page;
pub use page::{PageIndex, PageRange, PageSize};
