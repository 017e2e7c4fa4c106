//! A connected socket as a channel.

use super::{ByteCounts, Channel, ChannelControl};
use crate::socket::tcp_info;
use socket2::{Domain, Socket};
use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use umem_migrate::PathFacts;

/// Largest send buffer that is asked for, bytes.
const MOST_SEND_BUFFER: usize = 16 << 20;

struct Shared {
    socket: Socket,
    peer: String,
    tcp: bool,
    /// Whether a network lies between the ends, as far as this host can tell.
    network: bool,
    can_reconnect: bool,
    sent: AtomicU64,
    received: AtomicU64,
}

/// Wraps a connected, blocking stream socket. `peer` is its name for people.
#[must_use]
pub fn from_socket(socket: Socket, peer: String, can_reconnect: bool) -> Channel {
    let tcp = matches!(socket.domain(), Ok(Domain::IPV4 | Domain::IPV6));
    let network = tcp && !stays_in_host(&socket);
    let shared = Arc::new(Shared {
        socket,
        peer,
        tcp,
        network,
        can_reconnect,
        sent: AtomicU64::new(0),
        received: AtomicU64::new(0),
    });
    Channel {
        reader: Box::new(SocketReader(Arc::clone(&shared))),
        writer: Box::new(SocketWriter(Arc::clone(&shared))),
        control: shared,
    }
}

/// Whether both ends of a TCP connection have the same address. Then round trips are those of the host's threads,
/// or of whatever passes the bytes on from here.
fn stays_in_host(socket: &Socket) -> bool {
    let ends = [socket.local_addr(), socket.peer_addr()].map(|end| end.ok()?.as_socket());
    matches!(ends, [Some(ours), Some(theirs)] if ours.ip() == theirs.ip() || theirs.ip().is_loopback())
}

impl ChannelControl for Shared {
    fn shutdown(&self) {
        // Fails only on a socket that is not connected any more, which is what is wanted.
        let _ = self.socket.shutdown(Shutdown::Both);
    }

    fn counts(&self) -> ByteCounts {
        let own = ByteCounts {
            sent: self.sent.load(Ordering::Relaxed),
            received: self.received.load(Ordering::Relaxed),
        };
        if self.tcp { tcp_info::counts(&self.socket).unwrap_or(own) } else { own }
    }

    fn peer(&self) -> String {
        self.peer.clone()
    }

    fn readable(&self) -> Option<BorrowedFd<'_>> {
        Some(self.socket.as_fd())
    }

    fn path(&self) -> Option<PathFacts> {
        self.network.then(|| tcp_info::path(&self.socket))?
    }

    fn limit_under_way(&self, bytes: u64) {
        // The kernel takes twice that, for what it needs beside the bytes, and no more than it allows.
        let bytes = usize::try_from(bytes / 2).unwrap_or(usize::MAX).min(MOST_SEND_BUFFER);
        if let Err(error) = self.socket.set_send_buffer_size(bytes) {
            log::debug!("{}: what is under way stays as it is: {error}", self.peer);
        }
    }

    fn can_reconnect(&self) -> bool {
        self.can_reconnect
    }
}

struct SocketReader(Arc<Shared>);

impl Read for SocketReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = (&self.0.socket).read(buffer)?;
        self.0.received.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }
}

struct SocketWriter(Arc<Shared>);

impl SocketWriter {
    fn account(&self, written: io::Result<usize>) -> io::Result<usize> {
        match written {
            Ok(count) => {
                self.0.sent.fetch_add(count as u64, Ordering::Relaxed);
                Ok(count)
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                let seconds = crate::socket::SILENCE.as_secs();
                let text = format!("the peer has taken nothing for {seconds} s");
                Err(io::Error::new(ErrorKind::TimedOut, text))
            }
            Err(error) => Err(error),
        }
    }
}

impl Write for SocketWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.account((&self.0.socket).write(bytes))
    }

    fn write_vectored(&mut self, buffers: &[IoSlice<'_>]) -> io::Result<usize> {
        // The kernel takes at most UIO_MAXIOV buffers a call (<linux/uio.h>).
        let buffers = &buffers[..buffers.len().min(1024)];
        self.account((&self.0.socket).write_vectored(buffers))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn a_host_s_connection_with_itself_has_no_network_to_spare() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = Socket::from(TcpStream::connect(listener.local_addr().unwrap()).unwrap());
        let mut channel = from_socket(client, "itself".to_owned(), false);
        channel.writer.write_all(&[1; 1000]).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        server.read_exact(&mut [0; 1000]).unwrap();
        assert_eq!(channel.control.path(), None);
        assert_eq!(channel.control.counts().sent, 1000);
    }
}
