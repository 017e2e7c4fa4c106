//! Moves that come to nothing: the guest goes on at the source, both monitors say why, and a second
//! migrate works.
#![allow(missing_docs)]

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use umem_tests::moving::{accept, complete, error, guest, ready, refuse, stays};
use umem_tests::{Cut, Lab, Proxy, Vm};

const LISTEN: &str = "-m 64M -postcopy -incoming tcp:127.0.0.1:0";

fn source(lab: &Lab, seed: u32) -> Vm {
    let source = lab.vm("a", "-m 64M").bare(&guest(seed)).start();
    ready(&source);
    source
}

/// The move that works after all.
fn then_moves(source: &mut Vm, destination: &mut Vm, uri: &str) {
    stays(source);
    accept(source, &format!("migrate -p {uri}"));
    complete(source, destination);
    destination.serial.wait_beats(20);
    destination.verify();
}

/// A port on which nobody listens.
fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address").port()
}

/// Fails to move and waits until the source says why.
fn fails(source: &mut Vm, uri: &str, words: &[&str]) -> String {
    accept(source, &format!("migrate -p {uri}"));
    source.wait_phase(&["failed"]);
    let text = error(source, words);
    stays(source);
    text
}

#[test]
fn nobody_listens() {
    let lab = Lab::new();
    let mut source = source(&lab, 31);
    let uri = format!("tcp:127.0.0.1:{}", free_port());
    fails(&mut source, &uri, &["nobody listens on", &uri, "start the destination"]);
    let path = format!("unix:{}", lab.path("nowhere").display());
    fails(&mut source, &path, &["nobody listens on", &path]);
    refuse(&mut source, "migrate -p tcp:127.0.0.1", &["the port is missing"]);
    refuse(&mut source, "migrate -p fd:x", &["fd:x"]);
    fails(&mut source, "fd:77", &["fd:77"]);
    refuse(&mut source, "migrate -n tcp:127.0.0.1:1", &["only with -p"]);
    let mut destination = lab.vm("b", LISTEN).start();
    let uri = destination.address();
    then_moves(&mut source, &mut destination, &uri);
}

/// A destination that differs: both ends tell the difference, and another destination takes the guest.
fn differs(seed: u32, options: &str, words: &[&str]) {
    let lab = Lab::new();
    let mut source = source(&lab, seed);
    std::fs::write(lab.path("disk"), vec![0; 1 << 20]).expect("a disk");
    let disk = lab.path("disk").display().to_string();
    let options = options.replace("DISK", &disk);
    let mut other = lab.vm("c", &options).start();
    let uri = other.address();
    fails(&mut source, &uri, words);
    error(&mut other, words);
    assert_eq!(other.status(), "inmigrate");
    let mut destination = lab.vm("b", LISTEN).start();
    let uri = destination.address();
    then_moves(&mut source, &mut destination, &uri);
}

#[test]
fn the_destination_has_less_memory() {
    differs(
        32,
        "-m 32M -postcopy -incoming tcp:127.0.0.1:0",
        &["memory (-m) 64 MiB (67108864 bytes)", "32 MiB (33554432 bytes)"],
    );
}

#[test]
fn the_destination_has_more_memory() {
    differs(33, "-m 128M -postcopy -incoming tcp:127.0.0.1:0", &["64 MiB", "128 MiB"]);
}

#[test]
fn the_destination_has_a_drive_more() {
    differs(34, &format!("{LISTEN} -drive file=DISK"), &["devices"]);
}

#[test]
fn the_destination_has_a_device_more() {
    differs(35, &format!("{LISTEN} -device virtio-rng-device"), &["devices"]);
}

#[test]
fn the_destination_does_not_take_postcopy() {
    let lab = Lab::new();
    let mut source = source(&lab, 36);
    let mut other = lab.vm("c", "-m 64M -incoming tcp:127.0.0.1:0").start();
    let uri = other.address();
    fails(&mut source, &uri, &["takes no guests by postcopy", "-postcopy"]);
    error(&mut other, &["-postcopy"]);
    let mut destination = lab.vm("b", LISTEN).start();
    let uri = destination.address();
    then_moves(&mut source, &mut destination, &uri);
}

#[test]
fn the_destination_has_too_little_memory_free() {
    let lab = Lab::new();
    let mut source = lab.vm("a", "-m 200G -S").bare("fill=0").start();
    let mut destination = lab.vm("b", "-m 200G -postcopy -incoming tcp:127.0.0.1:0").start();
    let uri = destination.address();
    let proxy = Proxy::start(&uri, Cut::Never, true);
    accept(&mut source, &format!("migrate -p {}", proxy.uri()));
    source.wait_phase(&["failed"]);
    let words = ["204864 MiB", "available"];
    let text = error(&mut source, &words);
    assert!(error(&mut destination, &words).contains("MiB are available"), "{text}");
    let carried = proxy.records();
    assert_eq!(carried.len(), 1, "no connection for pages was opened");
    assert!(carried[0].to_destination.len() < 1000, "only preface and description went");
    accept(&mut source, "cont");
    assert_eq!(source.status(), "running");
}

#[test]
fn a_destination_takes_more_than_is_free_if_it_is_told_to() {
    let lab = Lab::new();
    let meminfo = std::fs::read_to_string("/proc/meminfo").expect("Linux");
    let total = meminfo.split_ascii_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok());
    let gib = (total.expect("MemTotal comes first") >> 20) + 2;
    let memory = format!(
        "-object memory-backend-ram,id=m,size={gib}G,reserve=off -machine memory-backend=m"
    );
    let mut source = lab.vm("a", &format!("{memory} -S")).bare("fill=0").start();
    let mut strict = lab.vm("c", &format!("-m {gib}G -postcopy -incoming tcp:127.0.0.1:0")).start();
    let uri = strict.address();
    accept(&mut source, &format!("migrate -p {uri}"));
    source.wait_phase(&["failed"]);
    error(&mut source, &["MiB are available", "reserve=off"]);
    let taking = format!("{memory} -postcopy -incoming tcp:127.0.0.1:0");
    let mut destination = lab.vm("b", &taking).start();
    let uri = destination.address();
    accept(&mut source, &format!("migrate -p {uri}"));
    assert_eq!(source.wait_phase(&["completed", "failed"])["phase"], "completed");
    destination.wait_phase(&["completed"]);
    accept(&mut destination, "cont");
    assert_eq!(destination.status(), "running");
}

#[test]
fn a_stranger_is_told_of_in_the_monitor() {
    let lab = Lab::new();
    let mut destination = lab.vm("b", LISTEN).start();
    let address = destination.address();
    let mut stream = TcpStream::connect(address.trim_start_matches("tcp:")).expect("it listens");
    stream.write_all(&b"GET / HTTP/1.1\r\n\r\n".repeat(4)).expect("it listens");
    error(
        &mut destination,
        &["closed a connection from tcp:127.0.0.1:", "first bytes are [47, 45, 54, 20, "],
    );
    assert_eq!(destination.phase(), "listening");
    assert_eq!(stream.read(&mut [0]).unwrap_or(0), 0, "a stranger gets no answer");
}

#[test]
fn strangers_and_scans_use_nothing_up() {
    let lab = Lab::new();
    let mut source = source(&lab, 37);
    let mut destination = lab.vm("b", LISTEN).start();
    let uri = destination.address();
    let port = uri.trim_start_matches("tcp:").to_owned();
    let connect = || TcpStream::connect(&port).expect("the port is open");
    // A scan: connect and go.
    for _ in 0..100 {
        drop(connect());
    }
    // Ours as far as it goes, then rubbish; other protocols; rubbish alone.
    let mut rubbish: Vec<Vec<u8>> = vec![b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec()];
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    for length in [1, 7, 8, 56, 57, 1000, 100_000] {
        let mut random = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        };
        let bytes: Vec<u8> = (0..length).map(|_| random()).collect();
        let mut with_head = b"umem\r\n\x1a\x01".to_vec();
        with_head.extend_from_slice(&bytes);
        rubbish.extend([bytes, with_head]);
    }
    let mut held = Vec::new();
    for bytes in &rubbish {
        let mut stream = connect();
        // The other end may close before all is written.
        let _ = stream.write_all(bytes);
        held.push(stream);
    }
    error(&mut destination, &["closed a connection from tcp:127.0.0.1:"]);
    assert_eq!(destination.phase(), "listening");
    // Silent ones stay.
    held.extend((0..40).map(|_| connect()));
    assert_eq!(destination.status(), "inmigrate");
    assert_eq!(destination.text.command("info status").lines().count(), 1);
    then_moves(&mut source, &mut destination, &uri);
    drop(held);
}

#[test]
fn something_else_listens() {
    let lab = Lab::new();
    let mut source = source(&lab, 38);
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let uri = format!("tcp:{}", listener.local_addr().expect("an address"));
    let answers: [Option<&[u8]>; 4] = [
        Some(b""),
        Some(b"SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12u3\r\n"),
        Some(&[0xff; 4096]),
        // Says nothing and stays.
        None,
    ];
    for answer in answers {
        accept(&mut source, &format!("migrate -p {uri}"));
        let (mut stream, _) = listener.accept().expect("the source connects");
        let mut preface = [0; 56];
        stream.read_exact(&mut preface).expect("the source speaks first");
        if let Some(answer) = answer {
            let _ = stream.write_all(answer);
            drop(stream);
            source.wait_phase(&["failed"]);
        } else {
            // Meanwhile the monitor is there and the guest runs.
            assert_eq!(source.phase(), "setup");
            stays(&mut source);
            refuse(&mut source, &format!("migrate -p {uri}"), &["under way"]);
            source.wait_phase(&["failed"]);
        }
        let text = error(&mut source, &[]);
        assert!(["umem destination", "protocol"].iter().any(|word| text.contains(word)), "{text}");
        stays(&mut source);
    }
    let mut destination = lab.vm("b", LISTEN).start();
    let uri = destination.address();
    then_moves(&mut source, &mut destination, &uri);
}

#[test]
fn a_move_is_cancelled() {
    let lab = Lab::new();
    let mut source = source(&lab, 39);
    refuse(&mut source, "migrate_cancel", &["no migration"]);
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let uri = format!("tcp:{}", listener.local_addr().expect("an address"));
    accept(&mut source, &format!("migrate -p {uri}"));
    let (stream, _) = listener.accept().expect("the source connects");
    refuse(&mut source, &format!("migrate -p {uri}"), &["under way"]);
    accept(&mut source, "migrate_cancel");
    source.wait_phase(&["cancelled"]);
    drop(stream);
    let mut destination = lab.vm("b", LISTEN).start();
    let uri = destination.address();
    then_moves(&mut source, &mut destination, &uri);
    refuse(&mut source, "migrate_cancel", &["no migration"]);
}

#[test]
fn a_move_is_not_cancelled_any_more_once_the_guest_is_gone() {
    let lab = Lab::new();
    let mut source = source(&lab, 40);
    let mut destination = lab.vm("b", LISTEN).start();
    let uri = destination.address();
    accept(&mut source, &format!("migrate -p -n {uri}"));
    source.wait_phase(&["postcopy-active"]);
    let answer = source.text.command("migrate_cancel");
    assert!(answer.starts_with("Error: "), "{answer}");
    let missing = destination.text.command("migrate -p tcp:127.0.0.1:9");
    assert!(missing.starts_with("Error: "), "{missing}");
    assert!(missing.contains(" pages"), "{missing}");
    assert!(missing.chars().any(|letter| letter.is_ascii_digit()), "{missing}");
    refuse(&mut source, &format!("migrate -p {uri}"), &["under way"]);
    accept(&mut source, "migrate_set_parameter postcopy-background on");
    complete(&mut source, &mut destination);
    destination.verify();
    refuse(&mut source, &format!("migrate -p {uri}"), &["handed over"]);
}
