//! Arguments of a command, from words of a line or from a JSON object, checked against its row.

use super::{Arg, ArgKind, Command, printable};
use machine::ControlError;
use serde_json::{Map, Value};
use std::collections::BTreeMap;

#[derive(Debug, Clone, PartialEq, Eq)]
enum Given {
    Flag(bool),
    Text(String),
    Number(u64),
}

/// Checked arguments, by the names in the table.
#[derive(Debug, Default)]
pub(crate) struct Args(BTreeMap<&'static str, Given>);

impl Args {
    /// Whether a flag is set.
    pub(crate) fn flag(&self, name: &str) -> bool {
        self.0.get(name) == Some(&Given::Flag(true))
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

    /// From the words behind a command's name.
    pub(crate) fn from_words(row: &Command, words: &[String]) -> Result<Self, ControlError> {
        let mut args = Self::default();
        let mut places = row.args.iter().filter(|arg| !matches!(arg.kind, ArgKind::Flag(_)));
        let mut words = words.iter();
        while let Some(word) = words.next() {
            if let Some(letters) = flags(word, row) {
                for letter in letters.chars() {
                    let arg = row.args.iter().find(|arg| is_flag(arg, letter));
                    let arg = arg.ok_or_else(|| {
                        refuse(
                            row,
                            &format!("there is no option -{}", printable(&letter.to_string())),
                        )
                    })?;
                    args.0.insert(arg.name, Given::Flag(true));
                }
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
            args.0.insert(arg.name, check_json(arg, value)?);
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

fn is_flag(arg: &Arg, letter: char) -> bool {
    matches!(arg.kind, ArgKind::Flag(own) if own == letter)
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
    ControlError::new(format!(
        "'{}' must be a whole number of 0 or more, not '{}'",
        arg.name,
        printable(shown)
    ))
}

fn check_text(row: &Command, arg: &Arg, text: String) -> Result<Given, ControlError> {
    match arg.kind {
        ArgKind::Number => {
            // `parse` would take a leading '+'.
            let digits = text.bytes().all(|byte| byte.is_ascii_digit());
            let number = text.parse().ok().filter(|_| digits);
            number.map(Given::Number).ok_or_else(|| no_number(arg, &text))
        }
        ArgKind::Choice(words) if !words.contains(&text.as_str()) => {
            Err(refuse(row, &format!("'{}' is none of {}", printable(&text), words.join(", "))))
        }
        _ => Ok(Given::Text(text)),
    }
}

fn check_json(arg: &Arg, value: &Value) -> Result<Given, ControlError> {
    let wrong =
        |wanted: &str| ControlError::new(format!("parameter '{}' must be {wanted}", arg.name));
    match (arg.kind, value) {
        (ArgKind::Flag(_), Value::Bool(on)) => Ok(Given::Flag(*on)),
        (ArgKind::Flag(_), _) => Err(wrong("true or false")),
        (ArgKind::Number, value) => {
            value.as_u64().map(Given::Number).ok_or_else(|| no_number(arg, &value.to_string()))
        }
        (ArgKind::Choice(words), Value::String(text)) if words.contains(&text.as_str()) => {
            Ok(Given::Text(text.clone()))
        }
        (ArgKind::Choice(words), _) => Err(wrong(&format!("one of {}", words.join(", ")))),
        (ArgKind::Word | ArgKind::Rest, Value::String(text)) => Ok(Given::Text(text.clone())),
        (ArgKind::Word | ArgKind::Rest, _) => Err(wrong("a string")),
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
