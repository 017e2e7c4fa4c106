//! The smallest ELF file that Linux runs: one loadable segment, readable, writable, executable.

const HEADER_BYTES: u64 = 64;
const PROGRAM_HEADER_BYTES: u64 = 56;
/// The segment's place in the file; congruent to its address modulo the page size.
const SEGMENT_OFFSET: u64 = 0x1000;

/// A static RISC-V executable of one segment (System V ABI, "ELF Header" and "Program Header").
pub(crate) fn executable(base: u64, entry: u64, segment: &[u8]) -> Vec<u8> {
    let mut file = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let half = |file: &mut Vec<u8>, value: u16| file.extend(value.to_le_bytes());
    let word = |file: &mut Vec<u8>, value: u32| file.extend(value.to_le_bytes());
    let long = |file: &mut Vec<u8>, value: u64| file.extend(value.to_le_bytes());
    half(&mut file, 2); // ET_EXEC
    half(&mut file, 243); // EM_RISCV
    word(&mut file, 1);
    long(&mut file, entry);
    long(&mut file, HEADER_BYTES); // program headers
    long(&mut file, 0); // section headers
    word(&mut file, 5); // RVC, double-float ABI
    half(&mut file, HEADER_BYTES as u16);
    half(&mut file, PROGRAM_HEADER_BYTES as u16);
    half(&mut file, 1);
    [0u16; 3].into_iter().for_each(|zero| half(&mut file, zero));

    word(&mut file, 1); // PT_LOAD
    word(&mut file, 7); // RWX
    long(&mut file, SEGMENT_OFFSET);
    long(&mut file, base);
    long(&mut file, base);
    long(&mut file, segment.len() as u64);
    long(&mut file, segment.len() as u64);
    long(&mut file, 0x1000);
    file.resize(SEGMENT_OFFSET as usize, 0);
    file.extend(segment);
    file
}
