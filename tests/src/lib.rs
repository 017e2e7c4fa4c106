//! Tests across crates: real processes, real sockets.
