//! The kernel's numbers and structures, of linux/userfaultfd.h.

/// `UFFD_API`.
pub(super) const API: u64 = 0xaa;
/// Flag of the system call: only faults of user mode.
pub(super) const USER_MODE_ONLY: i32 = 1;
/// `UFFDIO_REGISTER_MODE_MISSING`.
pub(super) const REGISTER_MISSING: u64 = 1;
/// `UFFDIO_REGISTER_MODE_WP`.
pub(super) const REGISTER_WRITE_PROTECT: u64 = 2;
/// `UFFDIO_REGISTER_MODE_MINOR`.
pub(super) const REGISTER_MINOR: u64 = 4;
/// `UFFD_EVENT_PAGEFAULT`.
pub(super) const EVENT_PAGEFAULT: u8 = 0x12;

#[repr(C)]
#[derive(Default)]
pub(super) struct Api {
    pub(super) api: u64,
    pub(super) features: u64,
    pub(super) ioctls: u64,
}

#[repr(C)]
#[derive(Default, Clone, Copy)]
pub(super) struct Range {
    pub(super) start: u64,
    pub(super) len: u64,
}

#[repr(C)]
pub(super) struct Register {
    pub(super) range: Range,
    pub(super) mode: u64,
    pub(super) ioctls: u64,
}

#[repr(C)]
pub(super) struct Copy {
    pub(super) dst: u64,
    pub(super) src: u64,
    pub(super) len: u64,
    pub(super) mode: u64,
    /// Bytes done, or an error's negative number.
    pub(super) copy: i64,
}

/// `struct uffdio_zeropage`, `struct uffdio_continue` and `struct uffdio_poison` alike.
#[repr(C)]
pub(super) struct Fill {
    pub(super) range: Range,
    pub(super) mode: u64,
    /// Bytes done, or an error's negative number.
    pub(super) done: i64,
}

/// `struct uffd_msg` as of a page fault.
#[repr(C)]
#[derive(Default, Clone, core::marker::Copy)]
pub(super) struct Message {
    pub(super) event: u8,
    pub(super) reserved1: u8,
    pub(super) reserved2: u16,
    pub(super) reserved3: u32,
    pub(super) flags: u64,
    pub(super) address: u64,
    pub(super) thread: u32,
    pub(super) padding: u32,
}

/// The number of a command as `_IOC` makes it.
const fn command(direction: u64, number: u64, bytes: usize) -> u64 {
    direction << 30 | (bytes as u64) << 16 | 0xaa << 8 | number
}

const READ: u64 = 2;
const READ_WRITE: u64 = 3;

pub(super) const UFFDIO_API: u64 = command(READ_WRITE, 0x3f, size_of::<Api>());
pub(super) const UFFDIO_REGISTER: u64 = command(READ_WRITE, 0x00, size_of::<Register>());
pub(super) const UFFDIO_UNREGISTER: u64 = command(READ, 0x01, size_of::<Range>());
pub(super) const UFFDIO_WAKE: u64 = command(READ, 0x02, size_of::<Range>());
pub(super) const UFFDIO_COPY: u64 = command(READ_WRITE, 0x03, size_of::<Copy>());
pub(super) const UFFDIO_ZEROPAGE: u64 = command(READ_WRITE, 0x04, size_of::<Fill>());
pub(super) const UFFDIO_CONTINUE: u64 = command(READ_WRITE, 0x07, size_of::<Fill>());
pub(super) const UFFDIO_POISON: u64 = command(READ_WRITE, 0x08, size_of::<Fill>());
/// Of /dev/userfaultfd: makes a userfaultfd.
pub(super) const USERFAULTFD_IOC_NEW: u64 = command(0, 0x00, 0);

// As a C compiler has them.
const _: () = assert!(size_of::<Message>() == 32);
const _: () = assert!(UFFDIO_API == 0xc018_aa3f && UFFDIO_REGISTER == 0xc020_aa00);
const _: () = assert!(UFFDIO_UNREGISTER == 0x8010_aa01 && UFFDIO_WAKE == 0x8010_aa02);
const _: () = assert!(UFFDIO_COPY == 0xc028_aa03 && UFFDIO_ZEROPAGE == 0xc020_aa04);
const _: () = assert!(UFFDIO_CONTINUE == 0xc020_aa07);
const _: () = assert!(UFFDIO_POISON == 0xc020_aa08 && USERFAULTFD_IOC_NEW == 0xaa00);
