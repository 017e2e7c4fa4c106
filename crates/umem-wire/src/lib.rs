//! The migration protocol's frames: encode and decode, nothing else.
