//! What a PLIC is made of.

use crate::line::InterruptLine;
use std::sync::Arc;

/// Most interrupt sources of our PLIC; source 0 does not exist, so one number less is of use.
pub(super) const SOURCES: usize = 64;
/// Most contexts: an M and an S context for each of 64 harts.
pub(super) const MAX_CONTEXTS: usize = 128;

/// Interrupt outputs of a PLIC.
///
/// Contexts are numbered as on QEMU's `virt` board, two a hart: `hart * 2` for M-mode, `hart * 2 + 1`
/// for S-mode. A context that is wired to nothing (`None`) keeps its registers; on a board without
/// M-mode all even ones are so.
#[derive(Clone, Default)]
pub struct PlicConfig {
    /// The line that each context drives.
    pub contexts: Vec<Option<Arc<dyn InterruptLine>>>,
}

impl PlicConfig {
    /// One S-mode context for each line, with M-mode contexts that are wired to nothing.
    pub fn supervisors(lines: impl IntoIterator<Item = Arc<dyn InterruptLine>>) -> Self {
        Self { contexts: lines.into_iter().flat_map(|line| [None, Some(line)]).collect() }
    }
}
