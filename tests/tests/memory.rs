//! What RAM is made of: each backend at each end, in each mode.
#![allow(missing_docs)]

use umem_memory::{HugePages, PageSize};
use umem_tests::matrix::SENT_AHEAD;
use umem_tests::moving::{accept, complete, guest, ready};
use umem_tests::{Lab, Vm, field, linux_workload, program, skipped, until};

/// Modes: the destination's options and the source's command.
const MODES: [(&str, &str); 5] = [
    ("-postcopy -postcopy-fault vcpu", "migrate -p"),
    ("-postcopy -postcopy-fault uffd", "migrate -p 4 4"),
    ("-postcopy -postcopy-flags 0", "migrate -p -m"),
    ("-postcopy", "migrate -p --precopy 2"),
    ("", "migrate"),
];

/// Huge pages for as long as a test takes; a word about it where this host gives none.
fn aside(page: PageSize, count: u64) -> Option<HugePages> {
    if page == PageSize::HUGE_1G {
        // In one piece it is only there when memory is not in pieces.
        let _ = std::fs::write("/proc/sys/vm/compact_memory", "1");
    }
    HugePages::set_aside(page, count)
        .inspect_err(|error| skipped(&format!("huge pages of {} MiB: {error}", page.bytes() >> 20)))
        .ok()
}

fn huge(size: &str) -> String {
    format!(
        "-object memory-backend-memfd,id=m,hugetlb=on,hugetlbsize={size} -machine memory-backend=m"
    )
}

/// Moves the guest in each mode, from one backend to the other and on to the first again.
fn moves(megabytes: u32, seed: u32, one: &str, other: &str) {
    for (at, (listen, command)) in MODES.into_iter().enumerate() {
        if listen.contains("flags") && !(one.contains("memfd") && other.contains("memfd")) {
            continue;
        }
        let lab = Lab::new();
        lab.note(format!("{one} to {other}: {listen}, {command}"));
        let incoming = format!("-m {megabytes}M {listen} -incoming tcp:127.0.0.1:0");
        let boot = guest(seed + at as u32);
        let mut here = lab.vm("a", &format!("-m {megabytes}M {one}")).bare(&boot).start();
        ready(&here);
        for (name, backend) in [("b", other), ("c", one)] {
            let mut there = lab.vm(name, &format!("{incoming} {backend}")).start();
            let uri = there.address();
            let command = match command.split_once(" 4 4") {
                Some((command, _)) => format!("{command} {uri} 4 4"),
                None => format!("{command} {uri}"),
            };
            accept(&mut here, &command);
            complete(&mut here, &mut there);
            there.verify();
            // Memory of the one before is needed for the next.
            here.kill();
            here = there;
        }
    }
}

#[test]
fn shared_memory_moves_to_anonymous_and_back() {
    moves(128, 200, "-object memory-backend-memfd,id=m -machine memory-backend=m", "");
}

#[test]
fn shared_memory_moves_to_a_file_on_tmpfs() {
    let memfd = "-object memory-backend-memfd,id=m,share=on -machine memory-backend=m";
    moves(128, 210, memfd, "-mem-path /dev/shm");
}

#[test]
fn a_file_on_a_disk_moves_away_and_comes_back_by_precopy() {
    let lab = Lab::new();
    let file = format!(
        "-object memory-backend-file,id=m,share=on,prealloc=on,size=96M,mem-path={} \
         -machine memory-backend=m",
        lab.path("ram").display()
    );
    let mut here = lab.vm("a", &file).bare(&guest(220)).start();
    ready(&here);
    let mut there = lab.vm("b", "-m 96M -postcopy -incoming tcp:127.0.0.1:0").start();
    let uri = there.address();
    accept(&mut here, &format!("migrate -p {uri}"));
    complete(&mut here, &mut there);
    there.verify();
    here.kill();
    let mut back = lab.vm("c", &format!("{file} -incoming tcp:127.0.0.1:0")).start();
    let uri = back.address();
    accept(&mut there, &format!("migrate {uri}"));
    complete(&mut there, &mut back);
    back.verify();
    let memory = back.text.command("info memory");
    assert!(memory.contains("a file on a disk, host pages of 4 KiB"), "{memory}");
}

#[test]
fn huge_pages_move_to_huge_pages() {
    let Some(_aside) = aside(PageSize::HUGE_2M, 2 * 64) else { return };
    moves(128, 230, &huge("2M"), &huge("2M"));
}

#[test]
fn huge_pages_move_to_small_ones_and_back() {
    let Some(_aside) = aside(PageSize::HUGE_2M, 64) else { return };
    moves(128, 240, &huge("2M"), "");
}

#[test]
fn small_pages_move_to_a_page_of_1_gib_and_back() {
    let Some(_aside) = aside(PageSize::HUGE_1G, 1) else { return };
    moves(1024, 250, "", &huge("1G"));
}

/// The destination of a postcopy gets all of a huge page or none of it, by what each side counts.
#[test]
fn a_huge_page_is_asked_for_as_a_whole() {
    let Some(_aside) = aside(PageSize::HUGE_2M, 64) else { return };
    let lab = Lab::new();
    let options = format!("-m 128M -postcopy -incoming tcp:127.0.0.1:0 {}", huge("2M"));
    let mut there = lab.vm("b", &options).start();
    let mut here = lab.vm("a", "-m 128M").bare(&guest(260)).start();
    ready(&here);
    let uri = there.address();
    accept(&mut here, &format!("migrate -p -n {uri} 0 0"));
    there.wait_phase(&["postcopy-active"]);
    there.serial.wait_beats(50);
    // Of a huge page that is asked for, some pages may have come with the state.
    let status = until("whole huge pages", || {
        let status = there.migration();
        let demand = status["pages"]["demand"].as_u64()?;
        (demand >= 512 - SENT_AHEAD).then_some(status)
    });
    let prefault = status["pages"]["prefault"].as_u64();
    assert!(prefault.is_some_and(|pages| pages <= SENT_AHEAD), "{status:#}");
    let memory = there.text.command("info memory");
    assert!(memory.contains("hugetlb, host pages of 2048 KiB"), "{memory}");
    accept(&mut here, "migrate_set_parameter postcopy-background on");
    complete(&mut here, &mut there);
    there.verify();
}

#[test]
fn linux_moves_on_huge_pages_in_each_mode() {
    let Some(_aside) = aside(PageSize::HUGE_2M, 2 * 128) else { return };
    let lab = Lab::new();
    let huge = huge("2M");
    let workload = linux_workload(96, 3000, 270);
    let mut here = lab.vm("a", &format!("-m 256M {huge}")).linux(&workload).start();
    here.serial.wait_line(0, "ready ");
    here.serial.wait_beats(20);
    for (name, (listen, command)) in ["b", "c", "d", "e"].into_iter().zip([
        ("-postcopy", "migrate -p"),
        ("-postcopy -postcopy-fault uffd", "migrate -p"),
        ("-postcopy", "migrate -p --precopy 2"),
        ("", "migrate"),
    ]) {
        let options = format!("-m 256M {huge} {listen} -incoming tcp:127.0.0.1:0");
        let mut there = lab.vm(name, &options).start();
        let uri = there.address();
        accept(&mut here, &format!("{command} {uri}"));
        complete(&mut here, &mut there);
        there.verify();
        here.kill();
        here = there;
    }
}

/// Guests are loaded from files page by page, on huge pages as well.
#[test]
fn a_snapshot_is_loaded_onto_huge_pages_as_they_are_needed() {
    let Some(_aside) = aside(PageSize::HUGE_2M, 64) else { return };
    let lab = Lab::new();
    let mut here = lab.vm("a", "-m 128M").bare(&guest(280)).start();
    ready(&here);
    let file = lab.path("guest.umem");
    accept(&mut here, &format!("migrate file:{}", file.display()));
    here.wait_phase(&["completed"]);
    for listen in ["-postcopy", ""] {
        let incoming = format!("-m 128M {listen} -incoming file:{} {}", file.display(), huge("2M"));
        let mut back = lab.vm("b", &incoming).start();
        back.wait_phase(&["completed"]);
        back.verify();
        back.kill();
    }
}

/// Small pages that were joined, and places.
fn joined(vm: &mut Vm) -> Option<(u64, u64)> {
    let text = vm.text.command("info memory");
    let line = text.lines().find_map(|line| line.split_once("joined to huge ones: "))?.1;
    let mut numbers = line.split(' ').filter_map(|word| word.parse().ok());
    Some((numbers.next()?, numbers.next()?))
}

#[test]
fn transparent_huge_pages_come_back_after_a_postcopy_unless_they_are_not_wanted() {
    for wanted in [true, false] {
        let lab = Lab::new();
        let mut there = lab.vm("b", "-m 128M -postcopy -incoming tcp:127.0.0.1:0").start();
        let mut here = lab.vm("a", "-m 128M").bare(&guest(290)).start();
        ready(&here);
        let word = if wanted { "on" } else { "off" };
        accept(&mut there, &format!("migrate_set_parameter postcopy-collapse {word}"));
        let uri = there.address();
        accept(&mut here, &format!("migrate -p {uri}"));
        complete(&mut here, &mut there);
        if wanted {
            // 70 % of 64 places are filled, the guest's image and tables come on top.
            let (some, places) = until("places to be joined", || {
                joined(&mut there).filter(|(_, places)| *places >= 44)
            });
            assert!(some <= places, "{some} of {places}");
        } else {
            assert_eq!(joined(&mut there), None);
        }
        there.verify();
        let line = there.verdict();
        assert_eq!(field(&line, "bad_pages"), Some(0), "{line}");
    }
}

#[track_caller]
fn refused(options: &str, words: &[&str]) {
    let output = std::process::Command::new(program())
        .arg("vm")
        .args(options.split_whitespace())
        .args(["-monitor", "none", "-kernel"])
        .arg(umem_tests::test_guest())
        .stdin(std::process::Stdio::null())
        .output()
        .expect("umem starts");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{options}: {text}");
    assert_eq!(text.lines().count(), 1, "{options}: {text}");
    for word in words {
        assert!(text.contains(word), "{options}: no '{word}' in: {text}");
    }
}

#[test]
fn memory_that_cannot_be_had_is_refused_with_what_to_do() {
    refused(&format!("-m 5M {}", huge("2M")), &["5242880 bytes", "use 6291456"]);
    refused(&format!("-m 100G {}", huge("2M")), &["needs 51200 huge pages", "nr_hugepages"]);
    let lab = Lab::new();
    let file = lab.path("ram");
    std::fs::write(&file, "").expect("room");
    let disk = format!("-object memory-backend-file,id=m,share=on,mem-path={}", file.display());
    let options = format!("-m 64M {disk} -machine memory-backend=m -postcopy -incoming defer");
    // Where the temporary folder is on tmpfs there is nothing to refuse.
    if !on_tmpfs(&file) {
        refused(&options, &["is on a disk", "memory-backend-memfd"]);
    }
    refused("-m 64M -mem-path /nowhere/at/all", &["/nowhere/at/all", "No such file"]);
}

fn on_tmpfs(path: &std::path::Path) -> bool {
    let output = std::process::Command::new("stat").args(["-f", "-c", "%T"]).arg(path).output();
    output.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).trim() == "tmpfs")
}
