//! Real sockets, a recording VM.

use super::*;
use crate::double::Recorder;
use machine::VmEvent;
use serde_json::{Value, json};
use std::io::{BufRead as _, BufReader};

struct Fixture {
    vm: Arc<Recorder>,
    server: Server,
    path: PathBuf,
    _folder: tempfile::TempDir,
}

fn start(kind: Kind) -> Fixture {
    start_with(kind, Recorder::default())
}

fn start_with(kind: Kind, vm: Recorder) -> Fixture {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("monitor");
    let spec = MonitorSpec { kind, place: Place::Unix(path.clone()) };
    let vm = Arc::new(vm);
    let server = serve(&spec, vm.clone()).unwrap();
    Fixture { vm, server, path, _folder: folder }
}

fn connect(path: &Path) -> BufReader<UnixStream> {
    let stream = UnixStream::connect(path).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    BufReader::new(stream)
}

fn say(client: &mut BufReader<UnixStream>, line: &str) {
    client.get_mut().write_all(line.as_bytes()).unwrap();
    client.get_mut().write_all(b"\n").unwrap();
}

fn hear(client: &mut BufReader<UnixStream>) -> Value {
    let mut line = String::new();
    client.read_line(&mut line).unwrap();
    serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: '{line}'"))
}

fn ask(client: &mut BufReader<UnixStream>, request: &Value) -> Value {
    say(client, &request.to_string());
    hear(client)
}

/// Everything up to and including the next prompt.
fn hear_text(client: &mut BufReader<UnixStream>) -> String {
    let mut text = Vec::new();
    while !text.ends_with(b"(umem) ") {
        let mut byte = [0];
        client.read_exact(&mut byte).unwrap();
        text.push(byte[0]);
    }
    String::from_utf8(text).unwrap()
}

fn negotiated(path: &Path) -> BufReader<UnixStream> {
    let mut client = connect(path);
    assert!(hear(&mut client)["QMP"]["version"]["qemu"]["major"].is_u64());
    assert_eq!(ask(&mut client, &json!({"execute": "qmp_capabilities"})), json!({"return": {}}));
    client
}

#[test]
fn json_clients_negotiate_command_and_are_told_events() {
    let fixture = start(Kind::Json);
    let mut client = connect(&fixture.path);
    hear(&mut client);
    let early = ask(&mut client, &json!({"execute": "stop", "id": 1}));
    assert_eq!(
        (early["error"]["class"].as_str(), &early["id"]),
        (Some("CommandNotFound"), &json!(1))
    );
    ask(&mut client, &json!({"execute": "qmp_capabilities"}));
    let status = ask(&mut client, &json!({"execute": "query-status", "id": {"a": [1]}}));
    assert_eq!(status["return"]["status"], "inmigrate");
    assert_eq!(status["id"], json!({"a": [1]}));
    fixture.vm.tell(&VmEvent::Migration { phase: "completed".into() });
    let event = hear(&mut client);
    assert_eq!(event["event"], "MIGRATION");
    assert_eq!(event["data"]["status"], "completed");
    assert!(event["timestamp"]["seconds"].as_u64() > Some(0));
    let names = ask(&mut client, &json!({"execute": "query-commands"}));
    assert!(names["return"].as_array().unwrap().contains(&json!({"name": "migrate-incoming"})));
    assert_eq!(ask(&mut client, &json!({"execute": "query-migrate"})), json!({"return": {}}));
    *fixture.vm.migration.lock().unwrap() = Some(crate::report::tests::sample());
    let migrate = ask(&mut client, &json!({"execute": "query-migrate"}));
    assert_eq!(migrate["return"]["x-umem"]["pages"]["demand"], 10);
    assert_eq!(fixture.vm.calls(), [""; 0]);
}

#[test]
fn json_migrate_takes_our_extras_and_refuses_what_text_refuses() {
    let fixture = start(Kind::Json);
    let mut client = negotiated(&fixture.path);
    let mut migrate =
        |arguments: Value| ask(&mut client, &json!({"execute": "migrate", "arguments": arguments}));
    let full = json!({"uri": "tcp:h:1", "postcopy": true, "no-background": true, "forward": 32});
    assert_eq!(migrate(full), json!({"return": {}}));
    for (arguments, part) in [
        (json!({"uri": "tcp:h:1"}), "precopy is not there yet"),
        (json!({"postcopy": true}), "'uri' is missing"),
        (json!({"uri": 7, "postcopy": true}), "'uri' must be a string"),
        (json!({"uri": "tcp:h:1", "postcopy": true, "forward": -1}), "not '-1'"),
        (json!({"uri": "tcp:h:1", "postcopy": true, "forward": 1.5}), "not '1.5'"),
        (json!({"uri": "tcp:h:1", "postcopy": 1}), "must be true or false"),
        (json!({"uri": "tcp:h:1", "blk": true}), "'blk' is unexpected"),
    ] {
        let error = migrate(arguments.clone());
        assert_eq!(error["error"]["class"], "GenericError");
        assert!(error["error"]["desc"].as_str().unwrap().contains(part), "{arguments}: {error}");
    }
    assert_eq!(fixture.vm.calls(), ["migrate tcp:h:1 p=true b=false m=false 32 0"]);
    let human =
        json!({"execute": "human-monitor-command", "arguments": {"command-line": "migrate x"}});
    let answer = ask(&mut client, &human);
    assert!(answer["return"].as_str().unwrap().starts_with("Error: precopy"), "{answer}");
}

#[test]
fn a_refusal_of_the_vm_reaches_both_monitors() {
    let refusing = || Recorder { refuse: Some("3 pages are missing"), ..Recorder::default() };
    let json = start_with(Kind::Json, refusing());
    let answer = ask(&mut negotiated(&json.path), &json!({"execute": "cont"}));
    assert_eq!(answer["error"]["desc"], "3 pages are missing");
    let text = start_with(Kind::Text, refusing());
    let mut client = connect(&text.path);
    hear_text(&mut client);
    say(&mut client, "cont");
    assert_eq!(hear_text(&mut client), "Error: 3 pages are missing\n(umem) ");
}

#[test]
fn garbage_is_answered_and_the_client_goes_on() {
    let fixture = start(Kind::Json);
    let mut client = negotiated(&fixture.path);
    let deep = "[".repeat(60_000);
    for garbage in
        ["nonsense", "[]", "{}", "7", "{\"execute\":7}", "{\"execute\":\"no-such\"}", &deep]
    {
        say(&mut client, garbage);
        assert!(hear(&mut client)["error"]["desc"].is_string());
    }
    client.get_mut().write_all(b"\xff\xfe\0\n").unwrap();
    assert_eq!(hear(&mut client)["error"]["desc"], "the line is no UTF-8 text");
    say(&mut client, &"x".repeat(10 << 20));
    let long = hear(&mut client);
    assert!(long["error"]["desc"].as_str().unwrap().contains("65536 bytes"), "{long}");
    assert_eq!(ask(&mut client, &json!({"execute": "stop"})), json!({"return": {}}));
    assert_eq!(fixture.vm.calls(), ["stop"]);
}

#[test]
fn a_text_client_sees_greeting_prompt_answers_and_refusals() {
    let fixture = start(Kind::Text);
    let mut client = connect(&fixture.path);
    assert!(hear_text(&mut client).starts_with("umem "));
    say(&mut client, "info status\r");
    assert_eq!(hear_text(&mut client), "VM status: paused (inmigrate)\n  no owner yet\n(umem) ");
    say(&mut client, "");
    assert_eq!(hear_text(&mut client), "(umem) ");
    say(&mut client, &"y".repeat(1 << 20));
    assert!(hear_text(&mut client).starts_with("Error: the line is longer"));
    say(&mut client, "stop");
    hear_text(&mut client);
    assert_eq!(fixture.vm.calls(), ["stop"]);
}

#[test]
fn quit_is_answered_before_the_vm_ends() {
    let fixture = start(Kind::Json);
    let mut client = negotiated(&fixture.path);
    assert_eq!(ask(&mut client, &json!({"execute": "quit"})), json!({"return": {}}));
    let mut rest = Vec::new();
    client.read_to_end(&mut rest).unwrap();
    assert_eq!(fixture.vm.calls(), ["quit"]);
}

#[test]
fn half_a_line_does_nothing() {
    let fixture = start(Kind::Text);
    let mut half = connect(&fixture.path);
    half.get_mut().write_all(b"quit").unwrap();
    half.get_mut().shutdown(Shutdown::Write).unwrap();
    let mut rest = String::new();
    half.read_to_string(&mut rest).unwrap();
    assert_eq!(fixture.vm.calls(), [""; 0]);
}

#[test]
fn a_client_that_never_reads_is_cut_off_and_holds_up_nobody() {
    let fixture = start(Kind::Json);
    let mut deaf = negotiated(&fixture.path);
    let mut other = negotiated(&fixture.path);
    // Asks until the monitor, which cannot answer, takes no more or has cut it off.
    deaf.get_mut().set_write_timeout(Some(Duration::from_millis(200))).unwrap();
    let request = b"{\"execute\":\"query-commands\"}\n".repeat(100);
    while deaf.get_mut().write_all(&request).is_ok() {}
    fixture.vm.tell(&VmEvent::Stop);
    assert_eq!(hear(&mut other)["event"], "STOP");
    assert_eq!(ask(&mut other, &json!({"execute": "stop"})), json!({"return": {}}));
    // The events of the one that was cut off end with it.
    for _ in 0..200 {
        fixture.vm.tell(&VmEvent::Resume);
        hear(&mut other);
        if fixture.vm.listeners() == 1 {
            return;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("{} listeners are left", fixture.vm.listeners());
}

#[test]
fn clients_beyond_the_limit_are_turned_away_until_one_leaves() {
    let fixture = start(Kind::Text);
    let mut clients: Vec<_> = (0..CLIENTS_MAX).map(|_| connect(&fixture.path)).collect();
    clients.iter_mut().for_each(|client| drop(hear_text(client)));
    let mut refused = String::new();
    connect(&fixture.path).read_to_string(&mut refused).unwrap();
    assert!(refused.contains("takes no more"), "{refused}");
    clients.pop();
    for _ in 0..200 {
        let mut first = [0; 5];
        let mut client = connect(&fixture.path);
        client.read_exact(&mut first).unwrap();
        if &first == b"umem " {
            return;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("no client was taken after one had left");
}

#[test]
fn a_dead_socket_is_replaced_and_a_live_one_is_not() {
    let fixture = start(Kind::Text);
    let spec = MonitorSpec { kind: Kind::Text, place: Place::Unix(fixture.path.clone()) };
    let error = serve(&spec, fixture.vm.clone()).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    let dead = fixture.path.with_extension("dead");
    drop(UnixListener::bind(&dead).unwrap());
    let spec = MonitorSpec { kind: Kind::Text, place: Place::Unix(dead.clone()) };
    let server = serve(&spec, fixture.vm.clone()).unwrap();
    hear_text(&mut connect(&dead));
    drop(server);
    assert!(!dead.exists());
    drop(fixture.server);
    assert!(!fixture.path.exists());
}

#[test]
fn tcp_works_as_unix_does() {
    let spec = MonitorSpec::parse("tcp:127.0.0.1:0,server,nowait", Kind::Text).unwrap();
    let vm = Arc::new(Recorder::default());
    let server = serve(&spec, vm.clone()).unwrap();
    let mut client = TcpStream::connect(server.local_address().unwrap()).unwrap();
    client.write_all(b"quit\n").unwrap();
    let mut heard = String::new();
    client.read_to_string(&mut heard).unwrap();
    assert!(heard.ends_with("(umem) "), "{heard}");
    assert_eq!(vm.calls(), ["quit"]);
}
