//! Parts of a vCPU's state: types of our own, each with its structure in the kernel (Linux,
//! `uapi/asm/kvm.h`). Fields are named as there.

use kvm_bindings::{
    KVM_SREGS2_FLAGS_PDPTRS_VALID, kvm_debugregs, kvm_dtable, kvm_regs, kvm_segment, kvm_sregs,
    kvm_sregs2, kvm_vcpu_events,
};
use serde::{Deserialize, Serialize};

/// A type with the fields of a kernel structure that are state, and the way there and back.
macro_rules! mirror {
    ($(#[$doc:meta])* $name:ident of $kernel:ident { $($field:ident: $type:ty),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub(crate) struct $name {
            $(pub(crate) $field: $type),*
        }

        impl From<$kernel> for $name {
            fn from(kernel: $kernel) -> Self {
                Self { $($field: kernel.$field.into()),* }
            }
        }

        impl From<$name> for $kernel {
            #[allow(clippy::needless_update)]
            fn from(ours: $name) -> Self {
                Self { $($field: ours.$field.into(),)* ..Self::default() }
            }
        }
    };
}

mirror! {
    /// General registers.
    General of kvm_regs {
        rax: u64, rbx: u64, rcx: u64, rdx: u64, rsi: u64, rdi: u64, rsp: u64, rbp: u64,
        r8: u64, r9: u64, r10: u64, r11: u64, r12: u64, r13: u64, r14: u64, r15: u64,
        rip: u64, rflags: u64,
    }
}

mirror! {
    /// A segment register with what the processor keeps of its descriptor.
    Segment of kvm_segment {
        base: u64, limit: u32, selector: u16, type_: u8, present: u8, dpl: u8, db: u8, s: u8,
        l: u8, g: u8, avl: u8, unusable: u8,
    }
}

mirror! {
    /// Where a descriptor table lies.
    DescriptorTable of kvm_dtable { base: u64, limit: u16 }
}

mirror! {
    /// Debug registers.
    Debug of kvm_debugregs { db: [u64; 4], dr6: u64, dr7: u64, flags: u64 }
}

/// Segments, descriptor tables and control registers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Special {
    pub(crate) cs: Segment,
    pub(crate) ds: Segment,
    pub(crate) es: Segment,
    pub(crate) fs: Segment,
    pub(crate) gs: Segment,
    pub(crate) ss: Segment,
    pub(crate) tr: Segment,
    pub(crate) ldt: Segment,
    pub(crate) gdt: DescriptorTable,
    pub(crate) idt: DescriptorTable,
    pub(crate) cr0: u64,
    pub(crate) cr2: u64,
    pub(crate) cr3: u64,
    pub(crate) cr4: u64,
    pub(crate) cr8: u64,
    pub(crate) efer: u64,
    pub(crate) apic_base: u64,
    /// Pointers to page directories that the processor keeps in PAE mode, where the kernel tells them.
    pub(crate) pdptrs: Option<[u64; 4]>,
}

/// Copies the fields that both structures of the kernel have.
macro_rules! special {
    ($from:expr => $to:expr) => {{
        let (from, mut to) = ($from, $to);
        to.cs = from.cs.into();
        to.ds = from.ds.into();
        to.es = from.es.into();
        to.fs = from.fs.into();
        to.gs = from.gs.into();
        to.ss = from.ss.into();
        to.tr = from.tr.into();
        to.ldt = from.ldt.into();
        to.gdt = from.gdt.into();
        to.idt = from.idt.into();
        to.cr0 = from.cr0;
        to.cr2 = from.cr2;
        to.cr3 = from.cr3;
        to.cr4 = from.cr4;
        to.cr8 = from.cr8;
        to.efer = from.efer;
        to.apic_base = from.apic_base;
        to
    }};
}

impl From<kvm_sregs> for Special {
    fn from(kernel: kvm_sregs) -> Self {
        special!(kernel => Self::default())
    }
}

impl From<kvm_sregs2> for Special {
    fn from(kernel: kvm_sregs2) -> Self {
        let valid = kernel.flags & u64::from(KVM_SREGS2_FLAGS_PDPTRS_VALID) != 0;
        let pdptrs = valid.then_some(kernel.pdptrs);
        special!(kernel => Self { pdptrs, ..Self::default() })
    }
}

impl From<Special> for kvm_sregs {
    /// The interrupt that is being delivered comes with the pending events.
    fn from(ours: Special) -> Self {
        special!(ours => Self::default())
    }
}

impl From<Special> for kvm_sregs2 {
    fn from(ours: Special) -> Self {
        let flags = ours.pdptrs.map_or(0, |_| u64::from(KVM_SREGS2_FLAGS_PDPTRS_VALID));
        let pdptrs = ours.pdptrs.unwrap_or_default();
        special!(ours => Self { flags, pdptrs, ..Self::default() })
    }
}

/// Exceptions and interrupts on their way into the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Events {
    pub(crate) flags: u32,
    pub(crate) exception_injected: u8,
    pub(crate) exception_pending: u8,
    pub(crate) exception_nr: u8,
    pub(crate) exception_error: Option<u32>,
    pub(crate) exception_payload: Option<u64>,
    pub(crate) interrupt_injected: u8,
    pub(crate) interrupt_nr: u8,
    pub(crate) interrupt_soft: u8,
    pub(crate) interrupt_shadow: u8,
    pub(crate) nmi_injected: u8,
    pub(crate) nmi_pending: u8,
    pub(crate) nmi_masked: u8,
    pub(crate) sipi_vector: u32,
    pub(crate) smm: u8,
    pub(crate) smi_pending: u8,
    pub(crate) smm_inside_nmi: u8,
    pub(crate) latched_init: u8,
    pub(crate) triple_fault: u8,
}

impl From<kvm_vcpu_events> for Events {
    fn from(kernel: kvm_vcpu_events) -> Self {
        let kvm_vcpu_events { exception, interrupt, nmi, smi, .. } = kernel;
        // What is left of an exception that was delivered is no state.
        let under_way = exception.injected != 0 || exception.pending != 0;
        let error = under_way && exception.has_error_code != 0;
        let payload = under_way && kernel.exception_has_payload != 0;
        Self {
            flags: kernel.flags,
            exception_injected: exception.injected,
            exception_pending: exception.pending,
            exception_nr: if under_way { exception.nr } else { 0 },
            exception_error: error.then_some(exception.error_code),
            exception_payload: payload.then_some(kernel.exception_payload),
            interrupt_injected: interrupt.injected,
            interrupt_nr: if interrupt.injected == 0 { 0 } else { interrupt.nr },
            interrupt_soft: if interrupt.injected == 0 { 0 } else { interrupt.soft },
            interrupt_shadow: interrupt.shadow,
            nmi_injected: nmi.injected,
            nmi_pending: nmi.pending,
            nmi_masked: nmi.masked,
            sipi_vector: kernel.sipi_vector,
            smm: smi.smm,
            smi_pending: smi.pending,
            smm_inside_nmi: smi.smm_inside_nmi,
            latched_init: smi.latched_init,
            triple_fault: kernel.triple_fault.pending,
        }
    }
}

impl From<Events> for kvm_vcpu_events {
    fn from(ours: Events) -> Self {
        let mut kernel = Self {
            flags: ours.flags,
            sipi_vector: ours.sipi_vector,
            exception_has_payload: ours.exception_payload.is_some().into(),
            exception_payload: ours.exception_payload.unwrap_or(0),
            ..Self::default()
        };
        kernel.exception.injected = ours.exception_injected;
        kernel.exception.pending = ours.exception_pending;
        kernel.exception.nr = ours.exception_nr;
        kernel.exception.has_error_code = ours.exception_error.is_some().into();
        kernel.exception.error_code = ours.exception_error.unwrap_or(0);
        kernel.interrupt.injected = ours.interrupt_injected;
        kernel.interrupt.nr = ours.interrupt_nr;
        kernel.interrupt.soft = ours.interrupt_soft;
        kernel.interrupt.shadow = ours.interrupt_shadow;
        kernel.nmi.injected = ours.nmi_injected;
        kernel.nmi.pending = ours.nmi_pending;
        kernel.nmi.masked = ours.nmi_masked;
        kernel.smi.smm = ours.smm;
        kernel.smi.pending = ours.smi_pending;
        kernel.smi.smm_inside_nmi = ours.smm_inside_nmi;
        kernel.smi.latched_init = ours.latched_init;
        kernel.triple_fault.pending = ours.triple_fault;
        kernel
    }
}
