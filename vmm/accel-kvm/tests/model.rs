//! How a thread is called out of KVM_RUN, in every interleaving (loom). The file is compiled as it is, on
//! loom's atomics; the kernel is a model.
#![allow(unreachable_pub, dead_code)]

#[path = "../src/vcpu/door.rs"]
mod door;

mod sync {
    pub(crate) use loom::sync::atomic::{AtomicI32, Ordering};
}

use door::{CallOut, Door};
use loom::sync::Arc;
use loom::sync::atomic::{AtomicBool, Ordering};

/// The kernel's side of a vCPU.
#[derive(Default)]
struct Kernel {
    exit_asked: AtomicBool,
    signal_pending: AtomicBool,
}

impl CallOut for Kernel {
    fn ask_for_exit(&self, on: bool) {
        let _ = self.exit_asked.swap(on, Ordering::SeqCst);
    }

    fn interrupt(&self, _thread: i32) {
        let _ = self.signal_pending.swap(true, Ordering::SeqCst);
    }

    fn this_thread(&self) -> i32 {
        7
    }
}

impl Kernel {
    /// Enters KVM_RUN; whether it stays there until a signal comes.
    fn stays(&self) -> bool {
        // Signals that came until now had their handler run, outside: what was done before them is seen.
        let _ = self.signal_pending.swap(false, Ordering::SeqCst);
        !self.exit_asked.load(Ordering::SeqCst)
    }
}

/// A guest that never comes out by itself comes out for a kick, whenever that comes.
#[test]
fn no_kick_is_lost() {
    loom::model(|| {
        let door = Arc::new(Door::new(Kernel::default()));
        let kicked = Arc::new(AtomicBool::new(false));
        let kicker = {
            let (door, kicked) = (door.clone(), kicked.clone());
            loom::thread::spawn(move || {
                kicked.store(true, Ordering::SeqCst);
                door.knock();
            })
        };
        let inside = door.enter();
        let stays = !door.look(|| kicked.load(Ordering::SeqCst)) && door.page.stays();
        kicker.join().unwrap();
        let called = door.page.signal_pending.swap(false, Ordering::SeqCst);
        assert!(!stays || called, "it stays in the guest");
        drop(inside);
    });
}

/// What a kick that was taken leaves behind brings the vCPU out once more at most, and no later kick is lost.
#[test]
fn a_kick_after_one_that_was_taken_is_not_lost() {
    loom::model(|| {
        let door = Arc::new(Door::new(Kernel::default()));
        let kicked = Arc::new(AtomicBool::new(false));
        let kicker = {
            let (door, kicked) = (door.clone(), kicked.clone());
            loom::thread::spawn(move || {
                for _ in 0..2 {
                    kicked.store(true, Ordering::SeqCst);
                    door.knock();
                }
            })
        };
        let mut stays = false;
        for _ in 0..2 {
            let inside = door.enter();
            if !door.look(|| kicked.swap(false, Ordering::SeqCst)) && door.page.stays() {
                stays = true;
                // It would come out for a signal only: it stays inside.
                std::mem::forget(inside);
                break;
            }
        }
        kicker.join().unwrap();
        let called = door.page.signal_pending.swap(false, Ordering::SeqCst);
        let pending = kicked.load(Ordering::SeqCst);
        assert!(!(stays && pending && !called), "it stays in the guest with a kick");
    });
}
