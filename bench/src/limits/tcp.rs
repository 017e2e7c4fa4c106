//! Bytes through one loopback TCP connection: two threads, blocking.

use std::{
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow};

/// Bytes of a write, and of a piece that the receiver is given.
pub(super) const PIECE: usize = 256 << 10;
/// A peer that says nothing for so long ends the measurement.
const SILENT: Duration = Duration::from_secs(20);

/// Sends so many bytes, whole pieces; each is given to `take`, with its offset, as it has come. How long it took.
/// The bytes lie in memory one behind the other, as a guest's do: a piece that is sent again and again would come from
/// the cache.
pub(super) fn send(
    bytes: usize,
    mut take: impl FnMut(usize, &[u8]) -> Result<()>,
) -> Result<Duration> {
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let mut sender = TcpStream::connect(listener.local_addr()?)?;
    let (mut receiver, _) = listener.accept()?;
    sender.set_write_timeout(Some(SILENT))?;
    receiver.set_read_timeout(Some(SILENT))?;
    let data = vec![0x5a; bytes];
    let mut buffer = vec![0; PIECE];
    let start = Instant::now();
    let sending = thread::Builder::new().name("raw-out".into()).spawn(move || {
        for piece in data.chunks_exact(PIECE) {
            sender.write_all(piece)?;
        }
        std::io::Result::Ok(())
    })?;
    for offset in (0..bytes / PIECE).map(|piece| piece * PIECE) {
        receiver.read_exact(&mut buffer).context("bytes of the raw measurement")?;
        take(offset, &buffer)?;
    }
    let time = start.elapsed();
    sending.join().map_err(|_| anyhow!("the sender of the TCP measurement failed"))??;
    Ok(time)
}
