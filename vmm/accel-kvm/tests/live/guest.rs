//! A guest: RAM with page tables, descriptors and the code, a VM on it, and vCPUs about to run.

use crate::code;
use accel::{Vcpu, VcpuHandle, VmEntry, VmExit};
use accel_kvm::{Host, KvmOptions, KvmVcpu, KvmVm};
use kvm_bindings::{kvm_dtable, kvm_regs, kvm_segment, kvm_sregs};
use std::time::{Duration, Instant};
use umem_memory::{Backend, GuestAddress, GuestRam, PageSize, RamBlockSpec, RamLayout};

pub(crate) const PAGE: u64 = PageSize::SMALL.bytes();
/// Where programs have their data, and how many pages it has.
pub(crate) const DATA: u64 = 8 << 20;
pub(crate) const DATA_PAGES: u64 = 2048;
/// RAM ends here; devices may lie behind it.
const RAM: u64 = DATA + DATA_PAGES * PAGE;

const DESCRIPTORS: u64 = 0x8000;
const INTERRUPTS: u64 = 0x9000;
const TASK: u64 = 0xa000;
pub(crate) const KERNEL_STACK: u64 = 0x9_0000;
/// What lies between those of two vCPUs.
const TASK_BYTES: u64 = 0x80;
const STACK_BYTES: u64 = 4 * PAGE;
/// Each vector has 8 bytes of code here that say it at port 0xee.
const STUBS: u64 = 0x2_0000;

pub(crate) struct Guest {
    pub(crate) vm: KvmVm,
    pub(crate) vcpus: Vec<KvmVcpu>,
    pub(crate) ram: GuestRam,
}

/// RAM of two blocks without a gap, all of what a guest needs in the first.
pub(crate) fn ram(backend: &Backend) -> GuestRam {
    ram_to(RAM, backend)
}

/// As [`ram`], that ends elsewhere.
pub(crate) fn ram_to(end: u64, backend: &Backend) -> GuestRam {
    let block = |name: &str, address, bytes| RamBlockSpec {
        name: name.into(),
        guest_address: GuestAddress(address),
        bytes,
    };
    let blocks = vec![block("low", 0, DATA), block("high", DATA, end - DATA)];
    let ram = GuestRam::new(RamLayout::new(PageSize::SMALL, blocks).unwrap(), backend).unwrap();
    load(&ram);
    ram
}

fn put(ram: &GuestRam, address: u64, value: u64) {
    ram.write_at(GuestAddress(address), &value.to_le_bytes()).unwrap();
}

pub(crate) fn get(ram: &GuestRam, address: u64) -> u64 {
    let mut bytes = [0; 8];
    ram.read_at(GuestAddress(address), &mut bytes).unwrap();
    u64::from_le_bytes(bytes)
}

fn load(ram: &GuestRam) {
    // 4 GiB, each address at itself, in pages of 2 MiB that programs may use.
    put(ram, 0x1000, 0x2000 | 7);
    for directory in 0..4 {
        put(ram, 0x2000 + directory * 8, (0x3000 + directory * PAGE) | 7);
    }
    for page in 0..4 * 512u64 {
        put(ram, 0x3000 + page * 8, page << 21 | 0x87);
    }
    for (at, descriptor) in [
        0,
        0,
        0x00af_9b00_0000_ffff, // 0x10: code of the kernel
        0x00cf_9300_0000_ffff, // 0x18: its data
        0,
        0x00cf_f300_0000_ffff, // 0x2b: data of programs
        0x00af_fb00_0000_ffff, // 0x33: their code
        0x0000_8b00_0000_0067 | TASK << 16,
        0,
    ]
    .into_iter()
    .enumerate()
    {
        put(ram, DESCRIPTORS + 8 * at as u64, descriptor);
    }
    for vcpu in 0..4 {
        put(ram, TASK + vcpu * TASK_BYTES + 4, KERNEL_STACK + vcpu * STACK_BYTES);
    }
    for vector in 0..256u64 {
        // mov al, vector; out 0xee, al; hlt
        put(ram, STUBS + 8 * vector, 0xf4_eee6_00b0 | vector << 8);
        let entry = match vector {
            13 => code::k_call(),
            0x21 => code::k_tick(),
            _ => STUBS + 8 * vector,
        };
        let gate = entry & 0xffff | 0x10 << 16 | 0x8e00 << 32 | (entry >> 16 & 0xffff) << 48;
        put(ram, INTERRUPTS + 16 * vector, gate);
        put(ram, INTERRUPTS + 16 * vector + 8, entry >> 32);
    }
    ram.write_at(GuestAddress(code::CODE), code::image()).unwrap();
}

fn segment(selector: u16, type_: u8, dpl: u8, long: bool) -> kvm_segment {
    let (l, db) = if long { (1, 0) } else { (0, 1) };
    kvm_segment {
        limit: 0xffff_ffff,
        selector,
        type_,
        present: 1,
        dpl,
        db,
        s: 1,
        l,
        g: 1,
        ..Default::default()
    }
}

/// In long mode, in the kernel or in a program.
pub(crate) fn long_mode(reset: &kvm_sregs, program: bool) -> kvm_sregs {
    let mut special = *reset;
    // Paging, write protection, x87 errors by exception, protection.
    special.cr0 = 1 << 31 | 1 << 16 | 1 << 5 | 1 << 4 | 1 << 1 | 1;
    special.cr3 = 0x1000;
    // PAE, SSE, XSAVE.
    special.cr4 = 1 << 5 | 1 << 9 | 1 << 10 | 1 << 18;
    // SYSCALL, long mode wanted and active, no-execute.
    special.efer = 1 | 1 << 8 | 1 << 10 | 1 << 11;
    let (code, data, dpl) = if program { (0x33, 0x2b, 3) } else { (0x10, 0x18, 0) };
    special.cs = segment(code, 11, dpl, true);
    let data = segment(data, 3, dpl, false);
    (special.ds, special.es, special.fs, special.gs, special.ss) = (data, data, data, data, data);
    special.tr = kvm_segment {
        base: TASK,
        limit: 0x67,
        selector: 0x38,
        type_: 11,
        present: 1,
        ..Default::default()
    };
    special.gdt = kvm_dtable { base: DESCRIPTORS, limit: 9 * 8 - 1, padding: [0; 3] };
    special.idt = kvm_dtable { base: INTERRUPTS, limit: 0xfff, padding: [0; 3] };
    special
}

impl Guest {
    pub(crate) fn new(host: &Host, vcpus: u32) -> Self {
        Self::with(host, vcpus, &KvmOptions::default(), ram(&Backend::Anonymous))
    }

    pub(crate) fn with(host: &Host, vcpus: u32, options: &KvmOptions, ram: GuestRam) -> Self {
        let vm = KvmVm::new(host, ram.clone(), vcpus, options).unwrap();
        let make = |number| vm.vcpu(number, VcpuHandle::new()).unwrap();
        let vcpus = (0..vcpus).map(make).collect();
        Self { vm, vcpus, ram }
    }

    /// Has vCPU 0 begin a program (or, in the kernel, something else) with these registers.
    pub(crate) fn begin(&mut self, program: bool, registers: &kvm_regs) {
        begin(&mut self.vcpus[0], program, registers);
    }

    pub(crate) fn run(&mut self) -> VmExit {
        run(&mut self.vcpus[0])
    }
}

pub(crate) fn begin(vcpu: &mut KvmVcpu, program: bool, registers: &kvm_regs) {
    begin_as(0, vcpu, program, registers);
}

/// As [`begin`], with the stack of vCPU `number`, of which there are four.
pub(crate) fn begin_as(number: u64, vcpu: &mut KvmVcpu, program: bool, registers: &kvm_regs) {
    let stack = KERNEL_STACK + number * STACK_BYTES;
    let registers = kvm_regs {
        rflags: if program { 0x202 } else { 2 },
        rsp: if program { 0x8_0000 } else { stack },
        ..*registers
    };
    let special = |reset: &kvm_sregs| {
        let mut special = long_mode(reset, program);
        special.tr.base += number * TASK_BYTES;
        special
    };
    vcpu.start(&registers, special).unwrap();
}

pub(crate) fn at(rip: u64) -> kvm_regs {
    kvm_regs { rip, ..kvm_regs::default() }
}

/// Runs it; one that does not come out for long is a failure.
pub(crate) fn run(vcpu: &mut KvmVcpu) -> VmExit {
    const LONG: Duration = Duration::from_secs(20);
    let (done, wait) = std::sync::mpsc::channel::<()>();
    let handle = vcpu.handle();
    let watch = std::thread::spawn(move || {
        let late = wait.recv_timeout(LONG).is_err();
        if late {
            handle.kick();
        }
        late
    });
    let exit = vcpu.run(VmEntry::Run);
    let _ = done.send(());
    assert!(!watch.join().unwrap(), "it does not come out: {}", vcpu.registers());
    exit
}

/// The exit of a program that calls with this value.
pub(crate) fn is_call(exit: VmExit) -> bool {
    matches!(exit, VmExit::PortWrite { port: 0x30, .. })
}

/// Runs on until it is settled: what the machine does before it saves a vCPU.
pub(crate) fn settle(vcpu: &mut KvmVcpu) {
    vcpu.handle().kick();
    let exit = run(vcpu);
    assert_eq!(exit, VmExit::Kicked);
    assert!(vcpu.is_settled());
}

/// Kicks after a while; says when.
pub(crate) fn kick_after(handle: VcpuHandle, time: Duration) -> std::thread::JoinHandle<Instant> {
    std::thread::spawn(move || {
        std::thread::sleep(time);
        let at = Instant::now();
        handle.kick();
        at
    })
}
