//! The threads of the bulk connections: each sends its share of rounds, then of the background.

use super::round::{RoundSender, Way};
use super::{Event, Shared};
use crate::channel::Channel;
use crate::lane::{BulkFlow, BulkPacker, CreditWindow, LaneError, PageSender};
use crate::lanes::give_way;
use crossbeam_channel::{Receiver, Sender};
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use umem_migrate::Packing;

/// How long the background leaves link and CPUs to a guest that has just begun to run and misses all that it touches.
/// `docs/decisions/0018` has what it was chosen by.
pub(super) const HEAD_START: Duration = Duration::from_millis(15);
/// It ends before when nobody has asked for a page for so long.
const QUIET: Duration = Duration::from_millis(2);

/// What a thread is to do next.
enum Order {
    Round(u32),
    Serve(Box<PageSender>),
}

/// All of them. Dropping it lets them end, when what they are at is done.
#[derive(Default)]
pub(super) struct Workers {
    orders: Vec<Sender<Order>>,
}

/// What each of them begins with.
pub(super) struct LaneParts {
    pub(super) rounds: Option<RoundSender>,
    pub(super) packing: Packing,
    /// Bytes under way at most.
    pub(super) window: u64,
}

/// One of them.
struct Worker {
    shared: Arc<Shared>,
    writer: Box<dyn Write + Send>,
    flow: BulkFlow,
    packer: BulkPacker,
    /// How many there are: they share what the operator allows.
    lanes: u64,
    /// The one that tells of untouched memory, and gives way to nobody.
    first: bool,
    events: Sender<Event>,
    rounds: Option<RoundSender>,
}

impl Workers {
    /// One thread for each connection.
    pub(super) fn start(
        shared: &Arc<Shared>,
        each: &LaneParts,
        lanes: Vec<Channel>,
        events: &Sender<Event>,
    ) -> io::Result<Self> {
        let mut workers = Self::default();
        let lanes_in_all = lanes.len();
        for (number, lane) in lanes.into_iter().enumerate() {
            let (orders, inbox) = crossbeam_channel::unbounded();
            let (first, credit) = (number == 0, CreditWindow::new(lane.reader, each.window));
            let worker = Worker {
                shared: shared.clone(),
                writer: lane.writer,
                flow: BulkFlow::new(credit, lane.control, lanes_in_all, first),
                packer: BulkPacker::new(each.packing, shared.packs.clone()),
                lanes: (lanes_in_all as u64).max(1),
                first,
                events: events.clone(),
                rounds: each.rounds.clone(),
            };
            shared.lanes.spawn("bulk-out", move || worker.run(&inbox))?;
            workers.orders.push(orders);
        }
        Ok(workers)
    }

    /// Number of threads.
    pub(super) fn count(&self) -> usize {
        self.orders.len()
    }

    /// Has all send their share of a round; each reports [`Event::Share`].
    pub(super) fn round(&self, round: u32) {
        for orders in &self.orders {
            // One that has ended has said why.
            let _ = orders.send(Order::Round(round));
        }
    }

    /// Has all send what nobody asks for, from now on.
    pub(super) fn serve(&self, sender: &PageSender) {
        for orders in &self.orders {
            let _ = orders.send(Order::Serve(Box::new(sender.clone())));
        }
    }
}

impl Worker {
    fn run(mut self, inbox: &Receiver<Order>) {
        if let Err(error) = self.obey(inbox) {
            let _ = self.events.send(Event::LaneLost(format!("bulk connection: {error}")));
        }
    }

    fn obey(&mut self, inbox: &Receiver<Order>) -> Result<(), LaneError> {
        while let Ok(order) = inbox.recv() {
            match order {
                Order::Round(round) => self.round(round)?,
                Order::Serve(sender) => self.serve(&sender)?,
            }
        }
        Ok(())
    }

    fn round(&mut self, round: u32) -> Result<(), LaneError> {
        let Some(rounds) = &mut self.rounds else { return Ok(()) };
        let first = self.first && round == 1;
        let pacer = &self.shared.rounds;
        self.packer.packing.begin_round();
        self.packer.packing.limit(pacer.bandwidth() / self.lanes);
        let way = Way { writer: &mut *self.writer, flow: &mut self.flow, packer: &mut self.packer };
        let share = match rounds.send(round, first, way, pacer) {
            Ok(share) => Ok(share),
            // No fault of the connection.
            Err(error @ (LaneError::Unreadable { .. } | LaneError::Ram(_))) => {
                Err(error.to_string())
            }
            Err(error) => return Err(error),
        };
        let _ = self.events.send(Event::Share(round, share));
        Ok(())
    }

    fn serve(&mut self, sender: &PageSender) -> Result<(), LaneError> {
        if !self.first {
            give_way();
        }
        if self.first {
            self.let_the_guest_begin();
        }
        let shared = &self.shared;
        let mut go_on = |sent| shared.background.pass(sent) && shared.gate.pass(0);
        self.packer.packing.limit(shared.background.bandwidth() / self.lanes);
        let (writer, flow) = (&mut *self.writer, &mut self.flow);
        if self.first && go_on(0) {
            sender.send_holes(writer, flow)?;
        }
        sender.serve_background(writer, flow, &mut self.packer, &mut go_on)
    }

    /// Ends the head start of the guest when it is over or not used. All wait for it at the pacer.
    fn let_the_guest_begin(&self) {
        let asked = || self.shared.departures.demand.load(Ordering::Relaxed);
        let began = Instant::now();
        let (mut last, mut asked_at) = (asked(), began);
        while asked_at.elapsed() < QUIET && began.elapsed() < HEAD_START {
            std::thread::sleep(QUIET / 4);
            let now = asked();
            if now != last {
                (last, asked_at) = (now, Instant::now());
            }
        }
        self.shared.background.begin_in(Duration::ZERO);
    }
}
