//! The table itself.

use super::{Accel, Guest, HostPages, Link, Mode, Move, Options, Peer, Placement, Scenario, Work};
use crate::run::Accesses;

/// Limit of one run where nothing else is said, in seconds.
const LIMIT_S: u64 = 600;

/// The main guest: Linux, 4 GiB, most of it filled, 20,000 random pages a second.
fn main_guest() -> Move {
    Move { guest: Guest::Linux, memory_mib: 4096, fill_mib: 2900, ..own_guest(0, 0) }
}

/// The same with 1 GiB.
fn small_linux() -> Move {
    Move { memory_mib: 1024, fill_mib: 716, ..main_guest() }
}

/// The repository's own guest, under software.
fn own_guest(memory_mib: u64, fill_mib: u64) -> Move {
    Move {
        accel: Accel::Tcg,
        guest: Guest::Bare,
        mode: Mode::Postcopy,
        memory_mib,
        fill_mib,
        rate: 20_000,
        vcpus: 1,
        options: Options::DEFAULT,
        host_pages: [HostPages::Small; 2],
        link: Link::Loopback,
        peers: vec![Peer::Postcopy, Peer::Preempt],
    }
}

/// The same on hardware.
fn kvm_guest(memory_mib: u64, fill_mib: u64, rate: u64) -> Move {
    Move { accel: Accel::Kvm, rate, ..own_guest(memory_mib, fill_mib) }
}

fn row(name: impl Into<String>, group: &'static str, work: Move) -> Scenario {
    Scenario {
        name: name.into(),
        group,
        x: None,
        quick: false,
        limit_s: LIMIT_S,
        work: Work::Move(work),
    }
}

/// A row of a curve.
fn point(group: &'static str, x: (&'static str, f64), work: Move) -> Scenario {
    Scenario { x: Some(x), ..row(format!("{group}-{}", x.1), group, work) }
}

fn quick(scenario: Scenario) -> Scenario {
    Scenario { quick: true, limit_s: 60, ..scenario }
}

fn with(work: Move, options: Options) -> Move {
    Move { options, ..work }
}

const NO_BACKGROUND: Options = Options { background: false, ..Options::DEFAULT };

/// The host's CPUs sleep as they like.
const SLEEPING: Options = Options { idle_states: true, ..Options::DEFAULT };

/// In seconds.
fn quick_rows() -> Vec<Scenario> {
    let guest = || Move { rate: 5000, peers: vec![Peer::Preempt], ..own_guest(256, 180) };
    vec![
        quick(row("quick", "quick", guest())),
        quick(row(
            "quick-no-background",
            "quick",
            with(Move { peers: vec![], ..guest() }, NO_BACKGROUND),
        )),
        quick(row(
            "quick-precopy",
            "quick",
            Move { mode: Mode::Precopy, peers: vec![Peer::Precopy], ..guest() },
        )),
    ]
}

fn main_rows() -> Vec<Scenario> {
    let peers = |peers: &[Peer]| Move { peers: peers.to_vec(), ..main_guest() };
    let mut rows = vec![
        row("main", "main", main_guest()),
        row("main-no-background", "main", with(peers(&[]), NO_BACKGROUND)),
        row("main-hybrid", "main", Move { mode: Mode::Hybrid, ..peers(&[Peer::Hybrid]) }),
        row(
            "main-precopy",
            "main",
            Move { mode: Mode::Precopy, ..peers(&[Peer::Precopy, Peer::Multifd]) },
        ),
        row("main-idle", "main", Move { rate: 0, ..main_guest() }),
        row(
            "main-kernel-faults",
            "main",
            with(peers(&[]), Options { kernel_faults: true, ..Options::DEFAULT }),
        ),
        row("linux-1g", "linux-1g", small_linux()),
        row("linux-1g-idle", "linux-1g", Move { rate: 0, ..small_linux() }),
        row(
            "linux-1g-no-background",
            "linux-1g",
            with(Move { peers: vec![], ..small_linux() }, NO_BACKGROUND),
        ),
    ];
    rows.extend([50, 100, 200, 400, 800].map(|bandwidth_mib| {
        let options = Options { bandwidth_mib, ..Options::DEFAULT };
        let x = ("background, MiB/s at most", bandwidth_mib as f64);
        point("bandwidth", x, with(peers(&[Peer::Preempt]), options))
    }));
    rows
}

/// RAM that is filled as far as two ends fit a host of 24 GiB, and RAM that is hardly used.
fn memory_rows() -> Vec<Scenario> {
    let sizes = [
        (256, 179),
        (512, 358),
        (1024, 716),
        (2048, 1433),
        (4096, 2867),
        (8192, 5734),
        (16_384, 9011),
    ];
    let mut rows: Vec<Scenario> = sizes
        .map(|(memory, filled)| {
            let guest = Move { peers: vec![Peer::Preempt], ..own_guest(memory, filled) };
            point("memory", ("RAM, MiB", memory as f64), guest)
        })
        .into();
    rows.extend([32_768, 65_536].map(|memory| {
        let guest = Move { peers: vec![], ..own_guest(memory, memory / 100) };
        Scenario { limit_s: 900, ..point("sparse", ("RAM, MiB", memory as f64), guest) }
    }));
    rows
}

/// Small pages and huge ones at each end.
fn page_rows() -> Vec<Scenario> {
    use HostPages::{Huge, Small};
    [("pages-4k", [Small, Small]), ("pages-4k-2m", [Small, Huge]), ("pages-2m", [Huge, Huge])]
        .map(|(name, host_pages)| {
            // QEMU's postcopy needs the same pages at both ends.
            let same = host_pages[0] == host_pages[1];
            let peers = if same { vec![Peer::Preempt] } else { Vec::new() };
            row(name, "pages", Move { host_pages, rate: 5000, peers, ..own_guest(1024, 716) })
        })
        .into()
}

fn parallel_rows() -> Vec<Scenario> {
    let mut rows: Vec<Scenario> = [1, 2, 4]
        .map(|vcpus| {
            let guest = Move { vcpus, peers: vec![Peer::Preempt], ..own_guest(1024, 716) };
            point("vcpus", ("vCPUs", f64::from(vcpus)), guest)
        })
        .into();
    rows.extend([1, 2, 4, 8].map(|connections| {
        let options = Options { connections, ..Options::DEFAULT };
        let guest = with(Move { peers: vec![], ..own_guest(1024, 716) }, options);
        point("connections", ("connections", f64::from(connections)), guest)
    }));
    rows.extend([1_u64, 2, 4, 8, 16].map(|threads| Scenario {
        name: format!("faults-{threads}"),
        group: "faults",
        x: Some(("threads", threads as f64)),
        quick: threads == 1 || threads == 4,
        limit_s: 60,
        work: Work::Faults { threads, mib: 64 },
    }));
    rows.extend(Accesses::ALL.map(|accesses| Scenario {
        limit_s: 60,
        work: Work::Accesses { accesses, mib: 64 },
        ..row(format!("prefault-{}", accesses.word()), "prefault", own_guest(0, 0))
    }));
    rows
}

fn link_rows() -> Vec<Scenario> {
    let mut rows: Vec<Scenario> = [0.0, 1.0, 5.0, 10.0, 20.0, 50.0]
        .map(|round_trip_ms| {
            let link = Link::Delayed { round_trip_ms };
            let guest = Move { link, peers: vec![Peer::Preempt], ..own_guest(512, 358) };
            point("round-trip", ("round trip, ms", round_trip_ms), guest)
        })
        .into();
    for congestion in ["bbr", "cubic"] {
        let link = Link::Shaped { mbit: 1000, congestion };
        let name = |rest: &str| format!("link-1g-{congestion}{rest}");
        rows.push(row(name(""), "link", Move { link, ..small_linux() }));
        let unloaded = with(Move { link, peers: vec![], ..small_linux() }, NO_BACKGROUND);
        rows.push(row(name("-no-background"), "link", unloaded));
        let hybrid = Move { mode: Mode::Hybrid, link, peers: vec![Peer::Hybrid], ..small_linux() };
        rows.push(row(name("-hybrid"), "link", hybrid));
    }
    rows
}

/// A slow link: a guest whose pages cannot be packed, and one that holds little but Linux itself.
fn compression_rows() -> Vec<Scenario> {
    let link = Link::Shaped { mbit: 100, congestion: "bbr" };
    let noise = Move { link, rate: 2000, peers: vec![], ..own_guest(128, 48) };
    let linux =
        Move { link, memory_mib: 512, fill_mib: 16, rate: 0, peers: vec![], ..main_guest() };
    let guests = [
        ("noise", noise.clone()),
        ("noise-precopy", Move { mode: Mode::Precopy, ..noise }),
        ("linux", linux.clone()),
        ("linux-precopy", Move { mode: Mode::Precopy, ..linux }),
    ];
    let ways = ["none", "lz4", "zstd", "auto"];
    let each = |(name, guest): (&str, Move)| {
        ways.map(|compression| {
            let options = Options { compression, ..Options::DEFAULT };
            let name = format!("compression-{name}-{compression}");
            row(name, "compression", with(guest.clone(), options))
        })
    };
    guests.into_iter().flat_map(each).collect()
}

fn kvm_rows() -> Vec<Scenario> {
    let kvm = |name: &str, guest: Move| row(name, "kvm", guest);
    let precopy = |guest: Move| Move {
        mode: Mode::Precopy,
        peers: vec![Peer::Precopy, Peer::Multifd],
        ..guest
    };
    let mut rows = vec![
        kvm("kvm-idle", kvm_guest(1024, 716, 0)),
        kvm("kvm", kvm_guest(1024, 716, 16_000)),
        kvm(
            "kvm-no-background",
            with(Move { peers: vec![], ..kvm_guest(1024, 716, 16_000) }, NO_BACKGROUND),
        ),
        kvm("kvm-precopy", precopy(kvm_guest(1024, 716, 16_000))),
        kvm("kvm-precopy-idle", precopy(kvm_guest(1024, 716, 0))),
        kvm("kvm-4g", kvm_guest(4096, 2900, 16_000)),
    ];
    let sleeping = |guest: Move| with(Move { peers: vec![], ..guest }, SLEEPING);
    rows.extend([
        row("idle-states-kvm-idle", "idle-states", sleeping(kvm_guest(1024, 716, 0))),
        row("idle-states-kvm", "idle-states", sleeping(kvm_guest(1024, 716, 16_000))),
        row("idle-states-linux-1g", "idle-states", sleeping(small_linux())),
        row(
            "idle-states-linux-1g-no-background",
            "idle-states",
            Move { options: Options { background: false, ..SLEEPING }, ..sleeping(small_linux()) },
        ),
    ]);
    rows.extend([1, 2, 4].map(|vcpus| {
        let guest = Move { vcpus, peers: vec![Peer::Preempt], ..kvm_guest(1024, 716, 16_000) };
        point("kvm-vcpus", ("vCPUs", f64::from(vcpus)), guest)
    }));
    rows
}

/// The destination's threads on cores, with the background and without it.
fn placement_rows() -> Vec<Scenario> {
    let placements = [Placement::Free].into_iter().chain(Placement::PINNED);
    let rows = placements.flat_map(|placement| {
        [("", Options::DEFAULT), ("-no-background", NO_BACKGROUND)].map(|(rest, options)| {
            let name = format!("kvm-placement-{}{rest}", placement.word());
            let guest = Move { peers: vec![], ..kvm_guest(1024, 716, 16_000) };
            row(name, "kvm-placement", with(guest, Options { placement, ..options }))
        })
    });
    rows.collect()
}

/// All rows, in the order in which they are measured.
#[must_use]
pub fn all() -> Vec<Scenario> {
    [
        quick_rows(),
        main_rows(),
        memory_rows(),
        page_rows(),
        parallel_rows(),
        link_rows(),
        compression_rows(),
        kvm_rows(),
        placement_rows(),
    ]
    .concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn names_are_unique_and_no_group_is_named_as_a_row_of_another() {
        let all = all();
        let names: BTreeSet<&str> = all.iter().map(|row| row.name.as_str()).collect();
        assert_eq!(names.len(), all.len());
        for row in &all {
            let same = all.iter().find(|other| other.name == row.group);
            assert!(same.is_none_or(|other| other.group == row.group), "{}", row.group);
        }
    }

    #[test]
    fn every_row_can_be_what_it_says() {
        for row in all() {
            let Some(it) = row.as_move() else { continue };
            let name = &row.name;
            assert!(it.fill_mib < it.memory_mib && it.fill_mib <= 9 << 10, "{name}");
            assert!(it.guest == Guest::Bare || it.accel == Accel::Tcg, "{name}: no such Linux");
            assert!(it.memory_mib <= 16_384 || it.guest == Guest::Bare, "{name}");
            assert!((1..=16).contains(&it.options.connections), "{name}");
            assert!(!it.options.kernel_faults || it.accel == Accel::Tcg, "{name}");
            assert!(it.options.background || it.mode != Mode::Precopy, "{name}");
            assert!(it.options.background || it.peers.is_empty(), "{name}: QEMU always has one");
            assert!(it.options.placement == Placement::Free || it.peers.is_empty(), "{name}");
            assert!(it.peers.iter().all(|peer| peer.mode() == it.mode), "{name}");
            assert!(row.limit_s >= 60 && row.limit_s <= 900, "{name}");
        }
    }

    #[test]
    fn rows_of_a_curve_share_what_differs_and_grow() {
        let all = all();
        let groups: BTreeSet<&str> =
            all.iter().filter(|row| row.x.is_some()).map(|row| row.group).collect();
        assert!(groups.contains("bandwidth") && groups.contains("round-trip"), "{groups:?}");
        for group in groups {
            let rows: Vec<_> = all.iter().filter(|row| row.group == group).collect();
            let x: Vec<_> = rows.iter().map(|row| row.x.expect("all or none")).collect();
            assert!(
                x.windows(2).all(|pair| pair[0].0 == pair[1].0 && pair[0].1 < pair[1].1),
                "{group}"
            );
        }
    }

    #[test]
    fn what_is_asked_for_is_in_the_table() {
        let all = all();
        let moves: Vec<&Move> = all.iter().filter_map(Scenario::as_move).collect();
        for (memory, filled, rate) in [(4096, 2900, 20_000), (4096, 2900, 0), (1024, 716, 20_000)] {
            let is = |it: &&&Move| (it.memory_mib, it.fill_mib, it.rate) == (memory, filled, rate);
            assert!(moves.iter().find(is).is_some(), "{memory} {filled} {rate}");
        }
        assert!(moves.iter().any(|it| it.memory_mib == 65_536));
        assert!(moves.iter().any(|it| it.link == Link::Shaped { mbit: 1000, congestion: "cubic" }));
        assert!(moves.iter().any(|it| it.link == Link::Delayed { round_trip_ms: 50.0 }));
        assert!(moves.iter().any(|it| it.accel == Accel::Kvm && it.mode == Mode::Precopy));
        for placement in [Placement::Free].into_iter().chain(Placement::PINNED) {
            let is = |it: &&&Move| it.accel == Accel::Kvm && it.options.placement == placement;
            let both: BTreeSet<bool> =
                moves.iter().filter(is).map(|it| it.options.background).collect();
            assert_eq!(both.len(), 2, "{placement:?}");
        }
        assert!(all.iter().any(|row| row.work == Work::Faults { threads: 16, mib: 64 }));
        let quick: Vec<_> = all.iter().filter(|row| row.quick).collect();
        assert!(quick.iter().all(|row| row.as_move().is_none_or(|it| it.memory_mib <= 256)));
        assert!(quick.len() >= 4);
    }
}
