//! Virtual time, and the link between the two machines.

use crate::random::Random;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use umem_migrate::{DestinationEvent, SourceEvent};
use umem_wire::{ToDestination, ToSource};

/// Connections for bulk.
pub(crate) const BULK_LANES: usize = 2;

/// Something that happens at its time.
#[derive(Debug, Clone)]
pub(crate) enum Happening {
    ToDestination(ToDestination),
    ToSource(ToSource),
    Request(Vec<u64>),
    /// A page after the switch.
    Page {
        page: u64,
        version: u64,
    },
    /// A page of a round.
    RoundPage {
        page: u64,
        version: u64,
    },
    RoundEnd {
        round: u32,
        lane: usize,
    },
    Cut,
    Reset,
    SourceLosesLink,
    DestinationLosesLink,
    Source(SourceEvent),
    Destination(DestinationEvent),
    InquiryArrives,
    Guest,
    Background,
    /// The source sends some more of a round.
    Round(u32),
}

/// Channels: messages on one keep their order.
#[derive(Clone, Copy)]
pub(crate) enum Channel {
    ControlThere,
    ControlBack,
    Requests,
    DemandPages,
    Bulk(usize),
}

impl Channel {
    fn number(self) -> usize {
        match self {
            Self::ControlThere => 0,
            Self::ControlBack => 1,
            Self::Requests => 2,
            Self::DemandPages => 3,
            Self::Bulk(lane) => 4 + lane,
        }
    }
}

type Key = (Duration, u64);

pub(crate) struct Network {
    pub(crate) random: Random,
    pub(crate) now: Duration,
    queue: BTreeMap<Key, Happening>,
    sequence: u64,
    pub(crate) sent_messages: u64,
    pub(crate) link_up: bool,
    cut_after: Option<u64>,
    last_delivery: [Duration; 4 + BULK_LANES],
    in_flight: BTreeSet<Key>,
}

impl Network {
    pub(crate) fn new(random: Random, cut_after: Option<u64>) -> Self {
        Self {
            random,
            now: Duration::ZERO,
            queue: BTreeMap::new(),
            sequence: 0,
            sent_messages: 0,
            link_up: true,
            cut_after,
            last_delivery: [Duration::ZERO; 4 + BULK_LANES],
            in_flight: BTreeSet::new(),
        }
    }

    /// When the next thing happens.
    pub(crate) fn next(&self) -> Option<Duration> {
        self.queue.first_key_value().map(|(key, _)| key.0)
    }

    pub(crate) fn pop(&mut self) -> Option<Happening> {
        let (key, happening) = self.queue.pop_first()?;
        self.now = key.0;
        self.in_flight.remove(&key);
        Some(happening)
    }

    pub(crate) fn waiting(&self) -> impl Iterator<Item = &Happening> {
        self.queue.values()
    }

    pub(crate) fn at(&mut self, at: Duration, happening: Happening) {
        self.put(at, happening);
    }

    fn put(&mut self, at: Duration, happening: Happening) -> Key {
        self.sequence += 1;
        let key = (at.max(self.now), self.sequence);
        self.queue.insert(key, happening);
        key
    }

    pub(crate) fn after(&mut self, microseconds: u64, happening: Happening) {
        self.at(self.now + Duration::from_micros(microseconds), happening);
    }

    /// Sends over the link: in order on its channel, after a random delay, or never.
    pub(crate) fn send(&mut self, channel: Channel, happening: Happening) {
        if !self.link_up {
            return;
        }
        if self.cut_after == Some(self.sent_messages) {
            return self.cut();
        }
        self.sent_messages += 1;
        // Some messages are still on their way when the sender has given the connection up.
        let longest = if self.random.once_in(5) { 9000 } else { 400 };
        let arrival = self.now + Duration::from_micros(1 + self.random.below(longest));
        let slot = &mut self.last_delivery[channel.number()];
        *slot = arrival.max(*slot);
        let at = *slot;
        let key = self.put(at, happening);
        self.in_flight.insert(key);
    }

    /// The link breaks: of what is under way, what comes late is lost; each end notices in its time.
    pub(crate) fn cut(&mut self) {
        if !std::mem::replace(&mut self.link_up, false) {
            return;
        }
        let lost_from = self.now + Duration::from_micros(self.random.below(12_000));
        for key in std::mem::take(&mut self.in_flight) {
            if key.0 >= lost_from {
                self.queue.remove(&key);
            }
        }
        for noticed in [Happening::SourceLosesLink, Happening::DestinationLosesLink] {
            let longest = if self.random.once_in(2) { 500 } else { 15_000 };
            let delay = 1 + self.random.below(longest);
            self.after(delay, noticed);
        }
    }

    /// One end closes its connections; the other sees it after what was sent before.
    pub(crate) fn close(&mut self, noticed: Happening) {
        if std::mem::replace(&mut self.link_up, false) {
            let delay = 400 + self.random.below(100);
            self.after(delay, noticed);
        }
    }
}
