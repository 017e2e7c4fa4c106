//! Arguments of a command, from words of a line or from a JSON object, checked against its row.

use super::parameters::bytes;
use super::{Arg, ArgKind, Command, printable};
use machine::ControlError;
use serde_json::{Map, Value};
use std::collections::BTreeMap;

#[derive(Debug, Clone, PartialEq, Eq)]
enum Given {
    Flag(bool),
    Text(String),
    Number(u64),
    List(Vec<Value>),
}

/// Checked arguments, by the names in the table.
#[derive(Debug, Default)]
pub(crate) struct Args(BTreeMap<&'static str, Given>);

impl Args {
    /// Whether a flag is set.
    pub(crate) fn flag(&self, name: &str) -> bool {
        self.switch(name) == Some(true)
    }

    /// Where a switch is to be, if given.
    pub(crate) fn switch(&self, name: &str) -> Option<bool> {
        match self.0.get(name) {
            Some(Given::Flag(on)) => Some(*on),
            _ => None,
        }
    }

    /// A word, if given.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        match self.0.get(name) {
            Some(Given::Text(text)) => Some(text),
            _ => None,
        }
    }

    /// A number, if given.
    pub(crate) fn number(&self, name: &str) -> Option<u64> {
        match self.0.get(name) {
            Some(Given::Number(number)) => Some(*number),
            _ => None,
        }
    }

    /// The members of a list; none if it was not given.
    pub(crate) fn list(&self, name: &str) -> &[Value] {
        match self.0.get(name) {
            Some(Given::List(members)) => members,
            _ => &[],
        }
    }

    /// From the words behind a command's name.
    pub(crate) fn from_words(row: &Command, words: &[String]) -> Result<Self, ControlError> {
        let mut args = Self::default();
        let mut places = row.args.iter().filter(|arg| has_place(arg));
        let mut words = words.iter();
        while let Some(word) = words.next() {
            if let Some(option) = long_option(word, row) {
                let (arg, given) = option_value(row, option, &mut words)?;
                args.0.insert(arg.name, check_text(row, arg, given)?);
                continue;
            }
            if let Some(letters) = flags(word, row) {
                args.set_flags(row, letters)?;
                continue;
            }
            let arg = places.next().ok_or_else(|| {
                refuse(row, &format!("'{}' is one word too many", printable(word)))
            })?;
            let text = match arg.kind {
                ArgKind::Rest => {
                    let rest = std::iter::once(word).chain(words.by_ref());
                    rest.cloned().collect::<Vec<_>>().join(" ")
                }
                _ => word.clone(),
            };
            args.0.insert(arg.name, check_text(row, arg, text)?);
        }
        args.complete(row)
    }

    fn set_flags(&mut self, row: &Command, letters: &str) -> Result<(), ControlError> {
        for letter in letters.chars() {
            let arg = row.args.iter().find(|arg| match arg.kind {
                ArgKind::Flag(own) | ArgKind::Refused(Some(own), _) => own == letter,
                _ => false,
            });
            let shown = || printable(&letter.to_string());
            match arg {
                Some(Arg { kind: ArgKind::Refused(_, why), .. }) => {
                    return Err(ControlError::new(format!("-{} is refused: {why}", shown())));
                }
                Some(arg) => drop(self.0.insert(arg.name, Given::Flag(true))),
                None => return Err(refuse(row, &format!("there is no option -{}", shown()))),
            }
        }
        Ok(())
    }

    /// From the `arguments` of a JSON command.
    pub(crate) fn from_json(
        row: &Command,
        given: &Map<String, Value>,
    ) -> Result<Self, ControlError> {
        let mut args = Self::default();
        for (name, value) in given {
            let arg = row.args.iter().find(|arg| arg.name == name).ok_or_else(|| {
                ControlError::new(format!("parameter '{}' is unexpected", printable(name)))
            })?;
            // What is off needs no refusal.
            if !(matches!(arg.kind, ArgKind::Refused(..)) && *value == Value::Bool(false)) {
                args.0.insert(arg.name, check_json(arg, value)?);
            }
        }
        args.complete(row)
    }

    fn complete(self, row: &Command) -> Result<Self, ControlError> {
        match row.args.iter().find(|arg| arg.required && !self.0.contains_key(arg.name)) {
            Some(missing) => Err(refuse(row, &format!("'{}' is missing", missing.name))),
            None => Ok(self),
        }
    }
}

fn refuse(row: &Command, why: &str) -> ControlError {
    match row.text {
        Some(_) => ControlError::new(format!("{why}; usage: {}", row.usage())),
        None => ControlError::new(why),
    }
}

/// Whether its place among the words says which argument it is.
pub(super) fn has_place(arg: &Arg) -> bool {
    !matches!(
        arg.kind,
        ArgKind::Flag(_) | ArgKind::LongOption | ArgKind::List(_) | ArgKind::Refused(..)
    )
}

/// What is behind the dashes of `--name`, if the command has such options.
fn long_option<'w>(word: &'w str, row: &Command) -> Option<&'w str> {
    let has_options = row.args.iter().any(|arg| matches!(arg.kind, ArgKind::LongOption));
    word.strip_prefix("--").filter(|_| has_options)
}

/// The option's argument and what it was given: behind `=`, or as the next word.
fn option_value<'w>(
    row: &Command,
    option: &str,
    words: &mut impl Iterator<Item = &'w String>,
) -> Result<(&'static Arg, String), ControlError> {
    let (name, value) = match option.split_once('=') {
        Some((name, value)) => (name, Some(value.to_owned())),
        None => (option, None),
    };
    let options = row.args.iter().filter(|arg| matches!(arg.kind, ArgKind::LongOption));
    let arg = options
        .into_iter()
        .find(|arg| arg.name == name)
        .ok_or_else(|| refuse(row, &format!("there is no option --{}", printable(name))))?;
    let value = value.or_else(|| words.next().cloned());
    value.map(|value| (arg, value)).ok_or_else(|| refuse(row, &format!("--{name} needs a number")))
}

/// The letters of `-pn`. A negative number is no flag: it is refused as a number, which says more.
fn flags<'w>(word: &'w str, row: &Command) -> Option<&'w str> {
    let letters = word.strip_prefix('-').filter(|rest| !rest.is_empty())?;
    let has_flags = row.args.iter().any(|arg| matches!(arg.kind, ArgKind::Flag(_)));
    let number_like = letters.starts_with(|c: char| c.is_ascii_digit() || c == '.')
        || ["nan", "inf", "infinity"].contains(&letters.to_ascii_lowercase().as_str());
    (has_flags && !number_like).then_some(letters)
}

fn no_number(arg: &Arg, shown: &str) -> ControlError {
    let least = least(arg);
    ControlError::new(format!(
        "'{}' must be a whole number of {least} or more, not '{}'",
        arg.name,
        printable(shown)
    ))
}

/// The least number that it may be.
fn least(arg: &Arg) -> u64 {
    if matches!(arg.kind, ArgKind::LongOption) { 1 } else { 0 }
}

fn unknown(arg: &Arg, text: &str, names: &[(&str, &str)]) -> ControlError {
    let names: Vec<_> = names.iter().map(|(name, _)| *name).collect();
    let (what, shown) = (arg.name, printable(text));
    ControlError::new(format!("there is no {what} '{shown}'; there are {}", names.join(", ")))
}

fn check_text(row: &Command, arg: &Arg, text: String) -> Result<Given, ControlError> {
    match arg.kind {
        ArgKind::Number | ArgKind::LongOption => {
            // `parse` would take a leading '+'.
            let digits = text.bytes().all(|byte| byte.is_ascii_digit());
            let number = text.parse().ok().filter(|number| digits && *number >= least(arg));
            number.map(Given::Number).ok_or_else(|| no_number(arg, &text))
        }
        ArgKind::Memory => {
            let digits = text.bytes().all(|byte| byte.is_ascii_digit());
            let bytes = if digits { bytes(&format!("{text}M")) } else { bytes(&text) };
            bytes.map(Given::Number)
        }
        ArgKind::Switch => match text.as_str() {
            "on" => Ok(Given::Flag(true)),
            "off" => Ok(Given::Flag(false)),
            other => Err(refuse(row, &format!("'{}' is neither on nor off", printable(other)))),
        },
        ArgKind::Choice(words) if !words.contains(&text.as_str()) => {
            Err(refuse(row, &format!("'{}' is none of {}", printable(&text), words.join(", "))))
        }
        ArgKind::Named(names) if !names.iter().any(|(name, _)| *name == text) => {
            Err(unknown(arg, &text, names))
        }
        _ => Ok(Given::Text(text)),
    }
}

fn check_json(arg: &Arg, value: &Value) -> Result<Given, ControlError> {
    let wrong =
        |wanted: &str| ControlError::new(format!("parameter '{}' must be {wanted}", arg.name));
    match (arg.kind, value) {
        (ArgKind::Flag(_) | ArgKind::Switch, Value::Bool(on)) => Ok(Given::Flag(*on)),
        (ArgKind::Flag(_) | ArgKind::Switch, _) => Err(wrong("true or false")),
        (ArgKind::Number | ArgKind::Memory | ArgKind::LongOption, value) => {
            let number = value.as_u64().filter(|number| *number >= least(arg));
            number.map(Given::Number).ok_or_else(|| no_number(arg, &value.to_string()))
        }
        (ArgKind::Named(names), Value::String(text)) => {
            let known = names.iter().any(|(name, _)| name == text);
            if known { Ok(Given::Text(text.clone())) } else { Err(unknown(arg, text, names)) }
        }
        (ArgKind::List(_), Value::Array(members)) => Ok(Given::List(members.clone())),
        (ArgKind::List(what), _) => Err(wrong(&format!("a list of {what}"))),
        (ArgKind::Refused(_, why), _) => {
            Err(ControlError::new(format!("parameter '{}' is refused: {why}", arg.name)))
        }
        (ArgKind::Choice(words), Value::String(text)) if words.contains(&text.as_str()) => {
            Ok(Given::Text(text.clone()))
        }
        (ArgKind::Choice(words), _) => Err(wrong(&format!("one of {}", words.join(", ")))),
        (ArgKind::Word | ArgKind::Rest, Value::String(text)) => Ok(Given::Text(text.clone())),
        (ArgKind::Word | ArgKind::Rest | ArgKind::Named(_), _) => Err(wrong("a string")),
    }
}

/// The words of a line. Double quotes keep blanks together; `\"` and `\\` stand for themselves
/// within them.
pub(crate) fn words(line: &str) -> Result<Vec<String>, ControlError> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quoted = false;
    let mut letters = line.chars();
    while let Some(letter) = letters.next() {
        match letter {
            '"' => {
                quoted = !quoted;
                word.get_or_insert_default();
            }
            '\\' if quoted => word.get_or_insert_default().extend(letters.next()),
            blank if blank.is_whitespace() && !quoted => words.extend(word.take()),
            other => word.get_or_insert_default().push(other),
        }
    }
    if quoted {
        return Err(ControlError::new("a quote '\"' is never closed"));
    }
    words.extend(word);
    Ok(words)
}
