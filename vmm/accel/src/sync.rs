//! What the lock-free parts are made of. `tests/model.rs` compiles the same files with loom's
//! types in this place and runs them through every interleaving.

pub(crate) use std::sync::atomic::{AtomicU64, Ordering, fence};
pub(crate) use std::sync::{Mutex, MutexGuard};
