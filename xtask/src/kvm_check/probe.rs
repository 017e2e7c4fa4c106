//! How fast code of a guest's kernel runs: at the processor's speed where KVM has the hardware's help.
//!
//! A KVM may do without that help: it runs a guest's user code as it is and emulates its kernel's, an
//! instruction at a time. No flag tells that reliably, so it is measured: a loop at CPL0, in long mode.

use std::time::Instant;

use anyhow::{Result, ensure};
use umem_bench::vm::{Ended, Level, SmallGuest};

/// Rounds of the loop, of two instructions each: 0.2 s where they are emulated.
const ROUNDS: u32 = 1 << 17;
/// Instructions a second that no processor falls below and no emulator of KVM's gets near.
pub(super) const HARDWARE: f64 = 50e6;

/// `mov ecx, ROUNDS; again: dec ecx; jnz again; hlt` for 64-bit mode (Intel SDM, volume 2).
const CODE: [u8; 10] = {
    let [a, b, c, d] = ROUNDS.to_le_bytes();
    [0xb9, a, b, c, d, 0xff, 0xc9, 0x75, 0xfc, 0xf4]
};

/// Instructions a second of a guest's kernel code.
pub(super) fn kernel_speed() -> Result<f64> {
    let mut guest = SmallGuest::new(&CODE, Level::Kernel)?;
    let start = Instant::now();
    let ended = guest.run()?;
    ensure!(ended == Ended::Halted, "a loop in kernel mode ended by {ended:?}");
    Ok(f64::from(2 * ROUNDS) / start.elapsed().as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::kernel_speed;

    #[test]
    fn a_loop_at_cpl0_ends_wherever_there_is_a_kvm() {
        if std::fs::File::options().read(true).write(true).open("/dev/kvm").is_ok() {
            assert!(kernel_speed().unwrap() > 1e4);
        }
    }
}
