//! The shortest way of a demanded page: a request of 64 bytes, and 4 KiB back, over loopback TCP.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow, ensure};

use crate::cores;

const REQUEST_BYTES: usize = 64;
const REPLY_BYTES: usize = 4 << 10;
/// Not counted: the connection's start.
const FIRST: usize = 100;
const COUNTED: usize = 4000;
/// A peer that says nothing for so long ends the measurement.
const SILENT: Duration = Duration::from_secs(10);

/// Answers until the other side closes.
fn answer(mut peer: TcpStream, core: Option<usize>) -> Result<()> {
    core.map_or(Ok(()), |core| cores::pin(None, core))?;
    let (mut request, reply) = ([0; REQUEST_BYTES], [0x5a; REPLY_BYTES]);
    for _ in 0..FIRST + COUNTED {
        peer.read_exact(&mut request)?;
        peer.write_all(&reply)?;
    }
    Ok(())
}

/// Times of the round trips, shortest first; both sides block, on these cores or on those of the kernel's choice.
pub(crate) fn times(on: Option<[usize; 2]>) -> Result<Vec<Duration>> {
    let asks = thread::Builder::new().name("round-trip".into()).spawn(move || ask(on))?;
    asks.join().map_err(|_| anyhow!("the asking side of the round trips failed"))?
}

fn ask(on: Option<[usize; 2]>) -> Result<Vec<Duration>> {
    on.map_or(Ok(()), |[core, _]| cores::pin(None, core))?;
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let mut asking = TcpStream::connect(listener.local_addr()?)?;
    let (answering, _) = listener.accept()?;
    for peer in [&asking, &answering] {
        peer.set_nodelay(true)?;
        peer.set_read_timeout(Some(SILENT))?;
        peer.set_write_timeout(Some(SILENT))?;
    }
    let core = on.map(|[_, core]| core);
    let answers =
        thread::Builder::new().name("round-trip".into()).spawn(move || answer(answering, core))?;
    let (request, mut reply) = ([1; REQUEST_BYTES], [0; REPLY_BYTES]);
    let mut times = Vec::with_capacity(FIRST + COUNTED);
    for _ in 0..FIRST + COUNTED {
        let start = Instant::now();
        asking.write_all(&request)?;
        asking.read_exact(&mut reply)?;
        times.push(start.elapsed());
    }
    answers.join().map_err(|_| anyhow!("the answering side of the round trips failed"))??;
    ensure!(reply == [0x5a; REPLY_BYTES], "the last reply of the round trips is not what was sent");
    let mut counted = times.split_off(FIRST);
    counted.sort_unstable();
    Ok(counted)
}

#[cfg(test)]
mod tests {
    use super::{COUNTED, times};

    #[test]
    fn every_counted_round_trip_took_time_and_they_are_in_order() {
        let times = times(None).unwrap();
        assert_eq!(times.len(), COUNTED);
        assert!(times.is_sorted());
        assert!(!times[0].is_zero());
    }
}
