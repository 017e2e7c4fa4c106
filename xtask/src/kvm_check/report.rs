//! What was found, as JSON and as a page of Markdown.

use std::fmt::Write as _;

use serde_json::{Map, Value, json};

/// How a check ended, with what there is to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    Passed(String),
    Failed(String),
    /// Neither well nor a failure.
    Noted(String),
    /// It was not tried.
    Skipped(String),
}

impl Outcome {
    const fn word(&self) -> &'static str {
        match self {
            Self::Passed(_) => "passed",
            Self::Failed(_) => "FAILED",
            Self::Noted(_) => "noted",
            Self::Skipped(_) => "not run",
        }
    }

    pub(super) fn words(&self) -> &str {
        let (Self::Passed(words) | Self::Failed(words) | Self::Noted(words) | Self::Skipped(words)) =
            self;
        words
    }
}

/// One check.
#[derive(Debug, Clone)]
pub(super) struct Check {
    /// What it belongs to: the host, or a guest.
    pub(super) group: String,
    pub(super) name: String,
    pub(super) outcome: Outcome,
    /// How long it took.
    pub(super) seconds: f64,
    /// Everything that was measured or told on the way.
    pub(super) figures: Value,
    /// Of one that failed: the last lines of each console.
    pub(super) consoles: Vec<(String, Vec<String>)>,
}

impl Check {
    pub(super) fn new(group: &str, name: &str, outcome: Outcome) -> Self {
        Self {
            group: group.to_owned(),
            name: name.to_owned(),
            outcome,
            seconds: 0.0,
            figures: Value::Null,
            consoles: Vec::new(),
        }
    }

    pub(super) const fn is_well(&self) -> bool {
        matches!(self.outcome, Outcome::Passed(_))
    }

    pub(super) const fn has_failed(&self) -> bool {
        matches!(self.outcome, Outcome::Failed(_))
    }

    /// Told as soon as it is known.
    pub(super) fn print(&self) {
        let Self { group, name, outcome, seconds, .. } = self;
        println!(
            "kvm-check: {group}: {name}: {} ({seconds:.1} s): {}",
            outcome.word(),
            outcome.words()
        );
    }

    fn json(&self) -> Value {
        let consoles: Map<String, Value> =
            self.consoles.iter().map(|(whose, lines)| (whose.clone(), json!(lines))).collect();
        json!({
            "group": self.group,
            "check": self.name,
            "result": self.outcome.word().to_lowercase(),
            "words": self.outcome.words(),
            "seconds": (self.seconds * 10.0).round() / 10.0,
            "figures": self.figures,
            "consoles": consoles,
        })
    }
}

/// A whole run.
#[derive(Debug, Default)]
pub(super) struct Report {
    pub(super) host: Value,
    /// What was to be run: the guest, its size, who runs it.
    pub(super) plan: Value,
    pub(super) checks: Vec<Check>,
    /// Async page faults on and off, if they were compared.
    pub(super) comparison: Value,
    /// Why the run ended early, if it did.
    pub(super) ended: Option<String>,
}

impl Report {
    pub(super) fn add(&mut self, check: Check) {
        check.print();
        self.checks.push(check);
    }

    /// Whether all of it was run and is well.
    pub(super) fn all_well(&self) -> bool {
        let any = self.checks.iter().any(|check| check.group != "host");
        any && self.ended.is_none() && !self.checks.iter().any(Check::has_failed)
    }

    /// One line for all.
    pub(super) fn verdict(&self) -> String {
        let count = |word| self.checks.iter().filter(|check| check.outcome.word() == word).count();
        let (passed, failed) = (count("passed"), count("FAILED"));
        let counts = format!("{passed} passed, {failed} failed, {} not run", count("not run"));
        match &self.ended {
            Some(why) => format!("ended early ({counts}): {why}"),
            None => counts,
        }
    }

    pub(super) fn json(&self) -> Value {
        json!({
            "all_passed": self.all_well(),
            "verdict": self.verdict(),
            "host": self.host,
            "plan": self.plan,
            "checks": self.checks.iter().map(Check::json).collect::<Vec<_>>(),
            "async_page_faults": self.comparison,
        })
    }

    pub(super) fn markdown(&self) -> String {
        let mut text = format!("# KVM check\n\n{}\n\n## Host\n\n", capital(&self.verdict()));
        list(&mut text, &self.host);
        text.push_str("\n## What was run\n\n");
        list(&mut text, &self.plan);
        text.push_str("\n## Checks\n\n| | check | result | s | |\n|---|---|---|---:|---|\n");
        for check in &self.checks {
            let Check { group, name, outcome, seconds, .. } = check;
            let (word, words) = (outcome.word(), cell(outcome.words()));
            let _ = writeln!(text, "| {group} | {name} | {word} | {seconds:.1} | {words} |");
        }
        for check in self.checks.iter().filter(|check| check.has_failed()) {
            for (whose, lines) in &check.consoles {
                let title = format!("{}: {}: last lines of {whose}", check.group, check.name);
                if lines.is_empty() {
                    let _ = writeln!(text, "\n{title}: none.");
                    continue;
                }
                let _ = writeln!(text, "\n{title}:\n");
                // Indented: a console may say anything, also what would end a fence.
                lines.iter().for_each(|line| text.push_str(&format!("    {line}\n")));
            }
        }
        self.compared(&mut text);
        text
    }

    fn compared(&self, text: &mut String) {
        let Some(rows) = self.comparison["rows"].as_array() else { return };
        text.push_str("\n## Async page faults\n\n");
        text.push_str(self.comparison["about"].as_str().unwrap_or_default());
        text.push_str("\n\n| background | pair | figure | on | off | off / on |\n");
        text.push_str("|---|---|---|---:|---:|---:|\n");
        for row in rows {
            let shown = |name: &str| match &row[name] {
                Value::Null => "-".to_owned(),
                Value::String(words) => words.clone(),
                other => other.to_string(),
            };
            let cells = ["background", "pair", "figure", "on", "off", "ratio"].map(shown);
            let _ = writeln!(text, "| {} |", cells.join(" | "));
        }
    }
}

fn capital(words: &str) -> String {
    let mut letters = words.chars();
    letters.next().map_or_else(String::new, |first| {
        first.to_uppercase().chain(letters).chain(['.']).collect()
    })
}

/// What fits into one cell of a table.
fn cell(words: &str) -> String {
    let words = words.replace('|', "\\|");
    words.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).collect()
}

/// The fields of an object, a line each; an object in it takes one line too.
fn list(text: &mut String, object: &Value) {
    let plain = |value: &Value| match value {
        Value::String(words) => cell(words),
        other => other.to_string(),
    };
    for (name, value) in object.as_object().into_iter().flatten() {
        let name = name.replace('_', " ");
        if let Some(parts) = value.as_object() {
            for (part, inner) in parts {
                let inner = inner.as_object().map_or_else(
                    || plain(inner),
                    |fields| {
                        let words =
                            fields.iter().map(|(key, value)| format!("{key}={}", plain(value)));
                        words.collect::<Vec<_>>().join(" ")
                    },
                );
                let _ = writeln!(text, "- {name}, {part}: {inner}");
            }
        } else if !value.is_null() {
            let _ = writeln!(text, "- {name}: {}", plain(value));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let mut failed = Check::new("2 vCPUs", "boot", Outcome::Failed("no | word\nin 9 s".into()));
        failed.consoles = vec![("the first VM".into(), vec!["```".into(), "panic".into()])];
        Report {
            host: json!({ "cpu_model": "X", "modules": { "kvm": { "a": "Y", "b": "0" } }, "no": null }),
            plan: json!({ "guest": "debian" }),
            checks: vec![Check::new("host", "KVM", Outcome::Passed("opens".into())), failed],
            comparison: json!({
                "about": "Pairs.",
                "rows": [{ "background": "on", "pair": 1, "figure": "f", "on": 2.5, "off": null }],
            }),
            ended: None,
        }
    }

    #[test]
    fn a_failure_is_told_with_its_console_and_breaks_no_table() {
        let report = report();
        assert!(!report.all_well());
        let text = report.markdown();
        assert!(text.starts_with("# KVM check\n\n1 passed, 1 failed, 0 not run.\n"), "{text}");
        assert!(
            text.contains("| 2 vCPUs | boot | FAILED | 0.0 | no \\| word in 9 s |\n"),
            "{text}"
        );
        assert!(text.contains("last lines of the first VM:\n\n    ```\n    panic\n"), "{text}");
        assert!(text.contains("- modules, kvm: a=Y b=0\n"), "{text}");
        assert!(text.contains("| on | 1 | f | 2.5 | - | - |"), "{text}");
        assert_eq!(report.json()["checks"][1]["result"], "failed");
    }

    #[test]
    fn nothing_that_was_run_is_no_success() {
        let mut report = Report::default();
        assert!(!report.all_well());
        report.checks.push(Check::new("host", "KVM", Outcome::Passed(String::new())));
        assert!(!report.all_well());
        report.checks.push(Check::new("1 vCPU", "boot", Outcome::Passed(String::new())));
        assert!(report.all_well());
        report.ended = Some("interrupted".into());
        assert!(!report.all_well() && report.verdict().ends_with("interrupted"));
    }
}
