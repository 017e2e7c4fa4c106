//! A machine of KVM's parts and the transmitter and receiver of a serial port.
#![allow(unsafe_code)]

use crate::load::Start;
use crate::map::{COM1, KVM_IDENTITY_MAP, KVM_TSS, SLEEP_CONTROL, SLEEP_TYPE_OFF};
use crate::registers::{registers, special_registers};
use crate::testing::skipped;
use kvm_bindings::{
    KVM_MAX_CPUID_ENTRIES, KVM_PIT_SPEAKER_DUMMY, kvm_pit_config, kvm_userspace_memory_region,
};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd, VmFd};
use std::collections::VecDeque;
use std::io::ErrorKind;
use std::time::{Duration, Instant};
use umem_memory::GuestRam;

const LINE_STATUS: u16 = COM1 + 5;
const TRANSMITTER_EMPTY: u8 = 0x60;
const DATA_READY: u8 = 1;
const OFF: u8 = SLEEP_TYPE_OFF << 2 | 1 << 5;

/// KVM, or a line in the list of what was skipped.
pub(super) fn kvm(test: &str) -> Option<Kvm> {
    Kvm::new().map_err(|error| skipped(&format!("{test}: cannot open /dev/kvm: {error}"))).ok()
}

pub(super) struct Machine {
    vcpu: VcpuFd,
    _vm: VmFd,
    pub(super) input: VecDeque<u8>,
    output: Vec<u8>,
    pub(super) turned_off: bool,
}

impl Machine {
    /// The other processors run on threads of their own, which end with the process.
    pub(super) fn new(kvm: &Kvm, ram: GuestRam, processors: u8, start: &Start) -> Self {
        let vm = kvm.create_vm().unwrap();
        vm.set_identity_map_address(KVM_IDENTITY_MAP).unwrap();
        vm.set_tss_address(KVM_TSS as usize).unwrap();
        vm.create_irq_chip().unwrap();
        let flags = KVM_PIT_SPEAKER_DUMMY;
        vm.create_pit2(kvm_pit_config { flags, ..Default::default() }).unwrap();
        for (slot, block) in (0..).zip(ram.layout().blocks()) {
            let region = kvm_userspace_memory_region {
                slot,
                flags: 0,
                guest_phys_addr: block.guest_address.0,
                memory_size: block.bytes(),
                userspace_addr: ram.host_address(block.first_page).unwrap().as_ptr() as u64,
            };
            // SAFETY: the range is one whole block of RAM, which is never unmapped: a clone of it is
            // forgotten below. Nobody holds references into it.
            unsafe { vm.set_user_memory_region(region) }.unwrap();
        }
        std::mem::forget(ram);
        let cpuid = kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).unwrap();
        let vcpu = |number: u8| {
            let vcpu = vm.create_vcpu(number.into()).unwrap();
            let mut own = cpuid.clone();
            for entry in own.as_mut_slice().iter_mut().filter(|entry| entry.function == 1) {
                entry.ebx = entry.ebx & 0x00ff_ffff | u32::from(number) << 24;
            }
            vcpu.set_cpuid2(&own).unwrap();
            vcpu
        };
        let first = vcpu(0);
        let special = special_registers(start, &first.get_sregs().unwrap());
        first.set_sregs(&special).unwrap();
        first.set_regs(&registers(start)).unwrap();
        for mut other in (1..processors).map(vcpu) {
            // While it waits to be started, what wakes it up comes out as EAGAIN.
            std::thread::spawn(move || {
                loop {
                    match other.run().map_err(|error| std::io::Error::from(error).kind()) {
                        Ok(_) | Err(ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
                        Err(error) => panic!("{error}"),
                    }
                }
            });
        }
        let (input, output) = (VecDeque::new(), Vec::new());
        Self { vcpu: first, _vm: vm, input, output, turned_off: false }
    }

    /// Runs the first processor until what it has printed is enough, or it turns the machine off or
    /// does what only a broken guest does. What it has printed.
    pub(super) fn run_until(&mut self, enough: impl Fn(&str) -> bool) -> String {
        let end = Instant::now() + Duration::from_secs(1800);
        loop {
            let printed = String::from_utf8_lossy(&self.output).into_owned();
            if self.turned_off || enough(&printed) {
                return printed;
            }
            assert!(Instant::now() < end, "{printed}");
            match self.vcpu.run().unwrap() {
                VcpuExit::IoOut(COM1, bytes) => self.output.extend(bytes),
                VcpuExit::IoOut(SLEEP_CONTROL, &[OFF]) => self.turned_off = true,
                VcpuExit::IoOut(..) | VcpuExit::MmioWrite(..) => {}
                VcpuExit::IoIn(LINE_STATUS, bytes) => {
                    let ready = if self.input.is_empty() { 0 } else { DATA_READY };
                    bytes.fill(TRANSMITTER_EMPTY | ready);
                }
                VcpuExit::IoIn(COM1, bytes) => {
                    bytes.fill(self.input.pop_front().unwrap_or_default());
                }
                VcpuExit::IoIn(_, bytes) | VcpuExit::MmioRead(_, bytes) => bytes.fill(0xff),
                other => {
                    let other = format!("{other:?}");
                    panic!("{other}, {:x?}, after {printed}", self.vcpu.get_regs().unwrap());
                }
            }
        }
    }
}
