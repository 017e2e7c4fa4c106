//! The measurements of `umem bench`: scenarios, runs of both contenders, what the host can do at best, statistics,
//! and reports.
//!
//! Timings never decide pass or fail; damaged memory does.

mod cores;
pub mod guest;
pub mod host;
pub mod interrupt;
pub mod limits;
pub mod network;
pub mod programs;
pub mod report;
pub mod run;
pub mod scenario;
pub mod session;
pub mod stats;
pub mod vm;
pub mod warm;
