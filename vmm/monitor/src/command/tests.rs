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
        "migrate_resolve destination",
        "migrate_set_parameter postcopy-background off",
        "migrate_set_parameter max-postcopy-bandwidth 30M",
        "migrate_set_parameter multifd-channels 4",
    ];
    let expected = [
        "stop",
        "cont",
        "system_reset",
        "system_powerdown",
        "registers 3",
        "incoming unix:/a",
        "cancel",
        "resolve Destination",
        "parameters false 0 1",
        "parameters true 31457280 1",
        "parameters true 0 4",
    ];
    assert_eq!(calls(&lines), expected);
}

#[test]
fn migrate_takes_the_forms_of_the_manual() {
    let lines = [
        "migrate -p tcp:h:1",
        "migrate -p -n tcp:h:1",
        "migrate -p -n -m tcp:h:1 32 0",
        "  migrate -d -pm \"unix:/a b\" 3 ",
    ];
    let expected = [
        "migrate tcp:h:1 p=true b=true m=false 0 0",
        "migrate tcp:h:1 p=true b=false m=false 0 0",
        "migrate tcp:h:1 p=true b=false m=true 32 0",
        "migrate unix:/a b p=true b=true m=true 3 0",
    ];
    assert_eq!(calls(&lines), expected);
}

#[test]
fn wrong_input_is_refused_with_the_reason() {
    let cases = [
        ("migrate tcp:h:1", "precopy is not there yet"),
        ("migrate_set_parameter postcopy-background 1", "'1' is not on or off"),
        ("migrate_set_parameter max-postcopy-bandwidth -5", "not a whole number"),
        ("migrate_set_parameter max-postcopy-bandwidth 99999999999999G", "can be counted"),
        ("migrate_set_parameter multifd-channels 999", "1 to 16, not 999"),
        ("migrate -n tcp:h:1", "-n (no-background)"),
        ("migrate -m tcp:h:1", "-m (move-background)"),
        ("migrate tcp:h:1 4", "go only with -p"),
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
        ("info registers 4294967296", "no hart 4294967296"),
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
