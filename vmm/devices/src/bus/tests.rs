use super::*;

/// Reads as its base, plus the offset.
struct Echo(u64, Mutex<Vec<(u64, u64)>>);

impl MmioDevice for Echo {
    fn read(&self, offset: u64, _: AccessSize) -> u64 {
        self.0 + offset
    }

    fn write(&self, offset: u64, _: AccessSize, value: u64) {
        self.1.lock().unwrap().push((offset, value));
    }
}

fn echo(base: u64) -> Arc<Echo> {
    Arc::new(Echo(base, Mutex::default()))
}

fn bus() -> Bus {
    let mut bus = Bus::new();
    for base in [0x3000, 0x1000, 0x2000] {
        bus.map(&format!("echo-{base:x}"), GuestAddress(base), 0x100, echo(base)).unwrap();
    }
    bus
}

#[test]
fn an_access_reaches_the_device_of_its_window() {
    let bus = bus();
    for address in [0x1000, 0x10ff, 0x2080, 0x30ff] {
        assert_eq!(bus.read(GuestAddress(address), AccessSize::Byte), address);
    }
    let mut bus = Bus::new();
    let device = echo(0);
    bus.map("echo", GuestAddress(0x4000), 8, device.clone()).unwrap();
    bus.write(GuestAddress(0x4004), AccessSize::Word, 77);
    assert_eq!(*device.1.lock().unwrap(), [(4, 77)]);
}

#[test]
fn where_no_device_is_zero_is_read_and_nothing_is_written() {
    let bus = bus();
    for address in [0, 0xfff, 0x1100, 0x4000, u64::MAX] {
        assert_eq!(bus.read(GuestAddress(address), AccessSize::Double), 0, "{address:#x}");
        bus.write(GuestAddress(address), AccessSize::Double, 1);
    }
    // An access that begins inside a window and ends outside it.
    assert_eq!(bus.read(GuestAddress(0x10fe), AccessSize::Word), 0);
}

#[test]
fn where_no_device_is_all_bits_of_a_port_are_ones() {
    let mut bus = Bus::of_ports();
    bus.map("echo", GuestAddress(0x3f8), 8, echo(0)).unwrap();
    let reads = [
        (AccessSize::Byte, 0xff),
        (AccessSize::Half, 0xffff),
        (AccessSize::Word, 0xffff_ffff),
        (AccessSize::Double, u64::MAX),
    ];
    for (size, ones) in reads {
        for port in [0, 0xe9, 0x3f7, 0x400, 0xffff] {
            assert_eq!(bus.read(GuestAddress(port), size), ones, "{port:#x}");
        }
    }
    assert_eq!(bus.read(GuestAddress(0x3ff), AccessSize::Byte), 7);
}

#[test]
fn the_log_of_a_hostile_guest_is_bounded() {
    let bus = bus();
    for address in 0x10_0000..0x10_1000 {
        bus.read(GuestAddress(address), AccessSize::Byte);
    }
    assert_eq!(bus.logged.lock().unwrap().len(), MOST_LOGGED);
}

#[test]
fn overlapping_and_impossible_windows_are_refused() {
    let mut bus = bus();
    for (base, bytes) in [(0x1000, 1), (0xfff, 2), (0x10ff, 1), (0x800, 0x1000), (0x2fff, 0x1000)] {
        let error = bus.map("new", GuestAddress(base), bytes, echo(0)).unwrap_err();
        assert!(matches!(error, BusError::Overlap { .. }), "{error}");
    }
    for (base, bytes) in [(0x8000, 0), (u64::MAX, 2)] {
        let error = bus.map("new", GuestAddress(base), bytes, echo(0)).unwrap_err();
        assert!(matches!(error, BusError::Window { .. }), "{error}");
    }
    bus.map("new", GuestAddress(0x1100), 0xf00, echo(0)).unwrap();
    bus.map("end", GuestAddress(u64::MAX), 1, echo(0)).unwrap();
}
