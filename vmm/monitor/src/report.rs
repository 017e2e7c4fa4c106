//! A migration's state as text (`info migrate`) and as JSON (`query-migrate`).

use serde_json::{Value, json};
use std::fmt::Write as _;
use umem_link::{End, MigrationStatus};

/// Pages that waiting vCPUs are shown to wait for.
const WAITING_SHOWN: usize = 8;

/// Lines for people. Counts are in pages, times in milliseconds unless they say otherwise.
pub(crate) fn text(status: &MigrationStatus) -> String {
    let mut text = String::new();
    let end = match status.end {
        End::Source => "source",
        End::Destination => "destination",
    };
    let _ = writeln!(text, "Migration status: {}", status.phase);
    if let Some(error) = &status.error {
        let _ = writeln!(text, "error: {error}");
    }
    let _ = writeln!(text, "mode: {} ({end})", status.mode);
    if let Some(peer) = &status.peer {
        let _ = writeln!(text, "peer: {peer}");
    }
    let _ = writeln!(text, "total time: {:.1} ms", status.total_ms);
    if let Some(drain) = status.drain_ms {
        let _ = writeln!(text, "drain time: {drain:.1} ms");
    }
    downtime(&mut text, status);
    pages(&mut text, status);
    if status.end == End::Destination {
        faults(&mut text, status);
    }
    let _ = writeln!(text, "wire: {} bytes", status.wire_bytes);
    let _ = writeln!(text, "rate: {:.1} MiB/s", status.rate / f64::from(1 << 20));
    if status.end == End::Source {
        let _ = writeln!(text, "background: {}", if status.background { "on" } else { "off" });
    }
    let verified = if status.verified { "yes, both ends agree" } else { "no" };
    let _ = writeln!(text, "verified: {verified}");
    if let Some(digest) = &status.digest {
        let _ = writeln!(text, "digest: {digest}");
    }
    text
}

fn downtime(text: &mut String, status: &MigrationStatus) {
    let parts: Vec<String> =
        status.downtime.parts.iter().map(|(name, ms)| format!("{name} {ms:.2}")).collect();
    let parts = parts.join(", ");
    let _ = match status.downtime.total {
        Some(total) if parts.is_empty() => writeln!(text, "downtime: {total:.2} ms"),
        Some(total) => writeln!(text, "downtime: {total:.2} ms ({parts})"),
        None if parts.is_empty() => Ok(()),
        None => writeln!(text, "downtime so far, ms: {parts}"),
    };
}

fn pages(text: &mut String, status: &MigrationStatus) {
    let pages = &status.pages;
    let _ = writeln!(text, "pages: {} total, {} remaining", pages.total, pages.remaining);
    let _ = writeln!(
        text,
        "  demand {}, prefault {}, background {}; of these {} of one repeated byte",
        pages.demand, pages.prefault, pages.background, pages.fill
    );
    if pages.duplicate > 0 {
        let _ = writeln!(text, "  arrived twice: {}", pages.duplicate);
    }
}

fn faults(text: &mut String, status: &MigrationStatus) {
    let faults = &status.faults;
    let _ = write!(text, "faults: {}", faults.count);
    if faults.count > 0 {
        let _ = write!(
            text,
            "; us: mean {:.1}, p50 {:.1}, p90 {:.1}, p99 {:.1}, p99.9 {:.1}, max {:.1}",
            faults.mean, faults.p50, faults.p90, faults.p99, faults.p999, faults.max
        );
    }
    text.push('\n');
    if !status.waiting_for.is_empty() {
        let shown: Vec<String> =
            status.waiting_for.iter().take(WAITING_SHOWN).map(u64::to_string).collect();
        let more = if status.waiting_for.len() > WAITING_SHOWN { " …" } else { "" };
        let _ = writeln!(text, "waiting for pages: {}{more}", shown.join(" "));
    }
}

/// QEMU's keys where their meaning is the same, and everything under `x-umem`.
pub(crate) fn json(status: &MigrationStatus) -> Value {
    let pages = &status.pages;
    let sent = pages.demand.saturating_add(pages.prefault).saturating_add(pages.background);
    let mut answer = json!({
        "status": status.phase,
        "total-time": whole(status.total_ms),
        "ram": {
            "transferred": status.wire_bytes,
            "remaining": pages.remaining.saturating_mul(4096),
            "total": pages.total.saturating_mul(4096),
            "duplicate": pages.fill,
            "normal": sent.saturating_sub(pages.fill),
            "page-size": 4096,
            "mbps": status.rate * 8.0 / 1e6,
            "postcopy-requests": pages.demand,
        },
        "x-umem": status,
    });
    if let Some(total) = status.downtime.total {
        answer["downtime"] = whole(total);
    }
    if let Some(error) = &status.error {
        answer["error-desc"] = error.as_str().into();
    }
    answer
}

/// QEMU tells whole milliseconds.
fn whole(milliseconds: f64) -> Value {
    // A float's conversion saturates, so no value is out of range.
    (milliseconds.round() as u64).into()
}

#[cfg(test)]
pub(crate) mod tests;
