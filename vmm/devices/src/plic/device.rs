//! Registers and arbitration (RISC-V Platform-Level Interrupt Controller Specification 1.0.0).

use super::SavedPlic;
use super::config::{MAX_CONTEXTS, PlicConfig, SOURCES};
use crate::bus::MmioDevice;
use crate::lifecycle::{Busy, Lifecycle};
use crate::line::InterruptLine;
use accel::AccessSize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;
use umem_state::{SaveRestore, StateError};

const PRIORITY_END: u64 = 0x1000;
const PENDING_END: u64 = 0x1080;
const ENABLE_BASE: u64 = 0x2000;
const ENABLE_STRIDE: u64 = 0x80;
const CONTEXT_BASE: u64 = 0x20_0000;
const CONTEXT_STRIDE: u64 = 0x1000;
/// Three bits, as on QEMU's `virt` board.
const HIGHEST_PRIORITY: u8 = 7;

/// What the guest addresses.
#[derive(Debug, Clone, Copy)]
enum Register {
    Priority(usize),
    Pending(u32),
    Enable(usize, u32),
    Threshold(usize),
    ClaimComplete(usize),
}

impl Register {
    fn decode(offset: u64) -> Option<Self> {
        if !offset.is_multiple_of(4) {
            return None;
        }
        let word = |offset: u64| u32::try_from(offset / 4).ok();
        let index = |number: u64| usize::try_from(number).ok();
        if offset < PRIORITY_END {
            return index(offset / 4).map(Self::Priority);
        }
        if offset < PENDING_END {
            return word(offset - PRIORITY_END).map(Self::Pending);
        }
        if let Some(above) = offset.checked_sub(CONTEXT_BASE) {
            let context = index(above / CONTEXT_STRIDE)?;
            return match above % CONTEXT_STRIDE {
                0 => Some(Self::Threshold(context)),
                4 => Some(Self::ClaimComplete(context)),
                _ => None,
            };
        }
        let above = offset.checked_sub(ENABLE_BASE)?;
        Some(Self::Enable(index(above / ENABLE_STRIDE)?, word(above % ENABLE_STRIDE)?))
    }
}

/// Word `word` of a set of sources.
fn word_of(set: u64, word: u32) -> u64 {
    set.checked_shr(word.saturating_mul(32)).unwrap_or(0) & u64::from(u32::MAX)
}

fn with_word(set: u64, word: u32, value: u64) -> u64 {
    let shift = word.saturating_mul(32);
    let mask = u64::from(u32::MAX).checked_shl(shift).unwrap_or(0);
    let value = (value & u64::from(u32::MAX)).checked_shl(shift).unwrap_or(0);
    // Source 0 does not exist.
    (set & !mask | value & mask) & !1
}

#[derive(Debug, Clone, Copy, Default)]
struct Context {
    enabled: u64,
    threshold: u8,
}

struct State {
    priorities: [u8; SOURCES],
    levels: u64,
    pending: u64,
    claimed: u64,
    contexts: Vec<Context>,
}

impl State {
    fn new(contexts: usize) -> Self {
        Self {
            priorities: [0; SOURCES],
            levels: 0,
            pending: 0,
            claimed: 0,
            contexts: vec![Context::default(); contexts],
        }
    }

    fn priority(&self, source: u32) -> u8 {
        self.priorities.get(source as usize).copied().unwrap_or(0)
    }

    /// The pending, enabled source of highest priority; of equals the lowest number. Sources of
    /// priority 0 never interrupt.
    fn best(&self, context: Context) -> Option<(u32, u8)> {
        let mut candidates = self.pending & context.enabled;
        let mut best = None;
        while candidates != 0 {
            let source = candidates.trailing_zeros();
            candidates &= candidates - 1;
            let priority = self.priority(source);
            if priority > best.map_or(0, |(_, highest)| highest) {
                best = Some((source, priority));
            }
        }
        best
    }

    fn output(&self, context: Context) -> bool {
        self.best(context).is_some_and(|(_, priority)| priority > context.threshold)
    }

    /// The gateway of a level-triggered source: one request at a time goes to the core, the next
    /// after completion. Like QEMU's, it takes back a request that the device takes back.
    fn set_level(&mut self, source: u32, high: bool) {
        let bit = 1 << source;
        if high {
            self.levels |= bit;
            self.pending |= bit & !self.claimed;
        } else {
            self.levels &= !bit;
            self.pending &= !bit;
        }
    }

    fn claim(&mut self, context: usize) -> u64 {
        let Some((source, _)) = self.contexts.get(context).and_then(|&at| self.best(at)) else {
            return 0;
        };
        self.pending &= !(1 << source);
        self.claimed |= 1 << source;
        u64::from(source)
    }

    /// Completion of a source that the context does not enable is ignored (section 9).
    fn complete(&mut self, context: usize, source: u64) {
        let enabled = self.contexts.get(context).map_or(0, |context| context.enabled);
        let bit = u32::try_from(source).ok().and_then(|source| 1u64.checked_shl(source));
        let bit = bit.unwrap_or(0) & enabled & self.claimed;
        self.claimed &= !bit;
        self.pending |= self.levels & bit;
    }
}

/// The interrupt controller.
pub struct Plic {
    state: Mutex<State>,
    outputs: Vec<Option<Arc<dyn InterruptLine>>>,
}

impl std::fmt::Debug for Plic {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let state = self.state();
        let mut debug = f.debug_struct("Plic");
        debug.field("levels", &state.levels).field("pending", &state.pending);
        debug.field("claimed", &state.claimed).field("contexts", &state.contexts).finish()
    }
}

impl Plic {
    /// A PLIC with 63 sources, all of priority 0 and not enabled.
    ///
    /// # Panics
    /// With more than 128 contexts, for which the layout of the board has no room.
    #[must_use]
    pub fn new(config: PlicConfig) -> Arc<Self> {
        let contexts = config.contexts.len();
        assert!(contexts <= MAX_CONTEXTS, "{contexts} contexts");
        Arc::new(Self { state: Mutex::new(State::new(contexts)), outputs: config.contexts })
    }

    /// The line of an interrupt source.
    ///
    /// # Panics
    /// When the source is not one of 1 to 63: a mistake in a board.
    #[must_use]
    pub fn line(self: &Arc<Self>, source: u32) -> Arc<dyn InterruptLine> {
        assert!((1..SOURCES as u32).contains(&source), "interrupt source {source}");
        let plic = self.clone();
        Arc::new(move |high| plic.change(|state| state.set_level(source, high)))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state and drives the outputs that follow from it. The lock is held over both, so
    /// that outputs change in the order in which the state did.
    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.state();
        let result = change(&mut state);
        for (output, &context) in self.outputs.iter().zip(&state.contexts) {
            if let Some(line) = output {
                line.set(state.output(context));
            }
        }
        result
    }
}

impl MmioDevice for Plic {
    fn read(&self, offset: u64, size: AccessSize) -> u64 {
        let Some(register) = Register::decode(offset).filter(|_| size == AccessSize::Word) else {
            return 0;
        };
        if let Register::ClaimComplete(context) = register {
            return self.change(|state| state.claim(context));
        }
        let state = self.state();
        let context = |number: usize| state.contexts.get(number).copied().unwrap_or_default();
        match register {
            Register::Priority(source) => state.priorities.get(source).copied().unwrap_or(0).into(),
            Register::Pending(word) => word_of(state.pending, word),
            Register::Enable(number, word) => word_of(context(number).enabled, word),
            Register::Threshold(number) => context(number).threshold.into(),
            Register::ClaimComplete(_) => 0,
        }
    }

    fn write(&self, offset: u64, size: AccessSize, value: u64) {
        let Some(register) = Register::decode(offset).filter(|_| size == AccessSize::Word) else {
            return;
        };
        let [low, ..] = value.to_le_bytes();
        let priority = low & HIGHEST_PRIORITY;
        self.change(|state| match register {
            Register::Priority(0) | Register::Pending(_) => {}
            Register::Priority(source) => {
                if let Some(at) = state.priorities.get_mut(source) {
                    *at = priority;
                }
            }
            Register::Enable(number, word) => {
                if let Some(context) = state.contexts.get_mut(number) {
                    context.enabled = with_word(context.enabled, word, value);
                }
            }
            Register::Threshold(number) => {
                if let Some(context) = state.contexts.get_mut(number) {
                    context.threshold = priority;
                }
            }
            Register::ClaimComplete(number) => state.complete(number, value),
        });
    }
}

impl Lifecycle for Plic {
    fn quiesce(&self, _deadline: Instant) -> Result<(), Busy> {
        Ok(())
    }

    fn resume(&self) {}

    fn reset(&self) {
        self.change(|state| *state = State::new(state.contexts.len()));
    }
}

impl SaveRestore for Plic {
    type Saved = SavedPlic;
    const VERSION: u32 = 1;

    fn save(&self) -> SavedPlic {
        let state = self.state();
        SavedPlic {
            priorities: state.priorities.to_vec(),
            levels: state.levels,
            pending: state.pending,
            claimed: state.claimed,
            enabled: state.contexts.iter().map(|context| context.enabled).collect(),
            thresholds: state.contexts.iter().map(|context| context.threshold).collect(),
        }
    }

    fn restore(&self, saved: SavedPlic) -> Result<(), StateError> {
        let refused = |reason: String| StateError::refused("plic", reason);
        let found = saved.priorities.len();
        let priorities = <[u8; SOURCES]>::try_from(saved.priorities)
            .map_err(|_| refused(format!("{found} sources, this one has {SOURCES}")))?;
        let contexts = self.outputs.len();
        let found = (saved.enabled.len(), saved.thresholds.len());
        if found != (contexts, contexts) {
            return Err(refused(format!("{} contexts, this one has {contexts}", found.0)));
        }
        let above = priorities.iter().chain(&saved.thresholds).max().copied().unwrap_or(0);
        if above > HIGHEST_PRIORITY {
            return Err(refused(format!("priority {above} of {HIGHEST_PRIORITY}")));
        }
        let sets = [saved.levels, saved.pending, saved.claimed];
        if sets.iter().chain(&saved.enabled).any(|set| set & 1 != 0) {
            return Err(refused("source 0 in a set".to_owned()));
        }
        let pairs = saved.enabled.into_iter().zip(saved.thresholds);
        let contexts = pairs.map(|(enabled, threshold)| Context { enabled, threshold }).collect();
        let [levels, pending, claimed] = sets;
        self.change(|state| *state = State { priorities, levels, pending, claimed, contexts });
        Ok(())
    }
}
