//! On the real `/dev/kvm`: a guest of a few bytes in real mode.
//! Its ports are none of those that the kernel itself answers, as the timer's (0x61).
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]
#![allow(clippy::unwrap_used)]

use accel_kvm::{Host, KvmExit, KvmVcpu, KvmVm};
use std::io::Write;
use std::sync::Arc;
use umem_memory::{
    Backend, DirtyError, DirtyLog, DirtySource, GuestAddress, GuestRam, PageBitmap, PageSize,
    RamBlockSpec, RamLayout,
};

const PAGE: u64 = PageSize::SMALL.bytes();
const CODE: u64 = 0x1000;
const PAGES: u64 = 256;

/// KVM, or a line in the list of what was skipped.
fn host(test: &str) -> Option<Host> {
    match Host::open() {
        Ok(host) => Some(host),
        Err(error) => {
            let line = format!("accel-kvm {test}: {error}");
            eprintln!("skipped: {line}");
            if let Some(path) = std::env::var_os("UMEM_SKIP_LOG") {
                let mut log =
                    std::fs::OpenOptions::new().create(true).append(true).open(path).unwrap();
                writeln!(log, "{line}").unwrap();
            }
            None
        }
    }
}

/// A VM of two blocks, with this code about to run.
fn guest(host: &Host, code: &[u8]) -> (KvmVm, KvmVcpu, GuestRam) {
    let block = |name: &str, address, pages| RamBlockSpec {
        name: name.into(),
        guest_address: GuestAddress(address),
        bytes: pages * PAGE,
    };
    let blocks = vec![block("low", 0, 128), block("high", 0x8_8000, PAGES - 128)];
    let ram = GuestRam::new(RamLayout::new(PageSize::SMALL, blocks).unwrap(), &Backend::Anonymous)
        .unwrap();
    ram.write_at(GuestAddress(CODE), code).unwrap();
    let vm = KvmVm::new(host, ram.clone()).unwrap();
    let vcpu = vm.vcpu(0).unwrap();
    let mut special = vcpu.special_registers().unwrap();
    (special.cs.base, special.cs.selector) = (0, 0);
    vcpu.set_special_registers(&special).unwrap();
    let mut registers = vcpu.registers().unwrap();
    (registers.rip, registers.rflags) = (CODE, 2);
    vcpu.set_registers(&registers).unwrap();
    (vm, vcpu, ram)
}

fn run(vcpu: &mut KvmVcpu) -> KvmExit {
    vcpu.run(|_, bytes| bytes.fill(0x5a))
}

#[test]
fn ports_and_addresses_outside_ram_come_out() {
    let Some(host) = host("exits") else { return };
    // in al, 0x60; out 0xe9, al; mov [0x8_4000], al (between the blocks); mov al, that; out 0xea, al
    let code = [
        0xe4, 0x60, 0xe6, 0xe9, 0xb8, 0x00, 0x84, 0x8e, 0xd8, 0xb0, 0x77, 0xa2, 0x00, 0x00, 0xa0,
        0x00, 0x00, 0xe6, 0xea,
    ];
    let (_vm, mut vcpu, _ram) = guest(&host, &code);
    let written = |port, byte| KvmExit::PortWrite { port, bytes: vec![byte] };
    assert_eq!(run(&mut vcpu), KvmExit::PortRead { port: 0x60, bytes: 1 });
    assert_eq!(run(&mut vcpu), written(0xe9, 0x5a), "what was answered is what was read");
    let address = GuestAddress(0x8_4000);
    assert_eq!(run(&mut vcpu), KvmExit::MmioWrite { address, bytes: vec![0x77] });
    assert_eq!(run(&mut vcpu), KvmExit::MmioRead { address, bytes: 1 });
    assert_eq!(run(&mut vcpu), written(0xea, 0x5a));
}

#[test]
fn an_exit_that_is_asked_for_comes_before_the_next_instruction() {
    let Some(host) = host("kick") else { return };
    let (_vm, mut vcpu, _ram) = guest(&host, &[0xe6, 0xe9]); // out 0xe9, al
    vcpu.set_immediate_exit(true);
    assert_eq!(run(&mut vcpu), KvmExit::Kicked);
    assert_eq!(vcpu.registers().unwrap().rip, CODE);
    vcpu.set_immediate_exit(false);
    assert!(matches!(run(&mut vcpu), KvmExit::PortWrite { port: 0xe9, .. }));
}

#[test]
fn the_log_has_the_pages_that_the_guest_and_this_process_wrote() {
    let Some(host) = host("dirty log") else { return };
    // again: mov ax, bx; mov ds, ax; mov [0], al; out 0xe9, al; jmp again
    let code = [0x89, 0xd8, 0x8e, 0xd8, 0xa2, 0x00, 0x00, 0xe6, 0xe9, 0xeb, 0xf5];
    let (vm, mut vcpu, ram) = guest(&host, &code);
    let writes = Arc::new(vm.writes());
    let log = DirtyLog::new(PAGES, vec![writes.clone(), Arc::new(ram.host_writes())]);
    assert!(matches!(log.collect(&PageBitmap::new(PAGES)), Err(DirtyError::Off(_))));
    let mut store = |address: u64| {
        let mut registers = vcpu.registers().unwrap();
        registers.rbx = address >> 4;
        vcpu.set_registers(&registers).unwrap();
        assert!(matches!(run(&mut vcpu), KvmExit::PortWrite { port: 0xe9, .. }));
    };
    let collected = || {
        let into = PageBitmap::new(PAGES);
        let added = log.collect(&into).unwrap();
        let pages: Vec<u64> = into.runs().flat_map(|run| run.pages()).map(|page| page.0).collect();
        assert_eq!(added, pages.len() as u64);
        pages
    };
    store(7 * PAGE);
    log.start().unwrap();
    assert!(matches!(log.start(), Err(DirtyError::On(_))));
    assert_eq!(collected(), [0u64; 0], "before the start");
    store(7 * PAGE);
    store(0x8_8000 + 3 * PAGE);
    ram.write_at(GuestAddress(9 * PAGE), &[1]).unwrap();
    assert_eq!(collected(), [7, 9, 131]);
    assert_eq!(collected(), [0u64; 0], "each is told once");
    store(7 * PAGE);
    assert_eq!(collected(), [7], "protected again when it was collected");
    log.stop();
    store(8 * PAGE);
    log.start().unwrap();
    assert_eq!(collected(), [0u64; 0], "what came while it was off");
}
