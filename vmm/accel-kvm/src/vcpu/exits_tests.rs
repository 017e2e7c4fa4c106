use super::*;
use accel::{AccessSize, VmEntry};
use umem_memory::{Backend, PageIndex, PageSize, RamBlockSpec, RamLayout};

fn ram() -> GuestRam {
    let block = |name: &str, address| RamBlockSpec {
        name: name.into(),
        guest_address: GuestAddress(address),
        bytes: 0x4000,
    };
    let blocks = vec![block("low", 0), block("high", 0x10_0000)];
    GuestRam::new(RamLayout::new(PageSize::SMALL, blocks).unwrap(), &Backend::Anonymous).unwrap()
}

/// A page with a reason, and values of so many bytes at offsets into the reason's own part.
fn page(reason: u32, values: &[(usize, usize, u64)]) -> RunPage {
    let page = RunPage::of_nobody();
    page.set_value(8, 4, reason.into());
    for &(offset, bytes, value) in values {
        page.set_value(32 + offset, bytes, value);
    }
    page
}

fn after(result: Result<(), i32>, page: &RunPage) -> Outcome {
    outcome(result.map_err(io::Error::from_raw_os_error), page, &ram())
}

fn failure(outcome: Outcome) -> (&'static str, u64) {
    match outcome {
        Outcome::Exit(VmExit::Failed { what, code }) => (what, code),
        outcome => panic!("{outcome:?}"),
    }
}

#[test]
fn missing_pages_come_out_with_their_number_where_kvm_says_it() {
    let fault = |address| page(KVM_EXIT_MEMORY_FAULT, &[(8, 8, address), (16, 8, 0x1000)]);
    let outcome = after(Err(libc::EFAULT), &fault(0x10_1fff));
    let exit = VmExit::MissingPage { page: PageIndex(5), write: false };
    assert!(matches!(outcome, Outcome::Exit(found) if found == exit), "{outcome:?}");
    let (what, code) = failure(after(Err(libc::EFAULT), &fault(0x8000)));
    assert!(what.contains("no RAM") && code == 0x8000, "{what}");
    let (what, code) = failure(after(Err(libc::EHWPOISON), &fault(0x1000)));
    assert!(what.contains("hardware lost") && code == 0x1000, "{what}");
    // The reason is an old one.
    let (what, _) = failure(after(Err(libc::EFAULT), &page(KVM_EXIT_MMIO, &[])));
    assert!(what.contains("does not say where"), "{what}");
    let (what, code) = failure(after(Err(libc::EINVAL), &fault(0)));
    assert!(what.contains("refused") && code == 22, "{what}");
}

#[test]
fn a_thread_that_was_called_out_goes_on() {
    for code in [libc::EINTR, libc::EAGAIN] {
        assert!(matches!(after(Err(code), &page(0, &[])), Outcome::CalledOut));
    }
    assert!(matches!(after(Ok(()), &page(KVM_EXIT_INTR, &[])), Outcome::CalledOut));
    assert!(matches!(after(Ok(()), &page(KVM_EXIT_DIRTY_RING_FULL, &[])), Outcome::RingFull));
}

#[test]
fn both_ways_to_ask_for_a_reset_are_one() {
    let reset = page(KVM_EXIT_SYSTEM_EVENT, &[(0, 4, KVM_SYSTEM_EVENT_RESET.into())]);
    for page in [page(KVM_EXIT_SHUTDOWN, &[]), reset] {
        assert!(matches!(after(Ok(()), &page), Outcome::Exit(VmExit::Shutdown)));
    }
}

#[test]
fn failures_say_what_and_a_number() {
    let instruction = u64::from_le_bytes([4, 0xc5, 0xf1, 0xfe, 0xd1, 9, 9, 9]);
    let internal = |kind: u32, words: &[u64]| {
        let mut values = vec![(0, 4, kind.into()), (4, 4, words.len() as u64)];
        values.extend(words.iter().enumerate().map(|(at, &word)| (8 + 8 * at, 8, word)));
        page(KVM_EXIT_INTERNAL_ERROR, &values)
    };
    for (page, part, number) in [
        (internal(1, &[1, instruction, 0, 0]), "these first bytes", 0xc5f1_fed1),
        (internal(1, &[1, 0xff, 0, 0]), "these first bytes", 0),
        (internal(1, &[]), "cannot emulate an instruction", 0),
        (internal(2, &[7]), "one exception while raising another", 7),
        (internal(3, &[8, 9]), "cannot deliver", 8),
        (internal(4, &[0x30]), "leaves the guest", 0x30),
        (internal(77, &[]), "of kind", 77),
        (page(KVM_EXIT_FAIL_ENTRY, &[(0, 8, 0x8000_0021)]), "refuses to enter", 0x8000_0021),
        (page(KVM_EXIT_SYSTEM_EVENT, &[(0, 4, 3)]), "crashed", 3),
        (page(KVM_EXIT_SYSTEM_EVENT, &[(0, 4, 1)]), "switched off", 1),
        (page(KVM_EXIT_SYSTEM_EVENT, &[(0, 4, 9)]), "not known", 9),
        (page(4711, &[]), "reason that is not known", 4711),
        // A port access of three bytes; one whose data lies outside; one of no element.
        (page(KVM_EXIT_IO, &[(1, 1, 3), (2, 2, 0x60), (4, 4, 1)]), "impossible", 0x60),
        (page(KVM_EXIT_IO, &[(1, 1, 4), (2, 2, 5), (4, 4, 1), (8, 8, 12285)]), "impossible", 5),
        (page(KVM_EXIT_IO, &[(1, 1, 4), (2, 2, 5), (4, 4, u32::MAX.into())]), "impossible", 5),
        (page(KVM_EXIT_IO, &[(1, 1, 1), (2, 2, 6), (4, 4, 0)]), "impossible", 6),
        (page(KVM_EXIT_MMIO, &[(0, 8, 7), (16, 4, 9)]), "impossible", 7),
        (page(KVM_EXIT_MMIO, &[(0, 8, u64::MAX), (16, 4, 8)]), "impossible", u64::MAX),
    ] {
        let (what, code) = failure(after(Ok(()), &page));
        assert!(what.contains(part) && code == number, "{what} {code:#x}, not {part} {number:#x}");
    }
}

#[test]
fn accesses_are_read_from_the_page_and_answered_into_it() {
    // Three words into a port, their data at 4096.
    let words = [(0, 1, 0), (1, 1, 2), (2, 2, 0x1f0), (4, 4, 3), (8, 8, 4096)];
    let page = page(KVM_EXIT_IO, &words);
    let Outcome::Access(mut access) = after(Ok(()), &page) else { panic!() };
    for value in [0x11, 0x2222, 0x3_3333] {
        let exit = VmExit::PortRead { port: 0x1f0, size: AccessSize::Half };
        assert_eq!(access.exit(&page), Some(exit));
        access.answer(VmEntry::PortRead(value), &page);
    }
    assert_eq!(access.exit(&page), None);
    assert_eq!(page.value(4096, 8), 0x3333_2222_0011);
    // Three bytes outside RAM.
    let page = self::page(
        KVM_EXIT_MMIO,
        &[(0, 8, 0xd000_0001), (8, 8, 0x0033_2211), (16, 4, 3), (20, 1, 1)],
    );
    let Outcome::Access(mut access) = after(Ok(()), &page) else { panic!() };
    let write =
        |address, size, value| VmExit::MmioWrite { address: GuestAddress(address), size, value };
    assert_eq!(access.exit(&page), Some(write(0xd000_0001, AccessSize::Half, 0x2211)));
    access.answer(VmEntry::Run, &page);
    assert_eq!(access.exit(&page), Some(write(0xd000_0003, AccessSize::Byte, 0x33)));
    access.answer(VmEntry::Run, &page);
    assert_eq!(access.exit(&page), None);
}
