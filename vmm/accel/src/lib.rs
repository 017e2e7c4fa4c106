//! What an accelerator offers the machine: run a vCPU until it needs something, save it, restore it.
//!
//! A vCPU thread calls [`Vcpu::run`] with what the last exit asked for and gets the next
//! [`VmExit`]. Everything that another thread may do to a running vCPU goes through its
//! [`VcpuHandle`]: raise an interrupt line, or kick it out of `run`.

mod asks;
mod clock;
mod exit;
mod handle;
mod sync;

pub use asks::{Asked, Asks, Fence};
pub use clock::{ClockError, GuestClock, MachineClock, SavedClock, TICKS_PER_SECOND};
pub use exit::{AccessSize, VmEntry, VmExit};
pub use handle::{InterruptKind, VcpuHandle};

use std::time::Duration;
use umem_memory::{GuestAddress, PageIndex};
use umem_state::StateError;

/// Tells an accelerator that finds missing pages by itself whether a page may be touched.
///
/// Asked once for each page before the accelerator caches a translation to it, never on the hot
/// path. A page that was present stays so until [`PagePresence`] holders are told otherwise.
pub trait PagePresence: Send + Sync {
    /// Whether the page has its content and may be read and written without a page fault.
    fn is_present(&self, page: PageIndex) -> bool;
}

/// One virtual CPU of an accelerator.
pub trait Vcpu: Send {
    /// Runs until the guest needs something or the vCPU is kicked.
    ///
    /// `entry` answers the previous exit. When the exit is [`VmExit::MissingPage`] the instruction
    /// that found the page missing has had no effect; entering again executes it again.
    fn run(&mut self, entry: VmEntry) -> VmExit;

    /// Whether the last exit is over for the vCPU. One whose is not must be entered once more before it is
    /// saved, and, kicked, comes out before its next instruction.
    fn is_settled(&self) -> bool {
        true
    }

    /// The handle through which other threads reach this vCPU.
    fn handle(&self) -> VcpuHandle;

    /// The guest's clock stops: counters that the vCPU keeps by itself (a time-stamp counter) stop with it.
    /// All vCPUs stand still.
    ///
    /// # Errors
    /// When the accelerator cannot read its own state.
    fn stop_clock(&mut self) -> Result<(), StateError> {
        Ok(())
    }

    /// The guest's clock goes on, by `pause` at once: so do the counters that [`Self::stop_clock`] stopped
    /// or [`Self::restore`] brought.
    ///
    /// # Errors
    /// When the accelerator refuses.
    fn start_clock(&mut self, pause: Duration) -> Result<(), StateError> {
        let _ = pause;
        Ok(())
    }

    /// The whole architectural state, in the accelerator's saved form (versioned, CBOR).
    ///
    /// # Errors
    /// When the accelerator cannot read its own state (a kernel that refuses an ioctl).
    fn save(&self) -> Result<Vec<u8>, StateError>;

    /// Replaces the whole architectural state.
    ///
    /// # Errors
    /// When the bytes are no saved state of this accelerator, or hold values that it cannot have.
    /// The vCPU is then unchanged.
    fn restore(&mut self, saved: &[u8]) -> Result<(), StateError>;

    /// Guest physical addresses in pages that the vCPU is likely to touch first when it goes on, the surest
    /// first; a page may be named by several. A guess that costs no more than a page sent in vain when it is
    /// wrong: a destination that has these pages early need not ask for them one by one. All vCPUs stand
    /// still and all of RAM is here.
    fn working_set(&self) -> Vec<GuestAddress> {
        Vec::new()
    }

    /// Registers, for people: one `name value` pair a line.
    fn registers(&self) -> String;

    /// Instructions retired since creation or the last restore, for rate displays.
    fn instructions(&self) -> u64;
}

/// What a RISC-V hart does beside that, for the SBI above it.
pub trait RiscvVcpu: Vcpu {
    /// Arms the timer interrupt for this guest time, in ticks, and clears a pending one (SBI
    /// specification, `sbi_set_timer`). `u64::MAX` disarms it.
    fn set_timer(&mut self, ticks: u64);

    /// Puts the vCPU into its reset state with the first instruction at `pc`, its own number in
    /// `a0` and the device tree's address in `a1` (Linux documentation, "RISC-V Kernel Boot
    /// Requirements").
    fn boot(&mut self, pc: u64, device_tree: u64);

    /// Forgets what it has cached, of its own doing or because of another's write to memory.
    fn fence(&mut self, fence: Fence);
}
