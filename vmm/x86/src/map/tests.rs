use super::*;
use crate::testing::{GIB, MIB, layout};
use proptest::prelude::*;

fn ram_of(map: &[Region]) -> u64 {
    map.iter().filter(|region| region.kind == RegionKind::Ram).map(|region| region.bytes).sum()
}

#[test]
fn ram_goes_around_the_hole() {
    let blocks = |bytes| {
        let blocks = ram_blocks(bytes);
        blocks.iter().map(|b| (b.name.clone(), b.guest_address.0, b.bytes)).collect::<Vec<_>>()
    };
    let low = |bytes| ("ram-low".to_owned(), 0, bytes);
    let high = |bytes| ("ram-high".to_owned(), 4 * GIB, bytes);
    assert_eq!(blocks(512 * MIB), [low(512 * MIB)]);
    assert_eq!(blocks(3 * GIB - 4096), [low(3 * GIB - 4096)]);
    assert_eq!(blocks(3 * GIB), [low(3 * GIB)]);
    assert_eq!(blocks(3 * GIB + 4096), [low(3 * GIB), high(4096)]);
    assert_eq!(blocks(64 * GIB), [low(3 * GIB), high(61 * GIB)]);
}

#[test]
fn the_map_of_a_machine_with_ram_on_both_sides() {
    let map = memory_map(&layout(5 * GIB));
    let shown: Vec<_> =
        map.iter().map(|region| (region.start, region.bytes, region.kind as u32)).collect();
    assert_eq!(
        shown,
        [
            (0, 0xa_0000, 1),
            (0xe_0000, 0x2_0000, 3),
            (0x10_0000, 0xbff0_0000, 1),
            (0xfffb_c000, 0x4000, 2),
            (0x1_0000_0000, 0x8000_0000, 1),
        ]
    );
}

#[test]
fn what_devices_have_lies_in_the_hole_and_apart() {
    let pages: Vec<(u64, u64)> = (0..VIRTIO_MMIO_SLOTS)
        .filter_map(VirtioSlot::new)
        .map(|slot| (slot.base().0, VIRTIO_MMIO_BYTES))
        .chain([
            (IO_APIC, 0x1000),
            (LOCAL_APIC, 0x1000),
            (KVM_IDENTITY_MAP, 0x1000),
            (KVM_TSS, 0x3000),
        ])
        .collect();
    assert_eq!(pages.len(), 12);
    let mut end = HOLE_START;
    for (start, bytes) in pages {
        assert!(end <= start, "{start:#x} begins before {end:#x}");
        end = start + bytes;
    }
    assert!(end <= HOLE_END);
}

#[test]
fn slots_have_the_last_pins_of_the_io_apic() {
    let gsis: Vec<u32> = (0..).map_while(VirtioSlot::new).map(VirtioSlot::gsi).collect();
    assert_eq!(gsis, (16..IO_APIC_PINS).collect::<Vec<_>>());
}

proptest! {
    #[test]
    fn every_size_is_mapped_once_and_all_but_the_old_hole_is_ram(pages in 1u64..(8 << 18)) {
        let bytes = pages * 4096;
        let map = memory_map(&layout(bytes));
        for pair in map.windows(2) {
            prop_assert!(pair[0].start + pair[0].bytes <= pair[1].start, "{pair:x?}");
        }
        let lost = bytes.clamp(LOW_RAM_END, KERNEL_LOWEST) - LOW_RAM_END;
        prop_assert_eq!(ram_of(&map), bytes - lost);
        for region in map.iter().filter(|region| region.kind != RegionKind::Reserved) {
            let end = region.start + region.bytes;
            let blocks = ram_blocks(bytes);
            let inside = blocks.iter().any(|block| {
                let address = block.guest_address.0;
                address <= region.start && end <= address + block.bytes
            });
            prop_assert!(inside, "{region:x?}");
        }
    }
}
