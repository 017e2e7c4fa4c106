//! Monitors: one command table for text and JSON.
//!
//! A monitor knows the VM by [`machine::VmControl`] alone. Each client has a thread of its own, so
//! one that stalls, sends garbage or never ends its line holds up nobody.

mod command;
mod editor;
mod json;
mod lines;
mod manual;
mod messages;
mod outlet;
mod report;
mod serve;
mod spec;
mod terminal;
mod text;

#[cfg(test)]
mod double;

pub use manual::manual;
pub use serve::{Server, bind_unix, serve};
pub use spec::{Kind, MonitorSpec, Place, SpecError};
pub use terminal::{TerminalMonitor, outcomes};
