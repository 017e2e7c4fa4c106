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
exec \"$here/usr/bin/qemu-system-riscv64\" -L \"$here/usr/share/qemu\" \"$@\"
";

/// Programs that run as they are.
pub(crate) struct Emulators {
    /// `qemu-riscv64`: runs a program.
    pub(crate) user: PathBuf,
    /// `qemu-system-riscv64`: runs a machine.
    pub(crate) system: PathBuf,
}

/// Finds the emulators in the cache, on the machine, or fetches them without installing them.
pub(crate) fn ensure() -> Result<Emulators> {
    let folder = paths::cache().join("qemu");
    if let Some(found) = unpacked(&folder) {
        return Ok(found);
    }
    if let Some(found) = installed(10) {
        return Ok(found);
    }
    eprintln!("xtask: fetching QEMU's riscv64 emulators");
    let release = os_release()?;
    let backports = format!("{release}-backports");
    let mut errors = Vec::new();
    // 10.x is what figures are compared with; bookworm itself has 7.2.
    for suites in [vec![release.as_str(), backports.as_str()], vec![release.as_str()]] {
        match fetch(&folder, &suites) {
            Ok(found) => return Ok(found),
            Err(error) => errors.push(format!("{error:#}")),
        }
    }
    if installed(0).is_none() {
        apt::install(&["qemu-system-misc", "qemu-user-static"])
            .with_context(|| format!("cannot fetch QEMU: {}", errors.join("; ")))?;
    }
    installed(0).context("no QEMU for riscv64 was found after installing it")
}

/// Version lines of both.
pub(crate) fn versions(emulators: &Emulators) -> Result<Vec<String>> {
    [&emulators.user, &emulators.system]
        .into_iter()
        .map(|program| {
            version(program).with_context(|| format!("{} does not run", program.display()))
        })
        .collect()
}

fn unpacked(folder: &Path) -> Option<Emulators> {
    let user = folder.join("bin/qemu-riscv64");
    version(&user)?;
    let system = folder.join("bin/qemu-system-riscv64");
    version(&system)?;
    Some(Emulators { user, system })
}

fn installed(major: u32) -> Option<Emulators> {
    let new = |program: &PathBuf| {
        version(program).and_then(|line| major_of(&line)).is_some_and(|found| found >= major)
    };
    let user =
        ["qemu-riscv64-static", "qemu-riscv64"].into_iter().filter_map(run::find).find(new)?;
    let system = run::find("qemu-system-riscv64").filter(new)?;
    Some(Emulators { user, system })
}

fn fetch(folder: &Path, suites: &[&str]) -> Result<Emulators> {
    let Some(wanted) = suites.last() else { bail!("no suite to fetch QEMU from") };
    let architecture = run::text(&mut run::command("dpkg", ["--print-architecture"]))?;
    let apt = Apt::new(&folder.join("apt"), architecture.trim(), suites, true)?;
    apt.update()?;
    let debs = apt.download_with_dependencies(&["qemu-system-misc", "qemu-user-static"], wanted)?;
    let root = folder.join("root");
    if !run::is_missing(&root)? {
        fs::remove_dir_all(&root)?;
    }
    apt::unpack(&debs, &root)?;
    for deb in debs {
        fs::remove_file(deb)?;
    }
    keep_only_riscv64(&root.join("usr/bin"))?;
    let bin = folder.join("bin");
    fs::create_dir_all(&bin)?;
    let user = if root.join("usr/bin/qemu-riscv64-static").exists() {
        "../root/usr/bin/qemu-riscv64-static"
    } else {
        "../root/usr/bin/qemu-riscv64"
    };
    let link = bin.join("qemu-riscv64");
    if link.symlink_metadata().is_ok() {
        fs::remove_file(&link)?;
    }
    symlink(user, link)?;
    let wrapper = bin.join("qemu-system-riscv64");
    fs::write(&wrapper, WRAPPER)?;
    fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755))?;
    unpacked(folder).with_context(|| format!("QEMU of {wanted} does not run on this machine"))
}

/// The packages hold every architecture that QEMU knows: hundreds of megabytes.
fn keep_only_riscv64(bin: &Path) -> Result<()> {
    for entry in fs::read_dir(bin)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with("qemu-") && !name.contains("riscv64") {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
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
