//! One vCPU: runs until it needs something; its state and its time.
//!
//! ```text
//!  mod.rs       the accelerator's side of `accel::Vcpu`
//!    exits.rs     what KVM_RUN came back with
//!    exchange.rs  accesses to ports and devices, and their answers
//!    door.rs      brings it out of KVM_RUN
//!    time.rs      the time-stamp counter and the local APIC's timer, stopped and started
//!    working_set.rs  the guest's pages that it needs first
//! ```

mod door;
mod exchange;
mod exits;
mod time;
mod working_set;

use crate::cpuid::Table;
use crate::host::{KvmError, refused};
use crate::state::{self, State};
use crate::sys::ioctl;
use crate::sys::run_page::RunPage;
use crate::vm::Shared;
use accel::{Vcpu, VcpuHandle, VmEntry, VmExit};
pub(crate) use door::CallOut;
use door::Door;
use exchange::Access;
use exits::{Outcome, outcome};
use kvm_bindings::{KVM_MP_STATE_RUNNABLE, kvm_mp_state, kvm_regs, kvm_sregs};
use kvm_ioctls::VcpuFd;
use std::sync::Arc;
use std::time::Duration;
pub(crate) use time::{Anchors, Stopped, TSC, TSC_DEADLINE, apic};
use umem_memory::GuestAddress;
use umem_state::StateError;

/// What errors of its state call a vCPU.
pub(crate) const WHAT: &str = "vCPU";

/// One vCPU. One thread runs it at a time; while it stands still any may save and restore it.
#[derive(Debug)]
pub struct KvmVcpu {
    // Dropped before what keeps RAM alive: fields go in their order.
    pub(crate) fd: VcpuFd,
    door: Arc<Door<RunPage>>,
    pub(crate) vm: Arc<Shared>,
    pub(crate) number: u32,
    /// What it answers to CPUID.
    pub(crate) table: Table,
    /// Rate of its time-stamp counter, kHz.
    pub(crate) tsc_khz: u32,
    handle: VcpuHandle,
    /// The access with which it came out last.
    access: Option<Access>,
    /// Whether KVM has nothing more to do for the last exit.
    settled: bool,
    /// Whether it was entered: the kernel takes no other CPUID then.
    pub(crate) has_run: bool,
    /// Its time, while that stands still.
    pub(crate) stopped: Option<Stopped>,
    /// As it was made.
    pristine: Option<Box<State>>,
    /// Whether it is so now: then `pristine` says what it is like.
    untouched: bool,
}

impl KvmVcpu {
    pub(crate) fn new(
        vm: Arc<Shared>,
        number: u32,
        table: Table,
        handle: VcpuHandle,
    ) -> Result<Self, KvmError> {
        let fd = vm.slots.vm().create_vcpu(number.into()).map_err(refused("make a vCPU"))?;
        fd.set_cpuid2(&table.for_kernel()?).map_err(refused("set CPUID of a vCPU"))?;
        let page =
            RunPage::new(&fd, vm.facts.run_bytes).map_err(refused("share a vCPU's memory"))?;
        vm.log.add_vcpu(&fd).map_err(refused("share a vCPU's dirty ring"))?;
        let door = Arc::new(Door::new(page));
        // The handle may outlive the vCPU, and the mapping would keep the whole VM in the kernel.
        let weak = Arc::downgrade(&door);
        handle.on_kick(move || {
            if let Some(door) = weak.upgrade() {
                door.knock();
            }
        });
        let tsc_khz = vm.facts.processor.tsc_khz;
        let mut vcpu = Self {
            fd,
            door,
            vm,
            number,
            table,
            tsc_khz,
            handle,
            access: None,
            settled: true,
            has_run: false,
            // Its time begins when it is started, that of all vCPUs at once.
            stopped: Some(Stopped::default()),
            pristine: None,
            untouched: true,
        };
        vcpu.pristine = Some(Box::new(state::capture(&vcpu).map_err(refused("read a vCPU"))?));
        Ok(vcpu)
    }

    /// Lets KVM complete what the last exit left, without an instruction of the guest; reads get ones.
    fn settle(&mut self) -> Result<(), StateError> {
        /// More than any instruction accesses.
        const MOST: u32 = 1 << 16;
        for _ in 0..MOST {
            if self.settled {
                return Ok(());
            }
            match self.enter(true) {
                Outcome::Access(mut access) => {
                    while access.exit(&self.door.page).is_some() {
                        access.answer(VmEntry::Run, &self.door.page);
                    }
                }
                Outcome::Exit(_) | Outcome::RingFull | Outcome::CalledOut => self.settled = true,
            }
        }
        Err(StateError::refused(WHAT, "an access that does not end; switch the machine off"))
    }

    /// One KVM_RUN, at once out again if asked.
    fn enter(&mut self, at_once: bool) -> Outcome {
        if at_once {
            self.door.page.ask_for_exit(true);
        }
        (self.has_run, self.untouched) = (true, false);
        let result = ioctl::run(&self.fd);
        let outcome = outcome(result, &self.door.page, self.vm.slots.ram());
        self.settled = !matches!(outcome, Outcome::Access(_));
        outcome
    }

    fn run_inside(&mut self) -> VmExit {
        loop {
            let kicked = self.door.look(|| self.handle.is_kicked());
            if kicked && self.settled {
                let _ = self.handle.take_kick();
                return VmExit::Kicked;
            }
            match self.enter(kicked) {
                Outcome::Access(access) => {
                    let exit = access.exit(&self.door.page);
                    self.access = Some(access);
                    if let Some(exit) = exit {
                        return exit;
                    }
                }
                Outcome::Exit(exit) => return exit,
                Outcome::CalledOut => {}
                Outcome::RingFull => {
                    if let Err(error) = self.vm.log.make_room(&self.vm.slots) {
                        log::error!("vCPU {}: {error}", self.number);
                        let code = error.raw_os_error().unwrap_or(0) as u64;
                        return VmExit::Failed { what: "KVM does not empty a dirty ring", code };
                    }
                }
            }
        }
    }

    /// Puts it into the state in which it was made; what it answers to CPUID stays that of its guest.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn reset(&mut self) -> Result<(), StateError> {
        self.settle()?;
        let Some(mut state) = self.pristine.take() else {
            return Err(StateError::refused(WHAT, "it was not made to its end"));
        };
        state.table.clone_from(&self.table);
        state.tsc_khz = self.tsc_khz;
        let result = state::apply(self, &state);
        self.pristine = Some(state);
        self.untouched = result.is_ok();
        self.access = None;
        result
    }

    /// [`Self::reset`], and has it begin with these registers, without waiting for another to start it. `special` makes them from those of the
    /// reset state: what it leaves (the local APIC's address) stays.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn start(
        &mut self,
        registers: &kvm_regs,
        special: impl FnOnce(&kvm_sregs) -> kvm_sregs,
    ) -> Result<(), StateError> {
        self.reset()?;
        self.untouched = false;
        let runnable = kvm_mp_state { mp_state: KVM_MP_STATE_RUNNABLE };
        self.fd.set_mp_state(runnable).map_err(|error| {
            StateError::refused(WHAT, format!("KVM does not have it run: {error}"))
        })?;
        let refused = |error: KvmError| StateError::refused(WHAT, error.to_string());
        let special = special(&self.special_registers().map_err(refused)?);
        self.set_special_registers(&special).map_err(refused)?;
        self.set_general_registers(registers).map_err(refused)
    }

    /// General registers.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn general_registers(&self) -> Result<kvm_regs, KvmError> {
        self.fd.get_regs().map_err(refused("read registers"))
    }

    /// Replaces the general registers.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn set_general_registers(&mut self, registers: &kvm_regs) -> Result<(), KvmError> {
        self.untouched = false;
        self.fd.set_regs(registers).map_err(refused("write registers"))
    }

    /// Segments and control registers.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn special_registers(&self) -> Result<kvm_sregs, KvmError> {
        self.fd.get_sregs().map_err(refused("read special registers"))
    }

    /// Replaces segments and control registers.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn set_special_registers(&mut self, registers: &kvm_sregs) -> Result<(), KvmError> {
        self.untouched = false;
        self.fd.set_sregs(registers).map_err(refused("write special registers"))
    }
}

impl Vcpu for KvmVcpu {
    /// One whose time stands still starts it first, without a pause.
    fn run(&mut self, entry: VmEntry) -> VmExit {
        if let Some(access) = &mut self.access {
            access.answer(entry, &self.door.page);
            if let Some(exit) = access.exit(&self.door.page) {
                return exit;
            }
            self.access = None;
        }
        if self.stopped.is_some()
            && let Err(error) = self.start_clock(Duration::ZERO)
        {
            log::error!("vCPU {}: {error}", self.number);
            return VmExit::Failed {
                what: "KVM does not start the time of vCPU",
                code: self.number.into(),
            };
        }
        let door = self.door.clone();
        let _inside = door.enter();
        self.run_inside()
    }

    fn is_settled(&self) -> bool {
        self.settled
    }

    fn handle(&self) -> VcpuHandle {
        self.handle.clone()
    }

    fn stop_clock(&mut self) -> Result<(), StateError> {
        self.stop_time().map_err(|error| StateError::refused(WHAT, error.to_string()))
    }

    fn start_clock(&mut self, pause: Duration) -> Result<(), StateError> {
        self.start_time(pause)
    }

    /// See [`crate`] for what is in it. It needs no missing page, unless KVM's own does.
    fn save(&self) -> Result<Vec<u8>, StateError> {
        if !self.settled {
            return Err(StateError::refused(WHAT, "it is within an access; enter it once more"));
        }
        let state =
            state::capture(self).map_err(|error| StateError::refused(WHAT, error.to_string()))?;
        state.encode(self.number)
    }

    /// Waits for pages that KVM itself uses of the guest (`kvm-clock`): have them served before.
    fn restore(&mut self, saved: &[u8]) -> Result<(), StateError> {
        let state = State::decode(saved, self.number)?;
        state::admit(self, &state)?;
        self.settle()?;
        let before = match self.untouched {
            // Reading it takes a tenth of a millisecond, in which a guest stands still.
            true => None,
            false => Some(
                state::capture(self)
                    .map_err(|error| StateError::refused(WHAT, error.to_string()))?,
            ),
        };
        self.untouched = false;
        if let Err(error) = state::apply(self, &state) {
            let undone = match before {
                Some(before) => state::apply(self, &before),
                None => self.reset(),
            };
            if let Err(second) = undone {
                log::error!("vCPU {} is not as before: {second}", self.number);
            }
            return Err(error);
        }
        self.access = None;
        Ok(())
    }

    /// Nothing where the kernel does not tell.
    fn working_set(&self) -> Vec<GuestAddress> {
        working_set::of(self).unwrap_or_else(|error| {
            log::debug!("vCPU {}: what it needs first is not known: {error}", self.number);
            Vec::new()
        })
    }

    fn registers(&self) -> String {
        state::registers(self)
    }

    /// Zero: KVM does not count them.
    fn instructions(&self) -> u64 {
        0
    }
}
