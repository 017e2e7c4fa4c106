//! Listening sockets.

use super::{descriptor, is_listening, peer_name};
use crate::uri::Endpoint;
use rustix::event::{PollFd, PollFlags};
use socket2::{Domain, SockAddr, Socket, Type};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Why nothing listens.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Another process has it.
    #[error("cannot listen on {endpoint}: it is in use; choose another or end who uses it")]
    InUse {
        /// Where.
        endpoint: Endpoint,
    },
    /// A file is in the way.
    #[error(
        "cannot listen on {endpoint}: a file that is no socket is there; remove it or choose another path"
    )]
    NotASocket {
        /// Where.
        endpoint: Endpoint,
    },
    /// Anything else.
    #[error("cannot listen on {endpoint}: {error}")]
    Other {
        /// Where.
        endpoint: Endpoint,
        /// What the system says.
        error: io::Error,
    },
}

/// Connections that the kernel keeps before they are accepted.
const BACKLOG: i32 = 64;

enum Kind {
    /// Accepts connections.
    Listening(Socket),
    /// One connection, given ready.
    Ready(Option<Socket>),
}

/// A listening socket, or the one connection of `fd:N`. A socket's path is removed with it.
pub struct Listener {
    kind: Kind,
    endpoint: Endpoint,
    bound_path: Option<BoundPath>,
}

impl std::fmt::Debug for Listener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Listener").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}

impl Listener {
    /// Begins to listen.
    ///
    /// # Errors
    /// See [`ListenError`].
    pub fn bind(endpoint: &Endpoint) -> Result<Self, ListenError> {
        let explain = |error: io::Error| match error.kind() {
            io::ErrorKind::AddrInUse => ListenError::InUse { endpoint: endpoint.clone() },
            _ => ListenError::Other { endpoint: endpoint.clone(), error },
        };
        let mut bound_path = None;
        let mut actual = endpoint.clone();
        let kind = match endpoint {
            Endpoint::Tcp { host, port } => {
                let socket = bind_tcp(host.as_deref(), *port).map_err(explain)?;
                if let (Endpoint::Tcp { port, .. }, Ok(address)) =
                    (&mut actual, socket.local_addr())
                {
                    *port = address.as_socket().map_or(*port, |address| address.port());
                }
                Kind::Listening(socket)
            }
            Endpoint::Unix(path) => {
                clear_stale(endpoint, path)?;
                let socket = bind_unix(path).map_err(explain)?;
                bound_path = BoundPath::of(path);
                Kind::Listening(socket)
            }
            Endpoint::Fd(number) => {
                let socket = descriptor::duplicate(*number).map_err(explain)?;
                if is_listening(&socket) {
                    Kind::Listening(socket)
                } else {
                    Kind::Ready(Some(socket))
                }
            }
        };
        if let Kind::Listening(socket) = &kind {
            socket.set_nonblocking(true).map_err(explain)?;
        }
        Ok(Self { kind, endpoint: actual, bound_path })
    }

    /// Where it listens, with the port that the system chose.
    #[must_use]
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Whether more than one connection can come.
    #[must_use]
    pub fn is_open(&self) -> bool {
        matches!(self.kind, Kind::Listening(_))
    }

    /// What to poll for the next connection; `None` when one is ready, or none can come.
    pub(crate) fn poll_fd(&self) -> Option<PollFd<'_>> {
        match &self.kind {
            Kind::Listening(socket) => Some(PollFd::new(socket, PollFlags::IN)),
            Kind::Ready(_) => None,
        }
    }

    /// The next connection that is there, without waiting, and its peer's name.
    pub(crate) fn take(&mut self) -> io::Result<Option<(Socket, String)>> {
        match &mut self.kind {
            Kind::Ready(socket) => Ok(socket.take().map(|socket| {
                let name = peer_name(&socket);
                (socket, name)
            })),
            Kind::Listening(socket) => match socket.accept() {
                Ok((socket, _)) => {
                    let name = peer_name(&socket);
                    Ok(Some((socket, name)))
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
                // Gone before it was accepted: not the listener's failure.
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted
                    ) =>
                {
                    Ok(None)
                }
                Err(error) => Err(error),
            },
        }
    }
}

fn bind_tcp(host: Option<&str>, port: u16) -> io::Result<Socket> {
    let Some(host) = host else {
        // Both families through one socket; IPv4 alone where there is no IPv6.
        return bind_address((Ipv6Addr::UNSPECIFIED, port).into()).or_else(|error| {
            match error.kind() {
                io::ErrorKind::AddrInUse => Err(error),
                _ => bind_address((Ipv4Addr::UNSPECIFIED, port).into()),
            }
        });
    };
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for address in (host, port).to_socket_addrs()? {
        match bind_address(address) {
            Ok(socket) => return Ok(socket),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn bind_address(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() && address.ip().is_unspecified() {
        socket.set_only_v6(false)?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket)
}

fn bind_unix(path: &Path) -> io::Result<Socket> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.bind(&SockAddr::unix(path)?)?;
    socket.listen(BACKLOG)?;
    Ok(socket)
}

/// Removes a socket that a dead process left. One that somebody listens on stays, as does any other file.
fn clear_stale(endpoint: &Endpoint, path: &Path) -> Result<(), ListenError> {
    use std::os::unix::fs::FileTypeExt;
    let Ok(metadata) = std::fs::symlink_metadata(path) else { return Ok(()) };
    if !metadata.file_type().is_socket() {
        return Err(ListenError::NotASocket { endpoint: endpoint.clone() });
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path)
                .map_err(|error| ListenError::Other { endpoint: endpoint.clone(), error })
        }
        _ => Err(ListenError::InUse { endpoint: endpoint.clone() }),
    }
}

/// A socket's path that is ours to remove, as long as it is still that socket.
struct BoundPath {
    path: PathBuf,
    identity: (u64, u64),
}

impl BoundPath {
    fn of(path: &Path) -> Option<Self> {
        let metadata = std::fs::symlink_metadata(path).ok()?;
        Some(Self { path: path.to_owned(), identity: (metadata.dev(), metadata.ino()) })
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let Some(bound) = &self.bound_path else { return };
        let now = BoundPath::of(&bound.path);
        if now.is_some_and(|now| now.identity == bound.identity) {
            let _ = std::fs::remove_file(&bound.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unix(path: &Path) -> Endpoint {
        Endpoint::Unix(path.to_owned())
    }

    #[test]
    fn the_system_chooses_a_port_and_it_is_told() {
        let listener = Listener::bind(&"tcp:0:0".parse().unwrap()).unwrap();
        let Endpoint::Tcp { port, .. } = *listener.endpoint() else { panic!() };
        assert_ne!(port, 0);
        std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
        let error = Listener::bind(&format!("tcp:0:{port}").parse().unwrap()).unwrap_err();
        assert!(error.to_string().contains("in use"), "{error}");
    }

    #[test]
    fn a_socket_path_goes_with_its_listener_and_a_stale_one_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists(), "a dead process leaves its socket");
        let listener = Listener::bind(&unix(&path)).unwrap();
        let error = Listener::bind(&unix(&path)).unwrap_err();
        assert!(matches!(error, ListenError::InUse { .. }), "{error}");
        drop(listener);
        assert!(!path.exists());
    }

    #[test]
    fn a_file_in_the_way_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, "precious").unwrap();
        let error = Listener::bind(&unix(&path)).unwrap_err();
        assert!(matches!(error, ListenError::NotASocket { .. }), "{error}");
        assert!(path.exists());
    }

    #[test]
    fn a_path_that_became_another_socket_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let listener = Listener::bind(&unix(&path)).unwrap();
        std::fs::remove_file(&path).unwrap();
        let _other = std::os::unix::net::UnixListener::bind(&path).unwrap();
        drop(listener);
        assert!(path.exists());
    }
}
