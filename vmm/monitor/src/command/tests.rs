use super::*;
use crate::double::Recorder;

fn refusal(line: &str) -> String {
    let vm = Recorder::default();
    let error = run_line(&vm, line).unwrap_err().to_string();
    assert_eq!(vm.calls(), [""; 0], "{line} must not reach the VM");
    error
}

fn calls(lines: &[&str]) -> Vec<String> {
    let vm = Recorder::default();
    for line in lines {
        run_line(&vm, line).unwrap_or_else(|error| panic!("{line}: {error}"));
    }
    vm.calls()
}

#[test]
fn each_command_reaches_the_vm() {
    let lines = [
        "stop",
        "c",
        "system_reset",
        "system_powerdown",
        "info registers 3",
        "migrate_incoming unix:/a",
        "migrate_cancel",
        "migrate_start_postcopy",
        "migrate_pause",
        "migrate -d -r tcp:h:1",
        "migrate_resolve destination",
        "migrate_set_parameter multifd-channels 4",
        "migrate_set_capability postcopy-ram on",
    ];
    let expected = [
        "stop",
        "cont",
        "system_reset",
        "system_powerdown",
        "registers 3",
        "incoming unix:/a",
        "cancel",
        "start postcopy",
        "pause",
        "resume",
        "resolve Destination",
        "parameters",
        "capabilities",
    ];
    assert_eq!(calls(&lines), expected);
}

#[test]
fn migrate_takes_the_forms_of_the_manual() {
    let lines = [
        "migrate tcp:h:1",
        "migrate -d file:/snapshot",
        "migrate -p tcp:h:1",
        "migrate -p -n tcp:h:1",
        "migrate -p -n -m tcp:h:1 32 0",
        "  migrate -d -pm \"unix:/a b\" 3 ",
        "migrate -p --precopy 2 tcp:h:1",
        "migrate --precopy=1 -pn tcp:h:1 4 5",
    ];
    let expected = [
        "migrate tcp:h:1 Precopy b=true m=false adaptive",
        "migrate file:/snapshot Precopy b=true m=false adaptive",
        "migrate tcp:h:1 Postcopy b=true m=false adaptive",
        "migrate tcp:h:1 Postcopy b=false m=false adaptive",
        "migrate tcp:h:1 Postcopy b=false m=true 32 0",
        "migrate unix:/a b Postcopy b=true m=true 3 0",
        "migrate tcp:h:1 Hybrid { rounds: 2 } b=true m=false adaptive",
        "migrate tcp:h:1 Hybrid { rounds: 1 } b=false m=false 4 5",
    ];
    assert_eq!(calls(&lines), expected);
}

#[test]
fn wrong_input_is_refused_with_the_reason() {
    let cases = [
        ("migrate_set_parameter postcopy-background 1", "'1' is not on or off"),
        ("migrate_set_parameter max-postcopy-bandwidth -5", "not a whole number"),
        ("migrate_set_parameter max-postcopy-bandwidth 99999999999999G", "can be counted"),
        ("migrate_set_parameter multifd-channels 999", "must be 1 to 16, not 999"),
        ("migrate -n tcp:h:1", "-n (no-background)"),
        ("migrate -m tcp:h:1", "-m (move-background)"),
        ("migrate tcp:h:1 4", "it goes only with -p"),
        ("migrate --precopy 2 tcp:h:1", "--precopy N says how many rounds come before a postcopy"),
        (
            "migrate -p --precopy 0 tcp:h:1",
            "'precopy' must be a whole number of 1 or more, not '0'",
        ),
        ("migrate -p --precopy -1 tcp:h:1", "'precopy' must be a whole number of 1 or more"),
        ("migrate -p --precopy=two tcp:h:1", "not 'two'"),
        ("migrate -p --precopy tcp:h:1", "not 'tcp:h:1'"),
        ("migrate -p --precopy 4294967296 tcp:h:1", "1 to 4294967295 rounds, not 4294967296"),
        ("migrate -p tcp:h:1 --precopy", "--precopy needs a number"),
        ("migrate -p --rounds 3 tcp:h:1", "there is no option --rounds"),
        ("migrate -r -p tcp:h:1", "no other option goes with it"),
        ("migrate -r tcp:h:1 4", "no other option goes with it"),
        ("migrate -b tcp:h:1", "-b is refused: disks do not move"),
        ("migrate -di tcp:h:1", "-i is refused: disks do not move"),
        (
            "migrate_set_parameter no-such 1",
            "there is no parameter 'no-such'; there are downtime-limit,",
        ),
        ("migrate_set_parameter downtime-limit 2000001", "0 to 2000000 ms, not 2000001"),
        ("migrate_set_parameter downtime-limit 1s", "'1s' is not a whole number"),
        ("migrate_set_parameter cpu-throttle-initial 0", "1 to 99 %, not 0"),
        ("migrate_set_parameter max-cpu-throttle 100", "1 to 99 %, not 100"),
        ("migrate_set_parameter postcopy-switch never", "'never' is not auto or manual"),
        ("migrate_set_parameter max-bandwidth M", "not a whole number"),
        ("migrate_set_capability no-such on", "there is no capability 'no-such'"),
        ("migrate_set_capability postcopy-ram", "'state' is missing"),
        ("migrate_set_capability postcopy-ram 1", "'1' is neither on nor off"),
        ("migrate_set_capability xbzrle on", "cannot be switched on: the parameter xor-delta"),
        (
            "migrate_set_capability multifd off",
            "cannot be switched off: the parameter multifd-channels",
        ),
        ("migrate -p", "'uri' is missing"),
        ("migrate -p tcp:h:1 -1", "'forward' must be a whole number of 0 or more, not '-1'"),
        ("migrate -p tcp:h:1 0 nan", "'backward' must be"),
        ("migrate -p tcp:h:1 -nan", "'forward' must be"),
        ("migrate -p tcp:h:1 1.5", "'forward' must be"),
        ("migrate -p tcp:h:1 +1", "'forward' must be"),
        ("migrate -p tcp:h:1 99999999999999999999", "'forward' must be"),
        ("migrate -p tcp:h:1 1 2 3", "'3' is one word too many"),
        ("migrate -x tcp:h:1", "no option -x"),
        ("migrate_resolve me", "'me' is none of source, destination"),
        ("info registers 4294967296", "no vCPU 4294967296"),
        ("stop now", "one word too many"),
        ("info nothing", "nothing is known about 'nothing'"),
        ("frobnicate \x1b[2J", "unknown command: 'frobnicate'"),
        ("help frobnicate", "no help for"),
        ("migrate \"-p", "never closed"),
    ];
    for (line, part) in cases {
        let text = refusal(line);
        assert!(text.contains(part), "{line}: {text}");
        assert!(!text.contains(char::is_control), "{line}: {text:?}");
    }
}

#[test]
fn help_names_every_command_and_explains_each() {
    let vm = Recorder::default();
    let all = run_line(&vm, "help").unwrap().text;
    for name in TABLE.iter().filter_map(|row| row.text) {
        assert!(all.lines().any(|line| line.starts_with(name)), "{name} is not in help");
        let one = run_line(&vm, &format!("help {name}")).unwrap().text;
        assert!(one.contains(name), "help {name}");
    }
    assert_eq!(run_line(&vm, "info").unwrap().text, run_line(&vm, "help info").unwrap().text);
}

#[test]
fn no_two_rows_share_a_name() {
    let mut names: Vec<_> =
        TABLE.iter().flat_map(|row| row.text.iter().chain(row.aliases)).collect();
    let mut json: Vec<_> = TABLE.iter().filter_map(|row| row.json).collect();
    let (all, all_json) = (names.len(), json.len());
    names.sort();
    names.dedup();
    json.sort_unstable();
    json.dedup();
    assert_eq!((names.len(), json.len()), (all, all_json));
}

#[test]
fn the_info_commands_print_what_the_vm_says() {
    let vm = Recorder::default();
    let text = |line: &str| run_line(&vm, line).unwrap().text;
    assert_eq!(text("info status"), "VM status: paused (inmigrate)\n  no owner yet\n");
    assert_eq!(text("info cpus"), "* CPU #0: waiting for page 7 thread_id=42\n");
    assert_eq!(
        text("info block"),
        "virtio0: /disk.raw (raw, read-only, 4096 bytes, not locked here)\n"
    );
    assert!(text("info memory").contains("pages: 5 of 262144 present, 4096 bytes each"));
    assert_eq!(text("info migrate"), "no migration yet\n");
    assert_eq!(text("info registers"), "pc 80000000\n");
    assert_eq!(text("info version"), format!("umem {VERSION}\n"));
}

#[test]
fn each_parameter_is_shown_as_it_was_set() {
    let vm = Recorder::default();
    let lines = "\
downtime-limit 150
max-bandwidth 2g
max-postcopy-bandwidth 30M
postcopy-background off
postcopy-collapse off
postcopy-switch manual
multifd-channels 4
multifd-compression zstd
xor-delta off
xbzrle-cache-size 128M
low-cpu-latency off
announce-initial 10
announce-max 20
announce-rounds 3
announce-step 5
cpu-throttle-initial 10
cpu-throttle-increment 5
max-cpu-throttle 80";
    assert_eq!(lines.lines().count(), PARAMETERS.len());
    for line in lines.lines() {
        run_line(&vm, &format!("migrate_set_parameter {line}")).unwrap();
    }
    let shown = run_line(&vm, "info migrate_parameters").unwrap();
    let expected = "\
downtime-limit: 150 ms
max-bandwidth: 2147483648 bytes/second
max-postcopy-bandwidth: 31457280 bytes/second
postcopy-background: off
postcopy-collapse: off
postcopy-switch: manual
multifd-channels: 4
multifd-compression: zstd
xor-delta: off
xbzrle-cache-size: 134217728 bytes
low-cpu-latency: off
announce-initial: 10 ms
announce-max: 20 ms
announce-rounds: 3
announce-step: 5 ms
cpu-throttle-initial: 10 %
cpu-throttle-increment: 5 %
max-cpu-throttle: 80 %
";
    assert_eq!(shown.text, expected);
    assert_eq!(shown.json["x-umem-postcopy-background"], false);
    assert_eq!(shown.json["x-umem-postcopy-switch"], "manual");
    assert_eq!(shown.json["max-bandwidth"], 1_u64 << 31);
    run_line(&vm, "migrate_set_parameter max-bandwidth 0").unwrap();
    let shown = run_line(&vm, "info migrate_parameters").unwrap().text;
    assert!(shown.contains("max-bandwidth: 0 bytes/second (no limit)\n"), "{shown}");
}

#[test]
fn capabilities_that_cannot_change_may_be_set_to_what_they_are() {
    let vm = Recorder::default();
    for line in ["multifd on", "xbzrle off", "postcopy-ram off"] {
        run_line(&vm, &format!("migrate_set_capability {line}")).unwrap();
    }
    assert_eq!(vm.calls(), [""; 0], "nothing changed, also while a migration is under way");
    run_line(&vm, "migrate_set_capability auto-converge on").unwrap();
    assert!(vm.capabilities().auto_converge && !vm.capabilities().postcopy_ram);
    let shown = run_line(&vm, "info migrate_capabilities").unwrap().text;
    for line in ["postcopy-ram: off\n", "auto-converge: on\n", "multifd: on (always)\n"] {
        assert!(shown.contains(line), "{shown}");
    }
    assert!(shown.contains("xbzrle: off (not in this version)\n"), "{shown}");
    assert_eq!(shown.lines().count(), CAPABILITIES.len());
}

#[test]
fn help_of_a_command_explains_the_names_that_it_takes() {
    let help = run_line(&Recorder::default(), "help migrate_set_capability").unwrap().text;
    for capability in CAPABILITIES {
        assert!(
            help.contains(&format!("\n    {}: {}", capability.name, capability.help)),
            "{help}"
        );
    }
    let help = run_line(&Recorder::default(), "help migrate_set_parameter").unwrap().text;
    assert!(help.starts_with("migrate_set_parameter parameter value -- "), "{help}");
    assert!(help.contains("\n    downtime-limit: longest time"), "{help}");
}
