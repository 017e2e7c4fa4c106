use super::*;
use crate::map::VirtioSlot;
use crate::testing::{MIB, bzimage, elf, number, pvh_note, ram, ram_at};
use std::fs;
use std::path::PathBuf;
use tempfile::TempDir;

struct Files {
    folder: TempDir,
    kernel: PathBuf,
    initrd: Option<PathBuf>,
    command_line: String,
}

impl Files {
    fn new(kernel: &[u8]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kernel");
        fs::write(&path, kernel).unwrap();
        Self { folder, kernel: path, initrd: None, command_line: "console=ttyS0".to_owned() }
    }

    fn initrd(mut self, content: &[u8]) -> Self {
        let path = self.folder.path().join("initrd");
        fs::write(&path, content).unwrap();
        self.initrd = Some(path);
        self
    }

    fn load(&self, ram: &GuestRam) -> Result<Start, BootError> {
        let files = BootFiles {
            kernel: &self.kernel,
            initrd: self.initrd.as_deref(),
            command_line: &self.command_line,
        };
        load(ram, &files, &Board { processors: 2, virtio: vec![VirtioSlot::new(0).unwrap()] })
    }
}

fn pvh_kernel() -> Vec<u8> {
    elf(0x20_0000, 0x20_0000, &[0x90; 64], 0x1234, Some(&pvh_note(0x20_0010)))
}

#[test]
fn a_pvh_kernel_finds_all_that_it_is_told_of() {
    let ram = ram(64 * MIB);
    let start = Files::new(&pvh_kernel()).initrd(&[0x77; 5000]).load(&ram).unwrap();
    let Start::Pvh { entry, start_info } = start else { panic!("{start:?}") };
    assert_eq!(entry.0, 0x20_0010);
    let info = ram_at(&ram, start_info.0, 0x400);
    assert_eq!(number(&info, 0, 4), 0x336e_c578);
    assert_eq!(ram_at(&ram, number(&info, 24, 8), 14), b"console=ttyS0\0");
    assert_eq!(ram_at(&ram, number(&info, 32, 8), 8), b"RSD PTR ");
    // As high as whole pages go.
    let module = ram_at(&ram, number(&info, 16, 8), 16);
    assert_eq!((number(&module, 0, 8), number(&module, 8, 8)), (64 * MIB - 8192, 5000));
    assert_eq!(ram_at(&ram, 64 * MIB - 8192, 5001), [[0x77; 5000].as_slice(), &[0]].concat());
    let map = ram_at(&ram, number(&info, 40, 8), 24);
    assert_eq!((number(&map, 0, 8), number(&map, 8, 8), number(&map, 16, 4)), (0, 0xa_0000, 1));
}

#[test]
fn a_linux_finds_all_that_it_is_told_of() {
    let ram = ram(64 * MIB);
    let start = Files::new(&bzimage(&[0x42; 4096])).initrd(&[0x77; 4096]).load(&ram).unwrap();
    let Start::Linux64 { entry, boot_params, gdt, page_table } = start else { panic!("{start:?}") };
    assert_eq!(entry.0, 0x10_0200);
    let page = ram_at(&ram, boot_params.0, 4096);
    assert_eq!(&page[0x202..0x206], b"HdrS");
    assert_eq!(ram_at(&ram, number(&page, 0x228, 4), 14), b"console=ttyS0\0");
    assert_eq!(ram_at(&ram, number(&page, 0x070, 8), 8), b"RSD PTR ");
    assert_eq!(number(&page, 0x218, 4), 64 * MIB - 4096);
    assert_eq!(ram_at(&ram, gdt.0, long_mode::GDT_BYTES), long_mode::gdt());
    assert!(ram_at(&ram, page_table.0, 6 * 4096) == long_mode::page_tables(page_table.0));
}

#[test]
fn an_initial_ram_disk_lies_where_the_kernel_reaches_it() {
    let ram = ram(64 * MIB);
    let mut kernel = bzimage(&[0x42; 4096]);
    kernel[0x22c..0x230].copy_from_slice(&0x1ff_ffffu32.to_le_bytes());
    let Start::Linux64 { boot_params, .. } =
        Files::new(&kernel).initrd(&[0x77; 4096]).load(&ram).unwrap()
    else {
        panic!("not by the 64-bit protocol")
    };
    let page = ram_at(&ram, boot_params.0, 4096);
    assert_eq!(number(&page, 0x218, 4), 32 * MIB - 4096);
    let error = Files::new(&kernel).initrd(&vec![1; 13 << 20]).load(&ram).unwrap_err();
    assert_eq!(
        error.to_string(),
        "initial RAM disk of 13631488 bytes does not fit between the kernel's end at 0x1400000 and 0x2000000, \
         the end of what the kernel can reach; give a smaller one"
    );
}

#[test]
fn an_initial_ram_disk_that_is_too_large_is_named_with_sizes() {
    let error =
        Files::new(&pvh_kernel()).initrd(&vec![1; 7 << 20]).load(&ram(8 * MIB)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "initial RAM disk of 7340032 bytes does not fit between the kernel's end at 0x202000 and 0x800000, \
         the end of RAM below 4 GiB; give more with -m, or a smaller one"
    );
}

#[test]
fn a_command_line_is_taken_up_to_what_the_kernel_takes() {
    let mut files = Files::new(&pvh_kernel());
    files.command_line = "x".repeat(2047);
    let ram = ram(8 * MIB);
    files.load(&ram).unwrap();
    let written = ram_at(&ram, map::COMMAND_LINE, 2048);
    assert_eq!((written[2046], written[2047]), (b'x', 0));
    files.command_line.push('x');
    let error = files.load(&ram).unwrap_err();
    assert_eq!(error.to_string(), "command line of 2048 bytes: the kernel takes 2047");
    files.command_line = "ro\0quiet".to_owned();
    let error = files.load(&ram).unwrap_err();
    assert_eq!(error.to_string(), "command line holds a zero byte at 2, where it would end");
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let mut files = Files::new(&pvh_kernel());
    files.initrd = Some("/nowhere/initrd".into());
    let error = files.load(&ram(8 * MIB)).unwrap_err();
    assert_eq!(error.to_string(), "cannot read initial RAM disk /nowhere/initrd");
    files.kernel = "/nowhere/kernel".into();
    let error = files.load(&ram(8 * MIB)).unwrap_err();
    assert_eq!(error.to_string(), "cannot read kernel /nowhere/kernel");
}

#[test]
fn ram_that_is_too_small_for_anything_is_refused() {
    for kib in [4u64, 640, 1024] {
        let error = Files::new(&pvh_kernel()).load(&ram(kib << 10)).unwrap_err();
        assert!(error.to_string().contains("does not fit"), "{error}");
    }
}
