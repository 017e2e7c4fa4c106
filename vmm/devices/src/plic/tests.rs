use super::*;
use crate::bus::MmioDevice;
use crate::lifecycle::Lifecycle;
use crate::line::InterruptLine;
use accel::AccessSize;
use proptest::prelude::*;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use umem_state::SaveRestore;

const THRESHOLD: u64 = 0x20_1000;
const CLAIM: u64 = 0x20_1004;
const ENABLE: u64 = 0x2080;

struct Bench {
    plic: Arc<Plic>,
    outputs: Vec<Arc<AtomicBool>>,
}

impl Bench {
    fn new(harts: usize) -> Self {
        let outputs: Vec<Arc<AtomicBool>> = (0..harts).map(|_| Arc::default()).collect();
        let lines = outputs.iter().cloned().map(|output| {
            let line = move |high| output.store(high, Ordering::Relaxed);
            Arc::new(line) as Arc<dyn InterruptLine>
        });
        let plic = Plic::new(PlicConfig::supervisors(lines));
        Self { plic, outputs }
    }

    /// One hart with sources 1 to 63 enabled; source n has priority n modulo 8.
    fn enabled() -> Self {
        let bench = Self::new(1);
        for source in 1..64 {
            bench.write(source * 4, source % 8);
        }
        bench.write(ENABLE, u64::from(u32::MAX));
        bench.write(ENABLE + 4, u64::from(u32::MAX));
        bench
    }

    fn read(&self, offset: u64) -> u64 {
        self.plic.read(offset, AccessSize::Word)
    }

    fn write(&self, offset: u64, value: u64) {
        self.plic.write(offset, AccessSize::Word, value);
    }

    fn set(&self, source: u32, high: bool) {
        self.plic.line(source).set(high);
    }

    fn output(&self, hart: usize) -> bool {
        self.outputs[hart].load(Ordering::Relaxed)
    }
}

#[test]
fn a_source_interrupts_until_claimed_and_again_after_completion_while_its_line_is_high() {
    let bench = Bench::enabled();
    bench.set(10, true);
    assert!(bench.output(0));
    assert_eq!(bench.read(0x1000), 1 << 10);
    assert_eq!(bench.read(CLAIM), 10);
    assert!(!bench.output(0));
    assert_eq!(bench.read(CLAIM), 0);
    bench.write(CLAIM, 10);
    assert!(bench.output(0));
    assert_eq!(bench.read(CLAIM), 10);
    bench.set(10, false);
    bench.write(CLAIM, 10);
    assert!(!bench.output(0));
}

#[test]
fn a_line_that_rises_again_while_claimed_interrupts_after_completion() {
    let bench = Bench::enabled();
    bench.set(3, true);
    assert_eq!(bench.read(CLAIM), 3);
    bench.set(3, false);
    bench.set(3, true);
    assert!(!bench.output(0));
    bench.write(CLAIM, 3);
    assert!(bench.output(0));
}

#[test]
fn the_highest_priority_is_claimed_first_and_of_equals_the_lowest_number() {
    let bench = Bench::enabled();
    for source in [9, 17, 15, 23, 33] {
        bench.set(source, true);
    }
    let order: Vec<u64> = (0..6).map(|_| bench.read(CLAIM)).collect();
    assert_eq!(order, [15, 23, 9, 17, 33, 0]);
}

#[test]
fn priority_zero_never_interrupts_and_the_threshold_masks() {
    let bench = Bench::enabled();
    bench.set(8, true);
    assert!(!bench.output(0));
    bench.set(2, true);
    assert!(bench.output(0));
    bench.write(THRESHOLD, 2);
    assert!(!bench.output(0));
    bench.write(THRESHOLD, 1);
    assert!(bench.output(0));
}

#[test]
fn contexts_are_apart() {
    let bench = Bench::new(2);
    bench.write(5 * 4, 1);
    bench.write(0x2000 + 0x80 * 3, 1 << 5);
    bench.set(5, true);
    assert!(!bench.output(0));
    assert!(bench.output(1));
    assert_eq!(bench.read(CLAIM), 0);
    assert_eq!(bench.read(0x20_3004), 5);
    // Hart 0 does not enable the source, so it does not complete it either.
    bench.write(CLAIM, 5);
    assert!(!bench.output(1));
    bench.write(0x20_3004, 5);
    assert!(bench.output(1));
}

#[test]
fn source_zero_does_not_exist() {
    let bench = Bench::enabled();
    bench.write(0, 7);
    assert_eq!(bench.read(0), 0);
    assert_eq!(bench.read(ENABLE), u64::from(u32::MAX - 1));
}

#[test]
fn the_state_moves_and_drives_the_lines_of_the_other_side() {
    let bench = Bench::enabled();
    bench.set(10, true);
    bench.set(7, true);
    assert_eq!(bench.read(CLAIM), 7);
    bench.write(THRESHOLD, 1);
    let other = Bench::new(1);
    other.plic.restore(bench.plic.save()).unwrap();
    assert_eq!(other.plic.save(), bench.plic.save());
    assert!(other.output(0));
    assert_eq!(other.read(CLAIM), 10);
    other.write(CLAIM, 7);
    assert_eq!(other.read(CLAIM), 7);
}

#[test]
fn states_that_cannot_be_are_refused() {
    let good = Bench::new(1).plic.save();
    let bench = Bench::new(1);
    let bad = [
        SavedPlic { priorities: vec![0; 63], ..good.clone() },
        SavedPlic { priorities: vec![8; 64], ..good.clone() },
        SavedPlic { thresholds: vec![0, 9], ..good.clone() },
        SavedPlic { enabled: vec![0; 4], ..good.clone() },
        SavedPlic { pending: 1, ..good.clone() },
    ];
    for saved in bad {
        assert!(bench.plic.restore(saved).is_err());
    }
    assert!(bench.plic.restore(good).is_ok());
}

#[test]
fn reset_lowers_the_outputs() {
    let bench = Bench::enabled();
    bench.set(10, true);
    bench.plic.reset();
    assert!(!bench.output(0));
    assert_eq!(bench.plic.save(), Bench::new(1).plic.save());
}

proptest! {
    #[test]
    fn registers_in_any_order_never_panic(accesses in proptest::collection::vec(
        (0..0x60_0000u64, any::<u64>(), any::<bool>(), 1..64u32, any::<bool>()), 0..100)
    ) {
        let bench = Bench::enabled();
        for (offset, value, write, source, level) in accesses {
            bench.set(source, level);
            for offset in [offset, offset & !3, 0x20_0000 + (offset & 0x3ffc)] {
                if write {
                    bench.write(offset, value);
                } else {
                    bench.read(offset);
                }
            }
        }
        let saved = bench.plic.save();
        prop_assert_eq!(saved.pending & saved.claimed, 0);
        prop_assert!(Bench::new(1).plic.restore(saved).is_ok());
    }
}
