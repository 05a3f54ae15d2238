//! Decisions that were given before.
//!
//! The key is the projection itself, not a digest of it: no two questions share an answer unless the
//! policy reads the same of both. Answers of a policy that is gone are never found again, since its
//! generation is in the key, and leave as others come in.

use super::decision::Ruling;
use quick_cache::Weighter;
use quick_cache::sync::Cache;
use std::sync::Arc;
use std::time::Duration;

/// Bytes that an entry takes beside its key and its answer.
const OVERHEAD: usize = 96;
/// A key longer than this is not kept: it is a payload.
const MAX_KEY_BYTES: usize = 8 * 1024;

/// A bounded table of decisions, for all entry points and all policies of a process.
#[derive(Debug)]
pub struct DecisionCache {
    entries: Cache<Box<[u8]>, Kept, ByBytes>,
}

#[derive(Clone, Debug)]
struct Kept {
    ruling: Arc<Ruling>,
    /// Time since the epoch at which it ends.
    until: Option<Duration>,
}

#[derive(Clone, Debug)]
struct ByBytes;

impl Weighter<Box<[u8]>, Kept> for ByBytes {
    fn weight(&self, key: &Box<[u8]>, kept: &Kept) -> u64 {
        (key.len() + kept.ruling.weight() + OVERHEAD) as u64
    }
}

impl DecisionCache {
    /// A table of about `entries` decisions, in `bytes` of memory.
    pub fn new(entries: usize, bytes: u64) -> DecisionCache {
        DecisionCache { entries: Cache::with_weighter(entries, bytes, ByBytes) }
    }

    /// The answer under `key`, if it has not ended by `wall`.
    pub(super) fn look_up(&self, key: &[u8], wall: Duration) -> Option<Arc<Ruling>> {
        let kept = self.entries.get(key)?;
        if kept.until.is_some_and(|until| wall >= until) {
            return None;
        }
        Some(kept.ruling)
    }

    /// Keeps an answer until `until`, a time since the epoch.
    pub(super) fn keep(&self, key: Vec<u8>, ruling: &Arc<Ruling>, until: Option<Duration>) {
        if key.len() <= MAX_KEY_BYTES {
            self.entries.insert(key.into_boxed_slice(), Kept { ruling: ruling.clone(), until });
        }
    }

    /// Decisions that are kept.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether nothing is kept.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Bytes that they take, about.
    pub fn bytes(&self) -> u64 {
        self.entries.weight()
    }

    /// Forgets everything.
    pub fn clear(&self) {
        self.entries.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use regorus::Value;

    #[test]
    fn an_answer_ends_when_it_was_said_to() {
        let cache = DecisionCache::new(10, 10_000);
        let yes = Arc::new(Ruling::read(&Value::Bool(true)));
        cache.keep(vec![1], &yes, Some(Duration::from_secs(60)));
        assert!(cache.look_up(&[1], Duration::from_secs(59)).is_some());
        assert!(cache.look_up(&[1], Duration::from_secs(60)).is_none());
        assert!(cache.look_up(&[2], Duration::ZERO).is_none());
    }

    #[test]
    fn no_more_is_kept_than_there_is_room_for() {
        let cache = DecisionCache::new(1_000, 64 * 1024);
        let yes = Arc::new(Ruling::read(&Value::Bool(true)));
        for number in 0..10_000u32 {
            cache.keep(number.to_le_bytes().to_vec(), &yes, None);
        }
        assert!(cache.bytes() <= 64 * 1024, "{}", cache.bytes());
    }

    #[test]
    fn a_key_that_is_a_payload_is_not_kept() {
        let cache = DecisionCache::new(100, 1 << 20);
        let yes = Arc::new(Ruling::read(&Value::Bool(true)));
        for (length, is_kept) in [(MAX_KEY_BYTES, true), (MAX_KEY_BYTES + 1, false)] {
            cache.keep(vec![0; length], &yes, None);
            assert_eq!(cache.look_up(&vec![0; length], Duration::ZERO).is_some(), is_kept, "{length}");
        }
        assert!(cache.bytes() > MAX_KEY_BYTES as u64, "keys count");
    }
}
