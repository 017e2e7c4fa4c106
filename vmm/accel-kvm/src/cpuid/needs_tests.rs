use super::*;
use crate::cpuid::table::Leaf;

fn processor() -> Processor {
    let table = Table(vec![
        Leaf::new(0, None, [0x10, 0x6874_7541, 0x444d_4163, 0x6974_6e65]),
        Leaf::new(1, None, [0, 0, 1 << 21 | 1 << 28, 1 << 9]),
        Leaf::new(7, Some(0), [0, 1 << 16, 0, 0]),
        Leaf::new(0xd, Some(0), [0xe7, 0, 2432, 0]),
        Leaf::new(0x8000_0008, None, [0x3030, 0, 0, 0]),
    ]);
    Processor { table, tsc_khz: 2_596_152 }
}

fn line(scales: bool, needed: &[&str]) -> String {
    let needed: Vec<String> = needed.iter().map(|&word| word.to_owned()).collect();
    admits(&processor(), scales, &needed).err().unwrap_or_default()
}

#[test]
fn what_a_guest_needs_has_names_and_its_own_host_admits_it() {
    let needed = needs(&processor());
    assert_eq!(
        needed,
        [
            "x2apic",
            "avx",
            "apic",
            "avx512f",
            "vendor=AuthenticAMD",
            "tsc-khz=2596152",
            "xsave-bytes=2432",
            "xcr0=0xe7",
            "physical-address-bits=48"
        ]
    );
    assert_eq!(admits(&processor(), false, &needed), Ok(()));
}

#[test]
fn a_line_names_all_that_is_lacking() {
    let text = line(false, &["amx_tile", "avx512f", "sha512", "vendor=GenuineIntel"]);
    assert!(text.contains("amx_tile, sha512 of its processor"), "{text}");
    assert!(text.contains("-cpu host,-amx_tile,-sha512"), "{text}");
    assert!(text.contains("AuthenticAMD, the guest's of GenuineIntel"), "{text}");
    assert!(!text.contains("avx512f"), "{text}");
}

#[test]
fn each_measure_is_compared() {
    for (word, part) in [
        ("tsc-khz=3000000", "2596152 kHz and cannot be scaled, the guest's at 3000000 kHz"),
        ("tsc-khz=fast", "is no number"),
        ("tsc-khz=99999999999", "is no number"),
        ("xsave-bytes=2433", "2432 bytes of extended state, the guest 2433"),
        ("xcr0=0x602e7", "lacks parts 0x60200"),
        ("xcr0=", "is no number"),
        ("physical-address-bits=52", "48 bits of physical address, the guest 52"),
        ("flux=1", "flux=1 is not known"),
    ] {
        assert!(line(false, &[word]).contains(part), "{word}: {}", line(false, &[word]));
    }
    for fine in ["xsave-bytes=832", "xcr0=0x7", "physical-address-bits=39"] {
        assert_eq!(line(false, &[fine]), "");
    }
}

/// KVM scales nothing up to 250 ppm (module parameter tsc_tolerance_ppm).
#[test]
fn rates_may_differ_a_little() {
    for (khz, fits) in [
        (2_596_152u32, true),
        (2_596_801, true),
        (2_596_802, false),
        (2_595_503, true),
        (2_595_502, false),
        (0, false),
    ] {
        assert_eq!(same_rate(khz, 2_596_152), fits, "{khz}");
        assert_eq!(line(false, &[&format!("tsc-khz={khz}")]).is_empty(), fits);
        assert_eq!(line(true, &[&format!("tsc-khz={khz}")]), "", "a host that scales");
    }
}

#[test]
fn a_hostile_list_makes_a_short_line() {
    let words: Vec<String> = (0..1000).map(|n| format!("{}\n{n}", "x".repeat(9999))).collect();
    let text = admits(&processor(), false, &words).unwrap_err();
    assert!(text.len() < 4000 && !text.contains('\n'), "{}", text.len());
    assert!(text.contains("and 984 more"), "{text}");
    let words = vec!["a=b".to_owned(); 2000];
    assert!(admits(&processor(), false, &words).unwrap_err().len() < 200);
}
