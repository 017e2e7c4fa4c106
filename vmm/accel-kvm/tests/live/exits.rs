//! What brings a vCPU out of the guest.

use crate::code;
use crate::guest::{Guest, at, get};
use crate::host::host;
use accel::{AccessSize, Vcpu, VmEntry, VmExit};
use umem_memory::GuestAddress;

#[test]
fn accesses_come_out_one_by_one_and_take_their_answers_along() {
    use AccessSize::{Byte, Double, Half, Word};
    let Some(host) = host("exits") else { return };
    let mut guest = Guest::new(&host, 1);
    guest.ram.write_at(GuestAddress(0xb000), &[1, 2, 3, 4, 5, 6]).unwrap();
    guest.begin(false, &at(code::k_exits()));
    let vcpu = &mut guest.vcpus[0];
    let write = |port, size, value| VmExit::PortWrite { port, size, value };
    let read = |port, size| VmExit::PortRead { port, size };
    let address = |offset: u64| GuestAddress(0xd000_0000 + offset);
    let store = |offset, size, value| VmExit::MmioWrite { address: address(offset), size, value };
    let load = |offset, size| VmExit::MmioRead { address: address(offset), size };
    let run = VmEntry::Run;
    for (entry, exit) in [
        (run, write(0x505, Word, 0x1122_3344)),
        (run, write(0x505, Half, 0x3344)),
        (run, write(0x505, Byte, 0x44)),
        (run, read(0x505, Word)),
        (VmEntry::PortRead(0xdead_beef), write(0x31, Word, 0xdead_beef)),
        (run, read(0x505, Byte)),
        (VmEntry::PortRead(0x77), write(0x31, Byte, 0x77)),
        (run, store(0, Word, 0xdead_be77)),
        (run, store(8, Double, 0xd000_0000)),
        (run, load(16, Double)),
        (VmEntry::MmioRead(0x1234_5678_9abc_def0), write(0x32, Word, 0x9abc_def0)),
        (run, load(24, Word)),
        (VmEntry::MmioRead(0x5a5a_a5a5), write(0x32, Word, 0x5a5a_a5a5)),
        (run, write(0x506, Half, 0x201)),
        (run, write(0x506, Half, 0x403)),
        (run, write(0x506, Half, 0x605)),
        (run, read(0x506, Half)),
    ] {
        assert_eq!(vcpu.run(entry), exit);
        assert!(!vcpu.is_settled(), "{exit:?}");
        assert!(vcpu.save().is_err(), "within an access");
    }
    // Input of a string: KVM asks for one element or for several at once.
    assert_eq!(vcpu.run(VmEntry::PortRead(0xa1)), read(0x506, Half));
    assert_eq!(vcpu.run(VmEntry::PortRead(0xa2)), read(0x506, Half));
    assert_eq!(vcpu.run(VmEntry::PortRead(0xa3)), write(0x33, Word, 0xa3_00a2));
    // A store over the end of a page.
    let mut bytes = Vec::new();
    loop {
        match vcpu.run(run) {
            VmExit::MmioWrite { address, size, value } => {
                for byte in 0..size.bytes() as u64 {
                    bytes.push((address.0 + byte, (value >> (8 * byte)) as u8));
                }
            }
            exit => {
                assert_eq!(exit, write(0x34, Byte, 0xa2));
                break;
            }
        }
    }
    bytes.sort_unstable();
    let end = 0xd000_0ffd;
    assert_eq!(bytes, [(end, 0x11), (end + 1, 0x22), (end + 2, 0x33), (end + 3, 0x44)]);
}

#[test]
fn a_program_calls_through_the_kernel() {
    let Some(host) = host("calls") else { return };
    let mut guest = Guest::new(&host, 1);
    guest.begin(true, &at(code::u_call()));
    for value in 1..=100 {
        let exit = VmExit::PortWrite { port: 0x30, size: AccessSize::Word, value };
        assert_eq!(guest.run(), exit);
    }
    assert!(guest.vcpus[0].registers().contains("rax 0x64\n"), "{}", guest.vcpus[0].registers());
}

#[test]
fn a_triple_fault_asks_for_a_reset_after_which_it_runs_again() {
    let Some(host) = host("triple fault") else { return };
    let mut guest = Guest::new(&host, 1);
    for _ in 0..3 {
        guest.begin(false, &at(code::k_triple()));
        assert_eq!(guest.run(), VmExit::Shutdown);
        guest.begin(true, &at(code::u_call()));
        assert!(crate::guest::is_call(guest.run()));
    }
}

/// A KVM with hardware help executes it.
#[test]
fn what_kvm_cannot_emulate_is_a_failure_that_shows_the_instruction() {
    let Some(host) = host("emulation") else { return };
    let mut guest = Guest::new(&host, 1);
    guest.begin(false, &at(code::k_strange()));
    match guest.run() {
        VmExit::Failed { what, code } => {
            assert!(what.contains("cannot emulate the instruction"), "{what}");
            // vpaddd xmm2, xmm1, xmm1
            assert_eq!(code >> 24, 0xc5f1_fed1, "{code:#x}");
        }
        exit => assert!(crate::guest::is_call(exit), "{exit:?}"),
    }
}

#[test]
fn reset_within_an_access_leaves_nothing_of_it() {
    let Some(host) = host("reset within an access") else { return };
    let mut guest = Guest::new(&host, 1);
    guest.begin(false, &at(code::k_exits()));
    while !matches!(guest.run(), VmExit::PortRead { .. }) {}
    assert!(!guest.vcpus[0].is_settled());
    guest.begin(true, &at(code::u_call()));
    let exit = VmExit::PortWrite { port: 0x30, size: AccessSize::Word, value: 1 };
    assert_eq!(guest.run(), exit, "the answer to the read went nowhere");
    assert_eq!(get(&guest.ram, 0xb100), 0);
}
