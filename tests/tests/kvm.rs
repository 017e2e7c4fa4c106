//! The x86-64 test guest under KVM: it moves in each mode with its processors' state, to disk and back, is
//! reset, and is refused where it cannot be.
#![allow(missing_docs)]

use std::process::{Command, Stdio};
use umem_tests::moving::{accept, complete, error, ready, refuse, stays};
use umem_tests::{
    Lab, Vm, field, kvm_or_skip, may_mount, program, test_guest, test_guest_x86, until,
};

/// Boot arguments: a write each millisecond and processor.
fn busy(seed: u32) -> String {
    format!("rate=4000 fill=70 beat_us=2000 seed={seed}")
}

/// Has the guest check its memory and its processors; interrupts between processors so far.
fn well(vm: &Vm, processors: u64) -> u64 {
    let line = vm.verdict();
    assert!(line.starts_with("verdict ok "), "{}: {line}", vm.name);
    assert_eq!(field(&line, "workers"), Some(processors), "{line}");
    for must_be_none in ["rings_lost", "steps_back", "state_bad"] {
        assert_eq!(field(&line, must_be_none), Some(0), "{line}");
    }
    assert!(field(&line, "state_checks") > Some(0), "{line}");
    field(&line, "tokens").expect("interrupts between processors")
}

/// The interrupt that was under way at the switch, and each since, has arrived.
fn goes_on(vm: &Vm, processors: u64, before: u64) {
    vm.serial.wait_beats(20);
    until(format!("interrupts between processors at {}", vm.name), || {
        let rounds = well(vm, processors).saturating_sub(before);
        (processors == 1 || rounds > 2 * processors).then_some(())
    });
}

/// There, back and there again, so that saved state is loaded more than once.
fn moves(test: &str, machine: &str, listen: &str, command: &str) {
    if !kvm_or_skip(test) {
        return;
    }
    let lab = Lab::new();
    let machine = format!("-accel kvm {machine}");
    let processors = if machine.contains("-smp 3") { 3 } else { 1 };
    let mut here = lab.vm("a", &machine).bare_x86(&busy(11)).start();
    ready(&here);
    let mut seen = well(&here, processors);
    for name in ["b", "c", "d"] {
        let options = format!("{machine} {listen} -incoming tcp:127.0.0.1:0");
        let mut there = lab.vm(name, &options).start();
        let uri = there.address();
        here.serial.send(b"m");
        let command = match command.split_once(" {}") {
            Some((before, behind)) => format!("{before} {uri}{behind}"),
            None => format!("{command} {uri}"),
        };
        accept(&mut here, "migrate_set_parameter multifd-channels 2");
        accept(&mut here, &command);
        complete(&mut here, &mut there);
        goes_on(&there, processors, seen);
        seen = well(&there, processors);
        here = there;
    }
    let cpus = here.text.command("info cpus");
    assert_eq!(cpus.matches("thread_id").count() as u64, processors, "{cpus}");
    assert!(here.text.command("info registers").contains("rip"));
    here.serial.send(b"q");
    assert!(here.wait_end().success());
}

#[test]
fn a_guest_under_kvm_moves_by_postcopy() {
    moves("KVM: postcopy", "-m 128M", "-postcopy", "migrate -p");
}

#[test]
fn processors_under_kvm_move_by_postcopy() {
    moves("KVM: postcopy of three vCPUs", "-m 128M -smp 3", "-postcopy", "migrate -p");
}

#[test]
fn processors_under_kvm_move_by_precopy() {
    moves("KVM: precopy", "-m 128M -smp 3", "", "migrate");
}

#[test]
fn processors_under_kvm_move_in_rounds_and_by_postcopy() {
    moves("KVM: hybrid", "-m 128M -smp 3", "-postcopy", "migrate -p --precopy 2");
}

#[test]
fn pages_for_kvm_come_with_their_neighbours_and_over_several_connections() {
    moves("KVM: prefault", "-m 128M -smp 3", "-postcopy", "migrate -p {} 16 4");
}

#[test]
fn a_guest_under_kvm_moves_through_a_page_cache() {
    for flags in [0, 1] {
        let listen = format!("-postcopy -postcopy-flags {flags}");
        moves("KVM: placed through a page cache", "-m 96M", &listen, "migrate -p");
    }
}

/// RAM on both sides of the hole below 4 GiB is one for the engine.
#[test]
fn a_guest_with_ram_above_4_gib_moves() {
    let test = "KVM: RAM above 4 GiB";
    if !kvm_or_skip(test) {
        return;
    }
    let lab = Lab::new();
    let machine = "-accel kvm -m 3200M";
    let guest = "rate=2000 fill=4 beat_us=2000 seed=5";
    let mut here = lab.vm("a", machine).bare_x86(guest).start();
    let mut there = lab.vm("b", &format!("{machine} -postcopy -incoming tcp:127.0.0.1:0")).start();
    ready(&here);
    let uri = there.address();
    accept(&mut here, &format!("migrate -p {uri}"));
    complete(&mut here, &mut there);
    goes_on(&there, 1, 0);
}

#[test]
fn a_guest_under_kvm_is_stopped_kept_in_a_file_reset_and_switched_off() {
    if !kvm_or_skip("KVM: stop, snapshot, reset") {
        return;
    }
    let lab = Lab::new();
    let machine = "-accel kvm -m 96M -smp 2";
    let mut here = lab.vm("a", machine).bare_x86(&busy(21)).start();
    ready(&here);
    let seen = well(&here, 2);
    accept(&mut here, "stop");
    assert_eq!(here.status(), "paused");
    std::thread::sleep(std::time::Duration::from_millis(300));
    accept(&mut here, "cont");
    goes_on(&here, 2, seen);
    let file = lab.path("guest.umem");
    let seen = well(&here, 2);
    accept(&mut here, &format!("migrate file:{}", file.display()));
    here.wait_phase(&["completed"]);
    for postcopy in ["", "-postcopy "] {
        let name = if postcopy.is_empty() { "b" } else { "c" };
        let options = format!("{machine} {postcopy}-incoming file:{}", file.display());
        let there = lab.vm(name, &options).start();
        goes_on(&there, 2, seen);
    }
    accept(&mut here, "cont");
    let lines = here.serial.lines();
    accept(&mut here, "system_reset");
    here.serial.wait_line(lines, "ready ");
    here.serial.wait_beats(20);
    well(&here, 2);
    here.serial.send(b"q");
    assert!(here.wait_end().success());
}

#[test]
fn a_destination_without_what_the_guest_uses_is_refused_by_name() {
    if !kvm_or_skip("KVM: features compared") {
        return;
    }
    let lab = Lab::new();
    let options =
        "-accel kvm -m 64M -cpu host,-clflushopt,-gfni -postcopy -incoming tcp:127.0.0.1:0";
    let mut here = lab.vm("a", "-accel kvm -m 64M").bare_x86(&busy(31)).start();
    let mut there = lab.vm("b", options).start();
    ready(&here);
    let uri = there.address();
    accept(&mut here, &format!("migrate -p {uri}"));
    here.wait_phase(&["failed"]);
    error(&mut here, &["clflushopt", "gfni"]);
    stays(&mut here);
    well(&here, 1);
    // A guest that never saw them may go where they are.
    let mut less =
        lab.vm("c", "-accel kvm -m 64M -cpu host,-clflushopt,-gfni").bare_x86(&busy(32)).start();
    let options = "-accel kvm -m 64M -postcopy -incoming tcp:127.0.0.1:0";
    let mut more = lab.vm("d", options).bare_x86(&busy(33)).start();
    ready(&less);
    let uri = more.address();
    accept(&mut less, &format!("migrate -p {uri}"));
    complete(&mut less, &mut more);
    goes_on(&more, 1, 0);
    // Its processor stays what it brought, also when it begins anew.
    let lines = more.serial.lines();
    accept(&mut more, "system_reset");
    more.serial.wait_line(lines, "ready ");
    well(&more, 1);
}

/// A userfaultfd for user mode alone would lose the guest at its first missing page.
#[test]
fn a_destination_that_is_not_told_of_the_kernels_faults_refuses_postcopies() {
    if !kvm_or_skip("KVM: userfaultfd for user mode only") {
        return;
    }
    let lab = Lab::new();
    if !may_mount() || std::fs::read_to_string(ALLOWED).is_ok_and(|text| text.trim() == "1") {
        return umem_tests::skipped(
            "KVM: userfaultfd for user mode only: this host gives the whole",
        );
    }
    let mut here = lab.vm("a", "-accel kvm -m 64M").bare_x86(&busy(35)).start();
    let options = "-accel kvm -m 64M -postcopy -incoming tcp:127.0.0.1:0";
    let mut there = lab.vm("b", options).without_kernel_faults().start();
    ready(&here);
    let uri = there.address();
    accept(&mut here, &format!("migrate -p {uri}"));
    here.wait_phase(&["failed"]);
    error(&mut here, &["user mode only", "/dev/userfaultfd"]);
    stays(&mut here);
    well(&here, 1);
}

/// Whether the kernel lets every user have a whole userfaultfd.
const ALLOWED: &str = "/proc/sys/vm/unprivileged_userfaultfd";

/// What a VM says that cannot start: one line, and its status.
fn fails(arguments: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(program())
        .arg("vm")
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .expect("umem starts");
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(words.lines().count(), 1, "{arguments:?}: {words}");
    (output.status.code(), words)
}

#[test]
fn kernels_of_the_other_kind_are_refused_in_one_line() {
    let (riscv, x86) = (test_guest(), test_guest_x86());
    let (riscv, x86) = (riscv.display().to_string(), x86.display().to_string());
    let (status, words) = fails(&["-accel", "tcg", "-m", "64M", "-kernel", &x86]);
    assert_eq!(status, Some(1));
    assert!(words.contains("riscv64") && words.contains("tcg"), "{words}");
    if kvm_or_skip("KVM: a kernel for riscv64") {
        let (status, words) = fails(&["-accel", "kvm", "-m", "64M", "-kernel", &riscv]);
        assert_eq!(status, Some(1));
        assert!(words.contains("x86-64") && words.contains("tcg"), "{words}");
        let (_, words) = fails(&["-accel", "kvm", "-cpu", "host,-frob", "-kernel", &x86]);
        assert!(words.contains("frob"), "{words}");
    }
}

#[test]
fn without_kvm_one_line_says_what_to_do() {
    let kernel = test_guest_x86().display().to_string();
    let arguments = ["vm", "-accel", "kvm", "-m", "64M", "-kernel", &kernel];
    let hidden = "mount -t tmpfs none /dev && exec \"$0\" \"$@\"";
    let output = Command::new("unshare")
        .args(["-m", "sh", "-c", hidden])
        .arg(program())
        .args(arguments)
        .stdin(Stdio::null())
        .output();
    let Some(output) = output.ok().filter(|output| {
        let words = String::from_utf8_lossy(&output.stderr);
        !words.contains("unshare") && !words.contains("mount:")
    }) else {
        return umem_tests::skipped("KVM hidden: this user may not mount");
    };
    let words = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{words}");
    assert_eq!(words.lines().count(), 1, "{words}");
    assert!(words.contains("/dev/kvm") && words.contains("accel=tcg"), "{words}");
}

/// Software guests do not fit, and are refused before anything is sent.
#[test]
fn a_guest_does_not_move_from_one_accelerator_to_the_other() {
    if !kvm_or_skip("KVM: a guest of the software CPU") {
        return;
    }
    let lab = Lab::new();
    let mut here = lab.vm("a", "-m 64M").bare(&busy(41)).start();
    let mut there = lab.vm("b", "-accel kvm -m 64M -postcopy -incoming tcp:127.0.0.1:0").start();
    ready(&here);
    let uri = there.address();
    accept(&mut here, &format!("migrate -p {uri}"));
    here.wait_phase(&["failed"]);
    error(&mut here, &["riscv64", "x86_64"]);
    stays(&mut here);
    refuse(&mut there, "cont", &[]);
}
