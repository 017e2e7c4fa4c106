//! The chips that the vCPUs share, in the kernel: two PICs, an I/O APIC and an interval timer.

use crate::sys::chips;
use crate::vm::Shared;
use kvm_bindings::{
    KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, kvm_ioapic_state, kvm_pic_state,
    kvm_pit_channel_state, kvm_pit_state2,
};
use serde::{Deserialize, Serialize};
use std::io;
use std::sync::Arc;
use umem_state::{SaveRestore, StateError};

/// What errors call it.
const WHAT: &str = "interrupt controllers";
/// Lines of an I/O APIC.
const LINES: usize = 24;
/// Channels of an interval timer.
const CHANNELS: usize = 3;

/// The chips of one VM.
#[derive(Debug)]
pub struct KvmChips {
    vm: Arc<Shared>,
}

/// A PIC (8259A), as the kernel keeps it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct SavedPic {
    pub last_irr: u8,
    pub irr: u8,
    pub imr: u8,
    pub isr: u8,
    pub priority_add: u8,
    pub irq_base: u8,
    pub read_reg_select: u8,
    pub poll: u8,
    pub special_mask: u8,
    pub init_state: u8,
    pub auto_eoi: u8,
    pub rotate_on_auto_eoi: u8,
    pub special_fully_nested_mode: u8,
    pub init4: u8,
    pub elcr: u8,
    pub elcr_mask: u8,
}

/// An I/O APIC (82093AA).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SavedIoApic {
    /// Where it lies.
    pub base_address: u64,
    /// The register that is chosen.
    pub ioregsel: u32,
    /// Its number.
    pub id: u32,
    /// Lines that are high.
    pub irr: u32,
    /// Where each line's interrupt goes.
    pub redirection: Vec<u64>,
}

/// A channel of the interval timer (8254). Its counting begins anew where it is restored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct SavedPitChannel {
    pub count: u32,
    pub latched_count: u16,
    pub count_latched: u8,
    pub status_latched: u8,
    pub status: u8,
    pub read_state: u8,
    pub write_state: u8,
    pub write_latch: u8,
    pub rw_mode: u8,
    pub mode: u8,
    pub bcd: u8,
    pub gate: u8,
}

/// All of them.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SavedChips {
    /// The first and the second PIC. Empty when the kernel did not tell the chips: refused then.
    pub pics: Vec<SavedPic>,
    /// The I/O APIC.
    pub ioapic: SavedIoApic,
    /// The interval timer's channels.
    pub timer: Vec<SavedPitChannel>,
    /// Its other state (`KVM_PIT_FLAGS_…`).
    pub timer_flags: u32,
}

/// Copies fields of the same names.
macro_rules! fields {
    ($from:expr => $to:ident { $($field:ident),* $(,)? } $(..$rest:expr)?) => {{
        let from = $from;
        $to { $($field: from.$field,)* $(..$rest)? }
    }};
}

macro_rules! pic {
    ($from:expr => $to:ident) => {
        fields!($from => $to {
            last_irr, irr, imr, isr, priority_add, irq_base, read_reg_select, poll, special_mask,
            init_state, auto_eoi, rotate_on_auto_eoi, special_fully_nested_mode, init4, elcr, elcr_mask,
        })
    };
}

macro_rules! channel {
    ($from:expr => $to:ident $(..$rest:expr)?) => {
        fields!($from => $to {
            count, latched_count, count_latched, status_latched, status, read_state, write_state,
            write_latch, rw_mode, mode, bcd, gate,
        } $(..$rest)?)
    };
}

impl KvmChips {
    pub(crate) fn new(vm: Arc<Shared>) -> Self {
        Self { vm }
    }

    fn read(&self) -> io::Result<SavedChips> {
        let vm = self.vm.slots.vm();
        let pic = |number| chips::pic(vm, number).map(|state| pic!(state => SavedPic));
        let (state, redirection) = chips::ioapic(vm)?;
        let kvm_ioapic_state { base_address, ioregsel, id, irr, .. } = state;
        let timer = vm.get_pit2()?;
        Ok(SavedChips {
            pics: vec![pic(KVM_IRQCHIP_PIC_MASTER)?, pic(KVM_IRQCHIP_PIC_SLAVE)?],
            ioapic: SavedIoApic { base_address, ioregsel, id, irr, redirection },
            timer: timer.channels.iter().map(|state| channel!(state => SavedPitChannel)).collect(),
            timer_flags: timer.flags,
        })
    }

    fn write(&self, saved: &SavedChips) -> io::Result<()> {
        let vm = self.vm.slots.vm();
        let numbers = [KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE];
        for (number, state) in numbers.into_iter().zip(&saved.pics) {
            chips::set_pic(vm, number, pic!(state => kvm_pic_state))?;
        }
        let SavedIoApic { base_address, ioregsel, id, irr, ref redirection } = saved.ioapic;
        let state = kvm_ioapic_state { base_address, ioregsel, id, irr, ..Default::default() };
        chips::set_ioapic(vm, state, redirection)?;
        let mut timer = kvm_pit_state2 { flags: saved.timer_flags, ..Default::default() };
        for (to, state) in timer.channels.iter_mut().zip(&saved.timer) {
            *to = channel!(state => kvm_pit_channel_state ..Default::default());
        }
        Ok(vm.set_pit2(&timer)?)
    }
}

impl SavedChips {
    /// The first value that cannot be.
    fn impossible(&self) -> Option<String> {
        let count = |name: &str, found: usize, expected: usize| {
            (found != expected).then(|| format!("{found} {name}, there are {expected}"))
        };
        let channel = |channel: &SavedPitChannel| {
            let SavedPitChannel { count, mode, rw_mode, .. } = *channel;
            // The kernel's is in a mode of its own until the guest chooses one.
            let none = mode == u8::MAX;
            (count > 0x1_0000 || mode > 7 && !none || rw_mode > 3)
                .then(|| format!("a timer with count {count} in mode {mode}, access {rw_mode}"))
        };
        count("PICs", self.pics.len(), 2)
            .or_else(|| count("redirection entries", self.ioapic.redirection.len(), LINES))
            .or_else(|| count("timer channels", self.timer.len(), CHANNELS))
            .or_else(|| self.timer.iter().find_map(channel))
    }
}

impl SaveRestore for KvmChips {
    type Saved = SavedChips;
    const VERSION: u32 = 1;

    fn save(&self) -> SavedChips {
        self.read().unwrap_or_else(|error| {
            log::error!("KVM does not tell its interrupt controllers: {error}");
            SavedChips::default()
        })
    }

    fn restore(&self, saved: SavedChips) -> Result<(), StateError> {
        if let Some(reason) = saved.impossible() {
            return Err(StateError::refused(WHAT, reason));
        }
        self.write(&saved)
            .map_err(|error| StateError::refused(WHAT, format!("KVM does not take them: {error}")))
    }
}
