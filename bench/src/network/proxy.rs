//! A TCP proxy that delays all bytes by a fixed time in each direction.
//!
//! ```text
//! source ──► reader ─ queue, due times ─► writer ──► destination
//!        ◄── writer ◄─ due times, queue ─ reader ◄──
//! ```

use anyhow::{Context as _, Result};
use std::collections::VecDeque;
use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Bytes of one read.
const PIECE: usize = 256 << 10;
/// Bytes on their way in one direction of a connection beyond those of the delay: what sockets would hold.
const QUEUED: usize = 4 << 20;
/// Bytes a second that no link here exceeds: the delay holds as many as it takes.
const FASTEST: f64 = 3e9;

/// Listens on this host and passes each connection on. Ends with its value; connections end with their peers.
#[derive(Debug)]
pub struct DelayProxy {
    address: SocketAddr,
    ended: Arc<AtomicBool>,
}

/// Bytes and when they are due.
struct Piece {
    due: Instant,
    bytes: Vec<u8>,
}

#[derive(Default)]
struct State {
    pieces: VecDeque<Piece>,
    bytes: usize,
    /// No more will come, or be taken.
    closed: bool,
}

/// What is on its way.
struct Queue {
    state: Mutex<State>,
    changed: Condvar,
    room: usize,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it was taken: not when the other side is gone.
    fn push(&self, piece: Piece) -> bool {
        let full = |state: &mut State| state.bytes >= self.room && !state.closed;
        let waited = self.changed.wait_while(self.lock(), full);
        let mut state = waited.unwrap_or_else(PoisonError::into_inner);
        if state.closed {
            return false;
        }
        state.bytes += piece.bytes.len();
        state.pieces.push_back(piece);
        self.changed.notify_all();
        true
    }

    /// The next one, not before it is due. Its bytes count as on their way until they are taken.
    fn pop(&self) -> Option<Vec<u8>> {
        let empty = |state: &mut State| state.pieces.is_empty() && !state.closed;
        let waited = self.changed.wait_while(self.lock(), empty);
        let mut state = waited.unwrap_or_else(PoisonError::into_inner);
        let piece = state.pieces.pop_front()?;
        drop(state);
        thread::sleep(piece.due.saturating_duration_since(Instant::now()));
        self.lock().bytes -= piece.bytes.len();
        self.changed.notify_all();
        Some(piece.bytes)
    }

    fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }
}

impl DelayProxy {
    /// Before `target`, with half of this round trip in each direction.
    ///
    /// # Errors
    /// When no port or thread can be had.
    pub fn start(target: SocketAddr, round_trip: Duration) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).context("no port for a proxy")?;
        let address = listener.local_addr()?;
        let ended = Arc::new(AtomicBool::new(false));
        let seen = ended.clone();
        let accept = move || {
            for source in listener.incoming() {
                if seen.load(Ordering::Acquire) {
                    return;
                }
                let joined = source
                    .and_then(|source| join(source, TcpStream::connect(target)?, round_trip / 2));
                // A connection that cannot be passed on is closed: its owner hears of that.
                if let Err(error) = joined {
                    log::debug!("proxy: {error}");
                }
            }
        };
        thread::Builder::new().name("proxy".into()).spawn(accept)?;
        Ok(Self { address, ended })
    }

    /// Where the source connects to.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for DelayProxy {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Release);
        // Wakes the thread that accepts; when that fails it has ended.
        let _ = TcpStream::connect(self.address);
    }
}

fn join(source: TcpStream, destination: TcpStream, delay: Duration) -> io::Result<()> {
    for stream in [&source, &destination] {
        stream.set_nodelay(true)?;
    }
    pass(source.try_clone()?, destination.try_clone()?, delay)?;
    pass(destination, source, delay)
}

/// Passes one direction on, in threads of its own.
fn pass(mut from: TcpStream, mut to: TcpStream, delay: Duration) -> io::Result<()> {
    let named = |name: &str| thread::Builder::new().name(name.to_owned());
    if delay.is_zero() {
        named("proxy-pass").spawn(move || {
            read_all(&mut from, |bytes| to.write_all(bytes).is_ok());
            let _ = to.shutdown(Shutdown::Write);
        })?;
        return Ok(());
    }
    let room = QUEUED + (FASTEST * delay.as_secs_f64()) as usize;
    let queue = Arc::new(Queue { state: Mutex::default(), changed: Condvar::new(), room });
    let filled = queue.clone();
    named("proxy-in").spawn(move || {
        read_all(&mut from, |bytes| {
            filled.push(Piece { due: Instant::now() + delay, bytes: bytes.to_vec() })
        });
        filled.close();
    })?;
    named("proxy-out").spawn(move || {
        while let Some(bytes) = queue.pop() {
            if to.write_all(&bytes).is_err() {
                break;
            }
        }
        queue.close();
        // What follows is told to the other end; it fails when that is gone.
        let _ = to.shutdown(Shutdown::Write);
    })?;
    Ok(())
}

/// Reads to the end, or until nobody takes more.
fn read_all(from: &mut TcpStream, mut take: impl FnMut(&[u8]) -> bool) {
    let mut buffer = vec![0; PIECE];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        if !buffer.get(..count).is_some_and(&mut take) {
            let _ = from.shutdown(Shutdown::Read);
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Both sides of a connection through a proxy with this round trip.
    fn connection(round_trip: Duration) -> (TcpStream, TcpStream, DelayProxy) {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let proxy = DelayProxy::start(listener.local_addr().unwrap(), round_trip).unwrap();
        let near = TcpStream::connect(proxy.address()).unwrap();
        let (far, _) = listener.accept().unwrap();
        for stream in [&near, &far] {
            stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        }
        (near, far, proxy)
    }

    #[test]
    fn bytes_come_whole_in_order_and_later() {
        let delay = Duration::from_millis(30);
        let (mut near, mut far, _proxy) = connection(2 * delay);
        let sent: Vec<u8> =
            (0..8_u32 << 20).map(|at| (at.wrapping_mul(0x9e37_79b9) >> 24) as u8).collect();
        let copy = sent.clone();
        let start = Instant::now();
        let sending = thread::spawn(move || {
            near.write_all(&copy).unwrap();
            near.shutdown(Shutdown::Write).unwrap();
            let mut answer = Vec::new();
            near.read_to_end(&mut answer).unwrap();
            answer
        });
        let mut first = [0];
        far.read_exact(&mut first).unwrap();
        let there = start.elapsed();
        let mut rest = Vec::new();
        far.read_to_end(&mut rest).unwrap();
        far.write_all(b"done").unwrap();
        drop(far);
        assert_eq!(sending.join().unwrap(), b"done");
        let back = start.elapsed();
        assert!(first[0] == sent[0] && rest == sent[1..], "bytes are lost, added, or exchanged");
        assert!(there >= delay, "{there:?} there");
        assert!(back >= 2 * delay, "{back:?} there and back");
    }

    #[test]
    fn a_delay_holds_no_more_than_one_round_trip_at_a_time() {
        // A request and its answer each pay the delay once; many in flight at once pay it together.
        let (mut near, mut far, _proxy) = connection(Duration::from_millis(40));
        let echo = thread::spawn(move || {
            let mut byte = [0];
            while far.read_exact(&mut byte).is_ok() {
                far.write_all(&byte).unwrap();
            }
        });
        let start = Instant::now();
        for number in 0..50_u8 {
            near.write_all(&[number]).unwrap();
        }
        let mut answers = [0; 50];
        near.read_exact(&mut answers).unwrap();
        assert!(answers.iter().copied().eq(0..50));
        assert!(start.elapsed() >= Duration::from_millis(40));
        let one_by_one = 50 * Duration::from_millis(40);
        assert!(start.elapsed() < one_by_one, "{:?}", start.elapsed());
        near.shutdown(Shutdown::Both).unwrap();
        echo.join().unwrap();
    }

    #[test]
    fn without_a_delay_bytes_pass_and_an_end_is_passed_on() {
        let (mut near, mut far, proxy) = connection(Duration::ZERO);
        near.write_all(b"hello").unwrap();
        near.shutdown(Shutdown::Write).unwrap();
        let mut heard = String::new();
        far.read_to_string(&mut heard).unwrap();
        assert_eq!(heard, "hello");
        drop(far);
        assert_eq!(near.read(&mut [0; 8]).unwrap(), 0);
        let address = proxy.address();
        drop(proxy);
        let refused = |_: &i32| {
            thread::sleep(Duration::from_millis(10));
            TcpStream::connect(address).is_err()
        };
        assert!((0..500).any(|attempt| refused(&attempt)), "it still listens");
    }
}
