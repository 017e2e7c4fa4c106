//! The machine that moves, as its source describes it.

use crate::WireError;
use crate::reader::{BodyReader, put_text};

/// Most RAM blocks that a description may have.
pub const MAX_BLOCKS: usize = 64;
/// Most devices that a description may have.
pub const MAX_DEVICES: usize = 256;
/// Most entries that a description may have on its processor.
pub(crate) const MAX_PROCESSOR: usize = 1024;

/// A RAM block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// Name.
    pub name: String,
    /// Guest physical address.
    pub address: u64,
    /// Size in bytes.
    pub bytes: u64,
}

/// Everything that both ends must have alike, and what the destination must be able to hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MachineDescription {
    /// Board and accelerator's architecture, as `virt riscv64`.
    pub board: String,
    /// Number of vCPUs.
    pub vcpus: u32,
    /// Bytes of a page on the wire.
    pub page_bytes: u32,
    /// RAM blocks in the order of their page numbers.
    pub blocks: Vec<Block>,
    /// Devices that the guest sees, by name, in a fixed order.
    pub devices: Vec<String>,
    /// What the guest needs of its processor that not every host has, by name, in a fixed order. Only the
    /// board can say whether a host has it.
    pub processor: Vec<String>,
    /// Name and version of the program at the source, for people.
    pub program: String,
}

impl MachineDescription {
    /// The description by itself, as it stands in DESCRIBE and in a snapshot.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.put(&mut out);
        out
    }

    /// A description that fills these bytes exactly.
    ///
    /// # Errors
    /// Bytes that are no description, or more than one.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        // No frame: the kind is only shown.
        let mut body = BodyReader::new(0, bytes);
        let machine = Self::take(&mut body)?;
        body.finish()?;
        Ok(machine)
    }

    pub(crate) fn put(&self, out: &mut Vec<u8>) {
        put_text(out, &self.board);
        out.extend_from_slice(&self.vcpus.to_le_bytes());
        out.extend_from_slice(&self.page_bytes.to_le_bytes());
        let blocks = self.blocks.get(..MAX_BLOCKS).unwrap_or(&self.blocks);
        out.extend_from_slice(&(blocks.len() as u16).to_le_bytes());
        for block in blocks {
            put_text(out, &block.name);
            out.extend_from_slice(&block.address.to_le_bytes());
            out.extend_from_slice(&block.bytes.to_le_bytes());
        }
        let devices = self.devices.get(..MAX_DEVICES).unwrap_or(&self.devices);
        out.extend_from_slice(&(devices.len() as u16).to_le_bytes());
        devices.iter().for_each(|device| put_text(out, device));
        put_text(out, &self.program);
        // A board without such needs writes what was written before there were any.
        if !self.processor.is_empty() {
            let processor = self.processor.get(..MAX_PROCESSOR).unwrap_or(&self.processor);
            out.extend_from_slice(&(processor.len() as u16).to_le_bytes());
            processor.iter().for_each(|name| put_text(out, name));
        }
    }

    pub(crate) fn take(body: &mut BodyReader<'_>) -> Result<Self, WireError> {
        let board = body.text()?;
        let (vcpus, page_bytes) = (body.u32()?, body.u32()?);
        let count = bounded("number of RAM blocks", body.u16()?, MAX_BLOCKS)?;
        let blocks = (0..count)
            .map(|_| Ok(Block { name: body.text()?, address: body.u64()?, bytes: body.u64()? }))
            .collect::<Result<_, WireError>>()?;
        let count = bounded("number of devices", body.u16()?, MAX_DEVICES)?;
        let devices = (0..count).map(|_| body.text()).collect::<Result<_, _>>()?;
        let program = body.text()?;
        let count = if body.is_empty() {
            0
        } else {
            bounded("number of processor features", body.u16()?, MAX_PROCESSOR)?
        };
        let processor = (0..count).map(|_| body.text()).collect::<Result<_, _>>()?;
        Ok(Self { board, vcpus, page_bytes, blocks, devices, processor, program })
    }

    /// RAM in bytes; saturating, for a peer may say anything.
    #[must_use]
    pub fn ram_bytes(&self) -> u64 {
        self.blocks.iter().fold(0, |sum, block| sum.saturating_add(block.bytes))
    }

    /// What a destination that is `self` has else than a source that is `source`: one line with both
    /// values, or `None` when the guest fits.
    #[must_use]
    pub fn difference(&self, source: &Self) -> Option<String> {
        let differs = |what: &str, there: &dyn std::fmt::Display, here: &dyn std::fmt::Display| {
            Some(format!("the source has {what} {there}, this VM has {here}"))
        };
        if self.board != source.board {
            return differs("machine", &source.board, &self.board);
        }
        if self.vcpus != source.vcpus {
            return differs("vCPUs (-smp)", &source.vcpus, &self.vcpus);
        }
        if self.ram_bytes() != source.ram_bytes() {
            let mib = |bytes: u64| format!("{} MiB ({bytes} bytes)", bytes >> 20);
            return differs("memory (-m)", &mib(source.ram_bytes()), &mib(self.ram_bytes()));
        }
        if self.page_bytes != source.page_bytes {
            return differs("page size", &source.page_bytes, &self.page_bytes);
        }
        if self.blocks != source.blocks {
            return differs("RAM blocks", &list(&source.blocks), &list(&self.blocks));
        }
        if self.devices != source.devices {
            let join = |names: &[String]| format!("[{}]", names.join(", "));
            return differs("devices", &join(&source.devices), &join(&self.devices));
        }
        None
    }
}

fn list(blocks: &[Block]) -> String {
    let one =
        |block: &Block| format!("{} of {} bytes at {:#x}", block.name, block.bytes, block.address);
    format!("[{}]", blocks.iter().map(one).collect::<Vec<_>>().join(", "))
}

fn bounded(field: &'static str, value: u16, limit: usize) -> Result<usize, WireError> {
    let count = usize::from(value);
    if count > limit {
        return Err(WireError::Value { field, value: u64::from(value) });
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine() -> MachineDescription {
        MachineDescription {
            board: "virt riscv64".into(),
            vcpus: 1,
            page_bytes: 4096,
            blocks: vec![Block { name: "ram".into(), address: 0x8000_0000, bytes: 1 << 30 }],
            devices: vec!["uart".into(), "plic".into()],
            processor: vec![],
            program: "umem 0.1.0".into(),
        }
    }

    #[test]
    fn a_description_alone_comes_back_and_nothing_may_follow_it() {
        let mut bytes = machine().encode();
        assert_eq!(MachineDescription::decode(&bytes), Ok(machine()));
        assert!(MachineDescription::decode(&bytes[..bytes.len() - 1]).is_err());
        bytes.push(0);
        assert!(MachineDescription::decode(&bytes).is_err());
    }

    /// What was written before processors were described, by hand: two texts, numbers, one block, two devices.
    #[test]
    fn a_machine_without_needs_is_written_as_it_always_was() {
        let text = |text: &str| [&(text.len() as u16).to_le_bytes()[..], text.as_bytes()].concat();
        let golden = [
            text("virt riscv64"),
            vec![1, 0, 0, 0, 0, 0x10, 0, 0, 1, 0],
            text("ram"),
            vec![0, 0, 0, 0x80, 0, 0, 0, 0, 0, 0, 0, 0x40, 0, 0, 0, 0, 2, 0],
            text("uart"),
            text("plic"),
            text("umem 0.1.0"),
        ]
        .concat();
        assert_eq!(machine().encode(), golden);
        let needs = MachineDescription { processor: vec!["avx2".into()], ..machine() };
        assert_eq!(needs.encode(), [golden, vec![1, 0], text("avx2")].concat());
        assert_eq!(MachineDescription::decode(&needs.encode()), Ok(needs));
    }

    #[test]
    fn the_same_machine_fits_whatever_program_it_comes_from() {
        let mut source = machine();
        source.program = "umem 9".into();
        assert_eq!(machine().difference(&source), None);
    }

    #[test]
    fn each_difference_is_named_with_both_values() {
        let check = |change: fn(&mut MachineDescription), words: &[&str]| {
            let mut source = machine();
            change(&mut source);
            let text = machine().difference(&source).unwrap();
            assert!(words.iter().all(|word| text.contains(word)), "{text}");
        };
        check(|m| m.blocks[0].bytes = 2 << 30, &["2048 MiB", "1024 MiB"]);
        check(|m| m.vcpus = 4, &["vCPUs", "4", "1"]);
        check(|m| m.devices.push("virtio-blk0".into()), &["virtio-blk0"]);
        check(|m| m.board = "pc".into(), &["pc", "virt"]);
        check(|m| m.page_bytes = 1 << 21, &["2097152", "4096"]);
        check(|m| m.blocks[0].address = 0, &["0x0", "0x80000000"]);
    }
}
