//! What of the host's processor a guest gets (`-cpu host`), and why not the rest.

use super::features::{self, Feature};
use super::table::{Leaf, Register, Table};
use super::words::{KVM_FEATURES, KVM_SIGNATURE, WORDS};
use crate::host::KvmError;
use crate::options::CpuOptions;
use Register::{Eax, Ebx, Ecx, Edx};

/// Features that no guest gets, and why.
pub(crate) const LEFT_OUT: &[(&str, &str)] = &[
    ("monitor", "waits where KVM does not see it"),
    ("vmx", "what a guest's own guests are at does not move"),
    ("svm", "what a guest's own guests are at does not move"),
    ("smx", "belongs to the firmware"),
    ("pdcm", "counts events of a processor that the guest leaves"),
    ("perfctr_core", "as pdcm"),
    ("perfctr_nb", "as pdcm"),
    ("perfctr_llc", "as pdcm"),
    ("arch_lbr", "as pdcm"),
    ("intel_pt", "traces into buffers that KVM does not move"),
    ("sgx", "enclaves are bound to their processor"),
    ("sgx_lc", "enclaves are bound to their processor"),
    ("hle", "microcode takes it away, and hosts differ in whether it has"),
    ("rtm", "microcode takes it away, and hosts differ in whether it has"),
    ("rtm_always_abort", "as rtm"),
    ("tsxldtrk", "as rtm"),
    ("arch_capabilities", "says what flaws this host has not; another has them"),
    ("core_capability", "says what this host can do beyond its model"),
    ("mpx", "its registers are gone from newer kernels"),
    ("cqm", "counts events of a processor that the guest leaves"),
    ("rdt_a", "divides a cache that the guest leaves"),
    ("hybrid_cpu", "the guest's processors are alike"),
    ("mwaitx", "waits where KVM does not see it"),
    ("ibs", "as pdcm"),
    ("irperf", "as pdcm"),
];

/// Leaves that are empty for a guest: performance counters, SGX, processor trace, nested SVM, memory
/// encryption, AMD's performance counters.
const EMPTY: &[u32] = &[0xa, 0x12, 0x14, 0x8000_000a, 0x8000_001b, 0x8000_001f, 0x8000_0022];

/// The leaf that says frequencies, the last of those that hypervisors have. VMware's, which others took
/// over; Linux reads it.
const FREQUENCIES: u32 = 0x4000_0010;

/// Rate of the local APIC's bus, kHz: KVM's is 1 GHz.
const APIC_BUS_KHZ: u32 = 1_000_000;

/// The feature bits that stand for page faults which are told to the guest.
const ASYNC_PAGE_FAULTS: &[&str] = &["kvm_asyncpf", "kvm_asyncpf_vmexit", "kvm_asyncpf_int"];

fn clear(table: &mut Table, feature: Feature) {
    table.change(feature.function, feature.index, feature.register, |value| value & !feature.mask);
}

/// The table that all vCPUs have in common, from what KVM supports here.
///
/// # Errors
/// When a feature that is to be left out has no such name.
pub(crate) fn policy(
    supported: &Table,
    options: &CpuOptions,
    tsc_khz: u32,
    tsc_deadline: bool,
) -> Result<Table, KvmError> {
    let mut table = supported.clone();
    // Older kernels leave it to the program to know this.
    table.change(1, 0, Ecx, |ecx| ecx | u32::from(tsc_deadline) << 24 | 1 << 31);
    for &function in EMPTY {
        table.0.iter_mut().filter(|leaf| leaf.function == function).for_each(|leaf| {
            leaf.answer = [0; 4];
        });
    }
    for word in WORDS {
        let named = word.bits.iter().fold(0u32, |mask, (bit, _)| mask | 1 << bit);
        // On AMD's, these repeat leaf 1: named there.
        let repeated =
            if (word.function, word.register) == (0x8000_0001, Edx) { 0x0183_f3ff } else { 0 };
        table.change(word.function, word.index, word.register, |value| value & (named | repeated));
    }
    let asynchronous = ASYNC_PAGE_FAULTS.iter().filter(|_| !options.async_page_faults);
    let left_out = LEFT_OUT.iter().map(|(name, _)| name);
    for name in left_out.chain(asynchronous) {
        features::named(name).into_iter().for_each(|feature| clear(&mut table, feature));
    }
    for name in &options.disabled {
        let feature = features::named(name).ok_or_else(|| unknown(name))?;
        clear(&mut table, feature);
        withdraw(&mut table, feature.name);
    }
    extended_state(&mut table);
    frequencies(&mut table, tsc_khz);
    Ok(table)
}

fn unknown(name: &str) -> KvmError {
    let name: String = name.chars().take(40).collect();
    let near = features::near(&name);
    let names = if near.is_empty() {
        features::all().map(|feature| feature.name).collect::<Vec<_>>()
    } else {
        near
    };
    KvmError::Feature { name, names: names.join(", ") }
}

/// What cannot be without a feature goes with it.
fn withdraw(table: &mut Table, name: &str) {
    let starts = |prefix: &str| {
        features::all().filter(|other| other.name.starts_with(prefix)).collect::<Vec<_>>()
    };
    let dependents = match name {
        "avx512f" => starts("avx512"),
        "amx_tile" => starts("amx_"),
        "avx" => {
            ["avx2", "fma", "f16c", "vaes", "vpclmulqdq", "fma4", "xop", "avx_vnni", "avx_ifma"]
                .iter()
                .filter_map(|name| features::named(name))
                .chain(starts("avx512"))
                .chain(starts("avx_"))
                .collect()
        }
        "xsave" => ["xsaveopt", "xsavec", "xgetbv1", "xsaves", "pku"]
            .iter()
            .filter_map(|name| features::named(name))
            .chain(features::named("avx"))
            .chain(starts("amx_"))
            .collect(),
        _ => Vec::new(),
    };
    for feature in dependents {
        let had = table.get(feature.function, feature.index, feature.register) & feature.mask != 0;
        clear(table, feature);
        if had && feature.name == "avx" {
            withdraw(table, "avx");
        }
    }
}

/// Parts of the extended state, by their bit in XCR0, and the feature without which a guest has none.
const PARTS: &[(u32, &str)] = &[
    (2, "avx"),
    (3, "mpx"),
    (4, "mpx"),
    (5, "avx512f"),
    (6, "avx512f"),
    (7, "avx512f"),
    (9, "pku"),
    (17, "amx_tile"),
    (18, "amx_tile"),
];

/// Leaf 0xd says the parts that the guest's features have, and their size.
fn extended_state(table: &mut Table) {
    let has = |table: &Table, name| {
        features::named(name).is_some_and(|feature| {
            table.get(feature.function, feature.index, feature.register) & feature.mask != 0
        })
    };
    if !has(table, "xsave") {
        table.0.iter_mut().filter(|leaf| leaf.function == 0xd).for_each(|leaf| {
            leaf.answer = [0; 4];
        });
        return;
    }
    let gone = PARTS.iter().filter(|(_, name)| !has(table, name));
    let gone = gone.fold(0u32, |mask, &(bit, _)| mask | 1 << bit);
    table.change(0xd, 0, Eax, |eax| eax & !gone);
    table.0.retain(|leaf| {
        let part = 1u32.checked_shl(leaf.index).unwrap_or(0);
        leaf.function != 0xd || leaf.index < 2 || part & gone == 0
    });
    let parts = table.get(0xd, 0, Eax);
    let bytes = (2..32)
        .filter(|part| parts >> part & 1 != 0)
        .filter_map(|part| table.leaf(0xd, part))
        .map(|leaf| leaf.register(Ebx).saturating_add(leaf.register(Eax)))
        .fold(super::needs::LEGACY_STATE_BYTES, u32::max);
    // EBX, the size for what is switched on now, is KVM's to keep.
    table.change(0xd, 0, Ebx, |_| bytes);
    table.change(0xd, 0, Ecx, |_| bytes);
}

fn frequencies(table: &mut Table, tsc_khz: u32) {
    if tsc_khz == 0 || table.leaf(KVM_FEATURES, 0).is_none() {
        return;
    }
    table.change(KVM_SIGNATURE, 0, Eax, |last| last.max(FREQUENCIES));
    table.put(Leaf::new(FREQUENCIES, None, [tsc_khz, APIC_BUS_KHZ, 0, 0]));
}

#[cfg(test)]
#[path = "policy_tests.rs"]
mod tests;
