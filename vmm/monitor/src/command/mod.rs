//! Commands: what they are called, what they take, what they do. One table serves the text
//! monitor, the JSON monitor, `help` and `query-commands`, so that none of them can drift.

mod arguments;
mod capabilities;
mod completion;
mod handlers;
mod migrate;
mod parameters;
mod table;

pub(crate) use arguments::{Args, words};
pub(crate) use capabilities::{CAPABILITIES, State};
pub(crate) use completion::completions;
pub(crate) use handlers::{VERSION, version_json};
pub(crate) use parameters::{PARAMETERS, shown};
pub(crate) use table::TABLE;

use machine::{ControlError, VmControl};
use serde_json::Value;
use std::fmt::Write as _;

/// What an argument may be.
#[derive(Debug, Clone, Copy)]
pub(crate) enum ArgKind {
    /// `-x` in text, a boolean in JSON.
    Flag(char),
    /// `--name N` in text, a whole number of 1 or more.
    LongOption,
    /// One word.
    Word,
    /// The rest of the line.
    Rest,
    /// A whole number, 0 or more.
    Number,
    /// Bytes of memory: in text MiB, or with a suffix (K, M, G, T); in JSON bytes.
    Memory,
    /// `on` or `off` in text, a boolean in JSON.
    Switch,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// One of these names, each with what it means.
    Named(&'static [(&'static str, &'static str)]),
    /// A list of what this says; JSON alone has it.
    List(&'static str),
    /// QEMU has it, under this letter in text; here it is refused, for this reason.
    Refused(Option<char>, &'static str),
}

/// One argument.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Arg {
    /// Its key in JSON and its name in help.
    pub(crate) name: &'static str,
    pub(crate) kind: ArgKind,
    pub(crate) required: bool,
}

/// What a command answers.
#[derive(Debug, Default)]
pub(crate) struct Output {
    /// For the text monitor; whole lines or nothing.
    pub(crate) text: String,
    /// For the JSON monitor.
    pub(crate) json: Value,
    /// The VM is to end once the answer is on its way.
    pub(crate) quit: bool,
}

impl Output {
    /// Nothing to say.
    pub(crate) fn done() -> Self {
        Self { json: Value::Object(serde_json::Map::new()), ..Self::default() }
    }
}

/// What runs a command.
pub(crate) type Handler = fn(&dyn VmControl, &Args) -> Result<Output, ControlError>;

/// One row of the table.
pub(crate) struct Command {
    /// Name in the text monitor, two words for `info …`; `None` where only JSON has it.
    pub(crate) text: Option<&'static str>,
    /// Short forms in the text monitor.
    pub(crate) aliases: &'static [&'static str],
    /// Name in the JSON monitor; `None` where only text has it.
    pub(crate) json: Option<&'static str>,
    pub(crate) args: &'static [Arg],
    pub(crate) help: &'static str,
    pub(crate) run: Handler,
}

impl Command {
    /// `migrate [-p] uri [forward]`.
    pub(crate) fn usage(&self) -> String {
        let mut usage = self.text.unwrap_or_default().to_owned();
        for alias in self.aliases {
            let _ = write!(usage, "|{alias}");
        }
        for arg in self.args {
            let shown = match arg.kind {
                ArgKind::Flag(letter) => format!("-{letter}"),
                ArgKind::LongOption => format!("--{} N", arg.name),
                ArgKind::Switch => "on|off".to_owned(),
                ArgKind::Choice(words) => words.join("|"),
                ArgKind::Refused(..) | ArgKind::List(_) => continue,
                ArgKind::Word
                | ArgKind::Rest
                | ArgKind::Number
                | ArgKind::Memory
                | ArgKind::Named(_) => arg.name.to_owned(),
            };
            let _ =
                if arg.required { write!(usage, " {shown}") } else { write!(usage, " [{shown}]") };
        }
        usage
    }

    /// What it does, line by line, with the names that it takes.
    pub(crate) fn explanation(&self) -> String {
        let mut text = self.help.to_owned();
        for (name, meaning) in self.args.iter().flat_map(|arg| arg.names()) {
            let _ = write!(text, "\n{name}: {meaning}");
        }
        text
    }
}

impl Arg {
    /// The names that it takes, each with what it means.
    fn names(&self) -> &'static [(&'static str, &'static str)] {
        match self.kind {
            ArgKind::Named(names) => names,
            _ => &[],
        }
    }
}

/// The row for the first words of a line, and how many words its name takes.
pub(crate) fn find_text(words: &[String]) -> Option<(&'static Command, usize)> {
    let named =
        |name: &str| TABLE.iter().find(|row| row.text == Some(name) || row.aliases.contains(&name));
    let first = words.first()?;
    if let Some(second) = words.get(1)
        && let Some(row) = named(&format!("{first} {second}"))
    {
        return Some((row, 2));
    }
    named(first).map(|row| (row, 1))
}

/// The row of a JSON command.
pub(crate) fn find_json(name: &str) -> Option<&'static Command> {
    TABLE.iter().find(|row| row.json == Some(name))
}

/// Runs one line of the text monitor.
pub(crate) fn run_line(vm: &dyn VmControl, line: &str) -> Result<Output, ControlError> {
    let words = words(line)?;
    if words.is_empty() {
        return Ok(Output::done());
    }
    let Some((row, taken)) = find_text(&words) else {
        return Err(ControlError::new(format!(
            "unknown command: '{}'; 'help' lists what there is",
            printable(words.first().map_or("", String::as_str))
        )));
    };
    let args = Args::from_words(row, words.get(taken..).unwrap_or_default())?;
    (row.run)(vm, &args)
}

/// Foreign text, fit to be shown: short and without control characters.
pub(crate) fn printable(text: &str) -> String {
    const SHOWN: usize = 64;
    let mut shown: String =
        text.chars().take(SHOWN).map(|c| if c.is_control() { '?' } else { c }).collect();
    if text.chars().nth(SHOWN).is_some() {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests;
