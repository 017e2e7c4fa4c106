//! A hart as its thread runs it: on or off, with the SBI above it.

use super::power::{Power, PowerSwitch};
use super::sbi::{self, Sbi, SbiAction, SbiAnswer};
use crate::core::{Context, Core, Served};
use crate::gate::Activity;
use crate::memory::{Fetched, ReadError};
use crate::vcpu::LONGEST_SLEEP;
use accel::{Fence, GuestClock, RiscvVcpu as _, Vcpu, VcpuHandle, VmEntry, VmExit};
use devices::Uart;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Instant;
use umem_fault::FaultCause;
use umem_state::{StateError, decode_body, encode_body};

/// A hart and what is around it.
pub(super) struct Hart {
    /// Its own.
    number: usize,
    pub(super) vcpu: accel_tcg::Hart,
    handle: VcpuHandle,
    power: PowerSwitch,
    sbi: Sbi,
    clock: Arc<GuestClock>,
    /// For the debug console.
    serial: Arc<Uart>,
    /// Harts that have not yet forgotten what the guest wants forgotten before it goes on here, and the
    /// numbers under which they were asked.
    fences: Vec<(VcpuHandle, u64)>,
}

impl Hart {
    pub(super) fn new(
        number: usize,
        vcpu: accel_tcg::Hart,
        power: PowerSwitch,
        sbi: Sbi,
        clock: Arc<GuestClock>,
        serial: Arc<Uart>,
    ) -> Self {
        let handle = vcpu.handle();
        Self { number, vcpu, handle, power, sbi, clock, serial, fences: Vec::new() }
    }

    /// Whether the hart is on. One that was just started begins; one that is off sleeps until somebody
    /// wants something of it.
    fn is_on(&mut self, context: &Context) -> bool {
        match self.power.take() {
            Power::Started => return true,
            Power::Starting { pc, argument } => {
                self.vcpu.boot(pc, argument);
                return true;
            }
            Power::Stopped => {}
        }
        // Looked at again after this: a start or an order that came before is not slept through.
        let _ = self.handle.take_attention();
        if !self.handle.take_kick() && self.power.get() == Power::Stopped {
            context.gate.set_activity(Activity::Halted);
            self.handle.sleep_until(Some(Instant::now() + LONGEST_SLEEP));
            context.gate.set_activity(Activity::Running);
        }
        false
    }

    /// Waits until other harts have forgotten what they were asked to. A vCPU that is kicked meanwhile
    /// executes nothing before it comes here again.
    fn await_fences(&mut self) {
        while let Some((hart, number)) = self.fences.last() {
            if !hart.await_asked(*number, || self.handle.is_kicked()) {
                return;
            }
            self.fences.pop();
        }
    }

    /// Has harts forget, this one at once. All others are asked before the first is waited for.
    fn fence(&mut self, fence: Fence, harts: &[usize]) {
        for &number in harts {
            if number == self.number {
                self.vcpu.fence(fence);
            } else if let Some(hart) = self.sbi.hart(number) {
                self.fences.push((hart.handle.clone(), hart.handle.fence(fence)));
            }
        }
    }

    fn halt(&self, until: Option<u64>, context: &Context) {
        context.gate.set_activity(Activity::Halted);
        let longest = Instant::now() + LONGEST_SLEEP;
        let timer = until.and_then(|ticks| self.clock.instant_of(ticks));
        self.handle.sleep_until(Some(timer.map_or(longest, |at| at.min(longest))));
        context.gate.set_activity(Activity::Running);
    }

    fn answer(&mut self, answer: SbiAnswer, context: &Context) -> Served {
        let SbiAnswer { mut error, mut value, action } = answer;
        match action {
            SbiAction::None => {}
            SbiAction::SetTimer(ticks) => self.vcpu.set_timer(ticks),
            SbiAction::Fence { fence, harts } => self.fence(fence, &harts),
            SbiAction::Stop => {
                self.power.set(Power::Stopped);
                return Served::Enter(VmEntry::Run);
            }
            SbiAction::Reset(request) => return Served::Asks(request),
            SbiAction::ConsoleByte(byte) => {
                if self.serial.print(&[byte]) == 0 {
                    error = sbi::ERR_FAILED;
                }
            }
            SbiAction::ConsoleWrite { address, bytes } => {
                let Context { pages, interrupt, .. } = context;
                match pages.read(address, bytes, FaultCause::Vcpu, interrupt) {
                    Ok(text) => value = self.serial.print(&text) as u64,
                    // Interrupted while it waited for a page: the guest calls again for the rest.
                    Err(ReadError::Page(Fetched::Interrupted)) => value = 0,
                    Err(_) => error = sbi::ERR_INVALID_PARAM,
                }
            }
        }
        Served::Enter(VmEntry::Sbi { error, value })
    }
}

impl Core for Hart {
    fn vcpu(&self) -> &dyn Vcpu {
        &self.vcpu
    }

    fn vcpu_mut(&mut self) -> &mut dyn Vcpu {
        &mut self.vcpu
    }

    fn may_run(&mut self, context: &Context) -> bool {
        let on = self.is_on(context);
        if on {
            self.await_fences();
        }
        on
    }

    fn serve(&mut self, exit: VmExit, context: &Context) -> Served {
        match exit {
            VmExit::Sbi { extension, function, arguments } => {
                let answer = self.sbi.call(extension, function, arguments);
                self.answer(answer, context)
            }
            VmExit::WaitForInterrupt { until } => {
                self.halt(until, context);
                Served::Enter(VmEntry::Run)
            }
            exit => Served::Failed(format!("an exit that no hart has: {exit:?}")),
        }
    }

    fn save(&self, name: &str) -> Result<(u32, Vec<u8>), StateError> {
        let (state, lines) = (self.vcpu.save()?, self.handle.lines());
        let saved = SavedHart { state, lines, power: self.power.get() };
        Ok((VERSION, encode_body(name, &saved)?))
    }

    fn saved_version(&self) -> u32 {
        VERSION
    }

    fn restore(&mut self, name: &str, version: u32, body: &[u8]) -> Result<(), StateError> {
        let SavedHart { state, lines, power } = SavedHart::decode(name, version, body)?;
        self.vcpu.restore(&state)?;
        self.power.set(power);
        self.handle.restore_lines(lines);
        Ok(())
    }
}

/// 1: harts were always on.
const VERSION: u32 = 2;

/// A hart as it moves: the accelerator's own form, its interrupt lines, and whether it is on.
///
/// What another hart waits for it to forget does not move: a hart forgets everything that it has cached
/// when it is loaded.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SavedHart {
    state: Vec<u8>,
    lines: u64,
    power: Power,
}

/// Version 1 of [`SavedHart`].
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SavedHart1 {
    state: Vec<u8>,
    lines: u64,
}

impl SavedHart {
    fn decode(name: &str, version: u32, body: &[u8]) -> Result<Self, StateError> {
        if version > 1 {
            return decode_body(name, body);
        }
        let SavedHart1 { state, lines } = decode_body(name, body)?;
        Ok(Self { state, lines, power: Power::Started })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOLDEN_1: &str = "a265737461746583010203656c696e6573190202";
    const GOLDEN_2: &str = "a365737461746583010203656c696e657319020265706f776572a1685374617274696e67a26270631a8020000068617267756d656e7407";

    #[test]
    fn a_hart_saved_before_harts_could_be_off_is_on() {
        let old = encode_body("vcpu0", &SavedHart1 { state: vec![1, 2], lines: 2 }).unwrap();
        let new = SavedHart::decode("vcpu0", 1, &old).unwrap();
        assert_eq!(new, SavedHart { state: vec![1, 2], lines: 2, power: Power::Started });
        for power in [Power::Stopped, Power::Starting { pc: 2, argument: 3 }] {
            let saved = SavedHart { state: vec![], lines: 0, power };
            let body = encode_body("vcpu1", &saved).unwrap();
            assert_eq!(SavedHart::decode("vcpu1", 2, &body).unwrap(), saved);
        }
        assert!(SavedHart::decode("vcpu0", 2, &old).is_err());
    }

    /// What this version writes, kept: every later one loads it, and older forms.
    #[test]
    fn the_saved_forms_of_a_hart_are_loaded_and_written_as_they_were() {
        let hex = |text: &str| -> Vec<u8> {
            let digit = |at: usize| u8::from_str_radix(&text[at..at + 2], 16).unwrap();
            (0..text.len()).step_by(2).map(digit).collect()
        };
        let golden = [
            (1, GOLDEN_1, Power::Started),
            (2, GOLDEN_2, Power::Starting { pc: 0x8020_0000, argument: 7 }),
        ];
        for (version, bytes, power) in golden {
            let saved = SavedHart { state: vec![1, 2, 3], lines: 0x202, power };
            assert_eq!(SavedHart::decode("vcpu0", version, &hex(bytes)).unwrap(), saved);
            if version == VERSION {
                assert_eq!(encode_body("vcpu0", &saved).unwrap(), hex(bytes));
            }
        }
    }
}
