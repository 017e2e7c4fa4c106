//! A network of our own: two namespaces, one with a bridge and the taps of two VMs, one with a peer.
//!
//! ```text
//! umem-HOSTS-n:  tap0 ─┐                    umem-PEER-n:
//!                tap1 ─┴─ br0 ── veth ═══════ veth 10.77.0.1/24
//! ```

use rustix::thread::LinkNameSpaceType;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// The peer's address.
pub const PEER: &str = "10.77.0.1";
/// The guest's.
pub const GUEST: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);

/// The namespaces; they go with it.
pub struct Network {
    hosts: String,
    peer: String,
}

fn ip(arguments: &str) -> Result<(), String> {
    let output = Command::new("ip").args(arguments.split_whitespace()).output();
    let output = output.map_err(|error| format!("ip (iproute2): {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("ip {arguments}: {}", String::from_utf8_lossy(&output.stderr).trim()))
}

impl Network {
    /// Makes it.
    ///
    /// # Errors
    /// When this user may not, or this kernel has no such devices.
    pub fn new() -> Result<Self, String> {
        let number = std::process::id();
        let (hosts, peer) = (format!("umem-hosts-{number}"), format!("umem-peer-{number}"));
        ip(&format!("netns add {hosts}"))?;
        // From here on what was made is removed again.
        let network = Self { hosts, peer };
        let (hosts, peer) = (&network.hosts, &network.peer);
        ip(&format!("netns add {peer}"))?;
        for command in [
            format!("-n {hosts} link set lo up"),
            format!("-n {hosts} link add br0 type bridge"),
            format!("-n {hosts} link add uplink type veth peer name eth0 netns {peer}"),
            format!("-n {hosts} link set uplink master br0"),
            format!("-n {hosts} link set uplink up"),
            format!("-n {hosts} link set br0 up"),
            format!("-n {peer} addr add {PEER}/24 dev eth0"),
            format!("-n {peer} link set eth0 up"),
        ] {
            ip(&command)?;
        }
        for tap in ["tap0", "tap1"] {
            ip(&format!("-n {hosts} tuntap add {tap} mode tap vnet_hdr"))?;
            ip(&format!("-n {hosts} link set {tap} master br0"))?;
            ip(&format!("-n {hosts} link set {tap} up"))?;
        }
        Ok(network)
    }

    /// The namespace that VMs run in.
    #[must_use]
    pub fn hosts(&self) -> &str {
        &self.hosts
    }

    /// Runs a thread in the peer's namespace.
    fn at_peer<T: Send + 'static>(
        &self,
        body: impl FnOnce() -> T + Send + 'static,
    ) -> JoinHandle<T> {
        let place = File::open(format!("/run/netns/{}", self.peer)).expect("the namespace");
        std::thread::spawn(move || {
            let kind = Some(LinkNameSpaceType::Network);
            rustix::thread::move_into_link_name_space(std::os::fd::AsFd::as_fd(&place), kind)
                .expect("this thread may go there");
            body()
        })
    }

    /// A stream of numbers to the guest's echo at a port, checked as it comes back, until it is stopped.
    #[must_use]
    pub fn flow(&self, port: u16) -> Running<Flow> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = self.at_peer(move || flow(port, &stopped).expect("the connection holds"));
        Running { stop, thread }
    }

    /// An echo request each 10 ms until it is stopped.
    #[must_use]
    pub fn pings(&self) -> Running<Pings> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = self.at_peer(move || pings(&stopped).expect("echo requests can be sent"));
        Running { stop, thread }
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for name in [&self.hosts, &self.peer] {
            let _ = ip(&format!("netns del {name}"));
        }
    }
}

/// A measurement under way.
pub struct Running<T> {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<T>,
}

impl<T> Running<T> {
    /// Ends it; what it saw.
    ///
    /// # Panics
    /// When it went wrong.
    #[must_use]
    pub fn stop(self) -> T {
        self.stop.store(true, Ordering::Release);
        self.thread.join().expect("the peer's thread")
    }
}

/// A stream, there and back.
#[derive(Debug, Clone, Copy)]
pub struct Flow {
    /// Bytes that came back, each as it was sent.
    pub bytes: u64,
    /// Longest time in which nothing came back.
    pub gap: Duration,
}

/// Bytes on the way at once.
const WINDOW: u64 = 64 << 10;

fn flow(port: u16, stop: &AtomicBool) -> io::Result<Flow> {
    let address = SocketAddr::from((GUEST, port));
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(30))?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    stream.set_nodelay(true)?;
    let byte_at = |at: u64| (at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8;
    let (mut sent, mut bytes, mut gap) = (0, 0, Duration::ZERO);
    let (mut buffer, mut last) = ([0; 4096], Instant::now());
    while !stop.load(Ordering::Acquire) || bytes < sent {
        if sent - bytes < WINDOW && !stop.load(Ordering::Acquire) {
            let piece: Vec<u8> = (sent..sent + 1024).map(byte_at).collect();
            stream.write_all(&piece)?;
            sent += 1024;
            continue;
        }
        let count = stream.read(&mut buffer)?;
        if count == 0 {
            return Err(io::Error::other(format!("the guest closed it after {bytes} bytes")));
        }
        gap = gap.max(last.elapsed());
        last = Instant::now();
        for byte in &buffer[..count] {
            assert_eq!(*byte, byte_at(bytes), "byte {bytes} came back as another");
            bytes += 1;
        }
    }
    Ok(Flow { bytes, gap })
}

/// Echo requests and answers.
#[derive(Debug, Clone, Copy)]
pub struct Pings {
    /// Requests.
    pub sent: u64,
    /// Answers.
    pub answered: u64,
    /// Longest time without an answer.
    pub gap: Duration,
}

fn pings(stop: &AtomicBool) -> io::Result<Pings> {
    use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketType, ipproto};
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::RAW, Some(ipproto::ICMP))?;
    let target = SocketAddr::from((GUEST, 0));
    let (mut sent, mut answered, mut gap) = (0u64, 0u64, Duration::ZERO);
    let (mut last, mut buffer) = (Instant::now(), [0; 256]);
    while !stop.load(Ordering::Acquire) {
        sent += 1;
        // The number on the wire begins again after 65,535.
        rustix::net::sendto(&socket, &echo_request(sent as u16), SendFlags::empty(), &target)?;
        let next = Instant::now() + Duration::from_millis(10);
        while Instant::now() < next {
            match rustix::net::recv(&socket, &mut buffer, RecvFlags::DONTWAIT) {
                // Behind an IP header of 20 bytes: type 0 is the answer, and ours.
                Ok((count, _))
                    if count >= 28 && buffer[20] == 0 && buffer[24..26] == IDENTIFIER =>
                {
                    answered += 1;
                    gap = gap.max(last.elapsed());
                    last = Instant::now();
                }
                Ok(_) => {}
                Err(_) => std::thread::sleep(Duration::from_micros(500)),
            }
        }
    }
    Ok(Pings { sent, answered, gap: gap.max(last.elapsed()) })
}

const IDENTIFIER: [u8; 2] = *b"um";

/// RFC 792, echo request, with its check sum (RFC 1071).
fn echo_request(number: u16) -> Vec<u8> {
    let mut packet = vec![8, 0, 0, 0, IDENTIFIER[0], IDENTIFIER[1]];
    packet.extend(number.to_be_bytes());
    packet.extend([0x55; 24]);
    let words =
        packet.chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    packet[2..4].copy_from_slice(&(!(sum as u16)).to_be_bytes());
    packet
}
