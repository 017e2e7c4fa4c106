//! The Supervisor Binary Interface: what a guest kernel asks of the layer below it.
//!
//! Source: RISC-V Supervisor Binary Interface Specification, version 2.0. There is no M-mode and no
//! firmware; these calls come here straight from the vCPU.

use super::power::{Power, PowerSwitch};
use crate::requests::ResetRequest;
use accel::{Fence, InterruptKind, VcpuHandle};
use std::sync::Arc;
use umem_memory::GuestAddress;

const SUCCESS: i64 = 0;
pub(crate) const ERR_FAILED: i64 = -1;
const ERR_NOT_SUPPORTED: i64 = -2;
pub(crate) const ERR_INVALID_PARAM: i64 = -3;
const ERR_INVALID_ADDRESS: i64 = -5;
const ERR_ALREADY_AVAILABLE: i64 = -6;

const SPEC_VERSION_2_0: u64 = 2 << 24;
/// Implementation id: none is registered for umem; this one is free in the specification's table.
const IMPLEMENTATION_ID: u64 = 0x756d;

const EXT_BASE: u64 = 0x10;
const EXT_TIME: u64 = 0x5449_4d45;
const EXT_IPI: u64 = 0x0073_5049;
const EXT_RFENCE: u64 = 0x5246_4e43;
const EXT_HSM: u64 = 0x0048_534d;
const EXT_SRST: u64 = 0x5352_5354;
const EXT_DBCN: u64 = 0x4442_434e;
const EXTENSIONS: [u64; 7] = [EXT_BASE, EXT_TIME, EXT_IPI, EXT_RFENCE, EXT_HSM, EXT_SRST, EXT_DBCN];

/// Longest piece of text that one debug console call takes; the guest calls again for the rest.
const CONSOLE_CHUNK: u64 = 4096;

/// What a call leaves to do, beside its answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum SbiAction {
    /// Nothing.
    None,
    /// Arm the calling hart's timer for this guest time.
    SetTimer(u64),
    /// Have these harts forget what they have cached, before the caller goes on.
    Fence {
        /// What to forget.
        fence: Fence,
        /// By their numbers; the caller may be one of them.
        harts: Vec<usize>,
    },
    /// Switch the calling hart off; the call does not return.
    Stop,
    /// Reset or power off the machine; the call does not return.
    Reset(ResetRequest),
    /// Write the guest's text at this address to the console; the answer is the number of bytes
    /// written.
    ConsoleWrite {
        /// First byte.
        address: GuestAddress,
        /// Number of bytes, at most 4096.
        bytes: u64,
    },
    /// Write one byte to the console.
    ConsoleByte(u8),
}

/// The answer to a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SbiAnswer {
    /// Error code for `a0`.
    pub error: i64,
    /// Value for `a1`.
    pub value: u64,
    /// What to do before the guest goes on.
    pub action: SbiAction,
}

impl SbiAnswer {
    const fn ok(value: u64) -> Self {
        Self { error: SUCCESS, value, action: SbiAction::None }
    }

    const fn act(action: SbiAction) -> Self {
        Self { error: SUCCESS, value: 0, action }
    }

    const fn error(error: i64) -> Self {
        Self { error, value: 0, action: SbiAction::None }
    }
}

/// A hart, as others reach it.
#[derive(Debug, Clone)]
pub(crate) struct HartLink {
    /// Its interrupt lines, and what it is asked.
    pub handle: VcpuHandle,
    /// Whether it is on.
    pub power: PowerSwitch,
}

/// The SBI of one machine.
#[derive(Debug, Clone)]
pub(crate) struct Sbi {
    harts: Arc<[HartLink]>,
}

impl Sbi {
    /// The SBI over these harts, in the order of their numbers.
    #[must_use]
    pub(crate) fn new(harts: Arc<[HartLink]>) -> Self {
        Self { harts }
    }

    /// A hart by its number.
    #[must_use]
    pub(crate) fn hart(&self, number: usize) -> Option<&HartLink> {
        self.harts.get(number)
    }

    /// Answers a call of S-mode.
    #[must_use]
    pub(crate) fn call(&self, extension: u64, function: u64, arguments: [u64; 6]) -> SbiAnswer {
        let [a0, a1, a2, ..] = arguments;
        match (extension, function) {
            (EXT_BASE, _) => base(function, a0),
            (EXT_TIME, 0) => SbiAnswer::act(SbiAction::SetTimer(a0)),
            (EXT_IPI, 0) => self.send_ipi(a0, a1),
            (EXT_RFENCE, 0) => self.remote_fence(Fence::CODE, a0, a1),
            // By address or address space alone: a hart forgets all, which it may.
            (EXT_RFENCE, 1 | 2) => self.remote_fence(Fence::TRANSLATIONS, a0, a1),
            (EXT_HSM, _) => self.hart_state(function, a0, a1, a2),
            (EXT_SRST, 0) => system_reset(a0),
            (EXT_DBCN, 0) => console_write(a0, a1, a2),
            // Reading from the debug console: there is never input.
            (EXT_DBCN, 1) => SbiAnswer::ok(0),
            (EXT_DBCN, 2) => SbiAnswer::act(SbiAction::ConsoleByte(a0.to_le_bytes()[0])),
            _ => SbiAnswer::error(ERR_NOT_SUPPORTED),
        }
    }

    /// The numbers of the harts that a mask names (specification, chapter 3, "Hart list parameter").
    fn selected(&self, mask: u64, base: u64) -> Option<Vec<usize>> {
        if base == u64::MAX {
            return Some((0..self.harts.len()).collect());
        }
        (0..64)
            .filter(|bit| mask >> bit & 1 == 1)
            .map(|bit| {
                let hart = usize::try_from(base.checked_add(bit)?).ok()?;
                (hart < self.harts.len()).then_some(hart)
            })
            .collect()
    }

    fn send_ipi(&self, mask: u64, base: u64) -> SbiAnswer {
        let Some(harts) = self.selected(mask, base) else {
            return SbiAnswer::error(ERR_INVALID_PARAM);
        };
        for hart in harts.into_iter().filter_map(|hart| self.hart(hart)) {
            hart.handle.set_line(InterruptKind::Software, true);
        }
        SbiAnswer::ok(0)
    }

    fn remote_fence(&self, fence: Fence, mask: u64, base: u64) -> SbiAnswer {
        match self.selected(mask, base) {
            None => SbiAnswer::error(ERR_INVALID_PARAM),
            Some(harts) if harts.is_empty() => SbiAnswer::ok(0),
            Some(harts) => SbiAnswer::act(SbiAction::Fence { fence, harts }),
        }
    }

    fn hart_state(&self, function: u64, hart: u64, pc: u64, argument: u64) -> SbiAnswer {
        let named = usize::try_from(hart).ok().and_then(|hart| self.hart(hart));
        match (function, named) {
            (0 | 2, None) => SbiAnswer::error(ERR_INVALID_PARAM),
            (0, Some(_)) if pc & 1 != 0 => SbiAnswer::error(ERR_INVALID_ADDRESS),
            (0, Some(hart)) => {
                if !hart.power.start(pc, argument) {
                    return SbiAnswer::error(ERR_ALREADY_AVAILABLE);
                }
                hart.handle.kick();
                SbiAnswer::ok(0)
            }
            (1, _) => SbiAnswer::act(SbiAction::Stop),
            (2, Some(hart)) => SbiAnswer::ok(match hart.power.get() {
                Power::Started => 0,
                Power::Stopped => 1,
                Power::Starting { .. } => 2,
            }),
            _ => SbiAnswer::error(ERR_NOT_SUPPORTED),
        }
    }
}

fn base(function: u64, argument: u64) -> SbiAnswer {
    match function {
        0 => SbiAnswer::ok(SPEC_VERSION_2_0),
        1 => SbiAnswer::ok(IMPLEMENTATION_ID),
        2 => SbiAnswer::ok(1),
        3 => SbiAnswer::ok(u64::from(EXTENSIONS.contains(&argument))),
        // mvendorid, marchid, mimpid: 0 is "not implemented".
        4..=6 => SbiAnswer::ok(0),
        _ => SbiAnswer::error(ERR_NOT_SUPPORTED),
    }
}

fn system_reset(kind: u64) -> SbiAnswer {
    match kind {
        0 => SbiAnswer::act(SbiAction::Reset(ResetRequest::Shutdown)),
        1 | 2 => SbiAnswer::act(SbiAction::Reset(ResetRequest::Reboot)),
        _ => SbiAnswer::error(ERR_INVALID_PARAM),
    }
}

fn console_write(bytes: u64, low: u64, high: u64) -> SbiAnswer {
    if high != 0 {
        return SbiAnswer::error(ERR_INVALID_PARAM);
    }
    let bytes = bytes.min(CONSOLE_CHUNK);
    SbiAnswer::act(SbiAction::ConsoleWrite { address: GuestAddress(low), bytes })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Three harts, of which the first is on.
    fn sbi() -> Sbi {
        let hart = |power| HartLink { handle: VcpuHandle::new(), power: PowerSwitch::new(power) };
        Sbi::new([Power::Started, Power::Stopped, Power::Stopped].map(hart).into())
    }

    #[test]
    fn the_offered_extensions_are_the_probed_ones() {
        for extension in EXTENSIONS {
            assert_eq!(sbi().call(EXT_BASE, 3, [extension, 0, 0, 0, 0, 0]).value, 1);
        }
        assert_eq!(sbi().call(EXT_BASE, 3, [0x1234, 0, 0, 0, 0, 0]).value, 0);
        assert_eq!(sbi().call(EXT_BASE, 0, [0; 6]).value, 0x0200_0000);
    }

    #[test]
    fn an_ipi_raises_the_named_harts_lines_and_no_others() {
        let sbi = sbi();
        let lines = || [0, 1, 2].map(|hart| sbi.harts[hart].handle.lines());
        assert_eq!(sbi.call(EXT_IPI, 0, [1, 0, 0, 0, 0, 0]).error, SUCCESS);
        assert_eq!(lines(), [2, 0, 0]);
        assert_eq!(sbi.call(EXT_IPI, 0, [1, 2, 0, 0, 0, 0]).error, SUCCESS);
        assert_eq!(lines(), [2, 0, 2]);
        assert_eq!(sbi.call(EXT_IPI, 0, [8, 0, 0, 0, 0, 0]).error, ERR_INVALID_PARAM);
        assert_eq!(sbi.call(EXT_IPI, 0, [1, u64::MAX - 1, 0, 0, 0, 0]).error, ERR_INVALID_PARAM);
        assert_eq!(lines(), [2, 0, 2]);
        assert_eq!(sbi.call(EXT_IPI, 0, [0, u64::MAX, 0, 0, 0, 0]).error, SUCCESS);
        assert_eq!(lines(), [2, 2, 2]);
    }

    #[test]
    fn timer_fence_reset_and_console_are_left_to_the_vcpu_loop() {
        let sbi = sbi();
        let action = |extension, function, a0, a1| {
            sbi.call(extension, function, [a0, a1, 0, 0, 0, 0]).action
        };
        assert_eq!(action(EXT_TIME, 0, 77, 0), SbiAction::SetTimer(77));
        let fence = |fence, harts: &[usize]| SbiAction::Fence { fence, harts: harts.to_vec() };
        assert_eq!(action(EXT_RFENCE, 0, 5, 0), fence(Fence::CODE, &[0, 2]));
        assert_eq!(action(EXT_RFENCE, 1, 1, 1), fence(Fence::TRANSLATIONS, &[1]));
        assert_eq!(action(EXT_RFENCE, 2, 0, u64::MAX), fence(Fence::TRANSLATIONS, &[0, 1, 2]));
        assert_eq!(action(EXT_RFENCE, 1, 0, 0), SbiAction::None);
        assert_eq!(action(EXT_SRST, 0, 0, 0), SbiAction::Reset(ResetRequest::Shutdown));
        assert_eq!(action(EXT_HSM, 1, 0, 0), SbiAction::Stop);
        assert_eq!(
            action(EXT_DBCN, 0, 1 << 40, 0x8000_0000),
            SbiAction::ConsoleWrite { address: GuestAddress(0x8000_0000), bytes: 4096 }
        );
    }

    #[test]
    fn a_stopped_hart_is_started_once() {
        let sbi = sbi();
        let hsm = |function, hart, pc| sbi.call(EXT_HSM, function, [hart, pc, 7, 0, 0, 0]);
        assert_eq!((hsm(2, 0, 0).value, hsm(2, 1, 0).value), (0, 1));
        assert_eq!(hsm(0, 0, 0x100).error, ERR_ALREADY_AVAILABLE);
        assert_eq!(hsm(0, 3, 0x100).error, ERR_INVALID_PARAM);
        assert_eq!(hsm(2, 3, 0).error, ERR_INVALID_PARAM);
        assert_eq!(hsm(0, 1, 0x101).error, ERR_INVALID_ADDRESS);
        assert_eq!(hsm(0, 1, 0x100).error, SUCCESS);
        assert_eq!(hsm(2, 1, 0).value, 2);
        assert!(sbi.harts[1].handle.take_kick(), "it sleeps");
        assert_eq!(hsm(0, 1, 0x200).error, ERR_ALREADY_AVAILABLE);
        assert_eq!(sbi.harts[1].power.take(), Power::Starting { pc: 0x100, argument: 7 });
        assert_eq!(hsm(2, 1, 0).value, 0);
    }

    #[test]
    fn unknown_calls_are_refused() {
        assert_eq!(sbi().call(0x9999, 0, [0; 6]).error, ERR_NOT_SUPPORTED);
        // No hart state that keeps less than a wait for an interrupt does.
        assert_eq!(sbi().call(EXT_HSM, 3, [0; 6]).error, ERR_NOT_SUPPORTED);
        assert_eq!(sbi().call(EXT_RFENCE, 3, [1, 0, 0, 0, 0, 0]).error, ERR_NOT_SUPPORTED);
    }
}
