//! QEMU with the x86-64 test guest: a machine that is not ours, to see that the guest is right.

use crate::lab::{Lab, until};
use crate::monitor::Qmp;
use crate::program::test_guest_x86;
use crate::serial::Serial;
use crate::vm::Half;
use serde_json::{Value, json};
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What runs the guest's instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accelerator {
    /// The host's processor.
    Kvm,
    /// QEMU itself.
    Tcg,
}

/// Whether this user may use the host's KVM.
#[must_use]
pub fn kvm_works() -> bool {
    File::options().read(true).write(true).open("/dev/kvm").is_ok()
}

/// As [`kvm_works`]; where it does not, a note for the end of the run.
#[must_use]
pub fn kvm_or_skip(test: &str) -> bool {
    let works = kvm_works();
    if !works {
        crate::skipped(&format!("{test}: no /dev/kvm that this user may open"));
    }
    works
}

impl Accelerator {
    /// KVM, or, with a note for the end of the run, QEMU itself.
    #[must_use]
    pub fn find(test: &str) -> Self {
        if kvm_works() {
            return Self::Kvm;
        }
        crate::skipped(&format!("{test}: under KVM: no /dev/kvm that this user may open"));
        Self::Tcg
    }

    /// Speculation's mitigations are for the host to know, and a KVM in a virtual machine lacks the register.
    const fn options(self) -> [&'static str; 4] {
        match self {
            Self::Kvm => ["-accel", "kvm", "-cpu", "host,-arch-capabilities"],
            Self::Tcg => ["-accel", "tcg", "-cpu", "max"],
        }
    }
}

/// A QEMU that runs; it ends with this.
pub struct Qemu {
    process: Half,
    /// The guest's serial port.
    pub serial: Serial,
    /// Its monitor.
    pub qmp: Qmp,
    /// Its RAM, by a descriptor of its own.
    memory: File,
}

impl Qemu {
    /// Starts `program` with the test guest and its RAM where the test can write to it.
    ///
    /// # Panics
    /// When it does not come up.
    #[must_use]
    pub fn start(
        lab: &Lab,
        program: &Path,
        name: &str,
        accelerator: Accelerator,
        options: &str,
    ) -> Self {
        Self::start_with(lab, program, name, accelerator, options, "")
    }

    /// As [`Self::start`], with more boot arguments.
    ///
    /// # Panics
    /// When it does not come up.
    #[must_use]
    pub fn start_with(
        lab: &Lab,
        program: &Path,
        name: &str,
        accelerator: Accelerator,
        options: &str,
        arguments: &str,
    ) -> Self {
        let place = |kind: &str| lab.path(&format!("{name}.{kind}"));
        let (serial, qmp) = (place("serial"), place("qmp"));
        let words: Vec<&str> = options.split_whitespace().collect();
        let size = words.iter().skip_while(|word| **word != "-m").nth(1).expect("RAM's size: -m");
        let backend = format!("memory-backend-memfd,id=ram,size={size}");
        let child = Command::new(program)
            .args(accelerator.options())
            .args(["-display", "none", "-nodefaults", "-no-user-config", "-no-reboot"])
            .args(&words)
            .args(["-object", &backend, "-machine", "memory-backend=ram"])
            .arg("-kernel")
            .arg(test_guest_x86())
            .args(["-serial", &format!("unix:{},server=on", serial.display())])
            .args(["-qmp", &format!("unix:{},server=on,wait=off", qmp.display())])
            // The firmware of QEMU's machines leaves things in memory that is free.
            .args(["-append", &format!("wipe=1 rate=2000 fill=70 beat_us=2000 seed=7 {arguments}")])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("QEMU starts");
        let descriptors = PathBuf::from(format!("/proc/{}/fd", child.id()));
        let mut process = Half::new(child, name, lab.log());
        let serial = process.serial(&serial);
        let qmp = process.qmp(&qmp);
        let memory = memory_of(&descriptors);
        Self { process, serial, qmp, memory }
    }

    /// Has the guest check its memory and its processors; its words.
    #[must_use]
    pub fn verdict(&self) -> String {
        let from = self.serial.lines();
        self.serial.send(b"v");
        self.serial.wait_line(from, "verdict ").text
    }

    /// Alters one byte of the guest's RAM behind its back.
    ///
    /// # Panics
    /// When there is no RAM.
    pub fn alter(&self, at: u64) {
        let mut byte = [0];
        self.memory.read_exact_at(&mut byte, at).expect("RAM reaches so far");
        self.memory.write_all_at(&[byte[0] ^ 1], at).expect("RAM reaches so far");
    }

    /// Moves the guest to a QEMU that waits for it.
    ///
    /// # Panics
    /// When the migration fails.
    pub fn move_to(&mut self, there: &mut Self, lab: &Lab, postcopy: bool) {
        let uri = format!("unix:{}", lab.path("migration").display());
        let capability = json!({ "capability": "postcopy-ram", "state": postcopy });
        for end in [&mut *self, &mut *there] {
            let capabilities = json!({ "capabilities": [capability] });
            end.run("migrate-set-capabilities", capabilities);
        }
        there.run("migrate-incoming", json!({ "uri": uri }));
        self.run("migrate", json!({ "uri": uri }));
        if postcopy {
            until("the guest to be on its way", || (self.phase() == "active").then_some(()));
            self.run("migrate-start-postcopy", json!({}));
        }
        until("the migration to end", || {
            let phase = self.phase();
            assert!(phase != "failed" && phase != "cancelled", "{phase}");
            (phase == "completed").then_some(())
        });
        until("the guest to run there", || {
            (there.run("query-status", json!({}))["status"] == "running").then_some(())
        });
    }

    /// The phase of its migration.
    fn phase(&mut self) -> String {
        let answer = self.run("query-migrate", json!({}));
        answer["status"].as_str().unwrap_or_default().to_owned()
    }

    fn run(&mut self, command: &str, arguments: Value) -> Value {
        self.qmp
            .command(command, arguments)
            .unwrap_or_else(|error| panic!("QEMU's {command}: {error}"))
    }

    /// Has the guest turn the machine off, and waits for it.
    ///
    /// # Panics
    /// When QEMU does not end well.
    pub fn power_off(mut self) {
        self.serial.send(b"q");
        assert!(self.process.ended().success());
    }
}

/// The memfd among a process's descriptors.
fn memory_of(descriptors: &Path) -> File {
    let listed = std::fs::read_dir(descriptors).expect("the process lives");
    let is_memfd = |path: &PathBuf| {
        std::fs::read_link(path).is_ok_and(|to| to.to_string_lossy().starts_with("/memfd:"))
    };
    let mut found = listed.flatten().map(|entry| entry.path()).filter(is_memfd);
    let path = found.next().expect("RAM is a memfd");
    File::options().read(true).write(true).open(path).expect("the process is ours")
}
