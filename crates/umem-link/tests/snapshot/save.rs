//! Saving.

use crate::vms::{PAGES, SourceMachine, count, save, wait_for};
use std::fs;
use std::path::Path;
use std::sync::atomic::Ordering;
use umem_link::SnapshotSave;

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

fn failed(session: &SnapshotSave) -> (String, String) {
    wait_for("the end of the save", || session.ended());
    let status = session.status();
    (status.phase, status.error.unwrap())
}

#[test]
fn a_guest_that_writes_is_saved_in_rounds_and_stays_stopped() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("guest");
    let vm = SourceMachine::new(|_| ());
    let session = save(&path, &vm);
    wait_for("the end of the save", || session.ended());
    let status = session.status();
    assert_eq!((&*status.phase, status.error.as_deref()), ("completed", None));
    assert_eq!((&*status.mode, status.pages.total), ("snapshot", PAGES));
    assert_eq!((status.pages.remaining, status.pages.precopy), (0, PAGES));
    let rounds = status.rounds.unwrap();
    assert!((1..=3).contains(&rounds.passes), "{rounds:?}");
    assert!(status.downtime.total.is_some());
    assert_eq!((count(&vm.stops), count(&vm.saved), count(&vm.take_backs)), (1, 1, 0));
    assert_eq!(*vm.phases.lock().unwrap(), ["active", "device", "completed"]);
    assert_eq!(names(folder.path()), ["guest"]);
    // Too late to have an effect.
    session.cancel();
    assert_eq!(session.status().phase, "completed");
    assert_eq!(names(folder.path()), ["guest"]);
}

#[test]
fn cancelled_in_a_round_the_guest_runs_on_and_the_old_file_stays() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("guest");
    fs::write(&path, b"old").unwrap();
    let vm = SourceMachine::new(|vm| vm.hold_round = 2);
    let session = save(&path, &vm);
    wait_for("round 2", || count(&vm.round) == 2);
    assert!(names(folder.path()).contains(&".guest.partial".to_owned()));
    session.cancel();
    vm.go_on.store(true, Ordering::SeqCst);
    assert_eq!(failed(&session).0, "cancelled");
    assert_eq!(count(&vm.stops), 0);
    vm.assert_runs();
    assert_eq!(names(folder.path()), ["guest"]);
    assert_eq!(fs::read(&path).unwrap(), b"old");
}

#[test]
fn a_guest_that_cannot_be_stopped_runs_on_and_leaves_no_file() {
    let folder = tempfile::tempdir().unwrap();
    let vm = SourceMachine::new(|vm| vm.unstoppable.store(true, Ordering::SeqCst));
    let session = save(&folder.path().join("guest"), &vm);
    let (phase, why) = failed(&session);
    assert_eq!((&*phase, &*why), ("failed", "a disk does not answer"));
    vm.assert_runs();
    assert!(names(folder.path()).is_empty());
}

#[test]
fn a_failure_after_the_stop_takes_the_guest_back_and_leaves_no_file() {
    let folder = tempfile::tempdir().unwrap();
    let vm = SourceMachine::new(|vm| vm.package = vec![1; (64 << 20) + 1]);
    let session = save(&folder.path().join("guest"), &vm);
    let (phase, why) = failed(&session);
    assert_eq!(phase, "failed");
    assert!(why.contains("67108865") && why.contains("67108864"), "{why}");
    assert_eq!(count(&vm.take_backs), 1);
    vm.assert_runs();
    assert!(names(folder.path()).is_empty());
}

#[test]
fn a_path_that_cannot_be_written_leaves_the_guest_alone() {
    let folder = tempfile::tempdir().unwrap();
    let vm = SourceMachine::new(|_| ());
    let session = save(&folder.path().join("none").join("guest"), &vm);
    let (phase, why) = failed(&session);
    assert_eq!(phase, "failed");
    assert!(why.contains("none/guest") && why.contains("folder"), "{why}");
    assert_eq!(count(&vm.stops), 0);
    vm.assert_runs();
}

#[test]
fn a_guest_may_be_saved_again_and_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("guest");
    let vm = SourceMachine::new(|vm| vm.unstoppable.store(true, Ordering::SeqCst));
    failed(&save(&path, &vm));
    vm.unstoppable.store(false, Ordering::SeqCst);
    let session = save(&path, &vm);
    wait_for("the end of the save", || session.ended());
    assert_eq!(session.status().error, None);
    assert_eq!(count(&vm.saved), 1);
}
