//! Devices, and how to switch off (ACPI specification 6.5, chapters 6 and 7).
//!
//! ```text
//! \_S5      what to write into the sleep control register
//! \_SB
//!   COM1    a 16550 at the PC's place
//!   V000 …  virtio transports (Linux drivers/virtio/virtio_mmio.c)
//! ```

use super::{OEM, OEM_REVISION, OEM_TABLE};
use crate::map::{COM1, COM1_GSI, COM1_PORTS, SLEEP_TYPE_OFF, VIRTIO_MMIO_BYTES, VirtioSlot};
use acpi_tables::aml::{
    Device, EISAName, IO, Interrupt, Memory32Fixed, Name, Package, Path, ResourceTemplate, Scope,
};
use acpi_tables::sdt::Sdt;
use acpi_tables::{Aml, AmlSink};

/// Of the table's header.
const HEADER_BYTES: u32 = 36;
/// Integers have 64 bits.
const REVISION: u8 = 2;
/// Present, enabled, shown, working.
const STATUS: u8 = 0xf;

pub(super) fn bytes(virtio: &[VirtioSlot]) -> Vec<u8> {
    let mut table = Sdt::new(*b"DSDT", HEADER_BYTES, REVISION, OEM, OEM_TABLE, OEM_REVISION);
    let mut content = Vec::new();
    let (off, zero) = (SLEEP_TYPE_OFF, 0u8);
    Name::new(Path::new("_S5_"), &Package::new(vec![&off, &off, &zero, &zero]))
        .to_aml_bytes(&mut content);
    let virtio: Vec<Virtio> = virtio.iter().map(|&slot| Virtio(slot)).collect();
    let mut devices: Vec<&dyn Aml> = vec![&SerialPort];
    devices.extend(virtio.iter().map(|device| -> &dyn Aml { device }));
    Scope::new(Path::new("_SB_"), devices).to_aml_bytes(&mut content);
    table.append_slice(&content);
    table.as_slice().to_vec()
}

struct SerialPort;

impl Aml for SerialPort {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        let ports = IO::new(COM1, COM1, 1, COM1_PORTS as u8);
        Device::new(
            Path::new("COM1"),
            vec![
                &Name::new(Path::new("_HID"), &EISAName::new("PNP0501")),
                &Name::new(Path::new("_UID"), &1u8),
                &Name::new(Path::new("_STA"), &STATUS),
                &resources(&ports, COM1_GSI),
            ],
        )
        .to_aml_bytes(sink);
    }
}

struct Virtio(VirtioSlot);

impl Aml for Virtio {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        let Self(slot) = self;
        let window = Memory32Fixed::new(true, slot.base().0 as u32, VIRTIO_MMIO_BYTES as u32);
        Device::new(
            Path::new(&format!("V{:03}", slot.number())),
            vec![
                &Name::new(Path::new("_HID"), &"LNRO0005"),
                &Name::new(Path::new("_UID"), &slot.number()),
                // What it writes to memory is seen without more ado.
                &Name::new(Path::new("_CCA"), &1u8),
                &resources(&window, slot.gsi()),
            ],
        )
        .to_aml_bytes(sink);
    }
}

/// What a device occupies, and its interrupt line as our devices drive it: by its level, high, and
/// shared with none.
fn resources(registers: &dyn Aml, gsi: u32) -> Name {
    let (consumer, edge, low, shared) = (true, false, false, false);
    let line = Interrupt::new(consumer, edge, low, shared, gsi);
    Name::new(Path::new("_CRS"), &ResourceTemplate::new(vec![registers, &line]))
}
