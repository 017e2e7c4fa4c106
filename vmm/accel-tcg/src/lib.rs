//! RV64GC software CPU.
//!
//! ```text
//!  hart.rs     run loop, answers to exits, the accelerator's face
//!    blocks.rs   decoded code by physical address, jumps by virtual address
//!      decode/     instruction words to operations
//!    execute/    operations on the state
//!      fpu/        float arithmetic
//!    cpu.rs      the state; csr.rs, trap.rs, saved.rs
//!      mmu/        page tables and what is cached of them
//!        memory_access.rs   RAM
//! ```
//! dirty.rs asks harts, through their handles, which pages they store to.
//!
//! There are supervisor and user mode only: the machine answers what a supervisor asks of its
//! execution environment (SBI). All traps go to the supervisor.

mod blocks;
mod cpu;
mod csr;
mod decode;
mod dirty;
mod execute;
mod fpu;
mod hart;
mod memory_access;
mod mmu;
mod saved;
#[cfg(test)]
mod tests;
mod trap;

pub use dirty::HartWrites;
pub use hart::{Hart, HartConfig};

/// The instruction set, as in the device tree's `riscv,isa`.
pub const ISA: &str = "rv64imafdc_zicntr_zicsr_zifencei_zihintpause";
/// The instruction set's extensions, as in the device tree's `riscv,isa-extensions`.
pub const ISA_EXTENSIONS: &[&str] =
    &["i", "m", "a", "f", "d", "c", "zicntr", "zicsr", "zifencei", "zihintpause"];
/// The deepest page tables, as in the device tree's `mmu-type`.
pub const MMU_TYPE: &str = "riscv,sv48";
