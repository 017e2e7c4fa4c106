use super::*;
use proptest::prelude::*;
use serde::{Deserialize, Serialize};
use std::sync::atomic::{AtomicU32, Ordering};

#[derive(Default)]
struct Counter(AtomicU32);

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SavedCounter {
    count: u32,
}

impl SaveRestore for Counter {
    type Saved = SavedCounter;
    const VERSION: u32 = 2;

    fn save(&self) -> SavedCounter {
        SavedCounter { count: self.0.load(Ordering::Relaxed) }
    }

    fn restore(&self, saved: SavedCounter) -> Result<(), StateError> {
        if saved.count > 1000 {
            return Err(StateError::refused("counter", format!("{} is above 1000", saved.count)));
        }
        self.0.store(saved.count, Ordering::Relaxed);
        Ok(())
    }
}

fn counter(count: u32) -> Counter {
    Counter(AtomicU32::new(count))
}

fn package() -> Vec<u8> {
    let mut builder = PackageBuilder::new();
    builder.add("counter-0", &counter(7)).unwrap();
    builder.add_body("raw", 1, vec![0xf6]);
    builder.build()
}

/// Ends a damaged frame with the digest that goes with it.
fn sealed(mut framed: Vec<u8>) -> Vec<u8> {
    let digest = XxHash3_64::oneshot(&framed);
    framed.extend(digest.to_le_bytes());
    framed
}

fn framed() -> Vec<u8> {
    let mut bytes = package();
    bytes.truncate(bytes.len() - DIGEST_BYTES);
    bytes
}

#[test]
fn the_bytes_of_a_package_do_not_change() {
    let golden = [
        b"UMEMSTAT".as_slice(),
        &[1, 0, 0, 0, 2, 0, 0, 0],
        &[9, 0],
        b"counter-0",
        &[2, 0, 0, 0, 8, 0, 0, 0],
        b"\xa1\x65count\x07",
        &[3, 0],
        b"raw",
        &[1, 0, 0, 0, 1, 0, 0, 0, 0xf6],
        &0xfaca_32ab_45c4_5afb_u64.to_le_bytes(),
    ]
    .concat();
    assert_eq!(package(), golden);
}

#[test]
fn a_component_comes_back_and_nothing_is_left() {
    let mut package = Package::decode(&package()).unwrap();
    assert_eq!(package.names().collect::<Vec<_>>(), ["counter-0", "raw"]);
    let restored = counter(0);
    package.take("counter-0", &restored).unwrap();
    assert_eq!(restored.0.load(Ordering::Relaxed), 7);
    assert_eq!(package.take_section("raw", 1).unwrap().body, [0xf6]);
    package.finish().unwrap();
}

#[test]
fn absent_twice_taken_and_left_over_sections_are_errors() {
    let mut package = Package::decode(&package()).unwrap();
    assert!(matches!(package.take("counter-1", &counter(0)), Err(StateError::Absent(_))));
    package.take("counter-0", &counter(0)).unwrap();
    assert!(matches!(package.take("counter-0", &counter(0)), Err(StateError::Absent(_))));
    let error = package.finish().unwrap_err();
    assert!(error.to_string().contains("raw"), "{error}");
}

#[test]
fn unknown_versions_are_told_apart_from_nonsense() {
    let mut builder = PackageBuilder::new();
    builder.add_body("counter", 3, vec![0xa0]);
    let mut newer = Package::decode(&builder.build()).unwrap();
    let error = newer.take("counter", &counter(0)).unwrap_err();
    assert!(matches!(error, StateError::Version { found: 3, known: 2, .. }), "{error}");

    let mut newer_format = framed();
    newer_format[8] = 2;
    let error = Package::decode(&sealed(newer_format)).unwrap_err();
    assert!(matches!(error, StateError::Version { found: 2, known: 1, .. }), "{error}");
}

#[test]
fn a_refused_value_names_the_component() {
    let mut builder = PackageBuilder::new();
    builder.add("counter", &counter(5000)).unwrap();
    let mut package = Package::decode(&builder.build()).unwrap();
    let error = package.take("counter", &counter(0)).unwrap_err();
    assert_eq!(error.to_string(), "counter: 5000 is above 1000");
}

#[test]
fn any_flipped_bit_and_any_cut_is_found() {
    let good = package();
    for at in 0..good.len() {
        for bit in 0..8 {
            let mut bad = good.clone();
            bad[at] ^= 1 << bit;
            assert!(Package::decode(&bad).is_err(), "byte {at} bit {bit}");
        }
        assert!(Package::decode(&good[..at]).is_err(), "{at} bytes");
    }
}

#[test]
fn counts_and_lengths_that_are_not_there_are_refused() {
    // Number of sections; length of the first name; of the first body.
    for at in [12, 16, 31] {
        let mut bad = framed();
        bad[at + 1] = 0xff;
        let error = Package::decode(&sealed(bad)).unwrap_err();
        assert!(matches!(error, StateError::Malformed { .. }), "{error}");
    }
}

#[test]
fn two_sections_of_one_name_are_refused() {
    let mut bytes = framed();
    bytes[12] = 3;
    let raw = bytes[bytes.len() - 14..].to_vec();
    bytes.extend(raw);
    let error = Package::decode(&sealed(bytes)).unwrap_err();
    assert!(error.to_string().contains("two sections \"raw\""), "{error}");
}

#[test]
#[should_panic(expected = "two sections")]
fn a_name_is_used_once() {
    let mut builder = PackageBuilder::new();
    builder.add_body("raw", 1, Vec::new());
    builder.add_body("raw", 1, Vec::new());
}

proptest! {
    #[test]
    fn hostile_packages_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let mut framed = MAGIC.to_vec();
        framed.extend(FORMAT_VERSION.to_le_bytes());
        framed.extend(bytes);
        if let Ok(mut package) = Package::decode(&sealed(framed)) {
            let names: Vec<String> = package.names().map(str::to_owned).collect();
            for name in names {
                let _ = package.take(&name, &counter(0));
            }
        }
    }

    #[test]
    fn damaged_packages_never_panic(damage in proptest::collection::vec((0..64usize, any::<u8>()), 1..4)) {
        let mut bytes = framed();
        for (at, byte) in damage {
            let length = bytes.len();
            bytes[at % length] = byte;
        }
        if let Ok(mut package) = Package::decode(&sealed(bytes)) {
            let _ = package.take("counter-0", &counter(0));
            let _ = package.finish();
        }
    }

    #[test]
    fn any_sections_come_back(bodies in proptest::collection::vec((1..9u32, proptest::collection::vec(any::<u8>(), 0..50)), 0..20)) {
        let mut builder = PackageBuilder::new();
        for (index, (version, body)) in bodies.iter().enumerate() {
            builder.add_body(&format!("s{index}"), *version, body.clone());
        }
        let mut package = Package::decode(&builder.build()).unwrap();
        for (index, (version, body)) in bodies.iter().enumerate() {
            let section = package.take_section(&format!("s{index}"), 9).unwrap();
            prop_assert_eq!((section.version, &section.body), (*version, body));
        }
        package.finish().unwrap();
    }
}
