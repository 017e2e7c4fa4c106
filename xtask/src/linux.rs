//! The Linux guests: Debian's kernel and busybox of an architecture, with our init and workload.

use std::{
    fs,
    hash::{DefaultHasher, Hash, Hasher},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use crate::{
    apt,
    cpio::Archive,
    guest::{self, Compiler, RISCV64_COMPILER, X86_64_COMPILER},
    kernels::{self, Kernel},
    paths, run,
};

/// Raise it when this file changes what it makes out of the same input.
const VERSION: u32 = 6;
/// The kernel's drivers for what our board has; loading more costs boot time. What they need
/// comes along. That of virtio-mmio finds its devices in the device tree (riscv64) or by LNRO0005 in the
/// ACPI tables (amd64).
const MODULES: [&str; 5] =
    ["virtio_mmio", "virtio_blk", "virtio-rng", "virtio_net", "virtio_balloon"];
/// Those that init loads only when the command line asks for them (`umem.modules=fs`).
const FILE_SYSTEM: [&str; 2] = ["crc32c_generic", "ext4"];
const FOLDERS: [&str; 9] =
    ["bin", "dev", "etc", "lib", "lib/modules", "proc", "root", "sys", "tmp"];

/// An architecture that Debian has a kernel for.
pub(crate) struct Target {
    /// Debian's packages; its folder is the one in `guest/out` too.
    packages: Kernel,
    /// The kernel's file in `guest/out`, by the name of its format.
    kernel: &'static str,
    compiler: Compiler,
    /// The C library to link the workload with, and the package that has it.
    library: (&'static str, &'static str),
}

const fn packages(
    architecture: &'static str,
    package: &'static str,
    folder: &'static str,
) -> Kernel {
    let suites = ["trixie", "stable"];
    Kernel { architecture, suites, package, beside: &["busybox-static"], folder }
}

/// What the software CPU runs.
pub(crate) const RISCV64: Target = Target {
    packages: packages("riscv64", "linux-image-riscv64", "linux"),
    kernel: "Image",
    compiler: RISCV64_COMPILER,
    library: ("/usr/riscv64-linux-gnu/lib/libc.a", "libc6-dev-riscv64-cross"),
};

/// What KVM runs on an x86-64 host.
pub(crate) const AMD64: Target = Target {
    packages: packages("amd64", "linux-image-amd64", "linux-amd64"),
    kernel: "bzImage",
    compiler: X86_64_COMPILER,
    library: if cfg!(target_arch = "x86_64") {
        ("/usr/lib/x86_64-linux-gnu/libc.a", "libc6-dev")
    } else {
        ("/usr/x86_64-linux-gnu/lib/libc.a", "libc6-dev-amd64-cross")
    },
};

/// Builds what is missing or out of date in `guest/out/linux`: the riscv64 guest, which tests need.
pub(crate) fn build() -> Result<()> {
    RISCV64.build()
}

impl Target {
    /// Where it is when it is built.
    pub(crate) fn out(&self) -> PathBuf {
        paths::guest_out().join(self.packages.folder)
    }

    /// The kernel.
    pub(crate) fn kernel(&self) -> PathBuf {
        self.out().join(self.kernel)
    }

    /// The initial RAM disk.
    pub(crate) fn initramfs(&self) -> PathBuf {
        self.out().join("initramfs.cpio")
    }

    /// Builds what is missing or out of date of it.
    pub(crate) fn build(&self) -> Result<()> {
        let out = self.out();
        let stamp = stamp()?;
        let current = fs::read_to_string(out.join("stamp")).unwrap_or_default() == stamp;
        if current && !run::is_missing(&self.kernel())? {
            println!("guest: {} is up to date", out.display());
            return Ok(());
        }
        apt::need(&[self.compiler, self.library, ("dpkg-deb", "dpkg"), ("xz", "xz-utils")])?;
        let parts = self.parts()?;
        fs::create_dir_all(&out)?;
        let workload = out.join("workload");
        self.compile_workload(&workload)?;
        fs::write(self.initramfs(), initramfs(&parts, &fs::read(&workload)?)?)?;
        fs::copy(parts.join(self.kernel), self.kernel())?;
        fs::copy(parts.join("version"), out.join("version"))?;
        fs::write(out.join("stamp"), stamp)?;
        let version = fs::read_to_string(parts.join("version"))?;
        println!("guest: {} built: {}", out.display(), version.trim());
        Ok(())
    }

    fn compile_workload(&self, to: &Path) -> Result<()> {
        let root = paths::root().join("guest");
        let flags = ["-std=gnu11", "-O2", "-pthread", "-static", "-s", "-Wall"];
        let mut command = run::command(self.compiler.0, flags);
        command.args(["-Wextra", "-Werror", "-I../common", "-o"]).arg(to);
        command.args(guest::sources(&root.join("linux"))?);
        command.args(guest::sources(&root.join("common"))?);
        run::output(command.current_dir(root.join("linux"))).map(drop)
    }

    fn cache(&self) -> PathBuf {
        paths::cache().join(self.packages.folder)
    }

    /// Kernel, modules and busybox, taken from Debian's packages once and kept in the cache.
    fn parts(&self) -> Result<PathBuf> {
        let parts = self.cache().join("parts");
        let mark = parts.join("complete");
        if fs::read_to_string(&mark).is_ok_and(|text| text == VERSION.to_string()) {
            return Ok(parts);
        }
        eprintln!("xtask: fetching Debian's {} kernel and busybox", self.packages.architecture);
        let debs = self.packages.fetch()?;
        let root = self.cache().join("root");
        for folder in [&root, &parts] {
            if !run::is_missing(folder)? {
                fs::remove_dir_all(folder)?;
            }
        }
        apt::unpack(&debs, &root)?;
        fs::create_dir_all(parts.join("modules"))?;
        let release = kernels::take(&root, &parts.join(self.kernel))?;
        take_modules(&root.join("usr/lib/modules").join(&release), &parts.join("modules"))?;
        fs::copy(root.join("usr/bin/busybox"), parts.join("busybox"))
            .context("no busybox in its package")?;
        fs::write(parts.join("version"), kernels::names(&debs) + "\n")?;
        fs::remove_dir_all(&root)?;
        fs::write(mark, VERSION.to_string())?;
        Ok(parts)
    }
}

/// A hash of everything of ours that goes into the guest.
fn stamp() -> Result<String> {
    let mut hasher = DefaultHasher::new();
    VERSION.hash(&mut hasher);
    for folder in ["guest/common", "guest/linux"] {
        let mut files: Vec<PathBuf> =
            fs::read_dir(paths::root().join(folder))?.flatten().map(|entry| entry.path()).collect();
        files.sort();
        for file in files {
            file.file_name().hash(&mut hasher);
            fs::read(&file)?.hash(&mut hasher);
        }
    }
    Ok(format!("{:016x}\n", hasher.finish()))
}

/// Unpacks the modules and those they need, and writes the order to load them in.
fn take_modules(from: &Path, to: &Path) -> Result<()> {
    let order = fs::read_to_string(from.join("modules.order")).context("no modules.order")?;
    let mut taken = Vec::new();
    for module in MODULES {
        take_module(module, from, to, &order, &mut taken)?;
    }
    fs::write(to.join("order"), taken.join("\n") + "\n")?;
    let loaded = taken.len();
    for module in FILE_SYSTEM {
        take_module(module, from, to, &order, &mut taken)?;
    }
    let rest = taken.get(loaded..).unwrap_or_default();
    fs::write(to.join("order-fs"), rest.join("\n") + "\n")?;
    Ok(())
}

fn take_module(
    name: &str,
    from: &Path,
    to: &Path,
    order: &str,
    taken: &mut Vec<String>,
) -> Result<()> {
    // The kernel takes - and _ for the same in names of modules.
    let same = |file: &str| file.replace('-', "_") == name.replace('-', "_");
    let file = order.lines().find(|line| {
        let stem = line.rsplit('/').next().unwrap_or_default().strip_suffix(".ko");
        stem.is_some_and(same)
    });
    let Some(file) = file else { return Ok(()) }; // built in
    let stem = file.rsplit('/').next().unwrap_or_default().to_owned();
    if taken.contains(&stem) {
        return Ok(());
    }
    let plain = from.join(file);
    let bytes = if run::is_missing(&plain)? {
        let packed = from.join(format!("{file}.xz"));
        run::output(run::command("xz", ["-d", "-c", "--"]).arg(&packed))?
    } else {
        fs::read(&plain)?
    };
    for needed in needs(&bytes) {
        take_module(&needed, from, to, order, taken)?;
    }
    fs::write(to.join(&stem), bytes)?;
    taken.push(stem);
    Ok(())
}

/// The modules that a module names in its `.modinfo`: strings that end with zero, one `depends=a,b`.
fn needs(module: &[u8]) -> Vec<String> {
    module
        .split(|&byte| byte == 0)
        .find_map(|text| text.strip_prefix(b"depends="))
        .map(|names| String::from_utf8_lossy(names).into_owned())
        .unwrap_or_default()
        .split(',')
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect()
}

fn initramfs(parts: &Path, workload: &[u8]) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    for folder in FOLDERS {
        archive.folder(folder, if folder == "tmp" { 0o1777 } else { 0o755 });
    }
    // The kernel opens it for init before init can mount anything.
    archive.character_device("dev/console", 0o600, 5, 1);
    archive.file("init", 0o755, &fs::read(paths::root().join("guest/linux/init"))?);
    archive.file("bin/busybox", 0o755, &fs::read(parts.join("busybox"))?);
    archive.file("bin/workload", 0o755, workload);
    archive.link("bin/sh", "busybox");
    for list in ["order", "order-fs"] {
        let order = fs::read_to_string(parts.join("modules").join(list))?;
        archive.file(&format!("lib/modules/{list}"), 0o644, order.as_bytes());
        for module in order.lines() {
            let bytes = fs::read(parts.join("modules").join(module))?;
            archive.file(&format!("lib/modules/{module}"), 0o644, &bytes);
        }
    }
    Ok(archive.finish())
}

#[cfg(test)]
mod tests {
    use super::needs;

    #[test]
    fn a_module_names_what_it_needs() {
        assert_eq!(needs(b"\x7fELF\0license=GPL\0depends=a_b,c\0x"), ["a_b", "c"]);
        assert!(needs(b"license=GPL\0depends=\0").is_empty());
        assert!(needs(b"").is_empty());
    }
}
