//! Puts threads of a destination on cores, from outside and by their names, as soon as they are there.

use crate::cores;
use crate::scenario::{Core, Placement};
use anyhow::{Context as _, Result};
use rustix::thread::Pid;
use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// Between two looks for new threads.
const LOOK: Duration = Duration::from_millis(2);
/// How often a thread is looked at: it bears the name of the one that started it until it names itself.
const LOOKS: u32 = 100;

/// Pins until it is ended.
pub(super) struct Pinning {
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<Vec<String>>>,
}

impl Pinning {
    /// Begins to look for the threads of this process. It looks until all are there, or until it is ended.
    pub(super) fn start(process: u32, placement: Placement) -> Result<Option<Self>> {
        let wanted = placement.threads();
        if wanted.is_empty() {
            return Ok(None);
        }
        Self::look_for(process, wanted).map(Some)
    }

    fn look_for(process: u32, wanted: &'static [(&'static str, Core)]) -> Result<Self> {
        let cores = cores::pair()?;
        let over = Arc::new(AtomicBool::new(false));
        let ended = over.clone();
        let body = move || {
            let mut search = Search { process, wanted, cores, known: BTreeMap::new() };
            let (mut failed, mut more) = (Vec::new(), LOOKS);
            // Others of the same names may follow those that were found, but not much later.
            while !ended.load(Ordering::Acquire) && more > 0 {
                search.look(&mut failed);
                more = if search.missing().next().is_some() { LOOKS } else { more - 1 };
                thread::sleep(LOOK);
            }
            failed.extend(search.missing());
            failed
        };
        let thread =
            thread::Builder::new().name("pinning".into()).spawn(body).context("no thread")?;
        Ok(Self { over, thread: Some(thread) })
    }

    /// Ends the search; what was not found or could not be pinned.
    pub(super) fn end(mut self) -> Vec<String> {
        self.over.store(true, Ordering::Release);
        let ended = self.thread.take().map(JoinHandle::join);
        match ended {
            Some(Ok(failed)) => failed,
            _ => vec!["the search for threads failed".to_owned()],
        }
    }
}

impl Drop for Pinning {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Release);
    }
}

struct Search {
    process: u32,
    wanted: &'static [(&'static str, Core)],
    cores: [usize; 2],
    /// Threads by their numbers: the name as it was read last, and how often it was.
    known: BTreeMap<u32, (String, u32)>,
}

impl Search {
    fn core_of(&self, name: &str) -> Option<usize> {
        let [first, second] = self.cores;
        let (_, core) = self.wanted.iter().find(|(start, _)| name.starts_with(start))?;
        Some(if *core == Core::First { first } else { second })
    }

    fn look(&mut self, failed: &mut Vec<String>) {
        let folder = format!("/proc/{}/task", self.process);
        let numbers = fs::read_dir(&folder).into_iter().flatten().flatten();
        let numbers = numbers.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        for number in numbers.collect::<Vec<u32>>() {
            let looks = self.known.get(&number).map_or(0, |(_, looks)| *looks);
            if looks == LOOKS {
                continue;
            }
            // It may have ended meanwhile.
            let Ok(name) = fs::read_to_string(format!("{folder}/{number}/comm")) else { continue };
            let name = name.trim_end().to_owned();
            let mut looks = looks + 1;
            if let Some(core) = self.core_of(&name) {
                looks = LOOKS;
                let why = pin(number, core).err();
                failed.extend(why.map(|why| format!("'{name}' is not on core {core}: {why:#}")));
            }
            self.known.insert(number, (name, looks));
        }
    }

    fn missing(&self) -> impl Iterator<Item = String> {
        let found = |start: &str| self.known.values().any(|(name, _)| name.starts_with(start));
        let missing = self.wanted.iter().map(|(start, _)| *start).filter(move |it| !found(it));
        missing.map(|start| format!("no thread '{start}' was found, none was put on a core"))
    }
}

fn pin(thread: u32, core: usize) -> Result<()> {
    let thread = i32::try_from(thread).ok().and_then(Pid::from_raw).context("no such thread")?;
    cores::pin(Some(thread), core)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;
    use std::time::Instant;

    /// A thread of this process with this name that lives until its sender is dropped, and its number.
    fn named(name: &str) -> (std::sync::mpsc::Sender<()>, Pid) {
        let ((end, ended), (told, number)) = (channel::<()>(), channel());
        thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                told.send(rustix::thread::gettid()).unwrap();
                let _ = ended.recv();
            })
            .unwrap();
        (end, number.recv().unwrap())
    }

    fn runs_on(thread: Pid) -> Vec<usize> {
        cores::of(Some(thread)).unwrap()
    }

    #[test]
    fn threads_are_found_before_and_after_and_one_that_never_comes_is_told() {
        let Ok([first, second]) = cores::pair() else { return };
        // Names that no other test of this process gives its threads.
        const WANTED: &[(&str, Core)] = &[
            ("pin-vcpu-", Core::First),
            ("pin-reader", Core::First),
            ("pin-bulk", Core::Second),
            ("pin-demand", Core::First),
        ];
        let (_vcpu, vcpu) = named("pin-vcpu-0");
        let (_other, other) = named("pin-not");
        let pinning = Pinning::look_for(std::process::id(), WANTED).unwrap();
        let (_reader, reader) = named("pin-reader");
        let (_bulk, bulk) = named("pin-bulk");
        let until = Instant::now() + Duration::from_secs(20);
        while [vcpu, reader, bulk].map(runs_on) != [vec![first], vec![first], vec![second]] {
            assert!(Instant::now() < until, "{:?}", [vcpu, reader, bulk].map(runs_on));
            thread::sleep(LOOK);
        }
        assert!(runs_on(other).len() > 1, "nobody asked for that one");
        let missing = pinning.end();
        assert!(missing.len() == 1 && missing[0].contains("'pin-demand'"), "{missing:?}");
    }

    #[test]
    fn a_free_placement_looks_for_nothing() {
        assert!(Pinning::start(std::process::id(), Placement::Free).unwrap().is_none());
    }
}
