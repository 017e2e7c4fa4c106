//! Ways to move the bare-metal guest, each a case of a table: what is set, how it moves, and what must
//! be seen of it. Whatever the case, the guest checks its memory and both ends agree on all pages.

use crate::moving::{accept, complete, guest, phases, ready};
use crate::proxy::{Cut, Proxy, Role};
use crate::vm::Vm;
use crate::{Lab, until};
use serde_json::Value;
use std::os::unix::net::UnixStream;

/// How the pages move.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// All in rounds, the last while the guest stands still.
    Precopy,
    /// All after the switch.
    Postcopy,
    /// So many rounds, then the switch.
    Hybrid(u64),
}

/// What the ends talk over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Via {
    /// TCP.
    Tcp,
    /// TCP through a proxy that counts, for [`Check::Connections`].
    Counted,
    /// A Unix socket.
    Unix,
    /// One descriptor that both have inherited.
    Descriptor,
}

/// What must be seen of a move, beside what each of its mode shows.
#[derive(Debug, Clone, Copy)]
pub enum Check {
    /// The guest waited for pages.
    Faults,
    /// Some pages came that nobody asked for, after the switch.
    Background,
    /// Neighbours came along, at most so many a page that was asked for.
    Neighbours(u64),
    /// Copies were void at the switch: the guest wrote in the rounds.
    Discarded,
    /// So many connections for the background carried pages.
    Connections(usize),
    /// A limit on bandwidth kept it from being done before so many milliseconds. No host is too slow
    /// for this.
    NotBefore(f64),
    /// Pages went packed, with this codec at last.
    Packed(&'static str),
    /// Pages went as what has changed of them.
    Differences,
    /// RAM of the destination is a memfd's, or not.
    RamInMemfd(bool),
    /// Most of the pages are mapped when nobody has touched them yet, or few are.
    Mapped(bool),
}

/// A way to move.
#[derive(Debug, Clone, Copy)]
pub struct Case {
    /// How the pages move.
    pub mode: Mode,
    /// Options of `migrate` beside the mode's.
    pub options: &'static str,
    /// Pages to send beyond and before each that is asked for.
    pub neighbours: &'static str,
    /// Options of the destination beside memory, `-postcopy` and `-incoming`.
    pub destination: &'static str,
    /// Parameters of the migration.
    pub parameters: &'static [&'static str],
    /// What the ends talk over.
    pub via: Via,
    /// The guest is stopped before, and arrives so.
    pub stopped: bool,
    /// What must be seen.
    pub checks: &'static [Check],
}

/// Precopy as it is by default.
pub const PRECOPY: Case = Case {
    mode: Mode::Precopy,
    options: "",
    neighbours: "",
    destination: "",
    parameters: &[],
    via: Via::Tcp,
    stopped: false,
    checks: &[],
};

/// Postcopy as it is by default.
pub const POSTCOPY: Case = Case { mode: Mode::Postcopy, ..PRECOPY };

/// One round of precopy, then postcopy.
pub const HYBRID: Case = Case { mode: Mode::Hybrid(1), ..PRECOPY };

/// Memory of each guest.
const MEMORY: &str = "-m 64M";

/// No pages beyond those that are asked for.
pub const NO_NEIGHBOURS: &str = "0 0";

/// Most pages that come with the state, unasked.
pub const SENT_AHEAD: u64 = 128;

/// Both VMs of a case, and how to reach the destination.
struct Pair {
    source: Vm,
    destination: Vm,
    uri: String,
    proxy: Option<Proxy>,
}

impl Case {
    /// Moves a guest in this way and looks at everything.
    ///
    /// # Panics
    /// When anything is not as it should be.
    pub fn run(&self) {
        let lab = Lab::new();
        lab.note(format!("{self:?}"));
        let mut pair = self.start(&lab);
        for parameter in self.parameters {
            accept(&mut pair.source, &format!("migrate_set_parameter {parameter}"));
        }
        if self.stopped {
            accept(&mut pair.source, "stop");
        }
        accept(&mut pair.source, &self.command(&pair.uri));
        if self.on_demand_alone() {
            self.ask_for_everything(&mut pair);
        }
        let (gone, come) = complete(&mut pair.source, &mut pair.destination);
        self.look_at_mode(&mut pair, &gone, &come);
        for check in self.checks {
            look(*check, &pair, &gone, &come);
        }
        if self.stopped {
            assert_eq!(pair.destination.status(), "paused");
            accept(&mut pair.destination, "cont");
        }
        pair.destination.serial.wait_beats(20);
        goes_on(&pair);
        pair.destination.verify();
    }

    /// Whether nothing goes that is not asked for.
    fn on_demand_alone(&self) -> bool {
        self.options.contains("-n")
    }

    fn command(&self, uri: &str) -> String {
        let mode = match self.mode {
            Mode::Precopy => String::new(),
            Mode::Postcopy => "-p".to_owned(),
            Mode::Hybrid(rounds) => format!("-p --precopy {rounds}"),
        };
        format!("migrate {mode} {} {uri} {}", self.options, self.neighbours)
    }

    fn start(&self, lab: &Lab) -> Pair {
        let postcopy = if self.mode == Mode::Precopy { "" } else { "-postcopy" };
        let destination = lab.vm("b", &format!("{MEMORY} {postcopy} {}", self.destination));
        let source = lab.vm("a", MEMORY).bare(&guest(7));
        let (source, mut destination, uri) = match self.via {
            Via::Tcp | Via::Counted => {
                let destination = destination.option(["-incoming", "tcp:127.0.0.1:0"]).start();
                (source.start(), destination, String::new())
            }
            Via::Unix => {
                let uri = format!("unix:{}", lab.path("m").display());
                let destination = destination.option(["-incoming", &uri]).start();
                (source.start(), destination, uri)
            }
            Via::Descriptor => {
                let (ours, theirs) = UnixStream::pair().expect("a pair of sockets");
                let destination = destination.option(["-incoming", "fd:0"]);
                let destination = destination.descriptor_0(theirs).start();
                (source.descriptor_0(ours).start(), destination, "fd:0".to_owned())
            }
        };
        let uri = if uri.is_empty() { destination.address() } else { uri };
        let proxy = (self.via == Via::Counted).then(|| Proxy::start(&uri, Cut::Never, true));
        let uri = proxy.as_ref().map_or(uri, Proxy::uri);
        ready(&source);
        Pair { source, destination, uri, proxy }
    }

    /// The guest's own check is all that asks for pages; then the background brings what it did not.
    fn ask_for_everything(&self, pair: &mut Pair) {
        pair.destination.wait_phase(&["postcopy-active"]);
        pair.destination.serial.wait_beats(50);
        pair.destination.verify();
        for status in [pair.source.migration(), pair.destination.migration()] {
            assert_eq!(status["pages"]["background"], 0, "{status:#}");
            if self.neighbours == NO_NEIGHBOURS {
                assert!(number(&status["pages"]["prefault"]) <= SENT_AHEAD, "{status:#}");
            }
            // The check asks for most of the RAM. In a hybrid move it may ask for all that is missing.
            if self.mode == Mode::Postcopy {
                assert_eq!(status["phase"], "postcopy-active", "{status:#}");
            }
        }
        let come = pair.destination.migration();
        let names = ["precopy", "demand", "prefault", "remaining"];
        let sum: u64 = names.iter().map(|name| number(&come["pages"][*name])).sum();
        assert_eq!(sum, number(&come["pages"]["total"]), "{come:#}");
        accept(&mut pair.source, "migrate_set_parameter postcopy-background on");
    }

    /// What each move of a mode shows.
    fn look_at_mode(&self, pair: &mut Pair, gone: &Value, come: &Value) {
        let came_in_rounds = number(&come["pages"]["precopy"]);
        let total = number(&come["pages"]["total"]);
        let switched = match self.mode {
            Mode::Precopy => {
                assert_eq!(came_in_rounds, total, "{come:#}");
                assert_eq!(come["faults"]["count"], 0, "{come:#}");
                assert!(number(&gone["rounds"]["passes"]) >= 2, "{gone:#}");
                assert!(number(&gone["rounds"]["copies"]) >= total, "{gone:#}");
                assert_eq!(gone["rounds"]["discarded"], 0, "{gone:#}");
                false
            }
            Mode::Postcopy => {
                assert_eq!(came_in_rounds, 0, "{come:#}");
                assert!(gone["rounds"].is_null(), "{gone:#}");
                true
            }
            Mode::Hybrid(rounds) => {
                assert!(came_in_rounds > 0, "{come:#}");
                let passes = number(&gone["rounds"]["passes"]);
                assert!((1..=rounds).contains(&passes), "{gone:#}");
                let copies = number(&gone["rounds"]["copies"]);
                let discarded = number(&gone["rounds"]["discarded"]);
                assert!(copies >= came_in_rounds + discarded, "{gone:#}");
                true
            }
        };
        let mode = match self.mode {
            Mode::Precopy => "precopy",
            Mode::Postcopy => "postcopy",
            Mode::Hybrid(_) => "hybrid",
        };
        for (vm, status) in [(&mut pair.source, gone), (&mut pair.destination, come)] {
            assert_eq!(status["mode"], mode, "{status:#}");
            assert_eq!(status["pages"]["precopy"], came_in_rounds, "{}: {status:#}", vm.name);
            // The last one is told a moment after it can be seen.
            let phases = until("the last phase to be told", || {
                let phases = phases(vm);
                (phases.last().map(String::as_str) == Some("completed")).then_some(phases)
            });
            let has = |phase: &str| phases.iter().any(|word| word == phase);
            assert_eq!(has("postcopy-active"), switched, "{}: {phases:?}", vm.name);
            assert!(!has("postcopy-paused"), "{}: {phases:?}", vm.name);
        }
    }
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value} is no number"))
}

fn look(check: Check, pair: &Pair, gone: &Value, come: &Value) {
    let pages = |cause: &str| number(&come["pages"][cause]);
    match check {
        Check::Faults => assert!(number(&come["faults"]["count"]) > 0, "{come:#}"),
        Check::Background => assert!(pages("background") > 0, "{come:#}"),
        Check::Neighbours(most) => {
            let (demand, prefault) = (pages("demand"), pages("prefault"));
            assert!(prefault > demand, "{demand} asked for, {prefault} came along");
            assert!(prefault <= most * demand, "{demand} asked for, {prefault} came along");
        }
        Check::Discarded => {
            assert!(number(&gone["rounds"]["discarded"]) > 0, "{gone:#}");
            assert!(pages("precopy") < pages("total"), "{come:#}");
        }
        Check::Connections(wanted) => {
            let records = pair.proxy.as_ref().map(Proxy::records).unwrap_or_default();
            let lanes = records.iter().filter(|record| record.role() == Some(Role::Bulk));
            let carried: Vec<usize> = lanes.map(|record| record.to_destination.len()).collect();
            assert_eq!(carried.len(), wanted, "{carried:?}");
            // Each took its share, however small.
            assert!(carried.iter().all(|bytes| *bytes > 64 << 10), "{carried:?}");
        }
        Check::NotBefore(least) => {
            let took = gone["total-ms"].as_f64().unwrap_or_default();
            assert!(took >= least, "done in {took} ms, before {least} ms");
        }
        Check::Packed(codec) => {
            for status in [gone, come] {
                let packed = &status["packed"];
                assert_eq!(packed["codec"], codec, "{status:#}");
                assert!(number(&packed["packed-bytes"]) < number(&packed["content-bytes"]));
            }
        }
        Check::Differences => {
            for status in [gone, come] {
                assert!(number(&status["packed"]["differences"]) > 0, "{status:#}");
            }
        }
        Check::RamInMemfd(wanted) => {
            assert_eq!(pair.destination.maps("memfd:umem-ram"), wanted);
        }
        Check::Mapped(wanted) => {
            let kib = until("the memory's size", || {
                let kib = pair.destination.memory_kib("RssShmem");
                (kib > 0 || !wanted).then_some(kib)
            });
            assert_eq!(kib > 32 << 10, wanted, "{kib} KiB of RAM are mapped");
        }
    }
}

/// The guest's clock and its writes go on over the switch.
fn goes_on(pair: &Pair) {
    let (before, after) = (pair.source.serial.beats(), pair.destination.serial.beats());
    let all: Vec<_> = before.iter().chain(&after).collect();
    for two in all.windows(2) {
        assert!(two[0].clock < two[1].clock, "the clock goes back: {two:?}");
        assert!(two[0].writes <= two[1].writes, "writes are lost: {two:?}");
    }
}
