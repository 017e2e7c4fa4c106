//! What a guest asks of its machine.

use std::sync::{Arc, Mutex, PoisonError};

/// Why a guest asks to be restarted or switched off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ResetRequest {
    /// Power off.
    Shutdown,
    /// Reboot.
    Reboot,
}

impl std::fmt::Display for ResetRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Shutdown => "switched off",
            Self::Reboot => "reset",
        })
    }
}

/// The guest's newest request that has not been carried out. It is set on the vCPU's thread, before
/// the vCPU can come to rest, so whoever has stopped the vCPU sees it. All clones are one.
#[derive(Debug, Clone, Default)]
pub(crate) struct Asked(Arc<Mutex<Option<ResetRequest>>>);

impl Asked {
    /// What the guest asked for.
    #[must_use]
    pub(crate) fn get(&self) -> Option<ResetRequest> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The guest asks; whether that is new. One that tries another way while the first is not done gets
    /// what it asked for first.
    #[must_use]
    pub(crate) fn ask(&self, request: ResetRequest) -> bool {
        let mut asked = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let first = asked.is_none();
        asked.get_or_insert(request);
        first
    }

    /// The guest has got what it asked for, or no longer wants it.
    pub(crate) fn done(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// Takes what the guest asks of the machine to whoever decides.
pub(crate) type Requests = Arc<dyn Fn(ResetRequest) + Send + Sync>;
