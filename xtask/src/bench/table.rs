//! Tables for people, in Markdown, so that they can be put into docs/evaluation.md as they are.

use serde_json::Value;

/// Column headings and the fields under them.
type Columns = &'static [(&'static str, &'static str)];

const CPU: Columns = &[
    ("loop", "loop"),
    ("umem, M instructions/s", "umem_mips"),
    ("QEMU", "qemu_mips"),
    ("umem / QEMU", "umem_by_qemu"),
];
const BOOT: Columns = &[
    ("until", "until"),
    ("umem, ms", "umem_ms"),
    ("QEMU, ms", "qemu_ms"),
    ("umem / QEMU", "umem_by_qemu"),
];
const MOVE: Columns = &[
    ("writes/s", "rate"),
    ("mode", "mode"),
    ("total ms", "total_ms"),
    ("gap at switch ms", "gap_at_switch_ms"),
    ("longest gap ms", "longest_gap_ms"),
    ("stall ms", "stall_ms"),
    ("back to 90 % ms", "back_to_90_ms"),
    ("writes in the first second %", "first_second_percent"),
    ("touch p50 µs", "touch_us_p50"),
    ("touch p99 µs", "touch_us_p99"),
    ("touch max µs", "touch_us_max"),
    ("faults", "faults"),
    ("wire bytes", "wire_bytes"),
    ("verified", "verified_runs"),
];
const RATIOS: Columns = &[
    ("writes/s", "rate"),
    ("QEMU's figure / umem's", "mode"),
    ("total", "total_ms"),
    ("gap at switch", "gap_at_switch_ms"),
    ("stall", "stall_ms"),
    ("back to 90 %", "back_to_90_ms"),
    ("touch p99", "touch_us_p99"),
];
const DEMO: Columns = &[
    ("writes/s", "rate"),
    ("downtime ms", "downtime_ms"),
    ("total ms", "total_ms"),
    ("gap at switch ms", "heartbeat_gap_switch_ms"),
    ("longest gap ms", "heartbeat_gap_ms"),
    ("fault mean µs", "fault_mean_us"),
    ("p50", "fault_p50_us"),
    ("p99", "fault_p99_us"),
    ("wire bytes", "wire_bytes"),
];
const PAGES: Columns = &[
    ("host pages, source:destination", "pages"),
    ("downtime ms", "downtime_ms"),
    ("total ms", "total_ms"),
    ("longest gap ms", "heartbeat_gap_ms"),
    ("fault mean µs", "fault_mean_us"),
    ("p50", "fault_p50_us"),
    ("p99", "fault_p99_us"),
    ("huge pages joined", "joined"),
];
const LIMITS: Columns = &[
    ("loopback TCP MiB/s", "tcp_mib_s"),
    ("UFFDIO_COPY 4 KiB", "copy_4k_mib_s"),
    ("64 KiB", "copy_64k_mib_s"),
    ("round trip, 64 B to 4 KiB, p50 µs", "round_trip_p50_us"),
    ("p99 µs", "round_trip_p99_us"),
];

/// Prints what was measured under this name.
pub(crate) fn print(name: &str, value: &Value) {
    match name {
        "cpu" => rows(CPU, array(value)),
        "boot" => rows(BOOT, array(&value["times"])),
        "demo" => rows(DEMO, array(value)),
        "pages" => rows(PAGES, array(value)),
        "limits" => rows(LIMITS, std::slice::from_ref(value)),
        "move" => {
            rows(MOVE, array(value));
            let ratios: Vec<Value> = array(value)
                .iter()
                .filter(|row| row["by_umem"].is_object())
                .map(|row| {
                    let mut ratio = row["by_umem"].clone();
                    ratio["rate"] = row["rate"].clone();
                    ratio["mode"] = row["mode"].clone();
                    ratio
                })
                .collect();
            rows(RATIOS, &ratios);
        }
        _ => {}
    }
}

fn array(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn rows(columns: Columns, rows: &[Value]) {
    print!("{}", table(columns, rows));
}

fn table(columns: Columns, rows: &[Value]) -> String {
    let line = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
    let mut text = String::from("\n");
    text += &line(columns.iter().map(|(heading, _)| (*heading).to_owned()).collect());
    text += &format!("|{}\n", "---|".repeat(columns.len()));
    for row in rows {
        text += &line(columns.iter().map(|(_, field)| cell(&row[*field])).collect());
    }
    text
}

fn cell(value: &Value) -> String {
    match value {
        Value::Null => "–".to_owned(),
        Value::String(text) => text.clone(),
        Value::Number(number) => match number.as_f64() {
            Some(value) if value.fract() == 0.0 => format!("{value:.0}"),
            Some(value) => format!("{value}"),
            None => number.to_string(),
        },
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::{LIMITS, table};
    use serde_json::json;

    #[test]
    fn what_was_not_measured_is_a_dash() {
        let text = table(LIMITS, &[json!({ "tcp_mib_s": 1800.0, "copy_4k_mib_s": 12.5 })]);
        assert!(text.ends_with("|---|---|---|---|---|\n| 1800 | 12.5 | – | – | – |\n"), "{text}");
    }
}
