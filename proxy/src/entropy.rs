//! Random bytes from the system, fetched a page at a time.
//!
//! Asking the kernel costs as much as reading a request, and every message without a trace needs 24
//! bytes: one fetch serves 170 of them.

use ring::rand::{SecureRandom, SystemRandom};
use std::sync::{Mutex, PoisonError};

/// Bytes of one fetch.
const PAGE: usize = 4096;

/// A supply of random bytes; none is given out twice.
pub struct Entropy {
    system: SystemRandom,
    page: Mutex<Page>,
}

struct Page {
    bytes: [u8; PAGE],
    used: usize,
}

impl Entropy {
    /// A supply that fetches with its first use.
    pub fn new() -> Entropy {
        Entropy { system: SystemRandom::new(), page: Mutex::new(Page { bytes: [0; PAGE], used: PAGE }) }
    }

    /// The next `N` bytes, at most a page; `None` if the system has no randomness.
    pub fn take<const N: usize>(&self) -> Option<[u8; N]> {
        let mut page = self.page.lock().unwrap_or_else(PoisonError::into_inner);
        if PAGE - page.used < N {
            // Spent until the fetch is known to be good: a failed one must not hand out old bytes.
            page.used = PAGE;
            self.system.fill(&mut page.bytes).ok()?;
            page.used = 0;
        }
        let taken = *page.bytes[page.used..].first_chunk()?;
        page.used += N;
        Some(taken)
    }
}

impl Default for Entropy {
    fn default() -> Self {
        Entropy::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn no_bytes_are_given_out_twice_and_none_is_left_at_zero() {
        let entropy = Entropy::new();
        // Some pages' worth, with a remainder at the end of each.
        let taken: Vec<[u8; 24]> = (0..PAGE / 8).map(|_| entropy.take().unwrap()).collect();
        assert_eq!(taken.iter().collect::<HashSet<_>>().len(), taken.len());
        assert!(taken.iter().all(|bytes| bytes.iter().any(|byte| *byte != 0)));
        assert!(entropy.take::<{ PAGE + 1 }>().is_none());
    }
}
