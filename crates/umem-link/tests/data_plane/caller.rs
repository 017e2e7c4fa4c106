//! One end by hand.

use crate::world::World;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;
use umem_link::{Mode, SourceVm};
use umem_wire::{
    FRAME_HEAD_BYTES, Features, FrameHead, Preface, REPLY_BYTES, Reply, Role, Secret, SessionId,
    ToDestination, ToSource, Verdict,
};

/// The next frame; `None` when the connection has ended.
pub(crate) fn read_frame(socket: &mut TcpStream) -> Option<(u8, Vec<u8>)> {
    let mut head = [0; FRAME_HEAD_BYTES];
    socket.read_exact(&mut head).ok()?;
    let head = FrameHead::decode(head, 1 << 30).unwrap();
    let mut body = vec![0; head.body_len()];
    socket.read_exact(&mut body).ok()?;
    Some((head.kind, body))
}

/// A source by hand.
pub(crate) struct Caller {
    pub(crate) port: u16,
    pub(crate) session: SessionId,
    pub(crate) control: TcpStream,
}

impl Caller {
    pub(crate) fn connect(port: u16, session: SessionId, role: Role) -> (TcpStream, Verdict) {
        let mut socket = TcpStream::connect(("127.0.0.1", port)).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let (features, secret) = (Features(u64::MAX), Secret([9; 16]));
        socket.write_all(&Preface { role, features, session, secret }.encode()).unwrap();
        let mut reply = [0; REPLY_BYTES];
        socket.read_exact(&mut reply).unwrap();
        (socket, Reply::decode(&reply).unwrap().verdict)
    }

    /// Opens a session as soon as the destination is free.
    pub(crate) fn open(world: &World, number: u8) -> Self {
        let (port, session) = (world.port(), SessionId([number; 16]));
        loop {
            let (control, verdict) = Self::connect(port, session, Role::Control);
            match verdict {
                Verdict::Accepted => return Self { port, session, control },
                verdict => assert_eq!(verdict, Verdict::Busy),
            }
        }
    }

    pub(crate) fn lane(&self, role: Role) -> TcpStream {
        let (socket, verdict) = Self::connect(self.port, self.session, role);
        assert_eq!(verdict, Verdict::Accepted);
        socket
    }

    pub(crate) fn say(&mut self, message: &ToDestination) {
        let _ = self.control.write_all(&message.encode());
    }

    pub(crate) fn hear(&mut self) -> Option<ToSource> {
        let (kind, body) = read_frame(&mut self.control)?;
        Some(ToSource::decode(kind, &body).unwrap())
    }

    /// As far as READY.
    pub(crate) fn announce(&mut self, world: &World, mode: Mode) {
        let machine = world.source_vm().describe();
        self.say(&ToDestination::Describe { machine, bulk_lanes: 1, mode });
        assert!(matches!(self.hear(), Some(ToSource::Ready { .. })));
    }

    /// As far as page service.
    pub(crate) fn describe(&mut self, world: &World) {
        self.announce(world, Mode::POSTCOPY);
        self.begin_page_service();
    }

    pub(crate) fn begin_page_service(&mut self) {
        self.say(&ToDestination::BeginPageService);
        assert_eq!(self.hear(), Some(ToSource::PageServiceReady));
    }

    pub(crate) fn state(&mut self, world: &World) {
        self.state_after(world, 0);
    }

    pub(crate) fn state_after(&mut self, world: &World, after_round: u32) {
        let package = world.vm.expected.clone();
        let bytes = package.len() as u64;
        self.say(&ToDestination::StateLength { bytes, after_round });
        self.say(&ToDestination::StatePiece(package));
    }

    /// As far as RUNNING; the connections for demand and bulk.
    pub(crate) fn hand_over(&mut self, world: &World) -> (TcpStream, TcpStream) {
        self.describe(world);
        let (demand, bulk) = (self.lane(Role::Demand), self.lane(Role::Bulk));
        self.state(world);
        assert_eq!(self.hear(), Some(ToSource::Prepared));
        // The book has only one source, which did not stop anything here.
        world.ledger.nobody();
        self.say(&ToDestination::Handover { since_stop_ns: 1 });
        assert_eq!(self.hear(), Some(ToSource::Running));
        (demand, bulk)
    }
}

/// Reads until a message of this kind.
pub(crate) fn until(socket: &mut TcpStream, message: &ToDestination) {
    let wanted = message.encode()[0];
    while read_frame(socket).is_some_and(|(kind, _)| kind != wanted) {}
}
