//! Why a guest cannot be started.

use crate::map;
use object::elf::EM_X86_64;
use std::path::PathBuf;

/// Why a guest cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// A file cannot be read.
    #[error("cannot read {what} {path}")]
    Read {
        /// Kernel or initial RAM disk.
        what: &'static str,
        /// Its path.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// An ELF file for another architecture.
    #[error(
        "{path}: an ELF file for machine {machine}, but accel=kvm on this host runs x86-64 (machine {EM_X86_64}); \
         use accel=tcg for riscv64 (machine 243)"
    )]
    Machine {
        /// Its path.
        path: PathBuf,
        /// ELF machine number.
        machine: u16,
    },
    /// A Linux `Image`, which other architectures have.
    #[error(
        "{path}: a Linux Image for {architecture}, but accel=kvm on this host runs x86-64 (vmlinux or bzImage); \
         use accel=tcg for riscv64"
    )]
    Image {
        /// Its path.
        path: PathBuf,
        /// What it is for.
        architecture: &'static str,
    },
    /// A kernel for 32 bits, or one from before 2012.
    #[error(
        "{path}: a bzImage of boot protocol {}.{:02} without a 64-bit entry point; give a kernel for x86-64 (protocol 2.12 or later)",
        version >> 8, version & 0xff
    )]
    NoEntry64 {
        /// Its path.
        path: PathBuf,
        /// Of its boot protocol; the major number in the high byte.
        version: u16,
    },
    /// A compressed file.
    #[error("{path}: compressed by {with}; give it unpacked, or as a bzImage")]
    Compressed {
        /// Its path.
        path: PathBuf,
        /// What unpacks it.
        with: &'static str,
    },
    /// The kernel is in no known format, or contradicts itself.
    #[error("{path}: no kernel for x86-64: {reason}; give a vmlinux (ELF) or a bzImage")]
    Format {
        /// Its path.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// Something does not fit into RAM.
    #[error(
        "{what} of {bytes} bytes does not fit at {address:#x} into RAM from {lowest:#x} to {ram_end:#x}; give more with -m",
        lowest = map::KERNEL_LOWEST
    )]
    NoRoom {
        /// What.
        what: &'static str,
        /// Its size.
        bytes: u64,
        /// Where it was to go.
        address: u64,
        /// End of RAM below 4 GiB.
        ram_end: u64,
    },
    /// No place for the initial RAM disk.
    #[error(
        "initial RAM disk of {bytes} bytes does not fit between the kernel's end at {lowest:#x} and {highest:#x}, \
         {limit}"
    )]
    NoRoomForInitrd {
        /// Its size.
        bytes: u64,
        /// Behind the kernel.
        lowest: u64,
        /// Where it must end at the latest.
        highest: u64,
        /// What the end is due to, and what to do.
        limit: &'static str,
    },
    /// A command line that the kernel would cut off.
    #[error("command line of {bytes} bytes: the kernel takes {most}")]
    CommandLineLength {
        /// Its length.
        bytes: usize,
        /// The most that the kernel takes, without the zero at its end.
        most: usize,
    },
    /// A command line that ends before its end.
    #[error("command line holds a zero byte at {at}, where it would end")]
    CommandLineZero {
        /// Where.
        at: usize,
    },
    /// Tables that do not fit their place.
    #[error("{what} of {bytes} bytes: there is room for {room}")]
    Table {
        /// What.
        what: &'static str,
        /// Its size.
        bytes: usize,
        /// Size of the place.
        room: u64,
    },
    /// A board without processors.
    #[error("a board needs 1 to {most} processors, not {processors}")]
    Processors {
        /// How many it has.
        processors: u8,
        /// How many it can have.
        most: u8,
    },
}
