//! Everything of the machine that is not a vCPU: RAM, clock, bus and devices, built from the board's
//! table, saved and loaded as one package.

use crate::board::{Board, Window};
use crate::config::{BalloonConfig, NetworkConfig, TapSource, VmConfig};
use crate::console::ConsoleBackend;
use crate::control::{BlockStatus, NetworkStatus};
use crate::given_back::Returned;
use crate::memory::{DevicePages, GuestPages};
use crate::requests::Requests;
use crate::vm::VmError;
use accel::{MachineClock, SavedClock};
use devices::{
    Announcer, Balloon, BalloonFeatures, Bus, Busy, Disk, EmptySlot, InterruptLine, Lifecycle,
    Link, LinkCounts, MmioDevice, Tap, Uart, VirtioBalloon, VirtioBlk, VirtioConsole, VirtioDevice,
    VirtioMmio, VirtioNet, VirtioRng,
};
use serde::{Deserialize, Serialize};
use std::io::Read;
use std::sync::Arc;
use std::time::{Duration, Instant};
use umem_memory::{Backend, GuestAddress, GuestRam, PageSize, RamBlockSpec, RamLayout};
use umem_state::{Package, PackageBuilder, SaveRestore, StateError, decode_body, encode_body};

/// Tells of a disk without the driver.
pub(crate) type DiskView = Arc<dyn Fn() -> BlockStatus + Send + Sync>;
/// Tells of a network device without the driver.
pub(crate) type NetworkView = Arc<dyn Fn() -> NetworkStatus + Send + Sync>;

/// The balloon, as monitors reach it.
#[derive(Clone)]
pub(crate) struct BalloonView {
    pub(crate) balloon: Arc<Balloon>,
    pub(crate) returned: Arc<Returned>,
}

/// Name of the machine's own section in the package.
const SECTION: &str = "machine";
const SECTION_VERSION: u32 = 1;
/// Longest wait for a page that is just being put in place.
const RENEW_BOUND: Duration = Duration::from_secs(5);
/// Bytes taken from the terminal at once.
const INPUT_PIECE: usize = 64;

/// What moves beside the devices and vCPUs.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SavedMachine {
    clock: SavedClock,
    /// Whether the guest ran, and is to run where it arrives.
    runs: bool,
}

/// A device and the name of its section in the package.
struct Part {
    name: String,
    device: Arc<dyn Component>,
}

/// What the machine asks of every device, whatever its saved form.
trait Component: Lifecycle {
    fn add(&self, name: &str, package: &mut PackageBuilder) -> Result<(), StateError>;
    fn take(&self, name: &str, package: &mut Package) -> Result<(), StateError>;
}

impl<D: Lifecycle + SaveRestore> Component for D {
    fn add(&self, name: &str, package: &mut PackageBuilder) -> Result<(), StateError> {
        package.add(name, self)
    }

    fn take(&self, name: &str, package: &mut Package) -> Result<(), StateError> {
        package.take(name, self)
    }
}

struct DiskPart {
    id: String,
    path: String,
    disk: Arc<Disk>,
}

/// The board as built.
pub(crate) struct Hardware {
    pub(crate) bus: Arc<Bus>,
    /// I/O ports; a board may have none.
    pub(crate) ports: Arc<Bus>,
    pub(crate) clock: Arc<dyn MachineClock>,
    pub(crate) pages: GuestPages,
    pub(crate) serial: Arc<Uart>,
    parts: Vec<Part>,
    disks: Vec<DiskPart>,
    pub(crate) networks: Vec<NetworkView>,
    pub(crate) announcers: Vec<Announcer>,
    pub(crate) balloon: Option<BalloonView>,
    /// The clock's value while the guest stands still.
    stopped_clock: Option<SavedClock>,
}

/// Puts devices into the machine while it is built.
pub(crate) struct Builder {
    bus: Bus,
    ports: Bus,
    parts: Vec<Part>,
    pages: GuestPages,
    disks: Vec<DiskPart>,
    networks: Vec<NetworkView>,
    announcers: Vec<Announcer>,
    balloon: Option<BalloonView>,
}

impl Builder {
    /// Puts a device without state on the bus.
    ///
    /// # Errors
    /// When something is there already.
    pub(crate) fn map(
        &mut self,
        name: &str,
        window: Window,
        device: Arc<dyn MmioDevice>,
    ) -> Result<(), VmError> {
        place(&mut self.bus, name, window, device)
    }

    /// Puts a device on the bus; its state moves under this name.
    ///
    /// # Errors
    /// When something is there already.
    pub(crate) fn part<D: Lifecycle + SaveRestore + MmioDevice + 'static>(
        &mut self,
        name: &str,
        window: Window,
        device: Arc<D>,
    ) -> Result<(), VmError> {
        self.map(name, window, device.clone())?;
        self.state(name, device);
        Ok(())
    }

    /// Puts a device behind I/O ports.
    ///
    /// # Errors
    /// When something is there already.
    pub(crate) fn map_ports(
        &mut self,
        name: &str,
        window: Window,
        device: Arc<dyn MmioDevice>,
    ) -> Result<(), VmError> {
        place(&mut self.ports, name, window, device)
    }

    /// Has state move under this name.
    pub(crate) fn state<D: Lifecycle + SaveRestore + 'static>(
        &mut self,
        name: &str,
        device: Arc<D>,
    ) {
        self.parts.push(Part { name: name.to_owned(), device });
    }

    fn virtio<D: VirtioDevice>(&mut self, slot: Slot, name: &str, device: D) -> Result<(), VmError>
    where
        VirtioMmio<D>: Lifecycle + SaveRestore + MmioDevice,
    {
        let (window, line) = slot;
        let present = Arc::new(DevicePages::new(self.pages.clone()));
        let ram = self.pages.ram().memory().clone();
        let device = VirtioMmio::new(name, device, ram, line, present).map_err(VmError::Thread)?;
        self.part(name, window, device)
    }
}

/// Where a virtio-mmio device lies, and its interrupt line.
type Slot = (Window, Arc<dyn InterruptLine>);

fn place(
    bus: &mut Bus,
    name: &str,
    window: Window,
    device: Arc<dyn MmioDevice>,
) -> Result<(), VmError> {
    let base = GuestAddress(window.base);
    bus.map(name, base, window.bytes, device).map_err(|error| VmError::Config(error.to_string()))
}

impl Hardware {
    /// Builds the machine around a board and its RAM.
    pub(crate) fn build(
        config: &VmConfig,
        console: ConsoleBackend,
        board: &dyn Board,
        pages: GuestPages,
        requests: Requests,
    ) -> Result<Self, VmError> {
        let mut builder = Builder {
            bus: Bus::new(),
            ports: Bus::of_ports(),
            parts: Vec::new(),
            pages,
            disks: Vec::new(),
            networks: Vec::new(),
            announcers: Vec::new(),
            balloon: None,
        };
        // The virtio console takes the serial port's place at the terminal.
        let (console, virtio_console) = if config.virtio_console {
            (ConsoleBackend::null(), Some(console))
        } else {
            (console, None)
        };
        let serial = board.build(&mut builder, console.output, requests)?;
        if let Some(input) = console.input {
            feed(&serial, input).map_err(VmError::Thread)?;
        }
        Self::build_virtio(config, virtio_console, board, &mut builder)?;
        let Builder { bus, ports, parts, pages, disks, networks, announcers, balloon } = builder;
        Ok(Self {
            bus: Arc::new(bus),
            ports: Arc::new(ports),
            clock: board.clock(),
            pages,
            serial,
            parts,
            disks,
            networks,
            announcers,
            balloon,
            stopped_clock: None,
        })
    }

    /// Fills the virtio slots: disks in their order, then the rest, then empty ones.
    fn build_virtio(
        config: &VmConfig,
        console: Option<ConsoleBackend>,
        board: &dyn Board,
        builder: &mut Builder,
    ) -> Result<(), VmError> {
        let mut slots = 0..;
        let mut next = || {
            let number = slots.next().unwrap_or(u32::MAX);
            let none = || VmError::Config(format!("more than {number} virtio devices"));
            board.virtio(number).ok_or_else(none)
        };
        for (number, drive) in config.drives.iter().enumerate() {
            let path = drive.path.display().to_string();
            let disk = Disk::open(&drive.path, drive.read_only)
                .map_err(|source| VmError::Disk { path: path.clone(), source })?;
            let disk = Arc::new(disk);
            let device = VirtioBlk::new(disk.clone(), &drive.id);
            builder.virtio(next()?, &format!("virtio-blk{number}"), device)?;
            builder.disks.push(DiskPart { id: drive.id.clone(), path, disk });
        }
        if config.rng {
            builder.virtio(next()?, "virtio-rng", VirtioRng::new())?;
        }
        if let Some(ConsoleBackend { output, input }) = console {
            let device =
                VirtioConsole::new("virtio-console", input, output).map_err(VmError::Thread)?;
            builder.virtio(next()?, "virtio-console", device)?;
        }
        for (number, network) in config.networks.iter().enumerate() {
            let name = format!("virtio-net{number}");
            let device = VirtioNet::new(&name, open_tap(network)?, network.mac);
            let device = device.map_err(VmError::Thread)?;
            builder.networks.push(network_view(network, device.link()));
            builder.announcers.push(device.announcer());
            builder.virtio(next()?, &name, device)?;
        }
        if let Some(BalloonConfig { deflate_on_oom, free_page_reporting }) = config.balloon {
            let features = BalloonFeatures { deflate_on_oom, free_page_reporting };
            let returned = Arc::new(Returned::new(builder.pages.clone()));
            let device = VirtioBalloon::new(features, returned.clone());
            builder.balloon = Some(BalloonView { balloon: device.balloon(), returned });
            builder.virtio(next()?, "virtio-balloon", device)?;
        }
        while let Ok((window, _)) = next() {
            builder.map("virtio-empty", window, Arc::new(EmptySlot))?;
        }
        Ok(())
    }

    /// The devices that the guest sees, for comparison between the two ends of a migration.
    pub(crate) fn device_names(&self) -> Vec<String> {
        let sectors = |name: &str| {
            let disks = (0..).zip(&self.disks);
            let mut named = disks.map(|(number, disk)| (format!("virtio-blk{number}"), disk));
            named.find(|(blk, _)| blk == name).map(|(_, disk)| disk.disk.sectors())
        };
        let describe = |part: &Part| match sectors(&part.name) {
            Some(sectors) => format!("{} of {sectors} sectors", part.name),
            None => part.name.clone(),
        };
        self.parts.iter().map(describe).collect()
    }

    /// Ways to see each disk's state without the driver.
    pub(crate) fn disk_views(&self) -> Vec<DiskView> {
        let view = |part: &DiskPart| {
            let (id, path, disk) = (part.id.clone(), part.path.clone(), part.disk.clone());
            Arc::new(move || BlockStatus {
                device: id.clone(),
                file: path.clone(),
                size: disk.sectors() * 512,
                read_only: disk.is_read_only(),
                locked: disk.is_locked(),
            }) as DiskView
        };
        self.disks.iter().map(view).collect()
    }

    /// Takes the disks' locks, all or none.
    pub(crate) fn lock_disks(&self) -> Result<(), VmError> {
        for part in &self.disks {
            if let Err(source) = part.disk.lock() {
                // The first failure is the one to tell of.
                let _ = self.unlock_disks();
                return Err(VmError::Disk { path: part.path.clone(), source });
            }
        }
        Ok(())
    }

    /// Gives the disks up to whoever runs the guest next.
    ///
    /// # Errors
    /// When what the guest wrote may not be on a disk. All are given up all the same.
    pub(crate) fn unlock_disks(&self) -> Result<(), VmError> {
        let mut result = Ok(());
        for part in self.disks.iter().filter(|part| part.disk.is_locked()) {
            let unlocked = part.disk.unlock();
            result = result
                .and(unlocked.map_err(|source| VmError::Disk { path: part.path.clone(), source }));
        }
        result
    }

    /// Brings all devices to rest.
    pub(crate) fn quiesce(&self, deadline: Instant) -> Result<(), Busy> {
        let mut result = Ok(());
        for part in &self.parts {
            // All are told, even when one is late.
            let rested = part.device.quiesce(deadline);
            result = result.and(rested);
        }
        result
    }

    /// Writes out what the guest has printed, at most until the deadline; then the serial port is at
    /// rest. Only for a guest that does not go elsewhere: what has moved is printed there.
    pub(crate) fn finish_output(&self, deadline: Instant) {
        self.serial.resume();
        while !self.serial.save().output.is_empty() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(1));
        }
        self.serial.finish(deadline);
    }

    /// Stops the guest's clock; whether it went until now.
    pub(crate) fn stop_clock(&mut self) -> bool {
        let went = self.stopped_clock.is_none();
        self.stopped_clock.get_or_insert_with(|| self.clock.save());
        went
    }

    /// The clock's value while it stands still.
    #[cfg(test)]
    pub(crate) fn stopped_ticks(&self) -> Option<u64> {
        self.stopped_clock.map(|clock| clock.ticks)
    }

    /// The clock goes on, first by `pause`; whether it stood still.
    ///
    /// # Errors
    /// When it cannot; it stands still then.
    pub(crate) fn start_clock(&mut self, pause: Duration) -> Result<bool, accel::ClockError> {
        let Some(saved) = self.stopped_clock else { return Ok(false) };
        self.clock.restore(saved, pause)?;
        self.stopped_clock = None;
        Ok(true)
    }

    /// Devices go on.
    pub(crate) fn resume(&self) {
        self.parts.iter().for_each(|part| part.device.resume());
    }

    /// All state of the board but RAM. It stands still.
    pub(crate) fn save(&self, package: &mut PackageBuilder, runs: bool) -> Result<(), StateError> {
        let clock = self.stopped_clock.unwrap_or_else(|| self.clock.save());
        package.add_body(
            SECTION,
            SECTION_VERSION,
            encode_body(SECTION, &SavedMachine { clock, runs })?,
        );
        self.parts.iter().try_for_each(|part| part.device.add(&part.name, package))
    }

    /// Takes all that over; whether the guest is to run.
    pub(crate) fn load(&mut self, package: &mut Package) -> Result<bool, StateError> {
        let section = package.take_section(SECTION, SECTION_VERSION)?;
        let SavedMachine { clock, runs } = decode_body(SECTION, &section.body)?;
        for part in &self.parts {
            part.device.take(&part.name, package)?;
        }
        self.stopped_clock = Some(clock);
        Ok(runs)
    }

    /// As [`Self::clear_ram`], for memory that no more pages come to; lost pages are whole again.
    pub(crate) fn renew_ram(&self) -> Result<(), VmError> {
        if let Some(plane) = self.pages.plane() {
            // A page that is being put in place must not come into memory that is another's.
            if !plane.close_within(RENEW_BOUND) {
                return Err(VmError::Config(format!(
                    "a page is still being put into memory after {} s",
                    RENEW_BOUND.as_secs()
                )));
            }
            self.pages.disarm();
        }
        self.clear_ram()
    }

    /// Makes all RAM read as zeroes.
    pub(crate) fn clear_ram(&self) -> Result<(), VmError> {
        let ram = self.pages.ram();
        let bytes = ram.layout().total_bytes();
        ram.clear().map_err(|source| VmError::Memory { bytes, source })
    }
}

fn network_view(network: &NetworkConfig, link: Arc<Link>) -> NetworkView {
    let id = network.id.clone();
    let tap = match &network.tap {
        TapSource::Name(name) => name.clone(),
        TapSource::Descriptor(fd) => format!("descriptor {fd}"),
    };
    Arc::new(move || {
        let LinkCounts { received, sent, dropped } = link.counts();
        let mac = link.mac().map(|byte| format!("{byte:02x}")).join(":");
        let (id, tap, up) = (id.clone(), tap.clone(), link.is_up());
        NetworkStatus { id, tap, mac, up, received, sent, dropped }
    })
}

fn open_tap(network: &NetworkConfig) -> Result<Tap, VmError> {
    let tap = match &network.tap {
        TapSource::Name(name) => Tap::open(name),
        TapSource::Descriptor(fd) => Tap::from_fd(*fd),
    };
    tap.map_err(|error| VmError::Config(format!("network '{}': {error}", network.id)))
}

/// Guest RAM of these blocks.
///
/// # Errors
/// When the host does not have it.
pub(crate) fn ram(blocks: Vec<RamBlockSpec>, backend: &Backend) -> Result<GuestRam, VmError> {
    let bytes = blocks.iter().map(|block| block.bytes).sum();
    let layout = RamLayout::new(PageSize::SMALL, blocks)
        .map_err(|error| VmError::Config(error.to_string()))?;
    let failed = |source| VmError::Memory { bytes, source };
    let ram = GuestRam::new(layout, backend).map_err(failed)?;
    // A guest's memory is used all over: huge pages spare it translations.
    if let Err(error) = ram.prefer_huge_pages() {
        log::debug!("no transparent huge pages: {error}");
    }
    Ok(ram)
}

/// Brings the terminal's input to the serial port, from a thread of its own. It waits for room, for
/// ever if need be: what the user types is not lost.
fn feed(serial: &Arc<Uart>, mut input: Box<dyn Read + Send>) -> std::io::Result<()> {
    let serial = Arc::downgrade(serial);
    let body = move || {
        let mut buffer = [0; INPUT_PIECE];
        while let Ok(count) = input.read(&mut buffer) {
            if count == 0 {
                return;
            }
            let mut rest = buffer.get(..count).unwrap_or_default();
            while !rest.is_empty() {
                let Some(serial) = serial.upgrade() else { return };
                let taken = serial.receive(rest);
                rest = rest.get(taken..).unwrap_or_default();
                if taken == 0 {
                    serial.await_input_room(Instant::now() + Duration::from_secs(1));
                }
            }
        }
    };
    std::thread::Builder::new().name("uart-in".to_owned()).spawn(body)?;
    Ok(())
}
