//! Getting a userfaultfd, by whichever way this host allows.

use super::{Features, Userfaultfd, abi, call, own};
use rustix::fd::{AsFd, AsRawFd, OwnedFd};
use rustix::io::Errno;

/// Why there is no userfaultfd, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// This kernel has none.
    #[error("this kernel has no userfaultfd; it needs CONFIG_USERFAULTFD")]
    Unsupported,
    /// Not for this user.
    #[error(
        "this user may not use userfaultfd: {0}; give it access to /dev/userfaultfd, or set the sysctl vm.unprivileged_userfaultfd to 1"
    )]
    Denied(Errno),
    /// It is there, but not as needed.
    #[error("the kernel's userfaultfd does not take API {api:#x}: {error}", api = abi::API)]
    Api {
        /// What the kernel said.
        error: Errno,
    },
}

/// A way to get one.
#[derive(Debug, Clone, Copy)]
enum Way {
    /// The system call; faults of the kernel wait too.
    Call,
    /// The device, which an administrator can give to users; as good as the call.
    Device,
    /// The system call as any user may use it.
    UserModeOnly,
}

impl Way {
    fn descriptor(self) -> rustix::io::Result<OwnedFd> {
        let flags = libc::O_CLOEXEC | libc::O_NONBLOCK;
        match self {
            Self::Call => system_call(flags),
            Self::UserModeOnly => system_call(flags | abi::USER_MODE_ONLY),
            Self::Device => {
                use rustix::fs::{Mode, OFlags};
                let device = rustix::fs::open(
                    "/dev/userfaultfd",
                    OFlags::RDWR | OFlags::CLOEXEC,
                    Mode::empty(),
                )?;
                // SAFETY: the command takes flags by value and gives a new descriptor.
                let fd = unsafe {
                    libc::ioctl(device.as_raw_fd(), abi::USERFAULTFD_IOC_NEW as libc::Ioctl, flags)
                };
                own(fd.into())
            }
        }
    }
}

fn system_call(flags: i32) -> rustix::io::Result<OwnedFd> {
    // SAFETY: the call takes flags only and gives a new descriptor.
    own(unsafe { libc::syscall(libc::SYS_userfaultfd, flags) })
}

impl Userfaultfd {
    /// Opens one, with all features that this kernel has of [`Features::WANTED`]. Prefers one for
    /// which system calls wait for pages too.
    ///
    /// # Errors
    /// When this host gives none to this user.
    pub fn open() -> Result<Self, OpenError> {
        let mut denied = None;
        for way in [Way::Call, Way::Device, Way::UserModeOnly] {
            match way.descriptor() {
                Ok(fd) => return Self::agree(way, fd),
                Err(Errno::NOSYS) => return Err(OpenError::Unsupported),
                // The first says most: the others may just not be there.
                Err(error) => {
                    denied.get_or_insert(error);
                }
            }
        }
        Err(OpenError::Denied(denied.unwrap_or(Errno::PERM)))
    }

    /// Opens one as any user may: system calls that touch a missing page fail.
    ///
    /// # Errors
    /// When this host gives none to this user.
    pub fn open_user_mode_only() -> Result<Self, OpenError> {
        let way = Way::UserModeOnly;
        Self::agree(way, way.descriptor().map_err(OpenError::Denied)?)
    }

    /// Agrees on features, which can be done once: so a second descriptor asks what there is.
    fn agree(way: Way, fd: OwnedFd) -> Result<Self, OpenError> {
        let ask = |fd: &OwnedFd, features| {
            let mut argument = abi::Api { api: abi::API, features, ioctls: 0 };
            call(fd.as_fd(), abi::UFFDIO_API, &mut argument)
                .map(|()| argument.features)
                .map_err(|error| OpenError::Api { error })
        };
        let probe = way.descriptor().map_err(OpenError::Denied)?;
        let features = ask(&probe, 0)? & Features::WANTED.0;
        ask(&fd, features)?;
        let user_mode_only = matches!(way, Way::UserModeOnly);
        Ok(Self { fd, features: Features(features), user_mode_only })
    }
}
