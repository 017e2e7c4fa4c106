//! The bare-metal test guests: building them, and checking the images in the repository.

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};

use crate::{apt, paths, run};

/// A compiler, and the Debian package that has it.
pub(crate) type Compiler = (&'static str, &'static str);

/// Makes programs for Linux on RISC-V as well.
pub(crate) const RISCV64_COMPILER: Compiler = ("riscv64-linux-gnu-gcc", "gcc-riscv64-linux-gnu");
/// The name that both this machine's own compiler and one for another machine have.
pub(crate) const X86_64_COMPILER: Compiler = (
    "x86_64-linux-gnu-gcc",
    if cfg!(target_arch = "x86_64") { "gcc" } else { "gcc-x86-64-linux-gnu" },
);

/// Freestanding, and the same bytes wherever it is built: no build id, no paths, no comments.
const FLAGS: [&str; 19] = [
    "-ffreestanding",
    "-nostdlib",
    "-static",
    "-no-pie",
    "-fno-pie",
    "-O2",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-fno-stack-protector",
    "-fno-asynchronous-unwind-tables",
    "-I../shared",
    "-I../devices",
    "-I../../common",
    "-Wl,--build-id=none",
    "-Wl,-s",
    "-Wl,-T,link.ld",
    "-Wl,-z,max-page-size=4096",
    "-Wl,--no-warn-rwx-segments",
];

/// The test guest of one architecture.
struct TestGuest {
    architecture: &'static str,
    compiler: Compiler,
    flags: &'static [&'static str],
    /// Folders with C files, seen from its own: that, what the architectures share, and what it uses of the rest.
    parts: &'static [&'static str],
    /// Name of its image; the note of how it was made has the same one with another ending.
    image: &'static str,
}

const ALL: [TestGuest; 2] = [
    TestGuest {
        architecture: "riscv64",
        compiler: RISCV64_COMPILER,
        flags: &["-std=c11", "-march=rv64imac_zicsr_zifencei", "-mabi=lp64", "-mcmodel=medany"],
        parts: &[".", "../shared", "../../common"],
        image: "umem-test-guest",
    },
    TestGuest {
        architecture: "x86_64",
        compiler: X86_64_COMPILER,
        flags: &[
            "-std=gnu11", // for registers and address spaces
            "-m64",
            "-march=x86-64",
            "-mgeneral-regs-only",
            "-mno-red-zone",
            "-mcmodel=small",
            "-fcf-protection=none",
            "-Wl,-z,noexecstack",
        ],
        parts: &[".", "../shared", "../devices", "../../common"],
        image: "umem-test-guest-x86_64",
    },
];

/// Builds the images into the repository, each with a note of what it was built with.
pub(crate) fn build() -> Result<()> {
    ALL.iter().try_for_each(TestGuest::build)
}

/// Builds the images anew and compares what is loaded into memory with those in the repository.
pub(crate) fn check() -> Result<()> {
    ALL.iter().try_for_each(TestGuest::check)
}

impl TestGuest {
    fn image(&self) -> PathBuf {
        folder().join("image").join(format!("{}.elf", self.image))
    }

    fn record(&self) -> PathBuf {
        folder().join("image").join(format!("{}.txt", self.image))
    }

    fn build(&self) -> Result<()> {
        apt::need(&[self.compiler])?;
        let image = self.image();
        self.compile(&image)?;
        let text = format!("compiler: {}\nsha256: {}\n", self.compiler_version()?, sha256(&image)?);
        fs::write(self.record(), text)?;
        println!("guest: {} built", image.display());
        Ok(())
    }

    fn check(&self) -> Result<()> {
        apt::need(&[self.compiler])?;
        let (image, record, name) = (self.image(), self.record(), self.architecture);
        let noted = fs::read_to_string(&record)
            .with_context(|| format!("cannot read {}", record.display()))?;
        let value =
            |name: &str| noted.lines().find_map(|line| line.strip_prefix(name)).unwrap_or("?");
        let (with, hash) = (value("compiler: "), sha256(&image)?);
        if value("sha256: ") != hash {
            bail!("the {name} test guest's image is not the one noted; run: cargo xtask guest");
        }
        let scratch = tempfile::tempdir()?;
        let anew = scratch.path().join("anew.elf");
        self.compile(&anew)?;
        if loaded(&anew)? == loaded(&image)? {
            println!("guest: the {name} image is what its source gives (sha256 {hash})");
            return Ok(());
        }
        let here = self.compiler_version()?;
        if here != with {
            // Another compiler's bytes prove nothing either way; the recorded one's do.
            println!("guest: {name} not compared: built with {with}, here is {here}");
            return Ok(());
        }
        bail!("the {name} test guest's image is not what its source gives; run: cargo xtask guest")
    }

    fn compile(&self, to: &Path) -> Result<()> {
        let here = folder().join(self.architecture);
        let mut arguments: Vec<OsString> =
            self.flags.iter().chain(&FLAGS).map(OsString::from).collect();
        arguments.extend(["-o".into(), to.into(), "start.S".into()]);
        // Relative names, so that no path of this machine can get into the image.
        for part in self.parts {
            for source in sources(&here.join(part))? {
                let name = Path::new(&source).file_name().unwrap_or_default();
                arguments.push(Path::new(part).join(name).into());
            }
        }
        run::output(run::command(self.compiler.0, arguments).current_dir(here)).map(drop)
    }

    fn compiler_version(&self) -> Result<String> {
        let text = run::text(&mut run::command(self.compiler.0, ["--version"]))?;
        Ok(text.lines().next().unwrap_or_default().to_owned())
    }
}

fn folder() -> PathBuf {
    paths::root().join("guest/test-guest")
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
    use super::{ALL, segments};

    #[test]
    fn the_images_are_loaded_where_the_machines_start_kernels() {
        for (guest, start) in ALL.iter().zip([0x8020_0000, 0x20_0000]) {
            let elf = std::fs::read(guest.image()).unwrap();
            let (entry, found) = segments(&elf).unwrap();
            assert_eq!(found[0].0, start);
            assert!((start..start + 0x1000).contains(&entry), "{entry:#x}");
            assert!(found[0].1 > found[0].2.len() as u64, "stack and tables take no room");
        }
    }

    #[test]
    fn a_cut_image_is_an_error_and_no_panic() {
        for guest in &ALL {
            let elf = std::fs::read(guest.image()).unwrap();
            for length in 0..elf.len().min(176) {
                assert!(segments(&elf[..length]).is_none());
            }
        }
    }
}
