//! The words of the page table: what a page can be, and what that means to who needs it.

/// Where a page is on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum PageState {
    /// Not here, and nobody asked for it.
    Missing = 0,
    /// Not here, and asked for.
    Requested = 1,
    /// Somebody is putting it in place.
    Installing = 2,
    /// Here.
    Present = 3,
    /// Not here; its content does not matter and is zero to whoever looks.
    Discarded = 4,
    /// It will never be here: the source could not read it.
    Poisoned = 5,
}

impl PageState {
    /// The bits that hold it.
    pub(crate) const MASK: u64 = 0b111;

    pub(crate) fn of(bits: u64) -> Self {
        match bits & Self::MASK {
            0 => Self::Missing,
            1 => Self::Requested,
            2 => Self::Installing,
            3 => Self::Present,
            4 => Self::Discarded,
            _ => Self::Poisoned,
        }
    }
}

/// What a thread that needs a page has to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claim {
    /// Nothing: it is here.
    Present,
    /// Ask for it; nobody else will. Then wait.
    Fetch,
    /// Wait; somebody asked for it or installs it.
    Wait,
    /// Fill it with zeroes (see [`crate::PageTable::begin_zero`]).
    Zero,
    /// Give up: it will never be here.
    Poisoned,
}

/// What became of a page that was installed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrival {
    /// It is here.
    Present,
    /// It will never be here: the source could not read it.
    Poisoned,
}

/// Whether a page can be taken away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Withdrawal {
    /// It was not there.
    Absent,
    /// It was there; the caller takes it away.
    Begun,
    /// Another is putting it in place or taking it away.
    Busy,
}

/// How waiting for a page ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waited {
    /// It is here.
    Present,
    /// It will never be here: the source could not read it.
    Poisoned,
    /// The wait was interrupted, or the plane closed; the page may come yet.
    Interrupted,
}

/// Number of pages by state, counted on the way: each is right, together they may be a moment
/// apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageCounts {
    /// Pages that are here.
    pub present: u64,
    /// Pages that will never be here.
    pub poisoned: u64,
    /// Pages asked for and not arrived.
    pub requested: u64,
    pub(crate) total: u64,
}

impl PageCounts {
    /// All pages, whatever their state.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.total
    }

    /// Pages that may come yet. Those discarded count too, until they are filled.
    #[must_use]
    pub fn missing(&self) -> u64 {
        self.total.saturating_sub(self.present).saturating_sub(self.poisoned)
    }
}
