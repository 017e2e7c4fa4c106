//! The signal that brings a thread out of KVM_RUN. Its handler does nothing: that it comes is enough.

use std::cell::Cell;
use std::io;
use std::sync::OnceLock;

/// Which of the real-time signals, counted from the first that the C library leaves free. Others use the
/// first ones.
const OFFSET: libc::c_int = 5;

extern "C" fn nothing(_: libc::c_int) {}

fn number() -> libc::c_int {
    libc::SIGRTMIN() + OFFSET
}

/// Has the signal interrupt what a thread waits for in the kernel. Once for the process.
pub(crate) fn install() -> io::Result<()> {
    static INSTALLED: OnceLock<Result<(), i32>> = OnceLock::new();
    let result = INSTALLED.get_or_init(|| {
        // SAFETY: all zero is a valid value: no flags (no SA_RESTART), no signal masked.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = nothing as *const () as libc::sighandler_t;
        // SAFETY: the handler touches nothing.
        let done = unsafe { libc::sigaction(number(), &raw const action, std::ptr::null_mut()) };
        if done == 0 { Ok(()) } else { Err(io::Error::last_os_error().raw_os_error().unwrap_or(0)) }
    });
    result.map_err(io::Error::from_raw_os_error)
}

/// The calling thread's number, for [`send`]. The first call in a thread lets the signal through.
pub(crate) fn this_thread() -> i32 {
    thread_local!(static NUMBER: Cell<i32> = const { Cell::new(0) });
    let known = NUMBER.get();
    if known != 0 {
        return known;
    }
    // SAFETY: all zero is a valid set of signals, which is emptied next.
    let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: the set is ours.
    unsafe { libc::sigemptyset(&raw mut set) };
    // SAFETY: as above.
    unsafe { libc::sigaddset(&raw mut set, number()) };
    // SAFETY: as above; the handler is installed before a vCPU is made.
    unsafe { libc::pthread_sigmask(libc::SIG_UNBLOCK, &raw const set, std::ptr::null_mut()) };
    // SAFETY: it has no arguments and cannot fail.
    let number = unsafe { libc::gettid() };
    NUMBER.set(number);
    number
}

/// Sends the signal to a thread of this process. One that is gone is none of ours any more; nothing
/// happens then.
pub(crate) fn send(thread: i32) {
    let process = std::process::id() as libc::pid_t;
    // SAFETY: three numbers; the signal has a handler.
    unsafe { libc::syscall(libc::SYS_tgkill, process, thread, number()) };
}
