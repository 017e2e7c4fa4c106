//! A vCPU's thread: runs the guest, and does what its exits ask for.

use crate::core::{Context, Core, Served, SharedCore};
use crate::gate::{Activity, Gate, Order};
use crate::memory::{Fetched, GuestPages};
use crate::requests::ResetRequest;
use accel::{VcpuHandle, VmEntry, VmExit};
use devices::Bus;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;
use umem_fault::{FaultCause, Interrupt};
use umem_memory::GuestAddress;
use umem_state::{Package, PackageBuilder, StateError};

/// Longest sleep of a halted vCPU; it then looks again. Only a safety net: what wakes it kicks it.
pub(crate) const LONGEST_SLEEP: Duration = Duration::from_secs(1);

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
    /// Devices behind I/O ports.
    pub ports: Arc<Bus>,
    /// RAM, and the pages that have not arrived.
    pub pages: GuestPages,
    /// Tells the driver.
    pub report: Arc<dyn Fn(u32, VcpuEvent) + Send + Sync>,
}

/// What anybody may see of a vCPU.
#[derive(Debug, Clone)]
pub(crate) struct VcpuView {
    number: u32,
    gate: Arc<Gate>,
    thread_id: Arc<AtomicI32>,
}

impl VcpuView {
    /// Its number.
    #[must_use]
    pub(crate) fn number(&self) -> u32 {
        self.number
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
    core: SharedCore,
    handle: VcpuHandle,
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
        number: u32,
        core: SharedCore,
        surroundings: Surroundings,
    ) -> std::io::Result<Self> {
        let handle = lock(&core).vcpu().handle();
        let gate = Arc::new(Gate::new());
        let interrupt = Interrupt::new();
        let thread_id = Arc::new(AtomicI32::new(0));
        let Surroundings { bus, ports, pages, report } = surroundings;
        let context = Context { gate: gate.clone(), interrupt: interrupt.clone(), pages };
        let mut body = Body { number, context, bus, ports, report, entry: VmEntry::Run };
        let (theirs, id) = (core.clone(), thread_id.clone());
        let thread =
            std::thread::Builder::new().name(format!("vcpu-{number}")).spawn(move || {
                id.store(rustix::thread::gettid().as_raw_nonzero().get(), Ordering::Relaxed);
                body.run(&theirs);
            })?;
        let view = VcpuView { number, gate: gate.clone(), thread_id };
        Ok(Self { view, core, handle, gate, interrupt, thread: Some(thread) })
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

    /// What of memory it is likely to touch first; nothing while it does not stand at the gate.
    #[must_use]
    pub(crate) fn working_set(&self) -> Vec<GuestAddress> {
        self.core().map_or_else(Vec::new, |core| core.vcpu().working_set())
    }

    /// The vCPU with what is around it, while it stands at the gate.
    #[must_use]
    pub(crate) fn core(&self) -> Option<MutexGuard<'_, dyn Core + 'static>> {
        matches!(self.gate.activity(), Activity::Stopped).then(|| lock(&self.core))
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

/// Name of a vCPU's section in the package.
fn section(number: u32) -> String {
    format!("vcpu{number}")
}

impl VcpuThread {
    fn standing(&self) -> Result<MutexGuard<'_, dyn Core + 'static>, StateError> {
        let name = section(self.view.number);
        self.core().ok_or_else(|| StateError::refused(&name, "it does not stand still".to_owned()))
    }

    /// Saves the vCPU, which stands at the gate.
    ///
    /// # Errors
    /// When it does not, or the accelerator cannot read it.
    pub(crate) fn save(&self, package: &mut PackageBuilder) -> Result<(), StateError> {
        let name = section(self.view.number);
        let (version, body) = self.standing()?.save(&name)?;
        package.add_body(&name, version, body);
        Ok(())
    }

    /// Takes a saved vCPU over. It stands at the gate.
    ///
    /// # Errors
    /// When it does not, or the saved state is none of this accelerator's.
    pub(crate) fn load(&self, package: &mut Package) -> Result<(), StateError> {
        let name = section(self.view.number);
        let mut core = self.standing()?;
        let saved = package.take_section(&name, core.saved_version())?;
        core.restore(&name, saved.version, &saved.body)
    }

    /// The vCPU is as at power-on, when it was saved into `package`. It stands at the gate.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub(crate) fn reset(&self, package: &mut Package) -> Result<(), StateError> {
        let name = section(self.view.number);
        let mut core = self.standing()?;
        let saved = package.take_section(&name, core.saved_version())?;
        core.reset(&name, saved.version, &saved.body)
    }

    /// The guest's clock stops for the vCPU, which stands at the gate.
    ///
    /// # Errors
    /// When it does not, or the accelerator cannot read it.
    pub(crate) fn stop_clock(&self) -> Result<(), StateError> {
        self.standing()?.vcpu_mut().stop_clock()
    }

    /// The guest's clock goes on for the vCPU, which stands at the gate, by `pause` at once.
    ///
    /// # Errors
    /// When it does not, or the accelerator refuses.
    pub(crate) fn start_clock(&self, pause: Duration) -> Result<(), StateError> {
        self.standing()?.vcpu_mut().start_clock(pause)
    }
}

fn lock<'a>(core: &'a Mutex<dyn Core + 'static>) -> MutexGuard<'a, dyn Core + 'static> {
    core.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Body {
    number: u32,
    context: Context,
    bus: Arc<Bus>,
    ports: Arc<Bus>,
    report: Arc<dyn Fn(u32, VcpuEvent) + Send + Sync>,
    entry: VmEntry,
}

impl Body {
    fn run(&mut self, core: &Mutex<dyn Core + 'static>) {
        while self.context.gate.pass() {
            let mut core = lock(core);
            // An answer that the guest has not read yet goes in before the vCPU may be saved.
            while self.context.gate.may_enter() || !self.is_settled(&*core) {
                if core.may_run(&self.context) {
                    let exit =
                        core.vcpu_mut().run(std::mem::replace(&mut self.entry, VmEntry::Run));
                    self.serve(&mut *core, exit);
                }
            }
        }
        self.context.gate.set_activity(Activity::Ended);
    }

    fn is_settled(&self, core: &dyn Core) -> bool {
        self.entry == VmEntry::Run && core.vcpu().is_settled()
    }

    /// Does what an exit asks for and decides how the vCPU is entered again.
    fn serve(&mut self, core: &mut dyn Core, exit: VmExit) {
        match exit {
            VmExit::MmioRead { address, size } => {
                self.entry = VmEntry::MmioRead(self.bus.read(address, size));
            }
            VmExit::MmioWrite { address, size, value } => self.bus.write(address, size, value),
            VmExit::PortRead { port, size } => {
                let port = GuestAddress(port.into());
                self.entry = VmEntry::PortRead(self.ports.read(port, size));
            }
            VmExit::PortWrite { port, size, value } => {
                self.ports.write(GuestAddress(port.into()), size, value);
            }
            VmExit::MissingPage { page, .. } => {
                let Context { gate, pages, interrupt } = &self.context;
                gate.set_activity(Activity::WaitsFor(page));
                if pages.fetch(page, FaultCause::Vcpu, interrupt) == Fetched::Unreadable {
                    let text = format!(
                        "the guest needs {page}, which the source could not read (hardware memory error)"
                    );
                    self.fail(text);
                }
                self.context.gate.set_activity(Activity::Running);
            }
            VmExit::Kicked => {}
            VmExit::Shutdown => self.ask(ResetRequest::Reboot),
            VmExit::Failed { what, code } => self.fail(format!("{what} ({code:#x})")),
            VmExit::Sbi { .. } | VmExit::WaitForInterrupt { .. } => {
                match core.serve(exit, &self.context) {
                    Served::Enter(entry) => self.entry = entry,
                    Served::Asks(request) => self.ask(request),
                    Served::Failed(reason) => self.fail(reason),
                }
            }
        }
    }

    fn ask(&self, request: ResetRequest) {
        self.context.gate.order(Order::Stop);
        (self.report)(self.number, VcpuEvent::Reset(request));
    }

    fn fail(&self, reason: String) {
        self.context.gate.order(Order::Stop);
        (self.report)(self.number, VcpuEvent::Failed(reason));
    }
}
