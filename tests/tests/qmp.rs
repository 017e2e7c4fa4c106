//! Programs written for QEMU command our VMs: QEMU's own client moves a guest.
#![allow(missing_docs)]

use serde_json::{Value, json};
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use umem_tests::moving::{accept, complete, guest, ready, refuse};
use umem_tests::qmp::{Client, given};
use umem_tests::{Lab, Vm, test_guest, until};

/// Two VMs, the guest in the first; the second waits to be told where to listen.
fn pair(lab: &Lab, seed: u32) -> (Vm, Vm) {
    let destination = lab.vm("b", "-m 128M -incoming defer").start();
    let source = lab.vm("a", "-m 128M").bare(&guest(seed)).start();
    ready(&source);
    (source, destination)
}

/// Has the client move the guest; what it saw.
fn moved(lab: &Lab, client: &Client, mode: &str) -> Value {
    let (source, destination) = (lab.path("a.qmp"), lab.path("b.qmp"));
    let uri = format!("unix:{}", lab.path("m").display());
    let arguments = ["move".as_ref(), source.as_os_str(), destination.as_os_str()];
    let report = client.run(arguments.into_iter().chain([uri.as_ref(), mode.as_ref()]));
    lab.note(format!("{report:#}"));
    report
}

/// What holds after every move, and the end of both VMs, by the client too.
fn looks_after(lab: &Lab, client: &Client, report: &Value, mut source: Vm, mut destination: Vm) {
    assert_eq!(report["source-run"]["status"], "postmigrate");
    assert_eq!(report["source-run"]["running"], false);
    assert_eq!(report["destination-run"]["status"], "running");
    for end in ["source", "destination"] {
        let info = &report[end];
        assert_eq!(info["x-umem"]["verified"], true, "{info:#}");
        assert_eq!(info["ram"]["remaining"], 0, "{info:#}");
        assert_eq!(info["ram"]["page-size"], 4096);
    }
    let info = &report["source"];
    assert!(info["downtime"].is_u64() && info["total-time"].is_u64(), "{info:#}");
    assert!(info["ram"]["transferred"].as_u64() > Some(1 << 20), "{info:#}");
    assert_eq!(info["ram"]["total"], 128 << 20);
    assert_eq!(report["passes"][0], 1, "the first round was told");
    assert_eq!((&report["stops"], &report["resumes"]), (&json!(1), &json!(1)));
    let refusals = &report["refusals"];
    assert_eq!(refusals["not-incoming"][0], "GenericError");
    assert_eq!(refusals["unknown"][0], "CommandNotFound");
    destination.serial.wait_beats(20);
    destination.verify();
    let monitors = [lab.path("a.qmp"), lab.path("b.qmp")];
    client
        .run(std::iter::once("quit".as_ref()).chain(monitors.iter().map(|path| path.as_os_str())));
    for vm in [&mut source, &mut destination] {
        assert!(vm.wait_end().success(), "{} ends well", vm.name);
    }
}

fn statuses(report: &Value) -> Vec<&str> {
    let statuses = report["statuses"].as_array().expect("a list");
    statuses.iter().filter_map(Value::as_str).collect()
}

/// QEMU's words for the course of a migration, in their order, are among these.
fn in_order(statuses: &[&str], expected: &[&str]) {
    let mut rest = statuses.iter();
    for word in expected {
        assert!(rest.any(|status| status == word), "no {word} in its place: {statuses:?}");
    }
}

#[test]
fn qemus_own_client_moves_a_guest_by_precopy() {
    let Some(client) = Client::find("QEMU's client moves a guest by precopy") else { return };
    let lab = Lab::new();
    let (source, destination) = pair(&lab, 61);
    let report = moved(&lab, &client, "precopy");
    in_order(&statuses(&report), &["setup", "active", "completed"]);
    assert!(!statuses(&report).contains(&"postcopy-active"), "{report:#}");
    assert!(report["source"]["ram"]["dirty-sync-count"].as_u64() >= Some(2), "{report:#}");
    assert_eq!(report["source"]["ram"]["postcopy-requests"], 0);
    looks_after(&lab, &client, &report, source, destination);
}

#[test]
fn qemus_own_client_starts_postcopy_within_a_round() {
    let Some(client) = Client::find("QEMU's client starts postcopy within a round") else { return };
    let lab = Lab::new();
    let (source, destination) = pair(&lab, 62);
    let report = moved(&lab, &client, "postcopy");
    in_order(&statuses(&report), &["setup", "active", "postcopy-active", "completed"]);
    assert_eq!(report["active"]["status"], "active");
    assert!(report["active"]["ram"]["remaining"].as_u64() > Some(0), "{report:#}");
    looks_after(&lab, &client, &report, source, destination);
}

/// A process that ends with this.
struct Ends(Child);

impl Drop for Ends {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn qemu(lab: &Lab, emulator: &Path, name: &str, more: &[&str]) -> Ends {
    let serial = format!("file:{}", lab.path(&format!("{name}.serial")).display());
    let qmp = format!("unix:{},server,nowait", lab.path(&format!("{name}.qmp")).display());
    let child = Command::new(emulator)
        .args(["-machine", "virt", "-m", "128M", "-display", "none"])
        .args(["-serial", &serial, "-qmp", &qmp, "-append", &guest(63)])
        .arg("-kernel")
        .arg(test_guest())
        .args(more)
        .stdin(Stdio::null())
        .spawn();
    Ends(child.expect("QEMU starts"))
}

/// What the client asks of our monitors is what it asks of QEMU's.
#[test]
fn the_same_client_moves_a_guest_of_qemus() {
    let name = "QEMU's client moves a guest of QEMU's";
    let Some(client) = Client::find(name) else { return };
    let Some(emulator) = given("UMEM_QEMU_SYSTEM", name) else { return };
    let lab = Lab::new();
    let _source = qemu(&lab, &emulator, "a", &[]);
    let _destination = qemu(&lab, &emulator, "b", &["-incoming", "defer"]);
    until("QEMU's guest to be ready", || {
        let there = lab.path("b.qmp").exists();
        let serial = std::fs::read(lab.path("a.serial")).unwrap_or_default();
        (there && String::from_utf8_lossy(&serial).contains("ready ")).then_some(())
    });
    let report = moved(&lab, &client, "postcopy");
    in_order(&statuses(&report), &["setup", "active", "postcopy-active", "completed"]);
    assert_eq!(report["source-run"]["status"], "postmigrate");
    assert_eq!(report["destination-run"]["status"], "running");
    assert_eq!(report["refusals"]["not-incoming"][0], "GenericError");
    assert_eq!(report["refusals"]["unknown"][0], "CommandNotFound");
}

/// A client that was greeted and then sends `bytes`, or as many as are taken, and reads no more.
fn hostile(lab: &Lab, monitor: &str, bytes: &[u8]) -> UnixStream {
    let mut stream = UnixStream::connect(lab.path(monitor)).expect("the monitor listens");
    stream.set_write_timeout(Some(Duration::from_millis(500))).expect("a time limit");
    let mut greeting = String::new();
    let greeted = BufReader::new(&stream).read_line(&mut greeting);
    assert!(greeted.is_ok() && greeting.contains("umem"), "{greeting}");
    // It may be cut off meanwhile.
    let _ = stream.write_all(bytes);
    stream
}

#[test]
fn hostile_monitor_clients_harm_no_move() {
    let lab = Lab::new();
    let (mut source, mut destination) = pair(&lab, 64);
    let flood = [
        b"{\"execute\":\"qmp_capabilities\"}".to_vec(),
        b"{\"execute\":\"query-commands\"}".repeat(2000),
    ];
    let clients: Vec<UnixStream> = ["a", "b"]
        .into_iter()
        .flat_map(|name| {
            let (json, text) = (format!("{name}.qmp"), format!("{name}.monitor"));
            [
                // Asks for much and reads none of it, nor any event.
                hostile(&lab, &json, &flood.concat()),
                hostile(&lab, &json, b"{\"execute\":\"qui"),
                hostile(&lab, &json, &vec![b'['; 8 << 20]),
                hostile(&lab, &json, &[0xff; 4096]),
                hostile(&lab, &text, &b"help\n".repeat(20_000)),
                hostile(&lab, &text, b"quit"),
                hostile(&lab, &text, &vec![b'x'; 8 << 20]),
            ]
        })
        .collect();
    accept(&mut destination, "migrate_incoming tcp:127.0.0.1:0");
    accept(&mut destination, "migrate_set_capability postcopy-ram on");
    let uri = destination.address();
    accept(&mut source, "migrate_set_capability postcopy-ram on");
    accept(&mut source, "migrate_set_parameter max-bandwidth 8M");
    accept(&mut source, &format!("migrate {uri}"));
    source.wait_phase(&["active"]);
    let text = source.text.command("info migrate");
    assert!(text.contains("mode: hybrid (source)") && text.contains("rounds: 1 begun"), "{text}");
    accept(&mut source, "migrate_start_postcopy");
    complete(&mut source, &mut destination);
    destination.verify();
    drop(clients);
}

#[test]
fn a_postcopy_is_paused_and_goes_on() {
    let lab = Lab::new();
    let (mut source, mut destination) = pair(&lab, 65);
    accept(&mut destination, "migrate_set_capability postcopy-ram on");
    accept(&mut destination, "migrate_incoming tcp:127.0.0.1:0");
    let uri = destination.address();
    refuse(&mut source, "migrate_pause", &["no migration"]);
    refuse(&mut source, &format!("migrate -r {uri}"), &["no migration"]);
    // Without the background there is a long time within the move.
    accept(&mut source, &format!("migrate -p -n {uri}"));
    destination.wait_phase(&["postcopy-active"]);
    source.wait_phase(&["postcopy-active"]);
    refuse(&mut source, &format!("migrate -r {uri}"), &["not paused"]);
    assert_eq!(source.qmp.command("migrate-pause", json!({})), Ok(json!({})));
    source.wait_phase(&["postcopy-paused"]);
    let resume = json!({ "uri": uri, "resume": true });
    assert_eq!(source.qmp.command("migrate", resume), Ok(json!({})));
    source.wait_phase(&["postcopy-active"]);
    refuse(&mut source, "migrate_continue", &["no migration waits"]);
    accept(&mut source, "migrate_pause");
    source.wait_phase(&["postcopy-paused"]);
    accept(&mut source, "migrate_set_parameter postcopy-background on");
    accept(&mut source, "migrate_continue");
    complete(&mut source, &mut destination);
    destination.verify();
}
