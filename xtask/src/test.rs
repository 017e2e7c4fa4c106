//! The whole test suite, with everything it needs made ready first.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    path::PathBuf,
    process::Stdio,
};

use anyhow::{Context, Result, bail};

use crate::{apt, linux, linux_x86, paths, python, qemu, run};

/// What was left out, and why; told at the end.
#[derive(Default)]
struct Skipped(Vec<String>);

/// Gets emulators and guests, builds the program, and runs `cargo test --workspace` with `arguments`.
///
/// Tests find things by these variables: `UMEM_BIN` (the program, release build), `UMEM_QEMU_USER`,
/// `UMEM_QEMU_SYSTEM`, `UMEM_QEMU_X86`, `UMEM_LINUX` (folder with `Image` and
/// `initramfs.cpio`), `UMEM_LINUX_X86` (folder with `bzImage` and `vmlinux`), `UMEM_QMP_PYTHON` (a Python that
/// has QEMU's QMP client), and `UMEM_SKIP_LOG`: a file to which a test that cannot run here appends one line
/// `name: why`.
pub(crate) fn all(arguments: &[String]) -> Result<()> {
    with(arguments, Vec::new())
}

/// As [`all`], with more variables.
pub(crate) fn with(arguments: &[String], mut variables: Vec<(&str, PathBuf)>) -> Result<()> {
    let mut skipped = Skipped::default();
    match qemu::ensure() {
        Ok(emulators) => {
            variables.push(("UMEM_QEMU_USER", emulators.user));
            variables.push(("UMEM_QEMU_SYSTEM", emulators.system));
        }
        Err(error) => skipped.0.push(format!("no QEMU to compare with: {error:#}")),
    }
    match qemu::ensure_x86() {
        Ok(program) => variables.push(("UMEM_QEMU_X86", program)),
        Err(error) => skipped.0.push(format!("no QEMU for x86-64 guests: {error:#}")),
    }
    match linux::build() {
        Ok(()) => variables.push(("UMEM_LINUX", paths::linux_out())),
        Err(error) => skipped.0.push(format!("no Linux guest: {error:#}")),
    }
    match linux_x86::build() {
        Ok(()) => variables.push(("UMEM_LINUX_X86", paths::linux_x86_out())),
        Err(error) => skipped.0.push(format!("no Linux for x86-64: {error:#}")),
    }
    match python::ensure() {
        Ok(python) => variables.push(("UMEM_QMP_PYTHON", python)),
        Err(error) => skipped.0.push(format!("no QMP client of QEMU's: {error:#}")),
    }
    // Each test that needs one of them says so when it is not there.
    let tools = [("/usr/sbin/mke2fs", "e2fsprogs"), ("ip", "iproute2"), ("iasl", "acpica-tools")];
    if let Err(error) = apt::need(&tools) {
        eprintln!("test: {error:#}");
    }
    println!("test: cargo build --release -p umem");
    let build = ["build", "--release", "--package", "umem"];
    run::run(run::command(run::cargo(), build).current_dir(paths::root()))?;
    variables.push(("UMEM_BIN", paths::target()?.join("release/umem")));
    let log = paths::cache().join("skipped.txt");
    fs::create_dir_all(paths::cache())?;
    fs::write(&log, "")?;
    variables.push(("UMEM_SKIP_LOG", log.clone()));

    let result = cargo_test(arguments, &variables, &mut skipped);
    let more = fs::read_to_string(&log).unwrap_or_default();
    skipped.0.extend(more.lines().map(str::to_owned));
    for line in &skipped.0 {
        println!("test: skipped: {line}");
    }
    if skipped.0.is_empty() {
        println!("test: nothing was skipped");
    }
    let total = result?;
    // One closing line for the whole run.
    println!("{} passed, {} failed, {} skipped", total.passed, total.failed, skipped.0.len());
    if total.failed > 0 || !total.well {
        bail!("tests failed");
    }
    if total.passed == 0 {
        bail!("no test was run");
    }
    Ok(())
}

#[derive(Default)]
struct Total {
    passed: u64,
    failed: u64,
    well: bool,
}

fn cargo_test(
    arguments: &[String],
    variables: &[(&str, PathBuf)],
    skipped: &mut Skipped,
) -> Result<Total> {
    let mut command = run::command(run::cargo(), ["test", "--no-fail-fast"]);
    // `-p` says itself what to test.
    let narrowed = |word: &String| word.starts_with("-p") || word.starts_with("--package");
    if !arguments.iter().take_while(|&word| word != "--").any(narrowed) {
        command.arg("--workspace");
    }
    println!("test: cargo test {}", arguments.join(" "));
    command.args(arguments).current_dir(paths::root()).stdout(Stdio::piped());
    for (name, value) in variables {
        command.env(name, value);
    }
    let mut child = command.spawn().context("cannot start cargo test")?;
    let mut total = Total::default();
    if let Some(output) = child.stdout.take() {
        for line in BufReader::new(output).split(b'\n') {
            let line = line.context("cannot read what cargo test says")?;
            let text = String::from_utf8_lossy(&line);
            writeln!(std::io::stdout(), "{text}")?;
            total.take(&text, skipped);
        }
    }
    total.well = child.wait().context("cargo test went away")?.success();
    Ok(total)
}

impl Total {
    /// Adds up the lines by which libtest closes, and keeps the names of tests that are ignored.
    fn take(&mut self, line: &str, skipped: &mut Skipped) {
        if let Some((name, why)) =
            line.strip_prefix("test ").and_then(|rest| rest.split_once(" ... ignored"))
        {
            // Examples in documentation that only have to compile are marked the same way.
            if !name.contains(" (line ") {
                skipped.0.push(format!("{name}: {}", why.trim_start_matches(", ").trim_end()));
            }
        }
        let Some(result) = line.strip_prefix("test result: ") else { return };
        let words: Vec<&str> = result.split_whitespace().collect();
        for pair in words.windows(2) {
            if let [number, what] = pair {
                let number = number.parse().unwrap_or(0);
                match what.trim_end_matches(';') {
                    "passed" => self.passed += number,
                    "failed" => self.failed += number,
                    _ => {}
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Skipped, Total};

    #[test]
    fn the_closing_lines_of_all_test_programs_are_added_up() {
        let (mut total, mut skipped) = (Total::default(), Skipped::default());
        for line in [
            "test a::b ... ok",
            "test a::c ... ignored, needs a disk",
            "test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 1s",
            "test result: FAILED. 3 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out",
        ] {
            total.take(line, &mut skipped);
        }
        assert_eq!((total.passed, total.failed), (15, 2));
        assert_eq!(skipped.0, ["a::c: needs a disk"]);
    }
}
