//! QEMU's system emulator, the oracle for privileged behaviour.

use crate::elf;
use crate::probe::{Observation, Probe, decode_log, image, log_bytes};
use crate::program::BASE;
use crate::reference::emulator;
use std::process::{Command, Stdio};

/// A CPU with our extensions and no others, in the words of this version of QEMU.
fn cpu(emulator: &std::path::Path) -> &'static str {
    let listed = Command::new(emulator).args(["-cpu", "help"]).output().unwrap();
    if String::from_utf8_lossy(&listed.stdout).contains("rv64i") {
        "rv64i,m=on,a=on,f=on,d=on,c=on,zicsr=on,zifencei=on,s=on,u=on,sv48=on,pmp=on,mmu=on,zicntr=on"
    } else {
        "rv64,zba=off,zbb=off,zbc=off,zbs=off,h=off,v=off"
    }
}

/// What QEMU's supervisor saw.
pub fn run(probes: &[Probe]) -> Vec<Observation> {
    let folder = tempfile::tempdir().unwrap();
    let (kernel, log) = (folder.path().join("probes"), folder.path().join("log"));
    std::fs::write(&kernel, elf::executable(BASE, BASE, &image(probes))).unwrap();
    let emulator = emulator("UMEM_QEMU_SYSTEM", "qemu-system-riscv64");
    let output = Command::new(&emulator)
        .args(["-machine", "virt", "-m", "256M", "-bios", "none", "-cpu", cpu(&emulator)])
        .args(["-display", "none", "-monitor", "none", "-serial"])
        .arg(format!("file:{}", log.display()))
        .arg("-kernel")
        .arg(&kernel)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let bytes = std::fs::read(&log).unwrap_or_default();
    assert!(
        output.status.success() && bytes.len() == log_bytes(probes.len()),
        "QEMU: {}, {} bytes of log: {}",
        output.status,
        bytes.len(),
        String::from_utf8_lossy(&output.stderr)
    );
    decode_log(&bytes)
}
