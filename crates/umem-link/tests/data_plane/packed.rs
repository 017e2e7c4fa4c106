//! Pages that go packed, and as what has changed of them.

use crate::caller::Caller;
use crate::rounds::{BUSY, CALM, PAGES, hybrid, pair, precopy, refused};
use crate::vms::{SourceMachine, Touch, read};
use crate::world::{Source, World, fd, tcp, unix, wait_for};
use std::io::Write;
use std::sync::Arc;
use umem_link::{
    Codec, Compression, DestinationOptions, Differences, Features, Mode, SourceOptions,
};
use umem_memory::{PageIndex, PageRange};
use umem_wire::{
    Cause, Packer, PageKind, PagesBuilder, Role, ToDestination, ToSource, encode_round_end,
    exclusive_or, page_hash,
};

const PAGE: usize = 4096;

/// Text of which a quarter of the pages consists, with its page's number in it.
fn text(page: u64) -> Vec<u8> {
    let line = format!("page {page}: the quick brown fox jumps over the lazy dog. ");
    line.into_bytes().into_iter().cycle().take(PAGE).collect()
}

fn write_text(vm: &SourceMachine) {
    let block = vm.ram.layout().blocks()[0].clone();
    for page in (0..block.pages).filter(|page| page % 4 == 1) {
        vm.ram.write_pages(PageRange::one(PageIndex(page)), &text(page)).unwrap();
    }
}

/// Moves a guest whose threads write, half of each page that they touch; the source at its end.
fn moved(world: &World, vm: &Arc<SourceMachine>, options: SourceOptions) -> Source {
    write_text(vm);
    if options.strategy.rounds.is_some() {
        vm.write(CALM);
        vm.write(BUSY);
    }
    let source = Source::start(world.target(), vm.clone(), options);
    world.assert_whole(&source);
    source
}

#[test]
fn a_guest_arrives_whole_however_its_pages_are_packed() {
    for codec in Codec::ALL {
        for options in [SourceOptions::default(), precopy(), hybrid(3)] {
            for differences in [Differences::Off, Differences::On, Differences::Auto] {
                let compression = Compression::Always(codec);
                let options = SourceOptions {
                    compression,
                    differences,
                    rounds_bandwidth: 40 << 20,
                    bulk_lanes: 2,
                    ..options
                };
                let (world, vm) = pair(tcp());
                let source = moved(&world, &vm, options);
                let (there, here) = (source.session.status(), world.listener.status());
                let (there, here) = (there.packed.unwrap(), here.packed.unwrap());
                assert_eq!(there.codec, Some(codec.name()));
                assert_eq!(here.codec, Some(codec.name()));
                assert!(there.ratio > 1.1, "{there:?}");
                let changes = options.strategy.rounds.is_some();
                let has = changes && differences != Differences::Off;
                assert_eq!(there.differences > 0, has, "{differences:?}: {there:?}");
                if options.strategy.rounds.is_none() {
                    // Some copies come when all pages are here, and are not looked at.
                    assert!(here.packed_bytes <= there.packed_bytes);
                } else {
                    assert!(here.differences == there.differences, "{here:?} {there:?}");
                }
            }
        }
    }
}

#[test]
fn differences_alone_are_packed_where_nothing_else_is() {
    for way in [tcp(), unix(), fd()] {
        let (world, vm) = pair(way);
        let options = SourceOptions {
            compression: Compression::Off,
            differences: Differences::On,
            rounds_bandwidth: 40 << 20,
            ..hybrid(3)
        };
        let source = moved(&world, &vm, options);
        let packed = source.session.status().packed.unwrap();
        assert!(packed.differences > 0 && packed.codec.is_none(), "{packed:?}");
    }
}

#[test]
fn little_room_for_copies_makes_few_differences_and_no_wrong_ones() {
    for copies_bytes in [0, 16 * PAGE as u64, 300 * PAGE as u64] {
        let (world, vm) = pair(tcp());
        let options = SourceOptions {
            compression: Compression::Always(Codec::Lz4),
            differences: Differences::On,
            copies_bytes,
            rounds_bandwidth: 40 << 20,
            bulk_lanes: 3,
            ..hybrid(4)
        };
        let source = moved(&world, &vm, options);
        let packed = source.session.status().packed.unwrap();
        assert!(copies_bytes > 0 || packed.differences == 0, "{packed:?}");
    }
}

#[test]
fn a_peer_that_does_not_know_a_way_to_pack_is_not_sent_it() {
    let rows = [
        (Features::default(), None, false),
        (Features::DIFFERENCES, None, false),
        (Features::ZSTD, Some("zstd"), false),
        (Features(Features::ZSTD.0 | Features::DIFFERENCES.0), Some("zstd"), true),
    ];
    for (features, codec, differences) in rows {
        for wish in Codec::ALL {
            let mut truth = None;
            let options = DestinationOptions { features, ..DestinationOptions::default() };
            let world = World::with(tcp(), PAGES, 3, options, |vm| {
                let source = Arc::new(SourceMachine::new(PAGES, &vm.ledger));
                vm.truth = Some(source.ram.clone());
                truth = Some(source);
            });
            let options = SourceOptions {
                compression: Compression::Always(wish),
                differences: Differences::On,
                rounds_bandwidth: 40 << 20,
                ..hybrid(3)
            };
            let source = moved(&world, &truth.unwrap(), options);
            let status = source.session.status();
            let wished = codec.filter(|codec| *codec == wish.name());
            assert_eq!(status.packed.and_then(|packed| packed.codec), wished, "{features:?}");
            assert_eq!(world.listener.status().packed.is_some(), status.packed.is_some());
            let found = status.packed.is_some_and(|packed| packed.differences > 0);
            assert_eq!(found, differences, "{features:?}: {status:?}");
        }
    }
}

#[test]
fn by_itself_a_limited_link_is_packed_for_and_nothing_where_that_is_off() {
    for (compression, packs) in [(Compression::Auto, true), (Compression::Off, false)] {
        let (world, vm) = pair(tcp());
        // The first chunk of a round is tried: nobody else takes its pages away.
        let options = SourceOptions { rounds_bandwidth: 20 << 20, compression, ..precopy() };
        let source = moved(&world, &vm, options);
        assert_eq!(source.session.status().packed.is_some(), packs, "{compression:?}");
    }
}

/// A PACKED frame of one page of these bytes, which are as they are or a difference.
fn packed(start: u64, cause: Cause, hash: u64, bytes: &[u8], differs: &[bool]) -> Vec<u8> {
    let mut frame = PagesBuilder::new(start, cause, PAGE);
    frame.push(PageKind::Content(hash));
    let mut packer = Packer::default();
    let range = packer.pack(Codec::Lz4, bytes).unwrap();
    let mut out = frame.packed_head(Codec::Lz4, differs, range.len());
    out.extend_from_slice(packer.packed(range));
    out
}

fn changed(page: u64) -> (Vec<u8>, Vec<u8>) {
    let (old, mut new) = (text(page), text(page));
    new[..9].copy_from_slice(b"something");
    let mut difference = new.clone();
    exclusive_or(&mut difference, &old);
    (new, difference)
}

#[test]
fn packed_pages_that_cannot_be_end_the_session() {
    let bulk = |bytes: Vec<u8>| {
        move |_: &World, caller: &mut Caller| {
            let (_demand, mut bulk) = (caller.lane(Role::Demand), caller.lane(Role::Bulk));
            bulk.write_all(&bytes).unwrap();
            while caller.hear().is_some() {}
        }
    };
    let cause = Cause::Precopy;
    let hash = |page| page_hash(page, &text(page));
    let (new, difference) = changed(1);
    let late = packed(1, Cause::Background, page_hash(1, &new), &difference, &[true]);
    refused(Mode::HYBRID, "wrong time", &bulk(late));
    let none = packed(1, cause, page_hash(1, &new), &difference, &[true]);
    refused(Mode::PRECOPY, "not here", &bulk(none));
    refused(Mode::PRECOPY, "altered", &bulk(packed(1, cause, 0, &text(1), &[])));
    refused(Mode::PRECOPY, "altered", &bulk(packed(1, cause, hash(2), &text(1), &[])));
    let nowhere = packed(PAGES, cause, page_hash(PAGES, &text(1)), &text(1), &[]);
    refused(Mode::PRECOPY, "does not have", &bulk(nowhere));
    for bytes in [PAGE - 1, PAGE + 1, 9 * PAGE] {
        let bytes = vec![1; bytes];
        refused(Mode::PRECOPY, "do not unpack", &bulk(packed(1, cause, hash(1), &bytes, &[])));
    }
    let mut torn = packed(1, cause, hash(1), &text(1), &[]);
    let last = torn.len() - 1;
    torn[last - 20..].fill(0xff);
    refused(Mode::PRECOPY, "do not unpack", &bulk(torn));
    // What was there before is gone: void.
    refused(Mode::HYBRID, "wrong time", &|world, caller| {
        let (_demand, mut bulk) = (caller.lane(Role::Demand), caller.lane(Role::Bulk));
        let first = packed(1, cause, page_hash(1, &text(1)), &text(1), &[]);
        bulk.write_all(&[first, encode_round_end(1)].concat()).unwrap();
        assert!(matches!(caller.hear(), Some(ToSource::RoundPlaced { round: 1, .. })));
        let discard = ToDestination::Discard { start: 1, bits: vec![1] };
        caller.say(&discard);
        wait_for("the discard", || {
            world.listener.status().rounds.is_some_and(|rounds| rounds.discarded == 1)
        });
        let (new, difference) = changed(1);
        bulk.write_all(&packed(1, cause, page_hash(1, &new), &difference, &[true])).unwrap();
        while caller.hear().is_some() {}
    });
}

#[test]
fn a_difference_from_another_copy_is_found_before_anything_is_placed() {
    let world = World::new(tcp(), PAGES, 1);
    let mut caller = Caller::open(&world, 1);
    caller.announce(&world, Mode::PRECOPY);
    let (_demand, mut bulk) = (caller.lane(Role::Demand), caller.lane(Role::Bulk));
    let (new, difference) = changed(1);
    let good = packed(1, Cause::Precopy, page_hash(1, &new), &difference, &[true]);
    let old = packed(1, Cause::Precopy, page_hash(1, &text(1)), &text(1), &[]);
    bulk.write_all(&[old, good.clone(), encode_round_end(1)].concat()).unwrap();
    assert!(matches!(caller.hear(), Some(ToSource::RoundPlaced { round: 1, .. })));
    assert_eq!(read(&world.vm.ram, 1), new);
    // Once more: now it would make the old content again.
    bulk.write_all(&good).unwrap();
    assert_eq!(caller.hear(), None);
    wait_for("the reason", || world.listener.status().error.is_some());
    let why = world.listener.status().error.unwrap();
    assert!(why.contains("altered"), "{why}");
    assert!(read(&world.vm.ram, 1) != text(1), "it was placed");
}

#[test]
fn a_way_to_pack_that_was_not_named_is_not_taken() {
    let (new, difference) = changed(1);
    let plain = packed(1, Cause::Precopy, page_hash(1, &text(1)), &text(1), &[]);
    let differs = packed(1, Cause::Precopy, page_hash(1, &new), &difference, &[true]);
    for (features, bytes, what) in
        [(Features::ZSTD, plain, "lz4"), (Features::LZ4, differs, "differences")]
    {
        let options = DestinationOptions { features, ..DestinationOptions::default() };
        let world = World::with(tcp(), PAGES, 1, options, |vm| vm.touch = Touch::Asking);
        let mut caller = Caller::open(&world, 1);
        caller.announce(&world, Mode::PRECOPY);
        let (_demand, mut bulk) = (caller.lane(Role::Demand), caller.lane(Role::Bulk));
        bulk.write_all(&bytes).unwrap();
        assert_eq!(caller.hear(), None);
        wait_for("the reason", || world.listener.status().error.is_some());
        let why = world.listener.status().error.unwrap();
        assert!(why.contains(what) && why.contains("not agreed"), "{why}");
    }
}
