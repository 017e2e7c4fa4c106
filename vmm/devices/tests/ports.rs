//! The devices that a PC's board has in ports, as its guests use them.

#![allow(clippy::unwrap_used)]

use accel::AccessSize;
use devices::{AcpiPower, AcpiPowerConfig, Bus, KeyboardReset, PowerRequest, Uart};
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};
use umem_memory::GuestAddress;

const COM1: u64 = 0x3f8;

#[derive(Clone, Default)]
struct Terminal(Arc<Mutex<Vec<u8>>>);

impl Write for Terminal {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

struct Board {
    ports: Bus,
    uart: Arc<Uart>,
    line: Arc<AtomicBool>,
    terminal: Terminal,
    requests: mpsc::Receiver<PowerRequest>,
}

impl Board {
    fn new() -> Self {
        let (terminal, line) = (Terminal::default(), Arc::new(AtomicBool::new(false)));
        let level = line.clone();
        let level = Arc::new(move |high| level.store(high, Ordering::Relaxed));
        let uart = Uart::new("com1", level, Box::new(terminal.clone())).unwrap();
        let (power, requests) = mpsc::channel();
        let keyboard = power.clone();
        let config = AcpiPowerConfig { off_type: 5, reset_value: 1 };
        let power = AcpiPower::new(config, Box::new(move |asked| power.send(asked).unwrap()));
        let keyboard =
            KeyboardReset::new(Box::new(move || keyboard.send(PowerRequest::Reset).unwrap()));
        let mut ports = Bus::of_ports();
        ports.map("com1", GuestAddress(COM1), 8, uart.clone()).unwrap();
        ports.map("power", GuestAddress(0x600), AcpiPower::BYTES, Arc::new(power)).unwrap();
        ports
            .map("keyboard", GuestAddress(0x64), KeyboardReset::BYTES, Arc::new(keyboard))
            .unwrap();
        Self { ports, uart, line, terminal, requests }
    }

    fn input(&self, port: u64) -> u8 {
        self.ports.read(GuestAddress(port), AccessSize::Byte) as u8
    }

    fn output(&self, port: u64, value: u8) {
        self.ports.write(GuestAddress(port), AccessSize::Byte, value.into());
    }
}

#[test]
fn the_serial_port_has_its_registers_in_eight_ports() {
    let board = Board::new();
    // As the test guest and Linux begin: no interrupts, 8 bits, FIFO on.
    for (register, value) in [(1, 0), (3, 3), (2, 1)] {
        board.output(COM1 + register, value);
    }
    assert_eq!(board.input(COM1 + 3), 3);
    assert_eq!(board.input(COM1 + 2), 0xc1, "no interrupt, FIFO on");
    board.output(COM1 + 7, 0xa5);
    assert_eq!(board.input(COM1 + 7), 0xa5, "scratch register");
    for &byte in b"hello" {
        assert_ne!(board.input(COM1 + 5) & 0x20, 0, "room for a FIFO of bytes");
        board.output(COM1, byte);
    }
    let end = Instant::now() + Duration::from_secs(20);
    while *board.terminal.0.lock().unwrap() != b"hello" {
        assert!(Instant::now() < end);
        std::thread::yield_now();
    }
}

#[test]
fn input_raises_the_line_until_it_is_read() {
    let board = Board::new();
    board.output(COM1 + 1, 1);
    assert_eq!(board.uart.receive(b"k"), 1);
    assert!(board.line.load(Ordering::Relaxed));
    assert_eq!(board.input(COM1 + 5) & 1, 1);
    assert_eq!(board.input(COM1), b'k');
    assert!(!board.line.load(Ordering::Relaxed));
}

#[test]
fn there_is_no_debug_console_and_no_clock() {
    let board = Board::new();
    // A debug console would read as its own number, a CMOS clock as anything but ones.
    for port in [0xe9, 0x70, 0x71, 0x60, 0x2f8] {
        assert_eq!(board.input(port), 0xff, "{port:#x}");
    }
}

#[test]
fn the_guest_ends_its_run_in_three_ways() {
    let board = Board::new();
    board.output(0x600, 0x34);
    board.output(0x602, 1);
    assert_eq!(board.input(0x64) & 2, 0);
    board.output(0x64, 0xfe);
    // What QEMU's machines have in the place of ours.
    board.ports.write(GuestAddress(0x604), AccessSize::Half, 0x2000);
    let asked: Vec<_> = board.requests.try_iter().collect();
    assert_eq!(asked, [PowerRequest::PowerOff, PowerRequest::Reset, PowerRequest::Reset]);
}
