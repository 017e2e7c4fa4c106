//! What is measured, as a table: a row says what guest moves how over which link, and against whom.

mod placement;
mod select;
mod table;

pub use placement::{Core, Placement};
pub use select::{Selection, select};
pub use table::all;

use crate::run::Accesses;
use serde::Serialize;
use umem_memory::PageSize;

/// What runs the guest's instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Accel {
    /// Software: RV64.
    Tcg,
    /// The host's processor: x86-64.
    Kvm,
}

impl Accel {
    /// Its name on command lines.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Tcg => "tcg",
            Self::Kvm => "kvm",
        }
    }
}

/// Who moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Guest {
    /// Debian's kernel with the workload of guest/linux; RV64.
    Linux,
    /// The repository's own guest without an operating system, of the accelerator's architecture.
    Bare,
}

impl Guest {
    /// Its name in tables.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Linux => "linux",
            Self::Bare => "bare",
        }
    }
}

/// When pages go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// After the guest.
    Postcopy,
    /// One round before the guest, the rest after it.
    Hybrid,
    /// Before the guest.
    Precopy,
}

impl Mode {
    /// Its name in tables.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Postcopy => "postcopy",
            Self::Hybrid => "hybrid",
            Self::Precopy => "precopy",
        }
    }
}

/// What an end's RAM is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum HostPages {
    /// The host's own pages of 4 KiB; the kernel may join them.
    #[serde(rename = "4K")]
    Small,
    /// Pages of 2 MiB that are set aside.
    #[serde(rename = "2M")]
    Huge,
}

impl HostPages {
    const fn word(self) -> &'static str {
        match self {
            Self::Small => "4K",
            Self::Huge => "2M",
        }
    }

    /// Their size.
    #[must_use]
    pub fn size(self) -> PageSize {
        match self {
            Self::Small => PageSize::SMALL,
            Self::Huge => PageSize::HUGE_2M,
        }
    }
}

/// What the ends are joined by.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum Link {
    /// TCP on this host.
    Loopback,
    /// The same through a proxy of ours that delays each byte by half of this time in each direction.
    Delayed {
        /// Time there and back, in milliseconds.
        round_trip_ms: f64,
    },
    /// Two network namespaces, a veth pair, and a token bucket at each end; root only.
    Shaped {
        /// Its rate in Mbit/s.
        mbit: u32,
        /// Who paces the senders.
        congestion: &'static str,
    },
}

impl Link {
    /// For tables.
    #[must_use]
    pub fn text(self) -> String {
        match self {
            Self::Loopback => "loopback".to_owned(),
            Self::Delayed { round_trip_ms } => format!("proxy, {round_trip_ms} ms round trip"),
            Self::Shaped { mbit, congestion } => format!("{mbit} Mbit/s, {congestion}"),
        }
    }
}

/// How the move is done, beyond its mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Options {
    /// Whether pages go that nobody asked for.
    pub background: bool,
    /// Whether they go on behind the page last asked for.
    pub move_background: bool,
    /// Pages sent beyond each page asked for.
    pub forward: u64,
    /// Pages sent before it.
    pub backward: u64,
    /// MiB a second that the background may send; 0: no limit.
    pub bandwidth_mib: u64,
    /// Connections for pages that nobody asked for.
    pub connections: u8,
    /// How pages are packed, as `multifd-compression` has it.
    pub compression: &'static str,
    /// Whether the kernel finds missing pages instead of the vCPU (software only; hardware always).
    pub kernel_faults: bool,
    /// Whether CPUs sleep during the move as they do otherwise; umem only.
    pub idle_states: bool,
    /// Which of the destination's threads share a core; umem only.
    pub placement: Placement,
}

impl Options {
    /// As a move is when nobody says anything.
    pub const DEFAULT: Self = Self {
        background: true,
        move_background: false,
        forward: 0,
        backward: 0,
        bandwidth_mib: 0,
        connections: umem_link::BULK_LANES,
        compression: "auto",
        kernel_faults: false,
        idle_states: false,
        placement: Placement::Free,
    };

    /// What differs from the default, as words; empty if nothing does.
    #[must_use]
    pub fn text(&self) -> String {
        let mut words = Vec::new();
        let mut word = |is: bool, text: String| words.extend(is.then_some(text));
        word(!self.background, "no background".to_owned());
        word(self.move_background, "moving background".to_owned());
        word(self.forward > 0, format!("{} forward", self.forward));
        word(self.backward > 0, format!("{} backward", self.backward));
        word(self.bandwidth_mib > 0, format!("{} MiB/s", self.bandwidth_mib));
        word(
            self.connections != umem_link::BULK_LANES,
            format!("{} connections", self.connections),
        );
        word(self.compression != "auto", format!("compression {}", self.compression));
        word(self.kernel_faults, "faults by the kernel".to_owned());
        word(self.idle_states, "CPUs may sleep".to_owned());
        word(self.placement != Placement::Free, self.placement.word().to_owned());
        words.join(", ")
    }
}

/// A way of QEMU's to do the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Peer {
    /// Its postcopy.
    Postcopy,
    /// The same with demanded pages on a channel of their own.
    Preempt,
    /// One round of its precopy, then postcopy with preemption.
    Hybrid,
    /// Its precopy.
    Precopy,
    /// The same on two connections.
    Multifd,
}

impl Peer {
    /// Its name in tables.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Postcopy => "qemu postcopy",
            Self::Preempt => "qemu postcopy + preempt",
            Self::Hybrid => "qemu hybrid + preempt",
            Self::Precopy => "qemu precopy",
            Self::Multifd => "qemu precopy, multifd 2",
        }
    }

    /// When its pages go.
    #[must_use]
    pub const fn mode(self) -> Mode {
        match self {
            Self::Postcopy | Self::Preempt => Mode::Postcopy,
            Self::Hybrid => Mode::Hybrid,
            Self::Precopy | Self::Multifd => Mode::Precopy,
        }
    }
}

/// A guest that is moved.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Move {
    /// What runs it.
    pub accel: Accel,
    /// Which it is.
    pub guest: Guest,
    /// When pages go.
    pub mode: Mode,
    /// Its RAM in MiB.
    pub memory_mib: u64,
    /// MiB of it that hold something that cannot be compressed; bare guests: about, in whole percent.
    pub fill_mib: u64,
    /// Random pages that it writes in a second.
    pub rate: u64,
    /// Its vCPUs, each of which writes.
    pub vcpus: u32,
    /// How it is moved.
    pub options: Options,
    /// What RAM is made of at the source and at the destination.
    pub host_pages: [HostPages; 2],
    /// Over what.
    pub link: Link,
    /// Who else does it.
    pub peers: Vec<Peer>,
}

impl Move {
    /// What differs from a move of which nobody says anything.
    fn words(&self) -> String {
        let mut words = self.options.text();
        if self.host_pages != [HostPages::Small; 2] {
            let [from, to] = self.host_pages.map(HostPages::word);
            words += if words.is_empty() { "" } else { ", " };
            words += &format!("host pages {from}:{to}");
        }
        words
    }
}

/// What a row measures.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "what")]
pub enum Work {
    /// A guest's move.
    Move(Move),
    /// Faults of so many threads at once on memory that is still at a source, without a guest.
    Faults {
        /// Threads.
        threads: u64,
        /// Memory in MiB, a power of two.
        mib: u64,
    },
    /// One thread that touches such memory in some order, with each kind of prefault and without.
    Accesses {
        /// The order.
        accesses: Accesses,
        /// Memory in MiB, a power of two.
        mib: u64,
    },
}

/// A row of the table.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Scenario {
    /// Unique.
    pub name: String,
    /// Rows of one group differ in `x`, and are drawn as a curve.
    pub group: &'static str,
    /// What differs between the rows of the group, and its value here.
    pub x: Option<(&'static str, f64)>,
    /// Whether `--quick` measures it.
    pub quick: bool,
    /// Longest time of one run in seconds.
    pub limit_s: u64,
    /// What is measured.
    pub work: Work,
}

/// Columns of a row without a guest.
fn without_guest(mib: u64, options: String) -> [String; 8] {
    let dash = || "-".to_owned();
    let (guest, mode, link) = ("none".into(), "postcopy".into(), "loopback".into());
    [dash(), guest, mode, mib.to_string(), dash(), dash(), options, link]
}

impl Scenario {
    /// The move, if it is one.
    #[must_use]
    pub const fn as_move(&self) -> Option<&Move> {
        match &self.work {
            Work::Move(it) => Some(it),
            Work::Faults { .. } | Work::Accesses { .. } => None,
        }
    }

    /// For people: columns as `umem bench --list` shows them, without the name.
    #[must_use]
    pub fn columns(&self) -> [String; 8] {
        match &self.work {
            Work::Move(it) => [
                it.accel.word().to_owned(),
                it.guest.word().to_owned(),
                it.mode.word().to_owned(),
                format!("{}/{}", it.memory_mib, it.fill_mib),
                it.vcpus.to_string(),
                it.rate.to_string(),
                it.words(),
                it.link.text(),
            ],
            Work::Faults { threads, mib } => without_guest(*mib, format!("{threads} threads")),
            Work::Accesses { accesses, mib } => {
                without_guest(*mib, format!("{} accesses", accesses.word()))
            }
        }
    }

    /// Headings of [`Scenario::columns`].
    pub const HEADINGS: [&'static str; 8] =
        ["accel", "guest", "mode", "MiB/filled", "vCPUs", "writes/s", "options", "link"];

    /// Bytes that two ends and the raw limit beside them need at most at once.
    #[must_use]
    pub fn memory_needed(&self) -> u64 {
        match &self.work {
            // Pages at both ends; what is not filled is not there, apart from a kernel's own.
            Work::Move(it) => {
                (2 * it.fill_mib + 512 * u64::from(it.guest == Guest::Linux) + 256) << 20
            }
            Work::Faults { mib, .. } | Work::Accesses { mib, .. } => (2 * mib + 64) << 20,
        }
    }
}
