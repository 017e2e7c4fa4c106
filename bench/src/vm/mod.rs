//! VMs as processes: started, spoken to by their JSON monitors, ended with their owner.

pub mod huge;
mod machine;
mod process;
mod qmp;
#[cfg(target_arch = "x86_64")]
mod small;

pub use machine::{Machine, Words};
pub use process::{VmProcess, connect, run_until};
pub use qmp::{Event, Qmp, Status};
#[cfg(target_arch = "x86_64")]
pub use small::{Ended, Level, SmallGuest};
