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
    // In one piece: a VM that has quit reads no more.
    client.get_mut().write_all(format!("{line}\n").as_bytes()).unwrap();
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
        (json!({"uri": "tcp:h:1", "forward": 3}), "it goes only with -p (postcopy)"),
        (json!({"uri": "tcp:h:1", "precopy": 3}), "it goes only with -p (postcopy)"),
        (json!({"uri": "tcp:h:1", "postcopy": true, "precopy": 0}), "1 or more, not '0'"),
        (
            json!({"uri": "tcp:h:1", "resume": true, "postcopy": true}),
            "no other option goes with it",
        ),
        (json!({"channels": [{"channel-type": "main"}]}), "give it as 'uri'"),
        (json!({"postcopy": true}), "'uri' is missing"),
        (json!({"uri": 7, "postcopy": true}), "'uri' must be a string"),
        (json!({"uri": "tcp:h:1", "postcopy": true, "forward": -1}), "not '-1'"),
        (json!({"uri": "tcp:h:1", "postcopy": true, "forward": 1.5}), "not '1.5'"),
        (json!({"uri": "tcp:h:1", "postcopy": 1}), "must be true or false"),
        (json!({"uri": "tcp:h:1", "blk": true}), "'blk' is refused: disks do not move"),
        (json!({"uri": "tcp:h:1", "cold": true}), "'cold' is unexpected"),
    ] {
        let error = migrate(arguments.clone());
        assert_eq!(error["error"]["class"], "GenericError");
        assert!(error["error"]["desc"].as_str().unwrap().contains(part), "{arguments}: {error}");
    }
    let hybrid = json!({"uri": "tcp:h:1", "postcopy": true, "precopy": 3});
    assert_eq!(migrate(hybrid), json!({"return": {}}));
    let as_libvirt = json!({"uri": "unix:/m", "detach": true, "resume": false, "blk": false});
    assert_eq!(migrate(as_libvirt), json!({"return": {}}));
    let expected = [
        "migrate tcp:h:1 Postcopy b=false m=false 32 0",
        "migrate tcp:h:1 Hybrid { rounds: 3 } b=true m=false adaptive",
        "migrate unix:/m Precopy b=true m=false adaptive",
    ];
    assert_eq!(fixture.vm.calls(), expected);
    let human =
        json!({"execute": "human-monitor-command", "arguments": {"command-line": "migrate -n x"}});
    let answer = ask(&mut client, &human);
    assert!(
        answer["return"].as_str().unwrap().starts_with("Error: -n (no-background)"),
        "{answer}"
    );
}

#[test]
fn json_parameters_and_capabilities_are_set_and_asked_as_in_qemu() {
    let fixture = start(Kind::Json);
    let mut client = negotiated(&fixture.path);
    let mut run = |name: &str, arguments: Value| {
        ask(&mut client, &json!({"execute": name, "arguments": arguments}))
    };
    let set = json!({"downtime-limit": 100, "max-bandwidth": 1 << 20, "multifd-channels": 3,
        "cpu-throttle-initial": 30, "x-umem-postcopy-background": false});
    assert_eq!(run("migrate-set-parameters", set), json!({"return": {}}));
    let all = run("query-migrate-parameters", json!({}));
    assert_eq!(all["return"]["downtime-limit"], 100);
    assert_eq!(all["return"]["max-postcopy-bandwidth"], 0, "what is not named stays");
    assert_eq!(all["return"]["x-umem-postcopy-background"], false);
    for (arguments, part) in [
        (json!({"downtime-limit": 50, "multifd-channels": 17}), "must be 1 to 16, not 17"),
        (json!({"max-cpu-throttle": 100}), "1 to 99 %, not 100"),
        (json!({"max-bandwidth": "1M"}), "not '\"1M\"'"),
        (json!({"x-umem-postcopy-background": "on"}), "must be true or false"),
        (json!({"compress-level": 1}), "'compress-level' is unexpected"),
    ] {
        let error = run("migrate-set-parameters", arguments.clone());
        assert!(error["error"]["desc"].as_str().unwrap().contains(part), "{arguments}: {error}");
    }
    assert_eq!(run("query-migrate-parameters", json!({})), all, "a refusal changes nothing");

    let set = |members: Value| json!({ "capabilities": members });
    let one = |name: &str, state: bool| json!({"capability": name, "state": state});
    let both = set(json!([one("postcopy-ram", true), one("events", true), one("xbzrle", false)]));
    assert_eq!(run("migrate-set-capabilities", both), json!({"return": {}}));
    for (members, part) in [
        (
            json!([one("postcopy-ram", false), one("x-colo", true)]),
            "'x-colo' cannot be switched on",
        ),
        (json!([one("return-path", false)]), "'return-path' cannot be switched off"),
        (json!([one("no-such", true)]), "there is no capability 'no-such'"),
        (json!([{"capability": "events"}]), "each member of 'capabilities' must be"),
        (json!([7]), "each member of 'capabilities' must be"),
        (json!({"events": true}), "must be a list of"),
    ] {
        let error = run("migrate-set-capabilities", set(members.clone()));
        assert!(error["error"]["desc"].as_str().unwrap().contains(part), "{members}: {error}");
    }
    let all = run("query-migrate-capabilities", json!({}));
    let all = all["return"].as_array().unwrap();
    for expected in [one("postcopy-ram", true), one("auto-converge", false), one("multifd", true)] {
        assert!(all.contains(&expected), "{expected}: {all:?}");
    }
    assert_eq!(run("migrate-start-postcopy", json!({})), json!({"return": {}}));
    assert_eq!(run("migrate-pause", json!({})), json!({"return": {}}));
    let refused = run("migrate-continue", json!({"state": "pre-switchover"}));
    assert!(refused["error"]["desc"].as_str().unwrap().contains("no migration waits"), "{refused}");
    assert_eq!(fixture.vm.calls(), ["parameters", "capabilities", "start postcopy", "pause"]);
}

#[test]
fn every_event_has_its_name_data_and_time() {
    let fixture = start(Kind::Json);
    let mut client = negotiated(&fixture.path);
    let phase = |phase: &str| VmEvent::Migration { phase: phase.to_owned() };
    for (event, name, data) in [
        (VmEvent::Stop, "STOP", Value::Null),
        (VmEvent::Resume, "RESUME", Value::Null),
        (
            VmEvent::Reset { guest: false },
            "RESET",
            json!({"guest": false, "reason": "host-qmp-system-reset"}),
        ),
        (
            VmEvent::Shutdown { guest: true },
            "SHUTDOWN",
            json!({"guest": true, "reason": "guest-shutdown"}),
        ),
        (VmEvent::BalloonChange { actual: 4096 }, "BALLOON_CHANGE", json!({"actual": 4096})),
        (VmEvent::MigrationPass { pass: 2 }, "MIGRATION_PASS", json!({"pass": 2})),
        (phase("active"), "MIGRATION", json!({"status": "active", "x-umem-phase": "active"})),
        (phase("listening"), "MIGRATION", json!({"status": "setup", "x-umem-phase": "listening"})),
    ] {
        fixture.vm.tell(&event);
        let told = hear(&mut client);
        assert_eq!((&told["event"], &told["data"]), (&name.into(), &data));
        assert!(told["timestamp"]["microseconds"].as_u64() < Some(1_000_000), "{told}");
    }
}

#[test]
fn negotiation_takes_an_empty_list_and_refuses_what_is_not_there() {
    let fixture = start(Kind::Json);
    let mut client = connect(&fixture.path);
    assert_eq!(hear(&mut client)["QMP"]["capabilities"], json!([]));
    let negotiate =
        |enable: Value| json!({"execute": "qmp_capabilities", "arguments": {"enable": enable}});
    let refused = ask(&mut client, &negotiate(json!(["oob"])));
    assert_eq!(refused["error"]["desc"], "capability \"oob\" is not available");
    assert_eq!(ask(&mut client, &negotiate(json!([]))), json!({"return": {}}));
    let again = ask(&mut client, &negotiate(json!([])));
    assert_eq!(again["error"]["class"], "CommandNotFound");
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
fn requests_need_no_line_ends_and_half_a_one_is_forgotten_when_told_so() {
    let fixture = start(Kind::Json);
    let mut client = negotiated(&fixture.path);
    let (one, two) = (json!({"execute": "stop", "id": 1}), json!({"execute": "cont", "id": 2}));
    client.get_mut().write_all(format!("{one}{two}").as_bytes()).unwrap();
    assert_eq!(
        (hear(&mut client)["id"].take(), hear(&mut client)["id"].take()),
        (1.into(), 2.into())
    );
    client.get_mut().write_all(format!("{one:#}").as_bytes()).unwrap();
    assert_eq!(hear(&mut client)["id"], 1, "over several lines");
    client.get_mut().write_all(b"{\"execute\": \xff\n").unwrap();
    assert!(hear(&mut client)["error"]["desc"].is_string());
    assert_eq!(ask(&mut client, &two)["id"], 2);
    assert_eq!(fixture.vm.calls(), ["stop", "cont", "stop", "cont"]);
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
    wait_for_one_listener(&fixture, &mut other);
}

/// The events of a client that was cut off end with it.
fn wait_for_one_listener(fixture: &Fixture, other: &mut BufReader<UnixStream>) {
    for _ in 0..400 {
        fixture.vm.tell(&VmEvent::Resume);
        hear(other);
        if fixture.vm.listeners() == 1 {
            return;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("{} listeners are left", fixture.vm.listeners());
}

#[test]
fn a_client_that_reads_no_events_is_cut_off_and_others_are_told_all() {
    let fixture = start(Kind::Json);
    let _deaf = negotiated(&fixture.path);
    let mut other = negotiated(&fixture.path);
    // More than the deaf one's socket holds.
    for told in 0..20_000_u32 {
        fixture.vm.tell(&VmEvent::MigrationPass { pass: told });
        assert_eq!(hear(&mut other)["data"]["pass"], told);
    }
    wait_for_one_listener(&fixture, &mut other);
}

#[test]
fn monitors_of_both_kinds_serve_one_vm_at_once() {
    let json = start(Kind::Json);
    let text_path = json.path.with_extension("text");
    let spec = MonitorSpec { kind: Kind::Text, place: Place::Unix(text_path.clone()) };
    let _server = serve(&spec, json.vm.clone()).unwrap();
    const ROUNDS: u64 = 50;
    std::thread::scope(|scope| {
        for name in ["max-bandwidth", "max-postcopy-bandwidth", "downtime-limit"] {
            let mut client = negotiated(&json.path);
            scope.spawn(move || {
                for value in 1..=ROUNDS {
                    let arguments = json!({ name: value });
                    let request = json!({"execute": "migrate-set-parameters", "arguments": arguments, "id": value});
                    assert_eq!(ask(&mut client, &request), json!({"return": {}, "id": value}));
                }
            });
        }
        let mut client = connect(&text_path);
        scope.spawn(move || {
            hear_text(&mut client);
            for value in 1..=ROUNDS {
                let channels = value % 16 + 1;
                say(&mut client, &format!("migrate_set_parameter multifd-channels {channels}"));
                assert_eq!(hear_text(&mut client), "(umem) ");
            }
        });
    });
    let all = json.vm.parameters();
    let set = (all.max_bandwidth, all.max_postcopy_bandwidth, all.downtime_limit);
    assert_eq!(set, (ROUNDS, ROUNDS, ROUNDS), "no monitor undoes another's change");
    assert_eq!(u64::from(all.multifd_channels), ROUNDS % 16 + 1);
}

#[test]
fn clients_that_break_off_or_never_end_their_line_hold_up_nobody() {
    let json = start(Kind::Json);
    let text = start_with(Kind::Text, Recorder::default());
    for path in [&json.path, &text.path] {
        // One leaves within a line, one before its greeting was read, one never ends its line, one
        // has half a line and says no more.
        let mut leaver = connect(path);
        leaver.get_mut().write_all(b"{\"execute\":\"qu").unwrap();
        drop(leaver);
        drop(connect(path));
        let mut endless = connect(path);
        endless.get_mut().write_all(&vec![b'x'; 4 << 20]).unwrap();
        let mut half = connect(path);
        half.get_mut().write_all(b"{\"execute\":").unwrap();
        let mut burst = connect(path);
        // Breaks off while its answers are on their way.
        burst.get_mut().write_all(&b"help\n".repeat(200)).unwrap();
        burst.get_mut().shutdown(Shutdown::Both).unwrap();
        match path == &json.path {
            true => assert_eq!(
                ask(&mut negotiated(path), &json!({"execute": "stop"})),
                json!({"return": {}})
            ),
            false => {
                let mut client = connect(path);
                hear_text(&mut client);
                say(&mut client, "stop");
                assert_eq!(hear_text(&mut client), "(umem) ");
            }
        }
        // The endless line ends after all, and its client is heard again.
        endless.get_mut().write_all(b"\n").unwrap();
        let mut first = String::new();
        endless.read_line(&mut first).unwrap();
        assert!(first.contains("umem"), "{first}");
    }
    for fixture in [&json, &text] {
        assert_eq!(fixture.vm.calls(), ["stop"]);
    }
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
