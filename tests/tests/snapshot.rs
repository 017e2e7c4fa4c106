//! Guests saved to a file while they run, and loaded from it, whole or page by page.
#![allow(missing_docs)]

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::Duration;
use umem_tests::moving::{accept, error, guest, ready, refuse, stays};
use umem_tests::{Lab, Vm, may_mount, until};

const PAGE: u64 = 4096;

/// Saves a guest; where.
fn save(lab: &Lab, source: &mut Vm) -> String {
    let uri = format!("file:{}", lab.path("snapshot").display());
    accept(source, &format!("migrate {uri}"));
    let status = source.wait_phase(&["completed"]);
    assert_eq!(status["mode"], "snapshot");
    assert_eq!(status["pages"]["remaining"], 0, "{status:#}");
    assert_eq!(source.status(), "postmigrate");
    uri
}

fn saved(lab: &Lab) -> (Vm, String) {
    let mut source = lab.vm("a", "-m 128M").bare(&guest(31)).start();
    ready(&source);
    let uri = save(lab, &mut source);
    (source, uri)
}

fn load(lab: &Lab, name: &str, options: &str, uri: &str) -> Vm {
    lab.vm(name, &format!("-m 128M {options}")).option(["-incoming", uri]).start()
}

/// The guest runs here, and nothing of its memory is other than it left it.
fn goes_on(vm: &mut Vm) {
    until("the guest to run", || (vm.status() == "running").then_some(()));
    vm.serial.wait_beats(20);
    let status = vm.wait_phase(&["completed"]);
    assert_eq!((&status["verified"], &status["pages"]["remaining"]), (&true.into(), &0.into()));
    vm.verify();
}

fn flip(path: &Path, at: u64) {
    let file = File::options().read(true).write(true).open(path).expect("the snapshot");
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).expect("a byte");
    file.write_all_at(&[byte[0] ^ 1], at).expect("a byte");
}

/// The place of a page with content, in the middle of those that the guest checks.
fn some_page(path: &Path) -> u64 {
    let file = File::open(path).expect("the snapshot");
    let mut page = vec![0; PAGE as usize];
    let has_content = |at: &u64| {
        file.read_exact_at(&mut page, at * PAGE).expect("a page");
        page.iter().any(|byte| *byte != page[0])
    };
    (16_000..).find(has_content).expect("a page with content") * PAGE
}

#[test]
fn a_guest_is_saved_while_it_runs_and_goes_on_wherever_it_is_loaded() {
    let lab = Lab::new();
    let (mut source, uri) = saved(&lab);
    goes_on(&mut load(&lab, "whole", "", &uri));
    goes_on(&mut load(&lab, "postcopy", "-postcopy", &uri));
    goes_on(&mut load(&lab, "kernel", "-postcopy -postcopy-fault uffd", &uri));
    // It is still the source's as well, and may be saved again over the first.
    assert!(source.text.command("info status").contains("saved to a file; cont lets it go on"));
    accept(&mut source, "cont");
    stays(&mut source);
    source.verify();
    save(&lab, &mut source);
    goes_on(&mut load(&lab, "again", "-postcopy", &uri));
}

#[test]
fn an_altered_page_pauses_the_guest_until_it_is_repaired() {
    let lab = Lab::new();
    let (source, uri) = saved(&lab);
    drop(source);
    let path = lab.path("snapshot");
    let at = some_page(&path);
    flip(&path, at);
    let place = format!("offset {at:#x}");

    let mut whole = load(&lab, "whole", "", &uri);
    whole.wait_phase(&["failed"]);
    error(&mut whole, &[&place, "altered"]);
    assert_eq!(whole.status(), "inmigrate");

    let mut postcopy = load(&lab, "postcopy", "-postcopy", &uri);
    postcopy.wait_phase(&["postcopy-paused"]);
    until("the guest to be paused", || (postcopy.status() == "paused").then_some(()));
    error(&mut postcopy, &[&place, "altered"]);
    let said = postcopy.text.command("info status");
    assert!(said.contains(&place) && said.contains("cont reads it again"), "{said}");
    until("all other pages", || (postcopy.migration()["pages"]["remaining"] == 1).then_some(()));
    flip(&path, at);
    accept(&mut postcopy, "cont");
    goes_on(&mut postcopy);
}

#[test]
fn an_altered_file_is_refused_and_another_is_taken() {
    let lab = Lab::new();
    let (source, uri) = saved(&lab);
    drop(source);
    let path = lab.path("snapshot");
    let last = std::fs::metadata(&path).expect("the snapshot").len() - 1;
    for options in ["", "-postcopy"] {
        flip(&path, last);
        let mut vm = load(&lab, "b", options, &uri);
        vm.wait_phase(&["failed"]);
        error(&mut vm, &["device state", "altered"]);
        assert_eq!(vm.status(), "inmigrate");
        flip(&path, last);
        accept(&mut vm, &format!("migrate_incoming {uri}"));
        goes_on(&mut vm);
    }
}

#[test]
fn what_a_file_cannot_do_is_refused_and_the_guest_runs_on() {
    let lab = Lab::new();
    let mut source = lab.vm("a", "-m 128M").bare(&guest(32)).start();
    ready(&source);
    let path = lab.path("snapshot");
    refuse(&mut source, &format!("migrate -p file:{}", path.display()), &["no postcopy"]);
    accept(&mut source, &format!("migrate file:{}/none/x", lab.folder().display()));
    source.wait_phase(&["failed"]);
    error(&mut source, &["none/x", "folder"]);
    stays(&mut source);
    assert!(!path.exists());
}

/// What a snapshot says about itself: bytes of the index, and of the device state.
fn lengths(path: &Path) -> (u64, u64) {
    let file = File::open(path).expect("the snapshot");
    let number = |at| {
        let mut bytes = [0; 8];
        file.read_exact_at(&mut bytes, at).expect("a number");
        u64::from_le_bytes(bytes)
    };
    (number(56), number(80))
}

#[test]
fn a_file_that_is_not_whole_is_refused_by_its_part() {
    let lab = Lab::new();
    let (source, uri) = saved(&lab);
    drop(source);
    let path = lab.path("snapshot");
    let length = std::fs::metadata(&path).expect("the snapshot").len();
    let (index, state) = lengths(&path);
    let mut vm = load(&lab, "b", "-postcopy", "file:/nonexistent/x");
    vm.wait_phase(&["failed"]);
    error(&mut vm, &["/nonexistent/x"]);
    for (at, part) in [(3000, "header"), (length - state - index, "index"), (length - 1, "state")] {
        flip(&path, at);
        accept(&mut vm, &format!("migrate_incoming {uri}"));
        until(part, || {
            vm.migration()["error"].as_str().is_some_and(|text| text.contains(part)).then_some(())
        });
        flip(&path, at);
        assert_eq!(vm.status(), "inmigrate");
    }
    let copy = lab.path("short");
    std::fs::copy(&path, &copy).expect("room for a copy");
    for (name, length) in [("one byte", length - 1), ("half", length / 2), ("nothing", 0)] {
        File::options().write(true).open(&copy).and_then(|file| file.set_len(length)).expect(name);
        accept(&mut vm, &format!("migrate_incoming file:{}", copy.display()));
        let short = copy.display().to_string();
        until(name, || {
            let status = vm.migration();
            let refused = status["error"].as_str().is_some_and(|text| text.contains(&short));
            (status["phase"] == "failed" && refused).then_some(())
        });
        assert_eq!(vm.status(), "inmigrate");
    }
    accept(&mut vm, &format!("migrate_incoming {uri}"));
    until("the guest to run", || (vm.status() == "running").then_some(()));
    goes_on(&mut vm);
}

#[test]
fn a_save_that_is_cancelled_at_any_moment_leaves_one_whole_file() {
    let lab = Lab::new();
    let (mut source, uri) = saved(&lab);
    for wait in [0, 1, 5, 20, 50, 100, 200] {
        if source.status() != "running" {
            accept(&mut source, "cont");
        }
        accept(&mut source, &format!("migrate {uri}"));
        std::thread::sleep(Duration::from_millis(wait));
        // It may have ended before.
        source.text.command("migrate_cancel");
        until("an end", || ["cancelled", "completed"].contains(&&*source.phase()).then_some(()));
        match source.phase().as_str() {
            "cancelled" => stays(&mut source),
            _ => assert_eq!(source.status(), "postmigrate"),
        }
        assert!(!lab.path(".snapshot.partial").exists());
        source.qmp.command("cont", serde_json::json!({})).expect("the guest is here");
    }
    source.verify();
    goes_on(&mut load(&lab, "b", "-postcopy", &uri));
}

#[test]
fn a_crash_at_any_moment_of_a_save_leaves_the_old_snapshot_or_the_new_one() {
    let lab = Lab::new();
    let (source, uri) = saved(&lab);
    drop(source);
    for (name, wait) in (0..).zip([0, 2, 10, 40, 80, 160]) {
        let mut source = load(&lab, &format!("a{name}"), "", &uri);
        goes_on(&mut source);
        accept(&mut source, &format!("migrate {uri}"));
        std::thread::sleep(Duration::from_millis(wait));
        source.kill();
        goes_on(&mut load(&lab, &format!("b{name}"), "-postcopy", &uri));
    }
}

#[test]
fn a_full_disk_leaves_the_guest_running_and_the_folder_empty() {
    if !may_mount() {
        println!("skipped: this user may not mount a small disk");
        return;
    }
    let lab = Lab::new();
    let folder = lab.path("disk");
    std::fs::create_dir(&folder).expect("a folder");
    let mut source = lab.vm("a", "-m 128M").small_disk(&folder).bare(&guest(33)).start();
    ready(&source);
    for _ in 0..2 {
        accept(&mut source, &format!("migrate file:{}/guest", folder.display()));
        source.wait_phase(&["failed"]);
        error(&mut source, &["disk/guest", "No space left"]);
        stays(&mut source);
    }
    source.verify();
    let uri = save(&lab, &mut source);
    goes_on(&mut load(&lab, "b", "", &uri));
}

#[test]
fn linux_is_saved_and_loaded_with_its_memory() {
    let lab = Lab::new();
    let mut source = lab
        .vm("a", "-m 256M")
        .linux("umem.mode=workload umem.fill_mib=96 umem.rate=3000 umem.seed=34")
        .start();
    ready(&source);
    let uri = save(&lab, &mut source);
    drop(source);
    for options in ["-m 256M", "-m 256M -postcopy"] {
        goes_on(&mut lab.vm("b", options).option(["-incoming", &uri]).start());
    }
}

#[test]
fn a_path_may_be_relative_and_a_disk_is_not_in_the_file() {
    let lab = Lab::new();
    let disk = lab.path("disk.raw");
    File::create(&disk).and_then(|file| file.set_len(1 << 20)).expect("a disk");
    let options = format!("-m 128M -drive file={}", disk.display());
    let mut source = lab.vm("a", &options).bare(&guest(35)).start();
    ready(&source);
    // The process's own folder is the test's.
    let name = format!("umem-snapshot-{}", std::process::id());
    accept(&mut source, &format!("migrate file:{name}"));
    source.wait_phase(&["completed"]);
    // Whoever loads the guest gets the disk; here it does not go on until that is free again.
    let mut loaded = lab.vm("b", &options).option(["-incoming", &format!("file:{name}")]).start();
    until("the guest to run", || (loaded.status() == "running").then_some(()));
    std::fs::remove_file(&name).expect("the snapshot");
    refuse(&mut source, "cont", &["disk.raw"]);
    loaded.verify();
    loaded.text.last_command("quit");
    loaded.wait_end();
    accept(&mut source, "cont");
    source.verify();
}
