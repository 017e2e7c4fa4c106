//! The guests under QEMU, as a machine that is not ours: they start, write, check themselves, find damage
//! and end. The emulator and the Linux guest come from `cargo xtask test`, by `UMEM_QEMU_SYSTEM` and
//! `UMEM_LINUX`; where one is missing the test says so in `UMEM_SKIP_LOG`.

#![allow(clippy::unwrap_used)] // helpers of tests stand outside of test functions

use std::{
    collections::HashMap,
    fs::OpenOptions,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc::{self, Receiver},
    thread,
    time::Duration,
};

/// Longer than any step takes on a busy machine; a hang must end.
const PATIENCE: Duration = Duration::from_secs(120);

struct Guest {
    child: Child,
    input: ChildStdin,
    lines: Receiver<String>,
}

impl Guest {
    fn start(emulator: &Path, arguments: &[&str]) -> Self {
        let mut child = Command::new(emulator)
            .args(["-machine", "virt", "-nographic", "-no-reboot"])
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = child.stdout.take().unwrap();
        let (to, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
                let text = String::from_utf8_lossy(&line).trim_end().to_owned();
                if to.send(text).is_err() {
                    break;
                }
            }
        });
        Self { input: child.stdin.take().unwrap(), child, lines }
    }

    fn say(&mut self, byte: u8) {
        self.input.write_all(&[byte]).unwrap();
    }

    /// The next line that starts so.
    fn wait(&self, start: &str) -> String {
        loop {
            let line = self.lines.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("no {start:?}"));
            if line.starts_with(start) {
                return line;
            }
        }
    }

    fn beats(&self, count: usize) -> Vec<(u64, u64)> {
        let beat = |line: String| {
            let mut numbers = line.split(' ').skip(1).map(|number| number.parse().unwrap());
            (numbers.next().unwrap(), numbers.next().unwrap())
        };
        (0..count).map(|_| beat(self.wait("h "))).collect()
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn fields(line: &str) -> HashMap<&str, &str> {
    line.split(' ').filter_map(|word| word.split_once('=')).collect()
}

fn works_through_the_protocol(mut guest: Guest) {
    let first = guest.wait("umem-guest 1 ");
    let (first, pages) = (fields(&first), fields(&first)["memory_pages"]);
    assert_eq!(first["seed"], "18446744073709551557");
    let filled: u64 = first["filled_pages"].parse().unwrap();
    assert!(filled > 4096 && filled < pages.parse().unwrap());
    guest.wait("ready fill_us=");
    let beats = guest.beats(20);
    assert!(beats.windows(2).all(|two| two[0].0 < two[1].0 && two[0].1 <= two[1].1), "{beats:?}");

    guest.say(b'v');
    let line = guest.wait("verdict ");
    assert!(line.starts_with("verdict ok "), "{line}");
    let verdict = fields(&line);
    assert_eq!((verdict["checked_pages"], verdict["bad_pages"]), (pages, "0"));
    assert!(verdict["writes"].parse::<u64>().unwrap() >= beats[19].1 && beats[19].1 > 0);

    guest.say(b'm');
    guest.wait("mark ");
    guest.say(b'd');
    guest.beats(5);
    guest.say(b'v');
    let line = guest.wait("verdict ");
    assert!(line.starts_with("verdict bad "), "{line}");
    assert_eq!(fields(&line)["bad_pages"], "1");
    assert!(fields(&line)["first_bad"].parse::<u64>().unwrap() < filled);

    guest.say(b'q');
    guest.wait("bye");
    assert!(guest.child.wait().unwrap().success(), "power-off ends the emulator well");
}

/// A path from the environment, or a note that the test did not run.
fn given(variable: &str, test: &str) -> Option<PathBuf> {
    let found = std::env::var_os(variable).map(PathBuf::from);
    if found.is_none() {
        let line = format!("{test}: {variable} is not set; run it by: cargo xtask test");
        eprintln!("skipped: {line}");
        if let Some(log) = std::env::var_os("UMEM_SKIP_LOG") {
            let mut log = OpenOptions::new().append(true).create(true).open(log).unwrap();
            writeln!(log, "{line}").unwrap();
        }
    }
    found
}

#[test]
fn the_test_guest_checks_itself_and_finds_damage() {
    let Some(emulator) = given("UMEM_QEMU_SYSTEM", "the test guest under QEMU") else { return };
    let image =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../guest/test-guest/image/umem-test-guest.elf");
    works_through_the_protocol(Guest::start(
        &emulator,
        &[
            "-m",
            "64M",
            "-kernel",
            image.to_str().unwrap(),
            "-append",
            "seed=18446744073709551557 rate=3000",
        ],
    ));
}

#[test]
fn the_linux_workload_checks_itself_and_finds_damage() {
    let name = "the Linux guest under QEMU";
    let Some(emulator) = given("UMEM_QEMU_SYSTEM", name) else { return };
    let Some(linux) = given("UMEM_LINUX", name) else { return };
    works_through_the_protocol(Guest::start(
        &emulator,
        &[
            "-m",
            "256M",
            "-kernel",
            linux.join("Image").to_str().unwrap(),
            "-initrd",
            linux.join("initramfs.cpio").to_str().unwrap(),
            "-append",
            "console=ttyS0 quiet umem.mode=workload umem.seed=18446744073709551557 umem.fill_mib=32",
        ],
    ));
}
