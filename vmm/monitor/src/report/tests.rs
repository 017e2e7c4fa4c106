use super::*;
use umem_link::{DowntimeParts, FaultLatency, PageCounts};

pub(crate) fn sample() -> MigrationStatus {
    MigrationStatus {
        end: End::Destination,
        phase: "postcopy-active".into(),
        mode: "postcopy".into(),
        peer: Some("tcp:127.0.0.1:4444".into()),
        total_ms: 1234.56,
        drain_ms: None,
        downtime: DowntimeParts {
            parts: vec![("save".into(), 1.25), ("load".into(), 2.5)],
            total: Some(3.75),
        },
        pages: PageCounts {
            demand: 10,
            prefault: 20,
            background: 70,
            fill: 30,
            duplicate: 1,
            total: 262_144,
            remaining: 262_044,
        },
        faults: FaultLatency {
            count: 10,
            mean: 100.0,
            p50: 90.0,
            p90: 150.0,
            p99: 200.0,
            p999: 210.0,
            max: 220.5,
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
    let text = text(&sample());
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
waiting for pages: 5 6
wire: 987654 bytes
rate: 100.0 MiB/s
verified: no
";
    assert_eq!(text, expected);
}

#[test]
fn query_migrate_has_qemus_keys_and_ours() {
    let answer = json(&sample());
    assert_eq!(answer["status"], "postcopy-active");
    assert_eq!(answer["total-time"], 1235);
    assert_eq!(answer["downtime"], 4);
    assert_eq!(answer["error-desc"], "link lost");
    assert_eq!(answer["ram"]["remaining"], 262_044_u64 * 4096);
    assert_eq!(answer["ram"]["normal"], 70);
    assert_eq!(answer["x-umem"]["end"], "destination");
    assert_eq!(answer["x-umem"]["faults"]["p999"], 210.0);
    assert_eq!(answer["x-umem"]["pages"]["fill"], 30);
}
