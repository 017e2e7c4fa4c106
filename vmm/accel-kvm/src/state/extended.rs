//! What XSAVE writes of a vCPU, in its standard form (Intel's manual, volume 1, 13.4).
//!
//! Hosts differ in how much their kernel writes. A longer one is taken where the parts in it that are in use
//! end within what this host keeps.

use super::State;
use crate::cpuid::{Register, Table};
use crate::host::Facts;
use crate::sys::ioctl;
use crate::vcpu::WHAT;
use kvm_ioctls::VcpuFd;
use std::io;
use umem_state::StateError;

/// Where the header begins; its first word says which parts are in use.
const HEADER: usize = 512;
/// Where parts begin that are not in the legacy area.
const PARTS: usize = HEADER + 64;

pub(crate) fn read(fd: &VcpuFd, facts: &Facts) -> io::Result<Vec<u8>> {
    ioctl::extended_state(fd, facts.capabilities.extended_state_bytes, facts.large_state)
}

/// Which parts are in use, as bits of XCR0.
fn in_use(state: &[u8]) -> u64 {
    let word = state.iter().skip(HEADER).take(8);
    word.rev().fold(0, |sum, &byte| sum << 8 | u64::from(byte))
}

/// The last byte that the parts in use have, by a table of leaves; `None` when it does not know one.
fn end(parts: u64, table: &Table) -> Option<usize> {
    let mut end = PARTS;
    for part in (2..64).filter(|part| parts >> part & 1 != 0) {
        let leaf = table.leaf(0xd, part)?;
        let bytes = leaf.register(Register::Eax).checked_add(leaf.register(Register::Ebx))?;
        end = end.max(bytes as usize);
    }
    Some(end)
}

/// Whether this host keeps what is in use of a state.
pub(super) fn admit(state: &State, facts: &Facts) -> Result<(), StateError> {
    let parts = in_use(&state.extended);
    let here = facts.capabilities.extended_state_bytes;
    let refused = |reason| Err(StateError::refused(WHAT, reason));
    match end(parts, &state.table) {
        None => {
            refused(format!("its extended state has parts {parts:#x} that its CPUID does not have"))
        }
        Some(end) if end > here => refused(format!(
            "its extended state (parts {parts:#x}) ends at byte {end}, this host keeps {here}; start the \
             guest without the features that need it (-cpu host,-amx_tile)"
        )),
        Some(end) if end > state.extended.len() => refused(format!(
            "its extended state (parts {parts:#x}) ends at byte {end} of {}",
            state.extended.len()
        )),
        Some(_) => Ok(()),
    }
}

pub(super) fn write(fd: &VcpuFd, facts: &Facts, state: &[u8]) -> io::Result<()> {
    let mut here = state.to_vec();
    here.resize(facts.capabilities.extended_state_bytes, 0);
    ioctl::set_extended_state(fd, &here)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpuid::Leaf;

    #[test]
    fn the_end_is_that_of_the_last_part_in_use() {
        let table = Table(vec![
            Leaf::new(0xd, Some(2), [256, 576, 0, 0]),
            Leaf::new(0xd, Some(18), [8192, 2816, 0, 0]),
        ]);
        for (parts, expected) in [
            (0, Some(576)),
            (3, Some(576)),
            (7, Some(832)),
            (1 << 18 | 1, Some(11008)),
            (1 << 9, None),
            (1 << 63, None),
        ] {
            assert_eq!(end(parts, &table), expected, "{parts:#x}");
        }
        let mut state = vec![0; 600];
        state[512] = 7;
        state[519] = 0x80;
        assert_eq!(in_use(&state), 1 << 63 | 7);
        assert_eq!(in_use(&[]), 0);
    }
}
