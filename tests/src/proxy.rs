//! A TCP proxy between two VMs that counts what each connection carries, and breaks on demand.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Where the proxy breaks everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// Never.
    Never,
    /// After so many bytes towards the destination, of all connections.
    ToDestination(u64),
    /// After so many bytes towards the source, of all connections.
    ToSource(u64),
    /// After so many bytes towards the destination, of the connection that came first: control's.
    ControlToDestination(u64),
    /// After so many bytes towards the source, of the connection that came first.
    ControlToSource(u64),
}

impl Cut {
    /// What a direction of a connection may carry in all, and whether the others' bytes count too.
    fn limit(self, number: usize, forth: bool) -> Option<(u64, bool)> {
        match (self, forth, number) {
            (Self::ToDestination(limit), true, _) | (Self::ToSource(limit), false, _) => {
                Some((limit, true))
            }
            (Self::ControlToDestination(limit), true, 0)
            | (Self::ControlToSource(limit), false, 0) => Some((limit, false)),
            _ => None,
        }
    }
}

/// What one connection carried.
#[derive(Debug, Clone, Default)]
pub struct Recorded {
    /// Bytes from the source.
    pub to_destination: Vec<u8>,
    /// Total of all connections' bytes to the destination when each read came, with the length of
    /// this connection's own bytes after it.
    pub order: Vec<(u64, usize)>,
    /// Bytes to the source.
    pub to_source: u64,
}

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The ends' state machines.
    Control,
    /// Pages that were asked for.
    Demand,
    /// All other pages.
    Bulk,
}

impl Recorded {
    /// What it is for, from its preface.
    #[must_use]
    pub fn role(&self) -> Option<Role> {
        match self.to_destination.get(12)? {
            1 => Some(Role::Control),
            2 => Some(Role::Demand),
            3 => Some(Role::Bulk),
            _ => None,
        }
    }
}

struct Shared {
    records: Mutex<Vec<Recorded>>,
    sockets: Mutex<Vec<TcpStream>>,
    cut: Mutex<Cut>,
    /// Bytes of each direction, of all connections.
    forth: AtomicU64,
    back: AtomicU64,
    broken: AtomicBool,
    record: bool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Listens, and passes each connection on to another port of this host.
pub struct Proxy {
    shared: Arc<Shared>,
    port: u16,
}

impl Proxy {
    /// Before `target` (`tcp:HOST:PORT`). With `record`, bytes are kept, else only counted.
    ///
    /// # Panics
    /// When no port can be had.
    #[must_use]
    pub fn start(target: &str, cut: Cut, record: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let shared = Arc::new(Shared {
            records: Mutex::default(),
            sockets: Mutex::default(),
            cut: Mutex::new(cut),
            forth: AtomicU64::new(0),
            back: AtomicU64::new(0),
            broken: AtomicBool::new(false),
            record,
        });
        let theirs = shared.clone();
        let target = target.trim_start_matches("tcp:").to_owned();
        std::thread::spawn(move || {
            for source in listener.incoming() {
                let (Ok(source), Ok(destination)) = (source, TcpStream::connect(&target)) else {
                    continue;
                };
                theirs.join(source, destination);
            }
        });
        Self { shared, port }
    }

    /// Where the source connects to.
    #[must_use]
    pub fn uri(&self) -> String {
        format!("tcp:127.0.0.1:{}", self.port)
    }

    /// Breaks all connections, and each that comes.
    pub fn break_all(&self) {
        self.shared.break_all();
    }

    /// Lets connections through again, counts from nothing, and cuts anew.
    pub fn heal(&self, cut: Cut) {
        let mut records = lock(&self.shared.records);
        records.clear();
        lock(&self.shared.sockets).clear();
        *lock(&self.shared.cut) = cut;
        self.shared.forth.store(0, Ordering::SeqCst);
        self.shared.back.store(0, Ordering::SeqCst);
        self.shared.broken.store(false, Ordering::SeqCst);
    }

    /// Whether it has broken its connections.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        self.shared.broken.load(Ordering::SeqCst)
    }

    /// Bytes to the destination and to the source so far.
    #[must_use]
    pub fn bytes(&self) -> (u64, u64) {
        (self.shared.forth.load(Ordering::SeqCst), self.shared.back.load(Ordering::SeqCst))
    }

    /// What was carried so far, by connection in the order of their arrival.
    #[must_use]
    pub fn records(&self) -> Vec<Recorded> {
        lock(&self.shared.records).clone()
    }
}

impl Shared {
    fn join(self: &Arc<Self>, source: TcpStream, destination: TcpStream) {
        let _ = (source.set_nodelay(true), destination.set_nodelay(true));
        let number = {
            let mut records = lock(&self.records);
            records.push(Recorded::default());
            records.len() - 1
        };
        let mut sockets = lock(&self.sockets);
        sockets.extend(source.try_clone());
        sockets.extend(destination.try_clone());
        drop(sockets);
        if self.broken.load(Ordering::SeqCst) {
            return self.break_all();
        }
        let (Ok(source_in), Ok(destination_in)) = (source.try_clone(), destination.try_clone())
        else {
            return;
        };
        let (forth, back) = (self.clone(), self.clone());
        std::thread::spawn(move || forth.pump(source_in, destination, number, true));
        std::thread::spawn(move || back.pump(destination_in, source, number, false));
    }

    fn pump(&self, mut from: TcpStream, mut to: TcpStream, number: usize, forth: bool) {
        let mut buffer = vec![0; 64 << 10];
        let mut carried = 0;
        loop {
            let count = from.read(&mut buffer).unwrap_or(0);
            if count == 0 {
                // A reset goes on as an end: the ends cannot tell, and need not.
                let _ = to.shutdown(Shutdown::Write);
                return;
            }
            let bytes = &buffer[..count];
            let allowed = self.count(bytes, number, carried, forth);
            carried += allowed as u64;
            let passed = bytes.get(..allowed).unwrap_or_default();
            if to.write_all(passed).is_err() {
                let _ = from.shutdown(Shutdown::Both);
                return;
            }
            if allowed < count {
                return self.break_all();
            }
        }
    }

    /// Counts bytes of a connection that has carried some; how many of them go before the cut.
    fn count(&self, bytes: &[u8], number: usize, carried: u64, forth: bool) -> usize {
        let mut records = lock(&self.records);
        let counter = if forth { &self.forth } else { &self.back };
        let before = counter.load(Ordering::SeqCst);
        let left = match lock(&self.cut).limit(number, forth) {
            Some((limit, true)) => limit.saturating_sub(before),
            Some((limit, false)) => limit.saturating_sub(carried),
            None => u64::MAX,
        };
        let allowed = left.min(bytes.len() as u64);
        let total = counter.fetch_add(allowed, Ordering::SeqCst) + allowed;
        let allowed = usize::try_from(allowed).unwrap_or(0);
        if let Some(record) = records.get_mut(number) {
            if !forth {
                record.to_source += allowed as u64;
            } else if self.record {
                record.to_destination.extend_from_slice(&bytes[..allowed]);
                record.order.push((total, record.to_destination.len()));
            }
        }
        allowed
    }

    fn break_all(&self) {
        self.broken.store(true, Ordering::SeqCst);
        for socket in lock(&self.sockets).iter() {
            let _ = socket.shutdown(Shutdown::Both);
        }
    }
}
