use super::*;
use umem_link::{DowntimeParts, FaultLatency, PageCounts};

const PAGE: u64 = 4096;

pub(crate) fn sample() -> MigrationStatus {
    MigrationStatus {
        end: End::Destination,
        phase: "postcopy-active".into(),
        mode: "postcopy".into(),
        peer: Some("tcp:127.0.0.1:4444".into()),
        total_ms: 1234.56,
        setup_ms: Some(2.25),
        drain_ms: None,
        downtime: DowntimeParts {
            parts: vec![("save".into(), 1.25), ("load".into(), 2.5)],
            total: Some(3.75),
        },
        pages: PageCounts {
            demand: 10,
            prefault: 20,
            background: 70,
            precopy: 0,
            fill: 30,
            duplicate: 1,
            removed: 0,
            total: 262_144,
            remaining: 262_044,
        },
        rounds: None,
        packed: None,
        faults: FaultLatency {
            count: 10,
            mean: 100.0,
            p50: 90.0,
            p90: 150.0,
            p99: 200.0,
            p999: 210.0,
            max: 220.5,
            histogram: vec![(64, 3), (128, 0), (256, 7)],
        },
        waiting_for: vec![5, 6],
        wire_bytes: 987_654,
        rate: 104_857_600.0,
        verified: false,
        digest: None,
        background: true,
        error: Some("link lost".into()),
    }
}

#[test]
fn info_migrate_tells_everything_in_the_status() {
    let text = text(&sample(), PAGE);
    let expected = "\
Migration status: postcopy-active
error: link lost
mode: postcopy (destination)
peer: tcp:127.0.0.1:4444
total time: 1234.6 ms
downtime: 3.75 ms (save 1.25, load 2.50)
pages: 262144 total, 262044 remaining
  demand 10, prefault 20, background 70; of these 30 of one repeated byte
  arrived twice: 1
faults: 10; us: mean 100.0, p50 90.0, p90 150.0, p99 200.0, p99.9 210.0, max 220.5
  us: below 64: 3, below 256: 7
waiting for pages: 5 6
wire: 987654 bytes
rate: 100.0 MiB/s
verified: no
";
    assert_eq!(text, expected);
}

#[test]
fn query_migrate_has_qemus_keys_and_ours() {
    let answer = json(&sample(), PAGE);
    assert_eq!(answer["status"], "postcopy-active");
    assert_eq!(answer["total-time"], 1235);
    assert_eq!(answer["downtime"], 4);
    assert_eq!(answer["error-desc"], "link lost");
    assert_eq!(answer["ram"]["remaining"], 262_044_u64 * 4096);
    assert_eq!(answer["ram"]["normal"], 70);
    assert_eq!(answer["x-umem"]["end"], "destination");
    assert_eq!(answer["x-umem"]["faults"]["p999"], 210.0);
    let histogram = serde_json::json!([[64, 3], [128, 0], [256, 7]]);
    assert_eq!(answer["x-umem"]["faults"]["histogram"], histogram);
    assert_eq!(answer["x-umem"]["pages"]["fill"], 30);
}

/// A source within its third round.
fn in_rounds() -> MigrationStatus {
    MigrationStatus {
        end: End::Source,
        phase: "active".into(),
        mode: "hybrid".into(),
        downtime: DowntimeParts::default(),
        rounds: Some(RoundsStatus {
            passes: 3,
            copies: 40_210,
            discarded: 120,
            dirty_pages_rate: 2560.4,
            send_rate: 52_428_800.0,
            expected_downtime_ms: Some(35.25),
            throttle: 20,
        }),
        pages: PageCounts {
            precopy: 39_000,
            total: 65_536,
            remaining: 26_536,
            ..PageCounts::default()
        },
        waiting_for: Vec::new(),
        error: None,
        ..sample()
    }
}

#[test]
fn info_migrate_tells_the_rounds_with_their_units() {
    let text = text(&in_rounds(), PAGE);
    let expected = "\
mode: hybrid (source)
peer: tcp:127.0.0.1:4444
total time: 1234.6 ms
rounds: 3 begun, 40210 copies of pages sent, 120 pages discarded
  guest writes 2560 pages/s (10.0 MiB/s), source sends 50.0 MiB/s
  expected downtime 35.2 ms; 20 % of the vCPUs' time taken
pages: 65536 total, 26536 remaining
  precopy 39000, demand 0, prefault 0, background 0; of these 0 of one repeated byte
";
    assert!(text.contains(expected), "{text}");
    let early = MigrationStatus { rounds: Some(RoundsStatus::default()), ..in_rounds() };
    assert!(super::text(&early, PAGE).contains("is known when the first one has ended"));
    let status = MigrationStatus { end: End::Destination, ..in_rounds() };
    let text = super::text(&status, PAGE);
    assert!(text.contains("rounds: 3 begun, 40210 copies of pages received"), "{text}");
    assert!(!text.contains("expected downtime"), "only the source knows: {text}");
}

#[test]
fn query_migrate_tells_the_rounds_as_qemu_does() {
    let answer = json(&in_rounds(), PAGE);
    assert_eq!(answer["status"], "active");
    assert_eq!(answer["setup-time"], 2);
    assert_eq!(answer["expected-downtime"], 35);
    assert_eq!(answer["cpu-throttle-percentage"], 20);
    assert_eq!(answer["ram"]["dirty-sync-count"], 3);
    assert_eq!(answer["ram"]["dirty-pages-rate"], 2560);
    assert_eq!(answer["ram"]["normal-bytes"], 39_000 * PAGE);
    assert_eq!(answer["ram"]["page-size"], PAGE);
    assert_eq!(answer["ram"]["precopy-bytes"], 987_654);
    assert_eq!(answer["x-umem"]["rounds"]["discarded"], 120);
    assert!(answer.get("downtime").is_none(), "{answer}");
    assert_eq!(answer["ram"]["mbps"], 838.8608);
    let ended = MigrationStatus { phase: "completed".into(), total_ms: 1000.0, ..in_rounds() };
    assert_eq!(json(&ended, PAGE)["ram"]["mbps"], 7.901232, "over all of it");
    let early = MigrationStatus { rounds: Some(RoundsStatus::default()), ..in_rounds() };
    let answer = json(&early, PAGE);
    assert!(answer.get("expected-downtime").is_none(), "{answer}");
    assert!(answer.get("cpu-throttle-percentage").is_none(), "{answer}");
}

#[test]
fn a_client_of_qemu_is_told_only_words_that_it_knows() {
    let words =
        ["setup", "active", "device", "postcopy-active", "completed", "failed", "cancelled"];
    for word in words {
        assert_eq!(qemu_status(word), word);
    }
    assert_eq!(qemu_status("listening"), "setup");
    assert_eq!(qemu_status("prepared"), "device");
    assert_eq!(qemu_status("handover-unknown"), "postcopy-paused");
}

#[test]
fn an_outcome_is_one_line() {
    let ended = |phase: &str, error: Option<&str>| {
        let error = error.map(str::to_owned);
        outcome(&MigrationStatus { phase: phase.into(), error, ..sample() })
    };
    assert_eq!(
        ended("completed", None).as_deref(),
        Some("migration completed in 1234.6 ms, downtime 3.8 ms, 987654 bytes on the wire")
    );
    assert_eq!(
        ended("failed", Some("link lost")).as_deref(),
        Some("migration failed after 1234.6 ms: link lost")
    );
    assert_eq!(
        ended("cancelled", Some("cancelled")).as_deref(),
        Some("migration cancelled after 1234.6 ms")
    );
    assert_eq!(
        ended("postcopy-paused", Some("link lost")).as_deref(),
        Some("migration stands at postcopy-paused: link lost")
    );
    assert_eq!(ended("active", None), None);
}

#[test]
fn packed_pages_are_told_with_their_ratio() {
    let packed = PackedStatus {
        codec: Some("zstd"),
        content_bytes: 3000,
        packed_bytes: 1000,
        ratio: 3.0,
        differences: 7,
    };
    let status = MigrationStatus { packed: Some(packed), ..sample() };
    let line = "packed: 3000 bytes of pages to 1000 (3.00 to 1), 7 pages as what has changed; \
                codec now: zstd\n";
    assert!(text(&status, PAGE).contains(line), "{}", text(&status, PAGE));
    let packed = PackedStatus { codec: None, ..packed };
    let status = MigrationStatus { packed: Some(packed), ..sample() };
    assert!(text(&status, PAGE).contains("codec now: none\n"));
    let told = &json(&status, PAGE)["x-umem"]["packed"];
    assert_eq!((&told["ratio"], &told["packed-bytes"]), (&3.0.into(), &1000.into()));
    assert!(told["codec"].is_null() && json(&sample(), PAGE)["x-umem"]["packed"].is_null());
}

#[test]
fn a_snapshot_is_told_as_a_file() {
    let saved = MigrationStatus {
        mode: "snapshot".into(),
        phase: "completed".into(),
        peer: Some("file:/s".into()),
        ..in_rounds()
    };
    let shown = text(&saved, PAGE);
    assert!(shown.contains("file: 987654 bytes\n"), "{shown}");
    assert!(shown.contains("verified: when the file is loaded\n"), "{shown}");
    assert!(!shown.contains("background: "), "{shown}");
    assert!(outcome(&saved).is_some_and(|line| line.ends_with("987654 bytes in the file")));
    let loaded = MigrationStatus { end: End::Destination, verified: true, ..saved };
    let shown = text(&loaded, PAGE);
    assert!(shown.contains("verified: yes, the file is whole\n"), "{shown}");
}
