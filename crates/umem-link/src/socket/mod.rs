//! Sockets: connecting, listening, and their settings.

mod connect;
mod descriptor;
mod listen;
pub(crate) mod tcp_info;

pub use connect::{ConnectError, connect};
pub use listen::{ListenError, Listener};

use rustix::net::sockopt;
use socket2::{Domain, Socket, TcpKeepalive};
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

/// What a connection is for, as far as its socket settings go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Small messages that somebody waits for.
    Latency,
    /// Much data that nobody waits for: bounded buffers, so that it cannot pile up in the kernel.
    Bulk,
}

/// Time after which a peer that acknowledges nothing is taken for dead.
pub const SILENCE: Duration = Duration::from_secs(15);
/// Bytes that the kernel holds for a bulk connection, sent and not acknowledged.
const BULK_SEND_BUFFER: usize = 1024 * 1024;
/// Bytes that the kernel takes beyond what it can send at once.
const BULK_NOT_SENT: u32 = 256 * 1024;

/// Applies the settings for a purpose. Settings that a socket does not have are left alone.
///
/// # Errors
/// The system's, on a descriptor that is no socket.
pub(crate) fn tune(socket: &Socket, purpose: Purpose) -> io::Result<()> {
    socket.set_nonblocking(false)?;
    // A peer that stands still does not hold a thread that writes; on TCP the kernel sees to it too.
    socket.set_write_timeout(Some(SILENCE))?;
    if matches!(socket.domain()?, Domain::IPV4 | Domain::IPV6) {
        socket.set_tcp_nodelay(true)?;
        socket.set_tcp_user_timeout(Some(SILENCE))?;
        let probes = TcpKeepalive::new()
            .with_time(Duration::from_secs(5))
            .with_interval(Duration::from_secs(2))
            .with_retries(5);
        socket.set_tcp_keepalive(&probes)?;
        if purpose == Purpose::Bulk {
            socket.set_tcp_notsent_lowat(BULK_NOT_SENT)?;
        }
    }
    if purpose == Purpose::Bulk {
        socket.set_send_buffer_size(BULK_SEND_BUFFER)?;
    }
    Ok(())
}

/// Whether a socket listens.
fn is_listening(socket: &Socket) -> bool {
    sockopt::socket_acceptconn(socket).unwrap_or(false)
}

/// The other end's name for people.
pub(crate) fn peer_name(socket: &Socket) -> String {
    let address = socket.peer_addr().ok();
    match address.as_ref().and_then(socket2::SockAddr::as_socket) {
        Some(address) => {
            // An IPv4 peer of a socket for both families, as people write it.
            format!("tcp:{}", SocketAddr::new(address.ip().to_canonical(), address.port()))
        }
        None => match address.as_ref().and_then(|address| address.as_pathname()) {
            Some(path) => format!("unix:{}", path.display()),
            None => "a local process".to_owned(),
        },
    }
}
