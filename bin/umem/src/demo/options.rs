//! Options of the demo, and what they make of the VMs' options.

use crate::vm::memory_size;
use anyhow::Context as _;
use clap::{Args, ValueEnum};
use serde_json::{Value, json};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// The bare-metal guest, built from guest/test-guest.
static TEST_GUEST: &[u8] = include_bytes!("../../../../guest/test-guest/image/umem-test-guest.elf");

/// Who finds missing pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum FaultPath {
    /// The vCPU in its page walk
    Vcpu,
    /// The kernel, through userfaultfd
    Uffd,
}

impl FaultPath {
    const fn word(self) -> &'static str {
        match self {
            Self::Vcpu => "vcpu",
            Self::Uffd => "uffd",
        }
    }
}

/// Move a guest that checks its own memory between two VMs on this host, by pure postcopy.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// RAM of the guest: 1G, 512M, or a number of MiB
    #[arg(long, value_name = "SIZE", default_value = "1G", value_parser = memory_size)]
    pub(super) memory: u64,
    /// Random pages that the guest writes in a second; 0: none
    #[arg(long, value_name = "PAGES", default_value_t = 2000)]
    pub(super) dirty_rate: u64,
    /// What the memory's content follows from; chosen at random by default
    #[arg(long, value_name = "NUMBER")]
    seed: Option<u64>,
    /// How much of the RAM is filled, in percent
    #[arg(long, value_name = "PERCENT", default_value_t = 70,
          value_parser = clap::value_parser!(u64).range(0..=95))]
    fill: u64,
    /// Print one JSON object as the only line on standard output
    #[arg(long)]
    pub(super) json: bool,
    /// Move Debian's Linux with a workload instead of the embedded guest (see `cargo xtask guest`)
    #[arg(long)]
    pub(super) linux: bool,
    /// Linux kernel
    #[arg(long, value_name = "FILE", requires = "linux", default_value = "guest/out/linux/Image")]
    kernel: PathBuf,
    /// Initial RAM disk of Linux
    #[arg(
        long,
        value_name = "FILE",
        requires = "linux",
        default_value = "guest/out/linux/initramfs.cpio"
    )]
    initrd: PathBuf,
    /// Who finds missing pages at the destination
    #[arg(long, value_enum, default_value = "vcpu")]
    fault_path: FaultPath,
    /// Send only what is asked for, until the guest has checked all its memory
    #[arg(long)]
    pub(super) no_background: bool,
    /// The background goes on behind the page last asked for
    #[arg(long, conflicts_with = "no_background")]
    move_background: bool,
    /// Pages to send beyond each page asked for
    #[arg(long, value_name = "PAGES", default_value_t = 0)]
    forward: u64,
    /// Pages to send before each page asked for
    #[arg(long, value_name = "PAGES", default_value_t = 0)]
    backward: u64,
    /// Connections for the background
    #[arg(long, value_name = "NUMBER", default_value_t = 1,
          value_parser = clap::value_parser!(u8).range(1..=16))]
    connections: u8,
    /// The destination's -postcopy-flags
    #[arg(long, value_name = "FLAGS", value_parser = clap::value_parser!(u8).range(0..=1))]
    postcopy_flags: Option<u8>,
    /// Seconds after which the demo gives up
    #[arg(long, value_name = "SECONDS", default_value_t = 120)]
    pub(super) timeout: u64,
    /// Damage a page before the check, to see that it is found; the demo then fails
    #[arg(long)]
    pub(super) inject_damage: bool,
}

impl Options {
    /// The given seed, or one that nobody knew before.
    pub(super) fn seed(&self) -> anyhow::Result<u64> {
        match self.seed {
            Some(seed) => Ok(seed),
            None => getrandom::u64().map_err(|error| anyhow::anyhow!("no random seed: {error}")),
        }
    }

    fn machine_options(&self) -> Vec<OsString> {
        ["-machine", "virt,accel=tcg", "-monitor", "none", "-m", &format!("{}b", self.memory)]
            .map(OsString::from)
            .into()
    }

    /// The source's options; the embedded guest's image is written into `folder`.
    pub(super) fn guest_options(&self, folder: &Path, seed: u64) -> anyhow::Result<Vec<OsString>> {
        let mut options = self.machine_options();
        let Self { fill, dirty_rate, .. } = self;
        let append = if self.linux {
            for file in [&self.kernel, &self.initrd] {
                anyhow::ensure!(
                    file.exists(),
                    "{} is missing; 'cargo xtask guest' makes it",
                    file.display()
                );
            }
            options.extend(["-kernel".into(), self.kernel.clone().into()]);
            options.extend(["-initrd".into(), self.initrd.clone().into()]);
            let fill_mib = (self.memory >> 20) * fill / 100;
            format!(
                "console=ttyS0 quiet umem.mode=workload umem.seed={seed} umem.fill_mib={fill_mib} \
                 umem.rate={dirty_rate} umem.beat_us=10000"
            )
        } else {
            let image = folder.join("guest.elf");
            std::fs::write(&image, TEST_GUEST).context("cannot write the guest's image")?;
            options.extend(["-kernel".into(), image.into()]);
            format!("seed={seed} fill={fill} rate={dirty_rate} beat_us=1000")
        };
        options.extend(["-append".into(), append.into()]);
        Ok(options)
    }

    /// The destination's options.
    pub(super) fn destination_options(&self) -> Vec<OsString> {
        let mut options = self.machine_options();
        let path = self.fault_path.word();
        let incoming = ["-incoming", "defer", "-postcopy", "-postcopy-fault", path];
        options.extend(incoming.map(Into::into));
        if let Some(flags) = self.postcopy_flags {
            options.extend(["-postcopy-flags".into(), flags.to_string().into()]);
        }
        options
    }

    /// Arguments of the `migrate` command.
    pub(super) fn migrate_arguments(&self, uri: &str) -> Value {
        json!({
            "uri": uri,
            "postcopy": true,
            "no-background": self.no_background,
            "move-background": self.move_background,
            "forward": self.forward,
            "backward": self.backward,
        })
    }

    /// Arguments of the `migrate-set-parameters` command before it.
    pub(super) fn parameters(&self) -> Value {
        json!({ "multifd-channels": self.connections })
    }
}
