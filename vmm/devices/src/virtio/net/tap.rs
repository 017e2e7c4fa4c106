//! The host's end of a network device: a tap, or a socket in its place.
#![allow(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;

/// Bytes of the header before each frame (section 5.1.6, `struct virtio_net_hdr`).
pub(super) const HEADER: usize = 12;
/// Most bytes of a frame.
pub(super) const MOST_FRAME: usize = 64 << 10;

const DEVICE: &str = "/dev/net/tun";

/// Why a tap cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TapError {
    /// No network interface can have this name.
    #[error("'{name}' is no name of a network interface: it has 1 to 15 bytes")]
    Name {
        /// The name.
        name: String,
    },
    /// The descriptor is something else.
    #[error(
        "descriptor {fd} is {found}; pass a tap opened with IFF_TAP and IFF_VNET_HDR, or a socket \
         of type SOCK_DGRAM or SOCK_SEQPACKET"
    )]
    Descriptor {
        /// The descriptor.
        fd: RawFd,
        /// What it is.
        found: &'static str,
    },
    /// The system refuses something.
    #[error(
        "cannot {what}: {error} (a tap is made with: ip tuntap add NAME mode tap user USER vnet_hdr)"
    )]
    System {
        /// What was tried.
        what: String,
        /// The system's reason.
        error: io::Error,
    },
}

fn system(what: impl Into<String>) -> TapError {
    TapError::System { what: what.into(), error: io::Error::last_os_error() }
}

/// Frames to and from the host, each with a virtio header of 12 bytes before it. No call waits.
#[derive(Debug)]
pub struct Tap {
    file: File,
}

impl Tap {
    /// Opens the tap `name`. If there is none it is made, for as long as it is open, where the user
    /// may do that.
    ///
    /// # Errors
    /// When there is no such tap, or it is in use, or the user may not.
    pub fn open(name: &str) -> Result<Self, TapError> {
        let mut request = empty_request();
        let bytes = name.as_bytes();
        if bytes.is_empty() || bytes.contains(&0) || bytes.len() >= request.ifr_name.len() {
            return Err(TapError::Name { name: name.to_owned() });
        }
        for (to, from) in request.ifr_name.iter_mut().zip(bytes) {
            *to = from.cast_signed();
        }
        let opened = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
            .open(DEVICE);
        let file =
            opened.map_err(|error| TapError::System { what: format!("open {DEVICE}"), error })?;
        request.ifr_ifru.ifru_flags = wanted_flags();
        // SAFETY: the descriptor is open; TUNSETIFF reads and writes the `ifreq` that the pointer
        // is valid for.
        let result = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
        if result < 0 {
            return Err(system(format!("attach to the tap '{name}'")));
        }
        set_up(&file)?;
        Ok(Self { file })
    }

    /// Takes a copy of a descriptor that this process has: of a tap with IFF_VNET_HDR, or of a
    /// datagram or packet socket whose peer speaks in the same form. It is made not to block.
    ///
    /// # Errors
    /// When it is not open or something else.
    pub fn from_fd(fd: RawFd) -> Result<Self, TapError> {
        // SAFETY: no memory is involved; a number that is no open descriptor is an error.
        let copy = unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 3) };
        if copy < 0 {
            return Err(system(format!("use descriptor {fd}")));
        }
        // SAFETY: it was just made, and nobody else has its number.
        let owned = unsafe { OwnedFd::from_raw_fd(copy) };
        let file = File::from(owned);
        match attached_flags(&file) {
            Some(flags) => {
                let wanted = libc::IFF_TAP | libc::IFF_VNET_HDR;
                if i32::from(flags) & wanted != wanted {
                    let found = "a tun, or a tap without IFF_VNET_HDR";
                    return Err(TapError::Descriptor { fd, found });
                }
                set_up(&file)?;
            }
            None if is_packet_socket(&file) => {}
            None => {
                return Err(TapError::Descriptor { fd, found: "neither a tap nor such a socket" });
            }
        }
        // SAFETY: the descriptor is open; no memory is involved.
        let flags = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETFL) };
        let flags = flags | libc::O_NONBLOCK;
        // SAFETY: as above.
        if unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETFL, flags) } < 0 {
            return Err(system(format!("keep descriptor {fd} from blocking")));
        }
        Ok(Self { file })
    }

    /// Takes a frame with its header; its bytes, 0 at the end. A frame that is longer is cut.
    ///
    /// # Errors
    /// `WouldBlock` when there is none.
    pub(super) fn receive(&self, bytes: &mut [u8]) -> io::Result<usize> {
        loop {
            match (&self.file).read(bytes) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return result,
            }
        }
    }

    /// Gives a frame with its header to the host.
    ///
    /// # Errors
    /// `WouldBlock` when there is no room.
    pub(super) fn send(&self, bytes: &[u8]) -> io::Result<()> {
        loop {
            match (&self.file).write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return result.map(drop),
            }
        }
    }

    /// Waits until one of `events` is there (`POLLIN`, `POLLOUT`), or `wake` can be read; what is
    /// there of the tap's.
    pub(super) fn wait(&self, events: i16, wake: &impl AsRawFd) -> io::Result<i16> {
        // A negative descriptor is passed over.
        let fd = if events == 0 { -1 } else { self.file.as_raw_fd() };
        let mut all = [
            libc::pollfd { fd, events, revents: 0 },
            libc::pollfd { fd: wake.as_raw_fd(), events: libc::POLLIN, revents: 0 },
        ];
        // SAFETY: the pointer is valid for the two entries; both descriptors are open as long as
        // their owners, which are borrowed.
        let result = unsafe { libc::poll(all.as_mut_ptr(), 2, -1) };
        if result < 0 {
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        }
        let [tap, _] = all;
        Ok(if result < 0 { 0 } else { tap.revents })
    }
}

fn empty_request() -> libc::ifreq {
    libc::ifreq {
        ifr_name: [0; libc::IFNAMSIZ],
        ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_flags: 0 },
    }
}

fn wanted_flags() -> i16 {
    // All are bits of the low half.
    (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as i16
}

/// Headers of the modern form; no offloads, so every frame is whole and has its checksums.
fn set_up(file: &File) -> Result<(), TapError> {
    let size = HEADER as libc::c_int;
    // SAFETY: the descriptor is open; TUNSETVNETHDRSZ reads the `int` that the pointer is valid for.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETVNETHDRSZ, &raw const size) };
    if result < 0 {
        return Err(system("set the tap's header to 12 bytes"));
    }
    let offloads: libc::c_ulong = 0;
    // SAFETY: the descriptor is open; TUNSETOFFLOAD takes a number, no memory is involved.
    if unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETOFFLOAD, offloads) } < 0 {
        return Err(system("switch the tap's offloads off"));
    }
    Ok(())
}

/// The flags of the interface to which the descriptor is attached; `None` when it is no tap.
fn attached_flags(file: &File) -> Option<i16> {
    let mut request = empty_request();
    // SAFETY: the descriptor is open; TUNGETIFF writes the `ifreq` that the pointer is valid for.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNGETIFF, &raw mut request) };
    // SAFETY: the flags were initialised above; TUNGETIFF writes them again.
    let flags = unsafe { request.ifr_ifru.ifru_flags };
    (result >= 0).then_some(flags)
}

fn is_packet_socket(file: &File) -> bool {
    let mut kind: libc::c_int = 0;
    let mut bytes = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the pointers are valid for an `int` and its size; other descriptors are an error.
    let result = unsafe {
        libc::getsockopt(
            file.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_TYPE,
            (&raw mut kind).cast(),
            &raw mut bytes,
        )
    };
    result == 0 && (kind == libc::SOCK_DGRAM || kind == libc::SOCK_SEQPACKET)
}
