//! QEMU's system emulator, the oracle for privileged behaviour.

use crate::elf;
use crate::probe::{Observation, Probe, decode_log, image, log_bytes};
use crate::program::BASE;
use crate::reference::emulator;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// A CPU with our extensions and no others.
const CPU: &str = "rv64i,m=on,a=on,f=on,d=on,c=on,zicsr=on,zifencei=on,s=on,u=on,sv48=on,pmp=on,\
                   mmu=on,zicntr=on";

/// The emulator, which must be recent enough to tell store faults of atomic instructions from load
/// faults, and to build a CPU from nothing.
fn system() -> PathBuf {
    let emulator = emulator("UMEM_QEMU_SYSTEM", "qemu-system-riscv64");
    let listed = Command::new(&emulator).args(["-cpu", "help"]).output().unwrap();
    assert!(
        String::from_utf8_lossy(&listed.stdout).contains("rv64i"),
        "{} knows no CPU rv64i: QEMU 9 or later is needed",
        emulator.display()
    );
    emulator
}

/// What QEMU's supervisor saw.
pub(crate) fn run(probes: &[Probe]) -> Vec<Observation> {
    let folder = tempfile::tempdir().unwrap();
    let (kernel, log) = (folder.path().join("probes"), folder.path().join("log"));
    std::fs::write(&kernel, elf::executable(BASE, BASE, &image(probes))).unwrap();
    let output = Command::new(system())
        .args(["-machine", "virt", "-m", "256M", "-bios", "none", "-cpu", CPU])
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
