//! KVM, or a line in the list of what was skipped.

use accel_kvm::Host;
use std::io::Write;

pub(crate) fn host(test: &str) -> Option<Host> {
    match Host::open() {
        Ok(host) => Some(host),
        Err(error) => {
            skip(test, &error.to_string());
            None
        }
    }
}

pub(crate) fn skip(test: &str, why: &str) {
    let line = format!("accel-kvm {test}: {why}");
    eprintln!("skipped: {line}");
    if let Some(path) = std::env::var_os("UMEM_SKIP_LOG") {
        let mut log = std::fs::OpenOptions::new().create(true).append(true).open(path).unwrap();
        writeln!(log, "{line}").unwrap();
    }
}
