//! What the lock-free part is made of. `tests/model.rs` compiles the same file with loom's types in this
//! place and runs it through every interleaving.

pub(crate) use std::sync::atomic::{AtomicI32, Ordering};
