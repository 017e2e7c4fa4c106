//! The UART between the guest's registers and the host's terminal.

use super::SavedUart;
use super::registers::{Effect, FIFO_BYTES, INPUT_CAPACITY, Registers};
use crate::bus::MmioDevice;
use crate::lifecycle::{Busy, Lifecycle};
use crate::line::InterruptLine;
use crate::output::OutputPort;
use accel::AccessSize;
use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;
use umem_state::{SaveRestore, StateError};

/// Bytes that wait for the host's writer.
const OUTPUT_CAPACITY: usize = 4096;

struct State {
    registers: Registers,
    quiescent: bool,
}

/// A 16550A with FIFOs of 16 bytes.
///
/// The transmitter shows itself empty while a FIFO's worth of bytes fits into the queue before the
/// host's writer. So a guest that honours the line status loses nothing, however slow the terminal,
/// and one whose terminal is stuck sees a transmitter that is busy, as with real flow control.
pub struct Uart {
    state: Mutex<State>,
    room: Condvar,
    line: Arc<dyn InterruptLine>,
    output: OutputPort,
}

impl std::fmt::Debug for Uart {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Uart").field(&self.state().registers).finish()
    }
}

impl Uart {
    /// A UART whose output goes to `writer`, through a thread named `NAME-out`. The writer may block.
    ///
    /// # Errors
    /// When the system has no thread left.
    pub fn new(
        name: &str,
        line: Arc<dyn InterruptLine>,
        writer: Box<dyn Write + Send>,
    ) -> io::Result<Arc<Self>> {
        let output = OutputPort::start(&format!("{name}-out"), OUTPUT_CAPACITY, writer)?;
        let state = Mutex::new(State { registers: Registers::new(), quiescent: false });
        let uart = Arc::new(Self { state, room: Condvar::new(), line, output });
        let weak = Arc::downgrade(&uart);
        uart.output.on_drained(Box::new(move || {
            if let Some(uart) = weak.upgrade() {
                uart.drained();
            }
        }));
        Ok(uart)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn transmitter_has_room(&self) -> bool {
        self.output.room() >= FIFO_BYTES
    }

    /// The writer's thread took bytes: the transmitter may be empty now.
    fn drained(&self) {
        let mut state = self.state();
        if !state.quiescent {
            state.registers.transmit_pending |= self.transmitter_has_room();
            self.line.set(state.registers.line());
        }
    }

    /// Takes input from the host: as many bytes from the front of `bytes` as there is room for; how
    /// many. None while the device is quiescent.
    pub fn receive(&self, bytes: &[u8]) -> usize {
        let mut state = self.state();
        if state.quiescent {
            return 0;
        }
        let taken = bytes.get(..state.registers.input_room()).unwrap_or(bytes);
        state.registers.input.extend(taken);
        self.line.set(state.registers.line());
        taken.len()
    }

    /// Waits until [`Uart::receive`] would take something, at most until `deadline`; whether it
    /// would.
    pub fn await_input_room(&self, deadline: Instant) -> bool {
        let mut state = self.state();
        while state.quiescent || state.registers.input_room() == 0 {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            let waited = self.room.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    /// The guest does not go on: waits until `deadline` for what is being written, as for
    /// [`OutputPort::finish`].
    pub fn finish(&self, deadline: Instant) {
        self.state().quiescent = true;
        self.output.finish(deadline);
    }

    /// Prints beside the guest's driver, for a firmware console: as many bytes as there is room for;
    /// how many.
    pub fn print(&self, bytes: &[u8]) -> usize {
        self.output.push(bytes)
    }
}

impl MmioDevice for Uart {
    fn read(&self, offset: u64, _size: AccessSize) -> u64 {
        let mut state = self.state();
        let value = state.registers.read(offset, self.transmitter_has_room());
        self.line.set(state.registers.line());
        self.room.notify_all();
        value.into()
    }

    fn write(&self, offset: u64, _size: AccessSize, value: u64) {
        let [byte, ..] = value.to_le_bytes();
        let mut state = self.state();
        let effect = state.registers.write(offset, byte, self.transmitter_has_room());
        if let Effect::Transmit(byte) = effect {
            // A byte written while the transmitter is not empty is lost, as on the real one.
            self.output.push(&[byte]);
            state.registers.transmit_pending = self.transmitter_has_room();
        }
        self.line.set(state.registers.line());
        self.room.notify_all();
    }
}

impl Lifecycle for Uart {
    /// A terminal that nobody reads does not stop a move: see [`crate::OutputPort`].
    fn quiesce(&self, deadline: Instant) -> Result<(), Busy> {
        self.state().quiescent = true;
        self.output.park(deadline);
        Ok(())
    }

    fn resume(&self) {
        self.output.unpark();
        let mut state = self.state();
        state.quiescent = false;
        self.line.set(state.registers.line());
        self.room.notify_all();
    }

    fn reset(&self) {
        let mut state = self.state();
        state.registers = Registers::new();
        self.line.set(false);
    }
}

impl SaveRestore for Uart {
    type Saved = SavedUart;
    const VERSION: u32 = 1;

    fn save(&self) -> SavedUart {
        let registers = self.state().registers.clone();
        SavedUart {
            interrupt_enable: registers.interrupt_enable,
            fifo_control: registers.fifo_control,
            line_control: registers.line_control,
            modem_control: registers.modem_control,
            modem_changes: registers.modem_changes,
            scratch: registers.scratch,
            divisor: registers.divisor,
            transmit_pending: registers.transmit_pending,
            input: registers.input.into(),
            output: self.output.pending(),
        }
    }

    fn restore(&self, saved: SavedUart) -> Result<(), StateError> {
        let refused = |what, bytes, most| {
            StateError::refused("uart", format!("{bytes} bytes of {what}, {most} are possible"))
        };
        if saved.input.len() > INPUT_CAPACITY {
            return Err(refused("input", saved.input.len(), INPUT_CAPACITY));
        }
        let mut state = self.state();
        state.quiescent = true;
        let output_bytes = saved.output.len();
        if !self.output.restore_parked(saved.output) {
            return Err(refused("output", output_bytes, OUTPUT_CAPACITY));
        }
        state.registers = Registers {
            interrupt_enable: saved.interrupt_enable & 0x0f,
            fifo_control: saved.fifo_control & 0xc1,
            line_control: saved.line_control,
            modem_control: saved.modem_control & 0x1f,
            modem_changes: saved.modem_changes & 0x0f,
            scratch: saved.scratch,
            divisor: saved.divisor,
            transmit_pending: saved.transmit_pending,
            input: saved.input.into(),
        };
        self.line.set(state.registers.line());
        Ok(())
    }
}
