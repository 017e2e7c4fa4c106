//! Speed of the software CPU: the guest in bench/guests/cpu under both.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use serde_json::{Map, Value, json};
use umem_bench::{stats, vm};

use super::{Setup, machine::Contender};
use crate::{
    apt,
    guest::{self, RISCV64_COMPILER as COMPILER},
    paths, run,
};

const FLAGS: [&str; 17] = [
    "-std=c11",
    "-ffreestanding",
    "-nostdlib",
    "-static",
    "-no-pie",
    "-fno-pie",
    "-O2",
    "-march=rv64gc",
    "-mabi=lp64d",
    "-mcmodel=medany",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-fno-stack-protector",
    "-fno-asynchronous-unwind-tables",
    "-Wl,--build-id=none,-T,link.ld,-z,max-page-size=4096,--no-warn-rwx-segments",
    "kernels.S",
];
/// Of the clock that the guest reads.
const TICKS_PER_SECOND: f64 = 1e7;
const LIMIT: Duration = Duration::from_secs(120);

fn build() -> Result<PathBuf> {
    apt::need(&[COMPILER])?;
    let folder = paths::root().join("bench/guests/cpu");
    let out = paths::cache().join("bench");
    fs::create_dir_all(&out)?;
    let image = out.join("cpu.elf");
    let mut command = run::command(COMPILER.0, FLAGS);
    command.args(guest::sources(&folder)?).arg("-o").arg(&image);
    run::output(command.current_dir(&folder)).context("the guest in bench/guests/cpu")?;
    Ok(image)
}

/// One line of the guest: a loop's name and its figures.
fn parse(line: &str) -> Option<(String, Value)> {
    let mut name = None;
    let mut numbers = Map::new();
    for word in line.strip_prefix("bench ")?.split(' ') {
        match word.split_once('=')? {
            ("loop", value) => name = Some(value.to_owned()),
            (key, value) => {
                numbers.insert(key.to_owned(), json!(value.parse::<u64>().ok()?));
            }
        }
    }
    let number = |key: &str| numbers.get(key)?.as_f64();
    let rate = number("instructions")? * TICKS_PER_SECOND / number("ticks")? / 1e6;
    numbers.insert("mips".into(), json!(stats::rounded(rate)));
    Some((name?, Value::Object(numbers)))
}

fn once(setup: &Setup, image: &Path, whose: Contender) -> Result<Vec<(String, Value)>> {
    let mut command = setup.machine(whose, "256M");
    command.arg("-kernel").arg(image);
    let mut found = Vec::new();
    vm::run_until(command, whose.name(), LIMIT, |line, _| {
        if line.starts_with("bench failed") {
            bail!("{}: {line}", whose.name());
        }
        found.extend(parse(line));
        Ok(line == "bench done")
    })?;
    Ok(found)
}

/// Millions of guest instructions a second, by loop.
pub(crate) fn measure(setup: &Setup) -> Result<Value> {
    let image = build()?;
    // By loop, in the guest's order: runs of umem, runs of QEMU.
    let mut loops: Vec<(String, [Vec<Value>; 2])> = Vec::new();
    for run in 1..=setup.runs {
        for (index, whose) in Contender::BOTH.into_iter().enumerate() {
            eprintln!("bench: cpu, run {run} of {}, {}", setup.runs, whose.name());
            for (name, figures) in once(setup, &image, whose)? {
                let place = match loops.iter().position(|(known, _)| *known == name) {
                    Some(place) => place,
                    None => {
                        loops.push((name, Default::default()));
                        loops.len() - 1
                    }
                };
                loops[place].1[index].push(figures);
            }
        }
    }
    let rows = loops.into_iter().map(|(name, [umem, qemu])| {
        let (ours, theirs) = (stats::median_of(&umem, "mips"), stats::median_of(&qemu, "mips"));
        json!({
            "loop": name,
            "umem_mips": ours,
            "qemu_mips": theirs,
            "umem_by_qemu": stats::ratio(&ours, &theirs),
            "umem_runs": umem,
            "qemu_runs": qemu,
        })
    });
    Ok(rows.collect())
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn a_line_of_the_guest_becomes_a_rate() {
        let (name, figures) =
            parse("bench loop=integer instructions=500000000 ticks=20000000 instret=7").unwrap();
        assert_eq!(name, "integer");
        assert_eq!(figures["mips"], 250.0);
        assert!(parse("bench done").is_none());
    }
}
