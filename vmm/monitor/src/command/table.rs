//! The table.

use super::ArgKind::{Choice, Flag, Number, Rest, Word};
use super::{Arg, ArgKind, Command, handlers, migrate};

const fn needs(name: &'static str, kind: ArgKind) -> Arg {
    Arg { name, kind, required: true }
}

const fn may(name: &'static str, kind: ArgKind) -> Arg {
    Arg { name, kind, required: false }
}

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
        help: "show the newest migration: phase, pages by cause, downtime, faults, errors",
        run: migrate::info,
    },
    Command {
        text: Some("info migrate_parameters"),
        aliases: &[],
        json: Some("query-migrate-parameters"),
        args: &[],
        help: "show what migrate_set_parameter has set",
        run: migrate::parameters,
    },
    Command {
        text: Some("info cpus"),
        aliases: &[],
        json: Some("query-cpus-fast"),
        args: &[],
        help: "show the harts and what they do",
        run: handlers::cpus,
    },
    Command {
        text: Some("info registers"),
        aliases: &[],
        json: Some("x-umem-query-registers"),
        args: &[may("hart", Number)],
        help: "show the registers of a hart (0)",
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
        text: Some("migrate"),
        aliases: &[],
        json: Some("migrate"),
        args: &[
            may("detach", Flag('d')),
            may("postcopy", Flag('p')),
            may("no-background", Flag('n')),
            may("move-background", Flag('m')),
            needs("uri", Word),
            may("forward", Number),
            may("backward", Number),
        ],
        help: "move the guest to URI (tcp:HOST:PORT, unix:PATH, fd:N) and return at once\n\
               -p: by pure postcopy; -n: send no pages in the background; -m: the background goes\n\
               on behind the page last asked for; forward, backward: pages to send beyond and\n\
               before each page asked for; -d: accepted, as migrations never hold up the monitor",
        run: migrate::start,
    },
    Command {
        text: Some("migrate_incoming"),
        aliases: &[],
        json: Some("migrate-incoming"),
        args: &[needs("uri", Word)],
        help: "wait for a migration on URI (started with -incoming defer)",
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
        args: &[
            needs(
                "parameter",
                Choice(&["postcopy-background", "max-postcopy-bandwidth", "multifd-channels"]),
            ),
            needs("value", Word),
        ],
        help: "change this migration, where it can, and the next\n\
               postcopy-background on|off: whether pages are sent that nobody asked for;\n\
               max-postcopy-bandwidth: bytes a second of these (K, M, G), 0 is no limit;\n\
               multifd-channels: connections for them, from the next migration on",
        run: migrate::set_parameter,
    },
    Command {
        text: None,
        aliases: &[],
        json: Some("migrate-set-parameters"),
        args: &[
            may("max-postcopy-bandwidth", Number),
            may("multifd-channels", Number),
            may("x-umem-postcopy-background", Choice(&["on", "off"])),
        ],
        help: "change this migration, where it can, and the next",
        run: migrate::set_parameters,
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
        args: &[],
        help: "begin to take commands",
        run: handlers::capabilities,
    },
];
