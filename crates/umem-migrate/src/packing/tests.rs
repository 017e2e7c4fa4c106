use super::*;

const MIB: u64 = 1 << 20;
const CHUNK: u64 = 256 << 10;

fn at(bytes: u64, rate: u64) -> Duration {
    Duration::from_secs_f64(bytes as f64 / rate as f64)
}

/// Pages and packers: bytes a second and what is left of a hundred, of LZ4 and Zstandard.
#[derive(Clone, Copy)]
struct Packers {
    lz4: (u64, u64),
    zstd: (u64, u64),
}

const TEXT: Packers = Packers { lz4: (500 * MIB, 50), zstd: (250 * MIB, 35) };
const NOISE: Packers = Packers { lz4: (900 * MIB, 100), zstd: (700 * MIB, 100) };

/// Sends so many chunks over a link of so many bytes a second; how each went.
fn send(packing: &mut Packing, link: u64, packers: Packers, chunks: usize) -> Vec<Option<Codec>> {
    let mut ways = Vec::new();
    for _ in 0..chunks {
        let way = packing.next_chunk();
        let sent = way.map_or(CHUNK, |codec| {
            let (rate, percent) = match codec {
                Codec::Lz4 => packers.lz4,
                Codec::Zstd => packers.zstd,
            };
            let packed = CHUNK * percent / 100;
            packing.packed(codec, CHUNK, packed, at(CHUNK, rate));
            packed
        });
        packing.sent(sent, at(sent, link));
        ways.push(way);
    }
    ways
}

fn auto() -> Packing {
    Packing::new(Compression::Auto, Features::KNOWN)
}

#[test]
fn what_is_wanted_is_done_where_the_peer_knows_it() {
    let none = Features::default();
    let rows = [
        (Compression::Off, Features::KNOWN, None),
        (Compression::Always(Codec::Lz4), Features::KNOWN, Some(Codec::Lz4)),
        (Compression::Always(Codec::Zstd), Features::KNOWN, Some(Codec::Zstd)),
        (Compression::Always(Codec::Zstd), Features::LZ4, None),
        (Compression::Always(Codec::Lz4), none, None),
        (Compression::Auto, none, None),
    ];
    for (wish, known, expected) in rows {
        // A slow link, and a fast one: nobody is asked.
        for link in [MIB, 4096 * MIB] {
            let mut packing = Packing::new(wish, known);
            let ways = send(&mut packing, link, TEXT, 40);
            assert!(ways.iter().all(|way| *way == expected), "{wish:?} {known:?}: {ways:?}");
        }
    }
}

#[test]
fn by_itself_it_takes_what_costs_least() {
    let rows = [
        // 100 Mbit/s: the link is all that counts.
        (12 * MIB, TEXT, Some(Codec::Zstd)),
        // 2.5 Gbit/s: 1/500 + 0.5/300 < 1/250 + 0.35/300, but neither pays.
        (300 * MIB, TEXT, None),
        // Between them LZ4's speed counts: 1/500 + 0.5/120 = 0.0062 of 0.0083, Zstandard 0.0069.
        (120 * MIB, Packers { zstd: (100 * MIB, 35), ..TEXT }, Some(Codec::Lz4)),
        (12 * MIB, NOISE, None),
        (2048 * MIB, TEXT, None),
    ];
    for (link, packers, expected) in rows {
        let mut packing = auto();
        send(&mut packing, link, packers, 60);
        assert_eq!(packing.current(), expected, "{} MiB/s", link / MIB);
    }
}

#[test]
fn a_link_that_is_never_waited_for_never_sees_a_packer() {
    let mut packing = auto();
    let ways = send(&mut packing, 2048 * MIB, TEXT, 5000);
    assert!(ways.iter().all(Option::is_none));
    assert!(!packing.may_pay());
    // And a slow one not before it is known to be.
    let ways = send(&mut auto(), 12 * MIB, TEXT, 60);
    let first = ways.iter().position(Option::is_some).unwrap() as u64;
    assert_eq!(first, TELLING_BYTES / CHUNK);
}

#[test]
fn a_limit_of_the_operators_is_a_slow_link() {
    let mut packing = auto();
    packing.limit(12 * MIB);
    let ways = send(&mut packing, 2048 * MIB, TEXT, 4);
    assert_eq!(ways[..2], [Some(Codec::Lz4), Some(Codec::Zstd)]);
    assert!(packing.current().is_some());
    packing.limit(0);
    send(&mut packing, 2048 * MIB, TEXT, 40);
    assert_eq!(packing.current(), None);
}

#[test]
fn what_does_not_pack_is_tried_now_and_then() {
    let mut packing = auto();
    let ways = send(&mut packing, 12 * MIB, NOISE, 1000);
    let tried = ways.iter().filter(|way| way.is_some()).count();
    assert!((2..=2 * (1000 / TRY_AFTER as usize + 1)).contains(&tried), "{tried}");
    assert_eq!(packing.current(), None);
    // Until it does.
    let ways = send(&mut packing, 12 * MIB, TEXT, 3 * TRY_AFTER as usize);
    assert!(ways.last().unwrap().is_some());
    // Another round is of other pages: both codecs are tried at once.
    packing.begin_round();
    let ways = send(&mut packing, 12 * MIB, NOISE, 60);
    assert_eq!(ways[..2], [Some(Codec::Lz4), Some(Codec::Zstd)]);
    assert_eq!(ways.last(), Some(&None));
}

#[test]
fn a_packer_that_is_too_slow_whatever_comes_out_is_not_tried_again() {
    let ways = send(&mut auto(), 300 * MIB, TEXT, 1000);
    let tried = |codec| ways.iter().filter(|way| **way == Some(codec)).count();
    assert_eq!(tried(Codec::Zstd), 1);
    assert!(tried(Codec::Lz4) > 3);
}

#[test]
fn two_ways_that_cost_about_the_same_do_not_alternate() {
    let mut packing = auto();
    send(&mut packing, 12 * MIB, TEXT, 60);
    assert_eq!(packing.current(), Some(Codec::Zstd));
    // LZ4 comes to cost a tenth less.
    let near = Packers { lz4: (500 * MIB, 33), ..TEXT };
    send(&mut packing, 12 * MIB, near, 2000);
    assert_eq!(packing.current(), Some(Codec::Zstd));
    let far = Packers { lz4: (500 * MIB, 20), ..TEXT };
    send(&mut packing, 12 * MIB, far, 2000);
    assert_eq!(packing.current(), Some(Codec::Lz4));
}

#[test]
fn a_page_that_is_waited_for_is_packed_where_the_link_is_known_to_be_slow() {
    for (link, expected) in [(12 * MIB, Some(Codec::Lz4)), (2048 * MIB, None)] {
        let mut packing = Packing::new(Compression::Always(Codec::Lz4), Features::KNOWN);
        assert_eq!(packing.for_waiting(), None, "nothing is known");
        send(&mut packing, link, TEXT, 60);
        assert_eq!(packing.for_waiting(), expected);
    }
}
