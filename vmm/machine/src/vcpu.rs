//! A vCPU's thread: runs the guest, and does what its exits ask for.

use crate::gate::{Activity, Gate, Order};
use crate::memory::{Fetched, GuestPages, ReadError};
use crate::power::{Power, PowerSwitch};
use crate::sbi::{self, ResetRequest, Sbi, SbiAction, SbiAnswer};
use accel::{Fence, GuestClock, Vcpu, VcpuHandle, VmEntry, VmExit};
use devices::{Bus, Uart};
use serde::{Deserialize, Serialize};
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;
use umem_fault::{FaultCause, Interrupt};
use umem_state::{Package, PackageBuilder, StateError, decode_body, encode_body};

/// Longest sleep of a halted vCPU; it then looks again. Only a safety net: what wakes it kicks it.
const LONGEST_SLEEP: Duration = Duration::from_secs(1);

/// Longest wait for a thread to end.
pub(crate) const JOIN_BOUND: Duration = Duration::from_millis(200);

/// What a vCPU's thread tells the driver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum VcpuEvent {
    /// The guest asks for a reset or to be switched off.
    Reset(ResetRequest),
    /// The accelerator cannot go on.
    Failed(String),
}

/// What a vCPU's thread works with.
#[derive(Clone)]
pub(crate) struct Surroundings {
    /// Devices.
    pub bus: Arc<Bus>,
    /// The guest's clock.
    pub clock: Arc<GuestClock>,
    /// Calls of the guest's kernel.
    pub sbi: Sbi,
    /// RAM, and the pages that have not arrived.
    pub pages: GuestPages,
    /// For the debug console.
    pub serial: Arc<Uart>,
    /// Tells the driver.
    pub report: Arc<dyn Fn(u32, VcpuEvent) + Send + Sync>,
}

/// What anybody may see of a vCPU.
#[derive(Debug, Clone)]
pub(crate) struct VcpuView {
    hart: u32,
    gate: Arc<Gate>,
    thread_id: Arc<AtomicI32>,
}

impl VcpuView {
    /// Hart number.
    #[must_use]
    pub(crate) fn hart(&self) -> u32 {
        self.hart
    }

    /// What the thread does.
    #[must_use]
    pub(crate) fn activity(&self) -> Activity {
        self.gate.activity()
    }

    /// The thread's id in the kernel, once it runs.
    #[must_use]
    pub(crate) fn thread_id(&self) -> Option<i32> {
        Some(self.thread_id.load(Ordering::Relaxed)).filter(|&id| id != 0)
    }
}

/// One vCPU and its thread.
pub(crate) struct VcpuThread {
    view: VcpuView,
    vcpu: Arc<Mutex<Box<dyn Vcpu>>>,
    handle: VcpuHandle,
    power: PowerSwitch,
    gate: Arc<Gate>,
    interrupt: Interrupt,
    thread: Option<JoinHandle<()>>,
}

impl VcpuThread {
    /// Starts the thread; it stands at the closed gate.
    ///
    /// # Errors
    /// When the system has no thread left.
    pub(crate) fn start(
        hart: u32,
        vcpu: Box<dyn Vcpu>,
        power: PowerSwitch,
        surroundings: Surroundings,
    ) -> std::io::Result<Self> {
        let handle = vcpu.handle();
        let vcpu = Arc::new(Mutex::new(vcpu));
        let gate = Arc::new(Gate::new());
        let interrupt = Interrupt::new();
        let thread_id = Arc::new(AtomicI32::new(0));
        let mut body = Body {
            hart,
            gate: gate.clone(),
            handle: handle.clone(),
            power: power.clone(),
            interrupt: interrupt.clone(),
            surroundings,
            entry: VmEntry::Run,
            fences: Vec::new(),
        };
        let (theirs, id) = (vcpu.clone(), thread_id.clone());
        let thread = std::thread::Builder::new().name(format!("vcpu-{hart}")).spawn(move || {
            id.store(rustix::thread::gettid().as_raw_nonzero().get(), Ordering::Relaxed);
            body.run(&theirs);
        })?;
        let view = VcpuView { hart, gate: gate.clone(), thread_id };
        Ok(Self { view, vcpu, handle, power, gate, interrupt, thread: Some(thread) })
    }

    /// What anybody may see of it.
    #[must_use]
    pub(crate) fn view(&self) -> &VcpuView {
        &self.view
    }

    /// What other threads need to reach it while it runs.
    #[must_use]
    pub(crate) fn reach(&self) -> (Arc<Gate>, VcpuHandle) {
        (self.gate.clone(), self.handle.clone())
    }

    /// Lets the vCPU run.
    pub(crate) fn resume(&self) {
        self.interrupt.clear();
        self.gate.order(Order::Run);
    }

    /// Tells the vCPU to stop and does not wait for it.
    pub(crate) fn request_stop(&self) {
        self.gate.order(Order::Stop);
        self.interrupt.raise();
        self.handle.kick();
    }

    /// Waits until the vCPU stands still, at most `bound`; what it does then.
    #[must_use]
    pub(crate) fn await_stopped(&self, bound: Duration) -> Activity {
        self.gate.await_stopped(bound)
    }

    /// Tells the thread to end and does not wait for it.
    pub(crate) fn request_end(&self) {
        self.gate.order(Order::End);
        self.interrupt.raise();
        self.handle.kick();
    }

    /// Joins the thread if it ends within `bound`; a thread that waits in the kernel for a page is
    /// left to the end of the process.
    pub(crate) fn join_within(&mut self, bound: Duration) {
        if self.gate.await_ended(bound)
            && let Some(thread) = self.thread.take()
        {
            let _ = thread.join();
        }
    }

    /// The vCPU, while it stands at the gate.
    #[must_use]
    pub(crate) fn vcpu(&self) -> Option<MutexGuard<'_, Box<dyn Vcpu>>> {
        matches!(self.gate.activity(), Activity::Stopped)
            .then(|| self.vcpu.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for VcpuThread {
    /// A VM that could not be launched, or has ended, leaves no thread behind, unless it waits in the
    /// kernel for a page.
    fn drop(&mut self) {
        if self.thread.is_some() {
            self.request_end();
            self.join_within(JOIN_BOUND);
        }
    }
}

/// Name of a hart's section in the package.
fn section(hart: u32) -> String {
    format!("vcpu{hart}")
}

/// 1: harts were always on.
const SECTION_VERSION: u32 = 2;

/// A vCPU as it moves: the accelerator's own form, its interrupt lines, and whether it is on.
///
/// What another hart waits for it to forget does not move: a hart forgets everything that it has cached
/// when it is loaded.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SavedVcpu {
    state: Vec<u8>,
    lines: u64,
    power: Power,
}

/// Version 1 of [`SavedVcpu`].
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SavedVcpu1 {
    state: Vec<u8>,
    lines: u64,
}

impl SavedVcpu {
    fn decode(name: &str, version: u32, body: &[u8]) -> Result<Self, StateError> {
        if version > 1 {
            return decode_body(name, body);
        }
        let SavedVcpu1 { state, lines } = decode_body(name, body)?;
        Ok(Self { state, lines, power: Power::Started })
    }
}

impl VcpuThread {
    fn standing(&self) -> Result<MutexGuard<'_, Box<dyn Vcpu>>, StateError> {
        let name = section(self.view.hart);
        self.vcpu().ok_or_else(|| StateError::refused(&name, "it does not stand still".to_owned()))
    }

    /// Saves the vCPU, which stands at the gate.
    ///
    /// # Errors
    /// When it does not, or the accelerator cannot read it.
    pub(crate) fn save(&self, package: &mut PackageBuilder) -> Result<(), StateError> {
        let name = section(self.view.hart);
        let state = self.standing()?.save()?;
        let saved = SavedVcpu { state, lines: self.handle.lines(), power: self.power.get() };
        package.add_body(&name, SECTION_VERSION, encode_body(&name, &saved)?);
        Ok(())
    }

    /// Takes a saved vCPU over. It stands at the gate.
    ///
    /// # Errors
    /// When it does not, or the saved state is none of this accelerator's.
    pub(crate) fn load(&self, package: &mut Package) -> Result<(), StateError> {
        let name = section(self.view.hart);
        let saved = package.take_section(&name, SECTION_VERSION)?;
        let SavedVcpu { state, lines, power } =
            SavedVcpu::decode(&name, saved.version, &saved.body)?;
        let mut vcpu = self.standing()?;
        vcpu.restore(&state)?;
        self.power.set(power);
        self.handle.restore_lines(lines);
        Ok(())
    }
}

struct Body {
    hart: u32,
    gate: Arc<Gate>,
    handle: VcpuHandle,
    power: PowerSwitch,
    interrupt: Interrupt,
    surroundings: Surroundings,
    entry: VmEntry,
    /// Harts that have not yet forgotten what the guest wants forgotten before it goes on here, and the
    /// numbers under which they were asked.
    fences: Vec<(VcpuHandle, u64)>,
}

impl Body {
    fn run(&mut self, vcpu: &Mutex<Box<dyn Vcpu>>) {
        while self.gate.pass() {
            let mut vcpu = vcpu.lock().unwrap_or_else(PoisonError::into_inner);
            // An answer that the guest has not read yet goes in before the vCPU may be saved.
            while self.gate.may_enter() || self.entry != VmEntry::Run {
                if !self.is_on(&mut **vcpu) {
                    continue;
                }
                self.await_fences();
                let exit = vcpu.run(std::mem::replace(&mut self.entry, VmEntry::Run));
                self.serve(&mut **vcpu, exit);
            }
        }
        self.gate.set_activity(Activity::Ended);
    }

    /// Whether the hart is on. One that was just started begins; one that is off sleeps until somebody
    /// wants something of it.
    fn is_on(&self, vcpu: &mut dyn Vcpu) -> bool {
        match self.power.take() {
            Power::Started => return true,
            Power::Starting { pc, argument } => {
                vcpu.boot(pc, argument);
                return true;
            }
            Power::Stopped => {}
        }
        // Looked at again after this: a start or an order that came before is not slept through.
        let _ = self.handle.take_attention();
        if !self.handle.take_kick() && self.power.get() == Power::Stopped {
            self.gate.set_activity(Activity::Halted);
            self.handle.sleep_until(Some(std::time::Instant::now() + LONGEST_SLEEP));
            self.gate.set_activity(Activity::Running);
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
    fn fence(&mut self, vcpu: &mut dyn Vcpu, fence: Fence, harts: &[usize]) {
        let mine = usize::try_from(self.hart).ok();
        for &number in harts {
            if Some(number) == mine {
                vcpu.fence(fence);
            } else if let Some(hart) = self.surroundings.sbi.hart(number) {
                self.fences.push((hart.handle.clone(), hart.handle.fence(fence)));
            }
        }
    }

    /// Does what an exit asks for and decides how the vCPU is entered again.
    fn serve(&mut self, vcpu: &mut dyn Vcpu, exit: VmExit) {
        match exit {
            VmExit::MmioRead { address, size } => {
                self.entry = VmEntry::MmioRead(self.surroundings.bus.read(address, size));
            }
            VmExit::MmioWrite { address, size, value } => {
                self.surroundings.bus.write(address, size, value);
            }
            VmExit::Sbi { extension, function, arguments } => {
                let answer = self.surroundings.sbi.call(extension, function, arguments);
                self.answer(vcpu, answer);
            }
            VmExit::WaitForInterrupt { until } => self.halt(until),
            VmExit::MissingPage { page, .. } => {
                self.gate.set_activity(Activity::WaitsFor(page));
                let pages = &self.surroundings.pages;
                if pages.fetch(page, FaultCause::Vcpu, &self.interrupt) == Fetched::Unreadable {
                    let text = format!(
                        "the guest needs {page}, which the source could not read (hardware memory error)"
                    );
                    self.fail(text);
                }
                self.gate.set_activity(Activity::Running);
            }
            VmExit::Kicked => {}
            VmExit::Failed(reason) => self.fail(reason.to_owned()),
        }
    }

    fn fail(&self, reason: String) {
        self.gate.order(Order::Stop);
        (self.surroundings.report)(self.hart, VcpuEvent::Failed(reason));
    }

    fn halt(&self, until: Option<u64>) {
        self.gate.set_activity(Activity::Halted);
        let longest = std::time::Instant::now() + LONGEST_SLEEP;
        let timer = until.and_then(|ticks| self.surroundings.clock.instant_of(ticks));
        self.handle.sleep_until(Some(timer.map_or(longest, |at| at.min(longest))));
        self.gate.set_activity(Activity::Running);
    }

    fn answer(&mut self, vcpu: &mut dyn Vcpu, answer: SbiAnswer) {
        let SbiAnswer { mut error, mut value, action } = answer;
        match action {
            SbiAction::None => {}
            SbiAction::SetTimer(ticks) => vcpu.set_timer(ticks),
            SbiAction::Fence { fence, harts } => self.fence(vcpu, fence, &harts),
            SbiAction::Stop => {
                self.power.set(Power::Stopped);
                return;
            }
            SbiAction::Reset(request) => {
                self.gate.order(Order::Stop);
                (self.surroundings.report)(self.hart, VcpuEvent::Reset(request));
                return;
            }
            SbiAction::ConsoleByte(byte) => {
                if self.surroundings.serial.print(&[byte]) == 0 {
                    error = sbi::ERR_FAILED;
                }
            }
            SbiAction::ConsoleWrite { address, bytes } => {
                let pages = &self.surroundings.pages;
                match pages.read(address, bytes, FaultCause::Vcpu, &self.interrupt) {
                    Ok(text) => value = self.surroundings.serial.print(&text) as u64,
                    // Interrupted while it waited for a page: the guest calls again for the rest.
                    Err(ReadError::Page(Fetched::Interrupted)) => value = 0,
                    Err(_) => error = sbi::ERR_INVALID_PARAM,
                }
            }
        }
        self.entry = VmEntry::Sbi { error, value };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOLDEN_1: &str = "a265737461746583010203656c696e6573190202";
    const GOLDEN_2: &str = "a365737461746583010203656c696e657319020265706f776572a1685374617274696e67a26270631a8020000068617267756d656e7407";

    #[test]
    fn a_vcpu_saved_before_harts_could_be_off_is_on() {
        let old = encode_body("vcpu0", &SavedVcpu1 { state: vec![1, 2], lines: 2 }).unwrap();
        let new = SavedVcpu::decode("vcpu0", 1, &old).unwrap();
        assert_eq!(new, SavedVcpu { state: vec![1, 2], lines: 2, power: Power::Started });
        for power in [Power::Stopped, Power::Starting { pc: 2, argument: 3 }] {
            let saved = SavedVcpu { state: vec![], lines: 0, power };
            let body = encode_body("vcpu1", &saved).unwrap();
            assert_eq!(SavedVcpu::decode("vcpu1", 2, &body).unwrap(), saved);
        }
        assert!(SavedVcpu::decode("vcpu0", 2, &old).is_err());
    }

    /// What this version writes, kept: every later one loads it, and older forms.
    #[test]
    fn the_saved_forms_of_a_vcpu_are_loaded_and_written_as_they_were() {
        let hex = |text: &str| -> Vec<u8> {
            let digit = |at: usize| u8::from_str_radix(&text[at..at + 2], 16).unwrap();
            (0..text.len()).step_by(2).map(digit).collect()
        };
        let golden = [
            (1, GOLDEN_1, Power::Started),
            (2, GOLDEN_2, Power::Starting { pc: 0x8020_0000, argument: 7 }),
        ];
        for (version, bytes, power) in golden {
            let saved = SavedVcpu { state: vec![1, 2, 3], lines: 0x202, power };
            assert_eq!(SavedVcpu::decode("vcpu0", version, &hex(bytes)).unwrap(), saved);
            if version == SECTION_VERSION {
                assert_eq!(encode_body("vcpu0", &saved).unwrap(), hex(bytes));
            }
        }
    }
}
