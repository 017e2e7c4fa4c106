//! VMs as processes.

use crate::lab::{Log, until};
use crate::monitor::{Qmp, Text};
use crate::program::{linux, program, test_guest, test_guest_x86};
use crate::serial::Serial;
use rustix::process::{Pid, Signal};
use serde_json::Value;
use std::ffi::{OsStr, OsString};
use std::io::{BufRead as _, BufReader};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

/// A VM to be started.
pub struct Builder {
    folder: PathBuf,
    log: Log,
    name: String,
    arguments: Vec<OsString>,
    descriptor_0: Stdio,
    ordinary_user: bool,
    namespace: Option<String>,
    small_disk: Option<PathBuf>,
    kernel_faults: bool,
}

impl Builder {
    pub(crate) fn new(folder: &Path, log: Log, name: &str, options: &str) -> Self {
        let words = ["vm", "-name", name].into_iter().chain(options.split_whitespace());
        Self {
            folder: folder.to_owned(),
            log,
            name: name.to_owned(),
            arguments: words.map(OsString::from).collect(),
            descriptor_0: Stdio::null(),
            ordinary_user: false,
            namespace: None,
            small_disk: None,
            kernel_faults: true,
        }
    }

    /// One more option, of one word or more, as they are.
    #[must_use]
    pub fn option<S: AsRef<OsStr>>(mut self, words: impl IntoIterator<Item = S>) -> Self {
        self.arguments.extend(words.into_iter().map(|word| word.as_ref().to_owned()));
        self
    }

    /// Boots the bare-metal guest, with these boot arguments.
    #[must_use]
    pub fn bare(self, arguments: &str) -> Self {
        let kernel = test_guest();
        self.option(["-kernel".as_ref(), kernel.as_os_str()]).option(["-append", arguments])
    }

    /// Boots the bare-metal guest for x86-64, which needs `-accel kvm`.
    #[must_use]
    pub fn bare_x86(self, arguments: &str) -> Self {
        let kernel = test_guest_x86();
        self.option(["-kernel".as_ref(), kernel.as_os_str()]).option(["-append", arguments])
    }

    /// Boots Linux, with these arguments behind `console=ttyS0`.
    #[must_use]
    pub fn linux(self, arguments: &str) -> Self {
        let (kernel, initrd) = (linux("Image"), linux("initramfs.cpio"));
        self.option(["-kernel".as_ref(), kernel.as_os_str()])
            .option(["-initrd".as_ref(), initrd.as_os_str()])
            .option(["-append".to_owned(), format!("console=ttyS0 {arguments}")])
    }

    /// What the process has as descriptor 0.
    #[must_use]
    pub fn descriptor_0(mut self, socket: UnixStream) -> Self {
        self.descriptor_0 = Stdio::from(OwnedFd::from(socket));
        self
    }

    /// Runs as a user without privileges, also when the test does not.
    #[must_use]
    pub fn ordinary_user(mut self) -> Self {
        self.ordinary_user = true;
        self
    }

    /// Runs in a network namespace.
    #[must_use]
    pub fn namespace(mut self, name: &str) -> Self {
        self.namespace = Some(name.to_owned());
        self
    }

    /// Sees a disk of 8 MiB in this folder, which nobody else sees. Needs [`may_mount`].
    #[must_use]
    pub fn small_disk(mut self, folder: &Path) -> Self {
        self.small_disk = Some(folder.to_owned());
        self
    }

    /// May have a userfaultfd for user mode only. Needs [`may_mount`].
    #[must_use]
    pub fn without_kernel_faults(mut self) -> Self {
        self.kernel_faults = false;
        self
    }

    /// The process, still to be given its sockets.
    fn command(&mut self) -> Command {
        if let Some(namespace) = &self.namespace {
            // It becomes the program: the process is the same.
            let mut command = Command::new("ip");
            command.args(["netns", "exec", namespace]).arg(program()).args(&self.arguments);
            return command;
        }
        if !self.kernel_faults {
            let mut command = Command::new("unshare");
            let script = "mount --bind /dev/null /dev/userfaultfd && exec setpriv \
                          --bounding-set=-sys_ptrace --inh-caps=-sys_ptrace \"$0\" \"$@\"";
            command.args(["-m", "sh", "-c", script]).arg(program()).args(&self.arguments);
            return command;
        }
        if let Some(folder) = &self.small_disk {
            let mut command = Command::new("unshare");
            let script = "mount -t tmpfs -o size=8m none \"$0\" && exec \"$@\"";
            command.args(["-m", "sh", "-c", script]).arg(folder).arg(program());
            command.args(&self.arguments);
            return command;
        }
        let root = rustix::process::geteuid().is_root();
        if !(self.ordinary_user && root) {
            let mut command = Command::new(program());
            command.args(&self.arguments);
            return command;
        }
        // What only this user may reach is copied to where others may.
        for argument in &mut self.arguments {
            let path = Path::new(argument);
            if path.is_absolute() && path.is_file() && !path.starts_with(&self.folder) {
                *argument = open_copy(path, &self.folder).into();
            }
        }
        let mut command = Command::new(open_copy(program(), &self.folder));
        command.args(&self.arguments).current_dir(&self.folder).uid(NOBODY).gid(NOBODY);
        command
    }

    /// Starts it with serial port and both monitors.
    ///
    /// # Panics
    /// When it does not come up.
    #[must_use]
    pub fn start(mut self) -> Vm {
        let mut command = self.command();
        let place = |kind: &str| self.folder.join(format!("{}.{kind}", self.name));
        let (serial, text, qmp) = (place("serial"), place("monitor"), place("qmp"));
        for (option, path) in [("-serial", &serial), ("-monitor", &text), ("-qmp", &qmp)] {
            // The name of a VM that has ended may be used again.
            let _ = std::fs::remove_file(path);
            command.arg(option).arg(format!("unix:{},server", path.display()));
        }
        command.stdin(self.descriptor_0).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = command.spawn().expect("umem starts");
        // Closes this process's copies of descriptors that the child was given.
        drop(command);
        let mut vm = Half::new(child, &self.name, self.log);
        let serial = vm.serial(&serial);
        let text = Text::new(vm.connect(&text), &vm.name, vm.log.clone());
        let qmp = vm.qmp(&qmp);
        let child = vm.child.take().expect("not taken yet");
        let (name, log, words) = (vm.name.clone(), vm.log.clone(), vm.words.clone());
        Vm { name, child, serial, text, qmp, log, words }
    }
}

/// Whether [`Builder::small_disk`] works for this user.
#[must_use]
pub fn may_mount() -> bool {
    let script = "mount -t tmpfs none /tmp";
    let output = Command::new("unshare").args(["-m", "sh", "-c", script]).output();
    output.is_ok_and(|output| output.status.success())
}

/// A user without privileges on every system.
const NOBODY: u32 = 65534;

/// A copy in `folder` that everybody may read and run; made once.
fn open_copy(path: &Path, folder: &Path) -> PathBuf {
    let copy = folder.join(path.file_name().expect("a file's name"));
    if !copy.exists() {
        // Another process writes it: a child that a test beside this one starts meanwhile would inherit the
        // descriptor, and nothing runs a program that is open for writing.
        let status = Command::new("install").arg("-m755").arg(path).arg(&copy).status();
        assert!(status.is_ok_and(|status| status.success()), "room for {}", copy.display());
    }
    copy
}

/// A process whose sockets are not all there yet; ends with this.
pub(crate) struct Half {
    child: Option<Child>,
    name: String,
    log: Log,
    words: Arc<Mutex<String>>,
}

impl Half {
    pub(crate) fn new(child: Child, name: &str, log: Log) -> Self {
        let mut half =
            Self { child: Some(child), name: name.to_owned(), log, words: Arc::default() };
        half.listen();
        half
    }

    pub(crate) fn serial(&mut self, path: &Path) -> Serial {
        Serial::new(self.connect(path), &self.name, self.log.clone())
    }

    pub(crate) fn qmp(&mut self, path: &Path) -> Qmp {
        Qmp::new(self.connect(path), &self.name)
    }

    /// Waits for the process to end.
    pub(crate) fn ended(&mut self) -> ExitStatus {
        let child = self.child.as_mut().expect("nobody has taken it");
        until(format!("{} to end", self.name), || child.try_wait().expect("a child of ours"))
    }

    /// Writes down what the process prints.
    fn listen(&mut self) {
        let Some(child) = &mut self.child else { return };
        let outputs: [Option<Box<dyn std::io::Read + Send>>; 2] = [
            child.stdout.take().map(|output| Box::new(output) as _),
            child.stderr.take().map(|output| Box::new(output) as _),
        ];
        for output in outputs.into_iter().flatten() {
            let (name, log, words) = (self.name.clone(), self.log.clone(), self.words.clone());
            std::thread::spawn(move || {
                for line in BufReader::new(output).lines().map_while(Result::ok) {
                    log.add(&name, format!("> {line}"));
                    let mut words = words.lock().unwrap_or_else(PoisonError::into_inner);
                    words.push_str(&line);
                    words.push('\n');
                }
            });
        }
    }

    fn connect(&mut self, path: &Path) -> UnixStream {
        until(path.display(), || {
            if let Some(Ok(Some(status))) = self.child.as_mut().map(Child::try_wait) {
                let words = self.words.lock().unwrap_or_else(PoisonError::into_inner);
                panic!("{} ended at its start, {status}: {words}", self.name);
            }
            UnixStream::connect(path).ok()
        })
    }
}

impl Drop for Half {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A VM that runs; it ends with this.
pub struct Vm {
    /// Its name.
    pub name: String,
    child: Child,
    /// Its serial port.
    pub serial: Serial,
    /// Its text monitor.
    pub text: Text,
    /// Its JSON monitor.
    pub qmp: Qmp,
    log: Log,
    words: Arc<Mutex<String>>,
}

impl Vm {
    /// What `info migrate` says, as JSON with all details.
    ///
    /// # Panics
    /// When the monitor does not answer, or there was no migration.
    pub fn migration(&mut self) -> Value {
        let answer = self.qmp.command("query-migrate", serde_json::json!({})).expect("an answer");
        answer["x-umem"].clone()
    }

    /// The migration's phase; empty when there was none.
    pub fn phase(&mut self) -> String {
        self.migration()["phase"].as_str().unwrap_or_default().to_owned()
    }

    /// The run state as `info status` says it.
    ///
    /// # Panics
    /// When the monitor does not answer.
    pub fn status(&mut self) -> String {
        let answer = self.qmp.command("query-status", serde_json::json!({})).expect("an answer");
        answer["status"].as_str().unwrap_or_default().to_owned()
    }

    /// Where it listens for a guest, with the port that the system chose.
    pub fn address(&mut self) -> String {
        until("listening", || {
            let status = self.migration();
            (status["phase"] == "listening").then(|| status["peer"].as_str().map(str::to_owned))?
        })
    }

    /// Waits until the migration is in one of these phases; its state then.
    ///
    /// # Panics
    /// When that does not come, or another phase that is an end comes.
    pub fn wait_phase(&mut self, phases: &[&str]) -> Value {
        let mut last = Value::Null;
        let end = std::time::Instant::now() + crate::PATIENCE;
        while std::time::Instant::now() < end {
            last = self.migration();
            let phase = last["phase"].as_str().unwrap_or_default();
            if phases.contains(&phase) {
                self.log.add(&self.name, &last);
                return last;
            }
            let over = matches!(phase, "completed" | "failed" | "cancelled");
            assert!(!over, "{}: not {phases:?} but {last:#}", self.name);
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        panic!("{}: in vain for {phases:?}: {last:#}", self.name);
    }

    /// Has the guest check all its memory; the verdict's line.
    pub fn verdict(&self) -> String {
        let from = self.serial.lines();
        self.serial.send(b"v");
        self.serial.wait_line(from, "verdict ").text
    }

    /// Has the guest check all its memory.
    ///
    /// # Panics
    /// When it finds a page that is not as it should be.
    pub fn verify(&self) {
        let line = self.verdict();
        assert!(line.starts_with("verdict ok "), "{}: {line}", self.name);
        assert_ne!(field(&line, "checked_pages"), Some(0), "{line}");
    }

    /// Ends the process like a crash does.
    pub fn kill(&mut self) {
        self.log.add(&self.name, "(kill -9)");
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Sends the process a signal.
    ///
    /// # Panics
    /// When the process has ended.
    pub fn signal(&self, signal: Signal) {
        self.log.add(&self.name, format!("({signal:?})"));
        let pid = Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).expect("the process is there");
    }

    /// Waits for the end of the process.
    pub fn wait_end(&mut self) -> ExitStatus {
        let name = self.name.clone();
        until(format!("the end of {name}"), || self.child.try_wait().expect("our child"))
    }

    /// The user that the process runs as.
    #[must_use]
    pub fn user(&self) -> Option<u32> {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix("Uid:"))?;
        line.split_whitespace().nth(1)?.parse().ok()
    }

    /// Whether the process is still there.
    pub fn is_alive(&mut self) -> bool {
        self.child.try_wait().expect("our child").is_none()
    }

    /// What the process printed apart from serial port and monitors.
    #[must_use]
    pub fn words(&self) -> String {
        self.words.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A part of its size in memory, as `/proc` names it (`VmRSS`, `RssShmem`), KiB.
    #[must_use]
    pub fn memory_kib(&self, part: &str) -> u64 {
        let path = format!("/proc/{}/status", self.child.id());
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix(part)?.strip_prefix(':'));
        line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0)
    }

    /// MiB that `info balloon` tells behind a word.
    pub fn balloon(&mut self, word: &str) -> Option<u64> {
        let text = self.text.command("info balloon");
        let from = text.split_once(word)?.1;
        from.split(' ').find(|word| !word.is_empty())?.parse().ok()
    }

    /// What the process holds: descriptors, threads, mappings.
    #[must_use]
    pub fn holdings(&self) -> (usize, usize, usize) {
        let count = |part: &str| {
            let path = format!("/proc/{}/{part}", self.child.id());
            std::fs::read_dir(path).map_or(0, Iterator::count)
        };
        let maps = format!("/proc/{}/maps", self.child.id());
        let mappings = std::fs::read_to_string(maps).unwrap_or_default().lines().count();
        (count("fd"), count("task"), mappings)
    }

    /// Whether it has this file open.
    #[must_use]
    pub fn has_open(&self, file: &Path) -> bool {
        let path = format!("/proc/{}/fd", self.child.id());
        let open = std::fs::read_dir(path).into_iter().flatten().flatten();
        open.filter_map(|entry| std::fs::read_link(entry.path()).ok()).any(|it| it == file)
    }

    /// Whether it maps a file with this in its name.
    #[must_use]
    pub fn maps(&self, name: &str) -> bool {
        let path = format!("/proc/{}/maps", self.child.id());
        std::fs::read_to_string(path).unwrap_or_default().contains(name)
    }
}

/// A number of a verdict's line.
#[must_use]
pub fn field(line: &str, name: &str) -> Option<u64> {
    let words = line.split(' ').filter_map(|word| word.split_once('='));
    words.into_iter().find(|(key, _)| *key == name)?.1.parse().ok()
}

impl Drop for Vm {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
