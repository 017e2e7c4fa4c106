//! Which of the destination's threads share a core.

use serde::Serialize;

/// Where the destination's threads run. Measured from outside: umem itself leaves that to the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Placement {
    /// Where the kernel has them run.
    Free,
    /// The fault reader on its vCPU's core: the vCPU sleeps while the reader works for it.
    ReaderWithVcpu,
    /// The fault reader on one core, the vCPU on another.
    ReaderBeside,
    /// Fault reader and demand lane with the vCPU, pages that nobody asked for on another core.
    DemandWithVcpu,
}

/// A core of two: the first or the second that this process may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Core {
    /// The vCPUs'.
    First,
    /// The other.
    Second,
}

impl Placement {
    /// All that pin something.
    pub const PINNED: [Self; 3] = [Self::ReaderWithVcpu, Self::ReaderBeside, Self::DemandWithVcpu];

    /// Its name in tables, and in names of scenarios.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Free => "free",
            Self::ReaderWithVcpu => "reader-with-vcpu",
            Self::ReaderBeside => "reader-beside",
            Self::DemandWithVcpu => "demand-with-vcpu",
        }
    }

    /// Which threads run where, by the beginnings of their names; all others wherever the kernel likes.
    #[must_use]
    pub const fn threads(self) -> &'static [(&'static str, Core)] {
        use Core::{First, Second};
        match self {
            Self::Free => &[],
            Self::ReaderWithVcpu => &[("vcpu-", First), ("fault-reader", First)],
            Self::ReaderBeside => &[("vcpu-", First), ("fault-reader", Second)],
            Self::DemandWithVcpu => &[
                ("vcpu-", First),
                ("fault-reader", First),
                ("demand-in", First),
                ("bulk-in", Second),
            ],
        }
    }
}
