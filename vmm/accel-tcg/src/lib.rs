//! RV64GC software CPU.

mod fpu;
