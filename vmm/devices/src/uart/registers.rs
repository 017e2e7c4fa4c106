//! The register file of a 16550A, without its surroundings
//! (National Semiconductor PC16550D data sheet, section 8 "Registers").

use std::collections::VecDeque;

/// Bytes that the receive and the transmit FIFO hold.
pub(super) const FIFO_BYTES: usize = 16;
/// Input that waits before the FIFO, so that the host's reader need not come for every byte.
pub(super) const INPUT_CAPACITY: usize = 1024;

/// Receive data, transmit holding; with DLAB the divisor's low byte.
const DATA: u64 = 0;
/// Interrupt enable; with DLAB the divisor's high byte.
const INTERRUPT_ENABLE: u64 = 1;
/// Reads identify the interrupt, writes control the FIFOs.
const IDENTIFY: u64 = 2;
const LINE_CONTROL: u64 = 3;
const MODEM_CONTROL: u64 = 4;
const LINE_STATUS: u64 = 5;
const MODEM_STATUS: u64 = 6;
const SCRATCH: u64 = 7;

const IER_RECEIVED: u8 = 1;
const IER_TRANSMIT: u8 = 1 << 1;
const IER_MODEM: u8 = 1 << 3;
const IER_BITS: u8 = 0x0f;

const IIR_NONE: u8 = 1;
const IIR_MODEM: u8 = 0;
const IIR_TRANSMIT: u8 = 2;
const IIR_RECEIVED: u8 = 4;
const IIR_TIMEOUT: u8 = 0x0c;
const IIR_FIFO: u8 = 0xc0;

const FCR_ENABLE: u8 = 1;
const FCR_CLEAR_RECEIVE: u8 = 1 << 1;
const FCR_TRIGGER: u8 = 0xc0;

const LCR_DIVISOR: u8 = 1 << 7;

const MCR_LOOP: u8 = 1 << 4;
const MCR_BITS: u8 = 0x1f;

const LSR_READY: u8 = 1;
const LSR_TRANSMIT_EMPTY: u8 = 0x60;

/// Carrier, data set ready, clear to send: a terminal is always there.
const MSR_CONNECTED: u8 = 0xb0;

/// What writing a register asks of the surroundings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effect {
    /// Nothing.
    None,
    /// The byte goes out.
    Transmit(u8),
}

/// Registers and the received bytes. Whether the transmitter has room is told by the caller: the
/// transmit FIFO is the output port's queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Registers {
    pub(super) interrupt_enable: u8,
    pub(super) fifo_control: u8,
    pub(super) line_control: u8,
    pub(super) modem_control: u8,
    pub(super) modem_changes: u8,
    pub(super) scratch: u8,
    pub(super) divisor: u16,
    pub(super) transmit_pending: bool,
    pub(super) input: VecDeque<u8>,
}

impl Registers {
    pub(super) fn new() -> Self {
        Self {
            interrupt_enable: 0,
            fifo_control: 0,
            line_control: 0,
            // OUT2 gates the interrupt on a PC; boards like ours wire it through.
            modem_control: 1 << 3,
            modem_changes: 0,
            scratch: 0,
            // 9600 baud at 1.8432 MHz.
            divisor: 12,
            transmit_pending: false,
            input: VecDeque::new(),
        }
    }

    fn fifo_enabled(&self) -> bool {
        self.fifo_control & FCR_ENABLE != 0
    }

    fn divisor_selected(&self) -> bool {
        self.line_control & LCR_DIVISOR != 0
    }

    /// Received bytes at which the receive interrupt is one of data rather than of a timeout.
    fn trigger(&self) -> usize {
        match self.fifo_control & (FCR_TRIGGER | FCR_ENABLE) {
            0x41 => 4,
            0x81 => 8,
            0xc1 => 14,
            _ => 1,
        }
    }

    /// Room for received bytes.
    pub(super) fn input_room(&self) -> usize {
        INPUT_CAPACITY.saturating_sub(self.input.len())
    }

    /// The interrupt of highest priority, as IIR names it.
    fn interrupt(&self) -> u8 {
        let enabled = |bit| self.interrupt_enable & bit != 0;
        if enabled(IER_RECEIVED) && !self.input.is_empty() {
            // The timeout of four characters' time is over at once: nobody types that fast.
            if self.input.len() >= self.trigger() { IIR_RECEIVED } else { IIR_TIMEOUT }
        } else if enabled(IER_TRANSMIT) && self.transmit_pending {
            IIR_TRANSMIT
        } else if enabled(IER_MODEM) && self.modem_changes != 0 {
            IIR_MODEM
        } else {
            IIR_NONE
        }
    }

    /// The interrupt line.
    pub(super) fn line(&self) -> bool {
        self.interrupt() != IIR_NONE
    }

    /// Modem inputs. In loopback they are the outputs: CTS is RTS, DSR is DTR, RI is OUT1, DCD is
    /// OUT2.
    fn modem_inputs(&self) -> u8 {
        let out = self.modem_control;
        if out & MCR_LOOP == 0 {
            return MSR_CONNECTED;
        }
        (out & 2) << 3 | (out & 1) << 5 | (out & 4) << 4 | (out & 8) << 4
    }

    fn set_modem_control(&mut self, value: u8) {
        let before = self.modem_inputs();
        self.modem_control = value & MCR_BITS;
        let after = self.modem_inputs();
        // The ring indicator reports its trailing edge only.
        let ring = 1 << 6;
        let changed = (before ^ after) & !ring | before & !after & ring;
        self.modem_changes |= changed >> 4;
    }

    pub(super) fn read(&mut self, offset: u64, transmitter_has_room: bool) -> u8 {
        match offset {
            DATA if self.divisor_selected() => self.divisor.to_le_bytes()[0],
            DATA => self.input.pop_front().unwrap_or(0),
            INTERRUPT_ENABLE if self.divisor_selected() => self.divisor.to_le_bytes()[1],
            INTERRUPT_ENABLE => self.interrupt_enable,
            IDENTIFY => {
                let interrupt = self.interrupt();
                if interrupt == IIR_TRANSMIT {
                    self.transmit_pending = false;
                }
                interrupt | if self.fifo_enabled() { IIR_FIFO } else { 0 }
            }
            LINE_CONTROL => self.line_control,
            MODEM_CONTROL => self.modem_control,
            LINE_STATUS => {
                let ready = if self.input.is_empty() { 0 } else { LSR_READY };
                ready | if transmitter_has_room { LSR_TRANSMIT_EMPTY } else { 0 }
            }
            MODEM_STATUS => self.modem_inputs() | std::mem::take(&mut self.modem_changes),
            SCRATCH => self.scratch,
            _ => 0,
        }
    }

    pub(super) fn write(&mut self, offset: u64, value: u8, transmitter_has_room: bool) -> Effect {
        match offset {
            DATA if self.divisor_selected() => {
                self.divisor = u16::from_le_bytes([value, self.divisor.to_le_bytes()[1]]);
            }
            DATA => return self.transmit(value),
            INTERRUPT_ENABLE if self.divisor_selected() => {
                self.divisor = u16::from_le_bytes([self.divisor.to_le_bytes()[0], value]);
            }
            INTERRUPT_ENABLE => {
                let newly = value & IER_BITS & !self.interrupt_enable;
                self.interrupt_enable = value & IER_BITS;
                // Enabling the transmit interrupt while there is room raises it; drivers rely on it.
                if newly & IER_TRANSMIT != 0 {
                    self.transmit_pending = transmitter_has_room;
                }
            }
            IDENTIFY => self.set_fifo_control(value),
            LINE_CONTROL => self.line_control = value,
            MODEM_CONTROL => self.set_modem_control(value),
            SCRATCH => self.scratch = value,
            _ => {}
        }
        Effect::None
    }

    fn set_fifo_control(&mut self, value: u8) {
        let toggled = (value ^ self.fifo_control) & FCR_ENABLE != 0;
        if toggled || value & FCR_CLEAR_RECEIVE != 0 {
            let in_fifo = self.input.len().min(FIFO_BYTES);
            self.input.drain(..in_fifo);
        }
        let enabled = value & FCR_ENABLE != 0;
        self.fifo_control = if enabled { value & (FCR_ENABLE | FCR_TRIGGER) } else { 0 };
    }

    fn transmit(&mut self, byte: u8) -> Effect {
        self.transmit_pending = false;
        if self.modem_control & MCR_LOOP == 0 {
            return Effect::Transmit(byte);
        }
        if self.input_room() > 0 {
            self.input.push_back(byte);
        }
        self.transmit_pending = true;
        Effect::None
    }
}
