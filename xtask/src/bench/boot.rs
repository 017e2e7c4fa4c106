//! Debian's kernel from the start of the process to its init.

use std::time::Duration;

use anyhow::Result;
use serde_json::{Value, json};
use umem_bench::{stats, vm};

use super::{Setup, machine::Contender};

const LIMIT: Duration = Duration::from_secs(120);
/// What the guest's init says first, once it has mounted what it needs and loaded the drivers.
const FIRST_WORD: &str = "umem Linux guest";
/// What the kernel says as it starts init.
const KERNEL_DONE: &str = "Run /init as init process";

fn once(setup: &Setup, whose: Contender) -> Result<Value> {
    let mut command = setup.machine(whose, "1G");
    setup.linux(&mut command, "console=ttyS0");
    let (mut init, mut greeting) = (None, None);
    vm::run_until(command, whose.name(), LIMIT, |line, since| {
        if line.contains(KERNEL_DONE) {
            init = Some(since);
        } else if line.contains(FIRST_WORD) {
            greeting = Some(since);
        }
        Ok(greeting.is_some())
    })?;
    let ms = |time: Option<Duration>| time.map(|time| stats::rounded(time.as_secs_f64() * 1e3));
    Ok(json!({ "init_ms": ms(init), "greeting_ms": ms(greeting) }))
}

/// Milliseconds from the start of the process, both ways of looking at it.
pub(crate) fn measure(setup: &Setup) -> Result<Value> {
    let mut runs: [Vec<Value>; 2] = Default::default();
    for run in 1..=setup.runs {
        for (whose, runs) in Contender::BOTH.into_iter().zip(&mut runs) {
            eprintln!("bench: boot, run {run} of {}, {}", setup.runs, whose.name());
            runs.push(once(setup, whose)?);
        }
    }
    let [umem, qemu] = runs;
    let rows = [("init_ms", "kernel starts init"), ("greeting_ms", "init's first line")];
    let rows = rows.map(|(field, until)| {
        let (ours, theirs) = (stats::median_of(&umem, field), stats::median_of(&qemu, field));
        json!({
            "until": until,
            "umem_ms": ours,
            "qemu_ms": theirs,
            "umem_by_qemu": stats::ratio(&ours, &theirs),
        })
    });
    Ok(json!({ "times": rows, "umem_runs": umem, "qemu_runs": qemu }))
}
