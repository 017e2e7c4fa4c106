//! What is asked for, and how pages come.

use super::*;

#[test]
fn faults_that_wait_together_go_out_in_one_request() {
    let ram = ram(&Backend::Anonymous);
    let plane = FaultPlane::for_ram(&ram).unwrap();
    let requests = notes(&plane);
    thread::scope(|scope| {
        for page in (10..26).map(PageIndex) {
            let ram = &ram;
            scope.spawn(move || assert!(touch(ram, page) == content(page)));
        }
        until("16 threads wait", || held(&plane) == 16);
        plane.start_reader().unwrap();
        let mut asked = requests.recv().unwrap();
        asked.sort_unstable();
        assert_eq!(asked, (10..26).map(PageIndex).collect::<Vec<_>>());
        assert_eq!(plane.table().counts().requested, 16);
        let mut waiting = plane.waiting();
        waiting.sort_unstable();
        assert_eq!(waiting, asked);
        let range = PageRange::new(PageIndex(5), 30);
        let bytes: Vec<u8> = range.pages().flat_map(content).collect();
        plane.install(range, &bytes).unwrap();
    });
    assert!(requests.try_recv().is_err());
    assert_eq!((plane.stats().userfault, plane.waiting().len()), (16, 0));
}

#[test]
fn threads_that_look_at_the_table_ask_once_for_all_they_need() {
    let ram = ram(&Backend::Anonymous);
    let plane = FaultPlane::for_ram(&ram).unwrap();
    let requests = notes(&plane);
    let pages = [3, 50, 120].map(PageIndex);
    plane.install(PageRange::one(pages[1]), &content(pages[1])).unwrap();
    thread::scope(|scope| {
        let device =
            scope.spawn(|| plane.resolve_all(&pages, FaultCause::Device, &Interrupt::new()));
        assert_eq!(requests.recv().unwrap(), [pages[0], pages[2]]);
        let vcpu = scope.spawn(|| plane.resolve(pages[0], FaultCause::Vcpu, &Interrupt::new()));
        until("both wait", || plane.waiting().contains(&pages[0]));
        for page in [pages[0], pages[2]] {
            plane.install(PageRange::one(page), &content(page)).unwrap();
        }
        assert_eq!(device.join().unwrap(), Waited::Present);
        assert_eq!(vcpu.join().unwrap(), Waited::Present);
    });
    assert!(requests.try_recv().is_err());
    assert!(plane.stats().device == 1 && plane.stats().vcpu <= 1);
    assert_eq!(plane.resolve(pages[0], FaultCause::Vcpu, &Interrupt::new()), Waited::Present);
}

#[test]
fn fills_are_of_their_byte_and_pages_already_there_stay() {
    for backend in &[Backend::Anonymous, Backend::Memfd] {
        let ram = ram(backend);
        let plane = FaultPlane::for_ram(&ram).unwrap();
        let five = PageIndex(5);
        plane.install(PageRange::one(five), &content(five)).unwrap();
        let zeroes = plane.install_fill(PageRange::new(PageIndex(0), 10), 0).unwrap();
        assert_eq!(zeroes, Installed { installed: 9, duplicate: 1 });
        let ones = plane.install_fill(PageRange::new(PageIndex(100), 156), 0xa5).unwrap();
        assert_eq!(ones, Installed { installed: 156, duplicate: 0 });
        assert!(touch(&ram, five) == content(five));
        for (page, byte) in [(0, 0), (9, 0), (100, 0xa5), (177, 0xa5), (255, 0xa5)] {
            assert!(touch(&ram, PageIndex(page)) == [byte; PAGE as usize], "page {page}");
        }
        ram.write_at(GuestAddress(BASE), &[1]).unwrap();
        assert!(matches!(plane.release(), Err(FaultError::Missing(90))));
    }
}

#[test]
fn a_discarded_page_is_zero_at_once_and_asks_nobody() {
    let ram = ram(&Backend::Anonymous);
    let plane = FaultPlane::for_ram(&ram).unwrap();
    let requests = notes(&plane);
    plane.start_reader().unwrap();
    let pages = [8, 9].map(PageIndex);
    for page in pages {
        assert!(plane.table().discard(page));
    }
    let late = plane.install(PageRange::one(pages[0]), &content(pages[0])).unwrap();
    assert_eq!(late, Installed { installed: 0, duplicate: 1 });
    assert_eq!(plane.resolve(pages[0], FaultCause::Vcpu, &Interrupt::new()), Waited::Present);
    for page in pages {
        assert!(touch(&ram, page) == [0; PAGE as usize]);
    }
    // The kernel lets the toucher go a moment before the table knows.
    until("both count as present", || plane.table().counts().present == 2);
    assert!(requests.try_recv().is_err());
}

#[test]
fn a_plane_of_a_received_userfaultfd_never_looks_at_the_memory() {
    let ram = ram(&Backend::Anonymous);
    let owner = FaultPlane::for_ram(&ram).unwrap();
    let fd = rustix::io::fcntl_dupfd_cloexec(owner.uffd().unwrap().as_fd(), 0).unwrap();
    let region = |first: u64, count| ForeignRegion {
        host_address: ram.host_address(PageIndex(first)).unwrap().as_ptr().addr() as u64,
        pages: PageRange::new(PageIndex(first), count),
    };
    let regions = [region(100, PAGES - 100), region(0, 100)];
    let plane = FaultPlane::from_received(fd, Features::WANTED, &regions, PageSize::SMALL).unwrap();
    assert!(run_guest(&plane, &ram, 2) > 0);
}

#[test]
fn what_a_peer_gets_wrong_is_refused_before_the_kernel_sees_it() {
    let ram = ram(&Backend::Anonymous);
    let plane = FaultPlane::for_ram(&ram).unwrap();
    let range = PageRange::new;
    let bytes = vec![1; 2 * PAGE as usize];
    for bad in [range(PageIndex(99), 2), range(PageIndex(PAGES - 1), 2)] {
        assert!(matches!(plane.install(bad, &bytes), Err(FaultError::NoPages(_))));
    }
    let far = range(PageIndex(u64::MAX), u64::MAX);
    assert!(matches!(plane.install_fill(far, 0), Err(FaultError::NoPages(_))));
    assert!(plane.install_fill(range(PageIndex(0), 0), 0).is_err());
    let short = plane.install(range(PageIndex(0), 3), &bytes);
    assert!(matches!(short, Err(FaultError::Length { .. })));
    assert_eq!(plane.table().counts().missing(), PAGES);
}
