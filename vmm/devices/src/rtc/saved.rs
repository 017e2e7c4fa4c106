//! A goldfish RTC's state as it moves.

use serde::{Deserialize, Serialize};

/// Saved form of a goldfish RTC, version 1.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SavedRtc {
    /// The guest's wall clock less the host's, nanoseconds.
    pub offset_nanoseconds: i64,
    /// High half of the time, as it was when the low half was read.
    pub latched_high: u32,
    /// High half of the time to set, as it was written.
    pub time_high: u32,
    /// High half of the next alarm, as it was written.
    pub alarm_high: u32,
    /// Guest wall clock at which the alarm goes off, nanoseconds; absent when none is set.
    pub alarm: Option<u64>,
    /// Whether the alarm has gone off and was not cleared.
    pub interrupt_pending: bool,
    /// Whether the alarm interrupts.
    pub interrupt_enabled: bool,
}
