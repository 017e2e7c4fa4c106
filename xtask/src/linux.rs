//! The Linux guest: Debian's riscv64 kernel and busybox, with our init and workload.

use std::{
    fs,
    hash::{DefaultHasher, Hash, Hasher},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};

use crate::{
    apt::{self, Apt},
    cpio::Archive,
    guest::{self, RISCV64_COMPILER as COMPILER},
    paths, run,
};

/// Raise it when this file changes what it makes out of the same input.
const VERSION: u32 = 6;
const CODENAME: &str = "trixie";
/// The kernel's drivers for what our board has; loading more costs boot time. What they need
/// comes along.
const MODULES: [&str; 5] =
    ["virtio_mmio", "virtio_blk", "virtio-rng", "virtio_net", "virtio_balloon"];
/// Those that init loads only when the command line asks for them (`umem.modules=fs`).
const FILE_SYSTEM: [&str; 2] = ["crc32c_generic", "ext4"];
const FOLDERS: [&str; 9] =
    ["bin", "dev", "etc", "lib", "lib/modules", "proc", "root", "sys", "tmp"];

/// Builds what is missing or out of date in `guest/out/linux`.
pub(crate) fn build() -> Result<()> {
    let out = paths::linux_out();
    let stamp = stamp()?;
    let current = fs::read_to_string(out.join("stamp")).unwrap_or_default() == stamp;
    if current && !run::is_missing(&out.join("Image"))? {
        println!("guest: {} is up to date", out.display());
        return Ok(());
    }
    apt::need(&[
        COMPILER,
        ("/usr/riscv64-linux-gnu/lib/libc.a", "libc6-dev-riscv64-cross"),
        ("dpkg-deb", "dpkg"),
        ("xz", "xz-utils"),
    ])?;
    let parts = parts()?;
    fs::create_dir_all(&out)?;
    let workload = out.join("workload");
    compile_workload(&workload)?;
    fs::write(out.join("initramfs.cpio"), initramfs(&parts, &fs::read(&workload)?)?)?;
    fs::copy(parts.join("Image"), out.join("Image"))?;
    fs::copy(parts.join("version"), out.join("version"))?;
    fs::write(out.join("stamp"), stamp)?;
    println!(
        "guest: {} built: {}",
        out.display(),
        fs::read_to_string(parts.join("version"))?.trim()
    );
    Ok(())
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

fn compile_workload(to: &Path) -> Result<()> {
    let root = paths::root().join("guest");
    let mut command =
        run::command(COMPILER.0, ["-std=gnu11", "-O2", "-pthread", "-static", "-s", "-Wall"]);
    command.args(["-Wextra", "-Werror", "-I../common", "-o"]).arg(to);
    command.args(guest::sources(&root.join("linux"))?).args(guest::sources(&root.join("common"))?);
    run::output(command.current_dir(root.join("linux"))).map(drop)
}

/// Kernel, modules and busybox, taken from Debian's packages once and kept in the cache.
fn parts() -> Result<PathBuf> {
    let parts = paths::cache().join("linux/parts");
    let mark = parts.join("complete");
    if fs::read_to_string(&mark).is_ok_and(|text| text == VERSION.to_string()) {
        return Ok(parts);
    }
    eprintln!("xtask: fetching Debian's riscv64 kernel and busybox");
    let debs = packages()?;
    let root = paths::cache().join("linux/root");
    for folder in [&root, &parts] {
        if !run::is_missing(folder)? {
            fs::remove_dir_all(folder)?;
        }
    }
    apt::unpack(&debs, &root)?;
    fs::create_dir_all(parts.join("modules"))?;
    let release = take_kernel(&root, &parts)?;
    take_modules(&root.join("usr/lib/modules").join(&release), &parts.join("modules"))?;
    fs::copy(root.join("usr/bin/busybox"), parts.join("busybox"))
        .context("no busybox in its package")?;
    let names = debs.iter().filter_map(|deb| deb.file_stem()).map(|name| name.to_string_lossy());
    fs::write(parts.join("version"), names.collect::<Vec<_>>().join(" ") + "\n")?;
    fs::remove_dir_all(&root)?;
    fs::write(mark, VERSION.to_string())?;
    Ok(parts)
}

/// Downloads the packages. While a mirror is being renewed the suite's name may not match its lists, and
/// its other name, `stable`, still does: that is tried next, if it is the same release.
fn packages() -> Result<Vec<PathBuf>> {
    let mut errors = Vec::new();
    for suite in [CODENAME, "stable"] {
        match packages_of(suite) {
            Ok(debs) => return Ok(debs),
            Err(error) => errors.push(format!("{suite}: {error:#}")),
        }
    }
    bail!("cannot fetch the kernel: {}", errors.join("; "))
}

fn packages_of(suite: &str) -> Result<Vec<PathBuf>> {
    let folder = paths::cache().join("linux").join(suite);
    let apt = Apt::new(&folder, "riscv64", &[suite], false)?;
    apt.update()?;
    if suite != CODENAME && !apt.is_release(CODENAME)? {
        bail!("is not {CODENAME} any more");
    }
    let depends = apt.depends("linux-image-riscv64")?;
    let kernel = depends
        .iter()
        .find(|name| name.starts_with("linux-image-"))
        .context("linux-image-riscv64 names no kernel")?;
    apt.download(&[kernel, "busybox-static"])
}

/// Copies the kernel, and gives its release.
fn take_kernel(root: &Path, parts: &Path) -> Result<String> {
    for entry in fs::read_dir(root.join("boot")).context("no /boot in the kernel's package")? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        // Debian calls this architecture's flat image vmlinux.
        if let Some(release) = name.strip_prefix("vmlinux-").or(name.strip_prefix("vmlinuz-")) {
            fs::copy(&path, parts.join("Image"))?;
            return Ok(release.to_owned());
        }
    }
    bail!("no kernel in {}", root.join("boot").display())
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
