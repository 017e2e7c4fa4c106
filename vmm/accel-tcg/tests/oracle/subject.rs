//! Our CPU as the subject of the comparison.

use crate::probe::{self, Observation, Probe};
use crate::program::{BASE, Image, TRAP_CALL};
use accel::{GuestClock, RiscvVcpu, Vcpu, VcpuHandle, VmEntry, VmExit};
use accel_tcg::{Hart, HartConfig};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};
use umem_memory::{Backend, GuestAddress, GuestRam, PageSize, RamBlockSpec, RamLayout};

/// Longer than any run takes; a run that goes on beyond it hangs.
const PATIENCE: Duration = Duration::from_secs(120);

/// How a run ended that should have ended otherwise.
pub(crate) struct Stop {
    /// Where.
    pub(crate) address: u64,
    reason: String,
}

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {:#x}", self.reason, self.address)
    }
}

fn load(memory: &[u8], bytes: u64) -> (GuestRam, Hart) {
    let spec = RamBlockSpec { name: "ram".into(), guest_address: GuestAddress(BASE), bytes };
    let layout = RamLayout::new(PageSize::SMALL, vec![spec]).unwrap();
    let ram = GuestRam::new(layout, &Backend::Anonymous).unwrap();
    ram.write_at(GuestAddress(BASE), memory).unwrap();
    let hart = Hart::new(HartConfig {
        id: 0,
        handle: VcpuHandle::new(),
        clock: Arc::new(GuestClock::new()),
        ram: ram.clone(),
        presence: None,
    });
    (ram, hart)
}

/// Runs to the first exit, and kicks the hart if there is none.
fn first_exit(hart: &mut Hart) -> VmExit {
    let handle = hart.handle();
    let (done, waiting) = std::sync::mpsc::channel::<()>();
    let watch = std::thread::spawn(move || {
        if waiting.recv_timeout(PATIENCE).is_err() {
            handle.kick();
        }
    });
    let start = Instant::now();
    let exit = hart.run(VmEntry::Run);
    // The watch may have given up already.
    let _ = done.send(());
    watch.join().unwrap();
    assert!(exit != VmExit::Kicked, "no end after {:?}:\n{}", start.elapsed(), hart.registers());
    exit
}

/// Memory after a run of programs.
pub(crate) fn run(image: &Image) -> Result<Vec<u8>, Stop> {
    let bytes = (image.bytes.len() as u64).next_multiple_of(4096);
    let (ram, mut hart) = load(&image.bytes, bytes);
    hart.boot(BASE, 0);
    let stop = |address: u64, reason: String| Err(Stop { address, reason });
    match first_exit(&mut hart) {
        VmExit::Sbi { extension: TRAP_CALL, arguments: [cause, pc, value, ..], .. } => {
            stop(pc, format!("trap {cause} with {value:#x}"))
        }
        VmExit::Sbi { .. } => {
            let mut memory = vec![0; image.bytes.len()];
            ram.read_at(GuestAddress(BASE), &mut memory).unwrap();
            Ok(memory)
        }
        other => stop(0, format!("{other:?}")),
    }
}

/// What our supervisor saw.
pub(crate) fn probe(probes: &[Probe]) -> Vec<Observation> {
    let image = probe::image(probes);
    // As much as QEMU's board is given: addresses behind it must be no RAM on both.
    let (ram, mut hart) = load(&image, 256 << 20);
    hart.boot(probe::SUPERVISOR, 0);
    let exit = first_exit(&mut hart);
    assert!(matches!(exit, VmExit::Sbi { .. }), "{exit:?}\n{}", hart.registers());
    let mut memory = vec![0; image.len()];
    ram.read_at(GuestAddress(BASE), &mut memory).unwrap();
    probe::observations(&memory, probes.len())
}
