//! Several harts: what they see of each other, and that a move loses nothing between them.
#![allow(missing_docs)]

use umem_tests::moving::{accept, complete, ready};
use umem_tests::{Lab, Vm, field, linux_workload, until};

/// Boot arguments of the bare-metal guest: a write each millisecond and hart.
fn busy(seed: u32) -> String {
    format!("rate=4000 fill=70 beat_us=2000 seed={seed}")
}

/// Has the guest check its memory, and what its harts do to each other; tokens and fences so far.
fn harts_are_well(vm: &Vm, harts: u64) -> (u64, u64) {
    let line = vm.verdict();
    assert!(line.starts_with("verdict ok "), "{}: {line}", vm.name);
    assert_eq!(field(&line, "workers"), Some(harts), "{line}");
    assert_eq!(field(&line, "stale"), Some(0), "{line}");
    let number = |name| field(&line, name).unwrap_or_else(|| panic!("no {name}: {line}"));
    (number("tokens"), number("fences"))
}

/// The interrupt that was under way at the switch, and each since, has arrived: one that is lost ends
/// them all. Fences go on as well.
fn interrupts_and_fences_go_on(vm: &Vm, harts: u64, before: (u64, u64)) {
    until(format!("tokens and fences at {}", vm.name), || {
        let now = harts_are_well(vm, harts);
        (now.0 > before.0 + 2 * harts && now.1 > before.1 + 2).then_some(())
    });
}

/// There and back again and there, so that a hart's saved state is loaded more than once.
fn harts_move(seed: u32, listen: &str, command: &str) {
    let lab = Lab::new();
    let options = format!("-m 128M -smp 3 {listen} -incoming tcp:127.0.0.1:0");
    let mut here = lab.vm("a", "-m 128M -smp 3").bare(&busy(seed)).start();
    ready(&here);
    let mut seen = harts_are_well(&here, 3);
    for name in ["b", "c", "d"] {
        let mut there = lab.vm(name, &options).start();
        let uri = there.address();
        accept(&mut here, &format!("{command} {uri}"));
        complete(&mut here, &mut there);
        there.serial.wait_beats(20);
        interrupts_and_fences_go_on(&there, 3, seen);
        seen = harts_are_well(&there, 3);
        here = there;
    }
    let cpus = here.text.command("info cpus");
    assert_eq!(cpus.matches("thread_id").count(), 3, "{cpus}");
}

#[test]
fn harts_move_by_postcopy_with_faults_found_by_the_vcpu() {
    harts_move(91, "-postcopy -postcopy-fault vcpu", "migrate -p");
}

#[test]
fn harts_move_by_postcopy_with_faults_found_by_the_kernel() {
    harts_move(92, "-postcopy -postcopy-fault uffd", "migrate -p");
}

#[test]
fn harts_move_by_precopy() {
    harts_move(93, "", "migrate");
}

#[test]
fn harts_move_in_rounds_and_by_postcopy() {
    harts_move(94, "-postcopy", "migrate -p --precopy 2");
}

/// What harts may see of each other's stores, by the guest's own count.
fn litmus(harts: u32, runs: u32) {
    let lab = Lab::new();
    let options = format!("-m 32M -smp {harts}");
    let mut vm = lab.vm("a", &options).bare(&format!("litmus={runs}")).start();
    vm.serial.wait_line(0, "litmus done");
    let text = vm.serial.text_from(0);
    let lines: Vec<&str> = text.lines().filter(|line| line.contains("runs=")).collect();
    assert!(lines.len() >= 9, "{text}");
    for line in lines {
        assert_eq!(field(line.trim_end(), "runs"), Some(runs.into()), "{line}");
        assert_eq!(field(line.trim_end(), "forbidden"), Some(0), "{line}");
    }
    assert_eq!(vm.wait_end().code(), Some(0), "{}", vm.words());
}

#[test]
fn two_harts_see_nothing_that_the_memory_model_forbids() {
    litmus(2, 20_000);
}

#[test]
fn four_harts_see_nothing_that_the_memory_model_forbids() {
    litmus(4, 5_000);
}

/// The harts that wait for a page.
fn waiting(vm: &mut Vm) -> Vec<usize> {
    let cpus = vm.text.command("info cpus");
    let lines = cpus.lines().enumerate();
    lines.filter(|(_, line)| line.contains("waiting for page")).map(|(hart, _)| hart).collect()
}

#[test]
fn a_hart_that_waits_for_a_page_stops_neither_the_others_nor_the_monitor() {
    let lab = Lab::new();
    let mut there = lab.vm("b", "-m 128M -smp 4 -postcopy -incoming tcp:127.0.0.1:0").start();
    // Heartbeats are hart 0's, and touch nothing new; each hart writes now and then.
    let mut here = lab.vm("a", "-m 128M -smp 4").bare("rate=16 beat_us=2000 seed=95").start();
    ready(&here);
    let uri = there.address();
    accept(&mut here, &format!("migrate -p -n {uri}"));
    here.wait_phase(&["postcopy-active"]);
    there.serial.wait_beats(100);
    until("heartbeats while another hart waits", || {
        accept(&mut here, "migrate_pause");
        let harts =
            until("a hart to wait", || Some(waiting(&mut there)).filter(|harts| !harts.is_empty()));
        let from = there.serial.beats().len();
        std::thread::sleep(std::time::Duration::from_millis(100));
        // Hart 0 may come to wait itself: then pages come for a while, and it is tried again.
        let seen = !harts.contains(&0) && there.serial.beats().len() > from + 10;
        accept(&mut here, "migrate_continue");
        seen.then_some(())
    });
    accept(&mut here, "migrate_set_parameter postcopy-background on");
    complete(&mut here, &mut there);
    interrupts_and_fences_go_on(&there, 4, (0, 0));
}

#[test]
fn both_ends_need_the_same_number_of_harts() {
    let lab = Lab::new();
    let mut there = lab.vm("b", "-m 64M -smp 2 -postcopy -incoming tcp:127.0.0.1:0").start();
    let mut here = lab.vm("a", "-m 64M -smp 3").bare(&busy(96)).start();
    ready(&here);
    let uri = there.address();
    accept(&mut here, &format!("migrate -p {uri}"));
    here.wait_phase(&["failed"]);
    umem_tests::moving::error(&mut here, &["vCPUs", "3", "2"]);
    umem_tests::moving::stays(&mut here);
}

#[test]
fn a_guest_of_several_harts_is_reset_and_saved() {
    let lab = Lab::new();
    let mut vm = lab.vm("a", "-m 64M -smp 3").bare(&busy(97)).start();
    ready(&vm);
    let from = vm.serial.lines();
    accept(&mut vm, "system_reset");
    vm.serial.wait_line(from, "ready ");
    interrupts_and_fences_go_on(&vm, 3, (0, 0));
    let seen = harts_are_well(&vm, 3);
    let file = lab.path("guest.umem");
    accept(&mut vm, &format!("migrate file:{}", file.display()));
    vm.wait_phase(&["completed"]);
    let incoming = format!("-m 64M -smp 3 -postcopy -incoming file:{}", file.display());
    let back = lab.vm("b", &incoming).start();
    interrupts_and_fences_go_on(&back, 3, seen);
}

/// Linux on four harts, with a thread that writes on each.
fn linux_moves(seed: u32, listen: &str, command: &str) {
    let lab = Lab::new();
    let options = format!("-m 256M -smp 4 {listen} -incoming tcp:127.0.0.1:0");
    let mut there = lab.vm("b", &options).start();
    let workload = linux_workload(96, 4000, seed);
    let mut here =
        lab.vm("a", "-m 256M -smp 4").linux(&format!("{workload} umem.threads=4")).start();
    here.serial.wait_line(0, "ready ");
    here.serial.wait_beats(20);
    let uri = there.address();
    accept(&mut here, &format!("{command} {uri}"));
    complete(&mut here, &mut there);
    there.serial.wait_beats(20);
    let line = there.verdict();
    assert!(line.starts_with("verdict ok "), "{line}");
    assert_eq!(field(&line, "workers"), Some(4), "{line}");
    there.serial.send(b"q");
    assert_eq!(there.wait_end().code(), Some(0), "{}", there.words());
}

#[test]
fn linux_on_four_harts_moves_by_postcopy() {
    linux_moves(98, "-postcopy", "migrate -p");
}

#[test]
fn linux_on_four_harts_moves_by_postcopy_with_faults_found_by_the_kernel() {
    linux_moves(99, "-postcopy -postcopy-fault uffd", "migrate -p");
}

#[test]
fn linux_on_four_harts_moves_by_precopy() {
    linux_moves(100, "", "migrate");
}

#[test]
fn linux_on_four_harts_moves_in_rounds_and_by_postcopy() {
    linux_moves(101, "-postcopy", "migrate -p --precopy 2");
}
