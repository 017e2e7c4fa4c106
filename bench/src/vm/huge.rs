//! Huge pages for both ends of a move.

use anyhow::{Context as _, Result};
use std::collections::BTreeMap;
use umem_memory::{HugePages, PageSize, huge_page_pool, huge_pages};

/// Huge pages for RAM of so many bytes at each of two ends, for as long as they are kept; none where they are set
/// aside already. Small pages need none.
///
/// # Errors
/// When this user may not, or the host has not so much memory in one piece, with what root can do.
pub fn set_aside(ends: [PageSize; 2], bytes: u64) -> Result<Vec<HugePages>> {
    let mut needed = BTreeMap::new();
    for page in ends.into_iter().filter(|page| *page != PageSize::SMALL) {
        *needed.entry(page).or_insert(0) += bytes.div_ceil(page.bytes());
    }
    let mut aside = Vec::new();
    for (page, count) in needed {
        let (free, total) = huge_pages(page).unwrap_or_default();
        let Some(more) = count.checked_sub(free).filter(|more| *more > 0) else { continue };
        let all = total + more;
        let pool = huge_page_pool(page);
        let hint = format!(
            "two VMs need {count} huge pages of {} KiB and {free} are free; as root: echo {all} > \
             {}/nr_hugepages",
            page.bytes() >> 10,
            pool.display()
        );
        aside.push(HugePages::set_aside(page, more).context(hint)?);
    }
    Ok(aside)
}

/// Options that make RAM of so many bytes of such pages; umem's and QEMU's are the same.
#[must_use]
pub fn options(page: PageSize, bytes: u64) -> Vec<String> {
    if page == PageSize::SMALL {
        return Vec::new();
    }
    let size = page.bytes() >> 20;
    let object =
        format!("memory-backend-memfd,id=huge,size={bytes}b,hugetlb=on,hugetlbsize={size}M");
    ["-object", &object, "-machine", "memory-backend=huge"].map(str::to_owned).into()
}

#[cfg(test)]
mod tests {
    use super::{options, set_aside};
    use umem_memory::PageSize;

    #[test]
    fn small_pages_need_nothing() {
        assert!(set_aside([PageSize::SMALL; 2], 1 << 30).unwrap().is_empty());
        assert!(options(PageSize::SMALL, 1 << 30).is_empty());
    }

    #[test]
    fn huge_pages_are_a_memory_of_their_size() {
        let words = options(PageSize::HUGE_2M, 1 << 20).join(" ");
        assert!(words.contains("size=1048576b") && words.contains("hugetlbsize=2M"), "{words}");
    }
}
