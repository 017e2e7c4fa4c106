//! The first bytes of a connection, in bounded time.

use crate::channel::{self, Channel};
use crate::wake::{Wake, wait_ready};
use rustix::event::PollFlags;
use socket2::Socket;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};
use umem_wire::{Features, PREFACE_BYTES, Preface, REPLY_BYTES, Reply, Role, Verdict, WireError};

/// Longest time for the other end's first bytes.
pub(crate) const HANDSHAKE_WITHIN: Duration = Duration::from_secs(5);
/// Longest wait of an inquirer for its answer; the destination needs less.
const ANSWER_WITHIN: Duration = Duration::from_secs(25);

/// Why a connection came to nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HandshakeError {
    #[error("the connection broke at its start ({0}); is the other end a umem destination?")]
    Io(#[from] io::Error),
    #[error("no answer to the first message within {} s; is the other end a umem destination?", HANDSHAKE_WITHIN.as_secs())]
    Late,
    #[error("cancelled while the first messages were exchanged")]
    Ended,
    #[error(
        "the other end closed the connection at its start; is it a umem destination (-incoming)?"
    )]
    Closed,
    #[error(transparent)]
    Wire(#[from] WireError),
    #[error("the destination is taking in another guest, or has one")]
    Busy,
    #[error("the destination does not know this migration (it was restarted, or is another one)")]
    UnknownSession,
}

/// Reads exactly, until a deadline for all of it or until `wake` is set.
fn read_by(
    mut socket: &Socket,
    mut buffer: &mut [u8],
    deadline: Instant,
    wake: &Wake,
) -> Result<(), HandshakeError> {
    while !buffer.is_empty() {
        let left = deadline.saturating_duration_since(Instant::now());
        match wait_ready(socket.as_fd(), PollFlags::IN, wake, left) {
            Ok(true) => {}
            Ok(false) => return Err(HandshakeError::Late),
            Err(error) if error.kind() == ErrorKind::Interrupted => {
                return Err(HandshakeError::Ended);
            }
            Err(error) => return Err(error.into()),
        }
        match socket.read(buffer) {
            Ok(0) => return Err(HandshakeError::Closed),
            Ok(count) => buffer = buffer.get_mut(count..).unwrap_or_default(),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::ConnectionReset => {
                return Err(HandshakeError::Closed);
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// The source's side: says what the connection is for, and hears whether it is taken, and what optional
/// parts both ends know.
pub(crate) fn call(
    socket: Socket,
    preface: &Preface,
    peer: String,
    again: bool,
    wake: &Wake,
) -> Result<(Channel, Features), HandshakeError> {
    (&socket).write_all(&preface.encode())?;
    let mut reply = [0; REPLY_BYTES];
    read_by(&socket, &mut reply, Instant::now() + HANDSHAKE_WITHIN, wake)?;
    let Reply { verdict, features } = Reply::decode(&reply)?;
    match verdict {
        Verdict::Accepted => {}
        Verdict::Busy => return Err(HandshakeError::Busy),
        Verdict::UnknownSession => return Err(HandshakeError::UnknownSession),
        // `decode` has made an error of it.
        Verdict::Version => return Err(HandshakeError::Closed),
    }
    let within = (preface.role == Role::Inquiry).then_some(ANSWER_WITHIN);
    socket.set_read_timeout(within)?;
    // A bit that this end has not named means nothing.
    Ok((channel::from_socket(socket, peer, again), features.both(preface.features)))
}

/// The destination's side: hears what the connection is for.
pub(crate) fn hear(socket: &Socket, wake: &Wake) -> Result<Preface, HandshakeError> {
    let mut preface = [0; PREFACE_BYTES];
    read_by(socket, &mut preface, Instant::now() + HANDSHAKE_WITHIN, wake)?;
    match Preface::decode(&preface) {
        Ok(preface) => Ok(preface),
        Err(error) => {
            if matches!(error, WireError::Version { .. }) {
                answer(socket, Verdict::Version, Features::default())?;
            }
            Err(error.into())
        }
    }
}

/// The destination's answer.
pub(crate) fn answer(mut socket: &Socket, verdict: Verdict, features: Features) -> io::Result<()> {
    socket.set_read_timeout(None)?;
    socket.write_all(&Reply { verdict, features }.encode())
}
