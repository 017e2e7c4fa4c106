//! Names of feature bits: those of `/proc/cpuinfo` where it has one, else QEMU's. `-`, `_` and `.` mean the
//! same in a name.
//!
//! What has no name here is given to no guest: it could not be asked of another host, and what state
//! belongs to it is not known.

use super::table::{Register, Table};
use super::words::{WORDS, Word};

/// One feature.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Feature {
    pub(crate) function: u32,
    pub(crate) index: u32,
    pub(crate) register: Register,
    pub(crate) mask: u32,
    pub(crate) name: &'static str,
}

/// All features.
pub(crate) fn all() -> impl Iterator<Item = Feature> {
    WORDS.iter().flat_map(|&Word { function, index, register, bits }| {
        bits.iter().map(move |&(bit, name)| Feature {
            function,
            index,
            register,
            mask: 1 << bit,
            name,
        })
    })
}

fn spelling(name: &str) -> String {
    name.trim().to_ascii_lowercase().replace(['-', '.'], "_")
}

/// What QEMU and others call a feature, and how it is called here.
const OTHER_NAMES: &[(&str, &str)] = &[
    ("sse3", "pni"),
    ("pclmul", "pclmulqdq"),
    ("tsc_deadline", "tsc_deadline_timer"),
    ("lzcnt", "abm"),
    ("sha", "sha_ni"),
    ("ibpb", "amd_ibpb"),
    ("constant_tsc", "invtsc"),
    ("cmpxchg16b", "cx16"),
    ("lfence_always_serializing", "lfence_rdtsc"),
    ("kvm_poll", "kvm_poll_control"),
];

/// The feature of this name.
pub(crate) fn named(name: &str) -> Option<Feature> {
    let wanted = spelling(name);
    let other = OTHER_NAMES.iter().find(|(other, _)| *other == wanted);
    let wanted = other.map_or(wanted.as_str(), |&(_, ours)| ours);
    all().find(|feature| feature.name == wanted)
}

/// Names that are near to one that is none, the nearest first.
pub(crate) fn near(name: &str) -> Vec<&'static str> {
    /// Names further than this many changes away are no help.
    const MOST_CHANGES: usize = 2;
    const MOST_NAMES: usize = 5;
    // What is longer than any name is near none.
    let wanted: String = spelling(name).chars().take(64).collect();
    let mut near: Vec<_> = all()
        .map(|feature| (changes(&wanted, feature.name), feature.name))
        .filter(|&(changes, name)| {
            changes <= MOST_CHANGES || wanted.len() > 2 && name.starts_with(&wanted)
        })
        .collect();
    near.sort_unstable();
    near.into_iter().map(|(_, name)| name).take(MOST_NAMES).collect()
}

/// How many letters must be changed, put in or left out to make one word of another (Levenshtein's
/// distance).
fn changes(from: &str, to: &str) -> usize {
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (at, letter) in from.bytes().enumerate() {
        let mut diagonal = at;
        let mut left = at + 1;
        for (cell, other) in row.iter_mut().skip(1).zip(to.bytes()) {
            let best = (diagonal + usize::from(letter != other)).min(*cell + 1).min(left + 1);
            diagonal = *cell;
            left = best;
            *cell = best;
        }
        if let Some(first) = row.first_mut() {
            *first = at + 1;
        }
    }
    row.last().copied().unwrap_or(0)
}

/// The features that a table of leaves has, in the order of [`WORDS`].
pub(crate) fn features_in(table: &Table) -> impl Iterator<Item = Feature> {
    all().filter(|feature| {
        table.get(feature.function, feature.index, feature.register) & feature.mask != 0
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use Register::{Eax, Ebx, Ecx, Edx};

    #[test]
    fn each_name_and_each_bit_is_there_once() {
        let mut names: Vec<_> = all().map(|feature| feature.name).collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
        for word in WORDS {
            assert!(word.bits.is_sorted_by(|(a, _), (b, _)| a < b && *b < 32), "{word:?}");
        }
    }

    #[test]
    fn names_are_found_however_they_are_spelt() {
        for (given, found) in [
            ("avx512f", "avx512f"),
            ("AVX512-VBMI2", "avx512_vbmi2"),
            ("sse4.1", "sse4_1"),
            ("kvm-asyncpf-int", "kvm_asyncpf_int"),
            ("sse3", "pni"),
            ("arch-capabilities", "arch_capabilities"),
        ] {
            assert_eq!(named(given).map(|feature| feature.name), Some(found), "{given}");
        }
        assert_eq!(named("avx513f"), None);
        for (other, ours) in OTHER_NAMES {
            assert!(named(other).is_some_and(|feature| feature.name == *ours), "{other}");
        }
    }

    #[test]
    fn a_name_that_is_none_has_near_ones() {
        assert!(near("avx512g").contains(&"avx512f"));
        assert!(near("avx512").len() > 1);
        assert!(near("teleport").is_empty());
        assert_eq!(changes("kitten", "sitting"), 3);
        assert_eq!(changes("", "abc"), 3);
    }

    /// Against Intel's and AMD's manuals, one of each word.
    #[test]
    fn bits_are_where_the_manuals_have_them() {
        for (name, function, index, register, bit) in [
            ("x2apic", 1, 0, Ecx, 21),
            ("apic", 1, 0, Edx, 9),
            ("arat", 6, 0, Eax, 2),
            ("avx512f", 7, 0, Ebx, 16),
            ("umip", 7, 0, Ecx, 2),
            ("arch_capabilities", 7, 0, Edx, 29),
            ("avx_vnni", 7, 1, Eax, 4),
            ("prefetchiti", 7, 1, Edx, 14),
            ("bhi_ctrl", 7, 2, Edx, 4),
            ("xsaves", 0xd, 1, Eax, 3),
            ("topoext", 0x8000_0001, 0, Ecx, 22),
            ("lm", 0x8000_0001, 0, Edx, 29),
            ("invtsc", 0x8000_0007, 0, Edx, 8),
            ("amd_ibpb", 0x8000_0008, 0, Ebx, 12),
            ("lfence_rdtsc", 0x8000_0021, 0, Eax, 2),
            ("kvm_asyncpf", 0x4000_0001, 0, Eax, 4),
        ] {
            let expected = Feature { function, index, register, mask: 1 << bit, name };
            assert_eq!(named(name), Some(expected));
        }
    }
}
