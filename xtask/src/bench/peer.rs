//! The QEMU that umem is measured beside: the newest that Debian has for its stable release. Tests make do with
//! what is installed; its 10.0 loses the timer of a riscv64 guest that sleeps at the switch, which then stands still.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use anyhow::{Result, bail};

use crate::{
    apt::{self, Apt},
    paths, qemu, run,
};

const SUITES: [&str; 2] = ["trixie", "trixie-backports"];
const PACKAGES: [&str; 2] = ["qemu-system-riscv", "qemu-system-x86"];
const PROGRAMS: [&str; 2] = ["qemu-system-riscv64", "qemu-system-x86_64"];

/// It comes with all its libraries, libc and its loader among them: this machine's may be older.
const WRAPPER: &str = "#!/bin/sh
root=$(dirname \"$(readlink -f \"$0\")\")/../root
libraries=$(echo \"$root\"/usr/lib/*-linux-gnu | tr ' ' ':')
for firmware in share/qemu share/seabios lib/ipxe/qemu; do
    [ ! -d \"$root/usr/$firmware\" ] || set -- -L \"$root/usr/$firmware\" \"$@\"
done
for loader in \"$root\"/usr/lib*/ld-linux-*.so.*; do
    exec \"$loader\" --library-path \"$libraries\" \"$root/usr/bin/$(basename \"$0\")\" \"$@\"
done
";

/// Programs that run as they are.
pub(crate) struct Peer {
    pub(crate) riscv64: PathBuf,
    pub(crate) x86_64: PathBuf,
}

/// What the variables name, what was fetched, or else what tests use.
pub(crate) fn ensure() -> Result<Peer> {
    let named = ["UMEM_QEMU_SYSTEM", "UMEM_QEMU_X86"].map(std::env::var_os);
    if let [Some(riscv64), Some(x86_64)] = named {
        return Ok(Peer { riscv64: riscv64.into(), x86_64: x86_64.into() });
    }
    let folder = paths::cache().join("qemu-peer");
    if let Some(found) = unpacked(&folder) {
        return Ok(found);
    }
    eprintln!("xtask: fetching the QEMU of {}", SUITES[1]);
    match fetch(&folder) {
        Ok(()) => match unpacked(&folder) {
            Some(found) => return Ok(found),
            None => eprintln!("xtask: it does not run here"),
        },
        Err(error) => eprintln!("xtask: {error:#}"),
    }
    Ok(Peer { riscv64: qemu::ensure()?.system, x86_64: qemu::ensure_x86()? })
}

fn unpacked(folder: &Path) -> Option<Peer> {
    let [riscv64, x86_64] = PROGRAMS.map(|name| folder.join("bin").join(name));
    for program in [&riscv64, &x86_64] {
        qemu::version_of(program).ok()?;
    }
    Some(Peer { riscv64, x86_64 })
}

fn fetch(folder: &Path) -> Result<()> {
    let architecture = run::text(&mut run::command("dpkg", ["--print-architecture"]))?;
    // Nothing of this machine's counts as installed: another release's libraries are needed, all of them.
    let apt = Apt::new(&folder.join("apt"), architecture.trim(), &SUITES, false)?;
    apt.update()?;
    let debs = apt.download_with_dependencies(&PACKAGES, SUITES[1])?;
    if debs.is_empty() {
        bail!("{} has no QEMU", SUITES[1]);
    }
    let root = folder.join("root");
    if !run::is_missing(&root)? {
        fs::remove_dir_all(&root)?;
    }
    apt::unpack(&debs, &root)?;
    for deb in debs {
        fs::remove_file(deb)?;
    }
    let bin = folder.join("bin");
    fs::create_dir_all(&bin)?;
    for name in PROGRAMS {
        let wrapper = bin.join(name);
        fs::write(&wrapper, WRAPPER)?;
        fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755))?;
    }
    Ok(())
}
