//! What the kernel counted on a TCP connection (`TCP_INFO`). The one place here that calls libc.
#![allow(unsafe_code)]

use crate::channel::ByteCounts;
use socket2::Socket;
use std::os::fd::AsRawFd;
use std::time::Duration;
use umem_migrate::PathFacts;

// Offsets in `struct tcp_info`, <linux/tcp.h>; the structure only grows at its end.
const ROUND_TRIP: usize = 68;
const BYTES_ACKNOWLEDGED: usize = 120;
const BYTES_RECEIVED: usize = 128;
const SHORTEST_ROUND_TRIP: usize = 148;
const BYTES_SENT: usize = 200;
const SIZE: usize = 232;

/// What the kernel says of a connection, as far as it knows the structure.
struct Info {
    bytes: [u8; SIZE],
    known: usize,
}

impl Info {
    fn field<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        self.bytes.get(..self.known)?.get(offset..)?.first_chunk().copied()
    }

    fn u32(&self, offset: usize) -> Option<u32> {
        self.field(offset).map(u32::from_ne_bytes)
    }

    fn u64(&self, offset: usize) -> Option<u64> {
        self.field(offset).map(u64::from_ne_bytes)
    }
}

/// Bytes sent (with what was sent again) and received, from the kernel. `None` where it does not tell.
pub(crate) fn counts(socket: &Socket) -> Option<ByteCounts> {
    let info = info(socket)?;
    Some(ByteCounts { sent: info.u64(BYTES_SENT)?, received: info.u64(BYTES_RECEIVED)? })
}

/// What the path is like, from the kernel. `None` where it does not tell, or has not measured yet.
pub(crate) fn path(socket: &Socket) -> Option<PathFacts> {
    let info = info(socket)?;
    let microseconds = |offset| info.u32(offset).map(u64::from).map(Duration::from_micros);
    let shortest = info.u32(SHORTEST_ROUND_TRIP).filter(|never| *never != u32::MAX)?;
    Some(PathFacts {
        round_trip: microseconds(ROUND_TRIP)?,
        shortest: Duration::from_micros(shortest.into()),
        acknowledged: info.u64(BYTES_ACKNOWLEDGED)?,
    })
}

fn info(socket: &Socket) -> Option<Info> {
    let mut info = [0u8; SIZE];
    let mut length = libc::socklen_t::try_from(SIZE).ok()?;
    // SAFETY: `info` is writable for `length` bytes, and `length` is writable; both outlive the call.
    // The descriptor is open, because `socket` owns it.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    (result == 0).then_some(())?;
    Some(Info { bytes: info, known: usize::try_from(length).ok()?.min(SIZE) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn the_kernel_counts_what_went_through() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        client.write_all(&[1; 1000]).unwrap();
        server.read_exact(&mut [0; 1000]).unwrap();
        server.write_all(&[1; 10]).unwrap();
        client.read_exact(&mut [0; 10]).unwrap();
        let counts = counts(&Socket::from(client)).unwrap();
        assert_eq!(counts, ByteCounts { sent: 1000, received: 10 });
    }

    #[test]
    fn the_kernel_measures_the_path() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        for _ in 0..100 {
            client.write_all(&[1; 10_000]).unwrap();
            server.read_exact(&mut [0; 10_000]).unwrap();
        }
        let facts = path(&Socket::from(client)).unwrap();
        assert!(facts.round_trip >= facts.shortest, "{facts:?}");
        assert!(facts.shortest > Duration::ZERO && facts.shortest < Duration::from_secs(5));
        assert!(facts.acknowledged > 0 && facts.acknowledged < 1_000_002, "{facts:?}");
    }

    #[test]
    fn a_unix_socket_has_no_such_figures() {
        let (a, _b) = std::os::unix::net::UnixStream::pair().unwrap();
        let a = Socket::from(std::os::fd::OwnedFd::from(a));
        assert_eq!((counts(&a), path(&a)), (None, None));
    }
}
