#![allow(unsafe_code)]

mod host;

use super::*;
use crate::Lifecycle;
use crate::virtio::AllPresent;
use crate::virtio::memory::PresentPages;
use crate::virtio::testing::*;
use proptest::prelude::*;
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::sync::Arc;
use std::time::Duration;
use umem_state::SaveRestore;

const MAC: [u8; 6] = [0x52, 0x54, 0, 1, 2, 3];
const HEADER: usize = 12;
const ANNOUNCING: u32 = 1 << 16 | 1 << 17 | 1 << 21;

/// A device, and the other end of the socket that is its tap.
fn device() -> (VirtioNet, UnixDatagram) {
    let (here, there) = UnixDatagram::pair().unwrap();
    there.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let tap = Tap::from_fd(here.as_raw_fd()).unwrap();
    (VirtioNet::new("net", tap, MAC).unwrap(), there)
}

fn start(present: Arc<dyn PresentPages>, features: u32) -> (Driver<VirtioNet>, UnixDatagram) {
    let (device, peer) = device();
    let mut driver = Driver::new(device, present);
    driver.features = features;
    driver.start(3);
    (driver, peer)
}

fn frame(number: u8) -> Vec<u8> {
    let text: Vec<u8> = (0..90).map(|at| at ^ number).collect();
    [MAC.as_slice(), &MAC, &[8, number], &text].concat()
}

fn with_header(frame: &[u8]) -> Vec<u8> {
    [&[0; HEADER], frame].concat()
}

fn status(driver: &Driver<VirtioNet>) -> u32 {
    driver.get(0x104) >> 16
}

fn next(peer: &UnixDatagram) -> Vec<u8> {
    let mut bytes = [0; 70_000];
    let count = peer.recv(&mut bytes).unwrap();
    bytes[..count].to_vec()
}

#[test]
fn frames_go_both_ways() {
    let (mut driver, peer) = start(Arc::new(AllPresent), 0);
    driver.put(DATA, &with_header(&frame(1)));
    driver.submit(1, &[(DATA, 5, READ), (DATA + 5, 7, READ), (DATA + 12, 104, READ)]);
    driver.await_used(1);
    assert_eq!(next(&peer), with_header(&frame(1)));
    peer.send(&with_header(&frame(2))).unwrap();
    driver.submit(0, &[(DATA + 0x1000, 12, WRITE), (DATA + 0x2000, 1514, WRITE)]);
    assert_eq!(driver.await_used(0), 116);
    assert_eq!(driver.bytes(DATA + 0x1000, 12), [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]);
    assert_eq!(driver.bytes(DATA + 0x2000, 104), frame(2));
}

#[test]
fn the_header_of_a_frame_from_the_guest_is_not_believed() {
    let (mut driver, peer) = start(Arc::new(AllPresent), 0);
    driver.put(DATA, &[[0xff; HEADER].as_slice(), &frame(1)].concat());
    driver.submit(1, &[(DATA, 116, READ)]);
    assert_eq!(next(&peer), with_header(&frame(1)));
}

#[test]
fn the_configuration_space_has_address_and_status() {
    let (driver, _peer) = start(Arc::new(AllPresent), 0);
    assert_eq!(driver.get(0x100).to_le_bytes(), MAC[..4]);
    assert_eq!(driver.get(0x104).to_le_bytes(), [2, 3, 1, 0]);
}

#[test]
fn frames_that_do_not_fit_anywhere_are_dropped_and_the_next_goes_through() {
    let (mut driver, peer) = start(Arc::new(AllPresent), 0);
    let link = driver_link(&driver);
    driver.submit(1, &[(DATA, 25, READ)]);
    driver.await_used(1);
    driver.submit(1, &[(DATA, 0x1_0100, READ)]);
    driver.await_used(1);
    driver.submit(1, &[(DATA, 3, READ)]);
    driver.await_used(1);
    assert_eq!(link.counts().dropped, 3);
    peer.send(&[0; 20]).unwrap();
    peer.send(&with_header(&[7; 600])).unwrap();
    peer.send(&with_header(&frame(3))).unwrap();
    driver.submit(0, &[(DATA, 500, WRITE)]);
    assert_eq!(driver.await_used(0), 116);
    assert_eq!(link.counts(), LinkCounts { received: 1, sent: 0, dropped: 5 });
}

fn driver_link(driver: &Driver<VirtioNet>) -> Arc<Link> {
    driver.device.with_device(VirtioNet::link)
}

#[test]
fn a_full_tap_holds_frames_up_and_none_is_lost_or_sent_twice() {
    let (mut driver, peer) = start(Arc::new(AllPresent), 0);
    for number in 0..15u16 {
        let at = DATA + u64::from(number) * 0x100;
        driver.put(at, &with_header(&frame(number as u8)));
        driver.write_descriptor(1, number, (at, 116, 0, 0));
        driver.offer(1, number);
        if number == 12 {
            driver.device.quiesce(soon()).unwrap();
            driver.device.resume();
        }
    }
    for number in 0..15 {
        assert_eq!(next(&peer), with_header(&frame(number)));
    }
    driver.await_used(1);
    peer.set_nonblocking(true).unwrap();
    assert!(peer.recv(&mut [0; 200]).is_err());
}

#[test]
fn a_frame_taken_from_the_tap_moves_with_the_guest() {
    let (source, peer) = start(Arc::new(AllPresent), 0);
    peer.send(&with_header(&frame(5))).unwrap();
    await_that("no frame is taken", || !source.device.save().device.frame.is_empty());
    source.device.quiesce(soon()).unwrap();
    peer.send(&with_header(&frame(6))).unwrap();
    let saved = source.device.save();
    let (device, other_peer) = device();
    let target = Driver::with_ram(device, Arc::new(AllPresent), source.ram.clone());
    target.device.restore(saved.clone()).unwrap();
    assert_eq!(target.device.save(), saved);
    let mut target = source.moved(target);
    target.device.resume();
    target.submit(0, &[(DATA, 1526, WRITE)]);
    assert_eq!(target.await_used(0), 116);
    assert_eq!(target.bytes(DATA + 12, 104), frame(5));
    other_peer.send(&with_header(&frame(7))).unwrap();
    target.submit(0, &[(DATA, 1526, WRITE)]);
    target.await_used(0);
    assert_eq!(target.bytes(DATA + 12, 104), frame(7));
}

#[test]
fn a_frame_whose_buffer_is_missing_waits_and_the_device_comes_to_rest() {
    let gate = Arc::new(Gate::default());
    let (mut driver, peer) = start(gate.clone(), 0);
    gate.shut(DATA);
    driver.submit(0, &[(DATA, 1526, WRITE)]);
    peer.send(&with_header(&frame(8))).unwrap();
    await_that("no page is waited for", || gate.is_waited_for());
    driver.device.quiesce(soon()).unwrap();
    let saved = driver.device.save();
    assert_eq!(saved.device.frame, frame(8));
    assert_eq!(saved.queues[0].next_available, 0);
    gate.open();
    driver.device.resume();
    assert_eq!(driver.await_used(0), 116);
    assert_eq!(driver.bytes(DATA + 12, 104), frame(8));
}

#[test]
fn a_guest_that_has_arrived_is_asked_to_announce_itself_until_it_acknowledges() {
    let (source, _peer) = start(Arc::new(AllPresent), ANNOUNCING);
    source.device.quiesce(soon()).unwrap();
    let saved = source.device.save();
    source.device.resume();
    assert_eq!(status(&source), 1, "a guest that stays need not");
    let (device, _other_peer) = device();
    let target = Driver::with_ram(device, Arc::new(AllPresent), source.ram.clone());
    target.device.restore(saved).unwrap();
    let mut target = source.moved(target);
    assert_eq!((status(&target), target.get(0x60)), (1, 0));
    let generation = target.get(0xfc);
    target.device.resume();
    assert_eq!((status(&target), target.get(0x60)), (3, 2));
    assert_ne!(target.get(0xfc), generation);
    target.put(DATA, &[3, 0]);
    target.submit(2, &[(DATA, 2, READ), (DATA + 8, 1, WRITE)]);
    assert_eq!(target.await_used(2), 1);
    assert_eq!((target.bytes(DATA + 8, 1), status(&target)), (vec![0], 1));
    target.put(DATA, &[1, 0]);
    target.submit(2, &[(DATA, 2, READ), (DATA + 8, 1, WRITE)]);
    target.await_used(2);
    assert_eq!(target.bytes(DATA + 8, 1), [1], "there are no other commands");
}

#[test]
fn a_driver_that_cannot_announce_itself_is_not_asked() {
    let (source, _peer) = start(Arc::new(AllPresent), 1 << 16);
    source.device.quiesce(soon()).unwrap();
    let saved = source.device.save();
    source.device.restore(saved).unwrap();
    source.device.resume();
    assert_eq!((status(&source), source.get(0x60)), (1, 0));
}

#[test]
fn a_link_that_is_down_drops_frames_and_the_driver_is_told() {
    let (mut driver, peer) = start(Arc::new(AllPresent), 0);
    let link = driver_link(&driver);
    link.set_up(false);
    assert_eq!((status(&driver), driver.get(0x60)), (0, 2));
    driver.set(0x64, 2);
    driver.put(DATA, &with_header(&frame(1)));
    driver.submit(1, &[(DATA, 116, READ)]);
    driver.await_used(1);
    peer.send(&with_header(&frame(2))).unwrap();
    await_that("a frame is not dropped", || link.counts().dropped == 2);
    link.set_up(true);
    peer.send(&with_header(&frame(3))).unwrap();
    driver.submit(0, &[(DATA, 1526, WRITE)]);
    driver.await_used(0);
    assert_eq!(driver.bytes(DATA + 12, 104), frame(3));
    driver.put(DATA, &with_header(&frame(4)));
    driver.submit(1, &[(DATA, 116, READ)]);
    assert_eq!(next(&peer), with_header(&frame(4)));
}

#[test]
fn a_tap_that_goes_away_takes_the_link_down() {
    let mut fds = [0; 2];
    // SAFETY: the pointer is valid for the two descriptors that are made.
    let result =
        unsafe { libc::socketpair(libc::AF_UNIX, libc::SOCK_SEQPACKET, 0, fds.as_mut_ptr()) };
    assert_eq!(result, 0);
    let tap = Tap::from_fd(fds[0]).unwrap();
    let mut driver = Driver::new(VirtioNet::new("net", tap, MAC).unwrap(), Arc::new(AllPresent));
    driver.start(3);
    assert_eq!(status(&driver), 1);
    for fd in fds {
        // SAFETY: the descriptor was made here and is not used any more.
        assert_eq!(unsafe { libc::close(fd) }, 0);
    }
    await_that("the link is up", || status(&driver) == 0);
    driver.put(DATA, &with_header(&frame(1)));
    driver.submit(1, &[(DATA, 116, READ)]);
    driver.await_used(1);
    driver.device.quiesce(soon()).unwrap();
}

#[test]
fn descriptors_and_names_that_are_no_tap_are_refused() {
    let file = tempfile::tempfile().unwrap();
    let error = Tap::from_fd(file.as_raw_fd()).unwrap_err();
    assert!(matches!(error, TapError::Descriptor { .. }), "{error}");
    let (stream, _peer) = UnixStream::pair().unwrap();
    let error = Tap::from_fd(stream.as_raw_fd()).unwrap_err();
    assert!(matches!(error, TapError::Descriptor { .. }), "{error}");
    for fd in [-1, 1_000_000] {
        assert!(matches!(Tap::from_fd(fd).unwrap_err(), TapError::System { .. }));
    }
    for name in ["", "a name of 16 byt", "a\0b"] {
        assert!(matches!(Tap::open(name).unwrap_err(), TapError::Name { .. }));
    }
}

#[test]
fn a_frame_longer_than_any_can_be_is_refused_in_a_state() {
    let (driver, _peer) = start(Arc::new(AllPresent), 0);
    driver.device.quiesce(soon()).unwrap();
    let mut saved = driver.device.save();
    saved.device.frame = vec![0; (64 << 10) + 1];
    assert!(driver.device.restore(saved).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn whatever_a_guest_does_the_device_comes_to_rest(hostile in hostile()) {
        let (device, peer) = device();
        peer.set_nonblocking(true).unwrap();
        let stop = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    let _ = peer.send(&with_header(&frame(1)));
                    let _ = peer.recv(&mut [0; 100]);
                    std::thread::sleep(Duration::from_micros(50));
                }
            });
            // Whether the test goes well or not, the other thread ends.
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                act(&mut Driver::new(device, Arc::new(AllPresent)), 3, &hostile);
            }));
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
            assert!(result.is_ok());
        });
    }
}

#[test]
fn the_host_announces_the_guest_whatever_its_driver_does() {
    let (device, peer) = device();
    let announcer = device.announcer();
    for _ in 0..2 {
        announcer.announce().unwrap();
        let mut datagram = [0; 200];
        let count = peer.recv(&mut datagram).unwrap();
        assert_eq!(count, 12 + 60);
        assert_eq!(datagram[..12], [0; 12], "no offload");
        assert_eq!(datagram[12..18], [0xff; 6]);
        assert_eq!((&datagram[18..24], &datagram[24..26]), (&MAC[..], &[0x80, 0x35][..]));
    }
}
