//! The options of `umem vm`: one table is parser and help.

use super::memory;
use super::network;
use super::parse::Draft;
use super::values;
use machine::FaultPath;
use monitor::{Kind, MonitorSpec};
use std::path::PathBuf;

/// What one option does with its value, or why not.
type Set = fn(&mut Draft, &str) -> Result<(), String>;

/// One option. `-name` and `--name` are the same, as in QEMU.
pub(super) struct OptionRow {
    pub(super) name: &'static str,
    /// What its value is called; `None` for a switch.
    pub(super) value: Option<&'static str>,
    /// Whether it may be given more than once.
    pub(super) repeats: bool,
    pub(super) help: &'static str,
    pub(super) set: Set,
}

const fn one(name: &'static str, value: &'static str, help: &'static str, set: Set) -> OptionRow {
    OptionRow { name, value: Some(value), repeats: false, help, set }
}

const fn many(name: &'static str, value: &'static str, help: &'static str, set: Set) -> OptionRow {
    OptionRow { name, value: Some(value), repeats: true, help, set }
}

const fn switch(name: &'static str, help: &'static str, set: Set) -> OptionRow {
    OptionRow { name, value: None, repeats: false, help, set }
}

fn path(slot: &mut Option<PathBuf>, text: &str) -> Result<(), String> {
    if text.is_empty() {
        return Err("the path is empty".to_owned());
    }
    *slot = Some(PathBuf::from(text));
    Ok(())
}

fn monitor(draft: &mut Draft, text: &str, kind: Kind) -> Result<(), String> {
    draft.monitors.push(MonitorSpec::parse(text, kind).map_err(|error| error.to_string())?);
    Ok(())
}

/// Every option, under its heading, in the order of help.
pub(super) static GROUPS: &[(&str, &[OptionRow])] = &[
    (
        "Machine",
        &[
            many(
                "machine",
                "[virt][,accel=tcg|kvm][,memory-backend=ID]",
                "board and accelerator, which decides the guest's architecture: tcg is riscv64 by the\n\
                 software CPU (default), kvm the host's x86-64; kvm:tcg takes the first that works",
                values::machine,
            ),
            many("accel", "tcg|kvm[:tcg]", "accelerator, as -machine accel=", values::accelerator),
            one("m", "SIZE", "RAM: 1G, 512M, or a number of MiB (default 128)", |draft, text| {
                draft.config.memory_bytes = values::memory(text)?;
                draft.memory_given = true;
                Ok(())
            }),
            many(
                "object",
                "memory-backend-ram|memory-backend-memfd|memory-backend-file,id=ID[,size=SIZE]",
                "what RAM can be made of, with -machine memory-backend=ID; more of it: share=on|off,\n\
                 prealloc=on|off, reserve=off (take a guest in for which less memory is free), of memfd:\n\
                 hugetlb=on[,hugetlbsize=2M|1G], of file: mem-path=PATH",
                memory::object,
            ),
            one(
                "mem-path",
                "PATH",
                "RAM is in a file: one without a name if this is a folder (as that of a hugetlbfs),\n\
                 else this one",
                |draft, text| {
                    draft.mem_path = Some(text.into());
                    Ok(())
                },
            ),
            one("smp", "[cpus=]N", "number of vCPUs, each a thread (default 1)", |draft, text| {
                values::vcpus(draft, text)
            }),
            one(
                "cpu",
                "host[,-FEATURE|,FEATURE=off]...[,kvm-asyncpf=off]",
                "what the guest sees of the host's processor (accel=kvm): all that can move, without\n\
                 the features named; kvm-asyncpf=off: KVM does not tell the guest of pages on their way",
                values::cpu,
            ),
            one("name", "NAME", "name for errors", |draft, text| {
                draft.config.name = Some(text.to_owned());
                Ok(())
            }),
        ],
    ),
    (
        "Guest",
        &[
            one(
                "kernel",
                "FILE",
                "kernel: an ELF file, a Linux Image (riscv64) or bzImage (x86-64)",
                |draft, text| path(&mut draft.config.kernel, text),
            ),
            one("initrd", "FILE", "initial RAM disk", |draft, text| {
                path(&mut draft.config.initrd, text)
            }),
            one("append", "TEXT", "kernel command line", |draft, text| {
                draft.append = Some(text.to_owned());
                Ok(())
            }),
            switch("S", "do not start the guest; 'cont' does", |draft, _| {
                draft.config.start_paused = true;
                Ok(())
            }),
        ],
    ),
    (
        "Devices",
        &[
            many(
                "drive",
                "file=FILE[,format=raw][,if=virtio][,readonly=on][,id=NAME]",
                "virtio disk on a raw image; a comma in a name is written ',,'",
                values::drive,
            ),
            many(
                "device",
                "virtio-rng-device|virtio-serial-device|virtio-net-device,netdev=ID[,mac=MAC]|\n        \
                 virtio-balloon-device[,free-page-reporting=on][,deflate-on-oom=on]",
                "random numbers; virtio console on the serial port's place; network on a -netdev;\n\
                 balloon for memory that the guest gives back",
                values::device,
            ),
            many(
                "netdev",
                "tap,id=ID,ifname=NAME|fd=N",
                "a tap of the host's, by name or as a descriptor (with IFF_VNET_HDR) that umem was\n\
                 started with",
                network::netdev,
            ),
        ],
    ),
    (
        "Console and monitors",
        &[
            one(
                "serial",
                "PLACE",
                "guest's serial port: stdio, mon:stdio (with the monitor, see -nographic), null,\n\
                 none, file:FILE, unix:PATH,server (output waits for a client) or\n\
                 unix:PATH,server,nowait (output without a client is dropped)",
                |draft, text| {
                    draft.serial = Some(values::serial(text)?);
                    Ok(())
                },
            ),
            switch(
                "nographic",
                "serial port and text monitor together on stdio: Ctrl-A c switches between them,\n\
                 Ctrl-A x ends the VM, Ctrl-A h helps",
                |draft, _| {
                    draft.nographic = true;
                    Ok(())
                },
            ),
            many(
                "monitor",
                "PLACE",
                "text monitor: stdio, none, unix:PATH,server or tcp:HOST:PORT,server\n\
                 (the VM waits for no client, with or without ,nowait)",
                |draft, text| monitor(draft, text, Kind::Text),
            ),
            many("qmp", "PLACE", "JSON monitor, places as of -monitor", |draft, text| {
                monitor(draft, text, Kind::Json)
            }),
            one("pidfile", "FILE", "write the process id there", |draft, text| {
                path(&mut draft.pidfile, text)
            }),
        ],
    ),
    (
        "Migration",
        &[
            one(
                "incoming",
                "URI|defer",
                "wait for a guest on tcp:HOST:PORT (0 is any host), unix:PATH or fd:N, or\n\
                 load it from file:PATH (with -postcopy it runs first, and its pages come when\n\
                 they are needed); defer waits for the monitor's migrate_incoming",
                |draft, text| {
                    draft.config.incoming = values::incoming(text)?;
                    Ok(())
                },
            ),
            switch("postcopy", "the guest must come by postcopy", |draft, _| {
                draft.config.postcopy = true;
                Ok(())
            }),
            one(
                "postcopy-flags",
                "0|1",
                "place arriving pages through the page cache of a memfd: 0 maps each when it is\n\
                 touched, 1 as it arrives; not given: pages are copied into place",
                |draft, text| {
                    draft.postcopy_flags = Some(values::postcopy_flags(text)?);
                    Ok(())
                },
            ),
            one(
                "postcopy-fault",
                "vcpu|uffd",
                "who finds missing pages: the vCPU in its page walk (default of accel=tcg), or the kernel\n\
                 through userfaultfd (default of accel=kvm, whose kernel must offer the other)",
                |draft, text| {
                    draft.fault_path = Some(match text {
                        "vcpu" => FaultPath::Vcpu,
                        "uffd" => FaultPath::Uffd,
                        _ => return Err("it is neither vcpu nor uffd".to_owned()),
                    });
                    Ok(())
                },
            ),
        ],
    ),
    (
        "About",
        &[
            switch("help", "show this", |draft, _| {
                draft.help = true;
                Ok(())
            }),
            switch("h", "show this", |draft, _| {
                draft.help = true;
                Ok(())
            }),
            switch("version", "show the version", |draft, _| {
                draft.version = true;
                Ok(())
            }),
        ],
    ),
];

/// The option of this name, without its dashes.
pub(super) fn find(name: &str) -> Option<&'static OptionRow> {
    GROUPS.iter().flat_map(|(_, rows)| rows.iter()).find(|row| row.name == name)
}

/// The help text.
pub(super) fn help() -> String {
    let mut text = String::from(
        "Run a virtual machine: riscv64 on the software CPU, or x86-64 under KVM.\n\n\
         Usage: umem vm [OPTIONS]\n",
    );
    for (heading, rows) in GROUPS {
        text.push_str(&format!("\n{heading}:\n"));
        for row in *rows {
            let value = row.value.map_or_else(String::new, |value| format!(" {value}"));
            let repeats = if row.repeats { " (may be repeated)" } else { "" };
            let help = row.help.replace('\n', "\n        ");
            text.push_str(&format!("  -{}{value}\n        {help}{repeats}\n", row.name));
        }
    }
    text.push_str(
        "\nWithout -nographic and -serial, the serial port's output is dropped. Without -nographic,\n\
         -monitor and -qmp, the text monitor is on stdio if that is a terminal and free.\n\
         The end of standard input ends no VM; 'quit', SIGINT and SIGTERM do.\n\
         Status: 0 when the VM was ended or powered off, 1 when it failed, 2 for wrong options.\n\
         \nA guest moves from the first VM to the second:\n  \
         umem vm -m 1G -kernel Image -initrd initrd -append 'console=ttyS0' -nographic\n  \
         umem vm -m 1G -postcopy -incoming tcp:0:4444 -nographic\n  \
         (Ctrl-A c in the first)  migrate -p tcp:127.0.0.1:4444\n",
    );
    text
}
