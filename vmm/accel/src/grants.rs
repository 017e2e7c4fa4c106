//! Write permission that a vCPU has cached, and how others have it dropped.
//!
//! While writes are logged, a vCPU sets a page's bit in the log before its first store to the page,
//! and remembers that it may write there. Who collects takes the bits away and then revokes: every
//! vCPU drops what it remembers. Revocations are counted; a vCPU acknowledges the number that it has
//! seen. The one word that it writes says that number and whether it is inside [`crate::Vcpu::run`]:
//!
//! | the vCPU | its word | counts as acknowledged |
//! |---|---|---|
//! | stands still: halted, stopped, waits for a page, serves an exit | outside, any number | yes: it stores nothing, and looks for revocations before it executes |
//! | is just starting | inside, an older number | no: it answers before its first instruction |
//! | runs with what it has cached | inside, an older number | no: it answers at its next look around |
//! | has dropped it | inside, this number | yes |
//! | is just ending | inside or outside | as its word says: its stores come before the word |
//!
//! A vCPU that starts writes "inside" and then reads the count of revocations; who revokes raises the
//! count and then reads the word. Each has a fence between the two, so at least one sees the other:
//! none starts unseen with old permissions.

use crate::sync::{AtomicU64, Mutex, MutexGuard, Ordering, fence};
use std::sync::{Arc, PoisonError};

const INSIDE: u64 = 1;

/// The write permissions of one vCPU. `L` is the log in which it sets bits.
#[derive(Debug)]
pub struct WriteGrants<L> {
    /// How often permissions were revoked.
    revocations: AtomicU64,
    /// The last revocation acknowledged, shifted by one, and whether the vCPU is inside `run`.
    word: AtomicU64,
    log: Mutex<Option<Arc<L>>>,
}

impl<L> Default for WriteGrants<L> {
    fn default() -> Self {
        Self { revocations: AtomicU64::new(0), word: AtomicU64::new(0), log: Mutex::new(None) }
    }
}

impl<L> WriteGrants<L> {
    fn log(&self) -> MutexGuard<'_, Option<Arc<L>>> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says in which log the vCPU is to set bits. In force for it when it has acknowledged a
    /// revocation that follows.
    pub fn set_log(&self, log: Option<Arc<L>>) {
        *self.log() = log;
    }

    /// Revokes; the number to wait for, and whether the vCPU must be told to look around.
    pub fn revoke(&self) -> (u64, bool) {
        let number = self.revocations.fetch_add(1, Ordering::AcqRel) + 1;
        fence(Ordering::SeqCst);
        (number, !self.is_acknowledged(number))
    }

    /// Whether the vCPU uses no permission from before a revocation. All stores that it made with
    /// one can be seen by the caller then.
    #[must_use]
    pub fn is_acknowledged(&self, number: u64) -> bool {
        let word = self.word.load(Ordering::Acquire);
        word & INSIDE == 0 || word >> 1 >= number
    }

    /// The vCPU's side: it begins to run, having acknowledged `seen`. Whether it must first deal
    /// with a revocation as with one that [`Self::is_revoked`] found.
    #[must_use]
    pub fn enter(&self, seen: u64) -> bool {
        self.word.store(seen << 1 | INSIDE, Ordering::Release);
        fence(Ordering::SeqCst);
        self.is_revoked(seen)
    }

    /// The vCPU's side: whether there was a revocation after the one it has acknowledged.
    #[inline]
    #[must_use]
    pub fn is_revoked(&self, seen: u64) -> bool {
        self.revocations.load(Ordering::Acquire) != seen
    }

    /// The vCPU's side: the last revocation, and the log that is in force with it. Then it drops
    /// its permissions, and then calls [`Self::acknowledge`].
    #[must_use]
    pub fn revoked(&self) -> (u64, Option<Arc<L>>) {
        let number = self.revocations.load(Ordering::Acquire);
        (number, self.log().clone())
    }

    /// The vCPU's side: it has dropped its permissions, between two instructions.
    pub fn acknowledge(&self, number: u64) {
        self.word.store(number << 1 | INSIDE, Ordering::Release);
    }

    /// The vCPU's side: it has ended to run.
    pub fn leave(&self, seen: u64) {
        self.word.store(seen << 1, Ordering::Release);
    }
}
