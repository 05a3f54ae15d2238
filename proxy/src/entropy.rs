//! Random bytes from the system, fetched a page at a time.
//!
//! Asking the kernel costs as much as reading a request, and every message without a trace needs 24
//! bytes: one fetch serves 170 of them.

use ring::rand::{SecureRandom, SystemRandom};
use std::cell::RefCell;

/// Bytes of one fetch.
const PAGE: usize = 4096;

thread_local! {
    /// What a thread has fetched; no two threads share a page, or wait for each other.
    static FETCHED: RefCell<Page> = RefCell::new(Page { bytes: vec![0; PAGE], used: PAGE });
}

struct Page {
    bytes: Vec<u8>,
    used: usize,
}

/// The next `N` random bytes, at most a page, given out once; `None` if the system has no randomness.
pub fn random<const N: usize>() -> Option<[u8; N]> {
    FETCHED.with_borrow_mut(|page| {
        if PAGE - page.used < N {
            // Spent until the fetch is known to be good: a failed one must not hand out old bytes.
            page.used = PAGE;
            SystemRandom::new().fill(&mut page.bytes).ok()?;
            page.used = 0;
        }
        let taken = *page.bytes[page.used..].first_chunk()?;
        page.used += N;
        Some(taken)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn no_bytes_are_given_out_twice_and_none_is_left_at_zero() {
        // Some pages' worth, with a remainder at the end of each, of two threads.
        let take = || (0..PAGE / 8).map(|_| random().unwrap()).collect::<Vec<[u8; 24]>>();
        let taken = [take(), std::thread::spawn(take).join().unwrap()].concat();
        assert_eq!(taken.iter().collect::<HashSet<_>>().len(), taken.len());
        assert!(taken.iter().all(|bytes| bytes.iter().any(|byte| *byte != 0)));
        assert!(random::<{ PAGE + 1 }>().is_none());
    }
}
