//! The programs and guests that are measured: found, never installed.

use crate::guest::{End, TEST_GUEST, TEST_GUEST_X86};
use crate::scenario::{Accel, Guest, HostPages, Move};
use crate::vm::huge;
use anyhow::{Context as _, Result, bail};
use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where things are.
#[derive(Debug, Clone)]
pub struct Programs {
    /// umem itself.
    pub umem: PathBuf,
    /// `qemu-system-riscv64`, if it is there.
    pub qemu_riscv64: Option<PathBuf>,
    /// `qemu-system-x86_64`, if it is there.
    pub qemu_x86_64: Option<PathBuf>,
    /// The folder of the Linux guest, with `Image` and `initramfs.cpio`, whether it is there or not.
    pub linux: PathBuf,
}

/// Where the program is: as the variable says, or in `PATH`.
fn find(variable: &str, name: &str) -> Option<PathBuf> {
    if let Some(given) = env::var_os(variable) {
        return Some(given.into());
    }
    let path = env::var_os("PATH")?;
    env::split_paths(&path).map(|folder| folder.join(name)).find(|file| file.is_file())
}

/// Which QEMU runs guests of this accelerator: its name and the variable that names its file.
const fn qemu_of(accel: Accel) -> (&'static str, &'static str) {
    match accel {
        Accel::Tcg => ("qemu-system-riscv64", "UMEM_QEMU_SYSTEM"),
        Accel::Kvm => ("qemu-system-x86_64", "UMEM_QEMU_X86"),
    }
}

/// The package that has it in Debian.
const fn package_of(accel: Accel) -> &'static str {
    match accel {
        Accel::Tcg => "qemu-system-misc",
        Accel::Kvm => "qemu-system-x86",
    }
}

impl Programs {
    /// This umem; QEMU by `UMEM_QEMU_SYSTEM` and `UMEM_QEMU_X86` or in `PATH`; Linux by `UMEM_LINUX` or where
    /// `cargo xtask guest` puts it.
    #[must_use]
    pub fn find(umem: PathBuf) -> Self {
        let qemu = |accel| {
            let (name, variable) = qemu_of(accel);
            find(variable, name)
        };
        let linux =
            env::var_os("UMEM_LINUX").map_or_else(|| "guest/out/linux".into(), PathBuf::from);
        Self { umem, qemu_riscv64: qemu(Accel::Tcg), qemu_x86_64: qemu(Accel::Kvm), linux }
    }

    /// The QEMU for this accelerator.
    ///
    /// # Errors
    /// When there is none, with what to install.
    pub fn qemu(&self, accel: Accel) -> Result<&Path> {
        let found = match accel {
            Accel::Tcg => &self.qemu_riscv64,
            Accel::Kvm => &self.qemu_x86_64,
        };
        let (name, variable) = qemu_of(accel);
        match found {
            Some(program) => Ok(program),
            None => bail!(
                "no {name}: install {} (Debian), or name one by {variable}; in a working copy, \
                 'cargo xtask qemu' fetches one and says where",
                package_of(accel)
            ),
        }
    }

    /// Why this guest cannot be had here, if so.
    #[must_use]
    pub fn lacks(&self, it: &Move) -> Option<String> {
        if it.guest == Guest::Linux && !self.linux.join("Image").exists() {
            return Some(format!(
                "no Linux guest in {}: 'cargo xtask guest linux' makes it, or UMEM_LINUX names its folder",
                self.linux.display()
            ));
        }
        if it.accel == Accel::Kvm
            && let Err(error) = File::options().read(true).write(true).open("/dev/kvm")
        {
            return Some(format!("/dev/kvm: {error}; KVM and a user who may open it are needed"));
        }
        None
    }

    /// Puts the guest's kernel and its boot arguments on a command line; an image of ours is written to `folder`.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn boot(&self, command: &mut Command, it: &Move, seed: u64, folder: &Path) -> Result<()> {
        let Move { rate, vcpus, fill_mib, .. } = it;
        let percent = (fill_mib * 100).div_ceil(it.memory_mib);
        let append = match it.guest {
            Guest::Linux => {
                command.arg("-kernel").arg(self.linux.join("Image"));
                command.arg("-initrd").arg(self.linux.join("initramfs.cpio"));
                format!(
                    "console=ttyS0 quiet umem.mode=workload umem.seed={seed} umem.fill_mib={fill_mib} \
                     umem.rate={rate} umem.beat_us=10000 umem.threads={vcpus}"
                )
            }
            Guest::Bare => {
                let (image, wipe) = match it.accel {
                    Accel::Tcg => (TEST_GUEST, ""),
                    Accel::Kvm => (TEST_GUEST_X86, "wipe=1 "),
                };
                let path = folder.join("guest.elf");
                fs::write(&path, image).context("cannot write the guest's image")?;
                command.arg("-kernel").arg(path);
                format!("{wipe}seed={seed} fill={percent} rate={rate} beat_us={BEAT_US}")
            }
        };
        command.args(["-append", &append]);
        Ok(())
    }

    /// A VM of ours for this guest at this end, with no console or monitor yet.
    #[must_use]
    pub fn umem_vm(&self, it: &Move, end: End) -> Command {
        let mut command = Command::new(&self.umem);
        let (vcpus, memory) = (it.vcpus.to_string(), format!("{}M", it.memory_mib));
        let machine = format!("virt,accel={}", it.accel.word());
        command.args(["vm", "-machine", &machine, "-monitor", "none"]);
        command.args(["-smp", &vcpus, "-m", &memory]).args(ram(it, end));
        command
    }

    /// The same of QEMU's.
    ///
    /// # Errors
    /// When there is no QEMU for it.
    pub fn qemu_vm(&self, it: &Move, end: End) -> Result<Command> {
        let mut command = Command::new(self.qemu(it.accel)?);
        let (vcpus, memory) = (it.vcpus.to_string(), format!("{}M", it.memory_mib));
        command.args(["-display", "none", "-monitor", "none", "-no-reboot"]);
        command.args(["-accel", it.accel.word(), "-smp", &vcpus, "-m", &memory]);
        command.args(ram(it, end));
        match it.accel {
            // QEMU 10.0 seems not to set the timer again after a move: a guest that was idle at the switch may
            // never wake. Without Sstc that is rarer.
            Accel::Tcg => command.args(["-machine", "virt", "-cpu", "rv64,sstc=off"]),
            Accel::Kvm => command.args([
                "-machine",
                "microvm,isa-serial=on",
                "-cpu",
                "host,-arch-capabilities",
                "-nodefaults",
                "-no-user-config",
            ]),
        };
        Ok(command)
    }
}

/// What an end's RAM is made of, as options.
fn ram(it: &Move, end: End) -> Vec<String> {
    let [source, destination] = it.host_pages;
    let pages = if end == End::Source { source } else { destination };
    let bytes = it.memory_mib << 20;
    if pages == HostPages::Small && it.memory_mib >= OVERCOMMITTED_MIB {
        // More than this host may have free; how much is filled is less.
        let object = format!("memory-backend-ram,id=ram,size={bytes}b,reserve=off");
        return ["-object", &object, "-machine", "memory-backend=ram"].map(str::to_owned).into();
    }
    huge::options(pages.size(), bytes)
}

/// RAM from which on two guests may have more than the host.
const OVERCOMMITTED_MIB: u64 = 8192;

/// Between two heartbeats of any guest here: Linux cannot do much better, and all are read alike.
pub const BEAT_US: u64 = 10_000;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::all;

    fn programs() -> Programs {
        Programs {
            umem: "umem".into(),
            qemu_riscv64: None,
            qemu_x86_64: Some("/qemu".into()),
            linux: "/nowhere".into(),
        }
    }

    fn words(command: &Command) -> String {
        let words: Vec<_> = command.get_args().map(|word| word.to_string_lossy()).collect();
        words.join(" ")
    }

    #[test]
    fn what_is_missing_is_named_with_what_to_do() {
        let programs = programs();
        let why = programs.qemu(Accel::Tcg).unwrap_err().to_string();
        assert!(why.contains("qemu-system-misc") && why.contains("UMEM_QEMU_SYSTEM"), "{why}");
        assert!(programs.qemu(Accel::Kvm).is_ok());
        let all = all();
        let linux = all.iter().filter_map(|row| row.as_move()).find(|it| it.guest == Guest::Linux);
        let why = programs.lacks(linux.unwrap()).unwrap();
        assert!(why.contains("/nowhere") && why.contains("cargo xtask guest"), "{why}");
    }

    #[test]
    fn both_contenders_get_the_same_guest_and_memory() {
        let (programs, folder) = (programs(), tempfile::tempdir().unwrap());
        let all = all();
        let is = |it: &&Move| it.accel == Accel::Kvm && it.rate > 0;
        let it = all.iter().filter_map(|row| row.as_move()).find(is).unwrap();
        let mut commands =
            [programs.umem_vm(it, End::Source), programs.qemu_vm(it, End::Source).unwrap()];
        for command in &mut commands {
            programs.boot(command, it, 7, folder.path()).unwrap();
        }
        let [ours, theirs] = commands.map(|command| words(&command));
        assert!(ours.contains("accel=kvm") && theirs.contains("-accel kvm"));
        for part in ["-smp 1", "-m 1024M", "-append wipe=1 seed=7 fill=70 rate=16000"] {
            assert!(ours.contains(part) && theirs.contains(part), "{part}: {ours} / {theirs}");
        }
        assert!(ours.starts_with("vm ") && theirs.contains("microvm"));
    }

    #[test]
    fn each_end_has_its_own_pages() {
        let all = all();
        let row = all.iter().find(|row| row.name == "pages-4k-2m").unwrap();
        let it = row.as_move().unwrap();
        let [from, to] =
            [End::Source, End::Destination].map(|end| words(&programs().umem_vm(it, end)));
        assert!(!from.contains("hugetlb") && to.contains("hugetlbsize=2M"), "{from} / {to}");
        assert!(row.columns().concat().contains("host pages 4K:2M"));
    }
}
