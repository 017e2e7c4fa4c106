use super::*;
use crate::bus::MmioDevice;
use crate::lifecycle::Lifecycle;
use crate::output::tests::Terminal;
use accel::AccessSize;
use proptest::prelude::*;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use umem_state::{SaveRestore, decode_body, encode_body};

struct Bench {
    uart: Arc<Uart>,
    terminal: Terminal,
    line: Arc<AtomicBool>,
}

impl Bench {
    fn new() -> Self {
        let (terminal, line) = (Terminal::default(), Arc::new(AtomicBool::new(false)));
        let level = line.clone();
        let line_of = move |high| level.store(high, Ordering::Relaxed);
        let uart = Uart::new("uart-test", Arc::new(line_of), Box::new(terminal.clone())).unwrap();
        Self { uart, terminal, line }
    }

    fn read(&self, offset: u64) -> u8 {
        self.uart.read(offset, AccessSize::Byte) as u8
    }

    fn write(&self, offset: u64, value: u8) {
        self.uart.write(offset, AccessSize::Byte, value.into());
    }

    fn line(&self) -> bool {
        self.line.load(Ordering::Relaxed)
    }

    /// Prints as a driver does that polls the line status.
    fn print(&self, text: &[u8]) {
        let end = Instant::now() + Duration::from_secs(20);
        for &byte in text {
            while self.read(5) & 0x20 == 0 {
                assert!(Instant::now() < end);
                std::thread::yield_now();
            }
            self.write(0, byte);
        }
    }
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

#[test]
fn a_polling_driver_loses_nothing() {
    let bench = Bench::new();
    let text: Vec<u8> = (0..20_000u32).map(|n| n as u8).collect();
    bench.print(&text);
    bench.terminal.await_text(&text);
}

#[test]
fn a_stuck_terminal_shows_a_busy_transmitter_and_room_raises_the_interrupt() {
    let bench = Bench::new();
    let blocked = bench.terminal.blocked();
    bench.write(1, 2);
    let mut sent = Vec::new();
    while bench.read(5) & 0x60 == 0x60 {
        // As the driver does on "transmitter empty": a FIFO's worth at once.
        let burst = [b'a'; 16];
        burst.iter().for_each(|&byte| bench.write(0, byte));
        sent.extend(burst);
        assert!(sent.len() < 100_000);
    }
    // The writer's thread takes one chunk before it blocks, perhaps only now.
    while bench.read(5) & 0x20 != 0 || bench.uart.save().output.len() == sent.len() {
        if bench.read(5) & 0x20 != 0 {
            bench.write(0, b'a');
            sent.push(b'a');
        }
    }
    bench.read(2);
    assert!(!bench.line());
    drop(blocked);
    let end = soon();
    while !bench.line() {
        assert!(Instant::now() < end);
        std::thread::yield_now();
    }
    assert_eq!(bench.read(2), 0x02);
    bench.terminal.await_text(&sent);
}

#[test]
fn input_interrupts_until_it_is_read() {
    let bench = Bench::new();
    bench.write(2, 0x01 | 0x40);
    bench.write(1, 1);
    assert_eq!(bench.uart.receive(b"abcd"), 4);
    assert!(bench.line());
    assert_eq!(bench.read(2), 0xc4);
    assert_eq!(bench.read(0), b'a');
    assert_eq!(bench.read(2), 0xcc);
    for expected in b"bcd" {
        assert_eq!(bench.read(5) & 1, 1);
        assert_eq!(bench.read(0), *expected);
    }
    assert_eq!(bench.read(5) & 1, 0);
    assert!(!bench.line());
    assert_eq!(bench.read(2), 0xc1);
}

#[test]
fn enabling_the_transmit_interrupt_raises_it_each_time() {
    // Linux tests for chips that do not (UART_BUG_THRE, UART_BUG_TXEN).
    let bench = Bench::new();
    for _ in 0..2 {
        bench.write(1, 2);
        assert!(bench.line());
        assert_eq!(bench.read(2), 0x02);
        assert_eq!(bench.read(2), 0x01);
        assert!(!bench.line());
        bench.write(1, 0);
    }
}

#[test]
fn loopback_and_modem_status_are_as_linux_probes_them() {
    let bench = Bench::new();
    assert_eq!(bench.read(6), 0xb0);
    bench.write(4, 0x10 | 0x0a);
    assert_eq!(bench.read(6) & 0xf0, 0x90);
    assert_eq!(bench.read(6) & 0x0f, 0);
    bench.write(0, b'x');
    assert_eq!((bench.read(5) & 1, bench.read(0)), (1, b'x'));
    bench.write(1, 0xff);
    assert_eq!(bench.read(1), 0x0f);
    bench.write(3, 0x83);
    bench.write(0, 0x34);
    bench.write(1, 0x12);
    assert_eq!((bench.read(0), bench.read(1)), (0x34, 0x12));
    bench.write(3, 0x03);
    bench.write(7, 0x5a);
    assert_eq!((bench.read(1), bench.read(3), bench.read(7)), (0x0f, 0x03, 0x5a));
}

#[test]
fn input_waits_before_a_full_fifo() {
    let bench = Bench::new();
    let text = vec![b'i'; 5000];
    let taken = bench.uart.receive(&text);
    assert_eq!(taken, 1024);
    assert!(!bench.uart.await_input_room(Instant::now()));
    let uart = bench.uart.clone();
    let waiter = std::thread::spawn(move || uart.await_input_room(soon()));
    bench.read(0);
    assert!(waiter.join().unwrap());
    assert_eq!(bench.uart.receive(b"zz"), 1);
}

#[test]
fn clearing_the_fifo_drops_what_is_in_it_only() {
    let bench = Bench::new();
    bench.uart.receive(b"0123456789abcdefrest");
    bench.write(2, 0x01);
    assert_eq!(bench.read(0), b'r');
}

#[test]
fn a_move_neither_loses_nor_repeats_a_byte() {
    let source = Bench::new();
    source.write(2, 0xc1);
    source.write(1, 3);
    source.print(b"before ");
    source.terminal.await_text(b"before ");
    source.uart.receive(b"typed");
    source.uart.quiesce(soon()).unwrap();
    source.write(0, b'!');
    assert_eq!(source.uart.receive(b"late"), 0);
    let body = encode_body("uart", &source.uart.save()).unwrap();
    let saved: SavedUart = decode_body("uart", &body).unwrap();

    let destination = Bench::new();
    destination.uart.restore(saved.clone()).unwrap();
    assert_eq!(destination.uart.save(), saved);
    assert!(destination.line());
    assert_eq!(destination.terminal.text(), b"");
    destination.uart.resume();
    destination.terminal.await_text(b"!");
    let typed: Vec<u8> = (0..5).map(|_| destination.read(0)).collect();
    assert_eq!(typed, b"typed");
    assert_eq!(source.terminal.text(), b"before ");
}

#[test]
fn after_a_failed_move_the_source_prints_on() {
    let bench = Bench::new();
    bench.uart.quiesce(soon()).unwrap();
    bench.write(0, b'a');
    bench.uart.resume();
    bench.terminal.await_text(b"a");
    assert_eq!(bench.uart.receive(b"in"), 2);
}

#[test]
fn a_stuck_terminal_does_not_hold_up_a_move() {
    let bench = Bench::new();
    let _blocked = bench.terminal.blocked();
    bench.write(0, b'a');
    bench.uart.quiesce(Instant::now() + Duration::from_millis(5)).unwrap();
}

#[test]
fn too_much_in_a_state_is_refused() {
    let bench = Bench::new();
    let good = bench.uart.save();
    let input = SavedUart { input: vec![0; 1025], ..good.clone() };
    let output = SavedUart { output: vec![0; 4097], ..good };
    for saved in [input, output] {
        let error = bench.uart.restore(saved).unwrap_err().to_string();
        assert!(error.contains("are possible"), "{error}");
    }
}

#[test]
fn reset_is_as_new() {
    let bench = Bench::new();
    bench.write(1, 0x0f);
    bench.write(4, 0x1f);
    bench.uart.receive(b"x");
    bench.uart.reset();
    assert!(!bench.line());
    assert_eq!(bench.uart.save(), Bench::new().uart.save());
}

proptest! {
    #[test]
    fn registers_in_any_order_keep_the_state_sound(
        accesses in proptest::collection::vec((0..9u64, any::<u8>(), 0..3u8), 0..200)
    ) {
        let bench = Bench::new();
        for (offset, value, what) in accesses {
            match what {
                0 => bench.write(offset, value),
                1 => drop(bench.read(offset)),
                _ => drop(bench.uart.receive(&[value; 100])),
            }
        }
        bench.uart.quiesce(soon()).unwrap();
        let saved = bench.uart.save();
        let other = Bench::new();
        other.uart.restore(saved.clone()).unwrap();
        prop_assert_eq!(other.uart.save(), saved);
        prop_assert_eq!(other.line(), bench.line());
    }
}
