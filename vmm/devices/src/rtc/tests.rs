use super::*;
use crate::bus::MmioDevice;
use crate::lifecycle::Lifecycle;
use accel::AccessSize;
use proptest::prelude::*;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use umem_state::{SaveRestore, decode_body, encode_body};

const START: u64 = 1_700_000_000_000_000_000;

struct Bench {
    rtc: GoldfishRtc,
    host: Arc<AtomicU64>,
    line: Arc<AtomicBool>,
}

impl Bench {
    fn new() -> Self {
        let (host, line) = (Arc::new(AtomicU64::new(START)), Arc::new(AtomicBool::new(false)));
        let (clock, level) = (host.clone(), line.clone());
        let rtc = GoldfishRtc::with_clock(
            Arc::new(move |high| level.store(high, Ordering::SeqCst)),
            Box::new(move || clock.load(Ordering::SeqCst)),
        );
        Self { rtc: rtc.unwrap(), host, line }
    }

    fn read(&self, offset: u64) -> u64 {
        self.rtc.read(offset, AccessSize::Word)
    }

    fn write(&self, offset: u64, value: u64) {
        self.rtc.write(offset, AccessSize::Word, value);
    }

    fn time(&self) -> u64 {
        let low = self.read(0);
        self.read(4) << 32 | low
    }

    fn set_alarm(&self, at: u64) {
        self.write(0x0c, at >> 32);
        self.write(0x08, at & 0xffff_ffff);
    }

    fn line(&self) -> bool {
        self.line.load(Ordering::SeqCst)
    }

    fn await_line(&self) {
        let end = Instant::now() + Duration::from_secs(20);
        while !self.line() {
            assert!(Instant::now() < end);
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

#[test]
fn it_shows_the_host_s_time_until_the_guest_sets_it() {
    let bench = Bench::new();
    assert_eq!(bench.time(), START);
    let wanted = START - 86_400_000_000_000;
    bench.write(4, wanted >> 32);
    bench.write(0, wanted & 0xffff_ffff);
    bench.host.fetch_add(5, Ordering::SeqCst);
    assert_eq!(bench.time(), wanted + 5);
}

#[test]
fn the_high_half_is_that_of_the_low_half_read_before() {
    let bench = Bench::new();
    bench.host.store(0x1_ffff_ffff, Ordering::SeqCst);
    assert_eq!(bench.read(0), 0xffff_ffff);
    bench.host.store(0x2_0000_0000, Ordering::SeqCst);
    assert_eq!(bench.read(4), 1);
}

#[test]
fn an_alarm_goes_off_in_time_and_is_cleared() {
    let bench = Bench::new();
    bench.write(0x10, 1);
    bench.set_alarm(START + 20_000_000);
    assert_eq!(bench.read(0x18), 1);
    assert!(!bench.line());
    bench.host.fetch_add(20_000_000, Ordering::SeqCst);
    bench.await_line();
    assert_eq!(bench.read(0x18), 0);
    bench.write(0x1c, 1);
    assert!(!bench.line());
}

#[test]
fn an_alarm_in_the_past_goes_off_at_once_and_only_when_enabled() {
    let bench = Bench::new();
    bench.set_alarm(START - 1);
    assert!(!bench.line());
    bench.write(0x10, 1);
    assert!(bench.line());
}

#[test]
fn an_alarm_due_during_a_move_goes_off_at_the_destination_when_it_runs() {
    let source = Bench::new();
    source.write(0x10, 1);
    source.set_alarm(START + 1_000_000_000);
    source.rtc.quiesce(Instant::now()).unwrap();
    let body = encode_body("rtc", &source.rtc.save()).unwrap();

    let destination = Bench::new();
    destination.host.store(START + 2_000_000_000, Ordering::SeqCst);
    destination.rtc.restore(decode_body("rtc", &body).unwrap()).unwrap();
    assert_eq!(destination.rtc.save(), source.rtc.save());
    std::thread::sleep(Duration::from_millis(20));
    assert!(!destination.line());
    destination.rtc.resume();
    destination.await_line();
}

#[test]
fn a_reset_keeps_the_time_and_forgets_the_alarm() {
    let bench = Bench::new();
    bench.write(4, 0);
    bench.write(0, 1000);
    bench.write(0x10, 1);
    bench.set_alarm(1);
    assert!(bench.line());
    bench.rtc.reset();
    assert!(!bench.line());
    assert_eq!((bench.time(), bench.read(0x10), bench.read(0x18)), (1000, 0, 0));
}

proptest! {
    #[test]
    fn registers_in_any_order_never_panic(
        accesses in proptest::collection::vec((0..0x24u64, any::<u64>(), any::<bool>()), 0..60)
    ) {
        let bench = Bench::new();
        for (offset, value, write) in accesses {
            if write {
                bench.write(offset & !3, value);
            }
            bench.read(offset);
        }
        let saved = bench.rtc.save();
        let other = Bench::new();
        other.rtc.restore(saved.clone()).unwrap();
        prop_assert_eq!(other.rtc.save(), saved);
    }
}
