//! The page: all of it in one file, without scripts or anything from elsewhere.

use super::plot::{Chart, escape};
use super::text::{describe, figures, limits, parts, remarks};
use super::{Measured, Report, page};
use crate::run::FIGURES;
use serde_json::Value;
use std::fmt::Write as _;

const STYLE: &str = "\
body{font:14px/1.45 system-ui,sans-serif;margin:2em auto;max-width:80em;padding:0 1em;color:#222;background:#fff}\
table{border-collapse:collapse;margin:.6em 0}td,th{border:1px solid #ccc;padding:.15em .5em;text-align:right}\
td:first-child,th:first-child{text-align:left}th{background:#f4f4f4}section{margin:2em 0}\
.charts{display:flex;flex-wrap:wrap;gap:1em}svg{width:460px;max-width:100%;height:auto}\
svg text{font:10px system-ui,sans-serif;fill:#333}svg .title{font-weight:600;font-size:11px}\
.grid{stroke:#e4e4e4;fill:none}.line{fill:none;stroke-width:1.5}.remark{color:#a33}";

/// The whole page.
#[must_use]
pub fn html(report: &Report) -> String {
    let mut text = format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>umem bench</title>\
         <meta name=\"viewport\" content=\"width=device-width\"><style>{STYLE}</style></head><body>\n\
         <h1>umem bench</h1>\n"
    );
    let _ = writeln!(
        text,
        "<p>Medians of {} runs of each contender, by turns, and the least and the greatest; memory is warmed before \
         each run and the guest's memory verified after it. Ratios are of pairs measured one after the other.</p>",
        report.reps
    );
    text += "<section><h2>Measured on</h2>\n";
    for value in [&report.host, &report.programs] {
        text += &facts(value);
    }
    if let Some(load) = &report.load_average_at_end {
        let _ = writeln!(text, "<p>Load average at the end: {}</p>", escape(load));
    }
    text += "</section>\n<section><h2>What the host can do</h2>\n";
    text += &table(&limits(&report.limits));
    text += "</section>\n";
    for (group, charts) in page::curves(report) {
        let _ = writeln!(text, "<section><h2>Curve: {}</h2>", escape(group));
        text += &drawn(&charts);
        text += "</section>\n";
    }
    for row in &report.scenarios {
        text += &section(row);
    }
    text += &meanings();
    text + "</body></html>\n"
}

fn section(row: &Measured) -> String {
    let name = escape(&row.scenario.name);
    let mut text = format!(
        "<section id=\"{name}\"><h2>{name}</h2>\n<p>{}</p>\n",
        escape(&describe(&row.scenario))
    );
    if !row.contenders.is_empty() {
        text += &table(&figures(row));
    }
    for (name, parts) in parts(row) {
        let _ = writeln!(text, "<p>Downtime of {}, ms: {}</p>", escape(name), escape(&parts));
    }
    for remark in remarks(row) {
        let _ = writeln!(text, "<p class=\"remark\">{}</p>", escape(&remark));
    }
    text += &drawn(&page::of_row(row));
    text + "</section>\n"
}

fn drawn(charts: &[Chart]) -> String {
    let svg: String = charts.iter().map(Chart::svg).collect();
    format!("<div class=\"charts\">\n{svg}</div>\n")
}

fn table(rows: &[Vec<String>]) -> String {
    let mut text = String::from("<table>\n");
    for (at, row) in rows.iter().enumerate() {
        let tag = if at == 0 { "th" } else { "td" };
        let cells: String =
            row.iter().map(|cell| format!("<{tag}>{}</{tag}>", escape(cell))).collect();
        let _ = writeln!(text, "<tr>{cells}</tr>");
    }
    text + "</table>\n"
}

/// Names and values of an object.
fn facts(value: &Value) -> String {
    let mut rows = Vec::new();
    for (name, value) in value.as_object().into_iter().flatten() {
        let value = match value {
            Value::Null => continue,
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        rows.push(vec![name.replace('_', " "), value]);
    }
    if rows.is_empty() {
        String::new()
    } else {
        table(&[vec![vec![String::new(); 2]], rows].concat())
    }
}

fn meanings() -> String {
    let mut rows = vec![vec!["figure".to_owned(), "what it says".to_owned()]];
    rows.extend(
        FIGURES.iter().map(|figure| vec![figure.heading.to_owned(), figure.about.to_owned()]),
    );
    format!("<section><h2>Figures</h2>\n{}</section>\n", table(&rows))
}

#[cfg(test)]
mod tests {
    use super::html;
    use crate::report::samples::report;

    #[test]
    fn the_page_needs_nothing_else_and_holds_every_row() {
        let mut report = report();
        report.host = serde_json::json!({ "kernel": "6.18 <x>", "commit": null });
        let page = html(&report);
        for word in ["<script", "http:", "https:", "src=", "@import", "url("] {
            assert!(!page.contains(word), "{word}");
        }
        for row in &report.scenarios {
            assert!(page.contains(&format!("<section id=\"{}\">", row.scenario.name)));
        }
        assert!(page.contains("6.18 &lt;x&gt;") && !page.contains("commit"));
        assert!(page.contains("save &lt;&amp;&gt; 0.25"), "names are text");
        assert!(page.contains("Curve: vcpus") && page.contains("left out: no luck"));
        for tag in ["section", "table", "svg", "div", "body"] {
            let (open, close) = (format!("<{tag}"), format!("</{tag}>"));
            assert_eq!(page.matches(&open).count(), page.matches(&close).count(), "{tag}");
        }
    }
}
