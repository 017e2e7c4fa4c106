//! Model-specific registers. The kernel lists those that a vCPU's state has; which of them can be read
//! depends on the processor, on the kernel and on what the guest is told by CPUID.

use crate::vcpu::{TSC, TSC_DEADLINE, WHAT};
use kvm_bindings::{Msrs, kvm_msr_entry};
use kvm_ioctls::VcpuFd;
use std::io;
use umem_state::StateError;

/// Registers of the kernel's list that do not belong to the state, and why.
const LEFT_OUT: &[(u32, &str)] = &[
    (TSC, "time: moves apart"),
    (TSC_DEADLINE, "time: moves apart"),
    (
        0x11,
        "writing it has KVM write the wall clock to guest memory, which is the guest's again by now",
    ),
    (0x4b56_4d00, "as 0x11, by its new number"),
    (0x8b, "says the microcode of this host"),
    (0xce, "says what this host can do"),
    (0x10a, "says what flaws this host has not"),
    (0x345, "says how this host counts events"),
];

/// Registers that the kernel keeps and does not list: memory types (MTRR), and what machine checks left.
fn unlisted() -> impl Iterator<Item = u32> {
    const MACHINE_CHECK_BANKS: u32 = 32;
    let types = [0x2ff, 0x250, 0x258, 0x259];
    types
        .into_iter()
        .chain(0x268..0x270)
        .chain(0x200..0x210)
        .chain(0x400..0x400 + 4 * MACHINE_CHECK_BANKS)
}

/// The registers to save, of those that the kernel lists; `features` say what a host can do and are no
/// state.
pub(crate) fn worth_saving(listed: &[u32], features: &[u32]) -> Vec<u32> {
    let left_out = |index: u32| LEFT_OUT.iter().any(|&(left, _)| left == index);
    let mut indices: Vec<u32> = Vec::new();
    for index in listed.iter().copied().chain(unlisted()) {
        if !left_out(index) && !features.contains(&index) && !indices.contains(&index) {
            indices.push(index);
        }
    }
    indices
}

/// Most registers that are asked for at once.
const AT_ONCE: usize = 256;

fn entries(registers: &[(u32, u64)]) -> io::Result<Msrs> {
    let entry = |&(index, data): &(u32, u64)| kvm_msr_entry { index, data, ..Default::default() };
    let entries: Vec<_> = registers.iter().map(entry).collect();
    Msrs::from_entries(&entries).map_err(|error| io::Error::other(format!("{error:?}")))
}

/// Reads one register.
pub(crate) fn read(fd: &VcpuFd, index: u32) -> io::Result<u64> {
    let mut msrs = entries(&[(index, 0)])?;
    match (fd.get_msrs(&mut msrs)?, msrs.as_slice()) {
        (1, [entry]) => Ok(entry.data),
        _ => Err(io::Error::other(format!("no model-specific register {index:#x}"))),
    }
}

/// Writes one register.
pub(crate) fn write(fd: &VcpuFd, index: u32, value: u64) -> io::Result<()> {
    match fd.set_msrs(&entries(&[(index, value)])?)? {
        1 => Ok(()),
        _ => Err(io::Error::other(format!(
            "model-specific register {index:#x} cannot be {value:#x}"
        ))),
    }
}

/// Reads those that this vCPU has.
pub(crate) fn read_all(fd: &VcpuFd, indices: &[u32]) -> io::Result<Vec<(u32, u64)>> {
    let mut values = Vec::with_capacity(indices.len());
    let mut left = indices;
    while !left.is_empty() {
        let (now, _) = left.split_at(left.len().min(AT_ONCE));
        let mut msrs = entries(&now.iter().map(|&index| (index, 0)).collect::<Vec<_>>())?;
        // The kernel stops at the first that it does not have.
        let count = fd.get_msrs(&mut msrs)?;
        values.extend(msrs.as_slice().iter().take(count).map(|entry| (entry.index, entry.data)));
        let skipped = count + usize::from(count < now.len());
        left = left.get(skipped..).unwrap_or_default();
    }
    Ok(values)
}

/// Whether a register is to be written that has a value here already: writing costs ten times what reading
/// does. KVM's own, where they are in use, are places in guest memory of which it keeps its own notes.
fn is_due(wanted: (u32, u64), here: &[(u32, u64)]) -> bool {
    let (index, value) = wanted;
    let own = (0x4b56_4d00..0x4b56_4e00).contains(&index) && value != 0;
    own || !here.contains(&wanted)
}

/// Writes all. One that cannot be written is fine when it has that value already.
pub(crate) fn write_all(fd: &VcpuFd, values: &[(u32, u64)]) -> Result<(), StateError> {
    let indices: Vec<u32> = values.iter().map(|&(index, _)| index).collect();
    let here = read_all(fd, &indices).unwrap_or_default();
    let due: Vec<_> = values.iter().copied().filter(|&wanted| is_due(wanted, &here)).collect();
    let values = &due[..];
    let failed = |error: io::Error| {
        StateError::refused(WHAT, format!("KVM takes no model-specific registers: {error}"))
    };
    let mut left = values;
    while !left.is_empty() {
        let (now, _) = left.split_at(left.len().min(AT_ONCE));
        let count =
            fd.set_msrs(&entries(now).map_err(failed)?).map_err(|error| failed(error.into()))?;
        if let Some(&(index, value)) = now.get(count) {
            let here = read(fd, index).ok();
            if here != Some(value) {
                let here = here.map_or("no such register".to_owned(), |here| format!("{here:#x}"));
                let reason = format!(
                    "model-specific register {index:#x} cannot be {value:#x} here (it is {here}); the \
                     hosts' kernels or processors differ"
                );
                return Err(StateError::refused(WHAT, reason));
            }
        }
        let done = count + usize::from(count < now.len());
        left = left.get(done..).unwrap_or_default();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_already_is_not_written_but_for_kvms_own() {
        let here = [(0x277, 5), (0x4b56_4d01, 0x1001), (0x4b56_4d03, 0)];
        for (wanted, due) in [
            ((0x277, 5), false),
            ((0x277, 6), true),
            ((0x174, 0), true),
            ((0x4b56_4d01, 0x1001), true),
            ((0x4b56_4d03, 0), false),
        ] {
            assert_eq!(is_due(wanted, &here), due, "{wanted:x?}");
        }
    }

    #[test]
    fn the_list_is_what_is_state_and_nothing_twice() {
        let listed =
            [0x174, 0x10, 0x277, 0x4b56_4d00, 0x4b56_4d01, 0x8b, 0x6e0, 0x480, 0x277, 0x250];
        let indices = worth_saving(&listed, &[0x480]);
        assert_eq!(&indices[..4], [0x174, 0x277, 0x4b56_4d01, 0x250]);
        for (index, why) in LEFT_OUT {
            assert!(!indices.contains(index), "{index:#x}: {why}");
        }
        for memory_type in [0x2ff, 0x258, 0x26f, 0x200, 0x20f] {
            assert_eq!(indices.iter().filter(|&&index| index == memory_type).count(), 1);
        }
    }
}
