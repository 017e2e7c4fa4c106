//! The table.

use super::ArgKind::{
    Choice, Flag, List, LongOption, Memory, Named, Number, Refused, Rest, Switch, Word,
};
use super::{Arg, ArgKind, Command, capabilities, handlers, migrate, parameters};

const fn needs(name: &'static str, kind: ArgKind) -> Arg {
    Arg { name, kind, required: true }
}

const fn may(name: &'static str, kind: ArgKind) -> Arg {
    Arg { name, kind, required: false }
}

/// Why `migrate` takes no disks along.
const DISKS: &str = "disks do not move with the guest: both ends open the same image";

/// Every command of both monitors, in the order of `help`.
pub(crate) static TABLE: &[Command] = &[
    Command {
        text: Some("help"),
        aliases: &["?"],
        json: None,
        args: &[may("command", Rest)],
        help: "show the commands, or one of them",
        run: handlers::help,
    },
    Command {
        text: Some("info"),
        aliases: &[],
        json: None,
        args: &[may("topic", Rest)],
        help: "show what 'info' can tell",
        run: handlers::info,
    },
    Command {
        text: Some("info status"),
        aliases: &[],
        json: Some("query-status"),
        args: &[],
        help: "show whether the guest runs, and if not why",
        run: handlers::status,
    },
    Command {
        text: Some("info migrate"),
        aliases: &[],
        json: Some("query-migrate"),
        args: &[],
        help: "show the newest migration: phase, rounds, pages by cause, downtime, faults, errors",
        run: migrate::info,
    },
    Command {
        text: Some("info migrate_parameters"),
        aliases: &[],
        json: Some("query-migrate-parameters"),
        args: &[],
        help: "show what migrate_set_parameter has set",
        run: parameters::show,
    },
    Command {
        text: Some("info migrate_capabilities"),
        aliases: &[],
        json: Some("query-migrate-capabilities"),
        args: &[],
        help: "show what migrations may do",
        run: capabilities::show,
    },
    Command {
        text: Some("info cpus"),
        aliases: &[],
        json: Some("query-cpus-fast"),
        args: &[],
        help: "show the vCPUs and what they do",
        run: handlers::cpus,
    },
    Command {
        text: Some("info registers"),
        aliases: &[],
        json: Some("x-umem-query-registers"),
        args: &[may("cpu", Number)],
        help: "show the registers of a vCPU (0)",
        run: handlers::registers,
    },
    Command {
        text: Some("info block"),
        aliases: &[],
        json: Some("query-block"),
        args: &[],
        help: "show the disks",
        run: handlers::block,
    },
    Command {
        text: Some("info memory"),
        aliases: &[],
        json: Some("x-umem-query-memory"),
        args: &[],
        help: "show the RAM blocks and how many of their pages are present",
        run: handlers::memory,
    },
    Command {
        text: Some("info network"),
        aliases: &[],
        json: Some("x-umem-query-network"),
        args: &[],
        help: "show the network devices",
        run: handlers::network,
    },
    Command {
        text: Some("info balloon"),
        aliases: &[],
        json: Some("query-balloon"),
        args: &[],
        help: "show how much of its RAM the guest has, and is asked to keep",
        run: handlers::balloon,
    },
    Command {
        text: Some("info version"),
        aliases: &[],
        json: Some("query-version"),
        args: &[],
        help: "show the version of umem",
        run: handlers::version,
    },
    Command {
        text: Some("stop"),
        aliases: &["s"],
        json: Some("stop"),
        args: &[],
        help: "stop the guest",
        run: handlers::stop,
    },
    Command {
        text: Some("cont"),
        aliases: &["c"],
        json: Some("cont"),
        args: &[],
        help: "let the guest run",
        run: handlers::cont,
    },
    Command {
        text: Some("quit"),
        aliases: &["q"],
        json: Some("quit"),
        args: &[],
        help: "end this VM at once",
        run: handlers::quit,
    },
    Command {
        text: Some("system_reset"),
        aliases: &[],
        json: Some("system_reset"),
        args: &[],
        help: "reset the machine",
        run: handlers::system_reset,
    },
    Command {
        text: Some("system_powerdown"),
        aliases: &[],
        json: Some("system_powerdown"),
        args: &[],
        help: "ask the guest to power off",
        run: handlers::system_powerdown,
    },
    Command {
        text: Some("balloon"),
        aliases: &[],
        json: Some("balloon"),
        args: &[needs("value", Memory)],
        help: "ask the guest to keep so much of its RAM, and to give the rest to its balloon",
        run: handlers::set_balloon,
    },
    Command {
        text: Some("announce_self"),
        aliases: &[],
        json: Some("announce-self"),
        args: &[],
        help: "tell the guest's networks where it is, as is done when it arrives",
        run: handlers::announce_self,
    },
    Command {
        text: Some("migrate"),
        aliases: &[],
        json: Some("migrate"),
        args: &[
            may("detach", Flag('d')),
            may("resume", Flag('r')),
            may("blk", Refused(Some('b'), DISKS)),
            may("inc", Refused(Some('i'), DISKS)),
            may("channels", Refused(None, "a guest moves to one address: give it as 'uri'")),
            may("postcopy", Flag('p')),
            may("no-background", Flag('n')),
            may("move-background", Flag('m')),
            may("precopy", LongOption),
            needs("uri", Word),
            may("forward", Number),
            may("backward", Number),
        ],
        help: "move the guest to URI (tcp:HOST:PORT, unix:PATH, fd:N; file:PATH keeps it as a\n\
               snapshot) and return at once: by precopy, or by postcopy with -p\n\
               --precopy N: at most N rounds of precopy before the postcopy; -n: send no pages in\n\
               the background; -m: the background goes on behind the page last asked for;\n\
               forward, backward: pages to send beyond and before each page asked for (0 0: none; without\n\
               them and -m: as many as the guest's runs through memory call for, where they go on);\n\
               -r: let a migration go on that migrate_pause has paused (its connections are still\n\
               there, and URI does not matter); -d: accepted, as migrations never hold up the monitor",
        run: migrate::start,
    },
    Command {
        text: Some("migrate_incoming"),
        aliases: &[],
        json: Some("migrate-incoming"),
        args: &[needs("uri", Word)],
        help: "wait for a guest on URI: started with -incoming defer, or once the guest that was here has \
               moved away and all its pages with it",
        run: migrate::incoming,
    },
    Command {
        text: Some("migrate_cancel"),
        aliases: &[],
        json: Some("migrate_cancel"),
        args: &[],
        help: "give up the migration; the guest goes on here",
        run: migrate::cancel,
    },
    Command {
        text: Some("migrate_start_postcopy"),
        aliases: &[],
        json: Some("migrate-start-postcopy"),
        args: &[],
        help: "go over to postcopy as soon as possible; 'migrate' was given with -p, or with the\n\
               capability postcopy-ram on",
        run: migrate::start_postcopy,
    },
    Command {
        text: Some("migrate_pause"),
        aliases: &[],
        json: Some("migrate-pause"),
        args: &[],
        help: "hold back all pages of a postcopy whose guest has been handed over; the guest waits\n\
               for those that it needs; 'migrate -r' lets it go on",
        run: migrate::pause,
    },
    Command {
        text: Some("migrate_resolve"),
        aliases: &[],
        json: Some("x-umem-migrate-resolve"),
        args: &[needs("owner", Choice(&["source", "destination"]))],
        help: "say which end has the guest when the link was lost in the handover and the other\n\
               end cannot be asked; only when it is certain that the other end does not run it",
        run: migrate::resolve,
    },
    Command {
        text: Some("migrate_set_parameter"),
        aliases: &[],
        json: Some("x-umem-migrate-set-parameter"),
        args: &[needs("parameter", Named(&parameters::NAMES)), needs("value", Word)],
        help: "change a parameter of this migration, where it can, and the next; bytes take K, M, G",
        run: parameters::set_one,
    },
    Command {
        text: None,
        aliases: &[],
        json: Some("migrate-set-parameters"),
        args: &parameters::ARGS,
        help: "change parameters of this migration, where it can, and the next",
        run: parameters::set_many,
    },
    Command {
        text: Some("migrate_set_capability"),
        aliases: &[],
        json: None,
        args: &[needs("capability", Named(&capabilities::NAMES)), needs("state", Switch)],
        help: "say what the next migration may do",
        run: capabilities::set_one,
    },
    Command {
        text: None,
        aliases: &[],
        json: Some("migrate-set-capabilities"),
        args: &[needs("capabilities", List("{capability, state}"))],
        help: "say what the next migration may do",
        run: capabilities::set_many,
    },
    Command {
        text: Some("migrate_continue"),
        aliases: &[],
        json: Some("migrate-continue"),
        args: &[may("state", Word)],
        help: "let a migration go on that migrate_pause has paused, as 'migrate -r' does; refused for\n\
               any other: none waits before the switch",
        run: migrate::go_on,
    },
    Command {
        text: None,
        aliases: &[],
        json: Some("query-commands"),
        args: &[],
        help: "list the commands of the JSON monitor",
        run: handlers::commands,
    },
    Command {
        text: None,
        aliases: &[],
        json: Some("human-monitor-command"),
        args: &[needs("command-line", Word), may("cpu-index", Number)],
        help: "run a line of the text monitor",
        run: handlers::human,
    },
    Command {
        text: None,
        aliases: &[],
        json: Some("qmp_capabilities"),
        args: &[may("enable", List("capabilities, which must be empty"))],
        help: "begin to take commands",
        run: handlers::negotiated,
    },
];
