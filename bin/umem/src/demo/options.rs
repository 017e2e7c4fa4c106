//! Options of the demo, and what they make of the VMs' options.

use crate::vm::{huge_page_size, memory_size};
use anyhow::Context as _;
use clap::{Args, ValueEnum};
use machine::{AcceleratorKind, HugePages, PageSize};
use serde_json::{Value, json};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use umem_bench::guest::{TEST_GUEST, TEST_GUEST_X86};
use umem_bench::vm::huge;

/// What runs the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Accel {
    /// KVM where it works, else the software CPU
    Auto,
    /// The host's x86-64 processor
    Kvm,
    /// The software CPU, riscv64
    Tcg,
}

/// How pages are packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Compression {
    /// Not at all
    None,
    /// By LZ4
    Lz4,
    /// By Zstandard
    Zstd,
    /// As the link and the pages are
    Auto,
}

impl Compression {
    /// As `multifd-compression` has it.
    const fn word(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
            Self::Auto => "auto",
        }
    }
}

/// Who finds missing pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum FaultPath {
    /// The vCPU in its page walk
    Vcpu,
    /// The kernel, through userfaultfd
    Uffd,
}

impl FaultPath {
    const fn word(self) -> &'static str {
        match self {
            Self::Vcpu => "vcpu",
            Self::Uffd => "uffd",
        }
    }
}

/// How the guest's pages move.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Mode {
    /// All pages before the guest, which stands still for the last of them
    Precopy,
    /// The guest first, its pages on demand and in the background
    Postcopy,
    /// Rounds of precopy, then postcopy for what the guest has written meanwhile
    Hybrid,
}

impl Mode {
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Precopy => "precopy",
            Self::Postcopy => "postcopy",
            Self::Hybrid => "hybrid",
        }
    }
}

/// Modes in which the guest may run before its pages are there.
const WITH_POSTCOPY: [Mode; 2] = [Mode::Postcopy, Mode::Hybrid];

/// Which pages each end's RAM is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pages {
    source: PageSize,
    destination: PageSize,
}

impl std::str::FromStr for Pages {
    type Err = String;

    /// `2M`, or `4K:2M` for each end.
    fn from_str(text: &str) -> Result<Self, String> {
        let page = |text: &str| match text {
            "4K" | "4k" => Ok(PageSize::SMALL),
            _ => huge_page_size(text),
        };
        let (source, destination) = text.split_once(':').unwrap_or((text, text));
        Ok(Self { source: page(source)?, destination: page(destination)? })
    }
}

/// Move a guest that checks its own memory between two VMs on this host.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// What runs the guest; Linux (--linux) is riscv64 and runs on tcg
    #[arg(long, value_enum, default_value = "auto")]
    accel: Accel,
    /// RAM of the guest: 1G, 512M, or a number of MiB
    #[arg(long, value_name = "SIZE", default_value = "1G", value_parser = memory_size)]
    pub(super) memory: u64,
    /// Huge pages that RAM is made of, 2M or 1G; SOURCE:DESTINATION for each end, where 4K is none. Root
    /// sets them aside for the demo, others need them set aside
    #[arg(long, value_name = "SIZE[:SIZE]")]
    hugepages: Option<Pages>,
    /// vCPUs of the guest; each writes pages of its own
    #[arg(long, value_name = "NUMBER", default_value_t = 1,
          value_parser = clap::value_parser!(u32).range(1..=32))]
    pub(super) vcpus: u32,
    /// Random pages that the guest writes in a second, all vCPUs together; 0: none
    #[arg(long, value_name = "PAGES", default_value_t = 2000)]
    pub(super) dirty_rate: u64,
    /// What the memory's content follows from; chosen at random by default
    #[arg(long, value_name = "NUMBER")]
    seed: Option<u64>,
    /// How much of the RAM is filled, in percent
    #[arg(long, value_name = "PERCENT", default_value_t = 70,
          value_parser = clap::value_parser!(u64).range(0..=95))]
    fill: u64,
    /// Print one JSON object as the only line on standard output
    #[arg(long)]
    pub(super) json: bool,
    /// Move Debian's Linux with a workload instead of the embedded guest (see `cargo xtask guest`)
    #[arg(long)]
    pub(super) linux: bool,
    /// Linux kernel
    #[arg(long, value_name = "FILE", requires = "linux", default_value = "guest/out/linux/Image")]
    kernel: PathBuf,
    /// Initial RAM disk of Linux
    #[arg(
        long,
        value_name = "FILE",
        requires = "linux",
        default_value = "guest/out/linux/initramfs.cpio"
    )]
    initrd: PathBuf,
    /// How the guest's pages move
    #[arg(long, value_enum, default_value = "postcopy")]
    pub(super) mode: Mode,
    /// Most rounds of precopy before the switch (hybrid; 1 when not given)
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..))]
    rounds: Option<u32>,
    /// Longest predicted downtime with which a precopy ends (precopy; 300 when not given)
    #[arg(long, value_name = "MILLISECONDS",
          value_parser = clap::value_parser!(u64).range(..=2_000_000))]
    downtime_limit: Option<u64>,
    /// Slow the guest down when it writes faster than rounds of precopy send (precopy, hybrid)
    #[arg(long)]
    auto_converge: bool,
    /// MiB a second that rounds and the background may send; 0: no limit
    #[arg(long, value_name = "MIB", default_value_t = 0,
          value_parser = clap::value_parser!(u64).range(..=1 << 30))]
    bandwidth: u64,
    /// Who finds missing pages at the destination (postcopy, hybrid; when not given: vcpu on tcg, uffd
    /// under KVM)
    #[arg(long, value_enum)]
    fault_path: Option<FaultPath>,
    /// Send only what is asked for, until the guest has checked all its memory
    #[arg(long)]
    pub(super) no_background: bool,
    /// The background goes on behind the page last asked for
    #[arg(long, conflicts_with = "no_background")]
    move_background: bool,
    /// Pages to send beyond each page asked for (default: as many as its runs through memory call for)
    #[arg(long, value_name = "PAGES")]
    forward: Option<u64>,
    /// Pages to send before each page asked for
    #[arg(long, value_name = "PAGES")]
    backward: Option<u64>,
    /// Connections for the background
    #[arg(long, value_name = "NUMBER", default_value_t = umem_link::BULK_LANES,
          value_parser = clap::value_parser!(u8).range(1..=16))]
    connections: u8,
    /// How pages are packed on their way; auto: as the link and the pages are
    #[arg(long, value_enum, value_name = "HOW", default_value_t = Compression::Auto)]
    compression: Compression,
    /// The destination's -postcopy-flags
    #[arg(long, value_name = "FLAGS", value_parser = clap::value_parser!(u8).range(0..=1))]
    postcopy_flags: Option<u8>,
    /// Seconds after which the demo gives up
    #[arg(long, value_name = "SECONDS", default_value_t = 120)]
    pub(super) timeout: u64,
    /// Damage a page before the check, to see that it is found; the demo then fails
    #[arg(long)]
    pub(super) inject_damage: bool,
}

impl Options {
    /// Refuses options that mean nothing in this mode.
    pub(super) fn check(&self) -> Result<(), String> {
        if self.accel == Accel::Kvm && self.linux {
            return Err(
                "--linux is riscv64, which --accel kvm does not run; use --accel tcg".to_owned()
            );
        }
        if self.accelerator() == AcceleratorKind::Kvm {
            AcceleratorKind::Kvm.works()?;
        }
        let misplaced = [
            (self.rounds.is_some(), "--rounds", &[Mode::Hybrid][..]),
            (self.downtime_limit.is_some(), "--downtime-limit", &[Mode::Precopy]),
            (self.auto_converge, "--auto-converge", &[Mode::Precopy, Mode::Hybrid]),
            (self.fault_path.is_some(), "--fault-path", &WITH_POSTCOPY),
            (self.no_background, "--no-background", &WITH_POSTCOPY),
            (self.move_background, "--move-background", &WITH_POSTCOPY),
            (self.forward.is_some(), "--forward", &WITH_POSTCOPY),
            (self.backward.is_some(), "--backward", &WITH_POSTCOPY),
            (self.postcopy_flags.is_some(), "--postcopy-flags", &WITH_POSTCOPY),
        ];
        let mut misplaced =
            misplaced.into_iter().filter(|(given, _, modes)| *given && !modes.contains(&self.mode));
        let Some((_, option, modes)) = misplaced.next() else { return Ok(()) };
        let words: Vec<&str> = modes.iter().map(|mode| mode.word()).collect();
        Err(format!(
            "{option} means nothing with --mode {}; it goes with --mode {}",
            self.mode.word(),
            words.join(" or ")
        ))
    }

    /// The given seed, or one that nobody knew before.
    pub(super) fn seed(&self) -> anyhow::Result<u64> {
        match self.seed {
            Some(seed) => Ok(seed),
            None => getrandom::u64().map_err(|error| anyhow::anyhow!("no random seed: {error}")),
        }
    }

    /// What runs the guest here.
    pub(super) fn accelerator(&self) -> AcceleratorKind {
        match self.accel {
            _ if self.linux => AcceleratorKind::Tcg,
            Accel::Auto if AcceleratorKind::Kvm.works().is_ok() => AcceleratorKind::Kvm,
            Accel::Kvm => AcceleratorKind::Kvm,
            Accel::Auto | Accel::Tcg => AcceleratorKind::Tcg,
        }
    }

    fn machine_options(&self, page: PageSize) -> Vec<OsString> {
        let machine = match self.accelerator() {
            AcceleratorKind::Tcg => "virt,accel=tcg",
            AcceleratorKind::Kvm => "virt,accel=kvm",
        };
        let (memory, vcpus) = (format!("{}b", self.memory), self.vcpus.to_string());
        let mut options: Vec<OsString> =
            ["-machine", machine, "-monitor", "none", "-m", &memory, "-smp", &vcpus]
                .map(OsString::from)
                .into();
        options.extend(huge::options(page, self.memory).into_iter().map(Into::into));
        options
    }

    fn pages(&self) -> Pages {
        let small = Pages { source: PageSize::SMALL, destination: PageSize::SMALL };
        self.hugepages.unwrap_or(small)
    }

    /// Huge pages for both ends, for as long as they are kept; none where they are set aside already, or
    /// this user may not.
    pub(super) fn set_aside(&self) -> anyhow::Result<Vec<HugePages>> {
        let Pages { source, destination } = self.pages();
        huge::set_aside([source, destination], self.memory)
    }

    /// The source's options; the embedded guest's image is written into `folder`.
    pub(super) fn guest_options(&self, folder: &Path, seed: u64) -> anyhow::Result<Vec<OsString>> {
        let mut options = self.machine_options(self.pages().source);
        let Self { fill, dirty_rate, vcpus, .. } = self;
        let append = if self.linux {
            for file in [&self.kernel, &self.initrd] {
                anyhow::ensure!(
                    file.exists(),
                    "{} is missing; 'cargo xtask guest' makes it",
                    file.display()
                );
            }
            options.extend(["-kernel".into(), self.kernel.clone().into()]);
            options.extend(["-initrd".into(), self.initrd.clone().into()]);
            let fill_mib = (self.memory >> 20) * fill / 100;
            format!(
                "console=ttyS0 quiet umem.mode=workload umem.seed={seed} umem.fill_mib={fill_mib} \
                 umem.rate={dirty_rate} umem.beat_us=10000 umem.threads={vcpus}"
            )
        } else {
            let image = folder.join("guest.elf");
            let guest = match self.accelerator() {
                AcceleratorKind::Tcg => TEST_GUEST,
                AcceleratorKind::Kvm => TEST_GUEST_X86,
            };
            std::fs::write(&image, guest).context("cannot write the guest's image")?;
            options.extend(["-kernel".into(), image.into()]);
            format!("seed={seed} fill={fill} rate={dirty_rate} beat_us=1000")
        };
        options.extend(["-append".into(), append.into()]);
        Ok(options)
    }

    /// The destination's options.
    pub(super) fn destination_options(&self) -> Vec<OsString> {
        let mut options = self.machine_options(self.pages().destination);
        options.extend(["-incoming", "defer"].map(Into::into));
        if self.mode == Mode::Precopy {
            return options;
        }
        options.push("-postcopy".into());
        if let Some(path) = self.fault_path {
            options.extend(["-postcopy-fault", path.word()].map(Into::into));
        }
        if let Some(flags) = self.postcopy_flags {
            options.extend(["-postcopy-flags".into(), flags.to_string().into()]);
        }
        options
    }

    /// Arguments of the `migrate` command.
    pub(super) fn migrate_arguments(&self, uri: &str) -> Value {
        if self.mode == Mode::Precopy {
            return json!({ "uri": uri });
        }
        let mut arguments = json!({
            "uri": uri,
            "postcopy": true,
            "no-background": self.no_background,
            "move-background": self.move_background,
        });
        for (name, count) in [("forward", self.forward), ("backward", self.backward)] {
            if let Some(count) = count {
                arguments[name] = count.into();
            }
        }
        if self.mode == Mode::Hybrid {
            arguments["precopy"] = self.rounds.unwrap_or(1).into();
        }
        arguments
    }

    /// Commands before it, with their arguments.
    pub(super) fn settings(&self) -> [(&'static str, Value); 2] {
        let mut parameters = json!({
            "multifd-channels": self.connections,
            "multifd-compression": self.compression.word(),
            "max-bandwidth": self.bandwidth << 20,
            "max-postcopy-bandwidth": self.bandwidth << 20,
        });
        if let Some(limit) = self.downtime_limit {
            parameters["downtime-limit"] = limit.into();
        }
        let converge = json!({ "capability": "auto-converge", "state": self.auto_converge });
        [
            ("migrate-set-parameters", parameters),
            ("migrate-set-capabilities", json!({ "capabilities": [converge] })),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;

    #[derive(Debug, clap::Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }

    fn parse(line: &str) -> Options {
        Line::try_parse_from(line.split_whitespace()).unwrap().options
    }

    #[test]
    fn options_that_mean_nothing_in_a_mode_are_named_with_the_modes_that_they_go_with() {
        let wrong = [
            ("demo --rounds 2", "--rounds", "--mode hybrid"),
            ("demo --downtime-limit 5", "--downtime-limit", "--mode precopy"),
            ("demo --auto-converge", "--auto-converge", "precopy or hybrid"),
            ("demo --mode precopy --forward 4", "--forward", "postcopy or hybrid"),
            ("demo --mode precopy --backward 4", "--backward", "postcopy or hybrid"),
            ("demo --mode precopy --no-background", "--no-background", "postcopy or hybrid"),
            ("demo --mode precopy --move-background", "--move-background", "postcopy or hybrid"),
            ("demo --mode precopy --postcopy-flags 0", "--postcopy-flags", "postcopy or hybrid"),
            ("demo --mode precopy --fault-path uffd", "--fault-path", "postcopy or hybrid"),
            ("demo --mode hybrid --downtime-limit 5", "--downtime-limit", "--mode precopy"),
        ];
        for (line, option, modes) in wrong {
            let line = &format!("{line} --accel tcg");
            let why = parse(line).check().unwrap_err();
            assert!(why.starts_with(option) && why.ends_with(modes), "{line}: {why}");
        }
        for line in [
            "demo",
            "demo --mode precopy --downtime-limit 5 --auto-converge --connections 4 --bandwidth 9",
            "demo --mode hybrid --rounds 3 --auto-converge --forward 4 --postcopy-flags 1",
        ] {
            assert_eq!(parse(line).check(), Ok(()), "{line}");
        }
        let why = parse("demo --accel kvm --linux").check().unwrap_err();
        assert!(why.contains("--accel tcg"), "{why}");
    }

    #[test]
    fn each_mode_starts_its_destination_and_its_migration_in_its_own_way() {
        let has_postcopy = |options: &Options| {
            options.destination_options().iter().any(|option| option == "-postcopy")
        };
        let precopy = parse("demo --mode precopy");
        assert!(!has_postcopy(&precopy));
        assert_eq!(precopy.migrate_arguments("x"), json!({ "uri": "x" }));
        let postcopy = parse("demo");
        assert!(has_postcopy(&postcopy));
        assert_eq!(postcopy.migrate_arguments("x")["precopy"], Value::Null);
        let hybrid = parse("demo --mode hybrid");
        assert!(has_postcopy(&hybrid));
        assert_eq!(hybrid.migrate_arguments("x")["precopy"], 1);
        let settings = |line| parse(line).settings()[0].1["multifd-compression"].clone();
        assert_eq!(
            (settings("demo"), settings("demo --compression lz4")),
            ("auto".into(), "lz4".into())
        );
        assert_eq!(parse("demo --mode hybrid --rounds 3").migrate_arguments("x")["precopy"], 3);
    }
}
