//! Debian's kernel in both its forms, loaded into RAM. `UMEM_LINUX_X86` names the folder that has it
//! (`cargo xtask guest linux-x86`).
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]
#![allow(clippy::unwrap_used)]

use std::io::Write;
use std::path::PathBuf;
use umem_memory::{Backend, GuestAddress, GuestRam, PageSize, RamLayout};
use x86_boot::map::{Board, ram_blocks};
use x86_boot::{BootFiles, Start, load};

const MIB: u64 = 1 << 20;
const COMMAND_LINE: &str = "console=ttyS0 root=/dev/vda";
/// Headers of bzImages in their files and in the boot parameters.
const HEADER: std::ops::Range<usize> = 0x1f1..0x26c;

/// The file, or a line in the list of what was skipped.
fn given(test: &str, name: &str) -> Option<PathBuf> {
    let Some(folder) = std::env::var_os("UMEM_LINUX_X86") else {
        let line =
            format!("x86-boot {test}: UMEM_LINUX_X86 is not set; run it by: cargo xtask test");
        eprintln!("skipped: {line}");
        if let Some(path) = std::env::var_os("UMEM_SKIP_LOG") {
            let mut log = std::fs::OpenOptions::new().create(true).append(true).open(path).unwrap();
            writeln!(log, "{line}").unwrap();
        }
        return None;
    };
    Some(PathBuf::from(folder).join(name))
}

fn number(from: &[u8], at: usize, bytes: usize) -> u64 {
    from[at..at + bytes].iter().rev().fold(0, |sum, &byte| sum << 8 | u64::from(byte))
}

struct Loaded {
    ram: GuestRam,
    start: Start,
    file: Vec<u8>,
}

impl Loaded {
    fn new(kernel: &PathBuf) -> Self {
        let layout = RamLayout::new(PageSize::SMALL, ram_blocks(512 * MIB)).unwrap();
        let ram = GuestRam::new(layout, &Backend::Anonymous).unwrap();
        let initrd = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(initrd.path(), [0x77; 12345]).unwrap();
        let files = BootFiles { kernel, initrd: Some(initrd.path()), command_line: COMMAND_LINE };
        let start = load(&ram, &files, &Board { processors: 1, virtio: Vec::new() }).unwrap();
        Self { ram, start, file: std::fs::read(kernel).unwrap() }
    }

    fn at(&self, address: u64, bytes: usize) -> Vec<u8> {
        let mut read = vec![0; bytes];
        self.ram.read_at(GuestAddress(address), &mut read).unwrap();
        read
    }
}

#[test]
fn a_bzimage_lies_where_its_header_says() {
    let Some(path) = given("Debian's bzImage", "bzImage") else { return };
    let loaded = Loaded::new(&path);
    let Start::Linux64 { entry, boot_params, .. } = loaded.start else {
        panic!("{:?}", loaded.start)
    };
    let file = &loaded.file;
    let start = number(file, 0x214, 4);
    assert_eq!(entry.0, start + 0x200);
    let setup = (number(file, 0x1f1, 1) as usize + 1) * 512;
    assert!(loaded.at(start, file.len() - setup) == file[setup..], "not the file's bytes");

    // The header is the file's but for what the loader has to say.
    let page = loaded.at(boot_params.0, 4096);
    let mut expected = file[HEADER].to_vec();
    let mut told = |at: usize, bytes: usize, value: u64| {
        let at = at - HEADER.start;
        expected[at..at + bytes].copy_from_slice(&value.to_le_bytes()[..bytes]);
    };
    told(0x210, 1, 0xff);
    let initrd = number(&page, 0x218, 4);
    assert!(initrd.is_multiple_of(4096) && initrd + 12345 <= 512 * MIB, "{initrd:#x}");
    assert!(initrd + 12345 > 512 * MIB - 4096, "as high as it may lie, not at {initrd:#x}");
    told(0x218, 4, initrd);
    told(0x21c, 4, 12345);
    let command_line = number(&page, 0x228, 4);
    told(0x228, 4, command_line);
    // The file's header ends where it says; what follows is code.
    let end = 0x202 + usize::from(file[0x201]);
    expected[end - HEADER.start..].fill(0);
    assert_eq!(&page[HEADER], expected);
    assert!(number(&page, 0x206, 2) >= 0x20c);
    assert_eq!(loaded.at(initrd, 12345), [0x77; 12345]);
    let text = [COMMAND_LINE.as_bytes(), &[0]].concat();
    assert_eq!(loaded.at(command_line, text.len()), text);
}

#[test]
fn the_vmlinux_in_it_is_entered_by_pvh() {
    let Some(path) = given("Debian's vmlinux", "vmlinux") else { return };
    let loaded = Loaded::new(&path);
    let Start::Pvh { entry, start_info } = loaded.start else { panic!("{:?}", loaded.start) };
    // Where its segments lie, as the file's own list says.
    let file = &loaded.file;
    let (list, count) = (number(file, 32, 8) as usize, number(file, 56, 2) as usize);
    let mut entered = false;
    for at in (0..count).map(|index| list + 56 * index) {
        let (offset, bytes) = (number(file, at + 8, 8) as usize, number(file, at + 32, 8) as usize);
        let address = number(file, at + 24, 8);
        if number(file, at, 4) == 1 {
            assert!(loaded.at(address, bytes) == file[offset..offset + bytes], "at {address:#x}");
            let code = number(file, at + 4, 4) & 1 != 0;
            entered |= code && (address..address + bytes as u64).contains(&entry.0);
        }
    }
    assert!(entered, "{entry:x?} is not in code");
    let info = loaded.at(start_info.0, 56);
    assert_eq!((number(&info, 0, 4), number(&info, 12, 4)), (0x336e_c578, 1));
}
