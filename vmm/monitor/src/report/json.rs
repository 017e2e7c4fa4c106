//! A migration in QEMU's words, for `query-migrate` and events.

use serde_json::{Value, json};
use umem_link::{MigrationStatus, RoundsStatus};

/// QEMU's word for a phase. Its own words are ours; a client written for QEMU knows no others.
pub(crate) fn qemu_status(phase: &str) -> &str {
    match phase {
        "listening" => "setup",
        "prepared" => "device",
        // The link is lost, and somebody has to look.
        "handover-unknown" => "postcopy-paused",
        other => other,
    }
}

/// QEMU's keys where their meaning is the same, and everything under `x-umem`.
pub(crate) fn json(status: &MigrationStatus, page_bytes: u64) -> Value {
    let mut answer = json!({
        "status": qemu_status(&status.phase),
        "total-time": whole(status.total_ms),
        "ram": ram(status, page_bytes),
        "x-umem": status,
    });
    if let Some(setup) = status.setup_ms {
        answer["setup-time"] = whole(setup);
    }
    if let Some(total) = status.downtime.total {
        answer["downtime"] = whole(total);
    }
    if let Some(rounds) = &status.rounds {
        if status.phase == "active"
            && let Some(expected) = rounds.expected_downtime_ms
        {
            answer["expected-downtime"] = whole(expected);
        }
        if rounds.throttle > 0 {
            answer["cpu-throttle-percentage"] = rounds.throttle.into();
        }
    }
    // That somebody gave it up is no error in QEMU.
    if let Some(error) = status.error.as_ref().filter(|_| status.phase != "cancelled") {
        answer["error-desc"] = error.as_str().into();
    }
    answer
}

fn ram(status: &MigrationStatus, page_bytes: u64) -> Value {
    let pages = &status.pages;
    let after = pages.demand.saturating_add(pages.prefault).saturating_add(pages.background);
    let rounds = status.rounds.unwrap_or_default();
    let normal = after.saturating_add(pages.precopy).saturating_sub(pages.fill);
    json!({
        "transferred": status.wire_bytes,
        "remaining": pages.remaining.saturating_mul(page_bytes),
        "total": pages.total.saturating_mul(page_bytes),
        "duplicate": pages.fill,
        "normal": normal,
        "normal-bytes": normal.saturating_mul(page_bytes),
        "dirty-pages-rate": whole(rounds.dirty_pages_rate),
        "dirty-sync-count": rounds.passes,
        "mbps": megabits(status),
        "page-size": page_bytes,
        "postcopy-requests": pages.demand,
        "precopy-bytes": precopy_bytes(status, &rounds, page_bytes),
    })
}

/// Megabits a second: over the last moments, or over the whole of a migration that has ended.
fn megabits(status: &MigrationStatus) -> f64 {
    let ended = matches!(status.phase.as_str(), "completed" | "failed" | "cancelled");
    if ended && status.total_ms > 0.0 {
        return status.wire_bytes as f64 * 8.0 / 1e3 / status.total_ms;
    }
    status.rate * 8.0 / 1e6
}

/// All bytes where there is no postcopy; else at most the content of the copies sent in rounds.
fn precopy_bytes(status: &MigrationStatus, rounds: &RoundsStatus, page_bytes: u64) -> u64 {
    if matches!(status.mode.as_str(), "precopy" | "snapshot") {
        return status.wire_bytes;
    }
    rounds.copies.saturating_mul(page_bytes).min(status.wire_bytes)
}

/// QEMU tells whole numbers, of 63 bits.
fn whole(number: f64) -> Value {
    // A float's conversion saturates, so no value is out of range.
    (number.round() as u64).min(i64::MAX as u64).into()
}
