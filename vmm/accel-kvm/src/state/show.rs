//! Registers for people.

use crate::vcpu::KvmVcpu;
use std::fmt::Write;

/// One `name value` pair a line; a line with the error of what the kernel does not tell.
pub(crate) fn registers(vcpu: &KvmVcpu) -> String {
    let state = match super::capture(vcpu) {
        Ok(state) => state,
        Err(error) => return format!("error {error}\n"),
    };
    let (g, s) = (&state.general, &state.special);
    let numbers = [
        ("rip", g.rip),
        ("rflags", g.rflags),
        ("rax", g.rax),
        ("rbx", g.rbx),
        ("rcx", g.rcx),
        ("rdx", g.rdx),
        ("rsi", g.rsi),
        ("rdi", g.rdi),
        ("rsp", g.rsp),
        ("rbp", g.rbp),
        ("r8", g.r8),
        ("r9", g.r9),
        ("r10", g.r10),
        ("r11", g.r11),
        ("r12", g.r12),
        ("r13", g.r13),
        ("r14", g.r14),
        ("r15", g.r15),
        ("cs", s.cs.selector.into()),
        ("ss", s.ss.selector.into()),
        ("ds", s.ds.selector.into()),
        ("es", s.es.selector.into()),
        ("fs", s.fs.selector.into()),
        ("gs", s.gs.selector.into()),
        ("fs.base", s.fs.base),
        ("gs.base", s.gs.base),
        ("tr.base", s.tr.base),
        ("gdt.base", s.gdt.base),
        ("idt.base", s.idt.base),
        ("cr0", s.cr0),
        ("cr2", s.cr2),
        ("cr3", s.cr3),
        ("cr4", s.cr4),
        ("cr8", s.cr8),
        ("efer", s.efer),
        ("apic_base", s.apic_base),
        ("dr6", state.debug.dr6),
        ("dr7", state.debug.dr7),
        ("tsc", state.time.tsc),
        ("tsc_khz", state.tsc_khz.into()),
        ("mp_state", state.mp_state.into()),
    ];
    numbers.iter().fold(String::new(), |mut text, (name, value)| {
        let _ = writeln!(text, "{name} {value:#x}");
        text
    })
}
