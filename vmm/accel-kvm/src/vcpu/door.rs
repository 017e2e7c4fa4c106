//! Brings a thread out of KVM_RUN, from any other.
//!
//! ```text
//!  who kicks                             the vCPU's thread
//!  1. notes the kick (its handle)        a. says which thread it is
//!  2. asks the page for an exit          b. asks the page for none
//!  3. sends the signal, if a thread      c. looks for a kick: comes out if there is one
//!     has said that it is in there       d. KVM_RUN: the kernel looks at the page, later for signals
//! ```
//! (2) and (b) are exchanges of one word, so one of them comes first, and the second sees what was done
//! before it. (2) first: (c) sees the kick. (b) first: the page asks for an exit from then on, and the
//! signal goes to the thread. The kernel sees the page at (d), or has looked already; then the signal comes
//! while the thread is in the kernel, which looks for signals before it enters the guest. A signal that comes
//! before (d) is gone without effect: for it there is (2).

use crate::sync::{AtomicI32, Ordering};

/// Nobody.
const NONE: i32 = 0;

/// How a thread is called out of KVM_RUN.
pub(crate) trait CallOut {
    /// Has KVM_RUN come out as soon as it is entered, or no more. An exchange: who asks sees what was done
    /// before whoever asked last.
    fn ask_for_exit(&self, on: bool);

    /// Has the kernel interrupt a thread.
    fn interrupt(&self, thread: i32);

    /// Who calls; never 0.
    fn this_thread(&self) -> i32;
}

/// The way in and out of one vCPU.
#[derive(Debug)]
pub(crate) struct Door<P> {
    pub(crate) page: P,
    /// The thread that is inside.
    thread: AtomicI32,
}

/// A thread is inside as long as this lives.
#[derive(Debug)]
pub(crate) struct Inside<'a>(&'a AtomicI32);

impl<P: CallOut> Door<P> {
    pub(crate) fn new(page: P) -> Self {
        Self { page, thread: AtomicI32::new(NONE) }
    }

    /// The calling thread goes in.
    pub(crate) fn enter(&self) -> Inside<'_> {
        self.thread.store(self.page.this_thread(), Ordering::SeqCst);
        Inside(&self.thread)
    }

    /// Before each KVM_RUN: whether there is a kick, by what looks for it.
    pub(crate) fn look(&self, is_kicked: impl FnOnce() -> bool) -> bool {
        self.page.ask_for_exit(false);
        is_kicked()
    }

    /// Brings out who is inside, or comes in next. The kick is noted.
    pub(crate) fn knock(&self) {
        self.page.ask_for_exit(true);
        let thread = self.thread.load(Ordering::SeqCst);
        if thread != NONE {
            self.page.interrupt(thread);
        }
    }
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        self.0.store(NONE, Ordering::SeqCst);
    }
}
