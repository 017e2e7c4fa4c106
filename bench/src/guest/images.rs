//! The bare-metal guests' images, as they are in the repository.

/// For RV64, built from guest/test-guest.
pub static TEST_GUEST: &[u8] =
    include_bytes!("../../../guest/test-guest/image/umem-test-guest.elf");

/// For x86-64, built from guest/test-guest.
pub static TEST_GUEST_X86: &[u8] =
    include_bytes!("../../../guest/test-guest/image/umem-test-guest-x86_64.elf");
