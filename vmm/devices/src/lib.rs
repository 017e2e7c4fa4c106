//! Devices of the boards.
