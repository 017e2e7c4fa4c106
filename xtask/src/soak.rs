//! One guest moved many times between the same two processes.

use crate::{run, test};
use anyhow::Result;
use std::path::PathBuf;

/// Options of `cargo xtask soak`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// How often the guest moves
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    moves: u32,
    /// Write what was seen after each move there, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Makes ready what it needs and runs it.
pub(crate) fn moves(options: &Options) -> Result<()> {
    let mut variables = vec![("UMEM_SOAK_MOVES", options.moves.to_string().into())];
    if let Some(path) = &options.json {
        variables.push(("UMEM_SOAK_JSON", run::absolute(path)?));
    }
    println!("soak: {} moves", options.moves);
    let words = ["-p", "umem-tests", "--test", "soak", "--", "--nocapture"].map(String::from);
    test::with(&words, variables)
}
