use super::*;
use crate::testing::{MIB, bzimage, elf, number, put, pvh_note, ram, ram_at};
use proptest::prelude::*;
use umem_memory::GuestRam;
use vm_memory::ByteValued;

const TEST_GUEST: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/../../guest/test-guest/image/umem-test-guest-x86_64.elf");

fn place_in(ram: &GuestRam, file: &[u8]) -> Result<Kernel, BootError> {
    place(&Placer::new(ram), Path::new("kernel"), file)
}

fn refused(file: &[u8]) -> String {
    place_in(&ram(32 * MIB), file).unwrap_err().to_string()
}

#[test]
fn a_vmlinux_is_entered_where_its_header_says() {
    let ram = ram(32 * MIB);
    let kernel =
        place_in(&ram, &elf(0x20_0010, 0x20_0000, b"kernel of code", 0x5000, None)).unwrap();
    let Entry::Linux64(entry, header) = kernel.entry else { panic!("{kernel:?}") };
    assert_eq!((entry, kernel.end), (0x20_0010, 0x20_5000));
    let (flag, magic, alignment) = (header.boot_flag, header.header, header.kernel_alignment);
    assert_eq!((flag, magic, alignment), (0xaa55, 0x5372_6448, 0x100_0000));
    assert_eq!(ram_at(&ram, 0x20_0000, 14), b"kernel of code");
}

#[test]
fn a_kernel_with_xens_note_is_entered_by_it() {
    let note = pvh_note(0x20_0004);
    let ram = ram(32 * MIB);
    let kernel = place_in(&ram, &elf(0x20_0000, 0x20_0000, &[0x90; 64], 64, Some(&note))).unwrap();
    assert!(matches!(kernel.entry, Entry::Pvh(0x20_0004)), "{kernel:?}");
}

#[test]
fn a_bzimage_is_entered_behind_its_32_bit_entry() {
    let ram = ram(32 * MIB);
    let kernel = place_in(&ram, &bzimage(&[0x42; 4096])).unwrap();
    let Entry::Linux64(entry, header) = kernel.entry else { panic!("{kernel:?}") };
    assert_eq!(entry, 0x10_0200);
    // It unpacks itself to 16 MiB, and says that it needs 4 MiB there.
    assert_eq!(kernel.end, 20 * MIB);
    assert_eq!((kernel.command_line_most, kernel.initrd_end), (2047, 0x8000_0000));
    assert_eq!(ram_at(&ram, MIB, 4096), [0x42; 4096]);
    let bytes = header.as_slice();
    assert_eq!(number(bytes, 0x238 - 0x1f1, 4), 2047);
    assert!(!bytes.contains(&0xee), "what follows the header came along");
}

#[test]
fn the_test_guest_loads() {
    let file = std::fs::read(TEST_GUEST).unwrap();
    let ram = ram(64 * MIB);
    let kernel = place_in(&ram, &file).unwrap();
    let Entry::Pvh(entry) = kernel.entry else { panic!("{kernel:?}") };
    assert!((2 * MIB..kernel.end).contains(&entry), "{kernel:x?}");
    // Its entry point as link.ld says, and its first segment, byte for byte.
    let (offset, address, bytes) =
        (number(&file, 64 + 8, 8), number(&file, 64 + 24, 8), number(&file, 64 + 32, 8));
    assert_eq!((number(&file, 24, 8), address), (entry, 2 * MIB));
    let (offset, bytes) = (offset as usize, bytes as usize);
    assert!(ram_at(&ram, address, bytes) == file[offset..offset + bytes]);
}

#[test]
fn kernels_of_other_architectures_are_refused_in_a_line() {
    let mut riscv = elf(0x8000_0000, 0x8000_0000, b"code", 4, None);
    put(&mut riscv, 18, 2, 243);
    assert_eq!(
        refused(&riscv),
        "kernel: an ELF file for machine 243, but accel=kvm on this host runs x86-64 (machine 62); \
         use accel=tcg for riscv64 (machine 243)"
    );
    let mut big = riscv.clone();
    big[5] = 2;
    big[18..20].copy_from_slice(&[0, 22]);
    assert!(refused(&big).contains("ELF file for machine 22,"));
    let mut image = vec![0; 4096];
    image[56..60].copy_from_slice(b"RSC\x05");
    assert_eq!(
        refused(&image),
        "kernel: a Linux Image for riscv, but accel=kvm on this host runs x86-64 (vmlinux or bzImage); \
         use accel=tcg for riscv64"
    );
    image[56..60].copy_from_slice(b"ARM\x64");
    assert!(refused(&image).contains("a Linux Image for arm64"));
}

#[test]
fn what_is_no_kernel_is_refused_in_a_line() {
    assert!(refused(b"").contains("no kernel for x86-64: 0 bytes of neither"));
    assert!(refused(&[0x5a; 5000]).contains("5000 bytes of neither ELF nor Linux"));
    assert!(refused(b"\x7fELF").contains("an ELF file without a whole header"));
    assert!(refused(b"\x1f\x8b\x08 and so on").contains("compressed by gzip"));
    let mut narrow = elf(0x20_0000, 0x20_0000, b"code", 4, None);
    narrow[4] = 1;
    assert!(refused(&narrow).contains("damaged ELF file"));
    narrow[4] = 2;
    narrow[5] = 2;
    narrow[18..20].copy_from_slice(&[0, 62]);
    assert!(refused(&narrow).contains("big-endian"));
    assert!(refused(&elf(0x30_0000, 0x20_0000, b"code", 4, None)).contains("0x300000 outside"));
    assert!(refused(&elf(0x20_0000, 0x20_0000, b"code", 3, None)).contains("3 bytes with 4 in it"));
    let whole = elf(0x20_0000, 0x20_0000, &[7; 100], 100, None);
    assert!(refused(&whole[..whole.len() - 1]).contains("100 bytes at 0xb0 of a file of 275"));
}

#[test]
fn bzimages_without_a_64_bit_entry_are_refused() {
    let mut narrow = bzimage(&[0; 4096]);
    put(&mut narrow, 0x236, 2, 0x7e);
    assert!(refused(&narrow).contains("boot protocol 2.15 without a 64-bit entry point"));
    let mut old = bzimage(&[0; 4096]);
    put(&mut old, 0x206, 2, 0x204);
    assert!(refused(&old).contains("boot protocol 2.04 without"));
    assert!(refused(&bzimage(&[0; 4096])[..0x240]).contains("cut short"));
    assert!(refused(&bzimage(b"")).contains("1536 bytes with 1536 of real-mode code"));
}

#[test]
fn what_does_not_fit_is_named_with_sizes() {
    let line = refused(&elf(0x20_0000, 0x20_0000, b"code", 31 * MIB, None));
    assert_eq!(
        line,
        "kernel segment of 32505856 bytes does not fit at 0x200000 into RAM from 0x100000 to 0x2000000; \
         give more with -m"
    );
    assert!(
        refused(&elf(0x8000, 0x8000, b"code", 4, None))
            .contains("of 4 bytes does not fit at 0x8000")
    );
    assert!(
        refused(&bzimage(&vec![0; 32 << 20]))
            .contains("kernel of 33554432 bytes does not fit at 0x100000")
    );
    let mut large = bzimage(&[0; 4096]);
    put(&mut large, 0x260, 4, 17 << 20);
    assert!(
        refused(&large).contains("unpacked kernel of 17825792 bytes does not fit at 0x1000000")
    );
}

#[test]
fn a_kernel_that_stays_where_it_is_put_needs_no_room_elsewhere() {
    let mut fixed = bzimage(&[0; 4096]);
    put(&mut fixed, 0x234, 1, 0);
    put(&mut fixed, 0x258, 8, MIB);
    let kernel = place_in(&ram(8 * MIB), &fixed).unwrap();
    assert_eq!(kernel.end, 5 * MIB);
}

/// Bytes to be written over a file, with their places.
fn damage() -> impl Strategy<Value = Vec<(usize, Vec<u8>)>> {
    let bytes = prop_oneof![
        proptest::collection::vec(any::<u8>(), 1..9),
        Just(vec![0xff; 8]),
        Just(vec![0; 8]),
        any::<u32>().prop_map(|value| value.to_le_bytes().to_vec()),
    ];
    proptest::collection::vec((0usize..0x300, bytes), 1..6)
}

fn damaged(mut file: Vec<u8>, damage: &[(usize, Vec<u8>)], keep: usize) -> Vec<u8> {
    for (at, bytes) in damage {
        let end = (at + bytes.len()).min(file.len());
        if *at < end {
            file[*at..end].copy_from_slice(&bytes[..end - at]);
        }
    }
    file.truncate(keep);
    file
}

proptest! {
    #[test]
    fn hostile_kernels_are_loaded_or_refused(damage in damage(), keep in 0usize..6000) {
        let ram = ram(32 * MIB);
        let note = pvh_note(0x20_0000);
        for file in [
            elf(0x20_0000, 0x20_0000, &[1; 600], 4096, Some(&note)),
            elf(0x20_0000, 0x20_0000, &[1; 600], 4096, None),
            bzimage(&[2; 1024]),
        ] {
            for keep in [usize::MAX, keep] {
                if let Ok(kernel) = place_in(&ram, &damaged(file.clone(), &damage, keep)) {
                    prop_assert!((MIB..=32 * MIB).contains(&kernel.end));
                    let (Entry::Pvh(entry) | Entry::Linux64(entry, _)) = kernel.entry;
                    prop_assert!((MIB..32 * MIB).contains(&entry), "{entry:#x}");
                }
            }
        }
    }

    #[test]
    fn arbitrary_bytes_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..2048)) {
        prop_assert!(place_in(&ram(32 * MIB), &bytes).is_err());
    }
}
