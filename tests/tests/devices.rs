//! Linux moves in each mode while its devices are busy: a file system, the network, the balloon.
#![allow(missing_docs)]

use umem_tests::moving::{accept, complete};
use umem_tests::network::Network;
use umem_tests::{Lab, Shell, disk, skipped, until};

/// The destination's options and the source's command.
const MODES: [(&str, &str); 4] = [
    ("-postcopy -postcopy-fault vcpu", "migrate -p"),
    ("-postcopy -postcopy-fault uffd", "migrate -p"),
    ("", "migrate"),
    ("-postcopy", "migrate -p --precopy 1"),
];

#[test]
fn a_file_system_in_use_is_whole_after_each_kind_of_move() {
    let lab = Lab::new();
    let image = lab.path("disk.raw");
    if !disk::make(&image) {
        return;
    }
    let options = format!("-m 256M -smp 2 -drive file={}", image.display());
    let mut here = lab.vm("a", &options).linux("umem.modules=fs").start();
    let mut shell = Shell::new(&here.serial, 1);
    shell.wait_boot();
    shell.run("while [ ! -b /dev/vda ]; do sleep 1; done; mkdir /m; mount -t ext4 -o discard /dev/vda /m && echo 0 >/m/count");
    // Writes files with their sums, and takes old ones away, for ever.
    shell.run(
        "cat >/tmp/busy <<'X'\n\
         n=0\n\
         while [ ! -e /tmp/stop ]; do\n\
         dd if=/dev/urandom of=/m/f$n bs=64k count=12 conv=fsync 2>/dev/null || touch /tmp/failed\n\
         (cd /m; sha256sum f$n >s$n; sync; sha256sum -c s$n >/dev/null) || touch /tmp/failed\n\
         [ $n -ge 24 ] && rm /m/f$((n-24)) /m/s$((n-24))\n\
         n=$((n+1)); echo $n >/m/count\n\
         done\n\
         X\n\
         sh /tmp/busy & echo $! >/tmp/pid",
    );
    for (number, (name, (listen, command))) in
        (2..).zip(["b", "c", "d", "e"].into_iter().zip(MODES))
    {
        let count = |shell: &mut Shell<'_>| {
            shell
                .run("cat /m/count")
                .lines()
                .last()
                .and_then(|line| line.trim().parse::<u64>().ok())
        };
        let mut shell = Shell::new(&here.serial, 10 * number);
        let before = count(&mut shell);
        until("files to be written", || (count(&mut shell) > before.map(|n| n + 1)).then_some(()));
        let mut there =
            lab.vm(name, &format!("{options} {listen} -incoming tcp:127.0.0.1:0")).start();
        let uri = there.address();
        accept(&mut here, &format!("{command} {uri}"));
        complete(&mut here, &mut there);
        here.kill();
        here = there;
        let mut shell = Shell::new(&here.serial, 10 * number + 5);
        let before = count(&mut shell);
        until("files to be written", || (count(&mut shell) > before.map(|n| n + 1)).then_some(()));
        shell.run("[ ! -e /tmp/failed ]");
    }
    let mut shell = Shell::new(&here.serial, 90);
    shell.run("touch /tmp/stop; wait $(cat /tmp/pid); [ ! -e /tmp/failed ]");
    // From the disk, not from memory.
    shell.run("sync; echo 3 >/proc/sys/vm/drop_caches; cd /m && cat s* | sha256sum -c >/dev/null");
    shell.run("cd /; fstrim /m >/dev/null; umount /m");
    here.serial.send(b"poweroff -f\n");
    assert_eq!(here.wait_end().code(), Some(0), "{}", here.words());
    disk::check(&image);
}

#[test]
fn connections_hold_and_the_network_finds_the_guest_after_each_kind_of_move() {
    let network = match Network::new() {
        Ok(network) => network,
        Err(why) => return skipped(&format!("network of a guest that moves: {why}")),
    };
    let lab = Lab::new();
    let options = |tap: &str| {
        format!("-m 192M -netdev tap,id=n,ifname={tap} -device virtio-net-device,netdev=n")
    };
    let start = |name: &str, tap: &str| lab.vm(name, &options(tap)).namespace(network.hosts());
    let mut here = start("a", "tap0").linux("").start();
    let mut shell = Shell::new(&here.serial, 1);
    shell.wait_boot();
    shell.run("ip addr add 10.77.0.2/24 dev eth0; ip link set eth0 up");
    shell.run("(nc -ll -p 7 -e cat &) ; sleep 1; true");
    let (flow, pings) = (network.flow(7), network.pings());
    let taps = ["tap1", "tap0"].into_iter().cycle();
    for ((name, tap), (listen, command)) in ["b", "c", "d", "e"].into_iter().zip(taps).zip(MODES) {
        std::thread::sleep(std::time::Duration::from_millis(500));
        let incoming = format!("{} {listen} -incoming tcp:127.0.0.1:0", options(tap));
        let mut there = lab.vm(name, &incoming).namespace(network.hosts()).start();
        let uri = there.address();
        accept(&mut here, &format!("{command} {uri}"));
        complete(&mut here, &mut there);
        let told = there.text.command("info network");
        assert!(told.contains(tap) && told.contains("link up"), "{told}");
        // Its tap is needed for the next but one.
        here.kill();
        here = there;
    }
    std::thread::sleep(std::time::Duration::from_secs(1));
    let (flow, pings) = (flow.stop(), pings.stop());
    println!("network over 4 moves: {flow:?}, {pings:?}");
    lab.note(format!("{flow:?}, {pings:?}"));
    assert!(flow.bytes > 100_000, "{flow:?}");
    assert!(pings.answered * 4 > pings.sent * 3, "{pings:?}");
}

#[test]
fn memory_that_the_guest_gives_back_is_freed_and_not_sent() {
    let lab = Lab::new();
    let device = "-device virtio-balloon-device,free-page-reporting=on,deflate-on-oom=on";
    let options = format!("-m 256M {device}");
    let mut here = lab.vm("a", &options).linux("").start();
    let mut shell = Shell::new(&here.serial, 1);
    shell.wait_boot();
    shell.run("dd if=/dev/urandom of=/tmp/fill bs=1M count=80 2>/dev/null");
    let full = here.memory_kib("VmRSS");
    shell.run("rm /tmp/fill");
    let freed = until("free pages to be reported", || {
        let now = here.memory_kib("VmRSS");
        (now + (40 << 10) < full).then(|| full - now)
    });
    assert!(here.balloon("; ") >= Some(40), "{freed} KiB");
    accept(&mut here, "balloon 160");
    until("the balloon to grow", || (here.balloon("actual=") == Some(160)).then_some(()));
    for (number, (name, (listen, command))) in (2..).zip(["b", "c", "d"].into_iter().zip(MODES)) {
        let incoming = format!("{options} {listen} -incoming tcp:127.0.0.1:0");
        let mut there = lab.vm(name, &incoming).start();
        let uri = there.address();
        accept(&mut here, &format!("{command} {uri}"));
        let (gone, _) = complete(&mut here, &mut there);
        // The balloon's 96 MiB at least are pages of zeroes, which go without their content.
        assert!(gone["pages"]["fill"].as_u64() > Some(96 << 8), "{gone:#}");
        assert!(gone["wire-bytes"].as_u64() < Some(160 << 20), "{gone:#}");
        here.kill();
        here = there;
        assert_eq!(here.balloon("actual="), Some(160));
        let mut shell = Shell::new(&here.serial, number);
        shell.run("dd if=/dev/urandom of=/tmp/x bs=1M count=8 2>/dev/null; rm /tmp/x");
    }
    accept(&mut here, "balloon 256");
    until("the balloon to shrink", || (here.balloon("actual=") == Some(256)).then_some(()));
    let mut shell = Shell::new(&here.serial, 9);
    shell.run("dd if=/dev/urandom of=/tmp/fill bs=1M count=80 2>/dev/null && rm /tmp/fill");
    // An answer comes behind all events before it.
    here.status();
    let told: Vec<_> =
        here.qmp.events.iter().filter(|event| event["event"] == "BALLOON_CHANGE").collect();
    assert!(!told.is_empty(), "the size was told of");
}

/// Debian's kernel clears pages when it allocates them, those of its balloon too: they would be asked for.
const UNTOUCHED: &str = "init_on_alloc=0";

/// While pages are missing, the source is told which of them the guest has given back there.
#[test]
fn the_source_hears_of_memory_given_back_at_the_destination() {
    let lab = Lab::new();
    let device = "-device virtio-balloon-device";
    let mut there =
        lab.vm("b", &format!("-m 192M {device} -postcopy -incoming tcp:127.0.0.1:0")).start();
    let mut here = lab.vm("a", &format!("-m 192M {device}")).linux(UNTOUCHED).start();
    let mut shell = Shell::new(&here.serial, 1);
    shell.wait_boot();
    shell.run("dd if=/dev/urandom of=/tmp/fill bs=1M count=64 2>/dev/null; rm /tmp/fill; true");
    let uri = there.address();
    accept(&mut here, &format!("migrate -p -n {uri}"));
    there.wait_phase(&["postcopy-active"]);
    // With 96 of 192 MiB, Linux has been seen to run out of memory in what it is told to do afterwards.
    accept(&mut there, "balloon 128");
    until("the balloon to grow", || (there.balloon("actual=") == Some(128)).then_some(()));
    accept(&mut here, "migrate_set_parameter postcopy-background on");
    let (gone, _) = complete(&mut here, &mut there);
    assert!(gone["pages"]["removed"].as_u64() > Some(16 << 8), "{gone:#}");
    let mut shell = Shell::new(&there.serial, 2);
    shell
        .run("dd if=/dev/urandom of=/tmp/x bs=1M count=8 2>/dev/null; sha256sum /tmp/x; rm /tmp/x");
}
