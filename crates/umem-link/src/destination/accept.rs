//! Who comes in, and where they belong. A stranger costs one bounded thread for a few seconds and
//! neither joins a session nor uses up the waiting for one.

use super::{Active, Event, Hub, REMEMBERED, Shared, run};
use crate::channel::{self, Channel, MuxChannels};
use crate::handshake::{self, HANDSHAKE_WITHIN, HandshakeError};
use crate::lane::{FrameReader, LaneError};
use crate::socket::{Listener, Purpose, SILENCE, tune};
use rustix::event::{PollFd, PollFlags, poll};
use socket2::Socket;
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use umem_wire::{
    Features, MAX_CONTROL_BODY, Ownership, Preface, Role, Secret, SessionId, ToDestination,
    ToSource, Verdict,
};

/// Connections whose first bytes are awaited at once; another ends the oldest.
const MOST_HANDSHAKES: usize = 16;
/// Longest wait for the session's thread to say who runs the guest.
const OWNER_WITHIN: Duration = Duration::from_secs(20);

/// Accepts connections until the listener is told to end.
pub(super) fn accept(shared: &Arc<Shared>, mut listener: Listener) {
    loop {
        if shared.hub().closed {
            return;
        }
        match listener.take() {
            Ok(Some((socket, peer))) => hear(shared, socket, peer),
            Ok(None) if !listener.is_open() => return,
            Ok(None) => {
                let Some(incoming) = listener.poll_fd() else { return };
                let mut fds = [incoming, PollFd::new(&shared.wake, PollFlags::IN)];
                // Whatever ended the wait is looked at above.
                let _ = poll(&mut fds, None);
            }
            Err(error) => {
                // No descriptors left, most likely: they may come back.
                log::warn!("cannot accept a connection: {error}");
                std::thread::sleep(Duration::from_millis(100));
            }
        }
    }
}

fn hear(shared: &Arc<Shared>, socket: Socket, peer: String) {
    let handle = match socket.try_clone() {
        Ok(handle) => handle,
        Err(error) => return log::warn!("{peer}: {error}; closed"),
    };
    let number = shared.handshakes().enter(handle);
    let theirs = shared.clone();
    let spawned = std::thread::Builder::new().name("handshake".to_owned()).spawn(move || {
        if let Err(why) = take_in(&theirs, socket, &peer, number) {
            log::info!("connection from {peer}: {why}");
            theirs.turned_away(&peer, &why);
        }
        theirs.handshakes().leave(number);
    });
    if let Err(error) = spawned {
        log::warn!("no thread for a connection: {error}; closed");
        shared.handshakes().leave(number);
    }
}

/// Connections whose first bytes are awaited, oldest first.
#[derive(Default)]
pub(super) struct Handshakes {
    next: u64,
    open: VecDeque<(u64, Socket)>,
}

impl Handshakes {
    /// One more. Who says nothing for longest makes room: a caller that knows the protocol speaks at
    /// once.
    fn enter(&mut self, socket: Socket) -> u64 {
        if self.open.len() >= MOST_HANDSHAKES
            && let Some((_, oldest)) = self.open.pop_front()
        {
            let _ = oldest.shutdown(std::net::Shutdown::Both);
        }
        self.next += 1;
        self.open.push_back((self.next, socket));
        self.next
    }

    fn leave(&mut self, number: u64) {
        self.open.retain(|(other, _)| *other != number);
    }
}

impl Shared {
    /// Tells, while nobody else is there, why the newest connection came to nothing.
    fn turned_away(&self, peer: &str, why: &str) {
        let view = self.view();
        if view.meter.is_in("listening") {
            view.meter.phase("listening", Some(&format!("closed a connection from {peer}: {why}")));
        }
    }
}

fn take_in(shared: &Arc<Shared>, socket: Socket, peer: &str, number: u64) -> Result<(), String> {
    let text = |error: io::Error| error.to_string();
    tune(&socket, Purpose::Latency).map_err(text)?;
    socket.set_write_timeout(Some(HANDSHAKE_WITHIN)).map_err(text)?;
    let heard = handshake::hear(&socket, &shared.wake);
    // Whoever has spoken is not ended for another.
    shared.handshakes().leave(number);
    let preface = heard.map_err(|error| match error {
        HandshakeError::Closed => "it ended before it said what it is for".to_owned(),
        HandshakeError::Late => {
            format!("it did not say within {} s what it is for", HANDSHAKE_WITHIN.as_secs())
        }
        HandshakeError::Io(error) => error.to_string(),
        other => other.to_string(),
    })?;
    let Preface { role, session, secret, features } = preface;
    let features = features.both(shared.options.features);
    let refuse = |verdict| {
        handshake::answer(&socket, verdict, features).map_err(text)?;
        Err(format!("refused: {verdict:?}"))
    };
    match role {
        Role::Control | Role::Multiplexed => {
            let Some(opened) = open(shared, session, secret) else { return refuse(Verdict::Busy) };
            let accepted = handshake::answer(&socket, Verdict::Accepted, features)
                .and_then(|()| socket.set_write_timeout(Some(SILENCE)))
                .and_then(|()| {
                    let channel = channel::from_socket(socket, peer.to_owned(), true);
                    begin(shared, opened, role, channel)
                });
            accepted.map_err(|error| {
                shared.hub().forget(session, Ownership::NeverGotIt);
                text(error)
            })
        }
        Role::Demand | Role::Bulk => {
            let events = shared.hub().of(session, secret);
            let Some(events) = events else { return refuse(Verdict::UnknownSession) };
            handshake::answer(&socket, Verdict::Accepted, features).map_err(text)?;
            socket.set_write_timeout(Some(SILENCE)).map_err(text)?;
            let channel = channel::from_socket(socket, peer.to_owned(), true);
            events.send(Event::Lane(role, channel)).map_err(|_| "its session has ended".to_owned())
        }
        Role::Inquiry => inquiry(shared, socket, peer, session, secret),
    }
}

/// What a new session's thread begins with.
struct Opened {
    events: crossbeam_channel::Sender<Event>,
    inbox: crossbeam_channel::Receiver<Event>,
    session: SessionId,
}

/// Makes a session the active one, if there is none.
fn open(shared: &Shared, session: SessionId, secret: Secret) -> Option<Opened> {
    let mut hub = shared.hub();
    if hub.active.is_some() || hub.taken || hub.closed {
        return None;
    }
    let (events, inbox) = crossbeam_channel::unbounded();
    hub.active = Some(Active { id: session, secret, events: events.clone() });
    Some(Opened { events, inbox, session })
}

fn begin(shared: &Arc<Shared>, opened: Opened, role: Role, channel: Channel) -> io::Result<()> {
    let Opened { events, inbox, session } = opened;
    let control = if role == Role::Multiplexed {
        let MuxChannels { demand, control, bulk } = channel::split(channel)?;
        let _ = events.send(Event::Lane(Role::Demand, demand));
        let _ = events.send(Event::Lane(Role::Bulk, bulk));
        control
    } else {
        channel
    };
    let shared = shared.clone();
    std::thread::Builder::new()
        .name("incoming-guest".to_owned())
        .spawn(move || run::run(&shared, &events, &inbox, control, session))?;
    Ok(())
}

fn inquiry(
    shared: &Shared,
    socket: Socket,
    peer: &str,
    session: SessionId,
    secret: Secret,
) -> Result<(), String> {
    let text = |error: io::Error| error.to_string();
    let (known, events) = {
        let hub = shared.hub();
        (hub.outcome(session, secret), hub.of(session, secret))
    };
    if known.is_none() && events.is_none() {
        handshake::answer(&socket, Verdict::UnknownSession, Features::default()).map_err(text)?;
        return Err("asks for a session that is not known here".to_owned());
    }
    handshake::answer(&socket, Verdict::Accepted, Features::default()).map_err(text)?;
    socket.set_read_timeout(Some(HANDSHAKE_WITHIN)).map_err(text)?;
    let mut channel = channel::from_socket(socket, peer.to_owned(), true);
    let mut frames = FrameReader::new(channel.reader, MAX_CONTROL_BODY);
    let question = frames
        .next()
        .and_then(|frame| Ok::<_, LaneError>(ToDestination::decode(frame.kind, frame.body)?))
        .map_err(|error| error.to_string())?;
    if question != ToDestination::WhoRuns {
        return Err(format!("{question:?} on an inquiry's connection"));
    }
    let owner = match (known, events) {
        (Some(owner), _) => Some(owner),
        (None, Some(events)) => {
            let (answer, answered) = crossbeam_channel::bounded(1);
            let _ = events.send(Event::Inquiry(answer));
            let owner = answered.recv_timeout(OWNER_WITHIN).ok();
            // The session may have ended between the two.
            owner.or_else(|| shared.hub().outcome(session, secret))
        }
        (None, None) => None,
    };
    let owner = owner.ok_or("the session's thread does not answer")?;
    channel.writer.write_all(&ToSource::Owner(owner).encode()).map_err(text)
}

impl Hub {
    /// The way to an active session.
    fn of(&self, session: SessionId, secret: Secret) -> Option<crossbeam_channel::Sender<Event>> {
        let active = self.active.as_ref()?;
        (active.id == session && active.secret == secret).then(|| active.events.clone())
    }

    /// How an ended session ended.
    fn outcome(&self, session: SessionId, secret: Secret) -> Option<Ownership> {
        let same =
            |ended: &&(SessionId, Secret, Ownership)| ended.0 == session && ended.1 == secret;
        self.ended.iter().rev().find(same).map(|ended| ended.2)
    }

    /// The active session has ended like this; another may come if the guest has not.
    pub(super) fn forget(&mut self, session: SessionId, owner: Ownership) {
        if let Some(active) = self.active.take_if(|active| active.id == session) {
            if self.ended.len() >= REMEMBERED {
                self.ended.remove(0);
            }
            self.ended.push((active.id, active.secret, owner));
            self.taken |= owner == Ownership::Running;
        }
    }
}
