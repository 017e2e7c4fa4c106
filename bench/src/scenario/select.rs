//! Rows by their names.

use super::{Scenario, all};
use anyhow::{Result, bail};

/// Which rows.
#[derive(Debug, Clone, Copy)]
pub enum Selection<'a> {
    /// All.
    All,
    /// Those that take seconds.
    Quick,
    /// These, and all of these groups; a `*` at the end stands for any rest.
    Named(&'a [String]),
}

fn matches(row: &Scenario, wanted: &str) -> bool {
    match wanted.strip_suffix('*') {
        Some(start) => row.name.starts_with(start),
        None => row.name == wanted || row.group == wanted,
    }
}

/// The rows, in the table's order. A name that is both a row's and its group's is the row's.
///
/// # Errors
/// When a name is no row's and no group's.
pub fn select(selection: Selection<'_>) -> Result<Vec<Scenario>> {
    let rows = all();
    let names = match selection {
        Selection::All => return Ok(rows),
        Selection::Quick => return Ok(rows.into_iter().filter(|row| row.quick).collect()),
        Selection::Named(names) => names,
    };
    for name in names {
        if !rows.iter().any(|row| matches(row, name)) {
            let mut near: Vec<&str> = rows
                .iter()
                .map(|row| row.name.as_str())
                .filter(|own| own.starts_with(name.split('-').next().unwrap_or_default()))
                .collect();
            near.truncate(8);
            let hint =
                if near.is_empty() { String::new() } else { format!(" ({})", near.join(", ")) };
            bail!("there is no scenario '{name}'{hint}; umem bench --list shows all");
        }
    }
    let exact = |name: &String| rows.iter().any(|row| row.name == *name);
    let wanted = |row: &Scenario| {
        names.iter().any(|name| if exact(name) { row.name == *name } else { matches(row, name) })
    };
    Ok(rows.iter().filter(|row| wanted(row)).cloned().collect())
}

#[cfg(test)]
mod tests {
    use super::{Selection, select};

    fn names(wanted: &[&str]) -> Vec<String> {
        let wanted: Vec<String> = wanted.iter().map(|name| (*name).to_owned()).collect();
        select(Selection::Named(&wanted)).unwrap().into_iter().map(|row| row.name).collect()
    }

    #[test]
    fn rows_are_found_by_name_group_and_beginning_in_the_tables_order() {
        assert_eq!(names(&["main"]), ["main"]);
        assert_eq!(names(&["vcpus"]), ["vcpus-1", "vcpus-2", "vcpus-4"]);
        assert_eq!(names(&["round-trip-5*", "quick"]), ["quick", "round-trip-5", "round-trip-50"]);
    }

    #[test]
    fn a_name_that_is_none_is_told_with_those_that_are_near() {
        let why = select(Selection::Named(&["main-no".to_owned()])).unwrap_err().to_string();
        assert!(why.contains("'main-no'") && why.contains("main-no-background"), "{why}");
    }

    #[test]
    fn quick_rows_are_some_of_all() {
        let (quick, all) = (select(Selection::Quick).unwrap(), select(Selection::All).unwrap());
        assert!(!quick.is_empty() && quick.len() < all.len());
    }
}
