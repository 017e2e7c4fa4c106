//! What stands around the source's state machine: its guest's pages, the dirty log, the sending of
//! rounds, page service.

use crate::network::{BULK_LANES, Channel, Happening};
use crate::world::{PAGES, World, bitmap, layout};
use std::collections::BTreeSet;
use umem_migrate::{RoundReport, SendPlan, SourceAction, SourceEvent, Tally};
use umem_wire::{PageKind, ToDestination};

/// Bytes of a page on the wire.
const WIRE_BYTES: u64 = 4096 + 24;

/// A round that is being sent.
#[derive(Debug, Default)]
struct Sending {
    round: u32,
    cut: bool,
    pages: u64,
}

pub(crate) struct SourceEnd {
    pub(crate) runs: bool,
    pub(crate) memory: Vec<u64>,
    pub(crate) tally: Tally,
    /// Pages written while the log is on and not collected since.
    dirty: Option<BTreeSet<u64>>,
    pending: BTreeSet<u64>,
    /// Pages sent in rounds and not discarded since.
    sent: BTreeSet<u64>,
    sending: Option<Sending>,
    pub(crate) throttle: u8,
    plan: SendPlan,
    /// The last round was begun with the guest stopped.
    pub(crate) finishes: bool,
    pub(crate) serving: bool,
    pub(crate) handover_begun: bool,
    pub(crate) asked: bool,
    inquiries: u64,
}

impl SourceEnd {
    pub(crate) fn new(plan: SendPlan) -> Self {
        Self {
            runs: true,
            memory: vec![0; PAGES as usize],
            tally: Tally::default(),
            dirty: None,
            pending: BTreeSet::new(),
            sent: BTreeSet::new(),
            sending: None,
            throttle: 0,
            plan,
            finishes: false,
            serving: false,
            handover_begun: false,
            asked: false,
            inquiries: 0,
        }
    }

    pub(crate) fn write(&mut self, page: u64, version: u64) {
        self.memory[page as usize] = version;
        if let Some(dirty) = &mut self.dirty {
            dirty.insert(page);
        }
    }

    /// Ends what reads guest memory.
    fn end(&mut self) {
        self.dirty = None;
        self.sending = None;
    }
}

impl World {
    pub(crate) fn source_acts(&mut self, action: SourceAction) {
        let delay = self.network.random.below(300);
        let result = |refuse: bool| if refuse { Err("refused".to_owned()) } else { Ok(()) };
        match action {
            SourceAction::Send(message) => self.send_control(message),
            SourceAction::OpenLanes { .. } => {
                self.network.after(delay, Happening::Source(SourceEvent::Opened(Ok(()))));
            }
            SourceAction::StartDirtyLog => {
                let started = result(self.script.refuse_log);
                if started.is_ok() {
                    self.here.dirty = Some(BTreeSet::new());
                    self.here.pending = (0..PAGES).collect();
                }
                self.tell_source(SourceEvent::Tracking(started));
            }
            SourceAction::SendRound { round } => {
                assert!(self.here.sending.is_none(), "two rounds at once");
                self.here.finishes = !self.here.runs;
                self.here.sending = Some(Sending { round, ..Sending::default() });
                self.network.after(delay, Happening::Round(round));
            }
            SourceAction::CutRound => {
                if let Some(sending) = &mut self.here.sending {
                    sending.cut = true;
                }
            }
            SourceAction::Collect => self.collect(),
            SourceAction::Discard => self.discard(),
            SourceAction::Throttle(percent) => self.here.throttle = percent,
            SourceAction::StopGuest => {
                assert_eq!(self.here.throttle, 0, "slowed down while it is stopped");
                let stopped = result(self.script.refuse_stop).map(|()| vec![1; 100]);
                self.here.runs &= stopped.is_err();
                self.network.after(delay, Happening::Source(SourceEvent::Stopped(stopped)));
            }
            SourceAction::HandOver { since_stop } => {
                assert!(!self.here.runs, "handed over while it runs");
                self.here.handover_begun = true;
                let since_stop_ns = since_stop.as_nanos() as u64;
                self.send_control(ToDestination::Handover { since_stop_ns });
            }
            SourceAction::Serve => {
                self.here.serving = true;
                self.network.after(1, Happening::Background);
            }
            SourceAction::Inquire => self.inquire(),
            SourceAction::TakeBack => {
                assert!(!self.here.serving, "taken back after it was handed over");
                self.here.runs = true;
                self.here.end();
            }
            SourceAction::CompareDigest(theirs) => {
                let ours = self.here.tally;
                assert_eq!(ours.pages, PAGES, "complete without all pages sent");
                self.source.digest_compared(ours.digest, ours.digest == theirs);
            }
            SourceAction::Release => self.assert_all_there(),
            SourceAction::Close => {
                if let Some(Sending { round, .. }) = self.here.sending.take() {
                    // A thread that was in the middle of it speaks late.
                    let report = RoundReport { round, pages: 0, bytes: 0, left: 0, digest: 0 };
                    let late = if delay < 150 { Ok(report) } else { Err("closed".to_owned()) };
                    self.network.after(delay, Happening::Source(SourceEvent::RoundSent(late)));
                }
                self.here.end();
                self.network.close(Happening::DestinationLosesLink);
            }
        }
    }

    fn send_control(&mut self, message: ToDestination) {
        if let ToDestination::StateLength { after_round, .. } = message {
            // What is pending now follows by the plan; after a last round nothing does.
            if self.script.strategy.rounds.is_some() {
                let rest =
                    if after_round == 0 { self.here.pending.clone() } else { BTreeSet::new() };
                self.here.plan.leave(&bitmap(rest));
            }
            if self.script.prefers {
                let hot = (0..PAGES).filter(|_| self.network.random.once_in(3)).collect();
                self.here.plan.prefer(bitmap(hot));
            }
        }
        self.network.send(Channel::ControlThere, Happening::ToDestination(message));
    }

    fn collect(&mut self) {
        let collected = if self.script.refuse_collect && self.network.random.once_in(3) {
            Err("refused".to_owned())
        } else {
            let dirty = self.here.dirty.replace(BTreeSet::new()).expect("the dirty log is on");
            self.here.pending.extend(dirty);
            Ok(self.here.pending.len() as u64)
        };
        self.tell_source(SourceEvent::Collected(collected));
    }

    fn discard(&mut self) {
        let void: Vec<u64> = self.here.pending.intersection(&self.here.sent).copied().collect();
        let Some(&start) = void.first() else { return };
        let mut bits = vec![0; PAGES.div_ceil(8) as usize];
        for page in void {
            self.here.sent.remove(&page);
            self.here.tally.discard(page);
            bits[(page - start) as usize / 8] |= 1 << ((page - start) % 8);
        }
        self.send_control(ToDestination::Discard { start, bits });
    }

    /// Sends some pages of a round, or its end.
    pub(crate) fn round(&mut self, round: u32) {
        let Some(sending) = self.here.sending.as_mut().filter(|sending| sending.round == round)
        else {
            return;
        };
        if !self.network.link_up || self.script.unreadable_in_round == Some(round) {
            self.here.sending = None;
            let why = "the pages cannot be sent".to_owned();
            return self.tell_source(SourceEvent::RoundSent(Err(why)));
        }
        if sending.cut || self.here.pending.is_empty() {
            return self.end_round();
        }
        for _ in 0..3 {
            let Some(page) = self.here.pending.pop_first() else { break };
            sending.pages += 1;
            let version = self.here.memory[page as usize];
            let kind = PageKind::Content(version);
            match self.here.sent.insert(page) {
                true => self.here.tally.add(page, kind),
                false => self.here.tally.again(page, kind),
            }
            let lane = self.network.random.below(BULK_LANES as u64) as usize;
            let mut version = version;
            if self.script.damage_in_round == Some(round) && sending.pages == 1 {
                version += 1000;
            }
            self.network.send(Channel::Bulk(lane), Happening::RoundPage { page, version });
        }
        let delay = self.network.random.below(300);
        self.network.after(delay, Happening::Round(round));
    }

    fn end_round(&mut self) {
        let Some(Sending { round, pages, .. }) = self.here.sending.take() else { return };
        for lane in 0..BULK_LANES {
            self.network.send(Channel::Bulk(lane), Happening::RoundEnd { round, lane });
        }
        let (bytes, digest) = (pages * WIRE_BYTES, self.here.tally.digest);
        let report = RoundReport { round, pages, bytes, left: 0, digest };
        // At times the destination is faster with its word.
        let longest = if self.network.random.once_in(3) { 2000 } else { 100 };
        let delay = self.network.random.below(longest);
        self.network.after(delay, Happening::Source(SourceEvent::RoundSent(Ok(report))));
    }

    fn inquire(&mut self) {
        self.here.asked = true;
        self.here.inquiries += 1;
        let delay = 1 + self.network.random.below(500);
        if self.here.inquiries <= self.script.lost_inquiries {
            let lost = SourceEvent::Answer(Err("no answer".into()));
            self.network.after(delay, Happening::Source(lost));
        } else {
            self.network.after(delay, Happening::InquiryArrives);
        }
    }

    fn send_page(&mut self, channel: Channel, page: u64, first: bool) {
        assert!(self.here.handover_begun, "a page before the handover");
        let version = self.here.memory[page as usize];
        if first {
            self.here.tally.add(page, PageKind::Content(version));
        }
        self.network.send(channel, Happening::Page { page, version });
    }

    pub(crate) fn serve(&mut self, pages: &[u64]) {
        for wanted in self.here.plan.demand(pages).unwrap() {
            self.send_page(Channel::DemandPages, wanted.page.0, wanted.first);
        }
    }

    pub(crate) fn background(&mut self) {
        // With no background the guest's own touches bring everything in.
        if self.script.no_background || !self.network.link_up {
            return;
        }
        let Some(range) = self.here.plan.next_background(3) else { return };
        let lane = self.network.random.below(BULK_LANES as u64) as usize;
        for page in range.pages() {
            self.send_page(Channel::Bulk(lane), page.0, true);
        }
        let delay = self.network.random.below(300);
        self.network.after(delay, Happening::Background);
    }
}

pub(crate) fn plan(prefault: umem_migrate::Prefault) -> SendPlan {
    SendPlan::new(layout(), prefault)
}
