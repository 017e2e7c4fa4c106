//! docs/monitor.md, from the same table as the commands themselves.

use crate::command::{ArgKind, Command, TABLE};
use std::fmt::Write as _;

const HEAD: &str = "\
# Monitors

This page is made from the command table (`vmm/monitor/src/command/table.rs`); a test compares both, and
`UMEM_WRITE_DOCS=1 cargo test -p monitor` writes it anew.

`-monitor PLACE` opens a text monitor, `-qmp PLACE` a JSON monitor; either may be given several times.
Places: `stdio`, `unix:PATH,server`, `tcp:HOST:PORT,server`, `none`. Any number of clients (32 a monitor)
may be connected at once. A client that sends garbage gets an error, one that does not read is closed after
2 s; lines have at most 64 KiB. The end of `stdio` ends that monitor, not the VM.

The JSON monitor speaks QMP as far as it goes: greeting, `qmp_capabilities`, `execute` with `arguments` and
`id`, `return` or `error` with `class` and `desc`, events with time stamps. What QEMU does not have begins
with `x-umem-`.

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
    page += "\n## Events of the JSON monitor\n\n| event | when |\n|---|---|\n";
    for (event, when) in [
        ("STOP", "the guest was stopped"),
        ("RESUME", "the guest runs again"),
        ("RESET", "the machine was reset"),
        ("SHUTDOWN", "the guest powered off, or `quit`"),
        ("MIGRATION", "the migration is in another phase; `status` names it"),
    ] {
        let _ = writeln!(page, "| `{event}` | {when} |");
    }
    page
}

fn cell(text: &str) -> String {
    text.replace('\n', "<br>").replace('|', "\\|")
}

fn arguments(row: &Command) -> String {
    let one = |arg: &crate::command::Arg| {
        let kind = match arg.kind {
            ArgKind::Flag(_) => "boolean".to_owned(),
            ArgKind::Word | ArgKind::Rest => "string".to_owned(),
            ArgKind::Number => "number".to_owned(),
            ArgKind::Choice(words) => words.join(" or "),
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
