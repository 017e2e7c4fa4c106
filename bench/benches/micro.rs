//! The steps of a page's way, each alone: looking at its content, frames, the page table, putting in place.
//!
//! ```text
//! cargo bench -p umem-bench
//! ```
#![allow(missing_docs, clippy::unwrap_used)]

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;
use umem_fault::{Arrival, FaultPlane, PageTable};
use umem_memory::{
    Backend, GuestAddress, GuestRam, PageIndex, PageRange, PageSize, RamBlockSpec, RamLayout,
    repeated_byte,
};
use umem_wire::{
    Cause, DemandFrame, FRAME_HEAD_BYTES, PageKind, PagesBuilder, PagesFrame, digest_term,
    encode_request, page_hash,
};

const PAGE: usize = 4096;
const CHUNK: usize = 256;

/// Bytes that do not repeat.
fn content(pages: usize) -> Vec<u8> {
    let word = |at: usize| (at as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes();
    (0..pages * PAGE / 8).flat_map(word).collect()
}

fn frame(content: &[u8]) -> Vec<u8> {
    let mut builder = PagesBuilder::new(0, Cause::Background, PAGE);
    for (page, bytes) in (0..).zip(content.chunks(PAGE)) {
        builder.push(PageKind::Content(page_hash(page, bytes)));
    }
    [builder.head(), content.to_vec()].concat()
}

/// What the sender does with each page: is it one byte, and if not, what is its hash. A test that says no early
/// costs next to nothing; one that has to read a page to its end is to be compared with the hash.
fn look(c: &mut Criterion) {
    let mut group = c.benchmark_group("page of 4 KiB");
    group.throughput(Throughput::Bytes(PAGE as u64));
    let mut last_differs = vec![0; PAGE];
    last_differs[PAGE - 1] = 1;
    for (name, page) in [
        ("zeroes", vec![0; PAGE]),
        ("nothing repeats", content(1)),
        ("zeroes but for the last byte", last_differs),
    ] {
        group.bench_function(format!("one repeated byte? {name}"), |b| {
            b.iter(|| repeated_byte(black_box(&page)));
        });
        group.bench_function(format!("hash, {name}"), |b| {
            b.iter(|| page_hash(7, black_box(&page)));
        });
    }
    group.finish();
}

fn wire(c: &mut Criterion) {
    let mut group = c.benchmark_group("wire");
    group.throughput(Throughput::Elements(1));
    group.bench_function("digest term", |b| {
        b.iter(|| digest_term(black_box(7), PageKind::Content(black_box(9))));
    });
    let many = content(CHUNK);
    let whole = frame(&many);
    group.throughput(Throughput::Elements(CHUNK as u64));
    group.bench_function("head of a frame of 256 pages", |b| {
        b.iter(|| {
            let mut builder = PagesBuilder::new(0, Cause::Background, PAGE);
            (0..CHUNK as u64).for_each(|page| builder.push(PageKind::Content(page)));
            black_box(builder.head())
        });
    });
    group.bench_function("decode a frame of 256 pages", |b| {
        b.iter(|| {
            let body = whole.get(FRAME_HEAD_BYTES..).unwrap();
            let frame = PagesFrame::decode(1, black_box(body), PAGE).unwrap();
            let PagesFrame::Pages(head) = frame else { panic!("{frame:?}") };
            head.pages().filter(|(_, kind, _)| matches!(kind, PageKind::Content(_))).count()
        });
    });
    let pages: Vec<u64> = (0..16).map(|page| page * 977).collect();
    let request = encode_request(&pages);
    group.throughput(Throughput::Elements(pages.len() as u64));
    group.bench_function("request of 16 pages, there and back", |b| {
        b.iter(|| {
            let bytes = encode_request(black_box(&pages));
            assert_eq!(bytes.len(), request.len());
            DemandFrame::decode(1, bytes.get(FRAME_HEAD_BYTES..).unwrap()).unwrap()
        });
    });
    group.finish();
}

fn table(c: &mut Criterion) {
    const PAGES: u64 = 4096;
    let mut group = c.benchmark_group("page table");
    group.throughput(Throughput::Elements(PAGES));
    group.bench_function("claim, install, present", |b| {
        b.iter_batched_ref(
            || PageTable::new(PAGES),
            |table| {
                for page in (0..PAGES).map(PageIndex) {
                    black_box(table.claim(page));
                    assert!(table.begin_install(page));
                    table.finish_install(page, Arrival::Present);
                }
            },
            BatchSize::LargeInput,
        );
    });
    let table = PageTable::new(PAGES);
    for page in (0..PAGES).map(PageIndex) {
        assert!(table.begin_install(page));
        table.finish_install(page, Arrival::Present);
    }
    group.bench_function("look at a page that is present", |b| {
        b.iter(|| (0..PAGES).filter(|page| table.is_present(PageIndex(black_box(*page)))).count());
    });
    group.finish();
}

fn install(c: &mut Criterion) {
    const PAGES: u64 = 1024;
    let ram = || {
        let spec = RamBlockSpec {
            name: "ram".into(),
            guest_address: GuestAddress(0x8000_0000),
            bytes: PAGES * PAGE as u64,
        };
        let layout = RamLayout::new(PageSize::SMALL, vec![spec]).unwrap();
        let ram = GuestRam::new(layout, &Backend::Anonymous).unwrap();
        (FaultPlane::for_ram(&ram).unwrap(), ram)
    };
    let bytes = content(64);
    let mut group = c.benchmark_group("install");
    group.throughput(Throughput::Elements(PAGES));
    for at_once in [1_u64, 16, 64] {
        let bytes = bytes.get(..at_once as usize * PAGE).unwrap();
        group.bench_function(format!("{at_once} pages at once"), |b| {
            b.iter_batched_ref(
                ram,
                |(plane, _)| {
                    for start in (0..PAGES).step_by(at_once as usize) {
                        plane.install(PageRange::new(PageIndex(start), at_once), bytes).unwrap();
                    }
                },
                BatchSize::PerIteration,
            );
        });
    }
    group.bench_function("zeroes, all at once", |b| {
        b.iter_batched_ref(
            ram,
            |(plane, _)| plane.install_fill(PageRange::new(PageIndex(0), PAGES), 0).unwrap(),
            BatchSize::PerIteration,
        );
    });
    group.finish();
}

criterion_group!(micro, look, wire, table, install);
criterion_main!(micro);
