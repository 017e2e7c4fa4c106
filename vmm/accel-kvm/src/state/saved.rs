//! The saved form of a vCPU: CBOR with named fields, versioned.

use super::parts::{Debug, Events, General, Special};
use crate::cpuid::Table;
use crate::sys::ioctl::EXTENDED_STATE_BYTES;
use crate::vcpu::{Stopped, WHAT};
use kvm_bindings::{KVM_MP_STATE_AP_RESET_HOLD, kvm_lapic_state};
use serde::{Deserialize, Serialize};
use umem_state::{StateError, decode_body, encode_body};

/// Version of [`State`]'s saved form.
const VERSION: u32 = 1;

/// Most bytes of extended state: more than any processor has (AMX ends at 11,008).
const MOST_EXTENDED: usize = 1 << 16;
/// Most model-specific registers: more than a kernel lists.
const MOST_MSRS: usize = 1 << 12;
/// Most extended control registers, as the kernel takes them.
const MOST_XCRS: usize = 16;

/// Everything that the guest can tell of its vCPU, and that KVM keeps of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct State {
    /// What it answers to CPUID.
    pub(crate) table: Table,
    /// Rate of its time-stamp counter, kHz.
    pub(crate) tsc_khz: u32,
    /// Its time.
    pub(crate) time: Stopped,
    /// Whether it runs, is halted, or waits to be started (`KVM_MP_STATE_…`).
    pub(crate) mp_state: u32,
    pub(crate) general: General,
    pub(crate) special: Special,
    /// Extended control registers: number and value.
    pub(crate) xcrs: Vec<(u32, u64)>,
    /// What XSAVE writes.
    #[serde(with = "umem_state::bytes")]
    pub(crate) extended: Vec<u8>,
    pub(crate) debug: Debug,
    /// Registers of the local APIC, as they lie in memory.
    #[serde(with = "umem_state::bytes")]
    pub(crate) apic: Vec<u8>,
    /// Model-specific registers: number and value.
    pub(crate) msrs: Vec<(u32, u64)>,
    pub(crate) events: Events,
}

/// What is around it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Saved {
    version: u32,
    /// Number of the vCPU.
    number: u32,
    state: State,
}

impl State {
    /// Its bytes.
    pub(crate) fn encode(self, number: u32) -> Result<Vec<u8>, StateError> {
        encode_body(WHAT, &Saved { version: VERSION, number, state: self })
    }

    /// The state of vCPU `number` that the bytes hold.
    pub(crate) fn decode(bytes: &[u8], number: u32) -> Result<Self, StateError> {
        let saved: Saved = decode_body(WHAT, bytes)?;
        if saved.version != VERSION {
            let (what, found) = (WHAT.to_owned(), saved.version);
            return Err(StateError::Version { what, found, known: VERSION });
        }
        if saved.number != number {
            let reason = format!("the state of vCPU {} for vCPU {number}", saved.number);
            return Err(StateError::refused(WHAT, reason));
        }
        match saved.state.impossible() {
            Some(reason) => Err(StateError::refused(WHAT, reason)),
            None => Ok(saved.state),
        }
    }

    /// The first value that cannot be. The kernel looks at all others.
    fn impossible(&self) -> Option<String> {
        let words = (self.extended.len() % 4, self.extended.len());
        let checks = [
            ("number of CPUID leaves", self.table.0.len(), self.table.0.len() <= Table::MOST),
            ("rate of the time-stamp counter", self.tsc_khz as usize, self.tsc_khz < 1 << 30),
            ("run state", self.mp_state as usize, self.mp_state <= KVM_MP_STATE_AP_RESET_HOLD),
            ("number of extended control registers", self.xcrs.len(), self.xcrs.len() <= MOST_XCRS),
            (
                "bytes of extended state",
                words.1,
                (EXTENDED_STATE_BYTES..=MOST_EXTENDED).contains(&words.1) && words.0 == 0,
            ),
            (
                "bytes of the local APIC",
                self.apic.len(),
                self.apic.len() == size_of::<kvm_lapic_state>(),
            ),
            ("number of model-specific registers", self.msrs.len(), self.msrs.len() <= MOST_MSRS),
        ];
        let (name, value, _) = checks.into_iter().find(|(_, _, possible)| !possible)?;
        Some(format!("{name} cannot be {value:#x}"))
    }
}

#[cfg(test)]
#[path = "saved_tests.rs"]
mod tests;
