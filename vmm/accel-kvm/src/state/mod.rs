//! A vCPU's state: read from the kernel, given back to it, and as it moves.
//!
//! ```text
//!  mod.rs     reads it, and gives it back in an order that works
//!  saved.rs   its saved form: versions, bounds
//!  parts.rs   the parts of that, each with its structure in the kernel
//!  msrs.rs    model-specific registers: which belong to the state, and which not
//!  extended.rs  what XSAVE writes
//! ```

mod extended;
pub(crate) mod msrs;
mod parts;
mod saved;
mod show;

use crate::cpuid;
use crate::sys::ioctl;
use crate::vcpu::{KvmVcpu, WHAT, apic};
use kvm_bindings::{kvm_lapic_state, kvm_mp_state, kvm_xcrs};
pub(crate) use saved::State;
pub(crate) use show::registers;
use std::io;
use umem_state::StateError;

/// Reads all. The vCPU stands still and is settled.
pub(crate) fn capture(vcpu: &KvmVcpu) -> io::Result<State> {
    let (fd, facts) = (&vcpu.fd, &vcpu.vm.facts);
    // First: for it the kernel takes pending INIT and start-up messages.
    let mp_state = fd.get_mp_state()?.mp_state;
    let time = vcpu.time()?;
    let mut lapic = fd.get_lapic()?;
    // It is time, and said there.
    apic::set(&mut lapic, apic::CURRENT_COUNT, 0);
    let xcrs = fd.get_xcrs()?;
    let special = if facts.capabilities.special_registers_2 {
        ioctl::special_registers(fd)?.into()
    } else {
        fd.get_sregs()?.into()
    };
    Ok(State {
        table: vcpu.table.clone(),
        tsc_khz: vcpu.tsc_khz,
        time,
        mp_state,
        general: fd.get_regs()?.into(),
        special,
        xcrs: xcrs.xcrs.iter().take(xcrs.nr_xcrs as usize).map(|x| (x.xcr, x.value)).collect(),
        extended: extended::read(fd, facts)?,
        debug: fd.get_debug_regs()?.into(),
        apic: lapic.regs.iter().map(|&byte| byte as u8).collect(),
        msrs: msrs::read_all(fd, &facts.msrs)?,
        events: fd.get_vcpu_events()?.into(),
    })
}

/// Whether a vCPU here can have this state, as far as can be said before it is tried.
pub(crate) fn admit(vcpu: &KvmVcpu, state: &State) -> Result<(), StateError> {
    let facts = &vcpu.vm.facts;
    let refused = |reason| Err(StateError::refused(WHAT, reason));
    if state.table != vcpu.table {
        let difference = state.table.difference(&vcpu.table).unwrap_or_default();
        if vcpu.has_run {
            return refused(format!(
                "it has run with another CPUID ({difference}: the guest's and its own), and the kernel \
                 changes none then; take the guest in a new process, or start both with the same -cpu"
            ));
        }
        let needed =
            cpuid::needs(&cpuid::Processor { table: state.table.clone(), tsc_khz: state.tsc_khz });
        if let Err(line) = vcpu.vm.admits(&needed) {
            return refused(line);
        }
    }
    let (theirs, ours) = (state.tsc_khz, facts.processor.tsc_khz);
    if !facts.capabilities.tsc_scaling && !cpuid::same_rate(theirs, ours) {
        return refused(format!(
            "its time-stamp counter runs at {theirs} kHz, this host's at {ours} kHz and cannot be scaled"
        ));
    }
    vcpu.check_no_step_back(state.time.tsc)?;
    extended::admit(state, facts)
}

/// Gives all to the kernel; the vCPU's time stands still then.
pub(crate) fn apply(vcpu: &mut KvmVcpu, state: &State) -> Result<(), StateError> {
    let step = |what: &'static str| {
        move |error: io::Error| {
            StateError::refused(WHAT, format!("KVM does not take its {what}: {error}"))
        }
    };
    let os = io::Error::from;
    if state.table != vcpu.table {
        let table = state.table.for_kernel();
        let table = table.map_err(|error| StateError::refused(WHAT, error.to_string()))?;
        vcpu.fd.set_cpuid2(&table).map_err(os).map_err(step("CPUID"))?;
        vcpu.table.clone_from(&state.table);
    }
    if state.tsc_khz != vcpu.tsc_khz {
        vcpu.fd.set_tsc_khz(state.tsc_khz).map_err(os).map_err(step("rate of time"))?;
        vcpu.tsc_khz = state.tsc_khz;
    }
    let fd = &vcpu.fd;
    let mp_state = kvm_mp_state { mp_state: state.mp_state };
    fd.set_mp_state(mp_state).map_err(os).map_err(step("run state"))?;
    let special = if vcpu.vm.facts.capabilities.special_registers_2 {
        ioctl::set_special_registers(fd, &state.special.into())
    } else {
        fd.set_sregs(&state.special.into()).map_err(os)
    };
    special.map_err(step("special registers"))?;
    fd.set_regs(&state.general.into()).map_err(os).map_err(step("registers"))?;
    let mut xcrs = kvm_xcrs { nr_xcrs: state.xcrs.len() as u32, ..Default::default() };
    for (to, &(xcr, value)) in xcrs.xcrs.iter_mut().zip(&state.xcrs) {
        (to.xcr, to.value) = (xcr, value);
    }
    fd.set_xcrs(&xcrs).map_err(os).map_err(step("extended control registers"))?;
    extended::write(fd, &vcpu.vm.facts, &state.extended).map_err(step("extended state"))?;
    fd.set_debug_regs(&state.debug.into()).map_err(os).map_err(step("debug registers"))?;
    let mut lapic = kvm_lapic_state::default();
    for (to, &from) in lapic.regs.iter_mut().zip(&state.apic) {
        *to = from as _;
    }
    apic::set(&mut lapic, apic::CURRENT_COUNT, state.time.timer_left);
    fd.set_lapic(&lapic).map_err(os).map_err(step("local APIC"))?;
    msrs::write_all(fd, &state.msrs)?;
    fd.set_vcpu_events(&state.events.into()).map_err(os).map_err(step("pending events"))?;
    vcpu.stopped = Some(state.time);
    vcpu.vm.anchors().brought();
    if vcpu.number == 0 {
        let (table, tsc_khz) = (vcpu.table.clone(), vcpu.tsc_khz);
        *vcpu.vm.processor() = cpuid::Processor { table, tsc_khz };
    }
    Ok(())
}
