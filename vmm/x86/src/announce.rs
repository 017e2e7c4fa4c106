//! Devices for kernels that read no ACPI tables.

use crate::map::{VIRTIO_MMIO_BYTES, VirtioSlot};

/// Arguments on the command line that announce virtio devices to a Linux without ACPI, separated by
/// spaces: `virtio_mmio.device=4K@0xd0000000:16` (Linux `drivers/virtio/virtio_mmio.c`). One that
/// reads the tables would find each device twice.
#[must_use]
pub fn virtio_mmio_arguments(slots: &[VirtioSlot]) -> String {
    let argument = |slot: &VirtioSlot| {
        let (kib, base) = (VIRTIO_MMIO_BYTES >> 10, slot.base().0);
        format!("virtio_mmio.device={kib}K@{base:#x}:{}", slot.gsi())
    };
    slots.iter().map(argument).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_device_is_announced_with_window_and_interrupt() {
        let slots: Vec<_> = [0, 7].into_iter().filter_map(VirtioSlot::new).collect();
        assert_eq!(
            virtio_mmio_arguments(&slots),
            "virtio_mmio.device=4K@0xd0000000:16 virtio_mmio.device=4K@0xd0007000:23"
        );
        assert_eq!(virtio_mmio_arguments(&[]), "");
    }
}
