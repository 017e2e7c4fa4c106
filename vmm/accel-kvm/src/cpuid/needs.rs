//! What a guest uses of its processor that not each host has, by name, and whether a host has it.
//!
//! Both ends of a move compare lists of words: names of features, and `name=number` for what is measured.

use super::features::{features_in, named};
use super::table::{Register, Table};
use std::fmt::Write;

/// Bytes of the extended state before its parts: the legacy area and the header.
pub(crate) const LEGACY_STATE_BYTES: u32 = 512 + 64;

/// Parts of a million by which two time-stamp counters may differ and count as the same, as KVM's do.
pub(crate) const TSC_TOLERANCE_PPM: u64 = 250;

/// Most words and longest word that are looked at.
const MOST_WORDS: usize = 1024;
const LONGEST_WORD: usize = 64;

/// A processor: what it answers to CPUID, and how fast it counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Processor {
    /// CPUID.
    pub(crate) table: Table,
    /// Rate of the time-stamp counter, kHz.
    pub(crate) tsc_khz: u32,
}

/// The measures that are compared, by the word before `=`.
const VENDOR: &str = "vendor";
const TSC: &str = "tsc-khz";
const STATE_BYTES: &str = "xsave-bytes";
const STATE_PARTS: &str = "xcr0";
const ADDRESS_BITS: &str = "physical-address-bits";

fn state_parts(table: &Table) -> u64 {
    let register = |register| u64::from(table.get(0xd, 0, register));
    register(Register::Edx) << 32 | register(Register::Eax)
}

fn state_bytes(table: &Table) -> u32 {
    table.get(0xd, 0, Register::Ecx)
}

fn address_bits(table: &Table) -> u32 {
    table.get(0x8000_0008, 0, Register::Eax) & 0xff
}

/// What a guest on this processor may use that not each host has.
pub(crate) fn needs(given: &Processor) -> Vec<String> {
    let Processor { table, tsc_khz } = given;
    let mut words: Vec<String> =
        features_in(table).map(|feature| feature.name.to_owned()).collect();
    words.push(format!("{VENDOR}={}", table.vendor()));
    words.push(format!("{TSC}={tsc_khz}"));
    words.push(format!("{STATE_BYTES}={}", state_bytes(table)));
    words.push(format!("{STATE_PARTS}={:#x}", state_parts(table)));
    words.push(format!("{ADDRESS_BITS}={}", address_bits(table)));
    words
}

/// Whether two rates count as one.
pub(crate) fn same_rate(one: u32, other: u32) -> bool {
    let apart = u64::from(one.abs_diff(other));
    apart * 1_000_000 <= u64::from(other) * TSC_TOLERANCE_PPM
}

/// Whether a host has what a guest uses; `scales` says whether it can count at another rate.
///
/// # Errors
/// One line with all that it lacks.
pub(crate) fn admits(host: &Processor, scales: bool, needed: &[String]) -> Result<(), String> {
    if needed.len() > MOST_WORDS {
        return Err(format!(
            "the guest's processor has {} features, more than the {MOST_WORDS} that are known",
            needed.len()
        ));
    }
    let mut lacking = Vec::new();
    let mut others = Vec::new();
    for word in needed {
        match word.split_once('=') {
            Some((name, value)) => others.extend(refuse(host, scales, name, value)),
            None if has(host, word) => {}
            None => lacking.push(shown(word)),
        }
    }
    if !lacking.is_empty() {
        others.insert(0, format!("the guest uses {} of its processor", listed(&lacking)));
    }
    if others.is_empty() {
        return Ok(());
    }
    let mut line = format!("this host's processor will not do: {}", others.join("; "));
    if !lacking.is_empty() {
        let options: String =
            lacking.iter().take(MOST_SHOWN).fold(String::new(), |mut line, name| {
                let _ = write!(line, ",-{name}");
                line
            });
        let _ =
            write!(line, ". Start the guest with -cpu host{options} to be able to move it here");
    }
    Err(line)
}

fn has(host: &Processor, name: &str) -> bool {
    name.len() <= LONGEST_WORD
        && named(name).is_some_and(|feature| {
            let word = host.table.get(feature.function, feature.index, feature.register);
            word & feature.mask != 0
        })
}

const MOST_SHOWN: usize = 16;

/// A word of the other end, fit for a line of ours.
fn shown(word: &str) -> String {
    word.chars().take(LONGEST_WORD).flat_map(char::escape_debug).collect()
}

fn listed(names: &[String]) -> String {
    let shown = names.get(..MOST_SHOWN).unwrap_or(names).join(", ");
    match names.len().checked_sub(MOST_SHOWN) {
        Some(more @ 1..) => format!("{shown} and {more} more"),
        _ => shown,
    }
}

/// Why a measure does not fit.
fn refuse(host: &Processor, scales: bool, name: &str, value: &str) -> Option<String> {
    let Processor { table, tsc_khz } = host;
    let number = || {
        let hexadecimal = value.strip_prefix("0x").map(|digits| u64::from_str_radix(digits, 16));
        hexadecimal.unwrap_or_else(|| value.parse()).ok()
    };
    let unread = || format!("{}={} is no number", shown(name), shown(value));
    match name {
        VENDOR => {
            let ours = table.vendor();
            (ours != value).then(|| format!("it is of {ours}, the guest's of {}", shown(value)))
        }
        TSC => match number().and_then(|khz| u32::try_from(khz).ok()) {
            None => Some(unread()),
            Some(khz) if scales || same_rate(khz, *tsc_khz) => None,
            Some(khz) => Some(format!(
                "its time-stamp counter runs at {tsc_khz} kHz and cannot be scaled, the guest's at \
                 {khz} kHz (they may differ by {TSC_TOLERANCE_PPM} ppm)"
            )),
        },
        STATE_BYTES => match number() {
            None => Some(unread()),
            Some(bytes) => (bytes > u64::from(state_bytes(table))).then(|| {
                format!(
                    "it keeps {} bytes of extended state, the guest {bytes}",
                    state_bytes(table)
                )
            }),
        },
        STATE_PARTS => match number() {
            None => Some(unread()),
            Some(parts) => (parts & !state_parts(table) != 0).then(|| {
                format!(
                    "it lacks parts {:#x} of the extended state (XCR0)",
                    parts & !state_parts(table)
                )
            }),
        },
        ADDRESS_BITS => match number() {
            None => Some(unread()),
            Some(bits) => (bits > u64::from(address_bits(table))).then(|| {
                format!("it has {} bits of physical address, the guest {bits}", address_bits(table))
            }),
        },
        _ => Some(format!("{}={} is not known to this version", shown(name), shown(value))),
    }
}

#[cfg(test)]
#[path = "needs_tests.rs"]
mod tests;
