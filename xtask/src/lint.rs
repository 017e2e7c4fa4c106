//! What can be checked without running anything.

use anyhow::{Result, bail};

use crate::{guest, layers, paths, run};

/// Format, lints, documentation, layers, and that the guest's image is what its source gives. One that
/// fails does not keep the others from being told.
pub(crate) fn all() -> Result<()> {
    let steps: [(&str, Result<()>); 5] = [
        ("layers", layers::check()),
        ("format", cargo(&["fmt", "--all", "--check"], "")),
        ("the guest's image", guest::check()),
        ("clippy", cargo(&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"], "")),
        ("documentation", cargo(&["doc", "--workspace", "--no-deps"], "-D warnings")),
    ];
    let mut failed = Vec::new();
    for (name, result) in steps {
        if let Err(error) = result {
            eprintln!("lint: {name}: {error:#}");
            failed.push(name);
        }
    }
    if !failed.is_empty() {
        bail!("lint failed: {}", failed.join(", "));
    }
    println!("lint: all well");
    Ok(())
}

fn cargo(arguments: &[&str], rustdoc_flags: &str) -> Result<()> {
    println!("lint: cargo {}", arguments.join(" "));
    let mut command = run::command(run::cargo(), arguments);
    if !rustdoc_flags.is_empty() {
        command.env("RUSTDOCFLAGS", rustdoc_flags);
    }
    run::run(command.current_dir(paths::root()))
}
