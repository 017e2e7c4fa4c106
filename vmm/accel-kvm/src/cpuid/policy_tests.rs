use super::*;
use crate::cpuid::features::{features_in, named};

/// A host that can do everything that has a name, and more.
fn everything() -> Table {
    let mut table = Table(vec![
        Leaf::new(0, None, [0x1f, 0x756e_6547, 0x6c65_746e, 0x4965_6e69]),
        Leaf::new(0xa, None, [7; 4]),
        Leaf::new(0xd, Some(0), [0x6_02ff, 0, 0x2b00, 0]),
        Leaf::new(0xd, Some(2), [256, 576, 0, 0]),
        Leaf::new(0xd, Some(5), [64, 1088, 0, 0]),
        Leaf::new(0xd, Some(6), [512, 1152, 0, 0]),
        Leaf::new(0xd, Some(7), [1024, 1664, 0, 0]),
        Leaf::new(0xd, Some(9), [8, 2688, 0, 0]),
        Leaf::new(0xd, Some(17), [64, 2752, 0, 0]),
        Leaf::new(0xd, Some(18), [8192, 2816, 6, 0]),
        Leaf::new(0x12, Some(0), [3; 4]),
        Leaf::new(0x4000_0000, None, [0x4000_0001, 1, 2, 3]),
    ]);
    for word in WORDS {
        if table.leaf(word.function, word.index).is_none() {
            table.put(Leaf::new(word.function, Some(word.index), [0; 4]));
        }
        table.change(word.function, word.index, word.register, |_| u32::MAX);
    }
    table
}

fn given(options: &CpuOptions) -> Table {
    policy(&everything(), options, 2_596_152, true).unwrap()
}

fn without(names: &[&str]) -> Table {
    let disabled = names.iter().map(|&name| name.to_owned()).collect();
    given(&CpuOptions { disabled, ..CpuOptions::default() })
}

fn has(table: &Table, name: &str) -> bool {
    features_in(table).any(|feature| feature.name == name)
}

#[test]
fn what_cannot_move_is_left_out_and_all_else_is_given() {
    let table = given(&CpuOptions::default());
    for feature in features::all() {
        let left_out = LEFT_OUT.iter().any(|&(name, _)| name == feature.name);
        assert_eq!(has(&table, feature.name), !left_out, "{}", feature.name);
    }
    for (name, _) in LEFT_OUT {
        assert!(named(name).is_some(), "{name}");
    }
    assert_eq!(table.leaf(0xa, 0).unwrap().answer, [0; 4], "performance counters");
    assert_eq!(table.leaf(0x12, 0).unwrap().answer, [0; 4], "SGX");
}

#[test]
fn bits_without_a_name_are_given_to_none() {
    let table = given(&CpuOptions::default());
    for (function, index, register, nameless) in
        [(1, 0, Ecx, 1 << 16), (7, 0, Ecx, 1 << 15), (7, 0, Edx, 1), (7, 1, Eax, 1 << 31)]
    {
        assert_eq!(table.get(function, index, register) & nameless, 0, "{function:#x}.{index}");
    }
    // On AMD's this leaf repeats bits that leaf 1 names.
    assert_eq!(table.get(0x8000_0001, 0, Edx) & 1, 1);
}

#[test]
fn the_tsc_deadline_timer_and_frequencies_are_told() {
    let mut host = everything();
    host.change(1, 0, Ecx, |ecx| ecx & !(1 << 24 | 1 << 31));
    for (tsc_deadline, expected) in [(true, true), (false, false)] {
        let table = policy(&host, &CpuOptions::default(), 1_000_000, tsc_deadline).unwrap();
        assert_eq!(has(&table, "tsc_deadline_timer"), expected);
        assert!(has(&table, "hypervisor"));
        assert_eq!(table.get(KVM_SIGNATURE, 0, Eax), FREQUENCIES);
        assert_eq!(table.leaf(FREQUENCIES, 0).unwrap().answer, [1_000_000, 1_000_000, 0, 0]);
    }
    let table = policy(&host, &CpuOptions::default(), 0, true).unwrap();
    assert!(table.leaf(FREQUENCIES, 0).is_none(), "of a counter whose rate is not known");
}

#[test]
fn page_faults_that_are_told_can_be_switched_off() {
    for async_page_faults in [true, false] {
        let table = given(&CpuOptions { async_page_faults, ..CpuOptions::default() });
        for name in ASYNC_PAGE_FAULTS {
            assert_eq!(has(&table, name), async_page_faults, "{name}");
        }
        assert!(has(&table, "kvmclock"));
    }
}

#[test]
fn a_feature_that_is_disabled_takes_along_what_needs_it() {
    let table = without(&["avx512f"]);
    assert!(features_in(&table).all(|feature| !feature.name.starts_with("avx512")));
    assert!(has(&table, "avx2"));
    assert_eq!(table.get(0xd, 0, Eax), 0x6_0207, "no AVX-512 registers");
    assert!(table.leaf(0xd, 6).is_none());
    let table = without(&["avx"]);
    for gone in ["avx", "avx2", "fma", "avx512f", "avx512_bf16", "avx_vnni", "vaes"] {
        assert!(!has(&table, gone), "{gone}");
    }
    let table = without(&["xsave"]);
    for gone in ["xsave", "xsavec", "avx", "avx2", "avx512bw", "amx_tile", "pku"] {
        assert!(!has(&table, gone), "{gone}");
    }
    assert_eq!(table.leaf(0xd, 0).unwrap().answer, [0; 4]);
    let table = without(&["AMX-tile", "pku"]);
    assert!(!has(&table, "amx_int8"));
    assert_eq!(table.get(0xd, 0, Eax), 0xe7);
    assert_eq!(table.get(0xd, 0, Ecx), 2688, "to the end of the last part");
}

#[test]
fn a_name_that_is_none_is_an_error_with_near_ones() {
    let error = |name: &str| {
        let disabled = vec![name.to_owned()];
        let options = CpuOptions { disabled, ..CpuOptions::default() };
        policy(&everything(), &options, 1, true).unwrap_err().to_string()
    };
    assert!(error("avx512ff").contains("avx512f"), "{}", error("avx512ff"));
    assert!(error("teleport").contains("sse2"), "all names: {}", error("teleport"));
    assert!(error(&"x".repeat(1000)).len() < 5000);
}
