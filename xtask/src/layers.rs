//! Which crate may use which: the arrows of docs/design.md, "Layers".

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::{paths, run};

const REUSABLE: [&str; 7] = [
    "umem-memory",
    "umem-fault",
    "umem-wire",
    "umem-state",
    "umem-migrate",
    "umem-snapshot",
    "umem-link",
];

/// For each crate, the crates of ours that it may name. A crate that is not here is an error: whoever adds
/// one says where it belongs.
fn allowed() -> BTreeMap<&'static str, Vec<&'static str>> {
    let with = |base: &[&'static str], more: &[&'static str]| [base, more].concat();
    let below = ["umem-memory", "umem-fault", "umem-state"];
    BTreeMap::from([
        ("umem-memory", vec![]),
        ("umem-wire", vec![]),
        ("umem-state", vec![]),
        ("umem-fault", vec!["umem-memory"]),
        ("umem-migrate", vec!["umem-wire", "umem-state", "umem-memory"]),
        ("umem-snapshot", vec!["umem-wire", "umem-memory"]),
        ("umem-link", REUSABLE[..6].to_vec()),
        ("accel", below.to_vec()),
        ("accel-tcg", with(&below, &["accel"])),
        ("accel-kvm", with(&below, &["accel"])),
        ("devices", with(&below, &["accel"])),
        ("x86-boot", vec!["umem-memory"]),
        ("machine", with(&REUSABLE, &["accel", "accel-tcg", "accel-kvm", "devices", "x86-boot"])),
        ("monitor", with(&REUSABLE, &["machine"])),
        ("umem", with(&REUSABLE, &["accel", "devices", "machine", "monitor", "umem-bench"])),
        (
            "umem-tests",
            with(&REUSABLE, &["accel", "accel-tcg", "accel-kvm", "devices", "machine", "monitor"]),
        ),
        ("umem-bench", REUSABLE.to_vec()),
        ("xtask", vec!["umem-bench"]),
    ])
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    dependencies: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    name: String,
    /// Only our own are taken by path.
    path: Option<String>,
}

/// Fails when a crate uses one that it must not know; tests of a crate are held to the same.
pub(crate) fn check() -> Result<()> {
    let arguments = ["metadata", "--no-deps", "--format-version", "1"];
    let json = run::output(run::command(run::cargo(), arguments).current_dir(paths::root()))?;
    let metadata: Metadata = serde_json::from_slice(&json).context("cannot read cargo metadata")?;
    let wrong = violations(&metadata);
    if !wrong.is_empty() {
        bail!("layers: {}", wrong.join("; "));
    }
    println!("layers: {} crates, all arrows point down", metadata.packages.len());
    Ok(())
}

fn violations(metadata: &Metadata) -> Vec<String> {
    let allowed = allowed();
    let mut wrong = Vec::new();
    for package in &metadata.packages {
        let Some(may) = allowed.get(package.name.as_str()) else {
            wrong.push(format!(
                "{} has no place yet: give it one in xtask's layers.rs",
                package.name
            ));
            continue;
        };
        for dependency in package.dependencies.iter().filter(|dependency| dependency.path.is_some())
        {
            let itself = dependency.name == package.name;
            if !itself && !may.contains(&dependency.name.as_str()) {
                wrong.push(format!("{} must not use {}", package.name, dependency.name));
            }
        }
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::{Dependency, Metadata, Package, violations};

    fn metadata(name: &str, uses: &str) -> Metadata {
        let dependency = Dependency { name: uses.to_owned(), path: Some("x".to_owned()) };
        Metadata {
            packages: vec![Package { name: name.to_owned(), dependencies: vec![dependency] }],
        }
    }

    #[test]
    fn an_arrow_that_points_up_is_named() {
        assert_eq!(
            violations(&metadata("umem-link", "machine")),
            ["umem-link must not use machine"]
        );
        assert!(violations(&metadata("machine", "umem-link")).is_empty());
    }

    #[test]
    fn a_crate_without_a_place_is_an_error() {
        assert_eq!(violations(&metadata("umem-new", "umem-memory")).len(), 1);
    }
}
