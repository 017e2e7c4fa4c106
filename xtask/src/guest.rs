//! The bare-metal test guest: building it, and checking the image in the repository.

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};

use crate::{apt, paths, run};

/// The cross compiler, and the Debian package that has it.
pub(crate) const COMPILER: (&str, &str) = ("riscv64-linux-gnu-gcc", "gcc-riscv64-linux-gnu");

/// Freestanding, and the same bytes wherever it is built: no build id, no paths, no comments.
const FLAGS: [&str; 22] = [
    "-std=c11",
    "-ffreestanding",
    "-nostdlib",
    "-static",
    "-no-pie",
    "-fno-pie",
    "-O2",
    "-march=rv64imac_zicsr_zifencei",
    "-mabi=lp64",
    "-mcmodel=medany",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-fno-stack-protector",
    "-fno-asynchronous-unwind-tables",
    "-I../common",
    "-Wl,--build-id=none",
    "-Wl,-s",
    "-Wl,-T,link.ld",
    "-Wl,-z,max-page-size=4096",
    "-Wl,--no-warn-rwx-segments",
    "-o",
];

fn folder() -> PathBuf {
    paths::root().join("guest/test-guest")
}

fn image() -> PathBuf {
    folder().join("image/umem-test-guest.elf")
}

fn record() -> PathBuf {
    folder().join("image/BUILT.txt")
}

/// Builds the image into the repository, with a note of what it was built with.
pub(crate) fn build() -> Result<()> {
    apt::need(&[COMPILER])?;
    compile(&image())?;
    let text = format!("compiler: {}\nsha256: {}\n", compiler()?, sha256(&image())?);
    fs::write(record(), text)?;
    println!("guest: {} built", image().display());
    Ok(())
}

/// Builds the image anew and compares what is loaded into memory with the one in the repository.
pub(crate) fn check() -> Result<()> {
    apt::need(&[COMPILER])?;
    let noted = fs::read_to_string(record()).context("cannot read the image's BUILT.txt")?;
    let value = |name: &str| noted.lines().find_map(|line| line.strip_prefix(name)).unwrap_or("?");
    let (with, hash) = (value("compiler: "), sha256(&image())?);
    if value("sha256: ") != hash {
        bail!("the test guest's image is not the one noted in BUILT.txt; run: cargo xtask guest");
    }
    let scratch = tempfile::tempdir()?;
    let anew = scratch.path().join("anew.elf");
    compile(&anew)?;
    let same = loaded(&anew)? == loaded(&image())?;
    let here = compiler()?;
    if same {
        println!("guest: the image in the repository is what its source gives (sha256 {hash})");
        return Ok(());
    }
    if here != with {
        // Another compiler's bytes prove nothing either way; the recorded one's do.
        println!("guest: not compared: built with {with}, here is {here}, and the bytes differ");
        return Ok(());
    }
    bail!("the test guest's image is not what its source gives; run: cargo xtask guest")
}

fn compile(to: &Path) -> Result<()> {
    let mut arguments: Vec<OsString> = FLAGS.map(OsString::from).to_vec();
    arguments.push(to.into());
    arguments.push("start.S".into());
    arguments.extend(sources(&folder())?);
    arguments.extend(sources(&paths::root().join("guest/common"))?);
    // Relative names, so that no path of this machine can get into the image.
    let here = paths::root().join("guest");
    let arguments =
        arguments.into_iter().map(|argument| match Path::new(&argument).strip_prefix(&here) {
            Ok(inside) => Path::new("..").join(inside).into_os_string(),
            Err(_) => argument,
        });
    run::output(run::command(COMPILER.0, arguments).current_dir(folder())).map(drop)
}

/// The C files of a folder, in order.
pub(crate) fn sources(folder: &Path) -> Result<Vec<OsString>> {
    let mut found = Vec::new();
    for entry in
        fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?
    {
        let path = entry?.path();
        if path.extension().is_some_and(|end| end == "c") {
            found.push(path.into_os_string());
        }
    }
    found.sort();
    Ok(found)
}

fn compiler() -> Result<String> {
    let text = run::text(&mut run::command(COMPILER.0, ["--version"]))?;
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

fn sha256(file: &Path) -> Result<String> {
    let text = run::text(run::command("sha256sum", ["--"]).arg(file))?;
    Ok(text.split_whitespace().next().unwrap_or_default().to_owned())
}

/// What the program headers load: address, size in memory and bytes of each segment, and the entry.
fn loaded(file: &Path) -> Result<(u64, Vec<Segment>)> {
    let elf = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    segments(&elf).with_context(|| format!("{} is not a 64-bit little-endian ELF", file.display()))
}

type Segment = (u64, u64, Vec<u8>);

fn segments(elf: &[u8]) -> Option<(u64, Vec<Segment>)> {
    const PT_LOAD: u64 = 1;
    let number = |at: usize, bytes: usize| -> Option<u64> {
        let mut value = [0; 8];
        value.get_mut(..bytes)?.copy_from_slice(elf.get(at..at.checked_add(bytes)?)?);
        Some(u64::from_le_bytes(value))
    };
    let index = |at: usize, bytes: usize| number(at, bytes).and_then(|n| usize::try_from(n).ok());
    if elf.get(..6)? != b"\x7fELF\x02\x01" {
        return None;
    }
    let (table, size, count) = (index(32, 8)?, index(54, 2)?, index(56, 2)?);
    let mut found = Vec::new();
    for header in (0..count).map(|i| table + i * size) {
        if number(header, 4)? == PT_LOAD {
            let (from, bytes) = (index(header + 8, 8)?, index(header + 32, 8)?);
            let content = elf.get(from..from.checked_add(bytes)?)?.to_vec();
            found.push((number(header + 16, 8)?, number(header + 40, 8)?, content));
        }
    }
    Some((number(24, 8)?, found))
}

#[cfg(test)]
mod tests {
    use super::{image, segments};

    #[test]
    fn the_image_is_loaded_at_the_address_that_qemu_and_umem_start_kernels_at() {
        let elf = std::fs::read(image()).unwrap();
        let (entry, found) = segments(&elf).unwrap();
        assert_eq!(entry, 0x8020_0000);
        assert_eq!(found[0].0, 0x8020_0000);
        assert!(found[0].1 > found[0].2.len() as u64, "stack and tables take no room in the file");
    }

    #[test]
    fn a_cut_image_is_an_error_and_no_panic() {
        let elf = std::fs::read(image()).unwrap();
        for length in 0..elf.len().min(200) {
            assert!(segments(&elf[..length]).is_none());
        }
    }
}
