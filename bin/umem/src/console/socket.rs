//! A serial port on a Unix socket: one client at a time, another may come after it.

use std::io::{self, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// The client, with a number that tells it from those before.
type Client = Option<(u64, Arc<UnixStream>)>;

#[derive(Default)]
struct Shared {
    client: Mutex<Client>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Client> {
        self.client.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until there is a client.
    fn client(&self) -> (u64, Arc<UnixStream>) {
        let mut client = self.lock();
        loop {
            if let Some(client) = &*client {
                return client.clone();
            }
            client = self.changed.wait(client).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Forgets a client that has gone.
    fn leave(&self, number: u64) {
        let mut client = self.lock();
        if client.as_ref().is_some_and(|(own, _)| *own == number) {
            *client = None;
            self.changed.notify_all();
        }
    }

    /// The thread that takes clients, one after the other.
    fn accept(&self, listener: &UnixListener) {
        for number in 0.. {
            let Ok((stream, _)) = listener.accept() else {
                std::thread::sleep(std::time::Duration::from_millis(100));
                continue;
            };
            let mut client = self.lock();
            *client = Some((number, Arc::new(stream)));
            self.changed.notify_all();
            while client.is_some() {
                client = self.changed.wait(client).unwrap_or_else(PoisonError::into_inner);
            }
        }
    }
}

/// What the guest prints.
pub(super) struct Output {
    shared: Arc<Shared>,
    wait: bool,
}

/// What the guest is sent.
pub(super) struct Input(Arc<Shared>);

/// Listens on `path`. With `wait`, output waits for a client; it is dropped otherwise.
pub(super) fn listen(path: &Path, wait: bool) -> io::Result<(Output, Input)> {
    let listener = monitor::bind_unix(path)?;
    let shared = Arc::new(Shared::default());
    let acceptor = shared.clone();
    std::thread::Builder::new()
        .name("serial-listen".to_owned())
        .spawn(move || acceptor.accept(&listener))?;
    Ok((Output { shared: shared.clone(), wait }, Input(shared)))
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            if !self.wait && self.shared.lock().is_none() {
                return Ok(bytes.len());
            }
            let (number, stream) = self.shared.client();
            match (&*stream).write(bytes) {
                Ok(count) if count > 0 => return Ok(count),
                _ => self.shared.leave(number),
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Read for Input {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let (number, stream) = self.0.client();
            match (&*stream).read(buffer) {
                Ok(count) if count > 0 => return Ok(count),
                _ => self.0.leave(number),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_waits_for_a_client_and_another_may_follow() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("serial");
        let (mut output, mut input) = listen(&path, true).unwrap();
        let guest = std::thread::spawn(move || {
            output.write_all(b"hello").unwrap();
            let mut key = [0; 3];
            input.read_exact(&mut key).unwrap();
            output.write_all(&key).unwrap();
            let mut key = [0; 1];
            input.read_exact(&mut key).unwrap();
            output.write_all(&key).unwrap();
        });
        let mut first = UnixStream::connect(&path).unwrap();
        let mut heard = [0; 5];
        first.read_exact(&mut heard).unwrap();
        assert_eq!(&heard, b"hello");
        first.write_all(b"abc").unwrap();
        first.read_exact(&mut heard[..3]).unwrap();
        assert_eq!(&heard[..3], b"abc");
        drop(first);
        let mut second = UnixStream::connect(&path).unwrap();
        second.write_all(b"z").unwrap();
        second.read_exact(&mut heard[..1]).unwrap();
        assert_eq!(heard[0], b'z');
        guest.join().unwrap();
    }

    #[test]
    fn with_nowait_output_without_a_client_is_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let (mut output, _input) = listen(&folder.path().join("serial"), false).unwrap();
        output.write_all(&[b'x'; 100_000]).unwrap();
    }
}
