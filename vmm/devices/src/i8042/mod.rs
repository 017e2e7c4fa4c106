//! A PC's keyboard controller, of which there is only the command that resets the machine.

mod device;
#[cfg(test)]
mod tests;

pub use device::KeyboardReset;
