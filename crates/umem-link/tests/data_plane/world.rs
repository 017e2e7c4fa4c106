//! Both ends in one process, joined by real sockets.

use crate::vms::{DestinationMachine, Ledger, SourceMachine, Who, read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use umem_link::{DestinationListener, DestinationOptions, Endpoint, SourceOptions, SourceSession};

/// Waits for something that must come; how long it takes decides nothing.
pub(crate) fn wait_for(what: &str, mut so: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(40);
    while !so() {
        assert!(Instant::now() < until, "never: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

pub(crate) struct Way {
    /// Where the destination listens.
    pub(crate) listen: Endpoint,
    /// Where the source connects; `None`: where the destination listens.
    pub(crate) connect: Option<Endpoint>,
    _folder: Option<tempfile::TempDir>,
    _sockets: Vec<OwnedFd>,
}

pub(crate) fn tcp() -> Way {
    let listen = "tcp:127.0.0.1:0".parse().unwrap();
    Way { listen, connect: None, _folder: None, _sockets: Vec::new() }
}

pub(crate) fn unix() -> Way {
    let folder = tempfile::tempdir().unwrap();
    let listen = Endpoint::Unix(folder.path().join("socket"));
    Way { listen, connect: None, _folder: Some(folder), _sockets: Vec::new() }
}

pub(crate) fn fd() -> Way {
    let (a, b) = std::os::unix::net::UnixStream::pair().unwrap();
    let (a, b): (OwnedFd, OwnedFd) = (a.into(), b.into());
    let (listen, connect) = (Endpoint::Fd(a.as_raw_fd()), Some(Endpoint::Fd(b.as_raw_fd())));
    Way { listen, connect, _folder: None, _sockets: vec![a, b] }
}

/// A destination that waits, and the book.
pub(crate) struct World {
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) vm: Arc<DestinationMachine>,
    pub(crate) listener: DestinationListener,
    pub(crate) way: Way,
    pub(crate) pages: u64,
}

impl World {
    pub(crate) fn new(way: Way, pages: u64, threads: u64) -> Self {
        Self::with(way, pages, threads, DestinationOptions::default(), |_| ())
    }

    pub(crate) fn with(
        way: Way,
        pages: u64,
        threads: u64,
        options: DestinationOptions,
        change: impl FnOnce(&mut DestinationMachine),
    ) -> Self {
        let ledger = Ledger::new();
        let mut vm = DestinationMachine::new(pages, &ledger, threads);
        change(&mut vm);
        let vm = Arc::new(vm);
        let layout = vm.ram.layout().clone();
        let listener =
            DestinationListener::start(&way.listen, vm.clone(), layout, options).unwrap();
        Self { ledger, vm, listener, way, pages }
    }

    pub(crate) fn target(&self) -> Endpoint {
        self.way.connect.clone().unwrap_or_else(|| self.listener.endpoint().clone())
    }

    pub(crate) fn port(&self) -> u16 {
        let Endpoint::Tcp { port, .. } = self.listener.endpoint() else { panic!("no port") };
        *port
    }

    pub(crate) fn source_vm(&self) -> Arc<SourceMachine> {
        Arc::new(SourceMachine::new(self.pages, &self.ledger))
    }

    pub(crate) fn source(&self, options: SourceOptions) -> Source {
        Source::start(self.target(), self.source_vm(), options)
    }

    /// Checks that the guest is here, whole, and that both know.
    pub(crate) fn assert_whole(&self, source: &Source) {
        self.assert_whole_but(source, 0..0);
    }

    /// As [`Self::assert_whole`]; the guest has given some pages back, which are zero.
    pub(crate) fn assert_whole_but(&self, source: &Source, removed: std::ops::Range<u64>) {
        source.wait_ended();
        let status = source.session.status();
        let here = self.listener.status();
        assert_eq!((status.error.as_deref(), &*status.phase), (None, "completed"), "{here:?}");
        wait_for("the destination's end", || {
            let status = self.listener.status();
            assert_eq!(status.error, None, "{status:?}");
            status.verified
        });
        self.vm.join();
        let (there, here) = (source.session.status(), self.listener.status());
        assert_eq!((there.error.as_deref(), here.error.as_deref()), (None, None));
        assert_eq!((&*there.phase, &*here.phase), ("completed", "completed"));
        assert!(there.verified && there.digest.is_some());
        assert_eq!(there.digest, here.digest);
        for pages in [there.pages, here.pages] {
            assert_eq!((pages.total, pages.remaining), (self.pages, 0));
            let moved = pages.demand + pages.prefault + pages.background + pages.precopy;
            assert_eq!(moved, self.pages, "{pages:?}");
        }
        assert_eq!(*self.vm.wrong.lock().unwrap(), [0u64; 0]);
        for page in 0..self.pages {
            let here = read(&self.vm.ram, page);
            if removed.contains(&page) {
                assert!(here.iter().all(|byte| *byte == 0), "page {page}");
            } else {
                assert!(here == read(&source.vm.ram, page), "page {page}");
            }
        }
        assert_eq!(self.vm.completes.load(Ordering::SeqCst), 1);
        assert_eq!(source.vm.released.load(Ordering::SeqCst), 1);
        assert_eq!(source.vm.handed_over.load(Ordering::SeqCst), 1);
        assert_eq!(source.vm.take_backs.load(Ordering::SeqCst), 0);
        self.assert_runs(Who::Destination);
    }

    pub(crate) fn assert_runs(&self, who: Who) {
        assert_eq!(*self.ledger.breaches.lock().unwrap(), [""; 0]);
        assert_eq!(self.ledger.who(), who);
    }

    /// Moves a guest, and again while the destination has not forgotten the one before.
    pub(crate) fn move_when_free(&self) -> Source {
        loop {
            let source = self.source(SourceOptions::default());
            source.wait_ended();
            let status = source.session.status();
            if !status.error.as_deref().is_some_and(|error| error.contains("another guest")) {
                return source;
            }
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.listener.abandon();
        if let Some(plane) = self.vm.plane() {
            plane.close();
        }
        if !std::thread::panicking() {
            self.vm.join();
        }
    }
}

/// A migration's source end.
pub(crate) struct Source {
    pub(crate) session: SourceSession,
    pub(crate) vm: Arc<SourceMachine>,
}

impl Source {
    pub(crate) fn start(peer: Endpoint, vm: Arc<SourceMachine>, options: SourceOptions) -> Self {
        let layout = vm.ram.layout().clone();
        let session = SourceSession::start(peer, vm.clone(), layout, options).unwrap();
        Self { session, vm }
    }

    pub(crate) fn wait_ended(&self) {
        wait_for("the source's end", || self.session.ended());
    }

    /// Waits for the failure, checks that the guest runs here, and gives the reason.
    pub(crate) fn failed(&self) -> String {
        self.wait_ended();
        let status = self.session.status();
        assert!(["failed", "cancelled"].contains(&&*status.phase), "{status:?}");
        assert_eq!(self.vm.ledger.who(), Who::Source);
        assert_eq!(*self.vm.ledger.breaches.lock().unwrap(), [""; 0]);
        let count = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::SeqCst);
        assert_eq!(count(&self.vm.take_backs), count(&self.vm.stops));
        status.error.unwrap()
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        self.session.abandon();
    }
}
