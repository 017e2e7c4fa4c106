//! What can be checked without running anything.

use anyhow::Result;

use crate::{guest, layers, paths, run};

/// Format, lints, documentation, layers, and that the guest's image is what its source gives.
pub(crate) fn all() -> Result<()> {
    cargo(&["fmt", "--all", "--check"], "")?;
    layers::check()?;
    cargo(&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"], "")?;
    cargo(&["doc", "--workspace", "--no-deps"], "-D warnings")?;
    guest::check()?;
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
