//! The source's connections: how they are made.

use super::Shared;
use crate::channel::{self, Channel, MuxChannels};
use crate::handshake;
use crate::lane::{FrameReader, LaneError};
use crate::socket::{self, Purpose};
use crate::uri::Endpoint;
use std::time::Duration;
use umem_wire::{
    Features, MAX_CONTROL_BODY, Ownership, Preface, Role, Secret, SessionId, ToDestination,
    ToSource,
};

/// Longest time for a connection to come about.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);

/// A session's name and secret, and how its connections are made.
#[derive(Clone, Copy)]
pub(super) struct Session {
    id: SessionId,
    secret: Secret,
}

/// The connections that page service needs.
pub(super) struct PageLanes {
    pub(super) demand: Channel,
    pub(super) bulk: Vec<Channel>,
}

/// What the first connection gave: control, and the rest if it carries everything.
pub(super) struct First {
    pub(super) control: Channel,
    /// Optional parts of the protocol that both ends know.
    pub(super) features: Features,
    pub(super) pages: Option<PageLanes>,
}

impl Session {
    /// A session of random name and secret.
    pub(super) fn new() -> Result<Self, String> {
        let mut random = [0; 32];
        getrandom::fill(&mut random).map_err(|error| format!("no random numbers: {error}"))?;
        let (id, secret) = random.split_at(16);
        let array = |half: &[u8]| half.try_into().unwrap_or_default();
        Ok(Self { id: SessionId(array(id)), secret: Secret(array(secret)) })
    }

    fn preface(self, role: Role) -> Preface {
        Preface { role, features: Features::KNOWN, session: self.id, secret: self.secret }
    }

    fn connect(self, shared: &Shared, role: Role) -> Result<(Channel, Features), String> {
        let purpose = if role == Role::Bulk { Purpose::Bulk } else { Purpose::Latency };
        let wake = if role == Role::Inquiry { &shared.ending } else { &shared.wake };
        let socket = socket::connect(&shared.peer, purpose, CONNECT_WITHIN, wake)
            .map_err(|error| error.to_string())?;
        let again = !matches!(shared.peer, Endpoint::Fd(_));
        handshake::call(socket, &self.preface(role), shared.peer.to_string(), again, wake)
            .map_err(|error| format!("{}: {error}", shared.peer))
    }

    /// Opens the first connection.
    pub(super) fn open(self, shared: &Shared) -> Result<First, String> {
        if !matches!(shared.peer, Endpoint::Fd(_)) {
            let (control, features) = self.connect(shared, Role::Control)?;
            shared.lanes.add(control.control.clone());
            return Ok(First { control, features, pages: None });
        }
        let (connection, features) = self.connect(shared, Role::Multiplexed)?;
        let MuxChannels { demand, control, bulk } =
            channel::split(connection).map_err(|error| error.to_string())?;
        for lane in [&demand, &control, &bulk] {
            shared.lanes.add(lane.control.clone());
        }
        Ok(First { control, features, pages: Some(PageLanes { demand, bulk: vec![bulk] }) })
    }

    /// Opens the connections for pages.
    pub(super) fn open_pages(self, shared: &Shared, bulk_lanes: u8) -> Result<PageLanes, String> {
        let open = |role| {
            let (lane, _) = self.connect(shared, role)?;
            shared.lanes.add(lane.control.clone());
            Ok::<_, String>(lane)
        };
        let demand = open(Role::Demand)?;
        let bulk = (0..bulk_lanes.max(1)).map(|_| open(Role::Bulk)).collect::<Result<_, _>>()?;
        Ok(PageLanes { demand, bulk })
    }

    /// Asks, on a connection of its own, who runs the guest.
    pub(super) fn inquire(self, shared: &Shared) -> Result<Ownership, String> {
        if matches!(shared.peer, Endpoint::Fd(_)) {
            return Err("a connection given as fd: cannot be made again to ask".to_owned());
        }
        let (mut lane, _) = self.connect(shared, Role::Inquiry)?;
        let told = (|| {
            lane.writer.write_all(&ToDestination::WhoRuns.encode())?;
            let mut frames = FrameReader::new(lane.reader, MAX_CONTROL_BODY);
            let frame = frames.next()?;
            Ok::<_, LaneError>(ToSource::decode(frame.kind, frame.body)?)
        })();
        lane.control.shutdown();
        match told {
            Ok(ToSource::Owner(owner)) => Ok(owner),
            Ok(other) => Err(format!("the destination answers the inquiry with {other:?}")),
            Err(error) => Err(format!("the inquiry to {} failed: {error}", shared.peer)),
        }
    }
}
