//! The shortest way of a guest's pages: over one plain loopback TCP connection, placed by `UFFDIO_COPY`, without
//! frames, checks, a page table or a guest that waits.

use std::time::Duration;

use anyhow::{Context as _, Result};

use super::{
    tcp::{self, PIECE},
    uffd::{Faults, Watched},
};

/// More is not moved, but reckoned.
const MOST: u64 = 3 << 30;

/// How long so many bytes take. From 3 GiB on, that of 3 GiB in proportion.
///
/// # Errors
/// When there is no memory, no userfaultfd, or loopback TCP fails.
pub fn drain(bytes: u64) -> Result<Duration> {
    let moved = usize::try_from(bytes.min(MOST)).context("more bytes than addresses")?;
    let pieces = moved.div_ceil(PIECE).max(1);
    let moved = pieces * PIECE;
    let watched = Watched::new(moved, Faults::User)?;
    let time = tcp::send(moved, |offset, content| watched.place(offset, content))?;
    Ok(time.mul_f64(bytes as f64 / moved as f64))
}

#[cfg(test)]
mod tests {
    use super::{MOST, PIECE, drain};

    #[test]
    fn less_than_a_piece_takes_its_share_of_one() {
        let one = match drain(PIECE as u64) {
            Ok(time) => time,
            // A host may forbid userfaultfd: then it says so.
            Err(error) => {
                return assert!(format!("{error:#}").contains("userfaultfd"), "{error:#}");
            }
        };
        assert!(!one.is_zero());
        assert!(drain(0).unwrap().is_zero(), "nothing takes no time");
        assert!(MOST.is_multiple_of(PIECE as u64));
    }
}
