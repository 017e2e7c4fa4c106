//! QEMU's emulators: the oracle that the software CPU is tested against, and the peer it is measured with.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};

use crate::{
    apt::{self, Apt},
    paths, run,
};

/// What a machine emulator needs around it when it is not installed: libraries and firmware.
const WRAPPER: &str = "#!/bin/sh
here=$(dirname \"$(readlink -f \"$0\")\")/../root
libraries=$(echo \"$here\"/usr/lib/*-linux-gnu \"$here\"/lib/*-linux-gnu | tr ' ' ':')
export LD_LIBRARY_PATH=\"$libraries${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}\"
for firmware in share/qemu share/seabios lib/ipxe/qemu; do
    [ ! -d \"$here/usr/$firmware\" ] || set -- -L \"$here/usr/$firmware\" \"$@\"
done
exec \"$here/usr/bin/$(basename \"$0\")\" \"$@\"
";

/// Programs that run as they are.
pub(crate) struct Emulators {
    /// `qemu-riscv64`: runs a program.
    pub(crate) user: PathBuf,
    /// `qemu-system-riscv64`: runs a machine.
    pub(crate) system: PathBuf,
}

/// One set of packages, unpacked into a folder of its own.
struct Source {
    /// The guests' architecture, as QEMU writes it.
    guests: &'static str,
    folder: &'static str,
    packages: &'static [&'static str],
}

const RISCV64: Source = Source {
    guests: "riscv64",
    folder: "qemu",
    packages: &["qemu-system-misc", "qemu-user-static"],
};
const X86_64: Source =
    Source { guests: "x86_64", folder: "qemu-x86", packages: &["qemu-system-x86"] };

/// Finds the emulators in the cache, on the machine, or fetches them without installing them.
pub(crate) fn ensure() -> Result<Emulators> {
    RISCV64.ensure(unpacked, installed)
}

/// `qemu-system-x86_64`, found or fetched in the same way: what the test guest of that architecture runs in
/// beside umem.
pub(crate) fn ensure_x86() -> Result<PathBuf> {
    const NAME: &str = "qemu-system-x86_64";
    X86_64.ensure(
        |folder| Some(folder.join("bin").join(NAME)).filter(|program| version(program).is_some()),
        |major| run::find(NAME).filter(|program| is_new(program, major)),
    )
}

impl Source {
    fn ensure<T>(
        &self,
        unpacked: impl Fn(&Path) -> Option<T>,
        installed: impl Fn(u32) -> Option<T>,
    ) -> Result<T> {
        let folder = paths::cache().join(self.folder);
        if let Some(found) = unpacked(&folder) {
            return Ok(found);
        }
        if let Some(found) = installed(10) {
            return Ok(found);
        }
        eprintln!("xtask: fetching QEMU's {} emulators", self.guests);
        let release = os_release()?;
        let backports = format!("{release}-backports");
        let mut errors = Vec::new();
        // 10.x is what figures are compared with; bookworm itself has 7.2.
        for suites in [vec![release.as_str(), backports.as_str()], vec![release.as_str()]] {
            match self.fetch(&folder, &suites) {
                Ok(()) => match unpacked(&folder) {
                    Some(found) => return Ok(found),
                    None => errors.push(format!("QEMU of {suites:?} does not run here")),
                },
                Err(error) => errors.push(format!("{error:#}")),
            }
        }
        if installed(0).is_none() {
            apt::install(self.packages)
                .with_context(|| format!("cannot fetch QEMU: {}", errors.join("; ")))?;
        }
        installed(0)
            .with_context(|| format!("no QEMU for {} was found after installing it", self.guests))
    }

    fn fetch(&self, folder: &Path, suites: &[&str]) -> Result<()> {
        let Some(wanted) = suites.last() else { bail!("no suite to fetch QEMU from") };
        let architecture = run::text(&mut run::command("dpkg", ["--print-architecture"]))?;
        let apt = Apt::new(&folder.join("apt"), architecture.trim(), suites, true)?;
        apt.update()?;
        let debs = apt.download_with_dependencies(self.packages, wanted)?;
        let root = folder.join("root");
        if !run::is_missing(&root)? {
            fs::remove_dir_all(&root)?;
        }
        apt::unpack(&debs, &root)?;
        for deb in debs {
            fs::remove_file(deb)?;
        }
        self.keep_only_ours(&root.join("usr/bin"))?;
        self.enter(folder)
    }

    /// The packages hold every architecture that QEMU knows: hundreds of megabytes.
    fn keep_only_ours(&self, bin: &Path) -> Result<()> {
        for entry in fs::read_dir(bin)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with("qemu-") && !name.contains(self.guests) {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }

    /// Makes what is started: a link to a static program, a script before one that needs its surroundings.
    fn enter(&self, folder: &Path) -> Result<()> {
        let bin = folder.join("bin");
        fs::create_dir_all(&bin)?;
        let wrapper = bin.join(format!("qemu-system-{}", self.guests));
        fs::write(&wrapper, WRAPPER)?;
        fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755))?;
        let user = format!("qemu-{}", self.guests);
        for name in [format!("{user}-static"), user.clone()] {
            if !run::is_missing(&folder.join("root/usr/bin").join(&name))? {
                let link = bin.join(&user);
                if link.symlink_metadata().is_ok() {
                    fs::remove_file(&link)?;
                }
                symlink(Path::new("../root/usr/bin").join(&name), link)?;
                break;
            }
        }
        Ok(())
    }
}

/// The version line of an emulator.
pub(crate) fn version_of(program: &Path) -> Result<String> {
    version(program).with_context(|| format!("{} does not run", program.display()))
}

fn unpacked(folder: &Path) -> Option<Emulators> {
    let user = folder.join("bin/qemu-riscv64");
    version(&user)?;
    let system = folder.join("bin/qemu-system-riscv64");
    version(&system)?;
    Some(Emulators { user, system })
}

fn installed(major: u32) -> Option<Emulators> {
    let new = |program: &PathBuf| is_new(program, major);
    let user =
        ["qemu-riscv64-static", "qemu-riscv64"].into_iter().filter_map(run::find).find(new)?;
    let system = run::find("qemu-system-riscv64").filter(new)?;
    Some(Emulators { user, system })
}

fn is_new(program: &Path, major: u32) -> bool {
    version(program).and_then(|line| major_of(&line)).is_some_and(|found| found >= major)
}

fn version(program: &Path) -> Option<String> {
    let text = run::text(&mut run::command(program, ["--version"])).ok()?;
    text.lines().next().map(str::to_owned)
}

fn major_of(line: &str) -> Option<u32> {
    line.split_once("version ")?.1.split('.').next()?.parse().ok()
}

fn os_release() -> Result<String> {
    let text = fs::read_to_string("/etc/os-release").context("cannot read /etc/os-release")?;
    text.lines()
        .find_map(|line| line.strip_prefix("VERSION_CODENAME="))
        .map(|name| name.trim_matches('"').to_owned())
        .context("/etc/os-release names no release")
}

#[cfg(test)]
mod tests {
    use super::major_of;

    #[test]
    fn the_major_number_is_read_from_what_qemu_says() {
        assert_eq!(major_of("QEMU emulator version 10.0.2 (Debian 1:10)"), Some(10));
        assert_eq!(major_of("qemu-riscv64 version 7.2.17"), Some(7));
        assert_eq!(major_of("something else"), None);
    }
}
