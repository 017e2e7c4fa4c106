//! Monitors: one command table for text and JSON.
