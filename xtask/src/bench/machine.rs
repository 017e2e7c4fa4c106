//! Machines that CPU and boot are measured on: one hart on the software CPU.

use std::process::Command;

use super::Setup;
use crate::run;

/// Whose machine it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Contender {
    Umem,
    Qemu,
}

impl Contender {
    pub(crate) const BOTH: [Self; 2] = [Self::Umem, Self::Qemu];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Umem => "umem",
            Self::Qemu => "qemu",
        }
    }
}

impl Setup {
    /// A machine with no console yet.
    pub(crate) fn machine(&self, whose: Contender, memory: &str) -> Command {
        let mut command = match whose {
            Contender::Umem => run::command(&self.umem, ["vm"]),
            Contender::Qemu => run::command(&self.qemu, ["-display", "none"]),
        };
        command.args(["-machine", "virt,accel=tcg", "-smp", "1", "-m", memory]);
        command.args(["-monitor", "none"]);
        command
    }

    /// The Linux guest.
    pub(crate) fn linux(&self, command: &mut Command, append: &str) {
        command.arg("-kernel").arg(&self.kernel).arg("-initrd").arg(&self.initrd);
        command.args(["-append", append]);
    }
}
