//! Which guest is run, by whom, and what it is told.

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};
use clap::ValueEnum;
use serde_json::{Value, json};
use umem_bench::guest::TEST_GUEST_X86;

use super::host;
use crate::{linux, run};

/// Size of the disk: what a guest writes again and again is in its first MiB.
pub(super) const DISK_BYTES: u64 = 16 << 20;
/// Of the guest's memory, the share that its pages fill: what the kernel needs stays free.
const FILL_PERCENT: u64 = 60;
/// Between two heartbeats: Linux cannot do much better.
const BEAT_US: u64 = 10_000;

/// Which guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Guest {
    /// Debian's amd64 kernel under KVM
    Debian,
    /// The project's bare-metal guest under KVM, which runs without the hardware's help too
    #[value(name = "test-guest")]
    Bare,
    /// Debian's riscv64 kernel by the software CPU: tries the checks themselves where there is no KVM
    DebianRiscv64,
}

/// How one guest is started.
#[derive(Debug, Clone)]
pub(super) struct Boot {
    pub(super) vcpus: u32,
    /// Threads of Linux that write; processors do on bare metal.
    pub(super) threads: u32,
    /// Pages written a second.
    pub(super) rate: u64,
    pub(super) seed: u64,
    /// What `-cpu` is told beside `host`.
    pub(super) cpu: &'static str,
}

/// The program, and the guest's files.
#[derive(Debug)]
pub(super) struct Setup {
    pub(super) umem: PathBuf,
    pub(super) guest: Guest,
    pub(super) memory_bytes: u64,
    kernel: PathBuf,
    initrd: Option<PathBuf>,
}

impl Guest {
    pub(super) const fn is_linux(self) -> bool {
        !matches!(self, Self::Bare)
    }

    pub(super) const fn is_kvm(self) -> bool {
        !matches!(self, Self::DebianRiscv64)
    }

    const fn linux(self) -> Option<&'static linux::Target> {
        match self {
            Self::Debian => Some(&linux::AMD64),
            Self::DebianRiscv64 => Some(&linux::RISCV64),
            Self::Bare => None,
        }
    }
}

impl Setup {
    /// Builds or fetches what is missing of the guest; `folder` takes what is not kept.
    pub(super) fn new(
        umem: PathBuf,
        guest: Guest,
        memory_bytes: u64,
        folder: &Path,
    ) -> Result<Self> {
        let (kernel, initrd) = if let Some(target) = guest.linux() {
            target.build()?;
            (target.kernel(), Some(target.initramfs()))
        } else {
            let image = folder.join("guest.elf");
            fs::write(&image, TEST_GUEST_X86).context("cannot write the guest's image")?;
            (image, None)
        };
        Ok(Self { umem, guest, memory_bytes, kernel, initrd })
    }

    /// What the report says of it.
    pub(super) fn describe(&self) -> Value {
        let guest = self.guest.to_possible_value();
        json!({
            "guest": guest.map(|value| value.get_name().to_owned()),
            "packages": self.guest.linux().map(host::packages),
            "memory_mib": self.memory_bytes >> 20,
            "filled_mib": self.fill_mib(),
            "umem": self.umem,
        })
    }

    fn fill_mib(&self) -> u64 {
        (self.memory_bytes >> 20) * FILL_PERCENT / 100
    }

    /// A VM as both ends of a move have it; Linux gets devices, of which the disk is here.
    pub(super) fn machine(&self, boot: &Boot, disk: &Path) -> Command {
        let accelerator = if self.guest.is_kvm() { "kvm" } else { "tcg" };
        let memory = format!("{}M", self.memory_bytes >> 20);
        let mut command = run::command(&self.umem, ["vm", "-accel", accelerator]);
        command.args(["-m", &memory, "-smp", &boot.vcpus.to_string(), "-monitor", "none"]);
        if self.guest.is_kvm() {
            command.args(["-cpu", &format!("host{}", boot.cpu)]);
        }
        if self.guest.is_linux() {
            let mut drive = OsString::from("file=");
            drive.push(disk);
            command.arg("-drive").arg(drive).args(["-device", "virtio-rng-device"]);
        }
        command
    }

    /// Has a VM boot the guest.
    pub(super) fn boot(&self, command: &mut Command, boot: &Boot) {
        command.arg("-kernel").arg(&self.kernel);
        if let Some(initrd) = &self.initrd {
            command.arg("-initrd").arg(initrd);
        }
        command.args(["-append", &self.arguments(boot)]);
    }

    fn arguments(&self, boot: &Boot) -> String {
        let Boot { threads, rate, seed, .. } = boot;
        if !self.guest.is_linux() {
            return format!("seed={seed} fill={FILL_PERCENT} rate={rate} beat_us={BEAT_US}");
        }
        // A kernel that stops before it has its console can be heard by earlyprintk alone.
        let early = if self.guest == Guest::Debian { "earlyprintk=ttyS0,115200 " } else { "" };
        format!(
            "{early}console=ttyS0 umem.mode=workload umem.devices=1 umem.seed={seed} \
             umem.fill_mib={} umem.rate={rate} umem.beat_us={BEAT_US} umem.threads={threads}",
            self.fill_mib()
        )
    }
}
