//! Interrupt controllers and the interval timer: their state, and lines.

use crate::code;
use crate::guest::{Guest, at, run};
use crate::host::host;
use accel::VmExit;
use accel_kvm::SavedChips;
use umem_state::{SaveRestore, decode_body, encode_body};

/// A state that none has by itself.
fn unusual(saved: &mut SavedChips) {
    saved.pics[0].irq_base = 0x30;
    saved.pics[0].imr = 0xfb;
    saved.pics[1].irq_base = 0x38;
    saved.pics[1].imr = 0xef;
    saved.ioapic.ioregsel = 0x12;
    // Line 4: vector 0x31, level, masked. Line 9: vector 0x39 to vCPU 1.
    saved.ioapic.redirection[4] = 0x1_8031;
    saved.ioapic.redirection[9] = 0x0100_0000_0000_0039;
    saved.timer[0].mode = 2;
    saved.timer[0].rw_mode = 3;
    saved.timer[0].count = 0x1234;
    saved.timer[2].latched_count = 0x55;
}

#[test]
fn state_goes_into_another_vm_and_comes_back_the_same() {
    let Some(host) = host("chips") else { return };
    let (source, target) = (Guest::new(&host, 2), Guest::new(&host, 2));
    let pristine = target.vm.chips().save();
    let mut saved = source.vm.chips().save();
    assert_eq!(saved, pristine);
    unusual(&mut saved);
    source.vm.chips().restore(saved.clone()).unwrap();
    assert_eq!(source.vm.chips().save(), saved);
    let body = encode_body("chips", &source.vm.chips().save()).unwrap();
    for _ in 0..2 {
        target.vm.chips().restore(decode_body("chips", &body).unwrap()).unwrap();
        assert_eq!(target.vm.chips().save(), saved);
        target.vm.chips().restore(pristine.clone()).unwrap();
        assert_eq!(target.vm.chips().save(), pristine, "as for a reset");
    }
}

/// The form of version 1: FNV-1a of its bytes.
#[test]
fn version_1_has_these_bytes() {
    let mut saved = SavedChips {
        pics: vec![accel_kvm::SavedPic::default(); 2],
        timer: vec![accel_kvm::SavedPitChannel::default(); 3],
        ..SavedChips::default()
    };
    saved.ioapic.redirection = vec![0x1_0000; 24];
    unusual(&mut saved);
    let body = encode_body("chips", &saved).unwrap();
    let digest = body.iter().fold(0xcbf2_9ce4_8422_2325u64, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    assert!(body.starts_with(b"\xa4dpics\x82\xb0hlast_irr\x00cirr\x00cimr\x18\xfb"), "{body:x?}");
    assert_eq!((body.len(), digest), (953, 0x8d46_442e_ff90_20d6));
}

#[test]
fn lines_are_seen_and_what_cannot_be_is_refused() {
    let Some(host) = host("lines") else { return };
    let guest = Guest::new(&host, 1);
    let chips = guest.vm.chips();
    guest.vm.set_line(9, true);
    assert_eq!(chips.save().ioapic.irr >> 9 & 1, 1);
    guest.vm.set_line(9, false);
    guest.vm.set_line(9999, true);
    type Change = fn(&mut SavedChips);
    let changes: [(Change, &str); 5] = [
        (|saved| *saved = SavedChips::default(), "0 PICs, there are 2"),
        (|saved| saved.pics.truncate(1), "1 PICs"),
        (|saved| saved.ioapic.redirection.push(0), "25 redirection entries"),
        (|saved| saved.timer.clear(), "0 timer channels"),
        (|saved| saved.timer[1].count = 0x1_0001, "count 65537"),
    ];
    for (change, part) in changes {
        let mut saved = chips.save();
        change(&mut saved);
        let error = chips.restore(saved).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }
}

/// A line that rises wakes a vCPU that is halted, through the I/O APIC, before and after a move.
#[test]
fn a_line_interrupts_the_guest() {
    let Some(host) = host("interrupts") else { return };
    let mut guest = Guest::new(&host, 1);
    guest.begin(false, &at(code::k_lines()));
    let mut said = Vec::new();
    for _ in 0..3 {
        // It says that it is about to halt, then what interrupted it.
        match run(&mut guest.vcpus[0]) {
            VmExit::PortWrite { port: 0x30, .. } => {}
            exit => panic!("{exit:?}"),
        }
        let saved = guest.vm.chips().save();
        guest.vm.chips().restore(saved).unwrap();
        let vm = guest.vm.clone();
        let raiser = std::thread::spawn(move || {
            std::thread::sleep(std::time::Duration::from_millis(5));
            vm.set_line(5, true);
            vm.set_line(5, false);
        });
        match run(&mut guest.vcpus[0]) {
            VmExit::PortWrite { port: 0x31, value, .. } => said.push(value),
            exit => panic!("{exit:?}"),
        }
        raiser.join().unwrap();
    }
    assert_eq!(said, [1, 2, 3]);
}
