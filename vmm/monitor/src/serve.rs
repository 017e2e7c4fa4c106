//! Listeners, and a thread for each client.

use crate::outlet::Outlet;
use crate::spec::{Kind, MonitorSpec, Place};
use crate::{json, text};
use machine::VmControl;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::FileTypeExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// How long a client may leave its answer unread before it is cut off.
const WRITE_TIMEOUT: Duration = Duration::from_secs(2);
/// Clients at once at one monitor; more are turned away.
const CLIENTS_MAX: usize = 32;

/// A monitor at work. Dropping it removes its Unix socket; its clients end with the process.
#[derive(Debug)]
pub struct Server {
    path: Option<PathBuf>,
    address: Option<SocketAddr>,
}

impl Server {
    /// Where a TCP monitor listens.
    #[must_use]
    pub fn local_address(&self) -> Option<SocketAddr> {
        self.address
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(path) = &self.path
            && let Err(error) = std::fs::remove_file(path)
        {
            log::debug!("{} stays: {error}", path.display());
        }
    }
}

/// Starts a monitor. Its clients command the VM; `quit` of any of them ends it, after the answer. A
/// client's end, of standard input too, ends nothing but its own session.
///
/// # Errors
/// When the place cannot be listened on, or there is no thread left.
pub fn serve(spec: &MonitorSpec, vm: Arc<dyn VmControl>) -> io::Result<Server> {
    let mut server = Server { path: None, address: None };
    let kind = spec.kind;
    match &spec.place {
        Place::None => {}
        Place::Stdio => {
            spawn("monitor-stdio", move || {
                let outlet = Outlet::new(Box::new(io::stdout()), Box::new(|| {}));
                session(kind, io::stdin(), outlet, vm);
            })?;
        }
        Place::Unix(path) => {
            let listener = bind_unix(path)?;
            server.path = Some(path.clone());
            spawn("monitor-listen", move || accept_all(kind, &listener, &vm))?;
        }
        Place::Tcp { host, port } => {
            let host = if host.is_empty() { "127.0.0.1" } else { host };
            let listener = TcpListener::bind((host, *port))?;
            server.address = Some(listener.local_addr()?);
            spawn("monitor-listen", move || accept_all(kind, &listener, &vm))?;
        }
    }
    Ok(server)
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    // Not joined: it may wait for a client for ever, and ends with the process.
    std::thread::Builder::new().name(name.to_owned()).spawn(work).map(drop)
}

fn session(kind: Kind, input: impl Read, outlet: Outlet, vm: Arc<dyn VmControl>) {
    match kind {
        Kind::Text => text::session(input, &outlet, &*vm),
        Kind::Json => json::session(input, Arc::new(outlet), vm),
    }
}

/// Binds `path`. A socket that a dead process left there is replaced; one that is listened on, or
/// another kind of file, is not.
///
/// # Errors
/// As [`UnixListener::bind`].
pub fn bind_unix(path: &Path) -> io::Result<UnixListener> {
    match UnixListener::bind(path) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            let socket = std::fs::symlink_metadata(path)?.file_type().is_socket();
            let dead = UnixStream::connect(path)
                .is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused);
            if !(socket && dead) {
                return Err(error);
            }
            std::fs::remove_file(path)?;
            UnixListener::bind(path)
        }
        other => other,
    }
}

/// A listener of either family.
trait Listen {
    type Stream: Connection;
    fn next(&self) -> io::Result<Self::Stream>;
}

/// A connection of either family.
trait Connection: Read + Write + Send + Sync + Sized + 'static {
    fn twin(&self) -> io::Result<Self>;
    fn limit(&self) -> io::Result<()>;
    fn cut(&self);
}

macro_rules! family {
    ($listener:ty, $stream:ty) => {
        impl Listen for $listener {
            type Stream = $stream;
            fn next(&self) -> io::Result<$stream> {
                self.accept().map(|(stream, _)| stream)
            }
        }

        impl Connection for $stream {
            fn twin(&self) -> io::Result<Self> {
                self.try_clone()
            }

            fn limit(&self) -> io::Result<()> {
                self.set_write_timeout(Some(WRITE_TIMEOUT))
            }

            fn cut(&self) {
                // It may be closed already.
                let _ = self.shutdown(Shutdown::Both);
            }
        }
    };
}

family!(TcpListener, TcpStream);
family!(UnixListener, UnixStream);

fn accept_all<L: Listen>(kind: Kind, listener: &L, vm: &Arc<dyn VmControl>) {
    let clients = Arc::new(AtomicUsize::new(0));
    loop {
        let accepted = listener.next().and_then(|client| admit(kind, client, vm, &clients));
        if let Err(error) = accepted {
            log::warn!("monitor: a client could not be served: {error}");
            // Out of descriptors or threads: give others time to end.
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

/// Counts a client for as long as it is served.
struct Seat(Arc<AtomicUsize>);

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn admit<S: Connection>(
    kind: Kind,
    mut client: S,
    vm: &Arc<dyn VmControl>,
    clients: &Arc<AtomicUsize>,
) -> io::Result<()> {
    client.limit()?;
    let taken = clients.fetch_add(1, Ordering::Relaxed);
    let seat = Seat(clients.clone());
    if taken >= CLIENTS_MAX {
        let full = format!("umem: this monitor has {taken} clients, and takes no more\r\n");
        return client.write_all(full.as_bytes());
    }
    let (writer, last) = (client.twin()?, client.twin()?);
    let vm = vm.clone();
    spawn("monitor-client", move || {
        let _seat = seat;
        let outlet = Outlet::new(Box::new(writer), Box::new(move || last.cut()));
        session(kind, client, outlet, vm);
    })
}

#[cfg(test)]
mod tests;
