//! RV64GC software CPU.
