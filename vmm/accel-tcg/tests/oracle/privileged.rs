//! Tables of probes: which encodings are instructions, what supervisor CSRs keep, what page table
//! entries permit, what traps.

use crate::probe::{
    CODE, DATA, FLOAT_INITIAL, Observation, Probe, SCRATCH, SUPERVISOR_MODE, SV39, SV48, TESTED_39,
    TESTED_48, pte,
};
use crate::program::BASE;
use crate::random::Random;

const A0: u8 = 10;
const A1: u8 = 11;
const SUM: u64 = 1 << 18;
const MXR: u64 = 1 << 19;

const LOAD: u32 = 0x0005_3583; // ld a1, 0(a0)
const STORE: u32 = 0x00a5_3023; // sd a0, 0(a0)
const SWAP: u32 = 0x08a5_35af; // amoswap.d a1, a0, (a0)
const RESERVE: u32 = 0x1005_35af; // lr.d a1, (a0)
const EBREAK: u32 = 0x0010_0073;

/// Random 32-bit words of every opcode, except what would leave the probe.
pub(crate) fn words(count: usize, random: &mut Random) -> Vec<Probe> {
    let mut probes = Vec::with_capacity(count);
    while probes.len() < count {
        if let Some(word) = harmless(random.bits(30) << 2 | 3, random) {
            probes.push(Probe::new(format!("word {word:#010x}"), &[word]));
        }
    }
    probes
}

/// The word with its base register in range, unless it jumps, or belongs to the privileged
/// architecture, which has its own tables.
fn harmless(mut word: u32, random: &mut Random) -> Option<u32> {
    const BASE_REGISTER: u32 = 0x1f << 15;
    let funct3 = word >> 12 & 7;
    // Most funct7 are reserved: let the defined ones have their share.
    if word & 0x7f == 0x33 || word & 0x7f == 0x3b {
        let defined = *random.pick(&[0, 0x20, 1, word >> 25]);
        word = word & 0x01ff_ffff | defined << 25;
    }
    match word & 0x7f {
        0x6f | 0x73 => None,
        0x67 if funct3 == 0 => None,
        0x63 if funct3 & 6 != 2 => None,
        0x03 | 0x07 | 0x23 | 0x27 | 0x2f => Some(word & !BASE_REGISTER | u32::from(A0) << 15),
        // Longer than 32 bits.
        low if low & 0x1f == 0x1f => None,
        _ => Some(word),
    }
}

/// Random compressed encodings, except jumps.
pub(crate) fn halves(count: usize, random: &mut Random) -> Vec<Probe> {
    let mut probes = Vec::with_capacity(count);
    while probes.len() < count {
        let half = random.bits(16);
        let (quadrant, funct3) = (half & 3, half >> 13);
        let register_jump = half & 0xe07f == 0x8002 && half & 0x0f80 != 0;
        let jump = (quadrant == 1 && funct3 >= 5) || register_jump;
        if quadrant != 3 && !jump {
            // A compressed breakpoint ends it where the next half is fetched.
            let word = half | 0x9002 << 16;
            probes.push(Probe::new(format!("half {half:#06x}"), &[word]));
        }
    }
    probes
}

/// What each CSR keeps of what is written to it. The old value goes back before the probe ends.
pub(crate) fn csrs() -> Vec<Probe> {
    let scratch: u8 = 12;
    let patterns = [0, u64::MAX, 0x5555_5555_5555_5555, 0xaaaa_aaaa_aaaa_aaaa, BASE + 0x104];
    let mut probes = Vec::new();
    let mut add = |name: &str, csr: u32, value: u64| {
        let there = 0x1073 | u32::from(scratch) << 7 | u32::from(A0) << 15 | csr << 20;
        let back = 0x1073 | u32::from(A1) << 7 | u32::from(scratch) << 15 | csr << 20;
        let mut probe = Probe::new(format!("{name} = {value:#x}"), &[there, back]);
        // QEMU lets a supervisor narrow user mode (UXL), which ours does not, and keeps bit 0 of
        // sepc, which the specification says is always zero.
        probe.value = match name {
            "sstatus" => value & !(3 << 32) | 2 << 32,
            "sepc" => value & !1,
            _ => value,
        };
        probes.push(probe);
    };
    for value in patterns {
        for (name, csr) in [
            ("fflags", 0x001),
            ("frm", 0x002),
            ("fcsr", 0x003),
            ("sstatus", 0x100),
            ("sie", 0x104),
            ("stvec", 0x105),
            ("scounteren", 0x106),
            ("sscratch", 0x140),
            ("sepc", 0x141),
            ("stval", 0x143),
            ("sip", 0x144),
        ] {
            add(name, csr, value);
        }
    }
    for cause in [0, 1, 2, 8, 15, 1 << 63 | 1, 1 << 63 | 5, 1 << 63 | 9] {
        add("scause", 0x142, cause);
    }
    // Modes that exist, and ones that do not, which change nothing.
    for satp in [0, SV39, SV48, 5 << 60 | SV39 & 0xfff, 15 << 60] {
        add("satp", 0x180, satp);
    }
    probes
}

/// Instructions and CSRs by privilege and by the state that enables them.
pub(crate) fn privileges() -> Vec<Probe> {
    let read = |csr: u32| 0x2673 | csr << 20; // csrr a2: counters differ, a2 is not looked at
    // Our harts start as firmware leaves them, counters open; QEMU here has no firmware.
    let mut close = Probe::new("scounteren = 0", &[0x1065_1073]);
    close.value = 0;
    let mut probes = vec![close];
    for (name, word) in [
        ("mret", 0x3020_0073),
        ("ebreak", EBREAK),
        ("sfence.vma", 0x1200_0073),
        ("sfence.vma a0, a1", 0x12b5_0073),
        ("hfence.vvma", 0x2200_0073),
        ("uret", 0x0020_0073),
        ("csrr mstatus", read(0x300)),
        ("csrr mhartid", read(0xf14)),
        ("csrr cycle", read(0xc00)),
        ("csrr time", read(0xc01)),
        ("csrr instret", read(0xc02)),
        ("csrr hpmcounter3", read(0xc03)),
        ("csrw cycle", 0xc005_1073),
        ("csrr sstatus", read(0x100)),
        ("csrr satp", read(0x180)),
        ("csrr of none", read(0x5c0)),
        ("csrr fcsr", read(0x003)),
    ] {
        probes.push(Probe::new(format!("S: {name}"), &[word]));
        probes.push(Probe::new(format!("U: {name}"), &[word]).in_user_mode());
    }
    for (name, word) in [("ecall", 0x0000_0073), ("sret", 0x1020_0073), ("wfi", 0x1050_0073)] {
        probes.push(Probe::new(format!("U: {name}"), &[word]).in_user_mode());
    }
    probes.extend(counters(&read));
    probes.extend(float_state());
    probes.extend(interrupts());
    probes
}

/// `scounteren` opens counters to user mode.
fn counters(read: &dyn Fn(u32) -> u32) -> Vec<Probe> {
    let mut open = Probe::new("scounteren = 5", &[0x1065_1073]);
    open.value = 5;
    let mut close = open.clone();
    close.value = 0;
    let reads = [0xc00, 0xc01, 0xc02]
        .map(|csr| Probe::new(format!("U: csrr {csr:#x}, opened"), &[read(csr)]).in_user_mode());
    [open].into_iter().chain(reads).chain([close]).collect()
}

/// Floating point is there unless FS is off, and dirties it.
fn float_state() -> Vec<Probe> {
    let mut probes = Vec::new();
    for (name, word) in [
        ("fadd.d", 0x02b5_0553),
        ("fcvt.w.s", 0xc005_05d3),
        ("fmv.x.d", 0xe205_05d3),
        ("fld", 0x0005_3507),
        ("fsd", 0x00a5_3027),
        ("csrr fflags", 0x0010_25f3),
        ("csrwi frm", 0x0020_d073),
        ("c.fld", 0x9002_2108),
        ("c.fsdsp", 0x9002_a02a),
    ] {
        for fs in 0..4u64 {
            let mut probe = Probe::new(format!("FS={fs}: {name}"), &[word]);
            probe.sstatus = SUPERVISOR_MODE | fs << 13;
            probes.push(probe);
        }
    }
    probes
}

/// A software interrupt that the supervisor raises for itself: taken where it is enabled.
fn interrupts() -> Vec<Probe> {
    let (pend, enable) = (0x1441_6073, 0x1041_6073); // csrsi sip, 2; csrsi sie, 2
    let (unpend, disable) = (0x1441_7073, 0x1041_7073);
    let (globally, nothing) = (0x1001_6073, 0x0000_0013); // csrsi sstatus, 2; nop
    vec![
        Probe::new("SSIP masked globally", &[pend, enable, nothing]),
        Probe::new("SSIP, taken at once in user mode", &[nothing]).in_user_mode(),
        Probe::new("SSIP enabled globally", &[globally, nothing]),
        Probe::new("SSIP masked by sie", &[disable, globally, nothing]),
        Probe::new("SSIP cleared", &[unpend, enable, globally]),
        Probe::new("sie cleared", &[disable]),
    ]
}

/// A leaf at some level, for data or code at `physical`; gives the entries and the address.
fn leaf(scheme: u64, level: usize, physical: u64, bits: u64) -> ([u64; 4], u64) {
    let mut tables = Probe::links();
    let base = if scheme == SV48 { TESTED_48 } else { TESTED_39 };
    let (target, address) = match level {
        0 => (physical & !0xfff, base + (physical & 0xfff)),
        1 | 2 => (BASE, base + (physical - BASE)),
        _ => (0, (1 << 39) + physical),
    };
    tables[3 - level] = pte::to(target, bits);
    (tables, address)
}

/// The accesses that permissions are checked for: name, instruction (or a fetch), sstatus, mode.
fn accesses() -> Vec<(String, Option<u32>, u64, bool)> {
    let mut all = Vec::new();
    for (state, name) in [(0, ""), (SUM, " SUM"), (MXR, " MXR"), (SUM | MXR, " SUM MXR")] {
        for (access, word) in [
            ("load", Some(LOAD)),
            ("store", Some(STORE)),
            ("swap", Some(SWAP)),
            ("reserve", Some(RESERVE)),
            ("fetch", None),
        ] {
            for user in [false, true] {
                let mode = if user { "U" } else { "S" };
                all.push((format!("{mode}{name} {access}"), word, state, user));
            }
        }
    }
    all
}

/// One access through the leaf that `bits` describe.
fn access(
    scheme: u64,
    level: usize,
    bits: u64,
    (name, word, state, user): &(String, Option<u32>, u64, bool),
) -> Probe {
    let physical = if word.is_some() { SCRATCH } else { CODE };
    let (tables, address) = leaf(scheme, level, physical, bits);
    let root = if scheme == SV48 { "sv48" } else { "sv39" };
    let text = format!("{root} level {level} entry {:#x}: {name}", tables[3 - level]);
    let mut probe = Probe::new(text, &[word.unwrap_or(EBREAK)]);
    probe.satp = scheme;
    if *user {
        probe = probe.in_user_mode();
    }
    if word.is_none() {
        probe.pc = address;
    } else {
        probe.value = address;
    }
    probe.sstatus |= state;
    probe.tables = tables;
    probe
}

/// Permissions of leaves at every level of both schemes.
pub(crate) fn permissions() -> Vec<Probe> {
    let accesses = accesses();
    let mut probes = Vec::new();
    for (scheme, levels) in [(SV39, 3), (SV48, 4)] {
        for level in 0..levels {
            for rwxu in 0..16u64 {
                let bits = rwxu << 1 | pte::V | pte::A | pte::D;
                if rwxu & 7 == 0 && level > 0 {
                    continue; // No leaf.
                }
                let chosen = accesses.iter();
                probes.extend(chosen.map(|kind| access(scheme, level, bits, kind)));
            }
        }
    }
    probes
}

/// Entries that are no valid leaf or pointer, and addresses that no scheme translates.
pub(crate) fn malformed() -> Vec<Probe> {
    let all = pte::V | pte::R | pte::W | pte::X | pte::A | pte::D;
    let mut probes = Vec::new();
    for kind in accesses().iter().filter(|(_, _, state, user)| *state == 0 && !user) {
        for (scheme, levels) in [(SV39, 3), (SV48, 4)] {
            for level in 0..levels {
                probes.push(access(scheme, level, all & !pte::V, kind));
                for reserved in [1 << 54, 1 << 60, 1 << 61, 1 << 63] {
                    probes.push(access(scheme, level, all | reserved, kind));
                }
                if level > 0 {
                    // A superpage whose physical page number has low bits set.
                    probes.push(access(scheme, level, all | 1 << 10, kind));
                    for extra in [pte::U, pte::A, pte::D] {
                        let mut pointer = access(scheme, 0, all, kind);
                        pointer.tables[3 - level] |= extra;
                        pointer.name += &format!(", pointer at level {level} has {extra:#x}");
                        probes.push(pointer);
                    }
                }
            }
            for address in [1 << 38, 1 << 47, 1 << 48, 1 << 63, u64::MAX << 39, u64::MAX << 56] {
                let mut probe = access(scheme, 0, all, kind);
                probe.name = format!("satp {scheme:#x}, {} at {address:#x}", kind.0);
                if kind.1.is_some() {
                    probe.value = address;
                } else {
                    probe.pc = address;
                }
                probes.push(probe);
            }
        }
    }
    probes
}

/// Whether the observations agree, in what the specification fixes.
///
/// It leaves open whether `stval` holds an illegal instruction's bits or zero, and a breakpoint's
/// address or zero, and lets FS become dirty more often than registers change.
pub(crate) fn agree(expected: &Observation, observed: &Observation) -> bool {
    const ILLEGAL: u64 = 2;
    const BREAKPOINT: u64 = 3;
    let stval_is_free = matches!(expected.cause, ILLEGAL | BREAKPOINT);
    let fs = |observation: &Observation| observation.sstatus & ((3 * FLOAT_INITIAL) | (1 << 63));
    let dirty = (3 * FLOAT_INITIAL) | (1 << 63);
    let same_fs = fs(expected) == fs(observed) || fs(observed) == dirty;
    let rest = |observation: &Observation| Observation {
        value: if stval_is_free { 0 } else { observation.value },
        sstatus: observation.sstatus & !dirty,
        ..*observation
    };
    same_fs && rest(expected) == rest(observed)
}

/// Registers hold an address inside the scratch page unless a probe says otherwise.
const _: () = assert!(DATA > SCRATCH && DATA < SCRATCH + 4096);
