use super::*;
use crate::{Cause, FRAME_HEAD_BYTES, MAX_CHUNK_PAGES, PageKind, PagesFrame};
use proptest::prelude::*;

const PAGE: usize = 64;

/// A frame of these pages; content differs from page to page and repeats itself.
fn frame(codec: Codec, kinds: &[PageKind], differences: &[bool]) -> Option<(Vec<u8>, Vec<u8>)> {
    let mut builder = PagesBuilder::new(7, Cause::Precopy, PAGE);
    kinds.iter().for_each(|kind| builder.push(*kind));
    let pages = kinds.iter().filter(|kind| matches!(kind, PageKind::Content(_))).count();
    let content: Vec<u8> = (0..pages * PAGE).map(|at| (at / PAGE * 3 + at % 2) as u8).collect();
    let mut packer = Packer::default();
    let packed = packer.pack(codec, &content)?;
    let mut frame = builder.packed_head(codec, differences, packed.len());
    frame.extend_from_slice(packer.packed(packed));
    Some((frame, content))
}

fn decode(frame: &[u8]) -> Result<PagesFrame<'_>, WireError> {
    PagesFrame::decode(frame[0], &frame[FRAME_HEAD_BYTES..], PAGE)
}

fn packed(frame: &[u8]) -> PackedHead<'_> {
    let Ok(PagesFrame::Packed(head)) = decode(frame) else { panic!("{:?}", decode(frame)) };
    head
}

#[test]
fn the_bytes_are_as_documented() {
    let kinds = [PageKind::Fill(9), PageKind::Content(5), PageKind::Content(6)];
    let mut builder = PagesBuilder::new(0x10, Cause::Precopy, PAGE);
    kinds.iter().for_each(|kind| builder.push(*kind));
    let head = builder.packed_head(Codec::Zstd, &[false, true], 3);
    let mut golden = vec![4, 0, 0, 0, 4 + 16 + 1 + 1 + 16 + 1 + 3, 0, 0, 0, 2, 1, 0, 0];
    golden.extend_from_slice(&[0x10, 0, 0, 0, 0, 0, 0, 0, 3, 0, 2, 0, 1, 0, 4, 0]);
    golden.extend_from_slice(&[0b00_00_10, 9, 5, 0, 0, 0, 0, 0, 0, 0, 6, 0, 0, 0, 0, 0, 0, 0]);
    golden.push(0b10);
    assert_eq!(head, golden);
    let frame = [&head[..], &[1, 2, 3]].concat();
    let decoded = packed(&frame);
    assert_eq!((decoded.start(), decoded.count(), decoded.content_bytes()), (0x10, 3, 2 * PAGE));
    assert_eq!(decoded.contents().collect::<Vec<_>>(), [(0x11, false), (0x12, true)]);
    assert_eq!(builder.packed_head(Codec::Lz4, &[], 3)[8..12], [1, 0, 0, 0]);
}

#[test]
fn what_has_no_meaning_is_refused() {
    let kinds = [PageKind::Content(5), PageKind::Fill(0)];
    let (frame, _) = frame(Codec::Lz4, &kinds, &[true]).unwrap();
    let with = |at: usize, value: u8| {
        let mut frame = frame.clone();
        frame[FRAME_HEAD_BYTES + at] = value;
        decode(&frame).map(|_| ())
    };
    assert_eq!(with(0, 1), Ok(()));
    for (at, value) in [(0, 0), (0, 3), (1, 2), (1, 3), (2, 1), (3, 1)] {
        assert!(matches!(with(at, value), Err(WireError::Value { .. })), "{at}: {value}");
    }
    // A difference of a second page, where one has content.
    let bits = 4 + 16 + 1 + 8;
    assert!(matches!(with(bits, 0b11), Err(WireError::Value { .. })));
    let mut nothing = PagesBuilder::new(7, Cause::Precopy, PAGE);
    nothing.push(PageKind::Fill(0));
    let nothing = nothing.packed_head(Codec::Lz4, &[], 0);
    assert!(matches!(decode(&nothing), Err(WireError::Value { .. })));
}

#[test]
fn what_cannot_be_packed_well_is_not() {
    let mut state = 1_u64;
    let noise: Vec<u8> = (0..4096)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 56) as u8
        })
        .collect();
    let mut packer = Packer::default();
    for codec in Codec::ALL {
        assert_eq!(packer.pack(codec, &noise), None, "{codec:?}");
        // A twentieth less: packed, that is more than nine tenths.
        let almost = [&noise[..3900], &[0; 196]].concat();
        assert_eq!(packer.pack(codec, &almost), None, "{codec:?}");
        let half = [&noise[..2048], &[0; 2048]].concat();
        let first = packer.pack(codec, &half).unwrap();
        let second = packer.pack(codec, &half).unwrap();
        assert_eq!(first.end, second.start);
        assert_eq!(packer.packed(first), packer.packed(second));
    }
}

#[test]
fn a_bomb_is_not_unpacked_beyond_the_pages() {
    for codec in Codec::ALL {
        let mut builder = PagesBuilder::new(7, Cause::Precopy, PAGE);
        builder.push(PageKind::Content(1));
        for bytes in [PAGE - 1, PAGE + 1, 100 << 20] {
            let content = vec![0; bytes];
            let mut packer = Packer::default();
            let packed = packer.pack(codec, &content).unwrap();
            let mut frame = builder.packed_head(codec, &[], packed.len());
            frame.extend_from_slice(packer.packed(packed));
            let mut unpacker = Unpacker::default();
            let Ok(PagesFrame::Packed(head)) = decode(&frame) else {
                // Longer than any frame may be.
                continue;
            };
            assert!(matches!(unpacker.unpack(&head), Err(WireError::Unpack { .. })));
            assert!(unpacker.room.capacity() <= 2 * PAGE, "{}", unpacker.room.capacity());
        }
    }
}

fn kind() -> impl Strategy<Value = PageKind> {
    prop_oneof![
        any::<u64>().prop_map(PageKind::Content),
        any::<u8>().prop_map(PageKind::Fill),
        Just(PageKind::Unreadable)
    ]
}

fn codec() -> impl Strategy<Value = Codec> {
    prop_oneof![Just(Codec::Lz4), Just(Codec::Zstd)]
}

proptest! {
    #[test]
    fn frames_come_back(
        codec in codec(),
        kinds in prop::collection::vec(kind(), 1..=MAX_CHUNK_PAGES),
        seed in any::<u64>(),
    ) {
        let pages = kinds.iter().filter(|kind| matches!(kind, PageKind::Content(_))).count();
        let differences: Vec<bool> = (0..pages).map(|at| seed >> (at % 64) & 1 == 1).collect();
        let Some((frame, content)) = frame(codec, &kinds, &differences) else {
            // So little cannot be packed.
            prop_assert!(pages * PAGE < 256, "{} pages", pages);
            return Ok(());
        };
        prop_assert!(frame.len() - FRAME_HEAD_BYTES <= PagesFrame::max_body(PAGE));
        let head = packed(&frame);
        let told: Vec<bool> = head.contents().map(|(_, is)| is).collect();
        prop_assert_eq!(told, differences);
        let mut unpacker = Unpacker::default();
        let unpacked = unpacker.unpack(&head).unwrap();
        prop_assert_eq!(&*unpacked, &content[..]);
        let whole = head.with_content(unpacked).unwrap();
        let (mut at, mut rest) = (0, &content[..]);
        for (page, kind, bytes) in whole.pages() {
            prop_assert_eq!((page, kind), (7 + at as u64, kinds[at]));
            if matches!(kind, PageKind::Content(_)) {
                prop_assert_eq!(bytes, &rest[..PAGE]);
                rest = &rest[PAGE..];
            }
            at += 1;
        }
        prop_assert_eq!(at, kinds.len());
    }

    #[test]
    fn content_of_any_kind_comes_back(
        codec in codec(),
        pieces in prop::collection::vec((any::<u8>(), 1_usize..300), 1..60),
    ) {
        let mut content: Vec<u8> =
            pieces.iter().flat_map(|(byte, count)| vec![*byte; *count]).collect();
        content.truncate(content.len() / PAGE * PAGE);
        prop_assume!(!content.is_empty() && content.len() <= MAX_CHUNK_PAGES * PAGE);
        let mut builder = PagesBuilder::new(1, Cause::Demand, PAGE);
        (0..content.len() / PAGE).for_each(|_| builder.push(PageKind::Content(0)));
        let mut packer = Packer::default();
        if let Some(range) = packer.pack(codec, &content) {
            let mut frame = builder.packed_head(codec, &[], range.len());
            frame.extend_from_slice(packer.packed(range));
            let mut unpacker = Unpacker::default();
            prop_assert_eq!(&*unpacker.unpack(&packed(&frame)).unwrap(), &content[..]);
        }
    }

    #[test]
    fn garbage_is_refused_or_of_the_right_length(
        codec in codec(),
        kinds in prop::collection::vec(kind(), 1..40),
        garbage in prop::collection::vec(any::<u8>(), 0..600),
        damage in any::<(usize, u8)>(),
        cut in 0_usize..100,
    ) {
        let mut unpacker = Unpacker::default();
        let mut try_it = |frame: &[u8]| {
            if let Ok(PagesFrame::Packed(head)) = decode(frame) {
                let bytes = head.content_bytes();
                if let Ok(content) = unpacker.unpack(&head) {
                    assert_eq!(content.len(), bytes);
                    assert_eq!(head.contents().count() * PAGE, bytes);
                }
            }
        };
        let mut builder = PagesBuilder::new(7, Cause::Background, PAGE);
        kinds.iter().for_each(|kind| builder.push(*kind));
        try_it(&[&builder.packed_head(codec, &[], garbage.len())[..], &garbage].concat());
        try_it(&[&[PACKED, 0, 0, 0, 0, 0, 0, 0], &garbage[..]].concat());
        if let Some((mut frame, _)) = frame(codec, &kinds, &[]) {
            try_it(&frame[..frame.len() - cut.min(frame.len() - FRAME_HEAD_BYTES)]);
            let at = FRAME_HEAD_BYTES + damage.0 % (frame.len() - FRAME_HEAD_BYTES);
            frame[at] ^= damage.1;
            try_it(&frame);
        }
    }

    #[test]
    fn a_difference_and_its_base_give_the_content(a in any::<[u8; 32]>(), b in any::<[u8; 32]>()) {
        let mut difference = a;
        exclusive_or(&mut difference, &b);
        exclusive_or(&mut difference, &b);
        prop_assert_eq!(difference, a);
    }
}
