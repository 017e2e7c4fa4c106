//! Pages that never come, links that break, and the end.

use super::*;

#[test]
fn a_page_that_the_source_cannot_read_fails_for_whoever_touches_it() {
    for backend in &[Backend::Anonymous, Backend::Memfd] {
        let ram = ram(backend);
        let plane = FaultPlane::for_ram(&ram).unwrap();
        let requests = notes(&plane);
        plane.start_reader().unwrap();
        let page = PageIndex(42);
        let has_poison = plane.uffd().unwrap().features().contains(Features::POISON);
        thread::scope(|scope| {
            let vcpu = scope.spawn(|| plane.resolve(page, FaultCause::Vcpu, &Interrupt::new()));
            assert_eq!(requests.recv().unwrap(), [page]);
            let device = has_poison.then(|| scope.spawn(|| kernel_reads(&ram, page)));
            let done = plane.install_unreadable(PageRange::one(page)).unwrap();
            assert_eq!(done, Installed { installed: 1, duplicate: 0 });
            assert_eq!(vcpu.join().unwrap(), Waited::Poisoned);
            if let Some(device) = device {
                assert_eq!(device.join().unwrap(), Err(libc::EFAULT));
            }
        });
        assert_eq!(plane.table().counts().poisoned, 1);
        // Late bytes do not bring it back.
        assert_eq!(plane.install(PageRange::one(page), &content(page)).unwrap().installed, 0);
        assert_eq!(plane.resolve(page, FaultCause::Device, &Interrupt::new()), Waited::Poisoned);
        for rest in [PageRange::new(PageIndex(0), 100), PageRange::new(PageIndex(100), 156)] {
            plane.install_fill(rest, 1).unwrap();
        }
        plane.release().unwrap();
        if has_poison {
            assert_eq!(kernel_reads(&ram, page), Err(libc::EFAULT), "released, it fails still");
        }
    }
}

#[test]
fn closing_lets_everybody_go() {
    let ram = ram(&Backend::Anonymous);
    let plane = FaultPlane::for_ram(&ram).unwrap();
    let requests = notes(&plane);
    plane.start_reader().unwrap();
    let interrupt = Interrupt::new();
    thread::scope(|scope| {
        let at_table = scope.spawn(|| plane.resolve(PageIndex(1), FaultCause::Vcpu, &interrupt));
        let touches = scope.spawn(|| touch(&ram, PageIndex(2)));
        // For an ordinary user the kernel does not wait.
        let waits = !plane.user_mode_only();
        let in_kernel = waits.then(|| scope.spawn(|| kernel_reads(&ram, PageIndex(3))));
        let in_all = if waits { 3 } else { 2 };
        let mut asked = Vec::new();
        while asked.len() < in_all {
            asked.extend(requests.recv().unwrap());
        }
        until("they wait in the kernel", || held_in_all(&plane) == in_all as u64 - 1);
        plane.close();
        assert_eq!(at_table.join().unwrap(), Waited::Interrupted);
        touches.join().unwrap();
        if let Some(in_kernel) = in_kernel {
            in_kernel.join().unwrap().unwrap();
        }
    });
    let after = plane.resolve(PageIndex(4), FaultCause::Vcpu, &interrupt);
    assert_eq!(after, Waited::Interrupted);
    let install = plane.install(PageRange::one(PageIndex(1)), &content(PageIndex(1)));
    assert!(matches!(install, Err(FaultError::Closed)));
    plane.close();
}

#[test]
fn an_interrupted_wait_leaves_the_page_to_be_asked_for_on_a_new_link() {
    let ram = ram(&Backend::Anonymous);
    let plane = FaultPlane::for_ram(&ram).unwrap();
    let lost = notes(&plane);
    let interrupt = Interrupt::new();
    let page = PageIndex(200);
    thread::scope(|scope| {
        let vcpu = scope.spawn(|| plane.resolve(page, FaultCause::Vcpu, &interrupt));
        assert_eq!(lost.recv().unwrap(), [page]);
        interrupt.raise();
        assert_eq!(vcpu.join().unwrap(), Waited::Interrupted);
        assert!(plane.waiting().is_empty());
        interrupt.clear();
        let again = scope.spawn(|| plane.resolve(page, FaultCause::Vcpu, &interrupt));
        assert_eq!(plane.reopen_requests(), [page]);
        plane.install(PageRange::one(page), &content(page)).unwrap();
        assert_eq!(again.join().unwrap(), Waited::Present);
    });
    assert!(plane.reopen_requests().is_empty());
}

#[test]
fn a_page_that_was_touched_behind_the_table_is_corruption() {
    let ram = ram(&Backend::Anonymous);
    let plane = FaultPlane::for_ram(&ram).unwrap();
    let behind = PageIndex(12);
    let address = ram.host_address(behind).unwrap().as_ptr().addr() as u64;
    plane.uffd().unwrap().zero(address, PAGE).unwrap();
    let range = PageRange::new(PageIndex(10), 5);
    let bytes: Vec<u8> = range.pages().flat_map(content).collect();
    let error = plane.install(range, &bytes).unwrap_err();
    assert!(matches!(error, FaultError::Corrupt { page } if page == behind), "{error}");
    assert_eq!(plane.table().state(PageIndex(11)), PageState::Present);
    for page in [12, 13, 14].map(PageIndex) {
        assert_eq!(plane.table().state(page), PageState::Requested, "{page} is not passed off");
    }
    assert_eq!(plane.table().counts().present, 2);
}

#[test]
fn a_dropped_plane_takes_its_reader_along() {
    let ram = ram(&Backend::Anonymous);
    let plane = FaultPlane::for_ram(&ram).unwrap();
    plane.start_reader().unwrap();
    let uffd = Arc::downgrade(&plane.uffd().unwrap());
    drop(plane);
    until("the reader lets the userfaultfd go", || uffd.strong_count() == 0);
}

#[test]
fn a_plane_that_is_of_no_more_use_keeps_nobody() {
    struct Knows {
        _plane: Arc<FaultPlane>,
    }
    impl PageRequester for Knows {
        fn request(&self, _pages: &[PageIndex]) {}
    }
    for release in [true, false] {
        let ram = ram(&Backend::Anonymous);
        let plane = FaultPlane::for_ram(&ram).unwrap();
        plane.set_requester(Arc::new(Knows { _plane: plane.clone() }));
        if release {
            plane.install_fill(PageRange::new(PageIndex(0), 100), 0).unwrap();
            plane.install_fill(PageRange::new(PageIndex(100), PAGES - 100), 0).unwrap();
            plane.release().unwrap();
        } else {
            plane.close();
        }
        assert_eq!(Arc::strong_count(&plane), 1);
    }
}
