//! Threads that run as soon as they are woken.
#![allow(unsafe_code)]

use rustix::io::Errno;

/// The shortest slice that the kernel takes, nanoseconds: 0.1 ms (`__setparam_fair`, Linux 6.12).
const SLICE: u64 = 100_000;

/// `struct sched_attr` in its first form (Linux 3.14).
#[repr(C)]
#[derive(Default)]
struct SchedAttr {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    runtime: u64,
    deadline: u64,
    period: u64,
}

/// `SCHED_ATTR_SIZE_VER0`.
const ATTR_BYTES: u32 = 48;
const _: () = assert!(size_of::<SchedAttr>() == ATTR_BYTES as usize);

/// Asks the kernel to let the calling thread run at once when it is woken, even where another thread has
/// just begun its slice: a thread of a shorter slice goes before one of a longer (Linux 6.12, EEVDF). Its
/// share of the CPU stays what it was. For threads that do a little for somebody who waits.
///
/// Changes nothing on older kernels, nor for threads of another scheduling policy than the usual.
pub fn run_promptly() {
    if let Err(error) = set_slice() {
        log::debug!("the scheduler takes no slice for this thread: {error}");
    }
}

fn set_slice() -> rustix::io::Result<()> {
    let mut attr = SchedAttr { size: ATTR_BYTES, ..SchedAttr::default() };
    // SAFETY: thread 0 is the calling one; the kernel writes at most the given length of the structure,
    // all of whose fields are plain integers.
    let result = unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &raw mut attr, ATTR_BYTES, 0) };
    check(result)?;
    if attr.policy != libc::SCHED_OTHER.unsigned_abs() {
        return Ok(());
    }
    attr.runtime = SLICE;
    // SAFETY: thread 0 is the calling one; the kernel reads the structure, which says its own length.
    check(unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attr, 0) })
}

fn check(result: libc::c_long) -> rustix::io::Result<()> {
    if result < 0 {
        let error = std::io::Error::last_os_error();
        return Err(Errno::from_io_error(&error).unwrap_or(Errno::INVAL));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_priority_of_a_thread_stays_what_it_was() {
        std::thread::spawn(|| {
            let nice = || rustix::process::getpriority_process(None);
            rustix::process::setpriority_process(None, 3).unwrap();
            set_slice().unwrap();
            assert_eq!(nice(), Ok(3));
        })
        .join()
        .unwrap();
    }
}
