//! Measurements that need no guest: what the host can do at best, and the statistics of all figures.
//!
//! Timings never decide pass or fail.

pub mod limits;
mod round_trip;
pub mod stats;
pub mod warm;
