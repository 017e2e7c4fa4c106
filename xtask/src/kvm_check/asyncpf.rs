//! What async page faults are worth: KVM tells a guest that a page is on its way, so that its kernel can run
//! another thread meanwhile.
//!
//! One vCPU and two threads that write, so that there is another; the same postcopy with and without, one
//! after the other, so that what else happens on the host meets both.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use umem_bench::{
    interrupt,
    stats::{median, rounded},
    warm,
};

use super::{
    guest::{Boot, Setup},
    report::{Check, Outcome, Report},
    session::{Session, Way},
};

/// How long the guest's rate is taken before the move, and after the switch.
const WINDOW: Duration = Duration::from_secs(1);
/// From the begin of the move to the end of what the guest times.
const WATCHED: Duration = Duration::from_secs(2);
/// Pages written a second by both threads: many meet pages that are still missing.
const RATE: u64 = 20_000;
const CPUS: [(&str, &str); 2] = [("on", ""), ("off", ",kvm-asyncpf=off")];

/// Each figure, and what it is called in the report.
const FIGURES: [(&str, &str); 9] = [
    ("first_second_percent", "writes in the first second, % of before"),
    ("touch_us_p50", "one write, p50, µs"),
    ("touch_us_p99", "one write, p99, µs"),
    ("touch_us_max", "one write, longest, µs"),
    ("faults", "faults"),
    ("fault_us_p50", "fault, p50, µs"),
    ("fault_us_p99", "fault, p99, µs"),
    ("longest_gap_ms", "longest silence, ms"),
    ("total_ms", "move, ms"),
];

const ABOUT: &str = "Postcopy of one vCPU with two threads that write, `-cpu host` (on) and \
    `-cpu host,kvm-asyncpf=off` (off), by turns; what the guest timed is from the begin of the move \
    until 2 s later.";

fn once(
    setup: &Setup,
    cpu: &'static str,
    background: bool,
    seed: u64,
    folder: &Path,
    limit: Duration,
) -> Result<Value> {
    let boot = Boot { vcpus: 1, threads: 2, rate: RATE, seed, cpu };
    let mut session = Session::boot(setup, &boot, folder, limit)?;
    let result = measured(&mut session, background, setup.memory_bytes);
    result.with_context(|| format!("consoles: {:?}", session.last_lines()))
}

fn measured(session: &mut Session, background: bool, memory_bytes: u64) -> Result<Value> {
    session.until_ready()?;
    warm::memory(memory_bytes)?;
    session.prepare()?;
    session.listen_for(WINDOW + Duration::from_millis(200))?;
    session.mark()?;
    let start = Instant::now();
    session.go(if background { Way::Postcopy } else { Way::OnDemand })?;
    session.watch("postcopy-active")?;
    session.listen_for(WATCHED.saturating_sub(start.elapsed()))?;
    session.other()?.port.send(b'v')?;
    let (told, _) = session.other()?.qmp.migration()?;
    if !background {
        let on = json!({ "x-umem-postcopy-background": true });
        session.run("migrate-set-parameters", &on)?;
    }
    let [from, _] = session.complete()?;
    let verdict = session.verdict()?;
    ensure!(verdict.ok, "the guest found its memory altered: {verdict:?}");
    let beats = &session.beats;
    let former = start.checked_sub(WINDOW).and_then(|begin| beats.per_second(begin, WINDOW));
    let after = beats.switch().and_then(|switch| beats.per_second(switch, WINDOW));
    let share = former.zip(after).map(|(before, after)| rounded(100.0 * after / before));
    Ok(json!({
        "first_second_percent": share,
        "writes_per_second_before": former.map(rounded),
        "touch_us_p50": verdict.touch_us_p50,
        "touch_us_p99": verdict.touch_us_p99,
        "touch_us_max": verdict.touch_us_max,
        "faults": told.faults.count,
        "fault_us_p50": rounded(told.faults.p50),
        "fault_us_p99": rounded(told.faults.p99),
        "longest_gap_ms": rounded(beats.longest_gap_ms(start, start + WATCHED)),
        "total_ms": background.then(|| rounded(from.total_ms)),
        "guest_uses_them": session.consoles.told.async_page_faults,
    }))
}

/// Linux says whether it uses them: what is compared is really on and off.
fn is_what_was_asked(setup: &Setup, name: &str, run: &Value) -> Result<()> {
    let uses = run["guest_uses_them"] == true;
    ensure!(
        !setup.guest.is_linux() || uses == (name == "on"),
        "asked for {name}, but the guest's kernel says otherwise"
    );
    Ok(())
}

/// Runs `reps` pairs with and without background, and puts them into the report.
pub(super) fn compare(
    setup: &Setup,
    reps: u32,
    folder: &Path,
    limit: Duration,
    report: &mut Report,
) -> Result<()> {
    let (mut rows, mut all) = (Vec::new(), Vec::new());
    for background in [true, false] {
        let word = if background { "on" } else { "off" };
        let mut pairs: Vec<[Value; 2]> = Vec::new();
        for pair in 1..=reps {
            let mut runs = [Value::Null, Value::Null];
            for ((name, cpu), run) in CPUS.into_iter().zip(&mut runs) {
                interrupt::check()?;
                let place = folder.join(format!("asyncpf-{word}-{pair}-{name}"));
                fs::create_dir(&place).context("no folder for sockets")?;
                let start = Instant::now();
                let found = once(setup, cpu, background, u64::from(pair) * 7919, &place, limit);
                let found =
                    found.and_then(|run| is_what_was_asked(setup, name, &run).map(|()| run));
                fs::remove_dir_all(&place).context("cannot remove a folder of sockets")?;
                let title = format!("{name}, background {word}, {pair} of {reps}");
                let outcome = match &found {
                    Ok(found) => Outcome::Passed(format!(
                        "{} % of the writes in the first second, {} faults",
                        found["first_second_percent"], found["faults"]
                    )),
                    Err(error) => Outcome::Failed(format!("{error:#}")),
                };
                let mut check = Check::new("async page faults", &title, outcome);
                check.seconds = start.elapsed().as_secs_f64();
                *run = found.unwrap_or_default();
                check.figures = run.clone();
                let failed = check.has_failed();
                report.add(check);
                if failed {
                    // What cannot be done once is not tried again and again.
                    report.comparison = json!({ "about": ABOUT, "rows": rows, "pairs": all });
                    return Ok(());
                }
            }
            all.push(json!({ "background": word, "pair": pair, "on": runs[0], "off": runs[1] }));
            rows.extend(FIGURES.map(|figure| row(word, &json!(pair), figure, &runs)));
            pairs.push(runs);
        }
        rows.extend(
            FIGURES.map(|figure| row(word, &json!("median"), figure, &medians(&pairs, figure.0))),
        );
    }
    report.comparison = json!({ "about": ABOUT, "rows": rows, "pairs": all });
    Ok(())
}

fn medians(pairs: &[[Value; 2]], name: &str) -> [Value; 2] {
    [0, 1].map(|which| {
        let values = pairs.iter().filter_map(|pair| pair.get(which)?[name].as_f64());
        let found = median(&values.collect::<Vec<_>>()).map(rounded);
        json!({ name: found })
    })
}

fn row(background: &str, pair: &Value, (name, title): (&str, &str), runs: &[Value; 2]) -> Value {
    let [on, off] = runs.each_ref().map(|run| run[name].clone());
    let ratio = umem_bench::stats::ratio(&off, &on);
    json!({ "background": background, "pair": pair, "figure": title, "on": on, "off": off, "ratio": ratio })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_give_rows_with_ratios_and_medians() {
        let pair = |on: u64, off: u64| [json!({ "faults": on }), json!({ "faults": off })];
        let found = row("on", &json!(1), ("faults", "faults"), &pair(200, 100));
        assert_eq!(
            (&found["on"], &found["off"], &found["ratio"]),
            (&json!(200), &json!(100), &json!(0.5))
        );
        let pairs = [pair(1, 10), pair(3, 30), pair(2, 20)];
        let [on, off] = medians(&pairs, "faults");
        assert_eq!((&on["faults"], &off["faults"]), (&json!(2.0), &json!(20.0)));
        assert!(row("on", &json!(1), ("missing", "m"), &pair(1, 2))["ratio"].is_null());
    }
}
