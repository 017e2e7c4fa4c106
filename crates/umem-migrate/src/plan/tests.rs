//! The order of pages against a naive model of it.

use super::*;
use proptest::prelude::*;
use umem_memory::{GuestAddress, PageSize, RamBlockSpec};

/// Blocks of the given numbers of pages.
fn layout(blocks: &[u64]) -> RamLayout {
    let specs = blocks.iter().enumerate().map(|(number, pages)| RamBlockSpec {
        name: format!("block{number}"),
        guest_address: GuestAddress((number as u64) << 32),
        bytes: pages * PageSize::SMALL.bytes(),
    });
    RamLayout::new(PageSize::SMALL, specs.collect()).unwrap()
}

fn prefault(forward: u64, backward: u64, move_background: bool) -> Prefault {
    Prefault { adaptive: false, forward, backward, move_background }
}

fn bits(pages: u64, set: &[u64]) -> PageBitmap {
    let bitmap = PageBitmap::new(pages);
    set.iter().for_each(|page| _ = bitmap.set(PageRange::one(PageIndex(*page))));
    bitmap
}

fn numbers(order: &[Wanted]) -> Vec<u64> {
    order.iter().map(|wanted| wanted.page.0).collect()
}

#[test]
fn neighbours_come_breadth_first_and_stay_in_their_block() {
    let plan = SendPlan::new(layout(&[10, 10]), prefault(2, 1, false));
    let order = plan.demand(&[8, 3, 10]).unwrap();
    assert_eq!(numbers(&order), [8, 3, 10, 9, 4, 11, 5, 12, 7, 2]);
    let again = plan.demand(&[9]).unwrap();
    assert_eq!(numbers(&again), [9], "a demanded page goes again, its neighbours were sent");
    assert!(!again[0].first);
    assert_eq!(plan.remaining(), 10);
}

#[test]
fn a_page_that_does_not_exist_is_refused_whole() {
    let plan = SendPlan::new(layout(&[4]), Prefault::default());
    assert_eq!(plan.demand(&[1, 4]), Err(BadRequest { page: 4, total: 4 }));
    assert_eq!(plan.demand(&[u64::MAX]).unwrap_err().page, u64::MAX);
    assert_eq!(plan.remaining(), 4);
}

#[test]
fn the_background_follows_the_faults_only_when_told() {
    for (moves, next) in [(false, 0), (true, 54)] {
        let plan = SendPlan::new(layout(&[100]), prefault(3, 0, moves));
        plan.demand(&[50]).unwrap();
        assert_eq!(plan.next_background(4), Some(PageRange::new(PageIndex(next), 4)));
    }
    let plan = SendPlan::new(layout(&[10, 10]), prefault(30, 0, true));
    plan.demand(&[5]).unwrap();
    let next = plan.next_background(1).unwrap();
    assert_eq!(next.start, PageIndex(10), "the cursor stops at the end of the block");
}

#[test]
fn what_goes_ahead_is_what_exists_and_was_not_sent() {
    let plan = SendPlan::new(layout(&[8]), prefault(0, 0, false));
    assert!(plan.claim(PageIndex(3)));
    let ahead = plan.ahead(&[5, 3, 8, 1, 5, u64::MAX].map(PageIndex));
    assert_eq!(numbers(&ahead), [5, 1]);
    assert!(ahead.iter().all(|wanted| wanted.first && wanted.cause == Cause::Prefault));
    assert_eq!(plan.remaining(), 5);
}

#[test]
fn a_run_brings_its_next_pages_and_has_the_background_go_on_there() {
    let plan = SendPlan::new(layout(&[1000, 1000]), Prefault::ADAPTIVE);
    assert_eq!(numbers(&plan.demand(&[500]).unwrap()), [500]);
    assert!(plan.claim(PageIndex(503)));
    let order = plan.demand(&[501]).unwrap();
    assert_eq!(numbers(&order), [501, 502, 504, 505]);
    assert_eq!(order.iter().filter(|wanted| wanted.cause == Cause::Prefault).count(), 3);
    let next = || plan.next_background(64).map(|range| (range.start.0, range.count));
    // From the last page that went along, sent as it is, and then as ever.
    assert_eq!(next(), Some((506, 63)));
    for chunk in 1..RUN_CHUNKS {
        let start = 505 + 64 * chunk;
        assert_eq!(
            next(),
            (start < 1000).then(|| (start, 64.min(1000 - start))).or(Some((1000, 64)))
        );
    }
}

#[test]
fn a_run_ends_where_its_block_does_and_leads_the_background_down_too() {
    let plan = SendPlan::new(layout(&[100, 300]), Prefault::ADAPTIVE);
    assert_eq!(numbers(&plan.demand(&[98, 99]).unwrap()), [98, 99], "nothing of the next block");
    assert_eq!(numbers(&plan.demand(&[350, 349]).unwrap()), [350, 349, 348, 347, 346, 345]);
    let next = || plan.next_background(40).map(|range| (range.start.0, range.count));
    for start in [305, 265, 225, 185, 145, 105] {
        assert_eq!(next(), Some((start, 40)));
    }
    assert_eq!(next(), Some((100, 5)));
    assert_eq!(next(), Some((0, 40)), "as ever");
    assert_eq!(numbers(&plan.demand(&[3]).unwrap()), [3], "sent before, and no run");
}

#[test]
fn a_huge_prefault_is_bounded_by_the_block() {
    let plan = SendPlan::new(layout(&[8]), prefault(u64::MAX, u64::MAX, true));
    assert_eq!(numbers(&plan.demand(&[4]).unwrap()), [4, 5, 6, 7, 3, 2, 1, 0]);
    assert_eq!(plan.next_background(9), None);
}

#[test]
fn threads_share_the_pages_without_loss_or_repetition() {
    let plan = SendPlan::new(layout(&[20_000]), prefault(1, 1, true));
    plan.leave(&bits(20_000, &(5000..20_000).collect::<Vec<_>>()));
    plan.prefer(bits(20_000, &(0..20_000).filter(|page| page % 3 > 0).collect::<Vec<_>>()));
    let mut all: Vec<u64> = std::thread::scope(|scope| {
        let background = || {
            let mut mine = Vec::new();
            while let Some(range) = plan.next_background(64) {
                mine.extend(range.pages().map(|page| page.0));
            }
            mine
        };
        let demand = || {
            let mut mine = Vec::new();
            for n in 0..2000u64 {
                let order = plan.demand(&[n * 7919 % 20_000]).unwrap();
                mine.extend(order.iter().filter(|wanted| wanted.first).map(|w| w.page.0));
            }
            mine
        };
        let threads = [scope.spawn(background), scope.spawn(background), scope.spawn(demand)];
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    all.sort_unstable();
    assert_eq!(all, (5000..20_000).collect::<Vec<_>>());
}

#[test]
fn pages_that_the_destination_has_are_left() {
    let plan = SendPlan::new(layout(&[100, 100]), prefault(3, 0, true));
    plan.leave(&bits(200, &[7, 9, 99, 100, 150]));
    assert_eq!(plan.remaining(), 5);
    let order = plan.demand(&[7]).unwrap();
    assert_eq!(numbers(&order), [7, 9], "a neighbour that is there is not sent");
    let order = plan.demand(&[8]).unwrap();
    assert_eq!((numbers(&order), order[0].first), (vec![8], false));
    let rest = [(99, 1), (100, 1), (150, 1)];
    for (start, count) in rest {
        assert_eq!(plan.next_background(64), Some(PageRange::new(PageIndex(start), count)));
    }
    assert_eq!((plan.next_background(64), plan.remaining()), (None, 0));
    assert!(plan.all_claimed());
}

#[test]
fn pages_beyond_a_short_bitmap_are_still_sent() {
    let plan = SendPlan::new(layout(&[100]), Prefault::default());
    plan.leave(&bits(64, &[63]));
    assert_eq!(plan.remaining(), 37);
    assert_eq!(plan.next_background(64), Some(PageRange::new(PageIndex(63), 37)));
}

#[test]
fn preferred_pages_go_first_and_once_and_do_not_move_the_background() {
    let plan = SendPlan::new(layout(&[100, 100]), prefault(0, 0, true));
    plan.prefer(bits(200, &[12, 13, 14, 98, 99, 100, 101, 180]));
    plan.prefer(bits(200, &[1, 2, 3]));
    plan.demand(&[50]).unwrap();
    plan.demand(&[180]).unwrap();
    plan.demand(&[13]).unwrap();
    let expected = [(12, 1), (14, 1), (98, 2), (100, 2), (15, 4), (19, 4)];
    for (start, count) in expected {
        let next = plan.next_background(4);
        assert_eq!(next, Some(PageRange::new(PageIndex(start), count)), "of {expected:?}");
    }
}

/// The order of pages as one would tell it to somebody, with lists of bools.
struct Model {
    /// Block of each page.
    blocks: Vec<usize>,
    sent: Vec<bool>,
    hot: Vec<bool>,
    prefault: Prefault,
    cursor: usize,
}

impl Model {
    fn demand(&mut self, request: &[u64]) -> Vec<u64> {
        let mut order = request.to_vec();
        request.iter().for_each(|page| self.sent[*page as usize] = true);
        let Prefault { forward, backward, move_background, .. } = self.prefault;
        let (forward, backward) = (forward as i64, backward as i64);
        for distance in (1..=forward).chain((1..=backward).map(|distance| -distance)) {
            for page in request {
                let next = *page as i64 + distance;
                let block = usize::try_from(next).ok().and_then(|next| self.blocks.get(next));
                if block == Some(&self.blocks[*page as usize])
                    && !std::mem::replace(&mut self.sent[next as usize], true)
                {
                    order.push(next as u64);
                }
            }
        }
        if move_background && let Some(last) = request.last() {
            let mut behind = *last as usize;
            // One behind the last page served, or the next block's first page.
            for _ in 0..=forward {
                behind += usize::from(self.blocks.get(behind) == self.blocks.get(*last as usize));
            }
            self.cursor = if behind == self.sent.len() { 0 } else { behind };
        }
        order
    }

    /// Adjoining pages of one block from `start` on for which `fits` is true.
    fn stretch(&self, start: usize, most: usize, fits: impl Fn(usize) -> bool) -> Vec<usize> {
        let end = self.sent.len().min(start + most);
        let in_block = |page: &usize| self.blocks[*page] == self.blocks[start];
        (start..end).take_while(in_block).take_while(|page| fits(*page)).collect()
    }

    fn background(&mut self, most: usize) -> Option<Vec<u64>> {
        let pages = 0..self.sent.len();
        let hot = pages.clone().find(|page| self.hot[*page] && !self.sent[*page]);
        let chunk = if let Some(start) = hot {
            self.stretch(start, most, |page| self.hot[page] && !self.sent[page])
        } else {
            let mut round = pages.clone().skip(self.cursor).chain(pages);
            let start = round.find(|page| !self.sent[*page])?;
            let chunk = self.stretch(start, most, |page| !self.sent[page]);
            self.cursor = start + chunk.len();
            chunk
        };
        chunk.iter().for_each(|page| self.sent[*page] = true);
        Some(chunk.into_iter().map(|page| page as u64).collect())
    }
}

/// Something that is asked of a plan.
#[derive(Debug, Clone)]
enum Ask {
    Demand(Vec<u64>),
    Background(u64),
}

fn ask() -> impl Strategy<Value = Ask> {
    prop_oneof![
        prop::collection::vec(any::<u64>(), 1..4).prop_map(Ask::Demand),
        (1u64..6).prop_map(Ask::Background),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]
    #[test]
    fn the_order_is_that_of_the_model(
        blocks in prop::collection::vec(1u64..12, 1..5),
        shape in (0u64..5, 0u64..5, any::<bool>()),
        pending in prop::option::of(prop::collection::vec(any::<bool>(), 60)),
        hot in prop::option::of(prop::collection::vec(any::<bool>(), 60)),
        hot_from in 0usize..6,
        asks in prop::collection::vec(ask(), 1..24),
    ) {
        let layout = layout(&blocks);
        let total = layout.total_pages();
        let prefault = prefault(shape.0, shape.1, shape.2);
        let plan = SendPlan::new(layout, prefault);
        let block_of = |(block, pages): (usize, &u64)| vec![block; *pages as usize];
        let mut model = Model {
            blocks: blocks.iter().enumerate().flat_map(block_of).collect(),
            sent: vec![false; total as usize],
            hot: vec![false; total as usize],
            prefault,
            cursor: 0,
        };
        let chosen = |choice: &[bool]| -> Vec<u64> {
            (0..total).filter(|page| choice[*page as usize]).collect()
        };
        if let Some(pending) = &pending {
            plan.leave(&bits(total, &chosen(pending)));
            model.sent.iter_mut().zip(pending).for_each(|(sent, pending)| *sent = !pending);
        }
        for (at, ask) in asks.into_iter().enumerate() {
            if let Some(hot) = hot.as_ref().filter(|_| at == hot_from) {
                plan.prefer(bits(total, &chosen(hot)));
                model.hot.clone_from_slice(&hot[..total as usize]);
            }
            match ask {
                Ask::Demand(request) => {
                    let request: Vec<u64> = request.iter().map(|page| page % total).collect();
                    let before = model.sent.clone();
                    let order = plan.demand(&request).unwrap();
                    prop_assert_eq!(numbers(&order), model.demand(&request));
                    let mut seen = before;
                    for wanted in order {
                        let first = !std::mem::replace(&mut seen[wanted.page.0 as usize], true);
                        prop_assert_eq!(wanted.first, first);
                    }
                }
                Ask::Background(most) => {
                    let range = plan.next_background(most);
                    let pages = range.map(|range| range.pages().map(|page| page.0).collect());
                    prop_assert_eq!(pages, model.background(most as usize));
                }
            }
            let missing = model.sent.iter().filter(|sent| !**sent).count() as u64;
            prop_assert_eq!(plan.remaining(), missing);
            prop_assert_eq!(plan.all_claimed(), missing == 0);
        }
    }
}

#[test]
fn what_is_not_wanted_any_more_goes_as_zeroes_unless_it_went_before() {
    let plan = SendPlan::new(layout(&[10, 10]), prefault(1, 0, false));
    plan.demand(&[3]).unwrap();
    assert_eq!(plan.next_background(2), Some(PageRange::new(PageIndex(0), 2)));
    // 0, 1, 3 and 4 were sent; runs end with their block.
    let removed = plan.remove(&[(0, 6), (8, 4)]).unwrap();
    let run = |start, count| PageRange::new(PageIndex(start), count);
    assert_eq!(removed, [run(2, 1), run(5, 1), run(8, 2), run(10, 2)]);
    let zeroes = |page| plan.is_removed(PageIndex(page));
    assert_eq!((0..20).filter(|page| zeroes(*page)).collect::<Vec<_>>(), [2, 5, 8, 9, 10, 11]);
    assert_eq!(plan.remove(&[(0, 6), (8, 4)]).unwrap(), [], "once is enough");
    // Asked for all the same it goes again, as what it was sent as.
    let order = plan.demand(&[5]).unwrap();
    assert!(!order[0].first && zeroes(5));
    assert_eq!(plan.remaining(), 20 - 10 - u64::from(order.len() > 1));
    for wrong in [&[(19, 2)][..], &[(5, 1), (4, 1)], &[(u64::MAX, 2)], &[(0, u64::MAX)]] {
        assert!(plan.remove(wrong).is_err(), "{wrong:?}");
    }
}
