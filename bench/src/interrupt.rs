//! An end that a signal asks for: every wait looks here, leaves by its usual way, and takes its VMs with it.

use anyhow::{Context as _, ensure};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};

static ASKED: LazyLock<Arc<AtomicBool>> = LazyLock::new(Arc::default);

/// Has the signals that end a program be noted instead.
///
/// # Errors
/// When they cannot be listened to.
pub fn listen() -> anyhow::Result<()> {
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::flag::register(signal, ASKED.clone()).context("cannot listen to signals")?;
    }
    Ok(())
}

/// Fails once a signal has asked this process to end.
///
/// # Errors
/// Then.
pub fn check() -> anyhow::Result<()> {
    ensure!(!ASKED.load(Ordering::Relaxed), "interrupted");
    Ok(())
}
