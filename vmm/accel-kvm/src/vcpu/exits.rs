//! What KVM_RUN came back with (Linux documentation, "KVM API", 5).

use super::exchange::Access;
use crate::sys::run_page::RunPage;
use accel::VmExit;
use kvm_bindings::{
    KVM_EXIT_DIRTY_RING_FULL, KVM_EXIT_FAIL_ENTRY, KVM_EXIT_INTERNAL_ERROR, KVM_EXIT_INTR,
    KVM_EXIT_IO, KVM_EXIT_MEMORY_FAULT, KVM_EXIT_MMIO, KVM_EXIT_SHUTDOWN, KVM_EXIT_SYSTEM_EVENT,
    KVM_INTERNAL_ERROR_DELIVERY_EV, KVM_INTERNAL_ERROR_EMULATION, KVM_INTERNAL_ERROR_SIMUL_EX,
    KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON, KVM_SYSTEM_EVENT_CRASH, KVM_SYSTEM_EVENT_RESET,
    KVM_SYSTEM_EVENT_SHUTDOWN,
};
use std::io;
use umem_memory::{GuestAddress, GuestRam};

/// What is to be done.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// The guest accesses a port, or an address without RAM.
    Access(Access),
    /// Something for the machine.
    Exit(VmExit),
    /// The vCPU's dirty ring is full.
    RingFull,
    /// The thread was called out, and what was under way is complete.
    CalledOut,
}

fn failed(what: &'static str, code: u64) -> Outcome {
    Outcome::Exit(VmExit::Failed { what, code })
}

/// What a return of KVM_RUN means.
pub(crate) fn outcome(result: io::Result<()>, page: &RunPage, ram: &GuestRam) -> Outcome {
    match result {
        Ok(()) => exit(page),
        Err(error) => match error.raw_os_error().unwrap_or(0) {
            libc::EINTR | libc::EAGAIN => Outcome::CalledOut,
            // Only with these is the reason one of this return.
            code @ (libc::EFAULT | libc::EHWPOISON) if page.reason() == KVM_EXIT_MEMORY_FAULT => {
                missing(GuestAddress(page.detail_u64(8)), code, ram)
            }
            libc::EFAULT => failed("KVM finds memory missing and does not say where", 14),
            libc::EHWPOISON => failed("KVM finds memory that the hardware lost", 133),
            code => failed("KVM_RUN is refused with error", code as u64),
        },
    }
}

/// Memory that is not there, or not any more.
fn missing(address: GuestAddress, code: i32, ram: &GuestRam) -> Outcome {
    match ram.layout().page_of(address) {
        // KVM does not say whether it was a store.
        Some(page) if code == libc::EFAULT => {
            Outcome::Exit(VmExit::MissingPage { page, write: false })
        }
        Some(_) => failed("KVM finds memory that the hardware lost, at", address.0),
        None => failed("KVM finds memory missing where no RAM is, at", address.0),
    }
}

fn exit(page: &RunPage) -> Outcome {
    match page.reason() {
        KVM_EXIT_IO => match Access::to_port(page.port_access(), page) {
            Some(access) => Outcome::Access(access),
            None => {
                failed("KVM tells of an impossible access to port", page.port_access().port.into())
            }
        },
        KVM_EXIT_MMIO => match Access::to_memory(page.memory_access(), page) {
            Some(access) => Outcome::Access(access),
            None => failed("KVM tells of an impossible access to", page.memory_access().address),
        },
        KVM_EXIT_INTR => Outcome::CalledOut,
        KVM_EXIT_SHUTDOWN => Outcome::Exit(VmExit::Shutdown),
        KVM_EXIT_DIRTY_RING_FULL => Outcome::RingFull,
        KVM_EXIT_SYSTEM_EVENT => match page.detail_u32(0) {
            KVM_SYSTEM_EVENT_RESET => Outcome::Exit(VmExit::Shutdown),
            KVM_SYSTEM_EVENT_SHUTDOWN => failed("the guest wants to be switched off: event", 1),
            KVM_SYSTEM_EVENT_CRASH => failed("the guest says that it crashed: event", 3),
            event => failed("the guest has a system event that is not known:", event.into()),
        },
        KVM_EXIT_FAIL_ENTRY => {
            failed("the processor refuses to enter the guest, reason", page.detail_u64(0))
        }
        KVM_EXIT_INTERNAL_ERROR => internal_error(page),
        reason => failed("KVM comes out with a reason that is not known:", reason.into()),
    }
}

/// `struct kvm_run`, "KVM_EXIT_INTERNAL_ERROR": a kind, the number of words, words. Of an instruction that
/// cannot be emulated: flags, then its length and bytes, if the flags say so.
fn internal_error(page: &RunPage) -> Outcome {
    const HAS_BYTES: u64 = 1;
    const LONGEST: u8 = 15;
    let (kind, words) = (page.detail_u32(0), page.detail_u32(4));
    let first = if words > 0 { page.detail_u64(8) } else { 0 };
    match kind {
        KVM_INTERNAL_ERROR_EMULATION if words >= 3 && first & HAS_BYTES != 0 => {
            // Length and bytes, the first lowest: the first seven are in this word, behind the length.
            let word = page.detail_u64(16);
            let shown = usize::from((word as u8).min(LONGEST).min(7));
            let bytes = word.to_le_bytes();
            let code =
                bytes.iter().skip(1).take(shown).fold(0, |sum, &byte| sum << 8 | u64::from(byte));
            failed("KVM cannot emulate the instruction with these first bytes:", code)
        }
        KVM_INTERNAL_ERROR_EMULATION => failed("KVM cannot emulate an instruction:", first),
        KVM_INTERNAL_ERROR_SIMUL_EX => {
            failed("KVM meets one exception while raising another:", first)
        }
        KVM_INTERNAL_ERROR_DELIVERY_EV => {
            failed("KVM cannot deliver an event to the guest:", first)
        }
        KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON => {
            failed("the processor leaves the guest for a reason that KVM does not know:", first)
        }
        kind => failed("KVM has an internal error of kind", kind.into()),
    }
}

#[cfg(test)]
#[path = "exits_tests.rs"]
mod tests;
