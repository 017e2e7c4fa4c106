//! Connecting, in bounded time, with a way out.

use super::{Purpose, descriptor, is_listening, tune};
use crate::uri::Endpoint;
use crate::wake::{Wake, wait_ready};
use rustix::event::PollFlags;
use socket2::{Domain, SockAddr, Socket, Type};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, ToSocketAddrs};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The name is not known.
    #[error("cannot find the host of {endpoint}: {error}; check its name, or give its address")]
    Name {
        /// Where to.
        endpoint: Endpoint,
        /// What the resolver says.
        error: io::Error,
    },
    /// Somebody is there, but nobody listens.
    #[error(
        "nobody listens on {endpoint}: start the destination with -postcopy -incoming first, and check the port"
    )]
    Refused {
        /// Where to.
        endpoint: Endpoint,
    },
    /// No answer.
    #[error(
        "no answer from {endpoint} within {seconds} s: check the address and firewalls on the way"
    )]
    Timeout {
        /// Where to.
        endpoint: Endpoint,
        /// How long was waited, seconds.
        seconds: u64,
    },
    /// The migration was cancelled meanwhile.
    #[error("cancelled while connecting to {endpoint}")]
    Cancelled {
        /// Where to.
        endpoint: Endpoint,
    },
    /// The descriptor listens.
    #[error("fd:{number} is a listening socket; the source needs a connected one")]
    Listening {
        /// Its number.
        number: i32,
    },
    /// Anything else.
    #[error("cannot connect to {endpoint}: {error}")]
    Other {
        /// Where to.
        endpoint: Endpoint,
        /// What the system says.
        error: io::Error,
    },
}

/// Connects a blocking stream socket. `wake` ends it early.
///
/// # Errors
/// See [`ConnectError`].
pub fn connect(
    endpoint: &Endpoint,
    purpose: Purpose,
    within: Duration,
    wake: &Wake,
) -> Result<Socket, ConnectError> {
    let socket = match endpoint {
        Endpoint::Tcp { host, port } => connect_tcp(endpoint, host.as_deref(), *port, within, wake),
        Endpoint::Unix(path) => connect_unix(endpoint, path, within, wake),
        Endpoint::Fd(number) => match descriptor::duplicate(*number) {
            Ok(socket) if is_listening(&socket) => Err(ConnectError::Listening { number: *number }),
            Ok(socket) => Ok(socket),
            Err(error) => Err(ConnectError::Other { endpoint: endpoint.clone(), error }),
        },
    }?;
    tune(&socket, purpose)
        .map_err(|error| ConnectError::Other { endpoint: endpoint.clone(), error })?;
    Ok(socket)
}

fn connect_tcp(
    endpoint: &Endpoint,
    host: Option<&str>,
    port: u16,
    within: Duration,
    wake: &Wake,
) -> Result<Socket, ConnectError> {
    let addresses: Vec<SocketAddr> = match host {
        None => vec![(Ipv4Addr::LOCALHOST, port).into()],
        Some(host) => (host, port)
            .to_socket_addrs()
            .map_err(|error| ConnectError::Name { endpoint: endpoint.clone(), error })?
            .collect(),
    };
    let deadline = Instant::now() + within;
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for address in addresses {
        let left = deadline.saturating_duration_since(Instant::now());
        match attempt(Domain::for_address(address), &address.into(), left, wake) {
            Ok(socket) => return Ok(socket),
            Err(error) => last = error,
        }
        if wake.is_set() {
            break;
        }
    }
    Err(explain(endpoint, last, within))
}

fn connect_unix(
    endpoint: &Endpoint,
    path: &PathBuf,
    within: Duration,
    wake: &Wake,
) -> Result<Socket, ConnectError> {
    SockAddr::unix(path)
        .and_then(|address| attempt(Domain::UNIX, &address, within, wake))
        .map_err(|error| explain(endpoint, error, within))
}

fn attempt(
    domain: Domain,
    address: &SockAddr,
    within: Duration,
    wake: &Wake,
) -> io::Result<Socket> {
    let socket = Socket::new(domain, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    match socket.connect(address) {
        Ok(()) => return Ok(socket),
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {}
        Err(error) => return Err(error),
    }
    if !wait_ready(socket.as_fd(), PollFlags::OUT, wake, within)? {
        return Err(io::ErrorKind::TimedOut.into());
    }
    match socket.take_error()? {
        Some(error) => Err(error),
        None => Ok(socket),
    }
}

fn explain(endpoint: &Endpoint, error: io::Error, within: Duration) -> ConnectError {
    let endpoint = endpoint.clone();
    match error.kind() {
        io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound => {
            ConnectError::Refused { endpoint }
        }
        io::ErrorKind::TimedOut => ConnectError::Timeout { endpoint, seconds: within.as_secs() },
        io::ErrorKind::Interrupted => ConnectError::Cancelled { endpoint },
        _ => ConnectError::Other { endpoint, error },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(uri: &str, within: Duration, wake: &Wake) -> String {
        let endpoint = uri.parse().unwrap();
        connect(&endpoint, Purpose::Latency, within, wake).unwrap_err().to_string()
    }

    #[test]
    fn nobody_listening_is_said_so() {
        let wake = Wake::new().unwrap();
        // Bound and closed at once: nobody listens there now.
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let second = Duration::from_secs(1);
        let error = failure(&format!("tcp:127.0.0.1:{port}"), second, &wake);
        assert!(error.contains("nobody listens") && error.contains(&port.to_string()), "{error}");
        let error = failure("unix:/nonexistent/socket", second, &wake);
        assert!(error.contains("nobody listens on unix:/nonexistent"), "{error}");
        let error = failure("fd:100000", second, &wake);
        assert!(error.contains("cannot connect to fd:100000"), "{error}");
    }

    #[test]
    fn a_set_wake_ends_the_attempt() {
        // 192.0.2.0/24 (RFC 5737) is never assigned: either no route, or no answer.
        let wake = Wake::new().unwrap();
        wake.set();
        let start = Instant::now();
        failure("tcp:192.0.2.1:4444", Duration::from_secs(20), &wake);
        assert!(start.elapsed() < Duration::from_secs(10));
    }
}
