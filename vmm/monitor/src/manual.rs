//! docs/monitor.md, from the same table as the commands themselves.

use crate::command::{ArgKind, CAPABILITIES, Command, PARAMETERS, State, TABLE, shown};
use machine::MigrationParameters;
use std::fmt::Write as _;

const HEAD: &str = "\
# Monitors

This page is made from the command table (`vmm/monitor/src/command/table.rs`); a test compares both, and
`UMEM_WRITE_DOCS=1 cargo test -p monitor` writes it anew.

`-monitor PLACE` opens a text monitor, `-qmp PLACE` a JSON monitor; either may be given several times.
Places: `stdio`, `unix:PATH,server`, `tcp:HOST:PORT,server`, `none`. Any number of clients (32 a monitor)
may be connected at once. A client that sends garbage gets an error, one that does not read is closed after
2 s; lines have at most 64 KiB, and so have JSON objects, which need no line end and may go over several
lines. The end of `stdio` ends that monitor, not the VM.

The JSON monitor speaks QMP as far as it goes: greeting, `qmp_capabilities`, `execute` with `arguments` and
`id`, `return` or `error` with `class` and `desc`, events with time stamps. A client written for QEMU moves a
guest by `migrate-incoming`, `migrate-set-capabilities`, `migrate-set-parameters`, `migrate`,
`migrate-start-postcopy` and `query-migrate`. What QEMU does not have begins with `x-umem-`, but for the
arguments of `migrate` that stand for its options in text. `status`, of `query-migrate` and of events, is always
one of QEMU's words; `x-umem` has our own: `listening` is told as `setup`, `prepared` as `device`,
`handover-unknown` as `postcopy-paused`.

At a destination, `faults` of `x-umem` tells how long the guest's vCPUs and devices waited for missing pages, from
the fault to the page, in microseconds: `count`, `mean`, `p50`, `p90`, `p99`, `p999` (to 1.6 %, and never too short),
`max`, and `histogram`, a list of pairs: a power of two, and how many took less than that but no less than half of
it. `info migrate` has the same in two lines.

On a terminal, a line above the one being typed tells how a migration ended. Other text monitors print only
what they were asked for, so that programs can read them.

## Text commands

| command | what it does |
|---|---|
";

/// The page.
#[must_use]
pub fn manual() -> String {
    let mut page = HEAD.to_owned();
    for row in TABLE.iter().filter(|row| row.text.is_some()) {
        let _ = writeln!(page, "| `{}` | {} |", cell(&row.usage()), cell(row.help));
    }
    page += "\n## JSON commands\n\n| command | arguments | what it does |\n|---|---|---|\n";
    for row in TABLE {
        if let Some(name) = row.json {
            let _ = writeln!(page, "| `{name}` | {} | {} |", arguments(row), cell(row.help));
        }
    }
    tables(&mut page);
    page += "\n## Events of the JSON monitor\n\n| event | when |\n|---|---|\n";
    for (event, when) in [
        ("STOP", "the guest was stopped"),
        ("RESUME", "the guest runs again"),
        ("RESET", "the machine was reset"),
        ("SHUTDOWN", "the guest powered off, or `quit`"),
        (
            "MIGRATION",
            "the migration is in another phase; `status` names it, `x-umem-phase` in our words",
        ),
        (
            "BALLOON_CHANGE",
            "the guest's balloon has another size; `actual`: bytes of RAM not in it",
        ),
        ("MIGRATION_PASS", "a round of precopy begins; `pass` is its number, from 1 up"),
    ] {
        let _ = writeln!(page, "| `{event}` | {when} |");
    }
    page
}

/// What the next migration is told before it starts.
fn tables(page: &mut String) {
    page.push_str(
        "\n## Parameters\n\n| text | JSON | values | default | what it is |\n|---|---|---|---|---|\n",
    );
    let defaults = MigrationParameters::default();
    for parameter in PARAMETERS {
        let default = shown(parameter.domain, (parameter.get)(&defaults));
        let values = parameter.domain.shown();
        let (name, json, help) = (parameter.name, parameter.json, cell(parameter.help));
        let _ = writeln!(page, "| `{name}` | `{json}` | {values} | {default} | {help} |");
    }
    page.push_str(
        "\n## Capabilities\n\n| capability | state | why, or what it does |\n|---|---|---|\n",
    );
    for capability in CAPABILITIES {
        let state = match capability.state {
            State::Switched(_) => "on or off; off at first",
            State::Always => "always on",
            State::Never => "always off",
        };
        let _ = writeln!(page, "| `{}` | {state} | {} |", capability.name, cell(capability.help));
    }
}

fn cell(text: &str) -> String {
    text.replace('\n', "<br>").replace('|', "\\|")
}

fn arguments(row: &Command) -> String {
    let one = |arg: &crate::command::Arg| {
        let kind = match arg.kind {
            ArgKind::Flag(_) | ArgKind::Switch => "boolean".to_owned(),
            ArgKind::Word | ArgKind::Rest => "string".to_owned(),
            ArgKind::Number => "number".to_owned(),
            ArgKind::Memory => "bytes (text: MiB, or with K, M, G, T)".to_owned(),
            ArgKind::LongOption => "number, 1 or more".to_owned(),
            ArgKind::Choice(words) => words.join(" or "),
            ArgKind::Named(_) => "one of those below".to_owned(),
            ArgKind::List(what) => format!("list of {what}"),
            ArgKind::Refused(_, why) => format!("refused: {why}"),
        };
        format!("`{}`{}: {kind}", arg.name, if arg.required { "" } else { " (optional)" })
    };
    row.args.iter().map(one).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_in_docs_is_that_of_the_table() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/monitor.md");
        if std::env::var_os("UMEM_WRITE_DOCS").is_some() {
            std::fs::write(path, manual()).unwrap();
        }
        let page = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            page == manual(),
            "docs/monitor.md is not what the table says; see its first lines"
        );
    }
}
