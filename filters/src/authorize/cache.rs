//! Decisions that were given before.
//!
//! The key is the projection itself, not a digest of it: no two questions share an answer unless the
//! policy reads the same of both. Answers of a policy that is gone are never found again, since its
//! generation is in the key, and leave as others come in. An answer to arguments is kept once its question has
//! come twice: most never come again.
//!
//! Questions whose answer took too long are remembered by a digest, however long they are.

use super::decision::Ruling;
use quick_cache::Weighter;
use quick_cache::sync::Cache;
use ring::digest::{SHA256, digest};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Bytes that an entry takes beside its key and its answer.
const OVERHEAD: usize = 96;
/// A key longer than this is not kept: it is a payload.
const MAX_KEY_BYTES: usize = 8 * 1024;
/// Questions that took too long.
const MAX_SLOW: usize = 4_096;
/// A question that took too long is not tried again within this.
const SLOW_FOR: Duration = Duration::from_secs(60);
/// Questions that came once and may come again.
const SEEN: usize = 16 * 1024;

/// A bounded table of decisions, for all entry points and all policies of a process.
#[derive(Debug)]
pub struct DecisionCache {
    entries: Cache<Box<[u8]>, Kept, ByBytes>,
    /// Until when each counts, as a time since the epoch, by the digest of its key.
    slow: Cache<[u8; 32], Duration>,
    /// Hashes of keys that came once; a newer one takes the place of an older one.
    seen: Box<[AtomicU64]>,
    hasher: RandomState,
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
        DecisionCache {
            entries: Cache::with_weighter(entries, bytes, ByBytes),
            slow: Cache::new(MAX_SLOW),
            seen: (0..SEEN).map(|_| AtomicU64::new(0)).collect(),
            hasher: RandomState::new(),
        }
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

    /// Whether a key came before, as far as is remembered.
    pub(super) fn comes_again(&self, key: &[u8]) -> bool {
        let hash = self.hasher.hash_one(key) | 1;
        let place = (hash >> 32) as usize % SEEN;
        self.seen[place].swap(hash, Ordering::Relaxed) == hash
    }

    /// Remembers that an answer took too long.
    pub(super) fn keep_slow(&self, key: &[u8], wall: Duration) {
        self.slow.insert(sha256(key), wall.saturating_add(SLOW_FOR));
    }

    /// Whether an answer took too long a short while ago.
    pub(super) fn is_slow(&self, key: &[u8], wall: Duration) -> bool {
        !self.slow.is_empty() && self.slow.get(&sha256(key)).is_some_and(|until| wall < until)
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
        self.slow.clear();
    }
}

fn sha256(key: &[u8]) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes.copy_from_slice(digest(&SHA256, key).as_ref());
    bytes
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
    fn a_question_that_took_too_long_is_remembered_for_a_while_however_long_it_is() {
        let cache = DecisionCache::new(10, 10_000);
        let key = vec![7; 100_000];
        cache.keep_slow(&key, Duration::from_secs(100));
        assert!(
            cache.is_slow(&key, Duration::from_secs(159)) && !cache.is_slow(&key, Duration::from_secs(160))
        );
        assert!(!cache.is_slow(&key[1..], Duration::from_secs(100)));
    }

    #[test]
    fn a_key_comes_again_the_second_time() {
        let cache = DecisionCache::new(10, 10_000);
        assert_eq!([1, 1, 2, 1].map(|key| cache.comes_again(&[key])), [false, true, false, true]);
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
