use super::*;
use crate::cpuid::Leaf;
use proptest::prelude::*;

/// A state of which each kind of field is told apart.
fn state() -> State {
    let general = General { rax: 1, rip: 0x10_0000, rflags: 2, ..General::default() };
    let mut special =
        Special { cr0: 0x11, efer: 0x500, pdptrs: Some([1, 2, 3, 4]), ..Special::default() };
    special.cs.selector = 0x10;
    special.gdt.limit = 0x47;
    State {
        table: Table(vec![Leaf::new(1, None, [1, 2, 3, 4]), Leaf::new(4, Some(1), [5, 6, 7, 8])]),
        tsc_khz: 2_596_152,
        time: Stopped { tsc: 1 << 40, deadline: 1 << 41, timer_left: 7 },
        mp_state: 3,
        general,
        special,
        xcrs: vec![(0, 7)],
        extended: vec![0; EXTENDED_STATE_BYTES],
        debug: Debug { db: [1, 2, 3, 4], dr6: 0xffff_0ff0, dr7: 0x400, flags: 0 },
        apic: vec![0; 1024],
        msrs: vec![(0x277, 0x0007_0406_0007_0406), (0xc000_0081, 5)],
        events: Events { flags: 13, exception_error: Some(4), ..Events::default() },
    }
}

/// The form of version 1, which later versions must read: change a field, and this fails.
#[test]
fn version_1_has_these_bytes() {
    let bytes = state().encode(2).unwrap();
    let digest = bytes.iter().fold(0xcbf2_9ce4_8422_2325u64, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    // The head in full, the rest (two long strings of zeroes) by its FNV-1a hash.
    let head = b"\xa3gversion\x01fnumber\x02estate\xac";
    assert!(bytes.starts_with(head), "{:x?}", &bytes[..64]);
    assert_eq!((bytes.len(), digest), (6492, 0xe939_09b2_a573_29c4));
    assert_eq!(State::decode(&bytes, 2).unwrap(), state());
}

#[test]
fn what_cannot_be_is_refused_by_name() {
    type Change = fn(&mut State);
    let changes: [(Change, &str); 9] = [
        (|s| s.table.0 = vec![Leaf::new(0, None, [0; 4]); 257], "CPUID leaves cannot be 0x101"),
        (|s| s.tsc_khz = 1 << 30, "rate of the time-stamp counter"),
        (|s| s.mp_state = 10, "run state cannot be 0xa"),
        (|s| s.xcrs = vec![(0, 0); 17], "extended control registers cannot be 0x11"),
        (|s| s.extended.truncate(4092), "bytes of extended state cannot be 0xffc"),
        (|s| s.extended.resize(65540, 0), "bytes of extended state"),
        (|s| s.extended.push(0), "bytes of extended state"),
        (|s| s.apic.push(0), "local APIC cannot be 0x401"),
        (|s| s.msrs.resize(4097, (0, 0)), "model-specific registers cannot be 0x1001"),
    ];
    for (change, part) in changes {
        let mut state = state();
        change(&mut state);
        let error = State::decode(&state.encode(0).unwrap(), 0).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }
    let error = State::decode(&state().encode(1).unwrap(), 0).unwrap_err().to_string();
    assert!(error.contains("the state of vCPU 1 for vCPU 0"), "{error}");
}

#[test]
fn another_version_says_so() {
    let body = encode_body(WHAT, &Saved { version: 2, number: 0, state: state() }).unwrap();
    let error = State::decode(&body, 0).unwrap_err().to_string();
    assert!(error.contains("saved as version 2"), "{error}");
}

proptest! {
    #[test]
    fn hostile_bytes_never_panic(
        at in 0..2000usize,
        byte in any::<u8>(),
        cut in any::<proptest::sample::Index>(),
    ) {
        let mut bytes = state().encode(0).unwrap();
        prop_assert!(State::decode(&bytes[..cut.index(bytes.len())], 0).is_err());
        bytes[at] = byte;
        let _ = State::decode(&bytes, 0);
    }

    #[test]
    fn kernel_structures_come_back(numbers in any::<[u64; 18]>(), small in any::<[u8; 18]>()) {
        let [rax, rbx, rcx, rdx, rsi, rdi, rsp, rbp, r8, r9, r10, r11, r12, r13, r14, r15, rip, rflags] =
            numbers;
        let general = General {
            rax, rbx, rcx, rdx, rsi, rdi, rsp, rbp, r8, r9, r10, r11, r12, r13, r14, r15, rip, rflags,
        };
        prop_assert_eq!(General::from(kvm_bindings::kvm_regs::from(general)), general);
        let events = Events {
            flags: numbers[0] as u32,
            exception_injected: 1,
            exception_pending: small[0],
            exception_nr: small[1],
            exception_error: (small[2] > 128).then_some(numbers[1] as u32),
            exception_payload: (small[3] > 128).then_some(numbers[2]),
            interrupt_injected: 1,
            interrupt_nr: small[4],
            interrupt_soft: small[5],
            interrupt_shadow: small[6],
            nmi_injected: small[7],
            nmi_pending: small[8],
            nmi_masked: small[9],
            sipi_vector: numbers[3] as u32,
            smm: small[10],
            smi_pending: small[11],
            smm_inside_nmi: small[12],
            latched_init: small[13],
            triple_fault: small[14],
        };
        prop_assert_eq!(Events::from(kvm_bindings::kvm_vcpu_events::from(events)), events);
        let mut special = Special { cr0: rax, cr2: rbx, cr3: rcx, cr4: rdx, cr8: rsi, efer: rdi, ..state().special };
        special.apic_base = rsp;
        special.tr.base = rbp;
        special.ldt.limit = r8 as u32;
        special.idt.base = r9;
        prop_assert_eq!(Special::from(kvm_bindings::kvm_sregs2::from(special)), special);
        let without = Special { pdptrs: None, ..special };
        prop_assert_eq!(Special::from(kvm_bindings::kvm_sregs::from(special)), without);
    }
}
