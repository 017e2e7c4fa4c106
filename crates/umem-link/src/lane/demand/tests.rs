//! One lane between a fault plane and a source that is a thread of the test.

use super::*;
use crate::channel::{Channel, from_socket};
use crate::lane::{Arrivals, Store, kind_of};
use socket2::{Domain, Socket, Type};
use std::thread::JoinHandle;
use umem_fault::{Claim, FaultCause, FaultPlane, Interrupt, Waited};
use umem_memory::{Backend, GuestAddress, GuestRam, PageSize, RamBlockSpec, RamLayout};
use umem_wire::{Cause, DemandFrame, MAX_CONTROL_BODY, PagesBuilder};

const PAGES: u64 = 1024;

fn content(page: u64) -> Vec<u8> {
    (0..PageSize::SMALL.bytes()).map(|at| (at * 7 + page) as u8).collect()
}

struct Rig {
    lane: Arc<DemandLane>,
    plane: Arc<FaultPlane>,
    ram: GuestRam,
    ends: Arc<AtomicU64>,
}

fn rig() -> (Rig, Channel) {
    let bytes = PAGES * PageSize::SMALL.bytes();
    let block = RamBlockSpec { name: "ram".into(), guest_address: GuestAddress(0), bytes };
    let layout = RamLayout::new(PageSize::SMALL, vec![block]).unwrap();
    let ram = GuestRam::new(layout.clone(), &Backend::Anonymous).unwrap();
    let plane = FaultPlane::for_ram(&ram).unwrap();
    let store = Arc::new(Store::new(ram.clone(), 1));
    store.serve(plane.clone());
    let (here, there) = Socket::pair(Domain::UNIX, Type::STREAM, None).unwrap();
    let [here, peer] = [here, there].map(|socket| from_socket(socket, "test".into(), false));
    let arrivals = Arc::<Arrivals>::default();
    let requests = RequestLane::new(here.writer, arrivals.requests.clone(), |_| ());
    let (all_here, round_here) = (Arc::new(|_| ()), Arc::new(|_, _| ()));
    let features = umem_wire::Features::KNOWN;
    let receiver = PageReceiver { store, layout, arrivals, features, all_here, round_here };
    let ends = Arc::new(AtomicU64::new(0));
    let count = ends.clone();
    let ended = move |_: &LaneError| {
        count.fetch_add(1, Ordering::SeqCst);
    };
    let lane = Arc::new(DemandLane::new(requests, here.reader, here.control, receiver, ended));
    plane.set_requester(lane.clone());
    (Rig { lane, plane, ram, ends }, peer)
}

impl Rig {
    /// The lane's own thread.
    fn serve(&self) -> JoinHandle<()> {
        let lane = self.lane.clone();
        std::thread::spawn(move || lane.serve())
    }

    fn resolve(&self, page: u64) -> Waited {
        self.plane.resolve(PageIndex(page), FaultCause::Vcpu, &Interrupt::new())
    }

    /// With an interrupt that is raised once the page was asked for.
    fn resolve_interrupted(&self, page: u64) -> Waited {
        let interrupt = Interrupt::new();
        std::thread::scope(|scope| {
            let waits =
                scope.spawn(|| self.plane.resolve(PageIndex(page), FaultCause::Vcpu, &interrupt));
            while self.plane.table().counts().requested == 0 {
                std::thread::yield_now();
            }
            std::thread::sleep(PATIENCE);
            interrupt.raise();
            waits.join().unwrap()
        })
    }

    fn assert_here(&self, page: u64) {
        let mut here = vec![0; PageSize::SMALL.len()];
        self.ram.read_at(GuestAddress(page * PageSize::SMALL.bytes()), &mut here).unwrap();
        assert!(here == content(page), "page {page}");
    }
}

/// Answers requests, each page in a frame of its own, until the lane ends; how many it answered.
fn answer(channel: Channel) -> JoinHandle<u64> {
    std::thread::spawn(move || {
        let mut frames = FrameReader::new(channel.reader, MAX_CONTROL_BODY);
        let (mut writer, mut answered) = (channel.writer, 0);
        while let Ok(frame) = frames.next() {
            let Ok(DemandFrame::Request(pages)) = DemandFrame::decode(frame.kind, frame.body)
            else {
                panic!("not a request")
            };
            for page in pages {
                let bytes = content(page);
                let mut frame = PagesBuilder::new(page, Cause::Demand, bytes.len());
                frame.push(kind_of(PageIndex(page), &bytes));
                let whole = [frame.head(), bytes].concat();
                // Two pieces, so that frames also come torn.
                let (first, rest) = whole.split_at(page as usize % whole.len());
                writer.write_all(first).unwrap();
                writer.write_all(rest).unwrap();
                answered += 1;
            }
        }
        answered
    })
}

#[test]
fn who_waits_takes_its_page_in_and_needs_no_other_thread() {
    // On a host that is busy an answer may take longer than who waits reads for it, and another thread is
    // needed after all: that says nothing.
    const ATTEMPTS: usize = 100;
    assert!((0..ATTEMPTS).any(|_| pages_come_without_another_thread()));
}

/// Whether who waited has read all that it waited for.
fn pages_come_without_another_thread() -> bool {
    let (rig, peer) = rig();
    let control = peer.control.clone();
    let source = answer(peer);
    let alarmed = || rig.lane.alarms.load(Ordering::SeqCst) > 0;
    for page in [3, 900, 4] {
        let waited = std::thread::scope(|scope| {
            let waits = scope.spawn(|| rig.resolve(page));
            while !waits.is_finished() && !alarmed() {
                std::thread::yield_now();
            }
            if alarmed() {
                rig.serve();
            }
            waits.join().unwrap()
        });
        assert_eq!(waited, Waited::Present);
        rig.assert_here(page);
        if alarmed() {
            control.shutdown();
            return false;
        }
    }
    control.shutdown();
    assert_eq!(source.join().unwrap(), 3);
    assert_eq!(rig.resolve_interrupted(5), Waited::Interrupted);
    assert_eq!(rig.ends.load(Ordering::SeqCst), 1, "who waited has found the end");
    true
}

#[test]
fn an_interrupt_ends_the_wait_for_an_answer_that_does_not_come() {
    let (rig, _peer) = rig();
    assert_eq!(rig.resolve_interrupted(5), Waited::Interrupted);
    assert_eq!(rig.ends.load(Ordering::SeqCst), 0);
}

#[test]
fn closing_the_plane_ends_the_wait_for_an_answer_that_does_not_come() {
    let (rig, _peer) = rig();
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| rig.resolve(5));
        while rig.plane.table().counts().requested == 0 {
            std::thread::yield_now();
        }
        rig.plane.close();
        assert_eq!(waits.join().unwrap(), Waited::Interrupted);
    });
}

#[test]
fn who_reads_and_who_does_not_both_get_their_pages() {
    let (rig, peer) = rig();
    let control = peer.control.clone();
    let (own, source) = (rig.serve(), answer(peer));
    std::thread::scope(|scope| {
        let rig = &rig;
        // Three that read for themselves, and compete for it.
        for number in 0..3 {
            scope.spawn(move || {
                for page in (0..PAGES).filter(|page| page % 4 == number) {
                    assert_eq!(rig.resolve(page), Waited::Present);
                    rig.assert_here(page);
                }
            });
        }
        // One that does not, as threads do that wait in the kernel; from time to time, so that the
        // lane's thread has begun to rest.
        scope.spawn(move || {
            for page in (0..PAGES).filter(|page| page % 4 == 3).map(PageIndex) {
                assert_eq!(rig.plane.table().claim(page), Claim::Fetch);
                rig.lane.request(&[page]);
                assert_eq!(rig.plane.table().wait(page, &Interrupt::new()), Waited::Present);
                rig.assert_here(page.0);
                if page.0 % 128 == 3 {
                    std::thread::sleep(CALM * 2);
                }
            }
        });
    });
    assert_eq!(rig.plane.table().counts().present, PAGES);
    control.shutdown();
    own.join().unwrap();
    assert_eq!(source.join().unwrap(), PAGES);
    assert!(rig.ends.load(Ordering::SeqCst) > 0, "its end was told");
}
