//! What may follow the beginning of a line, for the terminal's Tab.

use super::{Arg, ArgKind, Command, PARAMETERS, TABLE, arguments};

/// Whole lines up to the next word, each of which begins with `before`.
pub(crate) fn completions(before: &str) -> Vec<String> {
    let names = TABLE.iter().filter_map(|row| row.text);
    let mut found: Vec<String> =
        names.filter(|name| name.starts_with(before)).map(str::to_owned).collect();
    let start = before.rfind(char::is_whitespace).map_or(0, |blank| blank + 1);
    let (done, open) = before.split_at(start);
    for word in next_words(done) {
        let line = format!("{done}{word}");
        if word.starts_with(open) && !found.contains(&line) {
            found.push(line);
        }
    }
    found
}

/// The words that may come behind whole ones.
fn next_words(done: &str) -> Vec<&'static str> {
    let words: Vec<String> = done.split_whitespace().map(str::to_owned).collect();
    let Some((row, taken)) = super::find_text(&words) else { return Vec::new() };
    let given: Vec<&str> = words.iter().skip(taken).map(String::as_str).collect();
    if row.text == Some("help") && given.is_empty() {
        return TABLE.iter().filter_map(|row| row.text).collect();
    }
    match next_argument(row, &given) {
        Some(Arg { kind: ArgKind::Switch, .. }) => vec!["on", "off"],
        Some(Arg { kind: ArgKind::Choice(words), .. }) => words.to_vec(),
        Some(Arg { kind: ArgKind::Named(names), .. }) => {
            names.iter().map(|(name, _)| *name).collect()
        }
        // The only word that depends on the one before it.
        Some(Arg { name: "value", .. }) => PARAMETERS
            .iter()
            .find(|parameter| given.last() == Some(&parameter.name))
            .map_or_else(Vec::new, |parameter| parameter.domain.words().to_vec()),
        _ => Vec::new(),
    }
}

fn next_argument(row: &'static Command, given: &[&str]) -> Option<&'static Arg> {
    let places = row.args.iter().filter(|arg| arguments::has_place(arg));
    places.into_iter().nth(given.iter().filter(|word| !word.starts_with('-')).count())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_parameters_capabilities_and_their_values_are_completed() {
        let whole = |before: &str| completions(before);
        assert_eq!(whole("info migrate_p"), ["info migrate_parameters"]);
        assert_eq!(whole("migrate_set_p"), ["migrate_set_parameter"]);
        assert_eq!(
            whole("migrate_set_parameter cpu"),
            [
                "migrate_set_parameter cpu-throttle-initial",
                "migrate_set_parameter cpu-throttle-increment"
            ]
        );
        assert_eq!(
            whole("migrate_set_parameter "),
            PARAMETERS.map(|parameter| format!("migrate_set_parameter {}", parameter.name))
        );
        assert_eq!(
            whole("migrate_set_parameter postcopy-switch m"),
            ["migrate_set_parameter postcopy-switch manual"]
        );
        assert_eq!(whole("migrate_set_parameter downtime-limit "), [""; 0]);
        assert_eq!(whole("migrate_set_capability auto"), ["migrate_set_capability auto-converge"]);
        assert_eq!(
            whole("migrate_set_capability auto-converge o"),
            ["migrate_set_capability auto-converge on", "migrate_set_capability auto-converge off"]
        );
        assert_eq!(whole("migrate_resolve so"), ["migrate_resolve source"]);
        assert_eq!(whole("help migrate_pa"), ["help migrate_pause"]);
        assert_eq!(whole("stop "), [""; 0]);
        assert_eq!(whole("nonsense "), [""; 0]);
    }
}
