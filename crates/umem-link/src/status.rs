//! What a migration looks like from outside at one moment: for `info migrate`, progress and reports. Its parts can be
//! read back from what a monitor tells; what another version does not tell is as in the default.

use crate::lane::PackCounts;
use serde::{Deserialize, Serialize};
use std::sync::atomic::Ordering;
use umem_wire::{Codec, Mode};

/// The word for a mode.
pub(crate) fn word(mode: Mode) -> &'static str {
    match mode {
        Mode { precopy: true, postcopy: true } => "hybrid",
        Mode { precopy: true, .. } => "precopy",
        _ => "postcopy",
    }
}

/// Which end of the migration this process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum End {
    /// The guest comes from here.
    Source,
    /// The guest comes here.
    Destination,
}

/// Pages by what brought them. Each page that moved is counted once, under its first cause.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct PageCounts {
    /// Asked for by a page fault.
    pub demand: u64,
    /// Sent along with a demanded page.
    pub prefault: u64,
    /// Sent by the background.
    pub background: u64,
    /// Sent in rounds of precopy, and valid at the switch.
    pub precopy: u64,
    /// Of all of these, pages of one repeated byte (zero or other), sent without their content.
    pub fill: u64,
    /// Of all of these, copies that arrived when the page was already there (destination only).
    pub duplicate: u64,
    /// Of all of these, pages that went as zeroes because the guest had given them back at the
    /// destination (source only).
    pub removed: u64,
    /// Pages of the guest's RAM.
    pub total: u64,
    /// Pages not at the destination yet, as this end knows.
    pub remaining: u64,
}

/// Precopy so far. At the destination only what it can know is other than 0.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct RoundsStatus {
    /// Rounds begun, the last one, while the guest stood still, among them.
    pub passes: u32,
    /// Copies of pages sent in them (received, at the destination).
    pub copies: u64,
    /// Pages whose copies were declared void before the switch.
    pub discarded: u64,
    /// Pages written a second, over the last round.
    pub dirty_pages_rate: f64,
    /// Bytes sent a second, over the last round that says something about it; of packed pages, those
    /// that they would have had if they were not.
    pub send_rate: f64,
    /// How long the guest would stand still if it were stopped now and moved by precopy,
    /// milliseconds; `None` while that cannot be told.
    pub expected_downtime_ms: Option<f64>,
    /// Time taken from the vCPUs, per cent.
    pub throttle: u8,
}

/// Pages that went packed so far.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct PackedStatus {
    /// The codec in use; at the destination, that of the newest packed frame. `None` while pages go as
    /// they are.
    pub codec: Option<&'static str>,
    /// Bytes of content that went packed.
    pub content_bytes: u64,
    /// Bytes that they were packed to.
    pub packed_bytes: u64,
    /// How many times less that is.
    pub ratio: f64,
    /// Pages that went as their difference from the copy sent before.
    pub differences: u64,
}

impl PackedStatus {
    /// What there is to tell; `None` while nothing was packed.
    pub(crate) fn of(counts: &PackCounts) -> Option<Self> {
        let packed_bytes = counts.packed.load(Ordering::Relaxed);
        let content_bytes = counts.content.load(Ordering::Relaxed);
        (packed_bytes > 0).then(|| Self {
            codec: counts.current().map(Codec::name),
            content_bytes,
            packed_bytes,
            ratio: content_bytes as f64 / packed_bytes as f64,
            differences: counts.differences.load(Ordering::Relaxed),
        })
    }
}

/// Latency of page faults at the destination, in microseconds, from the fault to the page's presence.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct FaultLatency {
    /// Faults resolved.
    pub count: u64,
    /// Mean.
    pub mean: f64,
    /// Median.
    pub p50: f64,
    /// 90th percentile.
    pub p90: f64,
    /// 99th percentile.
    pub p99: f64,
    /// 99.9th percentile.
    pub p999: f64,
    /// Longest.
    pub max: f64,
    /// A power of two, and how many took less than that but no less than half of it (the first: less than 1);
    /// from the shortest that happened to the longest.
    pub histogram: Vec<(u64, u64)>,
}

/// The parts of the time during which the guest ran nowhere, in milliseconds.
/// Parts that this end did not see are absent.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct DowntimeParts {
    /// Name of the part and its length, in their order.
    pub parts: Vec<(String, f64)>,
    /// All of it, as this end knows.
    pub total: Option<f64>,
}

/// Snapshot of one migration at one end.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct MigrationStatus {
    /// Which end this is.
    pub end: End,
    /// QEMU's word for the phase where it has one: `setup`, `active`, `device`, `postcopy-active`,
    /// `completed`, `failed`, `cancelled`; and `listening`, `prepared`, `handover-unknown`,
    /// `postcopy-paused` (link lost, pages missing).
    pub phase: String,
    /// Kind of migration: `precopy`, `postcopy` or `hybrid`.
    pub mode: String,
    /// The peer's address, where there is one.
    pub peer: Option<String>,
    /// Time since the start of the migration, milliseconds; stops at its end.
    pub total_ms: f64,
    /// Of this, the time until the ends were ready for pages, milliseconds.
    pub setup_ms: Option<f64>,
    /// Time from the handover until all pages were at the destination, milliseconds.
    pub drain_ms: Option<f64>,
    /// Time without a running guest.
    pub downtime: DowntimeParts,
    /// Pages by cause.
    pub pages: PageCounts,
    /// Rounds of precopy, where there were some.
    pub rounds: Option<RoundsStatus>,
    /// Packed pages, where there are some.
    pub packed: Option<PackedStatus>,
    /// Page faults (destination).
    pub faults: FaultLatency,
    /// Pages that someone waits for now (destination); a bounded sample, page numbers.
    pub waiting_for: Vec<u64>,
    /// Bytes on the wire, both ways, as the kernel counted them (TCP_INFO), else as written.
    pub wire_bytes: u64,
    /// Rate over the last moments, in bytes a second.
    pub rate: f64,
    /// Whether both ends agreed that all pages arrived, by digest.
    pub verified: bool,
    /// Digest over all pages, once known, in hexadecimal.
    pub digest: Option<String>,
    /// Whether the background sends (source).
    pub background: bool,
    /// What went wrong, with the numbers and the way out.
    pub error: Option<String>,
}
