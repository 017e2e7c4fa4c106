//! The migration engine: state machines and policies without sockets or clock.
