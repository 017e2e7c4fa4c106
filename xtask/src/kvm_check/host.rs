//! What the host has of what the checks need, and what it is.

use std::{
    fs::{self, File},
    path::Path,
};

use anyhow::{Result, bail};
use serde_json::{Map, Value, json};
use umem_bench::host;

use super::report::{Check, Outcome};
use crate::{linux, paths, run};

/// What a VM needs beside its guest's memory, in bytes.
const BESIDE_GUESTS: u64 = 512 << 20;

fn opens(path: &str) -> std::io::Result<File> {
    File::options().read(true).write(true).open(path)
}

fn line_of(path: impl AsRef<Path>) -> Option<String> {
    fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

/// The value of the first line of /proc/cpuinfo that begins so.
fn cpuinfo(name: &str) -> Option<String> {
    let text = fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with(name))?;
    line.split_once(':').map(|(_, value)| value.trim().to_owned())
}

fn flag() -> Option<&'static str> {
    let flags = cpuinfo("flags")?;
    ["vmx", "svm"].into_iter().find(|name| flags.split(' ').any(|flag| flag == *name))
}

/// The kernel's modules for KVM, each with its parameters.
fn modules() -> Value {
    let mut found = Map::new();
    for module in fs::read_dir("/sys/module").into_iter().flatten().flatten() {
        let name = module.file_name().to_string_lossy().into_owned();
        if name != "kvm" && !name.starts_with("kvm_") {
            continue;
        }
        let mut parameters = Map::new();
        let folder = fs::read_dir(module.path().join("parameters"));
        for file in folder.into_iter().flatten().flatten() {
            let key = file.file_name().to_string_lossy().into_owned();
            // Some are for writing only, and some print lines.
            if let Some(value) = line_of(file.path()).filter(|value| !value.contains('\n')) {
                parameters.insert(key, json!(value));
            }
        }
        found.insert(name, Value::Object(parameters));
    }
    Value::Object(found)
}

/// Everything about the host that a reader of the report may ask for.
pub(super) fn describe() -> Value {
    let git = |arguments: &[&str]| {
        let mut command = run::command("git", arguments);
        run::text(command.current_dir(paths::root())).ok().map(|text| text.trim().to_owned())
    };
    let mut all = host::describe(git(&["rev-parse", "HEAD"]).as_deref());
    // Untracked files change nothing that is run.
    let changed = git(&["status", "--porcelain", "--untracked-files=no"]);
    all["uncommitted_changes"] = json!(changed.map(|text| !text.is_empty()));
    all["cpu_flag"] = json!(flag());
    all["microcode"] = json!(cpuinfo("microcode"));
    all["kernel_version"] = json!(line_of("/proc/version"));
    all["modules"] = modules();
    let product = ["sys_vendor", "product_name"];
    let product = product.map(|name| line_of(format!("/sys/class/dmi/id/{name}")));
    all["product"] = json!(product.into_iter().flatten().collect::<Vec<_>>().join(" "));
    all
}

#[cfg(target_arch = "x86_64")]
fn kernel_speed() -> Result<f64> {
    super::probe::kernel_speed()
}

#[cfg(not(target_arch = "x86_64"))]
fn kernel_speed() -> Result<f64> {
    bail!("no x86-64 host")
}

#[cfg(target_arch = "x86_64")]
use super::probe::HARDWARE;
#[cfg(not(target_arch = "x86_64"))]
const HARDWARE: f64 = f64::INFINITY;

/// How fast kernel code runs, and whether that is the hardware's doing; a guest may not need it.
fn hardware(host: &mut Value, needed: bool) -> Outcome {
    let flag = flag().map_or("/proc/cpuinfo has neither vmx nor svm".to_owned(), |flag| {
        format!("/proc/cpuinfo has {flag}")
    });
    let speed = match kernel_speed() {
        Ok(speed) => speed,
        Err(error) => return Outcome::Failed(format!("{flag}; {error:#}")),
    };
    let million = speed / 1e6;
    host["kernel_mode_instructions_per_second"] = json!(speed.round());
    if speed >= HARDWARE {
        return Outcome::Passed(format!("{flag}; {million:.0} million instructions a second"));
    }
    if !needed {
        return Outcome::Noted(format!(
            "none, which this guest can do without: kernel code is emulated at {million:.1} million \
             instructions a second ({flag})"
        ));
    }
    Outcome::Failed(format!(
        "KVM here has no help from the hardware: it emulates a guest's kernel at {million:.1} million \
         instructions a second, so that no distribution's kernel can be expected to run ({flag}); use a \
         machine with VT-x or AMD-V (in a virtual machine: nested virtualisation switched on)"
    ))
}

fn kvm() -> Outcome {
    match opens("/dev/kvm") {
        Ok(_) => Outcome::Passed("/dev/kvm opens".into()),
        Err(error) => Outcome::Failed(format!(
            "cannot open /dev/kvm: {error}; load kvm_intel or kvm_amd, and run as root or in group kvm"
        )),
    }
}

/// KVM's faults come from the kernel: an ordinary user's userfaultfd does not see them.
fn faults() -> Outcome {
    if rustix::process::geteuid().is_root() {
        return Outcome::Passed("root has all of userfaultfd".into());
    }
    if opens("/dev/userfaultfd").is_ok() {
        return Outcome::Passed("/dev/userfaultfd opens".into());
    }
    if line_of("/proc/sys/vm/unprivileged_userfaultfd").as_deref() == Some("1") {
        return Outcome::Passed("vm.unprivileged_userfaultfd is 1".into());
    }
    Outcome::Failed(
        "this user has no userfaultfd for the kernel's faults: run as root, give access to \
         /dev/userfaultfd, or set vm.unprivileged_userfaultfd=1"
            .into(),
    )
}

fn memory(guest_bytes: u64) -> Outcome {
    let (needed, free) = (2 * guest_bytes + BESIDE_GUESTS, host::available_bytes().unwrap_or(0));
    let text = format!("{} MiB free, {} needed for two VMs", free >> 20, needed >> 20);
    if free >= needed {
        Outcome::Passed(text)
    } else {
        Outcome::Failed(format!("{text}; give less by --memory"))
    }
}

/// What KVM needs, each looked at even when another is missing, where it can be.
pub(super) fn prerequisites(guest_bytes: u64, help_needed: bool, host: &mut Value) -> Vec<Check> {
    let check = |name: &str, outcome| Check::new("host", name, outcome);
    let is_x86 = cfg!(target_arch = "x86_64");
    let mut checks = vec![check(
        "x86-64",
        if is_x86 {
            Outcome::Passed(std::env::consts::ARCH.into())
        } else {
            let own = std::env::consts::ARCH;
            Outcome::Failed(format!("this host is {own}; accel=kvm is for x86-64 alone"))
        },
    )];
    if !is_x86 {
        return checks;
    }
    checks.push(check("KVM", kvm()));
    if checks.iter().all(Check::is_well) {
        checks.push(check(HELP, hardware(host, help_needed)));
    }
    checks.push(check("page faults", faults()));
    checks.push(check("memory", memory(guest_bytes)));
    checks
}

/// The one prerequisite that can be tried without.
const HELP: &str = "hardware's help";

/// Names and versions of the packages that a Linux guest is made of.
pub(super) fn packages(target: &linux::Target) -> Value {
    json!(line_of(target.out().join("version")))
}

/// Fails with the first thing that is missing; `anyway`: but for the hardware's help.
pub(super) fn require(checks: &[Check], anyway: bool) -> Result<()> {
    let missing = checks.iter().find(|check| check.has_failed() && !(anyway && check.name == HELP));
    match missing {
        Some(check) if check.name == HELP => {
            bail!("{}; --anyway tries it all the same", check.outcome.words())
        }
        Some(check) => bail!("{}", check.outcome.words()),
        None => Ok(()),
    }
}
