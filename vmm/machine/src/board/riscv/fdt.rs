//! The flattened device tree that tells the guest what the board is made of.

use super::layout::{self, Slot};
use crate::board::Window;
use accel::TICKS_PER_SECOND;
use vm_fdt::{Error, FdtWriter};

const PHANDLE_PLIC: u32 = 1;
const PHANDLE_TEST: u32 = 2;
const PHANDLE_HART: u32 = 0x100;
/// Supervisor external interrupt, as the hart's interrupt controller numbers it.
const SUPERVISOR_EXTERNAL: u32 = 9;
/// A PLIC context that is wired to nothing.
const NO_CONTEXT: u32 = u32::MAX;

/// What the device tree says beyond the board's fixed parts.
#[derive(Debug, Clone)]
pub(crate) struct TreeConfig<'a> {
    /// RAM in bytes.
    pub memory_bytes: u64,
    /// Number of harts.
    pub harts: u32,
    /// ISA string of each hart.
    pub isa: &'a str,
    /// Extensions of each hart, one a string (`riscv,isa-extensions`).
    pub isa_extensions: &'a [&'a str],
    /// Widest address translation of each hart (`riscv,sv48`).
    pub mmu_type: &'a str,
    /// Kernel command line.
    pub command_line: &'a str,
    /// Where the initial RAM disk lies: first address and the one after the last.
    pub initrd: Option<(u64, u64)>,
}

/// Writes the device tree.
///
/// # Errors
/// Only for strings that hold a NUL, such as a command line with one.
pub(crate) fn device_tree(config: &TreeConfig<'_>) -> Result<Vec<u8>, Error> {
    let mut fdt = FdtWriter::new()?;
    let root = fdt.begin_node("")?;
    fdt.property_string("compatible", "riscv-virtio")?;
    fdt.property_string("model", "riscv-virtio,umem")?;
    fdt.property_u32("#address-cells", 2)?;
    fdt.property_u32("#size-cells", 2)?;
    chosen(&mut fdt, config)?;
    let memory = fdt.begin_node(&format!("memory@{:x}", layout::RAM_BASE))?;
    fdt.property_string("device_type", "memory")?;
    fdt.property_array_u64("reg", &[layout::RAM_BASE, config.memory_bytes])?;
    fdt.end_node(memory)?;
    harts(&mut fdt, config)?;
    soc(&mut fdt, config)?;
    power(&mut fdt)?;
    fdt.end_node(root)?;
    fdt.finish()
}

fn chosen(fdt: &mut FdtWriter, config: &TreeConfig<'_>) -> Result<(), Error> {
    let node = fdt.begin_node("chosen")?;
    fdt.property_string("bootargs", config.command_line)?;
    fdt.property_string("stdout-path", &format!("/soc/serial@{:x}", layout::UART.window.base))?;
    if let Some((start, end)) = config.initrd {
        fdt.property_u64("linux,initrd-start", start)?;
        fdt.property_u64("linux,initrd-end", end)?;
    }
    fdt.end_node(node)
}

fn harts(fdt: &mut FdtWriter, config: &TreeConfig<'_>) -> Result<(), Error> {
    let cpus = fdt.begin_node("cpus")?;
    fdt.property_u32("#address-cells", 1)?;
    fdt.property_u32("#size-cells", 0)?;
    let rate = u32::try_from(TICKS_PER_SECOND).unwrap_or(u32::MAX);
    fdt.property_u32("timebase-frequency", rate)?;
    for hart in 0..config.harts {
        let cpu = fdt.begin_node(&format!("cpu@{hart:x}"))?;
        fdt.property_string("device_type", "cpu")?;
        fdt.property_u32("reg", hart)?;
        fdt.property_string("status", "okay")?;
        fdt.property_string("compatible", "riscv")?;
        fdt.property_string("riscv,isa", config.isa)?;
        fdt.property_string("riscv,isa-base", "rv64i")?;
        let extensions = config.isa_extensions.iter().map(ToString::to_string).collect();
        fdt.property_string_list("riscv,isa-extensions", extensions)?;
        fdt.property_string("mmu-type", config.mmu_type)?;
        let controller = fdt.begin_node("interrupt-controller")?;
        fdt.property_u32("#interrupt-cells", 1)?;
        fdt.property_null("interrupt-controller")?;
        fdt.property_string("compatible", "riscv,cpu-intc")?;
        fdt.property_phandle(PHANDLE_HART + hart)?;
        fdt.end_node(controller)?;
        fdt.end_node(cpu)?;
    }
    fdt.end_node(cpus)
}

fn soc(fdt: &mut FdtWriter, config: &TreeConfig<'_>) -> Result<(), Error> {
    let soc = fdt.begin_node("soc")?;
    fdt.property_string("compatible", "simple-bus")?;
    fdt.property_u32("#address-cells", 2)?;
    fdt.property_u32("#size-cells", 2)?;
    fdt.property_null("ranges")?;
    plic(fdt, config.harts)?;
    let test = begin(fdt, "test", layout::TEST)?;
    fdt.property_string_list(
        "compatible",
        vec!["sifive,test1".into(), "sifive,test0".into(), "syscon".into()],
    )?;
    fdt.property_phandle(PHANDLE_TEST)?;
    fdt.end_node(test)?;
    let rtc = begin(fdt, "rtc", layout::RTC.window)?;
    fdt.property_string("compatible", "google,goldfish-rtc")?;
    interrupt(fdt, layout::RTC)?;
    fdt.end_node(rtc)?;
    let uart = begin(fdt, "serial", layout::UART.window)?;
    fdt.property_string("compatible", "ns16550a")?;
    fdt.property_u32("clock-frequency", layout::UART_CLOCK)?;
    interrupt(fdt, layout::UART)?;
    fdt.end_node(uart)?;
    for number in 0..layout::VIRTIO_SLOTS {
        let slot = layout::virtio(number);
        let node = begin(fdt, "virtio_mmio", slot.window)?;
        fdt.property_string("compatible", "virtio,mmio")?;
        interrupt(fdt, slot)?;
        fdt.end_node(node)?;
    }
    fdt.end_node(soc)
}

fn plic(fdt: &mut FdtWriter, harts: u32) -> Result<(), Error> {
    let node = begin(fdt, "plic", layout::PLIC)?;
    fdt.property_string_list("compatible", vec!["sifive,plic-1.0.0".into(), "riscv,plic0".into()])?;
    fdt.property_u32("#interrupt-cells", 1)?;
    fdt.property_u32("#address-cells", 0)?;
    fdt.property_null("interrupt-controller")?;
    fdt.property_u32("riscv,ndev", layout::PLIC_SOURCES)?;
    // Contexts are numbered as on QEMU: an M and an S context a hart. M-mode does not exist here.
    let contexts: Vec<u32> = (0..harts)
        .flat_map(|hart| {
            [PHANDLE_HART + hart, NO_CONTEXT, PHANDLE_HART + hart, SUPERVISOR_EXTERNAL]
        })
        .collect();
    fdt.property_array_u32("interrupts-extended", &contexts)?;
    fdt.property_phandle(PHANDLE_PLIC)?;
    fdt.end_node(node)
}

fn power(fdt: &mut FdtWriter) -> Result<(), Error> {
    for (name, value) in [("poweroff", 0x5555), ("reboot", 0x7777)] {
        let node = fdt.begin_node(name)?;
        fdt.property_string("compatible", &format!("syscon-{name}"))?;
        fdt.property_u32("regmap", PHANDLE_TEST)?;
        fdt.property_u32("offset", 0)?;
        fdt.property_u32("value", value)?;
        fdt.end_node(node)?;
    }
    Ok(())
}

fn begin(fdt: &mut FdtWriter, name: &str, window: Window) -> Result<vm_fdt::FdtWriterNode, Error> {
    let node = fdt.begin_node(&format!("{name}@{:x}", window.base))?;
    fdt.property_array_u64("reg", &[window.base, window.bytes])?;
    Ok(node)
}

fn interrupt(fdt: &mut FdtWriter, slot: Slot) -> Result<(), Error> {
    fdt.property_u32("interrupt-parent", PHANDLE_PLIC)?;
    fdt.property_u32("interrupts", slot.interrupt)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(command_line: &str) -> TreeConfig<'_> {
        TreeConfig {
            memory_bytes: 1 << 30,
            harts: 1,
            isa: "rv64imac",
            isa_extensions: &["i", "m", "a", "c"],
            mmu_type: "riscv,sv48",
            command_line,
            initrd: Some((0x8400_0000, 0x8500_0000)),
        }
    }

    #[test]
    fn the_tree_has_the_format_s_magic_and_the_command_line() {
        let blob = device_tree(&config("console=ttyS0 umem.rate=20000")).unwrap();
        assert_eq!(blob[..4], 0xd00d_feed_u32.to_be_bytes());
        let text = b"console=ttyS0 umem.rate=20000";
        assert!(blob.windows(text.len()).any(|window| window == text));
    }

    #[test]
    fn a_nul_in_the_command_line_is_an_error() {
        assert!(device_tree(&config("a\0b")).is_err());
    }
}
