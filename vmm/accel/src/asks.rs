//! What others ask of a vCPU that it does between two instructions: to drop its write permissions, to
//! forget translations, to compare decoded code with memory.
//!
//! While writes are logged, a vCPU sets a page's bit in the log before its first store to the page,
//! and remembers that it may write there. Who collects takes the bits away and then revokes: every
//! vCPU drops what it remembers. A remote fence works in the same way: the hart that asks for one goes
//! on once every hart that it names has dropped what it had cached from before.
//!
//! Asks are counted; a vCPU acknowledges the number that it has seen. The one word that it writes says
//! that number and whether it is inside [`crate::Vcpu::run`]:
//!
//! | the vCPU | its word | counts as acknowledged |
//! |---|---|---|
//! | stands still: halted, stopped, waits for a page, serves an exit | outside, any number | yes: it executes nothing, and looks for asks before it does |
//! | is just starting | inside, an older number | no: it answers before its first instruction |
//! | runs with what it has cached | inside, an older number | no: it answers at its next look around |
//! | has dropped it | inside, this number | yes |
//! | is just ending | inside or outside | as its word says: its stores come before the word |
//!
//! A vCPU that starts writes "inside" and then reads the count of asks; who asks raises the count and
//! then reads the word. Each has a fence between the two, so at least one sees the other: none starts
//! unseen with what it had cached. What is asked is noted before the count is raised, so a vCPU that
//! sees the count sees it; one that sees it early does it early, and does nothing when the count comes.
//!
//! Two harts that fence each other do not wait for ever: who waits is outside.

use crate::sync::{AtomicU64, Mutex, MutexGuard, Ordering, fence};
use std::sync::{Arc, PoisonError};

const INSIDE: u64 = 1;

/// What a vCPU is to do, as a set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Fence(u64);

impl Fence {
    /// Forget cached translations (SFENCE.VMA).
    pub const TRANSLATIONS: Self = Self(1);
    /// Compare decoded code with memory before it runs again (FENCE.I).
    pub const CODE: Self = Self(2);
    const WRITES: Self = Self(4);

    /// Whether all of `other` is in this set.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// What a vCPU found that it was asked.
#[derive(Debug)]
pub struct Asked<L> {
    /// To be given to [`Asks::acknowledge`] when it is done.
    pub number: u64,
    /// What to forget.
    pub fence: Fence,
    /// Whether write permissions are revoked, and the log that is in force from now on.
    pub revoked: Option<Option<Arc<L>>>,
}

/// What is asked of one vCPU. `L` is the log in which it sets bits.
#[derive(Debug)]
pub struct Asks<L> {
    /// How often something was asked.
    count: AtomicU64,
    /// What was asked and not taken yet: bits of [`Fence`].
    what: AtomicU64,
    /// The last ask acknowledged, shifted by one, and whether the vCPU is inside `run`.
    word: AtomicU64,
    log: Mutex<Option<Arc<L>>>,
}

impl<L> Default for Asks<L> {
    fn default() -> Self {
        let [count, what, word] = [0; 3].map(AtomicU64::new);
        Self { count, what, word, log: Mutex::new(None) }
    }
}

impl<L> Asks<L> {
    fn log(&self) -> MutexGuard<'_, Option<Arc<L>>> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says in which log the vCPU is to set bits. In force for it when it has acknowledged a
    /// revocation that follows.
    pub fn set_log(&self, log: Option<Arc<L>>) {
        *self.log() = log;
    }

    /// Revokes write permissions; as [`Self::fence`].
    pub fn revoke(&self) -> (u64, bool) {
        self.fence(Fence::WRITES)
    }

    /// Asks; the number to wait for, and whether the vCPU must be told to look around.
    pub fn fence(&self, what: Fence) -> (u64, bool) {
        self.what.fetch_or(what.0, Ordering::AcqRel);
        let number = self.count.fetch_add(1, Ordering::AcqRel) + 1;
        fence(Ordering::SeqCst);
        (number, !self.is_acknowledged(number))
    }

    /// Whether the vCPU uses nothing that it cached before it was asked. All that it did with such can
    /// be seen by the caller then.
    #[must_use]
    pub fn is_acknowledged(&self, number: u64) -> bool {
        let word = self.word.load(Ordering::Acquire);
        word & INSIDE == 0 || word >> 1 >= number
    }

    /// The vCPU's side: it begins to run, having acknowledged `seen`. Whether it must first deal
    /// with asks as with those that [`Self::is_asked`] found.
    #[must_use]
    pub fn enter(&self, seen: u64) -> bool {
        self.word.store(seen << 1 | INSIDE, Ordering::Release);
        fence(Ordering::SeqCst);
        self.is_asked(seen)
    }

    /// The vCPU's side: whether anything was asked after what it has acknowledged.
    #[inline]
    #[must_use]
    pub fn is_asked(&self, seen: u64) -> bool {
        self.count.load(Ordering::Acquire) != seen
    }

    /// The vCPU's side: what is asked. It does that, and then calls [`Self::acknowledge`].
    #[must_use]
    pub fn take(&self) -> Asked<L> {
        let number = self.count.load(Ordering::Acquire);
        let fence = Fence(self.what.swap(0, Ordering::AcqRel));
        let revoked = fence.contains(Fence::WRITES).then(|| self.log().clone());
        Asked { number, fence, revoked }
    }

    /// The vCPU's side: it has done what was asked, between two instructions.
    pub fn acknowledge(&self, number: u64) {
        self.word.store(number << 1 | INSIDE, Ordering::Release);
    }

    /// The vCPU's side: it has ended to run.
    pub fn leave(&self, seen: u64) {
        self.word.store(seen << 1, Ordering::Release);
    }
}
