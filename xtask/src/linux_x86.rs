//! Debian's kernel for x86-64 as a bzImage, and as the vmlinux that is packed in it.

use std::{fs, path::Path};

use anyhow::{Context, Result, bail};

use crate::{
    apt,
    kernels::{self, Kernel},
    paths, run,
};

/// Raise it when this file changes what it makes out of the same packages.
const VERSION: u32 = 1;
const KERNEL: Kernel = Kernel {
    architecture: "amd64",
    suites: ["bookworm", "oldstable"],
    package: "linux-image-cloud-amd64",
    beside: &[],
    folder: "linux-x86",
};

/// What unpacks a kernel: how its bytes begin, the program and its arguments, the program's package.
const UNPACKERS: [(&[u8], [&str; 2], &str); 4] = [
    (b"\x02\x21\x4c\x18", ["lz4", "-dc"], "lz4"),
    (b"\xfd7zXZ\0", ["xz", "-dc"], "xz-utils"),
    (b"\x28\xb5\x2f\xfd", ["zstd", "-dc"], "zstd"),
    (b"\x1f\x8b", ["gzip", "-dc"], "gzip"),
];

/// Makes `bzImage`, `vmlinux` and `version` in `guest/out/linux-x86`, if they are not there.
pub(crate) fn build() -> Result<()> {
    let out = paths::linux_x86_out();
    let mark = out.join("complete");
    if fs::read_to_string(&mark).is_ok_and(|text| text == VERSION.to_string()) {
        println!("guest: {} is up to date", out.display());
        return Ok(());
    }
    eprintln!("xtask: fetching Debian's x86-64 kernel");
    apt::need(&[("dpkg-deb", "dpkg")])?;
    let debs = KERNEL.fetch()?;
    let root = paths::cache().join("linux-x86/root");
    if !run::is_missing(&root)? {
        fs::remove_dir_all(&root)?;
    }
    apt::unpack(&debs, &root)?;
    fs::create_dir_all(&out)?;
    let bzimage = out.join("bzImage");
    kernels::take(&root, &bzimage)?;
    fs::remove_dir_all(&root)?;
    let file = fs::read(&bzimage)?;
    let payload = payload(&file).context("the kernel is no bzImage")?;
    fs::write(out.join("vmlinux"), unpacked(payload, &out.join("payload"))?)?;
    fs::write(out.join("version"), kernels::names(&debs) + "\n")?;
    fs::write(mark, VERSION.to_string())?;
    println!("guest: {} built: {}", out.display(), kernels::names(&debs));
    Ok(())
}

/// The packed kernel in a bzImage (Linux documentation, "The Linux/x86 Boot Protocol", `payload_offset`
/// and `payload_length`).
fn payload(bzimage: &[u8]) -> Option<&[u8]> {
    const SECTORS: usize = 0x1f1;
    const OFFSET: usize = 0x248;
    const LENGTH: usize = 0x24c;
    let number = |at: usize| -> Option<usize> {
        let bytes = bzimage.get(at..at + 4)?.try_into().ok()?;
        usize::try_from(u32::from_le_bytes(bytes)).ok()
    };
    let sectors = usize::from(*bzimage.get(SECTORS)?);
    let start = (sectors + 1) * 512 + number(OFFSET)?;
    bzimage.get(start..start.checked_add(number(LENGTH)?)?)
}

fn unpacked(payload: &[u8], file: &Path) -> Result<Vec<u8>> {
    let Some((_, [program, option], package)) =
        UNPACKERS.iter().find(|(magic, ..)| payload.starts_with(magic))
    else {
        bail!("the kernel is packed by something unknown");
    };
    apt::need(&[(program, package)])?;
    // The kernel's build adds the unpacked size, which the formats other than gzip do not have there.
    let size = if *program == "gzip" { 0 } else { 4 };
    let packed = payload.get(..payload.len().saturating_sub(size)).unwrap_or_default();
    fs::write(file, packed)?;
    let kernel = run::output(run::command(program, [*option]).arg(file))?;
    fs::remove_file(file)?;
    Ok(kernel)
}

#[cfg(test)]
mod tests {
    use super::payload;

    #[test]
    fn the_packed_kernel_lies_where_the_header_says() {
        let mut file = vec![0; 4096];
        file[0x1f1] = 2;
        file[0x248..0x24c].copy_from_slice(&0x123u32.to_le_bytes());
        file[0x24c..0x250].copy_from_slice(&5u32.to_le_bytes());
        file[0x723..0x728].copy_from_slice(b"hello");
        assert_eq!(payload(&file), Some(b"hello".as_slice()));
        file[0x24c..0x250].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(payload(&file), None);
        assert_eq!(payload(b"MZ"), None);
    }
}
