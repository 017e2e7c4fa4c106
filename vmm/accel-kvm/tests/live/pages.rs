//! Pages that are missing while KVM needs them: waited for in the kernel, and kicked out of there.

use crate::code;
use crate::guest::{DATA, DATA_PAGES, Guest, at, is_call, kick_after, ram, run};
use crate::host::{host, skip};
use accel::{Vcpu, VmEntry, VmExit};
use accel_kvm::KvmOptions;
use kvm_bindings::kvm_regs;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use umem_fault::{FaultPlane, PageRequester, Placement};
use umem_memory::{Backend, PageBitmap, PageIndex, PageRange};

#[derive(Default)]
struct Asked(Mutex<Vec<PageIndex>>);

impl PageRequester for Asked {
    fn request(&self, pages: &[PageIndex]) {
        self.0.lock().unwrap().extend(pages);
    }
}

impl Asked {
    fn wait_for(&self, count: usize) -> Vec<PageIndex> {
        let began = Instant::now();
        loop {
            let pages = self.0.lock().unwrap().clone();
            if pages.len() >= count {
                return pages;
            }
            assert!(began.elapsed() < Duration::from_secs(20), "asked for {pages:?}");
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

#[test]
fn a_kick_ends_a_wait_for_a_page() {
    let Some(host) = host("kick in a wait for a page") else { return };
    let ram = ram(&Backend::Anonymous);
    let first = PageIndex(DATA >> 12);
    let data = PageRange::new(first, DATA_PAGES);
    let present = PageBitmap::new(ram.layout().total_pages());
    present.set(PageRange::new(PageIndex(0), first.0));
    ram.populate().unwrap();
    ram.drop_pages(data).unwrap();
    let plane = match FaultPlane::for_ram_keeping(&ram, &present, Placement::default()) {
        Ok(plane) if !plane.user_mode_only() => plane,
        Ok(_) => return skip("kick in a wait for a page", "userfaultfd for user mode only"),
        Err(error) => return skip("kick in a wait for a page", &error.to_string()),
    };
    let asked = Arc::new(Asked::default());
    plane.set_requester(asked.clone());
    plane.start_reader().unwrap();
    let mut guest = Guest::with(&host, 1, &KvmOptions::default(), ram.clone());
    let registers = kvm_regs { rdi: DATA, rbx: 3, ..at(code::u_read()) };
    guest.begin(true, &registers);
    let vcpu = &mut guest.vcpus[0];
    for _ in 0..3 {
        let kick = kick_after(vcpu.handle(), Duration::from_millis(20));
        assert_eq!(vcpu.run(VmEntry::Run), VmExit::Kicked);
        eprintln!("out {:?} after the kick", kick.join().unwrap().elapsed());
        assert_eq!(asked.wait_for(1)[0], first);
        assert_eq!(vcpu.general_registers().unwrap().rip, code::u_read(), "not executed");
        vcpu.save().unwrap();
    }
    // All three come, each with its number.
    let waiter = std::thread::spawn(move || {
        for page in 0..3u64 {
            let mut bytes = vec![0; 4096];
            bytes[..8].copy_from_slice(&(page + 1).to_le_bytes());
            std::thread::sleep(Duration::from_millis(5));
            plane.install(PageRange::one(PageIndex(first.0 + page)), &bytes).unwrap();
        }
        plane
    });
    assert!(is_call(run(vcpu)));
    assert_eq!(vcpu.general_registers().unwrap().r14, 6);
    waiter.join().unwrap().close();
}
