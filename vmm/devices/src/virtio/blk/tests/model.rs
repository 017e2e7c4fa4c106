//! Requests at random, against a model of the disk.

use super::*;

/// Type, first sector, number of sectors, flags, what is written.
type Asked = (u32, u64, u32, u32, u8);

fn asked() -> impl Strategy<Value = Vec<Asked>> {
    let kind = prop_oneof![Just(0u32), Just(1), Just(4), Just(8), Just(11), Just(13), 0u32..20];
    let sector = prop_oneof![6 => 0..SECTORS + 3, 1 => any::<u64>()];
    let flags = prop_oneof![4 => Just(0u32), 2 => Just(1), 1 => any::<u32>()];
    proptest::collection::vec((kind, sector, 0u32..9, flags, any::<u8>()), 1..40)
}

/// The status that a request gets.
fn expected(&(kind, sector, sectors, flags, _): &Asked) -> u8 {
    let outside = sector.checked_add(sectors.into()).is_none_or(|end| end > SECTORS);
    match kind {
        4 | 8 => 0,
        0 | 1 => u8::from(outside),
        11 | 13 if flags > 1 => 2,
        11 | 13 if outside => 1,
        // A discard of nothing has no flag to refuse.
        11 if flags == 1 && sectors > 0 => 2,
        11 | 13 => 0,
        _ => 2,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn every_request_has_its_status_and_effect(all in asked()) {
        let file = file();
        let disk = disk(&file, false);
        let mut driver = start_with(&disk, FLUSH | DISCARD | WRITE_ZEROES);
        let mut model = std::fs::read(file.path()).unwrap();
        for asked in all {
            let (kind, sector, sectors, flags, value) = asked;
            let bytes = sectors * 512;
            let status = match kind {
                11 | 13 => ranges(&mut driver, kind, &[(sector, sectors, flags)]),
                0 | 8 => request(&mut driver, kind, sector, &[(DATA, bytes, WRITE)]).0,
                _ => {
                    driver.put(DATA, &vec![value; bytes as usize]);
                    request(&mut driver, kind, sector, &[(DATA, bytes, READ)]).0
                }
            };
            assert_eq!(status, expected(&asked), "{asked:?}");
            let now = std::fs::read(file.path()).unwrap();
            assert_eq!(now.len(), model.len());
            if status == 0 && matches!(kind, 0 | 1 | 11 | 13) {
                let (from, to) = (sector as usize * 512, sector as usize * 512 + bytes as usize);
                match kind {
                    0 => assert_eq!(driver.bytes(DATA, bytes as usize), model[from..to]),
                    1 => model[from..to].fill(value),
                    13 => model[from..to].fill(0),
                    _ => {
                        let (mut gone, found) = (model.clone(), &now[from..to]);
                        gone[from..to].fill(0);
                        assert!(found == &model[from..to] || found == &gone[from..to]);
                        model[from..to].copy_from_slice(found);
                    }
                }
            }
            assert!(now == model, "{asked:?}");
        }
    }
}
