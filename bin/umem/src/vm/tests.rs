use super::parse::{Asked, VmCommand, parse_for};
use crate::console::SerialSpec;
use machine::{AcceleratorKind, FaultPath, Incoming, TapSource};
use monitor::{Kind, MonitorSpec, Place};

fn words(line: &str) -> Vec<String> {
    line.split_whitespace().map(str::to_owned).collect()
}

fn command(line: &str) -> VmCommand {
    match parse_for(&words(line), true) {
        Ok(Asked::Run(command)) => *command,
        other => panic!("{line}: {other:?}"),
    }
}

fn refusal(line: &str) -> String {
    match parse_for(&words(line), true) {
        Err(why) => {
            assert!(!why.contains('\n'), "{line}: not one line: {why}");
            why
        }
        Ok(other) => panic!("{line}: {other:?}"),
    }
}

fn text_stdio() -> MonitorSpec {
    MonitorSpec { kind: Kind::Text, place: Place::Stdio }
}

#[test]
fn the_manuals_destination_is_understood() {
    let got = command("-postcopy -incoming tcp:0:4444 -monitor stdio -machine accel=tcg -m 1G");
    assert_eq!(got.config.incoming, Incoming::Uri("tcp:0:4444".into()));
    assert!(got.config.postcopy);
    assert_eq!(got.config.memory_bytes, 1 << 30);
    assert_eq!((got.serial, got.monitors), (SerialSpec::Null, vec![text_stdio()]));
}

#[test]
fn a_whole_command_line_lands_in_the_configuration() {
    let got = command(
        "-name a -machine virt,accel=kvm:tcg -m 512 -smp 1 -kernel Image -initrd rd -append quiet \
         -drive file=a,,b.raw,format=raw,if=virtio,readonly=on -drive file=c -device \
         virtio-rng-device -S -serial null -qmp unix:/q,server -incoming defer --postcopy \
         -postcopy-flags 1 -postcopy-fault uffd -pidfile p",
    );
    let config = &got.config;
    assert_eq!(config.memory_bytes, 512 << 20);
    assert_eq!(config.command_line, "quiet");
    let drives: Vec<_> = config.drives.iter().map(|d| (d.path.to_str(), d.read_only)).collect();
    assert_eq!(drives, [(Some("a,b.raw"), true), (Some("c"), false)]);
    assert!(config.rng && config.start_paused && !config.virtio_console);
    assert_eq!(config.postcopy_flags, Some(1));
    assert_eq!(config.fault_path, Some(FaultPath::Uffd));
    assert_eq!(got.monitors, [MonitorSpec { kind: Kind::Json, place: Place::Unix("/q".into()) }]);
    assert_eq!(got.pidfile, Some("p".into()));
}

#[test]
fn network_devices_find_their_taps_whatever_comes_first() {
    let got = command(
        "-kernel k -device virtio-net-device,netdev=b -netdev tap,id=a,fd=7 -netdev \
         tap,id=b,ifname=tap0,script=no,downscript=no -device \
         virtio-net-device,netdev=a,mac=02:0A:0b:00:00:01",
    );
    let [b, a] = got.config.networks.as_slice() else { panic!("{:?}", got.config.networks) };
    assert_eq!((b.id.as_str(), &b.tap), ("b", &TapSource::Name("tap0".into())));
    assert_eq!(b.mac, [0x52, 0x54, 0, 0x12, 0x34, 0x56]);
    assert_eq!((a.id.as_str(), &a.tap), ("a", &TapSource::Descriptor(7)));
    assert_eq!(a.mac, [2, 10, 11, 0, 0, 1]);
}

#[test]
fn stdio_goes_to_whom_qemus_users_expect() {
    let consoles = |line: &str| {
        let got = command(&format!("-kernel k {line}"));
        (got.serial, got.monitors)
    };
    assert_eq!(consoles(""), (SerialSpec::Null, vec![text_stdio()]));
    assert_eq!(consoles("-nographic"), (SerialSpec::WithMonitor, vec![]));
    assert_eq!(consoles("-serial mon:stdio"), (SerialSpec::WithMonitor, vec![]));
    assert_eq!(consoles("-nographic -monitor stdio"), (SerialSpec::WithMonitor, vec![]));
    assert_eq!(consoles("-nographic -monitor none"), (SerialSpec::Stdio, vec![]));
    assert_eq!(consoles("-nographic -serial null"), (SerialSpec::Null, vec![text_stdio()]));
    assert_eq!(consoles("-serial null"), (SerialSpec::Null, vec![text_stdio()]));
    assert_eq!(consoles("-serial null -monitor none"), (SerialSpec::Null, vec![]));
    assert_eq!(consoles("-serial stdio"), (SerialSpec::Stdio, vec![]));
    match parse_for(&words("-kernel k"), false) {
        Ok(Asked::Run(got)) => assert_eq!(got.monitors, []),
        other => panic!("{other:?}"),
    }
}

#[test]
fn vcpus_are_counted_as_on_qemu_s_command_line() {
    for (text, vcpus) in [
        ("4", 4),
        ("cpus=3", 3),
        ("sockets=2,cores=2", 4),
        ("8,sockets=2,cores=2,threads=2", 8),
        ("cpus=2,cores=2", 2),
    ] {
        let line = words(&format!("-kernel k -smp {text}"));
        match parse_for(&line, false) {
            Ok(Asked::Run(got)) => assert_eq!(got.config.vcpus, vcpus, "{text}"),
            other => panic!("{text}: {other:?}"),
        }
    }
}

#[test]
fn accelerator_and_processor_are_as_on_qemu_s_command_line() {
    let config = |line: &str| command(&format!("-kernel k -accel kvm {line}")).config;
    assert_eq!(config("-accel tcg").accelerator, AcceleratorKind::Tcg);
    assert_eq!(config("-machine virt,accel=kvm").accelerator, AcceleratorKind::Kvm);
    let first = config("-accel kvm:tcg").accelerator;
    assert_eq!(first == AcceleratorKind::Kvm, AcceleratorKind::Kvm.works().is_ok());
    assert_eq!(config("").cpu, None);
    let cpu = config("-cpu host,-avx512f,+avx,aes=off,sse4_2=on,kvm-asyncpf=off").cpu.unwrap();
    assert_eq!(cpu.without, ["avx512f", "aes"]);
    assert!(!cpu.async_page_faults && config("-cpu host").cpu.unwrap().async_page_faults);
}

#[test]
fn memory_backends_are_what_qemu_s_users_write() {
    use machine::{Backend, PageSize};
    let memfd = "-object memory-backend-memfd,id=m";
    for (options, backend) in [
        ("-object memory-backend-ram,id=m", Backend::Anonymous),
        ("-object memory-backend-ram,id=m,share=on", Backend::Memfd),
        (memfd, Backend::Memfd),
        (&format!("{memfd},share=off,hugetlb=off"), Backend::Memfd),
        (&format!("{memfd},hugetlb=on"), Backend::HugeMemfd(PageSize::HUGE_2M)),
        (&format!("{memfd},hugetlb=on,hugetlbsize=1G"), Backend::HugeMemfd(PageSize::HUGE_1G)),
        ("-object memory-backend-file,id=m,share=on,mem-path=/x/y", Backend::File("/x/y".into())),
        ("-object memory-backend-file,id=m,mem-path=/tmp", Backend::File("/tmp".into())),
    ] {
        let line = words(&format!("-kernel k -machine virt,memory-backend=m {options},size=64M"));
        match parse_for(&line, false) {
            Ok(Asked::Run(got)) => {
                assert_eq!(got.config.memory_backend, Some(backend), "{options}");
                assert_eq!(got.config.memory_bytes, 64 << 20);
                assert!(!got.config.prealloc && !got.config.overcommit);
            }
            other => panic!("{options}: {other:?}"),
        }
    }
    let ram = "-kernel k -machine virt,memory-backend=m -object memory-backend-ram,id=m";
    assert!(command(&format!("{ram},reserve=off")).config.overcommit);
    assert!(!command(&format!("{ram},reserve=on")).config.overcommit);
}

#[test]
fn wrong_options_are_refused_in_one_line() {
    let cases = [
        ("", "-kernel is missing"),
        ("-frob", "no option '-frob'"),
        ("kernel", "'kernel' is no option"),
        ("-kernel", "-kernel needs a value: FILE"),
        ("-kernel a -kernel b", "-kernel is given twice"),
        ("-kernel k -postcopy", "goes only with -incoming"),
        ("-incoming defer -postcopy-flags 1", "-postcopy-flags goes only with -postcopy"),
        ("-incoming defer -postcopy-fault uffd", "-postcopy-fault goes only with -postcopy"),
        ("-incoming defer -postcopy -postcopy-flags 2", "neither 0 nor 1"),
        ("-incoming defer -postcopy -postcopy-fault x", "neither vcpu nor uffd"),
        ("-incoming nowhere", "no ':' after its kind"),
        ("-incoming tcp:0:99999", "no number of 0 to 65535"),
        ("-incoming defer -append x", "-append goes only with -kernel"),
        ("-kernel k -machine accel=xen", "no accelerator 'xen'"),
        ("-kernel k -accel kvm:hvf", "no accelerator 'hvf'"),
        ("-kernel k -cpu max", "no processor 'max'"),
        ("-kernel k -cpu host,avx=maybe", "'maybe' is neither on nor off"),
        ("-kernel k -cpu host,-", "names no feature"),
        ("-kernel k -machine pc", "no machine 'pc'"),
        ("-kernel k -machine virt,frob=1", "'frob=1' is not known"),
        ("-kernel k -smp 0", "no number of vCPUs"),
        ("-kernel k -smp 4,sockets=2,cores=3", "4 vCPUs, but sockets, cores and threads make 6"),
        ("-kernel k -smp 4,maxcpus=8", "no maxcpus"),
        ("-kernel k -smp 4,5", "'5' is not known"),
        ("-kernel k -m 0", "0 bytes"),
        ("-kernel k -object memory-backend-ram,id=m", "'m' is used by nobody"),
        ("-kernel k -machine memory-backend=m", "no -object memory-backend-...,id=m"),
        ("-kernel k -object memory-backend-ram", "id=ID is missing"),
        ("-kernel k -object rng-random,id=r", "there is memory-backend-ram"),
        ("-kernel k -object memory-backend-ram,id=m,hugetlb=on", "not known of memory-backend-ram"),
        (
            "-kernel k -object memory-backend-ram,id=m,prealloc=on,reserve=off",
            "reserve=off what is used: leave one out",
        ),
        ("-kernel k -object memory-backend-memfd,id=m,hugetlbsize=2M", "only with hugetlb=on"),
        ("-kernel k -object memory-backend-memfd,id=m,hugetlb=on,hugetlbsize=3M", "use 2M or 1G"),
        ("-kernel k -object memory-backend-file,id=m", "mem-path=PATH is missing"),
        ("-kernel k -object memory-backend-file,id=m,mem-path=/x", "share=on"),
        ("-kernel k -object memory-backend-ram,id=m,share=maybe", "neither on nor off"),
        (
            "-kernel k -m 1G -object memory-backend-ram,id=m,size=2G -machine memory-backend=m",
            "-m asks for 1073741824 bytes, and memory backend 'm' has 2147483648",
        ),
        (
            "-kernel k -mem-path /tmp -object memory-backend-ram,id=m -machine memory-backend=m",
            "both say what RAM is",
        ),
        ("-kernel k -m 1X", "'1X' is no size"),
        ("-kernel k -m -1", "'-1' is no size"),
        ("-kernel k -m 99999999999T", "is no size"),
        ("-kernel k -m 4097b", "4097 bytes is no whole number"),
        ("-kernel k -drive format=raw", "file=FILE is missing"),
        ("-kernel k -drive file=a,format=qcow2", "format 'qcow2'"),
        ("-kernel k -drive file=a,if=ide", "interface 'ide'"),
        ("-kernel k -drive file=a,id=x -drive file=b,id=x", "two drives 'x'"),
        ("-kernel k -device e1000", "no device 'e1000'"),
        ("-kernel k -device virtio-rng-device -device virtio-rng-device", "only one"),
        ("-kernel k -device virtio-balloon-device,frob=on", "'frob=on' is not known"),
        ("-kernel k -device virtio-balloon-device,deflate-on-oom=x", "neither on nor off"),
        (
            "-kernel k -device virtio-balloon-device -device virtio-balloon-device",
            "only one virtio-balloon-device",
        ),
        ("-kernel k -netdev tap,ifname=t", "id=ID is missing"),
        ("-kernel k -netdev tap,id=n", "ifname=NAME or fd=N is missing"),
        ("-kernel k -netdev tap,id=n,ifname=t,fd=3", "two taps"),
        ("-kernel k -netdev tap,id=n,fd=-3", "no number of a descriptor"),
        ("-kernel k -netdev user,id=n", "'user' is not known"),
        ("-kernel k -netdev tap,id=n,fd=3", "'n' has no device"),
        ("-kernel k -device virtio-net-device", "netdev=ID is missing"),
        ("-kernel k -device virtio-net-device,netdev=n", "no -netdev tap,id=n"),
        ("-kernel k -device virtio-net-device,netdev=n,mac=1:2", "no hardware address"),
        ("-kernel k -device virtio-net-device,netdev=n,mac=33:0:0:0:0:1", "no hardware address"),
        ("-kernel k -monitor stdio -serial stdio", "stdio is given to more than one"),
        ("-kernel k -qmp stdio -nographic", "stdio is given to more than one"),
        ("-kernel k -monitor unix:/a", "',server' belongs to it"),
        ("-kernel k -serial pty", "no place for a serial port"),
        ("-kernel k -serial unix:/a", "no place for a serial port"),
    ];
    for (line, part) in cases {
        let why = refusal(line);
        assert!(why.contains(part), "{line}: {why}");
    }
}

#[test]
fn help_lists_each_option_and_wins_over_what_is_missing() {
    assert_eq!(parse_for(&words("-h"), true), Ok(Asked::Help));
    assert_eq!(parse_for(&words("--version"), true), Ok(Asked::Version));
    let help = super::options::help();
    for (_, rows) in super::options::GROUPS {
        for row in *rows {
            assert!(help.contains(&format!("\n  -{}", row.name)), "-{} is not in help", row.name);
        }
    }
}
