//! The time that a vCPU keeps by itself, stopped and started: its time-stamp counter and the timer of its
//! local APIC.
//!
//! The counters of a VM's vCPUs stay as far apart as they were (that is, not at all, unless the guest wants
//! it). A counter is the host's, scaled, plus an offset. All vCPUs that stop together stop at one reading of
//! the host's counter, and start together at one (Linux documentation, "Generic vcpu interface",
//! KVM_VCPU_TSC_CTRL):
//!
//! ```text
//!   stopped[i] = host at the stop + offset[i]
//!   offset'[i] = stopped[i] + pause - host at the start
//! ```
//! The host's scaled counter is what one vCPU shows less its offset. A kernel without offsets to be set takes
//! values for the counter itself; it gives vCPUs whose values are less than a second apart the same offset.
//! A KVM whose guests read the host's own counter can do neither: there a counter goes on by itself, and a
//! guest is refused for which it would go back.

use super::{KvmVcpu, WHAT};
use crate::host::TscControl;
use crate::state::msrs;
use crate::sys::ioctl;
use kvm_bindings::kvm_lapic_state;
use serde::{Deserialize, Serialize};
use std::io;
use std::time::{Duration, Instant};
use umem_state::StateError;

/// Model-specific registers: the counter, and the value at which it interrupts.
pub(crate) const TSC: u32 = 0x10;
pub(crate) const TSC_DEADLINE: u32 = 0x6e0;

/// A vCPU's time, standing still.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Stopped {
    /// Value of the time-stamp counter.
    pub(crate) tsc: u64,
    /// Value at which it interrupts; 0 for none.
    pub(crate) deadline: u64,
    /// What is left in the local APIC's timer, in its own ticks; 0 when it does not run.
    pub(crate) timer_left: u32,
}

/// Registers of the local APIC (Intel's manual, volume 3, table "Local APIC Register Address Map").
pub(crate) mod apic {
    use kvm_bindings::kvm_lapic_state;

    /// What the timer does when it fires.
    pub(crate) const TIMER: usize = 0x320;
    pub(crate) const INITIAL_COUNT: usize = 0x380;
    pub(crate) const CURRENT_COUNT: usize = 0x390;
    pub(crate) const DIVIDE: usize = 0x3e0;

    /// Reads a register.
    pub(crate) fn get(state: &kvm_lapic_state, register: usize) -> u32 {
        let bytes = state.regs.iter().skip(register).take(4);
        bytes.rev().fold(0, |sum, &byte| sum << 8 | u32::from(byte as u8))
    }

    /// Writes a register.
    pub(crate) fn set(state: &mut kvm_lapic_state, register: usize, value: u32) {
        for (to, from) in state.regs.iter_mut().skip(register).zip(value.to_le_bytes()) {
            *to = from as _;
        }
    }

    /// Whether the timer counts by itself, and does not wait for a value of the time-stamp counter.
    pub(crate) fn counts(state: &kvm_lapic_state) -> bool {
        get(state, TIMER) >> 17 & 3 < 2 && get(state, INITIAL_COUNT) != 0
    }

    /// Nanoseconds of a tick: KVM's bus runs at 1 GHz, divided by 1 to 128.
    pub(crate) fn tick_ns(state: &kvm_lapic_state) -> u64 {
        let divide = get(state, DIVIDE);
        1 << (((divide & 3 | divide >> 1 & 4) + 1) & 7)
    }
}

/// What is left of a timer after a pause: it fires at once if its time came in the pause.
fn timer_after(left: u32, pause: Duration, tick_ns: u64) -> u32 {
    let passed = pause.as_nanos() / u128::from(tick_ns);
    u32::try_from(passed).map_or(1, |passed| left.saturating_sub(passed)).max(1)
}

/// Readings of the host's scaled counter that the vCPUs of a VM share.
#[derive(Debug, Default)]
pub(crate) struct Anchors {
    /// At the last stop.
    stop: Option<u64>,
    /// At the last start, and when that was.
    start: Option<(u64, Instant)>,
}

impl Anchors {
    /// A time has been brought from elsewhere: who starts next makes a new start.
    pub(crate) fn brought(&mut self) {
        self.start = None;
    }

    /// A vCPU stops, of which the counter shows `tsc` now: what it shows at the stop of all.
    fn stop(&mut self, tsc: u64, offset: u64) -> u64 {
        self.start = None;
        let host = *self.stop.get_or_insert(tsc.wrapping_sub(offset));
        host.wrapping_add(offset)
    }

    /// A vCPU starts, whose counter is to show `tsc` at the start of all: its offset. `host` reads the host's
    /// counter.
    fn start<E>(&mut self, tsc: u64, host: impl FnOnce() -> Result<u64, E>) -> Result<u64, E> {
        self.stop = None;
        let (host, _) = match self.start {
            Some(start) => start,
            None => *self.start.insert((host()?, Instant::now())),
        };
        Ok(tsc.wrapping_sub(host))
    }

    /// As [`Self::start`], without a reading: how long ago the start of all was.
    fn since_start(&mut self) -> Duration {
        self.stop = None;
        let (_, at) = *self.start.get_or_insert_with(|| (0, Instant::now()));
        at.elapsed()
    }
}

impl KvmVcpu {
    fn counter(&self) -> io::Result<u64> {
        msrs::read(&self.fd, TSC)
    }

    fn offset(&self) -> io::Result<u64> {
        match self.vm.facts.capabilities.tsc_control {
            TscControl::Offset => ioctl::tsc_offset(&self.fd),
            TscControl::Value | TscControl::None => Ok(0),
        }
    }

    /// Its time as it is now, running or not.
    pub(crate) fn time(&self) -> io::Result<Stopped> {
        if let Some(stopped) = self.stopped {
            return Ok(stopped);
        }
        Ok(Stopped {
            tsc: self.counter()?,
            deadline: msrs::read(&self.fd, TSC_DEADLINE).unwrap_or(0),
            timer_left: apic::get(&self.fd.get_lapic()?, apic::CURRENT_COUNT),
        })
    }

    pub(super) fn stop_time(&mut self) -> io::Result<()> {
        if self.stopped.is_some() {
            return Ok(());
        }
        let mut now = self.time()?;
        if self.vm.facts.capabilities.tsc_control != TscControl::Value {
            now.tsc = self.vm.anchors().stop(now.tsc, self.offset()?);
        }
        self.stopped = Some(now);
        Ok(())
    }

    /// See [`accel::Vcpu::start_clock`].
    pub(super) fn start_time(&mut self, pause: Duration) -> Result<(), StateError> {
        let Some(stopped) = self.stopped else { return Ok(()) };
        let ticks = pause.as_nanos() * u128::from(self.tsc_khz) / 1_000_000;
        let tsc = u64::try_from(ticks).ok().and_then(|ticks| stopped.tsc.checked_add(ticks));
        let Some(tsc) = tsc else {
            let reason = format!(
                "a time-stamp counter of {} cannot go on by {} ms",
                stopped.tsc,
                pause.as_millis()
            );
            return Err(StateError::refused(WHAT, reason));
        };
        self.check_no_step_back(stopped.tsc)?;
        let failed = |error: io::Error| {
            StateError::refused(WHAT, format!("KVM does not start its time: {error}"))
        };
        self.set_counter(tsc).map_err(failed)?;
        self.start_timers(stopped, pause).map_err(failed)?;
        // Tells the guest that it stood still, so that its watchdogs do not bark; of no use to one that
        // does not read KVM's clock.
        let _ = self.fd.kvmclock_ctrl();
        self.stopped = None;
        Ok(())
    }

    /// Refuses a guest whose counter has come further than a host's that cannot be set.
    pub(crate) fn check_no_step_back(&self, tsc: u64) -> Result<(), StateError> {
        if self.vm.facts.capabilities.tsc_control != TscControl::None {
            return Ok(());
        }
        let here = self.counter().map_err(|error| {
            StateError::refused(WHAT, format!("no time-stamp counter: {error}"))
        })?;
        if here >= tsc {
            return Ok(());
        }
        let back = tsc - here;
        Err(StateError::refused(
            WHAT,
            format!(
                "its time-stamp counter would go back by {back} to {here}, and KVM of this host cannot \
                 set it; move the guest to a host that has been up for longer, or that has hardware \
                 virtualisation"
            ),
        ))
    }

    fn set_counter(&self, tsc: u64) -> io::Result<()> {
        let mut anchors = self.vm.anchors();
        match self.vm.facts.capabilities.tsc_control {
            TscControl::None => anchors.start(tsc, || self.counter()).map(drop),
            TscControl::Offset => {
                let host = || Ok::<_, io::Error>(self.counter()?.wrapping_sub(self.offset()?));
                ioctl::set_tsc_offset(&self.fd, anchors.start(tsc, host)?)
            }
            TscControl::Value => {
                let since = anchors.since_start().as_nanos() * u128::from(self.tsc_khz) / 1_000_000;
                msrs::write(&self.fd, TSC, tsc.wrapping_add(since as u64))
            }
        }
    }

    /// Has the timers fire when they would have, had they stood still until now but for the pause.
    fn start_timers(&self, stopped: Stopped, pause: Duration) -> io::Result<()> {
        if stopped.deadline != 0 {
            msrs::write(&self.fd, TSC_DEADLINE, stopped.deadline)?;
        }
        if stopped.timer_left == 0 {
            return Ok(());
        }
        let _nobody_interrupts = self.vm.hold_lines();
        let mut state: kvm_lapic_state = self.fd.get_lapic()?;
        if apic::counts(&state) {
            let left = timer_after(stopped.timer_left, pause, apic::tick_ns(&state));
            apic::set(&mut state, apic::CURRENT_COUNT, left);
            self.fd.set_lapic(&state)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// vCPUs of a guest that set its counters apart, stopped and started, here and on another host, each
        /// a little later than the one before.
        #[test]
        fn counters_stay_as_far_apart_and_lose_nothing(
            apart in prop::collection::vec(any::<u64>(), 1..5),
            moves in prop::collection::vec((any::<u64>(), 0..1u64 << 40, 1..1000u64), 1..5),
        ) {
            let mut host = 1u64 << 41;
            let mut offsets: Vec<u64> = apart.iter().map(|apart| apart.wrapping_sub(host)).collect();
            let (mut here, mut there) = (Anchors::default(), Anchors::default());
            for (other_host, pause, late) in moves {
                let before = host;
                let stopped: Vec<u64> = offsets
                    .iter()
                    .map(|&offset| {
                        host = host.wrapping_add(late);
                        here.stop(host.wrapping_add(offset), offset)
                    })
                    .collect();
                // All stopped when the first did.
                for (stopped, offset) in stopped.iter().zip(&offsets) {
                    prop_assert_eq!(*stopped, before.wrapping_add(late).wrapping_add(*offset));
                }
                host = other_host;
                there.brought();
                let first = host.wrapping_add(late);
                for (offset, stopped) in offsets.iter_mut().zip(&stopped) {
                    host = host.wrapping_add(late);
                    let wanted = stopped.wrapping_add(pause);
                    *offset = there.start(wanted, || Ok::<_, ()>(host)).unwrap();
                    // What it shows now: the pause, and what passed since the start of all.
                    let shows = host.wrapping_add(*offset);
                    prop_assert_eq!(shows, wanted.wrapping_add(host.wrapping_sub(first)));
                }
                let between = |offset: &u64| offset.wrapping_sub(offsets[0]);
                let expected: Vec<u64> =
                    apart.iter().map(|&at| at.wrapping_sub(apart[0])).collect();
                prop_assert_eq!(offsets.iter().map(between).collect::<Vec<_>>(), expected);
                std::mem::swap(&mut here, &mut there);
            }
        }
    }

    #[test]
    fn a_timer_goes_on_by_the_pause_and_fires_at_once_when_its_time_came() {
        for (left, pause_ns, tick_ns, expected) in [
            (1000, 0, 1, 1000),
            (1000, 400, 1, 600),
            (1000, 400, 16, 975),
            (1000, 1000, 1, 1),
            (1000, 5000, 1, 1),
            (u32::MAX, u64::MAX, 1, 1),
        ] {
            let pause = Duration::from_nanos(pause_ns);
            assert_eq!(timer_after(left, pause, tick_ns), expected, "{left} {pause_ns}");
        }
    }

    /// Intel's manual, volume 3, figure "Divide Configuration Register".
    #[test]
    fn ticks_are_divided_as_the_register_says() {
        for (divide, ns) in
            [(0b0000, 2), (0b0001, 4), (0b0011, 16), (0b1000, 32), (0b1010, 128), (0b1011, 1)]
        {
            let mut state = kvm_lapic_state::default();
            apic::set(&mut state, apic::DIVIDE, divide);
            assert_eq!(apic::tick_ns(&state), ns, "{divide:#b}");
        }
    }

    #[test]
    fn registers_of_the_local_apic_are_where_they_are() {
        let mut state = kvm_lapic_state::default();
        apic::set(&mut state, apic::INITIAL_COUNT, 0x8000_0001);
        assert_eq!(apic::get(&state, apic::INITIAL_COUNT), 0x8000_0001);
        assert_eq!(state.regs[0x383] as u8, 0x80);
        assert!(apic::counts(&state));
        apic::set(&mut state, apic::TIMER, 2 << 17);
        assert!(!apic::counts(&state), "waits for the time-stamp counter");
    }
}
