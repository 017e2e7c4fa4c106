//! Registers and alarm (Android's goldfish documentation, `GOLDFISH-VIRTUAL-HARDWARE.TXT`, section
//! "Goldfish real-time clock"; Linux `drivers/rtc/rtc-goldfish.c`).

use super::SavedRtc;
use crate::bus::MmioDevice;
use crate::lifecycle::{Busy, Lifecycle};
use crate::line::InterruptLine;
use accel::AccessSize;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use umem_state::{SaveRestore, StateError};

const TIME_LOW: u64 = 0x00;
const TIME_HIGH: u64 = 0x04;
const ALARM_LOW: u64 = 0x08;
const ALARM_HIGH: u64 = 0x0c;
const IRQ_ENABLED: u64 = 0x10;
const CLEAR_ALARM: u64 = 0x14;
const ALARM_STATUS: u64 = 0x18;
const CLEAR_INTERRUPT: u64 = 0x1c;

/// The alarm's thread looks at the host's clock at least so often, for that clock may be set.
const LONGEST_SLEEP: Duration = Duration::from_secs(10);

/// The host's wall clock: nanoseconds since the epoch.
pub type WallClock = Box<dyn Fn() -> u64 + Send + Sync>;

fn host_wall_clock() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

fn low(value: u64) -> u32 {
    (value & u64::from(u32::MAX)) as u32
}

fn high(value: u64) -> u32 {
    low(value >> 32)
}

fn join(high: u32, low: u32) -> u64 {
    u64::from(high) << 32 | u64::from(low)
}

#[derive(Debug, Default)]
struct State {
    offset_nanoseconds: i64,
    latched_high: u32,
    written_high: u32,
    alarm_high: u32,
    alarm: Option<u64>,
    interrupt_pending: bool,
    interrupt_enabled: bool,
    quiescent: bool,
    closed: bool,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    line: Arc<dyn InterruptLine>,
    clock: WallClock,
}

/// The guest's wall clock: the host's plus what the guest has set, with one alarm.
///
/// After a move it shows the destination host's time plus the same offset. It never stops: a guest
/// that was paused finds the true time in it.
pub struct GoldfishRtc {
    shared: Arc<Shared>,
}

impl std::fmt::Debug for GoldfishRtc {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("GoldfishRtc").field(&*self.shared.state()).finish()
    }
}

impl GoldfishRtc {
    /// A clock that shows the host's time, with a thread named `rtc-alarm`.
    ///
    /// # Errors
    /// When the system has no thread left.
    pub fn new(line: Arc<dyn InterruptLine>) -> io::Result<Self> {
        Self::with_clock(line, Box::new(host_wall_clock))
    }

    /// A clock on another clock than the host's.
    ///
    /// # Errors
    /// When the system has no thread left.
    pub fn with_clock(line: Arc<dyn InterruptLine>, clock: WallClock) -> io::Result<Self> {
        let (state, changed) = (Mutex::default(), Condvar::new());
        let shared = Arc::new(Shared { state, changed, line, clock });
        let thread = shared.clone();
        std::thread::Builder::new().name("rtc-alarm".to_owned()).spawn(move || thread.watch())?;
        Ok(Self { shared })
    }
}

impl Drop for GoldfishRtc {
    fn drop(&mut self) {
        self.shared.state().closed = true;
        self.shared.changed.notify_all();
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self, state: &State) -> u64 {
        (self.clock)().wrapping_add_signed(state.offset_nanoseconds)
    }

    fn drive_line(&self, state: &State) {
        self.line.set(state.interrupt_pending && state.interrupt_enabled);
    }

    /// Sets the alarm off if it is due; how long until it is.
    fn check_alarm(&self, state: &mut State) -> Option<Duration> {
        let alarm = state.alarm.filter(|_| !state.quiescent)?;
        let left = alarm.saturating_sub(self.now(state));
        if left > 0 {
            return Some(Duration::from_nanos(left));
        }
        state.alarm = None;
        state.interrupt_pending = true;
        self.drive_line(state);
        None
    }

    /// The thread: waits for the alarm.
    fn watch(&self) {
        let mut state = self.state();
        while !state.closed {
            state = match self.check_alarm(&mut state) {
                None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(left) => {
                    let waited = self.changed.wait_timeout(state, left.min(LONGEST_SLEEP));
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }

    fn write(&self, state: &mut State, offset: u64, value: u32) {
        match offset {
            TIME_HIGH => state.written_high = value,
            TIME_LOW => {
                let wanted = join(state.written_high, value);
                state.offset_nanoseconds = wanted.wrapping_sub((self.clock)()).cast_signed();
            }
            ALARM_HIGH => state.alarm_high = value,
            ALARM_LOW => state.alarm = Some(join(state.alarm_high, value)),
            IRQ_ENABLED => state.interrupt_enabled = value & 1 != 0,
            CLEAR_ALARM => state.alarm = None,
            CLEAR_INTERRUPT => state.interrupt_pending = false,
            _ => {}
        }
    }
}

impl MmioDevice for GoldfishRtc {
    fn read(&self, offset: u64, _size: AccessSize) -> u64 {
        let mut state = self.shared.state();
        match offset {
            TIME_LOW => {
                let now = self.shared.now(&state);
                state.latched_high = high(now);
                low(now).into()
            }
            TIME_HIGH => state.latched_high.into(),
            ALARM_LOW => low(state.alarm.unwrap_or(0)).into(),
            ALARM_HIGH => high(state.alarm.unwrap_or(0)).into(),
            IRQ_ENABLED => state.interrupt_enabled.into(),
            ALARM_STATUS => state.alarm.is_some().into(),
            _ => 0,
        }
    }

    fn write(&self, offset: u64, _size: AccessSize, value: u64) {
        let mut state = self.shared.state();
        self.shared.write(&mut state, offset, low(value));
        self.shared.check_alarm(&mut state);
        self.shared.drive_line(&state);
        self.shared.changed.notify_all();
    }
}

impl Lifecycle for GoldfishRtc {
    fn quiesce(&self, _deadline: Instant) -> Result<(), Busy> {
        self.shared.state().quiescent = true;
        Ok(())
    }

    /// An alarm that was due in the meantime goes off.
    fn resume(&self) {
        self.shared.state().quiescent = false;
        self.shared.changed.notify_all();
    }

    /// The guest's time survives a reset, as a battery would have it.
    fn reset(&self) {
        let mut state = self.shared.state();
        let (offset_nanoseconds, quiescent) = (state.offset_nanoseconds, state.quiescent);
        *state = State { offset_nanoseconds, quiescent, ..State::default() };
        self.shared.drive_line(&state);
    }
}

impl SaveRestore for GoldfishRtc {
    type Saved = SavedRtc;
    const VERSION: u32 = 1;

    fn save(&self) -> SavedRtc {
        let state = self.shared.state();
        SavedRtc {
            offset_nanoseconds: state.offset_nanoseconds,
            latched_high: state.latched_high,
            time_high: state.written_high,
            alarm_high: state.alarm_high,
            alarm: state.alarm,
            interrupt_pending: state.interrupt_pending,
            interrupt_enabled: state.interrupt_enabled,
        }
    }

    fn restore(&self, saved: SavedRtc) -> Result<(), StateError> {
        let mut state = self.shared.state();
        *state = State {
            offset_nanoseconds: saved.offset_nanoseconds,
            latched_high: saved.latched_high,
            written_high: saved.time_high,
            alarm_high: saved.alarm_high,
            alarm: saved.alarm,
            interrupt_pending: saved.interrupt_pending,
            interrupt_enabled: saved.interrupt_enabled,
            quiescent: true,
            closed: false,
        };
        self.shared.drive_line(&state);
        Ok(())
    }
}
