//! What the guest is told of its processor.

use crate::code;
use crate::guest::{Guest, at, is_call, ram, run};
use crate::host::host;
use accel::{Vcpu, VcpuHandle};
use accel_kvm::{CpuOptions, Host, KvmError, KvmOptions, KvmVm};
use kvm_bindings::kvm_regs;
use umem_memory::Backend;

fn options(disabled: &[&str], async_page_faults: bool) -> KvmOptions {
    let disabled = disabled.iter().map(|&name| name.to_owned()).collect();
    KvmOptions { cpu: CpuOptions { async_page_faults, disabled }, ..KvmOptions::default() }
}

fn guest(host: &Host, vcpus: u32, options: &KvmOptions) -> Guest {
    Guest::with(host, vcpus, options, ram(&Backend::Anonymous))
}

/// CPUID as a vCPU executes it in the kernel.
fn cpuid(guest: &mut Guest, number: usize, leaf: u32, index: u32) -> [u64; 4] {
    let registers = kvm_regs { rax: leaf.into(), rcx: index.into(), ..at(code::k_cpuid()) };
    let vcpu = &mut guest.vcpus[number];
    crate::guest::begin(vcpu, false, &registers);
    assert!(is_call(run(vcpu)));
    let kvm_regs { rax, rbx, rcx, rdx, .. } = vcpu.general_registers().unwrap();
    [rax, rbx, rcx, rdx]
}

#[test]
fn vcpus_have_numbers_and_know_how_many_they_are() {
    let Some(host) = host("topology") else { return };
    let mut guest = guest(&host, 3, &KvmOptions::default());
    for number in 0..3 {
        let [_, ebx, ecx, edx] = cpuid(&mut guest, number, 1, 0);
        assert_eq!((ebx >> 24, ebx >> 16 & 0xff), (number as u64, 3), "vCPU {number}");
        assert_eq!((ecx >> 31, edx >> 28 & 1), (1, 1), "hypervisor, several");
        let [eax, ebx, ecx, edx] = cpuid(&mut guest, number, 0xb, 1);
        assert_eq!([eax, ebx, ecx, edx], [2, 3, 0x201, number as u64]);
    }
    let [last, ebx, ..] = cpuid(&mut guest, 0, 0x4000_0000, 0);
    assert_eq!((last, ebx), (0x4000_0010, 0x4b4d_564b), "KVMK");
    let [khz, bus, ..] = cpuid(&mut guest, 0, 0x4000_0010, 0);
    assert_eq!((khz, bus), (host.capabilities().tsc_khz.into(), 1_000_000));
}

#[test]
fn what_is_disabled_is_neither_told_nor_needed() {
    let Some(host) = host("disabled features") else { return };
    let needs = |vm: &KvmVm, name: &str| vm.processor().iter().any(|word| word == name);
    let all = guest(&host, 1, &KvmOptions::default());
    assert!(needs(&all.vm, "x2apic") && needs(&all.vm, "hypervisor"), "{:?}", all.vm.processor());
    let mut less = guest(&host, 1, &options(&["x2apic", "KVM-pv-ipi"], false));
    let [_, _, ecx, _] = cpuid(&mut less, 0, 1, 0);
    assert_eq!(ecx & 1 << 21, 0);
    let [features, ..] = cpuid(&mut less, 0, 0x4000_0001, 0);
    assert_eq!(features & (1 << 4 | 1 << 10 | 1 << 11 | 1 << 14), 0);
    for gone in ["x2apic", "kvm_asyncpf", "kvm_pv_ipi", "arch_capabilities"] {
        assert!(!needs(&less.vm, gone), "{gone}");
    }
    assert_eq!(all.vm.admits(&less.vm.processor()), Ok(()));
    let text = less.vm.admits(&all.vm.processor()).unwrap_err();
    assert!(text.contains("x2apic") && text.contains("kvm_pv_ipi"), "{text}");
    let text = all.vm.admits(&["warp_drive".to_owned(), "tsc-khz=17".to_owned()]).unwrap_err();
    assert!(text.contains("warp_drive") && text.contains("17 kHz"), "{text}");
}

#[test]
fn a_vm_that_cannot_be_says_why() {
    let Some(host) = host("options") else { return };
    let new = |vcpus, options| KvmVm::new(&host, ram(&Backend::Anonymous), vcpus, &options);
    let error = new(1, options(&["avx512x"], true)).unwrap_err();
    assert!(matches!(error, KvmError::Feature { .. }), "{error}");
    assert!(error.to_string().contains("avx512f"), "{error}");
    for vcpus in [0, 256] {
        let error = new(vcpus, KvmOptions::default()).unwrap_err();
        assert!(matches!(error, KvmError::Vcpus { .. }), "{error}");
    }
    let vm = new(1, KvmOptions::default()).unwrap();
    assert!(vm.vcpu(1, VcpuHandle::new()).is_err());
    let _first = vm.vcpu(0, VcpuHandle::new()).unwrap();
    assert!(vm.vcpu(0, VcpuHandle::new()).is_err(), "taken");
}

/// A guest from a host with another processor brings what it was told, as long as nothing has run.
#[test]
fn a_guest_brings_its_processor() {
    let Some(host) = host("processor that moves") else { return };
    let mut source = guest(&host, 1, &options(&["x2apic"], false));
    assert_eq!(cpuid(&mut source, 0, 1, 0)[2] >> 21 & 1, 0);
    crate::guest::settle(&mut source.vcpus[0]);
    source.vcpus[0].stop_clock().unwrap();
    let state = source.vcpus[0].save().unwrap();
    let mut target = guest(&host, 1, &KvmOptions::default());
    assert_ne!(target.vm.processor(), source.vm.processor());
    target.vcpus[0].restore(&state).unwrap();
    assert_eq!(target.vm.processor(), source.vm.processor(), "for the next move");
    target.vcpus[0].reset().unwrap();
    assert_eq!(cpuid(&mut target, 0, 1, 0)[2] >> 21 & 1, 0, "a reset changes no processor");
    assert!(target.vcpus[0].restore(&state).is_ok(), "of the same kind");
    let mut other = guest(&host, 1, &KvmOptions::default());
    let _ = cpuid(&mut other, 0, 1, 0);
    let before = other.vcpus[0].save();
    assert!(before.is_err(), "within an access");
    let error = other.vcpus[0].restore(&state).unwrap_err().to_string();
    assert!(error.contains("has run with another CPUID (leaf 0x1.0"), "{error}");
}
