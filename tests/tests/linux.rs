//! Debian's Linux moves with its shell, files, disks and devices.
#![allow(missing_docs)]

use std::path::Path;
use std::process::{Command, Stdio};
use umem_tests::moving::{accept, complete};
use umem_tests::{Builder, Lab, Shell, Vm, linux, linux_workload, program, until};

const LISTEN: &str = "-m 256M -postcopy -incoming tcp:127.0.0.1:0";
const DISK_MIB: u64 = 24;

fn disk(lab: &Lab) -> String {
    let path = lab.path("disk.raw");
    let file = std::fs::File::create(&path).expect("a disk");
    file.set_len(DISK_MIB << 20).expect("room");
    let everybody = std::os::unix::fs::PermissionsExt::from_mode(0o666);
    std::fs::set_permissions(&path, everybody).expect("the disk is ours");
    path.display().to_string()
}

/// First word of `sha256sum`.
fn hash(text: &str) -> String {
    let hash = text.split_whitespace().find(|word| word.len() == 64);
    hash.unwrap_or_else(|| panic!("no hash in: {text}")).to_owned()
}

fn hash_on_host(path: &Path) -> String {
    let output = Command::new("sha256sum").arg(path).output().expect("sha256sum is there");
    hash(&String::from_utf8_lossy(&output.stdout))
}

/// A shell with random files in page cache and on disk; writes to the disk go on during the move.
fn files_stay(listen: &str, migrate: &str, choose: fn(Builder) -> Builder) {
    let lab = Lab::new();
    let devices = format!("-drive file={} -device virtio-rng-device", disk(&lab));
    let options = format!("-m 256M {devices} {listen} -incoming tcp:127.0.0.1:0");
    let mut destination = choose(lab.vm("b", &options)).start();
    let mut source = choose(lab.vm("a", &format!("-m 256M {devices}")).linux("")).start();
    let mut shell = Shell::new(&source.serial, 1);
    shell.wait_boot();
    shell.run(&format!("dd if=/dev/urandom of=/tmp/file bs=1M count={DISK_MIB} 2>/dev/null"));
    let before = hash(&shell.run("sha256sum /tmp/file"));
    let write = "dd if=/tmp/file of=/dev/vda bs=256k conv=fsync 2>/dev/null";
    shell
        .run(&format!("(while {write}; do echo round >>/tmp/rounds; done) & echo $! >/tmp/writer"));
    let uptime = |text: &str| text.split('.').next().and_then(|s| s.parse::<u64>().ok());
    let started = uptime(&shell.run("cat /proc/uptime"));
    until("the first round", || (shell.run("cat /tmp/rounds | wc -l; true") != "0").then_some(()));

    let uri = destination.address();
    accept(&mut source, &format!("{migrate} {uri}"));
    complete(&mut source, &mut destination);
    let mut shell = Shell::new(&destination.serial, 2);
    assert_eq!(hash(&shell.run("sha256sum /tmp/file")), before);
    let rounds =
        |shell: &mut Shell<'_>| shell.run("wc -l </tmp/rounds").parse::<u64>().expect("lines");
    let first = rounds(&mut shell);
    until("the writer to go on", || (rounds(&mut shell) > first + 1).then_some(()));
    // Its last round ends before it does.
    shell.run("kill $(cat /tmp/writer); wait $(cat /tmp/writer) 2>/dev/null; sleep 1; true");
    shell.run(write);
    shell.run("echo 3 >/proc/sys/vm/drop_caches");
    assert_eq!(hash(&shell.run("sha256sum /dev/vda")), before);
    assert_eq!(hash_on_host(&lab.path("disk.raw")), before);
    assert!(uptime(&shell.run("cat /proc/uptime")) >= started);
    // Random numbers come from the device, at its new host.
    assert!(shell.run("cat /sys/class/misc/hw_random/rng_current").contains("virtio_rng"));
    let random = |shell: &mut Shell<'_>| {
        hash(&shell.run("dd if=/dev/hwrng bs=64 count=16 2>/dev/null | sha256sum"))
    };
    assert_ne!(random(&mut shell), random(&mut shell));
    the_lock_went_along(&lab, &mut source, &mut destination);
    destination.text.last_command("quit");
    destination.wait_end();
}

/// The destination has the disk: nobody else starts on it while that runs.
fn the_lock_went_along(lab: &Lab, source: &mut Vm, destination: &mut Vm) {
    let here = destination.text.command("info block");
    assert!(here.contains("locked here") && !here.contains("not locked here"), "{here}");
    let there = source.text.command("info block");
    assert!(there.contains("not locked here"), "{there}");
    let output = Command::new(program())
        .args(["vm", "-m", "64M", "-monitor", "none", "-kernel"])
        .arg(linux("Image"))
        .args(["-drive", &format!("file={}", lab.path("disk.raw").display())])
        .stdin(Stdio::null())
        .output()
        .expect("umem starts");
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("disk.raw") && text.lines().count() == 1, "{text}");
}

#[test]
fn files_and_disks_stay_as_they_are_with_faults_found_by_the_vcpu() {
    files_stay("-postcopy -postcopy-fault vcpu", "migrate -p", |vm| vm);
}

#[test]
fn files_and_disks_stay_as_they_are_for_an_ordinary_user_with_faults_found_by_the_kernel() {
    files_stay("-postcopy -postcopy-fault uffd", "migrate -p", Builder::ordinary_user);
}

#[test]
fn files_and_disks_stay_as_they_are_for_an_ordinary_user_in_a_precopy() {
    files_stay("", "migrate", Builder::ordinary_user);
}

fn workload_moves(seed: u32, fault: &str) {
    let lab = Lab::new();
    let mut destination = lab.vm("b", &format!("{LISTEN} -postcopy-fault {fault}")).start();
    let mut source = lab.vm("a", "-m 256M").linux(&linux_workload(96, 3000, seed)).start();
    source.serial.wait_line(0, "ready ");
    source.serial.wait_beats(20);
    let uri = destination.address();
    accept(&mut source, &format!("migrate -p {uri}"));
    complete(&mut source, &mut destination);
    destination.serial.wait_beats(20);
    destination.verify();
    // And on, to a fresh process.
    source.kill();
    let mut third = lab.vm("c", LISTEN).start();
    let uri = third.address();
    accept(&mut destination, &format!("migrate -p {uri} 8 0"));
    complete(&mut destination, &mut third);
    third.verify();
    third.serial.send(b"q");
    assert_eq!(third.wait_end().code(), Some(0), "{}", third.words());
}

/// The workload moves in rounds, at least in part, while it writes.
fn workload_moves_in_rounds(seed: u32, listen: &str, command: &str) {
    let lab = Lab::new();
    let mut destination = lab.vm("b", &format!("-m 256M {listen} tcp:127.0.0.1:0")).start();
    let mut source = lab.vm("a", "-m 256M").linux(&linux_workload(96, 3000, seed)).start();
    source.serial.wait_line(0, "ready ");
    source.serial.wait_beats(20);
    accept(&mut source, "migrate_set_parameter max-bandwidth 100M");
    let uri = destination.address();
    accept(&mut source, &format!("{command} {uri}"));
    let (gone, come) = complete(&mut source, &mut destination);
    // It wrote while the first round went on.
    assert!(gone["rounds"]["copies"].as_u64() > come["pages"]["precopy"].as_u64(), "{gone:#}");
    destination.serial.wait_beats(20);
    destination.verify();
    destination.serial.send(b"q");
    assert_eq!(destination.wait_end().code(), Some(0), "{}", destination.words());
}

#[test]
fn the_workload_finds_its_memory_after_a_precopy() {
    workload_moves_in_rounds(83, "-incoming", "migrate");
}

#[test]
fn the_workload_finds_its_memory_after_rounds_and_a_postcopy() {
    workload_moves_in_rounds(84, "-postcopy -incoming", "migrate -p --precopy 2");
}

#[test]
fn the_workload_finds_its_memory_with_faults_found_by_the_vcpu() {
    workload_moves(81, "vcpu");
}

#[test]
fn the_workload_finds_its_memory_with_faults_found_by_the_kernel() {
    workload_moves(82, "uffd");
}
