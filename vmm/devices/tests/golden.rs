//! Saved states of every device as this version writes them, kept as files: this version and every
//! later one loads each, and this version writes the same bytes.
//!
//! A file is a package with one section, named after its device; `NAME-vN.state` is version N of the
//! form. A changed form gets a new version and a new file, and the old file stays. To write the files
//! that are not there yet, run this test with `UMEM_WRITE_GOLDEN=1`.

#![allow(clippy::unwrap_used, clippy::panic)]

use devices::*;
use std::fmt::Debug;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::sync::Arc;
use umem_memory::{Backend, GuestAddress, GuestRam, PageSize, RamBlockSpec, RamLayout};
use umem_state::{Package, PackageBuilder, SaveRestore, encode_body};

const ALL: BalloonFeatures = BalloonFeatures { deflate_on_oom: true, free_page_reporting: true };
const RAM_BASE: u64 = 0x8000_0000;

fn package<S: serde::Serialize>(name: &str, version: u32, saved: &S) -> Vec<u8> {
    let mut builder = PackageBuilder::new();
    builder.add_body(name, version, encode_body(name, saved).unwrap());
    builder.build()
}

/// Loads the golden file of a device of this version, which must hold `saved`, and saves it again.
#[track_caller]
fn check<D>(name: &str, device: &D, saved: &D::Saved)
where
    D: SaveRestore,
    D::Saved: PartialEq + Debug,
{
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let path = folder.join(format!("{name}-v{}.state", D::VERSION));
    if !path.exists() && std::env::var_os("UMEM_WRITE_GOLDEN").is_some() {
        std::fs::write(&path, package(name, D::VERSION, saved)).unwrap();
    }
    // What older versions wrote can be loaded; what it becomes is for the tests of the device.
    for version in 1..D::VERSION {
        let older = std::fs::read(folder.join(format!("{name}-v{version}.state"))).unwrap();
        Package::decode(&older).unwrap().take(name, device).unwrap();
    }
    let golden = std::fs::read(&path).unwrap_or_else(|error| {
        panic!("{}: {error}; write it with UMEM_WRITE_GOLDEN=1", path.display())
    });
    let mut loaded = Package::decode(&golden).unwrap();
    loaded.take(name, device).unwrap();
    loaded.finish().unwrap();
    assert_eq!(device.save(), *saved, "what the file says is not what it was written from");
    let mut again = PackageBuilder::new();
    again.add(name, device).unwrap();
    assert_eq!(again.build(), golden, "this version writes other bytes; is that a new version?");
}

fn line() -> Arc<dyn InterruptLine> {
    Arc::new(|_high| {})
}

fn ram() -> GuestRam {
    let spec =
        RamBlockSpec { name: "ram".into(), guest_address: GuestAddress(RAM_BASE), bytes: 1 << 20 };
    GuestRam::new(RamLayout::new(PageSize::SMALL, vec![spec]).unwrap(), &Backend::Anonymous)
        .unwrap()
}

#[test]
fn the_uart_s_state_is_loaded_and_saved() {
    let uart = Uart::new("uart", line(), Box::new(std::io::sink())).unwrap();
    let saved = SavedUart {
        interrupt_enable: 0x05,
        fifo_control: 0xc1,
        line_control: 0x1b,
        modem_control: 0x0b,
        modem_changes: 0x01,
        scratch: 0xa5,
        divisor: 0x1234,
        transmit_pending: true,
        input: b"typed".to_vec(),
        output: b"printed\n".to_vec(),
    };
    check("uart", &*uart, &saved);
}

#[test]
fn the_interrupt_controller_s_state_is_loaded_and_saved() {
    let plic = Plic::new(PlicConfig::supervisors([line()]));
    let saved = SavedPlic {
        priorities: (0..64).map(|source| source % 8).collect(),
        levels: 0b1010,
        pending: 0b0110,
        claimed: 0b1000,
        enabled: vec![0, 0xffff_fffe],
        thresholds: vec![0, 3],
    };
    check("plic", &*plic, &saved);
}

#[test]
fn the_clock_s_state_is_loaded_and_saved() {
    let rtc = GoldfishRtc::new(line()).unwrap();
    let saved = SavedRtc {
        offset_nanoseconds: -5_000_000_000,
        latched_high: 0x17b2_0001,
        time_high: 0x17b2_0002,
        alarm_high: 0x17b2_0003,
        alarm: Some(0x17b2_0003_0000_0004),
        interrupt_pending: true,
        interrupt_enabled: true,
    };
    check("rtc", &rtc, &saved);
}

/// The state of a device in use: every queue is ready.
fn in_use<S>(
    device_id: u32,
    features: u64,
    queues: u64,
    size: u16,
    device: S,
) -> SavedVirtioMmio<S> {
    let queue = |number: u64| {
        let base = RAM_BASE + number * 0x8000;
        SavedQueue {
            size,
            ready: true,
            descriptors: base,
            available: base + 0x2000,
            used: base + 0x4000,
            next_available: 65_530 + number as u16,
            next_used: 65_530 + number as u16,
        }
    };
    SavedVirtioMmio {
        device_id,
        status: 15,
        device_features_select: 1,
        driver_features_select: 1,
        driver_features: 1 << 32 | 1 << 29 | 1 << 28 | features,
        queue_select: 1,
        interrupt_status: 1,
        config_generation: 2,
        queues: (0..queues).map(queue).collect(),
        device,
    }
}

#[track_caller]
fn check_virtio<D: VirtioDevice>(name: &str, device: D, saved: &SavedVirtioMmio<D::Saved>)
where
    D::Saved: PartialEq + Debug,
{
    let ram = ram().memory().clone();
    let device = VirtioMmio::new(name, device, ram, line(), Arc::new(AllPresent)).unwrap();
    check(name, &*device, saved);
}

#[test]
fn a_disk_s_state_is_loaded_and_saved() {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(2048 * 512).unwrap();
    let disk = Arc::new(Disk::open(file.path(), false).unwrap());
    let saved = SavedVirtioBlk { sectors: 2048, read_only: false };
    let features = 1 << 14 | 1 << 13 | 1 << 9 | 1 << 6 | 1 << 2;
    let saved = in_use(2, features, 1, 256, saved);
    check_virtio("virtio-blk", VirtioBlk::new(disk, "serial"), &saved);
}

#[test]
fn a_console_s_state_is_loaded_and_saved() {
    let device = VirtioConsole::new("console", None, Box::new(std::io::sink())).unwrap();
    let saved = SavedVirtioConsole { input: b"in".to_vec(), output: b"out".to_vec(), sent: 77 };
    check_virtio("virtio-console", device, &in_use(3, 0, 2, 64, saved));
}

#[test]
fn the_state_of_a_source_of_random_numbers_is_loaded_and_saved() {
    check_virtio("virtio-rng", VirtioRng::new(), &in_use(4, 0, 1, 64, SavedVirtioRng {}));
}

#[test]
fn a_network_device_s_state_is_loaded_and_saved() {
    let (socket, _peer) = UnixDatagram::pair().unwrap();
    let tap = Tap::from_fd(socket.as_raw_fd()).unwrap();
    let device = VirtioNet::new("net", tap, [0x52, 0x54, 0, 0, 0, 1]).unwrap();
    let frame = (0..60).collect();
    let mac = [0x52, 0x54, 0, 0xa, 0xb, 0xc];
    let saved = SavedVirtioNet { mac, link_up: true, announce: true, frame };
    let features = 1 << 21 | 1 << 17 | 1 << 16 | 1 << 5;
    check_virtio("virtio-net", device, &in_use(1, features, 3, 64, saved));
}

struct Nobody;

impl GivenBack for Nobody {
    fn give_back(&self, _range: GuestRange) {}
}

#[test]
fn a_balloon_s_state_is_loaded_and_saved() {
    let saved = SavedVirtioBalloon { target_pages: 4096, actual_pages: 1234 };
    let saved = in_use(5, 1 << 5 | 1 << 2, 3, 128, saved);
    check_virtio("virtio-balloon", VirtioBalloon::new(ALL, Arc::new(Nobody)), &saved);
}
