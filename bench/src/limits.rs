//! What the host can do at best: bytes through loopback TCP, its round trip, and pages through
//! `UFFDIO_COPY`.
#![allow(unsafe_code)]

use std::{
    ffi::c_void,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    os::fd::OwnedFd,
    ptr, thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow};
use rustix::{
    ioctl::{self, Updater, opcode},
    mm::{self, MapFlags, ProtFlags, UserfaultfdFlags},
};
use serde_json::{Value, json};

use crate::{round_trip, stats, warm};

const TCP_BYTES: usize = 2 << 30;
const TCP_WRITE: usize = 256 << 10;
const COPY_BYTES: usize = 512 << 20;
/// Bytes of one `UFFDIO_COPY`: a page, and a chunk.
const COPY_SIZES: [usize; 2] = [4 << 10, 64 << 10];

fn mib_per_second(bytes: usize, time: Duration) -> Value {
    json!(stats::rounded(bytes as f64 / f64::from(1 << 20) / time.as_secs_f64()))
}

fn tcp() -> Result<Value> {
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let mut sender = TcpStream::connect(listener.local_addr()?)?;
    let (mut receiver, _) = listener.accept()?;
    let start = Instant::now();
    let sending = thread::spawn(move || -> std::io::Result<()> {
        let data = vec![0x5a; TCP_WRITE];
        for _ in 0..TCP_BYTES / TCP_WRITE {
            sender.write_all(&data)?;
        }
        Ok(())
    });
    let mut buffer = vec![0; TCP_WRITE];
    let mut left = TCP_BYTES;
    while left > 0 {
        match receiver.read(&mut buffer)? {
            0 => break,
            count => left = left.saturating_sub(count),
        }
    }
    let time = start.elapsed();
    sending.join().map_err(|_| anyhow!("the sender of the TCP measurement failed"))??;
    Ok(mib_per_second(TCP_BYTES, time))
}

/// `struct uffdio_api`
#[repr(C)]
#[derive(Default)]
struct Api {
    api: u64,
    features: u64,
    ioctls: u64,
}

/// `struct uffdio_register`
#[repr(C)]
#[derive(Default)]
struct Register {
    start: u64,
    bytes: u64,
    mode: u64,
    ioctls: u64,
}

/// `struct uffdio_copy`
#[repr(C)]
#[derive(Default)]
struct Copy {
    to: u64,
    from: u64,
    bytes: u64,
    mode: u64,
    copied: i64,
}

const UFFD_API: u64 = 0xaa;
const REGISTER_MISSING: u64 = 1;

/// Memory that is unmapped in the end.
struct Memory(*mut c_void);

impl Memory {
    fn new() -> Result<Self> {
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: a new mapping at a place of the kernel's choice touches no memory of ours.
        let start = unsafe { mm::mmap_anonymous(ptr::null_mut(), COPY_BYTES, protection, flags) };
        Ok(Self(start.context("no memory for the measurement of UFFDIO_COPY")?))
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, of this length, and nothing refers to it any more.
        let _ = unsafe { mm::munmap(self.0, COPY_BYTES) };
    }
}

fn open() -> Result<OwnedFd> {
    let flags = UserfaultfdFlags::CLOEXEC;
    // SAFETY: a userfaultfd without registered memory affects none.
    let file = unsafe { mm::userfaultfd(flags | UserfaultfdFlags::from_bits_retain(1)) };
    let file = file.context("no userfaultfd")?;
    let mut api = Api { api: UFFD_API, ..Api::default() };
    // SAFETY: UFFDIO_API reads and writes a struct uffdio_api, which this is.
    let call = unsafe { Updater::<{ opcode::read_write::<Api>(0xaa, 0x3f) }, Api>::new(&mut api) };
    // SAFETY: the call is the one above, on a userfaultfd.
    unsafe { ioctl::ioctl(&file, call) }.context("UFFDIO_API")?;
    Ok(file)
}

fn copy(size: usize) -> Result<Value> {
    // Declared first, dropped last: no userfaultfd watches memory that is gone.
    let memory = Memory::new()?;
    let file = open()?;
    let start = memory.0 as u64;
    let mut register =
        Register { start, bytes: COPY_BYTES as u64, mode: REGISTER_MISSING, ..Register::default() };
    // SAFETY: UFFDIO_REGISTER reads and writes a struct uffdio_register, which this is.
    let call = unsafe {
        Updater::<{ opcode::read_write::<Register>(0xaa, 0x00) }, Register>::new(&mut register)
    };
    // SAFETY: the range is the mapping above, which only this function uses, and which it never touches.
    unsafe { ioctl::ioctl(&file, call) }.context("UFFDIO_REGISTER")?;
    let source = vec![0x5a_u8; size];
    let began = Instant::now();
    for offset in (0..COPY_BYTES).step_by(size) {
        let mut request = Copy {
            to: start + offset as u64,
            from: source.as_ptr() as u64,
            bytes: size as u64,
            ..Copy::default()
        };
        // SAFETY: UFFDIO_COPY reads and writes a struct uffdio_copy, which this is.
        let call = unsafe {
            Updater::<{ opcode::read_write::<Copy>(0xaa, 0x03) }, Copy>::new(&mut request)
        };
        // SAFETY: it fills `bytes` of the mapping above from as many bytes of `source`.
        unsafe { ioctl::ioctl(&file, call) }.context("UFFDIO_COPY")?;
    }
    Ok(mib_per_second(COPY_BYTES, began.elapsed()))
}

/// Microseconds of a request and a page back.
fn round_trip() -> Result<[Value; 2]> {
    let times = round_trip::times()?;
    let times: Vec<f64> = times.iter().map(|time| time.as_secs_f64() * 1e6).collect();
    Ok([0.5, 0.99].map(|share| json!(stats::quantile(&times, share).map(stats::rounded))))
}

/// Medians over the runs: rates in MiB/s, round trips in microseconds.
///
/// # Errors
/// When there is no memory, or loopback TCP fails. A host without userfaultfd only lacks those figures.
pub fn measure(runs: u32) -> Result<Value> {
    let mut all = Vec::new();
    for run in 1..=runs {
        eprintln!("bench: limits, run {run} of {runs}");
        warm::memory()?;
        let [half, most] = round_trip()?;
        let mut row = json!({
            "tcp_mib_s": tcp()?,
            "round_trip_p50_us": half,
            "round_trip_p99_us": most,
        });
        for (name, size) in ["copy_4k_mib_s", "copy_64k_mib_s"].into_iter().zip(COPY_SIZES) {
            match copy(size) {
                Ok(rate) => row[name] = rate,
                Err(error) => eprintln!("bench: {error:#}; left out"),
            }
        }
        all.push(row);
    }
    let names =
        ["tcp_mib_s", "copy_4k_mib_s", "copy_64k_mib_s", "round_trip_p50_us", "round_trip_p99_us"];
    let mut found = json!({ "runs": all });
    for name in names {
        found[name] = stats::median_of(&all, name);
    }
    Ok(found)
}
