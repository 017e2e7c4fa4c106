//! Inherited descriptors. The one place here that makes one from a number.
#![allow(unsafe_code)]

use socket2::Socket;
use std::io;
use std::os::fd::BorrowedFd;

/// A duplicate of an inherited socket. The original stays open and untouched, so that a wrong number
/// closes nothing of ours.
///
/// # Errors
/// `EBADF` when nothing is open under the number, `ENOTSOCK` for anything else than a socket.
pub(super) fn duplicate(number: i32) -> io::Result<Socket> {
    if number < 0 {
        return Err(rustix::io::Errno::BADF.into());
    }
    // SAFETY: the number is not -1. Nothing is assumed of what is open under it: the only use is
    // F_DUPFD_CLOEXEC below, which the kernel checks, before anything could close the number.
    let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
    let owned = borrowed.try_clone_to_owned()?;
    rustix::net::sockopt::socket_type(&owned)?;
    Ok(Socket::from(owned))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;

    #[test]
    fn only_an_open_socket_is_taken() {
        let (a, _b) = std::os::unix::net::UnixStream::pair().unwrap();
        assert!(duplicate(a.as_raw_fd()).is_ok());
        let file = std::fs::File::open("/dev/null").unwrap();
        let errno = |number| duplicate(number).unwrap_err().raw_os_error();
        assert_eq!(errno(file.as_raw_fd()), Some(libc::ENOTSOCK));
        assert_eq!(errno(1_000_000), Some(libc::EBADF));
        assert_eq!(errno(-1), Some(libc::EBADF));
    }
}
