//! One Linux moves back and forth between the same two processes, all its devices busy, modes mixed,
//! everything verified after each move, and what both processes hold is counted.
//!
//! `cargo xtask soak --moves N` runs it long, and writes what was seen (`UMEM_SOAK_MOVES`,
//! `UMEM_SOAK_JSON`).
#![allow(missing_docs)]

use serde_json::{Value, json};
use std::path::Path;
use umem_tests::moving::{accept, complete};
use umem_tests::network::Network;
use umem_tests::{Lab, Shell, Vm, disk, skipped, until};

/// A short run goes through each mode in both directions twice, so that there is something to compare.
const SHORT: u64 = 2 * PERIOD as u64;
/// Direction and mode are the same again after so many moves.
const PERIOD: usize = 2 * COMMANDS.len();
/// Moves after which nothing more is expected to be held for the first time.
const WARM: usize = 4;
/// What each process holds, and how much more of it than at an earlier move of the same kind is none of the
/// moves' doing: a disk starts up to 8 threads when it first needs them, each with a stack and a heap.
const HELD: [(&str, u64); 3] = [("descriptors", 2), ("threads", 8), ("mappings", 32)];

/// What a process without a guest may have of anonymous memory more than at an earlier move of the same
/// kind, KiB: what the C library's allocator keeps between threads that come and go varies.
const SLACK_KIB: u64 = 2 << 10;

/// Commands, by turns: their words before and behind the address.
const COMMANDS: [(&str, &str, &str); 4] = [
    ("postcopy", "migrate -p", ""),
    ("precopy", "migrate", ""),
    ("hybrid", "migrate -p --precopy 1", ""),
    ("postcopy, prefault", "migrate -p -m", " 8 2"),
];

/// Keeps disk, random numbers and serial port busy; what goes wrong leaves a file.
const BUSY: &str = "cat >/tmp/busy <<'X'\n\
    n=0\n\
    while [ ! -e /tmp/stop ]; do\n\
    dd if=/dev/urandom of=/m/f$n bs=64k count=8 conv=fsync 2>/dev/null || touch /tmp/failed-disk\n\
    (cd /m; sha256sum f$n >s$n; sync; sha256sum -c s$n >/dev/null) || touch /tmp/failed-sum\n\
    [ $n -ge 16 ] && rm /m/f$((n-16)) /m/s$((n-16))\n\
    dd if=/dev/hwrng of=/dev/null bs=64 count=1 2>/dev/null || touch /tmp/failed-rng\n\
    echo tick $n >/dev/ttyS0\n\
    n=$((n+1)); echo $n >/tmp/rounds\n\
    done\n\
    X\n\
    sh /tmp/busy & echo $! >/tmp/pid";

/// The memory workload, its verdicts asked for through a pipe.
const MEMORY: &str = "mkfifo /tmp/ask; (workload threads=2 fill_mib=48 rate=1500 seed=7 \
    beat_us=500000 <>/tmp/ask >/tmp/answers &); true";

/// Both processes have the same devices.
fn options(network: Option<(&Network, &str)>, disk: &Path) -> String {
    let network = network.map_or_else(String::new, |(_, tap)| {
        format!("-netdev tap,id=n,ifname={tap} -device virtio-net-device,netdev=n")
    });
    format!(
        "-m 256M -smp 2 -drive file={} -device virtio-rng-device -device virtio-serial-device \
         -device virtio-balloon-device,free-page-reporting=on,deflate-on-oom=on {network}",
        disk.display()
    )
}

/// What one process holds.
fn holdings(vm: &Vm) -> Value {
    let (descriptors, threads, mappings) = vm.holdings();
    json!({
        "rss-kib": vm.memory_kib("VmRSS"),
        "anonymous-kib": vm.memory_kib("RssAnon"),
        "descriptors": descriptors,
        "threads": threads,
        "mappings": mappings,
    })
}

/// Everything that the guest can tell of itself.
fn verify(shell: &mut Shell<'_>) {
    let count = |shell: &mut Shell<'_>| {
        shell.run("cat /tmp/rounds").lines().last().and_then(|line| line.trim().parse::<u64>().ok())
    };
    let before = count(shell);
    until("rounds of files to go on", || (count(shell) > before.map(|n| n + 1)).then_some(()));
    shell.run("! ls /tmp/failed* 2>/dev/null");
    let verdicts = |shell: &mut Shell<'_>| shell.run("grep -c ^verdict /tmp/answers; true");
    let before = verdicts(shell);
    shell.run("echo v >/tmp/ask");
    until("the memory's verdict", || (verdicts(shell) != before).then_some(()));
    let verdict = shell.run("grep ^verdict /tmp/answers | tail -1");
    assert!(verdict.contains("verdict ok ") && verdict.contains("bad_pages=0"), "{verdict}");
}

/// Number of a field of both processes' holdings after a move.
fn number(record: &Value, end: &str, field: &str) -> u64 {
    record[end][field].as_u64().unwrap_or_default()
}

/// The command of a move, counted from 0. Direction changes with each move; every other round through the
/// commands begins with the second, so that each goes both ways.
fn command(number: usize) -> (&'static str, &'static str, &'static str) {
    COMMANDS[(number + number % PERIOD / COMMANDS.len()) % COMMANDS.len()]
}

/// Compares each move after the first few with the last of the same direction and mode.
///
/// # Errors
/// What grew, and how much; or that there are too few moves to tell.
fn is_flat(records: &[Value]) -> Result<(), String> {
    let early = records.len().min(WARM)..records.len().min(WARM + PERIOD);
    let pairs: Vec<_> = early
        .filter_map(|at| Some((&records[at], records[at..].iter().step_by(PERIOD).skip(1).last()?)))
        .collect();
    if pairs.is_empty() {
        return Err(format!(
            "{} moves: more than {} can be compared",
            records.len(),
            WARM + PERIOD
        ));
    }
    for (early, late) in pairs {
        for end in ["source", "destination"] {
            for (field, slack) in HELD {
                let (before, after) = (number(early, end, field), number(late, end, field));
                if after > before + slack {
                    return Err(format!("{field} of the {end} grew from {before} to {after}"));
                }
            }
        }
        // At the destination the guest's own memory counts, and what it uses of it is its business.
        let anonymous = |record| number(record, "source", "anonymous-kib");
        let (before, after) = (anonymous(early), anonymous(late));
        if after > before + SLACK_KIB {
            return Err(format!("memory without a guest grew from {before} to {after} KiB"));
        }
    }
    Ok(())
}

/// Each mode goes both ways in a period, and what grows is found.
#[test]
fn every_mode_goes_both_ways_and_growth_is_seen() {
    let mut kinds: Vec<_> = (0..PERIOD).map(|n| (n % 2, command(n).0)).collect();
    kinds.sort_unstable();
    kinds.dedup();
    assert_eq!(kinds.len(), PERIOD);
    let held = |threads: u64, kib: u64| json!({ "threads": threads, "anonymous-kib": kib });
    let records = |moves: u64, thread_step: u64, kib_step: u64| -> Vec<Value> {
        let at = |n| json!({ "source": held(n * thread_step, n * kib_step) });
        (0..moves).map(at).collect()
    };
    assert_eq!(is_flat(&records(SHORT, 0, 0)), Ok(()));
    assert!(is_flat(&records(SHORT, 2, 0)).is_err_and(|why| why.contains("threads")));
    assert!(is_flat(&records(50, 0, 100)).is_err_and(|why| why.contains("KiB")));
    assert!(is_flat(&records(WARM as u64 + PERIOD as u64, 0, 0)).is_err());
}

#[test]
fn a_busy_guest_moves_back_and_forth_between_two_processes() {
    let moves = std::env::var("UMEM_SOAK_MOVES").ok().and_then(|text| text.parse().ok());
    let moves: u64 = moves.unwrap_or(SHORT);
    let network = Network::new()
        .inspect_err(|why| skipped(&format!("network of a guest that moves often: {why}")))
        .ok();
    let lab = Lab::new();
    let image = lab.path("disk.raw");
    if !disk::make(&image) {
        return;
    }
    let vm = |name: &str, tap: &str, more: &str| {
        let place = network.as_ref().map(|network| (network, tap));
        let builder = lab.vm(name, &format!("{} {more}", options(place, &image)));
        match &network {
            Some(network) => builder.namespace(network.hosts()),
            None => builder,
        }
    };
    let mut there = vm("b", "tap1", "-incoming defer").start();
    let mut here = vm("a", "tap0", "").linux("console=hvc0 umem.modules=fs").start();
    for vm in [&mut here, &mut there] {
        accept(vm, "migrate_set_capability postcopy-ram on");
    }
    let mut shell = Shell::new(&here.serial, 1);
    here.serial.wait_text(0, "built-in shell");
    here.serial.wait_text(0, "# ");
    shell.run("while [ ! -b /dev/vda ]; do sleep 1; done; mkdir /m; mount -o discard /dev/vda /m");
    shell.run(BUSY);
    shell.run(MEMORY);
    until("memory to be filled", || {
        (shell.run("grep -c ^ready /tmp/answers; true") == "1").then_some(())
    });
    let traffic = network.as_ref().map(|network| {
        shell.run("ip addr add 10.77.0.2/24 dev eth0; ip link set eth0 up; (nc -ll -p 7 -e cat &); sleep 1");
        (network.flow(7), network.pings())
    });
    let mut records = Vec::new();
    for number in 0..moves {
        let (mode, before, behind) = command(number as usize);
        accept(&mut there, "migrate_incoming tcp:127.0.0.1:0");
        let uri = there.address();
        accept(&mut here, &format!("{before} {uri}{behind}"));
        let (gone, _) = complete(&mut here, &mut there);
        let mut shell = Shell::new(&there.serial, 2 + number as u32);
        verify(&mut shell);
        let size = if number % 2 == 0 { 208 } else { 256 };
        accept(&mut there, &format!("balloon {size}"));
        until("the balloon to follow", || (there.balloon("actual=") == Some(size)).then_some(()));
        let record = json!({
            "move": number + 1,
            "mode": mode,
            "total-ms": gone["total-ms"],
            "downtime-ms": gone["downtime"]["total"],
            "pages": gone["pages"],
            "verified": true,
            "source": holdings(&here),
            "destination": holdings(&there),
        });
        println!("{record}");
        records.push(record);
        std::mem::swap(&mut here, &mut there);
    }
    let traffic = traffic.map(|(flow, pings)| (flow.stop(), pings.stop()));
    if let Some((_, pings)) = &traffic {
        assert!(pings.answered * 4 > pings.sent * 3, "{pings:?}");
    }
    let flat = is_flat(&records);
    if let Some(path) = std::env::var_os("UMEM_SOAK_JSON") {
        let traffic = traffic.map(|(flow, pings)| {
            json!({
                "tcp-bytes": flow.bytes,
                "tcp-gap-ms": flow.gap.as_secs_f64() * 1e3,
                "pings": pings.sent,
                "pongs": pings.answered,
                "ping-gap-ms": pings.gap.as_secs_f64() * 1e3,
            })
        });
        let all = json!({ "moves": records, "network": traffic, "flat": flat.is_ok() });
        std::fs::write(path, format!("{all:#}\n")).expect("the record can be written");
    }
    flat.expect("what both processes hold stays as it is");
    let mut shell = Shell::new(&here.serial, 900);
    shell.run("touch /tmp/stop; wait $(cat /tmp/pid); cd /m && cat s* | sha256sum -c >/dev/null");
    shell.run("cd /; umount /m");
    here.serial.send(b"poweroff -f\n");
    assert_eq!(here.wait_end().code(), Some(0), "{}", here.words());
    disk::check(&image);
}
