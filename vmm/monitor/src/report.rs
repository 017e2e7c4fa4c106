//! A migration's state as text (`info migrate`) and as JSON (`query-migrate`).

mod json;

pub(crate) use json::{json, qemu_status};

use std::fmt::Write as _;
use umem_link::{End, MigrationStatus, PackedStatus, RoundsStatus};

/// Pages that waiting vCPUs are shown to wait for.
const WAITING_SHOWN: usize = 8;

/// Lines for people. Counts are in pages, times in milliseconds unless they say otherwise.
pub(crate) fn text(status: &MigrationStatus, page_bytes: u64) -> String {
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
    if let Some(told) = &status.rounds {
        rounds(&mut text, status.end, told, page_bytes);
    }
    pages(&mut text, status);
    if status.end == End::Destination {
        faults(&mut text, status);
    }
    let place = if is_snapshot(status) { "file" } else { "wire" };
    let _ = writeln!(text, "{place}: {} bytes", status.wire_bytes);
    let _ = writeln!(text, "rate: {:.1} MiB/s", mebi(status.rate));
    if let Some(told) = &status.packed {
        packed(&mut text, told);
    }
    if status.end == End::Source && matches!(status.mode.as_str(), "postcopy" | "hybrid") {
        let _ = writeln!(text, "background: {}", if status.background { "on" } else { "off" });
    }
    let verified = match (is_snapshot(status), status.end, status.verified) {
        (true, End::Source, _) => "when the file is loaded",
        (true, End::Destination, true) => "yes, the file is whole",
        (false, _, true) => "yes, both ends agree",
        (_, _, false) => "no",
    };
    let _ = writeln!(text, "verified: {verified}");
    if let Some(digest) = &status.digest {
        let _ = writeln!(text, "digest: {digest}");
    }
    text
}

/// What went packed, and how well that goes.
fn packed(text: &mut String, packed: &PackedStatus) {
    let PackedStatus { codec, content_bytes, packed_bytes, ratio, differences } = *packed;
    let now = codec.unwrap_or("none");
    let _ = writeln!(
        text,
        "packed: {content_bytes} bytes of pages to {packed_bytes} ({ratio:.2} to 1), {differences} \
         pages as what has changed; codec now: {now}"
    );
}

/// Whether the other end is a file.
fn is_snapshot(status: &MigrationStatus) -> bool {
    status.mode == "snapshot"
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

/// What a source knows of its rounds, or a destination of those that come in.
fn rounds(text: &mut String, end: End, rounds: &RoundsStatus, page_bytes: u64) {
    let RoundsStatus { passes, copies, discarded, dirty_pages_rate, send_rate, .. } = *rounds;
    let way = if end == End::Source { "sent" } else { "received" };
    let _ = writeln!(
        text,
        "rounds: {passes} begun, {copies} copies of pages {way}, {discarded} pages discarded"
    );
    if end == End::Destination {
        return;
    }
    if passes < 2 && rounds.expected_downtime_ms.is_none() {
        text.push_str("  how much the guest writes is known when the first one has ended\n");
        return;
    }
    let _ = writeln!(
        text,
        "  guest writes {dirty_pages_rate:.0} pages/s ({:.1} MiB/s), source sends {:.1} MiB/s",
        mebi(dirty_pages_rate * page_bytes as f64),
        mebi(send_rate)
    );
    let expected = match rounds.expected_downtime_ms {
        Some(milliseconds) => format!("{milliseconds:.1} ms"),
        None => "not known".to_owned(),
    };
    let _ = writeln!(
        text,
        "  expected downtime {expected}; {} % of the vCPUs' time taken",
        rounds.throttle
    );
}

fn mebi(bytes: f64) -> f64 {
    bytes / f64::from(1 << 20)
}

fn pages(text: &mut String, status: &MigrationStatus) {
    let pages = &status.pages;
    let _ = writeln!(text, "pages: {} total, {} remaining", pages.total, pages.remaining);
    let precopy = match status.rounds {
        None if pages.precopy == 0 => String::new(),
        _ => format!("precopy {}, ", pages.precopy),
    };
    let _ = writeln!(
        text,
        "  {precopy}demand {}, prefault {}, background {}; of these {} of one repeated byte",
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
    let by_time: Vec<String> = faults
        .histogram
        .iter()
        .filter(|(_, count)| *count > 0)
        .map(|(below, count)| format!("below {below}: {count}"))
        .collect();
    if !by_time.is_empty() {
        let _ = writeln!(text, "  us: {}", by_time.join(", "));
    }
    if !status.waiting_for.is_empty() {
        let shown: Vec<String> =
            status.waiting_for.iter().take(WAITING_SHOWN).map(u64::to_string).collect();
        let more = if status.waiting_for.len() > WAITING_SHOWN { " …" } else { "" };
        let _ = writeln!(text, "waiting for pages: {}{more}", shown.join(" "));
    }
}

/// One line about how a migration ended, or stopped where somebody has to look; `None` for one that
/// goes on.
pub(crate) fn outcome(status: &MigrationStatus) -> Option<String> {
    let (phase, total) = (&status.phase, status.total_ms);
    let mut line = match phase.as_str() {
        "completed" => format!("migration completed in {total:.1} ms"),
        "failed" | "cancelled" => format!("migration {phase} after {total:.1} ms"),
        "postcopy-paused" | "handover-unknown" => format!("migration stands at {phase}"),
        _ => return None,
    };
    if phase == "completed" {
        if let Some(downtime) = status.downtime.total {
            let _ = write!(line, ", downtime {downtime:.1} ms");
        }
        let place = if is_snapshot(status) { "in the file" } else { "on the wire" };
        let _ = write!(line, ", {} bytes {place}", status.wire_bytes);
    }
    if let Some(error) = status.error.as_ref().filter(|_| phase != "cancelled") {
        let _ = write!(line, ": {error}");
    }
    Some(line)
}

#[cfg(test)]
pub(crate) mod tests;
