//! Moves, step by step.

use crate::vm::Vm;
use serde_json::{Value, json};

/// Boot arguments of the bare-metal guest: it is small, busy, and beats all the time.
#[must_use]
pub fn guest(seed: u32) -> String {
    format!("rate=2000 fill=70 beat_us=2000 seed={seed}")
}

/// Waits until the guest's memory is filled and the guest beats.
pub fn ready(vm: &Vm) {
    vm.serial.wait_line(0, "ready ");
    vm.serial.wait_beats(20);
}

/// Gives a command that must be taken without a word.
///
/// # Panics
/// When it is refused.
pub fn accept(vm: &mut Vm, command: &str) {
    let answer = vm.text.command(command);
    assert_eq!(answer, "", "{}: {command}", vm.name);
}

/// Gives a command that must be refused, with these words.
///
/// # Panics
/// When it is taken, or refused in other words.
pub fn refuse(vm: &mut Vm, command: &str, words: &[&str]) {
    let answer = vm.text.command(command);
    assert!(answer.starts_with("Error: "), "{}: {command}: {answer}", vm.name);
    for word in words {
        assert!(answer.contains(word), "{}: {command}: no '{word}' in: {answer}", vm.name);
    }
}

/// Waits for the end of a move and looks at both ends; what they say.
///
/// # Panics
/// When they do not agree that everything arrived.
pub fn complete(source: &mut Vm, destination: &mut Vm) -> (Value, Value) {
    let gone = source.wait_phase(&["completed"]);
    // All pages are there a moment before the source has agreed that they are the same.
    let come = crate::until("both ends to agree", || {
        let come = destination.wait_phase(&["completed"]);
        (come["verified"] == true || !come["error"].is_null()).then_some(come)
    });
    for (status, end) in [(&gone, "source"), (&come, "destination")] {
        assert_eq!(status["end"], end);
        assert_eq!(status["verified"], true, "{status:#}");
        assert_eq!(status["pages"]["remaining"], 0, "{status:#}");
        assert_eq!(status["error"], json!(null));
        let pages = &status["pages"];
        let causes = ["precopy", "demand", "prefault", "background"];
        let causes = causes.map(|cause| pages[cause].as_u64());
        let sum: u64 = causes.into_iter().flatten().sum();
        assert_eq!(Some(sum), pages["total"].as_u64(), "{status:#}");
    }
    assert_eq!(gone["digest"], come["digest"]);
    assert!(gone["digest"].as_str().is_some_and(|digest| digest.len() == 32), "{gone:#}");
    assert_eq!(source.status(), "postmigrate");
    refuse(source, "cont", &["handed over"]);
    (gone, come)
}

/// Phases of migrations that the JSON monitor has told of so far.
pub fn phases(vm: &mut Vm) -> Vec<String> {
    // An answer comes behind all events before it.
    vm.status();
    let events = vm.qmp.events.iter().filter(|event| event["event"] == "MIGRATION");
    events.map(|event| event["data"]["status"].as_str().unwrap_or_default().to_owned()).collect()
}

/// The guest did not leave: it runs at the source as if nothing had been, and did not arrive.
///
/// # Panics
/// When it did.
pub fn stays(source: &mut Vm) {
    crate::until("the guest to run at the source", || (source.status() == "running").then_some(()));
    source.serial.wait_beats(20);
}

/// The error of a migration that failed, which must have these words.
///
/// # Panics
/// When there is none, or other words.
pub fn error(vm: &mut Vm, words: &[&str]) -> String {
    let name = vm.name.clone();
    // Both monitors say the same; the newest stranger's fault may replace an older one meanwhile.
    let text = crate::until(format!("an error at {name}, in both monitors"), || {
        let text = vm.migration()["error"].as_str().map(str::to_owned)?;
        let shown = vm.text.command("info migrate");
        shown.contains(&format!("error: {text}\n")).then_some(text)
    });
    for word in words {
        assert!(text.contains(word), "{name}: no '{word}' in: {text}");
    }
    assert!(!text.contains('\n'), "one line: {text}");
    text
}
