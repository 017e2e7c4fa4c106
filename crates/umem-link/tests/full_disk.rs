//! Saving to a disk that takes no more. Alone in its process, whose limit it changes.
#![allow(clippy::unwrap_used)]

#[path = "snapshot/vms/mod.rs"]
#[allow(dead_code, reason = "of what the other snapshot tests use, this one needs a part")]
mod vms;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::sync::Arc;
use vms::{PAGE, PAGES, SourceMachine, count, save, wait_for};

#[test]
fn a_full_disk_leaves_the_guest_running_and_no_file() {
    // The limit's signal would end the process; noted, the write fails as on a full disk.
    signal_hook::flag::register(signal_hook::consts::SIGXFSZ, Arc::default()).unwrap();
    // Within the pages, so that it fails in a round; behind them, so that it fails after the stop.
    for (bytes, stops) in [(PAGES / 2 * PAGE, 0), ((PAGES + 1) * PAGE + 10, 1)] {
        let limit = Rlimit { current: Some(bytes), ..getrlimit(Resource::Fsize) };
        setrlimit(Resource::Fsize, limit).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let vm = SourceMachine::new(|_| ());
        let session = save(&folder.path().join("guest"), &vm);
        wait_for("the end of the save", || session.ended());
        let status = session.status();
        assert_eq!(status.phase, "failed");
        let why = status.error.unwrap();
        assert!(why.contains("cannot write") && why.contains("offset"), "{why}");
        assert_eq!(count(&vm.stops), stops);
        vm.assert_runs();
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
