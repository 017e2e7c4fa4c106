//! What the lock-free parts are made of. `tests/model.rs` compiles the same files with loom's
//! types in this place and runs them through every interleaving.

pub(crate) use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
pub(crate) use std::sync::{Condvar, Mutex, MutexGuard};

/// Number of places to wait at, over which pages are spread.
pub(crate) const PARKING_SPOTS: usize = 64;
