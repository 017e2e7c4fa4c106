//! Runs: one contender, one scenario, once.

mod contender;
mod counts;
mod faults;
mod figures;
mod moving;

pub use contender::Contender;
pub use faults::{Accesses, FaultRun, PREFAULTS, Way, access, generate};
pub use figures::{FIGURES, Figure, Figures};
pub use moving::{MoveRun, Setup, once};
