//! A man in the middle: counts, holds, alters and cuts.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use umem_link::Endpoint;
use umem_wire::{DemandFrame, FRAME_HEAD_BYTES, FrameHead, PREFACE_BYTES, REPLY_BYTES};

/// What the proxy does; the default passes everything.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Rules {
    /// HANDOVER waits until all that was sent before it has come by.
    pub(crate) hold_handover: bool,
    /// All connections of the session break after so many bytes to the destination.
    pub(crate) cut_there: Option<u64>,
    /// All connections of the session break after so many bytes to the source.
    pub(crate) cut_back: Option<u64>,
    /// Byte on the demand connection to the destination that gets another value.
    pub(crate) alter_demand: Option<u64>,
    /// The same for bulk.
    pub(crate) alter_bulk: Option<u64>,
    /// Nobody can ask who runs the guest after a cut, until [`Proxy::let_ask`].
    pub(crate) deaf: bool,
}

const DEMAND: u8 = 2;
const BULK: u8 = 3;
const INQUIRY: u8 = 5;
const HANDOVER: u8 = 4;

#[derive(Default)]
struct State {
    rules: Rules,
    there: AtomicU64,
    back: AtomicU64,
    pages: AtomicU64,
    pages_before_handover: Mutex<Option<u64>>,
    requests: Mutex<Vec<Vec<u64>>>,
    inquiries: AtomicU64,
    cut: AtomicBool,
    deaf: AtomicBool,
    sockets: Mutex<Vec<TcpStream>>,
    end: AtomicBool,
}

impl State {
    fn cut(&self) {
        self.cut.store(true, Ordering::SeqCst);
        for socket in self.sockets.lock().unwrap().iter() {
            let _ = socket.shutdown(Shutdown::Both);
        }
    }
}

pub(crate) struct Proxy {
    port: u16,
    state: Arc<State>,
}

impl Proxy {
    pub(crate) fn start(target: u16, rules: Rules) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let deaf = AtomicBool::new(rules.deaf);
        let state = Arc::new(State { rules, deaf, ..State::default() });
        let theirs = state.clone();
        std::thread::spawn(move || {
            for caller in listener.incoming() {
                if theirs.end.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(caller) = caller else { return };
                let Ok(target) = TcpStream::connect(("127.0.0.1", target)) else { continue };
                join(&theirs, &caller, &target);
            }
        });
        Self { port, state }
    }

    pub(crate) fn endpoint(&self) -> Endpoint {
        Endpoint::Tcp { host: Some("127.0.0.1".into()), port: self.port }
    }

    /// Bytes to the destination and back.
    pub(crate) fn passed(&self) -> (u64, u64) {
        (self.state.there.load(Ordering::SeqCst), self.state.back.load(Ordering::SeqCst))
    }

    /// Bytes of frames on demand and bulk connections to the destination.
    pub(crate) fn page_bytes(&self) -> u64 {
        self.state.pages.load(Ordering::SeqCst)
    }

    pub(crate) fn page_bytes_before_handover(&self) -> Option<u64> {
        *self.state.pages_before_handover.lock().unwrap()
    }

    pub(crate) fn requests(&self) -> Vec<Vec<u64>> {
        self.state.requests.lock().unwrap().clone()
    }

    pub(crate) fn inquiries(&self) -> u64 {
        self.state.inquiries.load(Ordering::SeqCst)
    }

    pub(crate) fn let_ask(&self) {
        self.state.deaf.store(false, Ordering::SeqCst);
    }

    /// Breaks all connections now.
    pub(crate) fn cut(&self) {
        self.state.cut();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.state.end.store(true, Ordering::SeqCst);
        self.state.cut();
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

fn join(state: &Arc<State>, caller: &TcpStream, target: &TcpStream) {
    let role = Arc::new(AtomicU64::new(0));
    for socket in [caller, target] {
        socket.set_nodelay(true).unwrap();
        state.sockets.lock().unwrap().push(socket.try_clone().unwrap());
    }
    // One that comes after the cut belongs to it, unless it asks.
    let before = !state.cut.load(Ordering::SeqCst);
    for there in [true, false] {
        let (from, to) = if there { (caller, target) } else { (target, caller) };
        let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
        let (state, role) = (state.clone(), role.clone());
        std::thread::spawn(move || {
            let mut pump = Pump { state: &state, role: &role, there, seen: Vec::new(), at: 0 };
            let mut buffer = vec![0; 64 * 1024];
            while let Ok(count @ 1..) = from.read(&mut buffer) {
                let bytes = &mut buffer[..count];
                let allowed = pump.look(bytes, before);
                if to.write_all(&bytes[..allowed]).is_err() {
                    break;
                }
                if allowed < count {
                    state.cut();
                }
            }
            let _ = from.shutdown(Shutdown::Both);
            let _ = to.shutdown(Shutdown::Both);
        });
    }
}

/// One direction of one connection.
struct Pump<'a> {
    state: &'a State,
    role: &'a AtomicU64,
    there: bool,
    /// Bytes that were not understood as frames yet.
    seen: Vec<u8>,
    /// Bytes that came before these.
    at: u64,
}

impl Pump<'_> {
    /// Looks at bytes on their way, may alter them, and says how many may pass.
    fn look(&mut self, bytes: &mut [u8], before: bool) -> usize {
        let Rules { cut_there, cut_back, alter_demand, alter_bulk, hold_handover, .. } =
            self.state.rules;
        if self.there && self.at == 0 {
            let role = bytes.get(12).copied().unwrap_or(0);
            self.role.store(role.into(), Ordering::SeqCst);
            if role == INQUIRY {
                self.state.inquiries.fetch_add(1, Ordering::SeqCst);
                if self.state.deaf.load(Ordering::SeqCst) {
                    return 0;
                }
            }
        }
        let role = self.role.load(Ordering::SeqCst) as u8;
        if self.there {
            let alter = match role {
                DEMAND => alter_demand,
                BULK => alter_bulk,
                _ => None,
            };
            let at = alter.and_then(|at| at.checked_sub(self.at)).map(|at| at as usize);
            if let Some(byte) = at.and_then(|at| bytes.get_mut(at)) {
                *byte ^= 0x40;
            }
            if matches!(role, DEMAND | BULK) {
                let behind = (self.at + bytes.len() as u64).saturating_sub(PREFACE_BYTES as u64);
                self.state.pages.fetch_add(behind.min(bytes.len() as u64), Ordering::SeqCst);
            }
        }
        self.at += bytes.len() as u64;
        self.seen.extend_from_slice(bytes);
        self.frames(role, hold_handover);
        if role == INQUIRY || !before {
            return bytes.len();
        }
        let (counter, cut) =
            if self.there { (&self.state.there, cut_there) } else { (&self.state.back, cut_back) };
        let passed = counter.fetch_add(bytes.len() as u64, Ordering::SeqCst);
        let left = cut.map_or(u64::MAX, |cut| cut.saturating_sub(passed));
        bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX))
    }

    fn frames(&mut self, role: u8, hold_handover: bool) {
        let control = self.there && !matches!(role, DEMAND | BULK | INQUIRY);
        let requests = !self.there && role == DEMAND;
        if !control && !requests {
            self.seen.clear();
            return;
        }
        let first = if self.there { PREFACE_BYTES } else { REPLY_BYTES };
        let mut from = if self.at as usize == self.seen.len() { first } else { 0 };
        if self.seen.len() < from {
            return;
        }
        while let Some(head) = self.seen[from..].first_chunk::<FRAME_HEAD_BYTES>() {
            let Ok(head) = FrameHead::decode(*head, usize::MAX) else { break };
            let body = from + FRAME_HEAD_BYTES;
            let Some(body) = self.seen.get(body..body + head.body_len()) else { break };
            if control && head.kind == HANDOVER {
                if hold_handover {
                    // Whatever was sent before it comes by meanwhile.
                    std::thread::sleep(Duration::from_millis(50));
                }
                let pages = self.state.pages.load(Ordering::SeqCst);
                *self.state.pages_before_handover.lock().unwrap() = Some(pages);
            }
            if requests {
                let frame = DemandFrame::decode(head.kind, body).unwrap();
                if let DemandFrame::Request(pages) = frame {
                    self.state.requests.lock().unwrap().push(pages);
                }
            }
            from += FRAME_HEAD_BYTES + head.body_len();
        }
        self.seen.drain(..from);
    }
}
