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
/// Prints what was measured under this name.
pub(crate) fn print(name: &str, value: &Value) {
    match name {
        "cpu" => rows(CPU, array(value)),
        "boot" => rows(BOOT, array(&value["times"])),
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
    use super::{BOOT, table};
    use serde_json::json;

    #[test]
    fn what_was_not_measured_is_a_dash() {
        let text =
            table(BOOT, &[json!({ "until": "init", "umem_ms": 1800.0, "umem_by_qemu": 12.5 })]);
        assert!(text.ends_with("|---|---|---|---|\n| init | 1800 | – | 12.5 |\n"), "{text}");
    }
}
