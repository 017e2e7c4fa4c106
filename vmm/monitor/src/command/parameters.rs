//! Parameters of migration: one table is what `migrate_set_parameter`, `migrate-set-parameters`, both
//! queries and the manual know of them.

use super::{Arg, ArgKind, Args, Output, printable};
use machine::{
    ControlError, MigrationParameters, OnOffAuto, PageCompression, PostcopySwitch, VmControl,
};
use serde_json::{Map, Value};
use std::fmt::Write as _;
use std::sync::{Mutex, PoisonError};

type Answer = Result<Output, ControlError>;

/// What a parameter may be.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Domain {
    /// Milliseconds, at most so many.
    Milliseconds(u64),
    /// Bytes a second; 0 is no limit.
    BytesPerSecond,
    /// Bytes, at most so many.
    Bytes(u64),
    /// 1 to 99 per cent.
    Percent,
    /// 1 to so many.
    Count(u64),
    /// `on` or `off`.
    Switch,
    /// One of these words.
    Words(&'static [&'static str]),
}

/// A parameter's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Setting {
    Number(u64),
    Switch(bool),
    Word(&'static str),
}

/// One parameter.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Parameter {
    /// Name in the text monitor.
    pub(crate) name: &'static str,
    /// Name in the JSON monitor.
    pub(crate) json: &'static str,
    pub(crate) help: &'static str,
    pub(crate) domain: Domain,
    pub(crate) get: fn(&MigrationParameters) -> Setting,
    /// Takes what is of the domain.
    set: fn(&mut MigrationParameters, Setting),
}

impl Setting {
    const fn on_off_auto(value: OnOffAuto) -> Self {
        Self::Word(match value {
            OnOffAuto::Auto => "auto",
            OnOffAuto::On => "on",
            OnOffAuto::Off => "off",
        })
    }

    fn as_on_off_auto(self) -> OnOffAuto {
        match self {
            Self::Word("on") => OnOffAuto::On,
            Self::Word("off") => OnOffAuto::Off,
            _ => OnOffAuto::Auto,
        }
    }

    const fn number(self) -> u64 {
        match self {
            Self::Number(number) => number,
            Self::Switch(on) => on as u64,
            Self::Word(_) => 0,
        }
    }

    /// For what no domain lets grow beyond a byte.
    fn byte(self) -> u8 {
        u8::try_from(self.number()).unwrap_or(u8::MAX)
    }

    fn json(self) -> Value {
        match self {
            Self::Number(number) => number.into(),
            Self::Switch(on) => on.into(),
            Self::Word(word) => word.into(),
        }
    }
}

impl Domain {
    const ON_OFF_AUTO: Self = Self::Words(&["auto", "on", "off"]);

    /// Least and most number, and what they count.
    const fn range(self) -> Option<(u64, u64, &'static str)> {
        match self {
            Self::Milliseconds(most) => Some((0, most, " ms")),
            Self::BytesPerSecond => Some((0, u64::MAX, " bytes/second")),
            Self::Bytes(most) => Some((0, most, " bytes")),
            Self::Percent => Some((1, 99, " %")),
            Self::Count(most) => Some((1, most, "")),
            Self::Switch | Self::Words(_) => None,
        }
    }

    /// For the manual.
    pub(crate) fn shown(self) -> String {
        match self {
            Self::BytesPerSecond => "bytes a second (text: K, M, G, T); 0 is no limit".to_owned(),
            Self::Bytes(most) => format!("0 to {most} bytes (text: K, M, G, T)"),
            Self::Switch => "on or off (JSON: true or false)".to_owned(),
            Self::Words(words) => words.join(" or "),
            numbers => {
                let (least, most, unit) = numbers.range().unwrap_or_default();
                format!("{least} to {most}{unit}")
            }
        }
    }

    /// The words that it may be, for completion.
    pub(super) const fn words(self) -> &'static [&'static str] {
        match self {
            Self::Switch => &["on", "off"],
            Self::Words(words) => words,
            _ => &[],
        }
    }

    const fn kind(self) -> ArgKind {
        match self {
            Self::Switch => ArgKind::Switch,
            Self::Words(words) => ArgKind::Choice(words),
            _ => ArgKind::Number,
        }
    }
}

/// Every parameter, in the order of `info migrate_parameters`.
pub(crate) const PARAMETERS: [Parameter; 18] = [
    Parameter {
        name: "downtime-limit",
        json: "downtime-limit",
        help: "longest time that the guest may stand still at the end of a precopy, as predicted",
        domain: Domain::Milliseconds(MigrationParameters::LONGEST_DOWNTIME),
        get: |all| Setting::Number(all.downtime_limit),
        set: |all, value| all.downtime_limit = value.number(),
    },
    Parameter {
        name: "max-bandwidth",
        json: "max-bandwidth",
        help: "what rounds of precopy may send while the guest runs",
        domain: Domain::BytesPerSecond,
        get: |all| Setting::Number(all.max_bandwidth),
        set: |all, value| all.max_bandwidth = value.number(),
    },
    Parameter {
        name: "max-postcopy-bandwidth",
        json: "max-postcopy-bandwidth",
        help: "what the background may send after the switch; pages asked for are never limited",
        domain: Domain::BytesPerSecond,
        get: |all| Setting::Number(all.max_postcopy_bandwidth),
        set: |all, value| all.max_postcopy_bandwidth = value.number(),
    },
    Parameter {
        name: "postcopy-background",
        json: "x-umem-postcopy-background",
        help: "whether pages are sent after the switch that nobody asked for",
        domain: Domain::Switch,
        get: |all| Setting::Switch(all.postcopy_background),
        set: |all, value| all.postcopy_background = value == Setting::Switch(true),
    },
    Parameter {
        name: "postcopy-collapse",
        json: "x-umem-postcopy-collapse",
        help: "at the destination: join small pages to transparent huge ones once all have arrived",
        domain: Domain::Switch,
        get: |all| Setting::Switch(all.postcopy_collapse),
        set: |all, value| all.postcopy_collapse = value == Setting::Switch(true),
    },
    Parameter {
        name: "postcopy-switch",
        json: "x-umem-postcopy-switch",
        help: "when 'migrate' with postcopy-ram goes over to postcopy: auto, when more rounds would \
               gain nothing or when told; manual, only when told (migrate_start_postcopy)",
        domain: Domain::Words(&["auto", "manual"]),
        get: |all| match all.postcopy_switch {
            PostcopySwitch::Auto => Setting::Word("auto"),
            PostcopySwitch::Manual => Setting::Word("manual"),
        },
        set: |all, value| {
            all.postcopy_switch = match value {
                Setting::Word("manual") => PostcopySwitch::Manual,
                _ => PostcopySwitch::Auto,
            };
        },
    },
    Parameter {
        name: "multifd-channels",
        json: "multifd-channels",
        help: "connections for pages that nobody asked for, from the next migration on",
        domain: Domain::Count(MigrationParameters::MOST_CHANNELS as u64),
        get: |all| Setting::Number(u64::from(all.multifd_channels)),
        set: |all, value| all.multifd_channels = value.byte(),
    },
    Parameter {
        name: "multifd-compression",
        json: "multifd-compression",
        help: "how pages are packed where the destination can unpack them, from the next migration on; \
               auto: as the link and the pages are, on a fast link not at all",
        domain: Domain::Words(&["none", "lz4", "zstd", "auto"]),
        get: |all| {
            Setting::Word(match all.multifd_compression {
                PageCompression::None => "none",
                PageCompression::Lz4 => "lz4",
                PageCompression::Zstd => "zstd",
                PageCompression::Auto => "auto",
            })
        },
        set: |all, value| {
            all.multifd_compression = match value {
                Setting::Word("none") => PageCompression::None,
                Setting::Word("lz4") => PageCompression::Lz4,
                Setting::Word("zstd") => PageCompression::Zstd,
                _ => PageCompression::Auto,
            };
        },
    },
    Parameter {
        name: "xor-delta",
        json: "x-umem-xor-delta",
        help: "whether pages that rounds send again go as what has changed of them, from the next \
               migration on; auto: where pages are packed anyway",
        domain: Domain::ON_OFF_AUTO,
        get: |all| Setting::on_off_auto(all.xor_delta),
        set: |all, value| all.xor_delta = value.as_on_off_auto(),
    },
    Parameter {
        name: "xbzrle-cache-size",
        json: "xbzrle-cache-size",
        help: "copies of sent pages that are kept at most to tell what has changed of them, from the \
               next migration on",
        domain: Domain::Bytes(MigrationParameters::LARGEST_CACHE),
        get: |all| Setting::Number(all.xbzrle_cache_size),
        set: |all, value| all.xbzrle_cache_size = value.number(),
    },
    Parameter {
        name: "low-cpu-latency",
        json: "x-umem-low-cpu-latency",
        help: "at either end, whether the host is asked to keep its CPUs from sleeping (PM QoS, \
               /dev/cpu_dma_latency) from when the guest is stopped, for the next migration or \
               migrate_incoming; auto: until all pages are there, for 1 s at most; on: until then",
        domain: Domain::ON_OFF_AUTO,
        get: |all| Setting::on_off_auto(all.low_cpu_latency),
        set: |all, value| all.low_cpu_latency = value.as_on_off_auto(),
    },
    Parameter {
        name: "announce-initial",
        json: "announce-initial",
        help: "pause before the second announcement of a guest that has arrived",
        domain: Domain::Milliseconds(100_000),
        get: |all| Setting::Number(all.announce_initial),
        set: |all, value| all.announce_initial = value.number(),
    },
    Parameter {
        name: "announce-max",
        json: "announce-max",
        help: "longest pause between two announcements",
        domain: Domain::Milliseconds(100_000),
        get: |all| Setting::Number(all.announce_max),
        set: |all, value| all.announce_max = value.number(),
    },
    Parameter {
        name: "announce-rounds",
        json: "announce-rounds",
        help: "announcements in all",
        domain: Domain::Count(100),
        get: |all| Setting::Number(u64::from(all.announce_rounds)),
        set: |all, value| all.announce_rounds = value.byte(),
    },
    Parameter {
        name: "announce-step",
        json: "announce-step",
        help: "by how much each pause is longer than the one before",
        domain: Domain::Milliseconds(10_000),
        get: |all| Setting::Number(all.announce_step),
        set: |all, value| all.announce_step = value.number(),
    },
    Parameter {
        name: "cpu-throttle-initial",
        json: "cpu-throttle-initial",
        help: "first share of the vCPUs' time that auto-converge takes",
        domain: Domain::Percent,
        get: |all| Setting::Number(u64::from(all.cpu_throttle_initial)),
        set: |all, value| all.cpu_throttle_initial = value.byte(),
    },
    Parameter {
        name: "cpu-throttle-increment",
        json: "cpu-throttle-increment",
        help: "by how much that share grows",
        domain: Domain::Percent,
        get: |all| Setting::Number(u64::from(all.cpu_throttle_increment)),
        set: |all, value| all.cpu_throttle_increment = value.byte(),
    },
    Parameter {
        name: "max-cpu-throttle",
        json: "max-cpu-throttle",
        help: "where that share ends",
        domain: Domain::Percent,
        get: |all| Setting::Number(u64::from(all.max_cpu_throttle)),
        set: |all, value| all.max_cpu_throttle = value.byte(),
    },
];

const COUNT: usize = PARAMETERS.len();

/// Names for the text monitor.
pub(super) static NAMES: [(&str, &str); COUNT] = {
    let mut names = [("", ""); COUNT];
    let mut at = 0;
    while at < COUNT {
        names[at] = (PARAMETERS[at].name, PARAMETERS[at].help);
        at += 1;
    }
    names
};

/// Arguments of `migrate-set-parameters`.
pub(super) static ARGS: [Arg; COUNT] = {
    let mut args = [Arg { name: "", kind: ArgKind::Number, required: false }; COUNT];
    let mut at = 0;
    while at < COUNT {
        args[at].name = PARAMETERS[at].json;
        args[at].kind = PARAMETERS[at].domain.kind();
        at += 1;
    }
    args
};

pub(super) fn show(vm: &dyn VmControl, _: &Args) -> Answer {
    let all = vm.parameters();
    let (mut text, mut json) = (String::new(), Map::new());
    for parameter in &PARAMETERS {
        let value = (parameter.get)(&all);
        json.insert(parameter.json.to_owned(), value.json());
        let _ = writeln!(text, "{}: {}", parameter.name, shown(parameter.domain, value));
    }
    Ok(Output { text, json: json.into(), quit: false })
}

/// A value for people, with its unit.
pub(crate) fn shown(domain: Domain, value: Setting) -> String {
    match (domain, value) {
        (Domain::BytesPerSecond, Setting::Number(0)) => "0 bytes/second (no limit)".to_owned(),
        (_, Setting::Number(number)) => {
            format!("{number}{}", domain.range().map_or("", |(_, _, unit)| unit))
        }
        (_, Setting::Switch(on)) => if on { "on" } else { "off" }.to_owned(),
        (_, Setting::Word(word)) => word.to_owned(),
    }
}

/// One parameter, as the text monitor takes it.
pub(super) fn set_one(vm: &dyn VmControl, args: &Args) -> Answer {
    let (name, text) = (args.text("parameter"), args.text("value").unwrap_or_default());
    let Some(parameter) = PARAMETERS.iter().find(|one| Some(one.name) == name) else {
        return Ok(Output::done());
    };
    let value = read(parameter, text)?;
    change(vm, |all| {
        (parameter.set)(all, value);
        Ok(())
    })
}

/// Any of them, as the JSON monitor takes them.
pub(super) fn set_many(vm: &dyn VmControl, args: &Args) -> Answer {
    change(vm, |all| {
        for parameter in &PARAMETERS {
            let name = parameter.json;
            let number = args.number(name).map(|number| in_range(parameter, number)).transpose()?;
            let switch = args.switch(name).map(Setting::Switch);
            let word = args.text(name).map(|text| read(parameter, text)).transpose()?;
            if let Some(value) = number.or(switch).or(word) {
                (parameter.set)(all, value);
            }
        }
        Ok(())
    })
}

/// Changes some and leaves the others as they are. Two monitors do not undo each other's changes.
fn change(
    vm: &dyn VmControl,
    work: impl FnOnce(&mut MigrationParameters) -> Result<(), ControlError>,
) -> Answer {
    static CHANGING: Mutex<()> = Mutex::new(());
    let _alone = CHANGING.lock().unwrap_or_else(PoisonError::into_inner);
    let mut all = vm.parameters();
    work(&mut all)?;
    vm.set_parameters(all).map(|()| Output::done())
}

fn refuse(value: &str, wanted: &str) -> ControlError {
    ControlError::new(format!("'{}' is not {wanted}", printable(value)))
}

fn read(parameter: &Parameter, text: &str) -> Result<Setting, ControlError> {
    match parameter.domain {
        Domain::Switch => match text {
            "on" => Ok(Setting::Switch(true)),
            "off" => Ok(Setting::Switch(false)),
            other => Err(refuse(other, "on or off")),
        },
        Domain::Words(words) => {
            let word = words.iter().find(|word| **word == text);
            word.map(|word| Setting::Word(word)).ok_or_else(|| refuse(text, &words.join(" or ")))
        }
        Domain::BytesPerSecond => bytes(text).map(Setting::Number),
        Domain::Bytes(_) => in_range(parameter, bytes(text)?),
        _ => in_range(parameter, whole(text)?),
    }
}

fn in_range(parameter: &Parameter, number: u64) -> Result<Setting, ControlError> {
    let (least, most, unit) = parameter.domain.range().unwrap_or((0, u64::MAX, ""));
    if (least..=most).contains(&number) {
        return Ok(Setting::Number(number));
    }
    let name = parameter.name;
    Err(ControlError::new(format!("{name} must be {least} to {most}{unit}, not {number}")))
}

fn whole(value: &str) -> Result<u64, ControlError> {
    let digits = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
    let number = value.parse().ok().filter(|_| digits);
    number.ok_or_else(|| refuse(value, "a whole number of 0 or more"))
}

/// Bytes, or with a suffix K, M, G, T: 1024, its square, its cube, its fourth power.
/// A number of bytes, with or without a suffix.
///
/// # Errors
/// When it is none.
pub(super) fn bytes(value: &str) -> Result<u64, ControlError> {
    let suffixes = [('K', 10), ('M', 20), ('G', 30), ('T', 40)];
    let shifted = suffixes.into_iter().find_map(|(letter, shift)| {
        let number = value.strip_suffix([letter, letter.to_ascii_lowercase()])?;
        Some((number, shift))
    });
    let (number, shift) = shifted.unwrap_or((value, 0));
    whole(number)?
        .checked_mul(1 << shift)
        .ok_or_else(|| refuse(value, "a number of bytes that can be counted"))
}
