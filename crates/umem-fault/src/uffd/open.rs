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
    /// It is for user mode alone, which is not enough.
    #[error(
        "this user may use userfaultfd for user mode only, but faults of a KVM guest are the kernel's: give it \
         access to /dev/userfaultfd, or set the sysctl vm.unprivileged_userfaultfd to 1"
    )]
    UserModeOnly,
    /// It lacks something.
    #[error("this kernel's userfaultfd lacks {0}")]
    Lacks(&'static str),
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
        Self::open_with(Features::WANTED)
    }

    /// Opens one for which faults in the kernel wait too, as those are of a KVM guest.
    ///
    /// # Errors
    /// As [`Self::open`], and when this user may have one for user mode only.
    pub fn open_for_kernel() -> Result<Self, OpenError> {
        let uffd = Self::open()?;
        if uffd.user_mode_only { Err(OpenError::UserModeOnly) } else { Ok(uffd) }
    }

    /// Opens one for which nothing waits: a thread that touches a missing page gets a signal, or an error
    /// from its system call. For who looks at the page table before each touch, and for a KVM that tells its
    /// vCPUs' threads which page they miss.
    ///
    /// # Errors
    /// As [`Self::open`], and when the kernel has no such thing.
    pub fn open_signalling() -> Result<Self, OpenError> {
        let uffd = Self::open_with(Features(Features::WANTED.0 | Features::SIGBUS.0))?;
        if uffd.features.contains(Features::SIGBUS) {
            Ok(uffd)
        } else {
            Err(OpenError::Lacks("signals for missing pages (UFFD_FEATURE_SIGBUS)"))
        }
    }

    fn open_with(wanted: Features) -> Result<Self, OpenError> {
        let mut denied = None;
        for way in [Way::Call, Way::Device, Way::UserModeOnly] {
            match way.descriptor() {
                Ok(fd) => return Self::agree(way, fd, wanted),
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
        Self::agree(way, way.descriptor().map_err(OpenError::Denied)?, Features::WANTED)
    }

    /// Agrees on features, which can be done once: so a second descriptor asks what there is.
    fn agree(way: Way, fd: OwnedFd, wanted: Features) -> Result<Self, OpenError> {
        let ask = |fd: &OwnedFd, features| {
            let mut argument = abi::Api { api: abi::API, features, ioctls: 0 };
            call(fd.as_fd(), abi::UFFDIO_API, &mut argument)
                .map(|()| argument.features)
                .map_err(|error| OpenError::Api { error })
        };
        let probe = way.descriptor().map_err(OpenError::Denied)?;
        let features = ask(&probe, 0)? & wanted.0;
        ask(&fd, features)?;
        let user_mode_only = matches!(way, Way::UserModeOnly);
        Ok(Self { fd, features: Features(features), user_mode_only })
    }
}
