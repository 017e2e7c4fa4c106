//! What the kernel counted on a TCP connection (`TCP_INFO`). The one place here that calls libc.
#![allow(unsafe_code)]

use crate::channel::ByteCounts;
use socket2::Socket;
use std::os::fd::AsRawFd;

// Offsets in `struct tcp_info`, <linux/tcp.h>; the structure only grows at its end.
const BYTES_RECEIVED: usize = 128;
const BYTES_SENT: usize = 200;
const SIZE: usize = 232;

/// Bytes sent (with what was sent again) and received, from the kernel. `None` where it does not tell.
pub(crate) fn counts(socket: &Socket) -> Option<ByteCounts> {
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
    let known = info.get(..usize::try_from(length).ok()?)?;
    let field = |offset: usize| -> Option<u64> {
        Some(u64::from_ne_bytes(*known.get(offset..)?.first_chunk()?))
    };
    (result == 0).then_some(())?;
    Some(ByteCounts { sent: field(BYTES_SENT)?, received: field(BYTES_RECEIVED)? })
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
    fn a_unix_socket_has_no_such_figures() {
        let (a, _b) = std::os::unix::net::UnixStream::pair().unwrap();
        assert_eq!(counts(&Socket::from(std::os::fd::OwnedFd::from(a))), None);
    }
}
