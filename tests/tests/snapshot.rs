//! Guests saved to a file while they run, and loaded from it, whole or page by page.
#![allow(missing_docs)]

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use umem_tests::moving::{accept, error, guest, ready, refuse, stays};
use umem_tests::{Lab, Vm, until};

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
