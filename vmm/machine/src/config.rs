//! What a VM is made of, as the command line says it.

use crate::board::{BootFiles, Limits, MIN_RAM};
use std::path::PathBuf;
use umem_fault::Placement;
use umem_memory::Backend;

/// Which accelerator runs the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AcceleratorKind {
    /// The software CPU; the guest is riscv64.
    #[default]
    Tcg,
    /// KVM; the guest has the host's architecture.
    Kvm,
}

impl AcceleratorKind {
    /// The guest's architecture, by the name of QEMU's target.
    #[must_use]
    pub const fn target(self) -> &'static str {
        match self {
            Self::Tcg => "riscv64",
            Self::Kvm => "x86_64",
        }
    }

    /// Whether this host has it.
    ///
    /// # Errors
    /// One line that says why not, and what to do.
    pub fn works(self) -> Result<(), String> {
        crate::board::works(self)
    }
}

/// What the guest sees of the host's processor (accel=kvm).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CpuConfig {
    /// Features that it is not to see, by name.
    pub without: Vec<String>,
    /// Whether KVM tells the guest of pages that are on their way, so that it can do something else.
    pub async_page_faults: bool,
}

impl Default for CpuConfig {
    fn default() -> Self {
        Self { without: Vec::new(), async_page_faults: true }
    }
}

/// Where page faults of a postcopy destination are found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultPath {
    /// The vCPU finds the page missing and fetches it by itself (accel=tcg: in its page walk).
    Vcpu,
    /// The kernel reports the fault through userfaultfd to a reader thread.
    Uffd,
}

/// How a VM comes to its first instruction.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Incoming {
    /// It boots its kernel.
    #[default]
    No,
    /// It waits for `migrate_incoming`.
    Defer,
    /// It listens on this URI.
    Uri(String),
}

/// A disk of the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DriveConfig {
    /// Name, for `info block` and errors.
    pub id: String,
    /// The raw image file.
    pub path: PathBuf,
    /// Whether the guest may only read it.
    pub read_only: bool,
}

/// Where a network device's frames go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TapSource {
    /// The tap of this name.
    Name(String),
    /// A descriptor that this process has: see [`devices::Tap::from_fd`].
    Descriptor(i32),
}

/// A network device of the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkConfig {
    /// Name, for errors.
    pub id: String,
    /// Its tap.
    pub tap: TapSource,
    /// Hardware address. A guest that arrives brings its own.
    pub mac: [u8; 6],
}

/// The guest's balloon.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BalloonConfig {
    /// The guest may take pages out when it has no others.
    pub deflate_on_oom: bool,
    /// The guest may say which pages are free.
    pub free_page_reporting: bool,
}

/// A VM. Everything that both ends of a migration must agree on is in here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmConfig {
    /// Name, for titles and errors.
    pub name: Option<String>,
    /// Accelerator.
    pub accelerator: AcceleratorKind,
    /// What the guest sees of the host's processor; not given: all that can move. Only for accelerators that
    /// have one.
    pub cpu: Option<CpuConfig>,
    /// RAM in bytes; a multiple of 4 KiB, and of the host's pages that it is made of.
    pub memory_bytes: u64,
    /// What RAM is made of; not given: anonymous memory, or a memfd where pages are to arrive by way of one.
    pub memory_backend: Option<Backend>,
    /// Touch all RAM before the guest boots, so that it has its memory or does not start. Means nothing for
    /// a guest that comes in: its pages bring their memory.
    pub prealloc: bool,
    /// Take a guest in although less memory is free here than it has RAM: it may use less, or the host swap. A
    /// destination that runs out of memory after all loses its guest.
    pub overcommit: bool,
    /// Number of vCPUs.
    pub vcpus: u32,
    /// Kernel: an ELF file, a Linux `Image` (riscv64) or `bzImage` (x86-64). Absent for an incoming migration.
    pub kernel: Option<PathBuf>,
    /// Initial RAM disk.
    pub initrd: Option<PathBuf>,
    /// Kernel command line.
    pub command_line: String,
    /// Disks, in their order (virtio-blk).
    pub drives: Vec<DriveConfig>,
    /// Whether there is a virtio-rng.
    pub rng: bool,
    /// Whether there is a virtio-console beside the UART.
    pub virtio_console: bool,
    /// Network devices, in their order (virtio-net).
    pub networks: Vec<NetworkConfig>,
    /// Its balloon (virtio-balloon).
    pub balloon: Option<BalloonConfig>,
    /// Incoming migration.
    pub incoming: Incoming,
    /// The incoming stream must be postcopy.
    pub postcopy: bool,
    /// The seed's `-postcopy-flags`, if given: arriving pages go through the page cache of a memfd, and
    /// are mapped when they are touched, or with bit 0 as they arrive. Not given: they are copied into
    /// place, which maps them at once.
    pub postcopy_flags: Option<u32>,
    /// Where page faults are found; not given: where the accelerator finds them best.
    pub fault_path: Option<FaultPath>,
    /// Do not start the vCPUs until `cont`.
    pub start_paused: bool,
}

impl VmConfig {
    /// What to boot.
    ///
    /// # Errors
    /// When there is nothing.
    pub(crate) fn boot_files(&self) -> Result<BootFiles<'_>, String> {
        let kernel = self.kernel.as_deref().ok_or_else(|| {
            "there is no kernel to boot; give one with -kernel, or -incoming".to_owned()
        })?;
        let initrd = self.initrd.as_deref();
        Ok(BootFiles { kernel, initrd, command_line: &self.command_line })
    }

    /// Where page faults are found.
    pub(crate) fn fault_path(&self) -> FaultPath {
        self.fault_path.unwrap_or(crate::board::limits(self.accelerator).fault_path)
    }

    /// Number of virtio devices.
    pub(crate) fn virtio_devices(&self) -> usize {
        let alone = [self.rng, self.virtio_console, self.balloon.is_some()];
        self.drives.len() + self.networks.len() + alone.iter().filter(|there| **there).count()
    }

    /// Largest number of vCPUs with this accelerator.
    #[must_use]
    pub const fn most_vcpus(accelerator: AcceleratorKind) -> u32 {
        crate::board::limits(accelerator).most_vcpus
    }

    /// What RAM is made of.
    pub(crate) fn backend(&self) -> Backend {
        let otherwise =
            if self.postcopy_flags.is_some() { Backend::Memfd } else { Backend::Anonymous };
        self.memory_backend.clone().unwrap_or(otherwise)
    }

    /// Whether RAM of this backend can be what the other options ask for.
    fn check_backend(&self) -> Result<(), String> {
        let backend = self.backend();
        if self.postcopy_flags.is_some() && backend == Backend::Anonymous {
            return Err("-postcopy-flags needs shared memory: use memory-backend-memfd, or \
                        memory-backend-ram with share=on"
                .to_owned());
        }
        let Backend::File(path) = &backend else { return Ok(()) };
        let path = path.display();
        let (kind, _) = backend.kind().map_err(|error| format!("memory in {path}: {error}"))?;
        if self.postcopy && !kind.can_be_watched() {
            return Err(format!(
                "{path} is on a disk: memory there cannot receive pages while its guest runs \
                 (-postcopy); use memory-backend-ram or memory-backend-memfd, or a file on tmpfs or \
                 hugetlbfs"
            ));
        }
        Ok(())
    }

    /// How arriving pages are put in place.
    pub(crate) fn placement(&self) -> Placement {
        match self.postcopy_flags {
            None => Placement::Copy,
            Some(flags) => Placement::PageCache { map_on_arrival: flags & 1 != 0 },
        }
    }

    /// Whether this version can build such a machine on this host.
    ///
    /// # Errors
    /// What it cannot, with the numbers and what to use instead.
    pub fn check(&self) -> Result<(), String> {
        self.check_options()?;
        self.check_backend()
    }

    /// Whether the options go together, whatever the host.
    ///
    /// # Errors
    /// What does not, with the numbers and what to use instead.
    pub fn check_options(&self) -> Result<(), String> {
        let Limits { most_ram, most_vcpus, has_cpu_options, .. } =
            *crate::board::limits(self.accelerator);
        let mib = |bytes: u64| bytes >> 20;
        if self.vcpus == 0 || self.vcpus > most_vcpus {
            return Err(format!("{} vCPUs (-smp): the board has 1 to {most_vcpus}", self.vcpus));
        }
        if !(MIN_RAM..=most_ram).contains(&self.memory_bytes) {
            return Err(format!(
                "{} bytes of memory (-m): the board has {} MiB to {} MiB",
                self.memory_bytes,
                mib(MIN_RAM),
                mib(most_ram)
            ));
        }
        if self.cpu.is_some() && !has_cpu_options {
            return Err(
                "-cpu goes only with accel=kvm: the software CPU is always the same".to_owned()
            );
        }
        if self.postcopy && self.incoming == Incoming::No {
            return Err("-postcopy needs -incoming: it says what may come in".to_owned());
        }
        Ok(())
    }
}

impl Default for VmConfig {
    fn default() -> Self {
        Self {
            name: None,
            accelerator: AcceleratorKind::default(),
            cpu: None,
            memory_bytes: 128 << 20,
            memory_backend: None,
            prealloc: false,
            overcommit: false,
            vcpus: 1,
            kernel: None,
            initrd: None,
            command_line: String::new(),
            drives: Vec::new(),
            rng: false,
            virtio_console: false,
            networks: Vec::new(),
            balloon: None,
            incoming: Incoming::default(),
            postcopy: false,
            postcopy_flags: None,
            fault_path: None,
            start_paused: false,
        }
    }
}
