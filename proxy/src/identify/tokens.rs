//! Tokens that were verified before.
//!
//! What is kept is what verifying gave, and on what it depended: the settings of the issuer and the
//! keys that were in force. Whether it may be used is asked at each use. A token is found by its text
//! and never by a hash of it alone: two texts are two callers.

use super::keys::KeySlot;
use portunus_config::TrustId;
use portunus_filters::identity::{Fault, Verified};
use quick_cache::Equivalent;
use quick_cache::sync::Cache;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

/// Most verified tokens that are kept: with tokens of 1 KiB about 50 MB.
pub const MAX_TOKENS: usize = 32_768;
/// Most refused ones.
pub const MAX_REFUSED: usize = 4_096;
/// For how long what verifying gave is kept, at most.
pub const KEEP: Duration = Duration::from_secs(300);
/// The same of a refusal.
pub const KEEP_REFUSED: Duration = Duration::from_secs(10);

/// What is known of a token.
#[derive(Clone)]
pub struct Known {
    /// What verifying gave.
    pub outcome: Result<Arc<Verified>, Fault>,
    /// The settings that it was verified under.
    pub trust: TrustId,
    /// The keys that it was verified with, and which of their generations.
    keys: Option<(Arc<KeySlot>, u64)>,
    /// Until when, in monotonic time.
    until: Duration,
}

/// Tokens, verified and refused.
pub struct Tokens {
    verified: Cache<Text, Arc<Known>>,
    refused: Cache<Text, Arc<Known>>,
}

impl Known {
    /// What verifying gave at `monotonic`, kept no longer than `most`.
    pub fn new(
        outcome: Result<Arc<Verified>, Fault>,
        trust: TrustId,
        keys: Option<(Arc<KeySlot>, u64)>,
        until: Duration,
    ) -> Known {
        Known { outcome, trust, keys, until }
    }

    /// Whether it still says what verifying again would.
    pub fn is_current(&self, monotonic: Duration) -> bool {
        monotonic < self.until
            && self.keys.as_ref().is_none_or(|(slot, generation)| slot.generation() == *generation)
    }
}

impl Default for Tokens {
    fn default() -> Tokens {
        Tokens { verified: Cache::new(MAX_TOKENS), refused: Cache::new(MAX_REFUSED) }
    }
}

impl Tokens {
    /// What is known of a token.
    pub fn find(&self, token: &str, monotonic: Duration) -> Option<Arc<Known>> {
        let token = Shown(token);
        let known = self.verified.get(&token).or_else(|| self.refused.get(&token))?;
        known.is_current(monotonic).then_some(known)
    }

    /// Keeps what verifying gave.
    pub fn keep(&self, token: &str, known: Arc<Known>) {
        match known.outcome {
            Ok(_) => self.verified.insert(Text(token.into()), known),
            Err(_) => self.refused.insert(Text(token.into()), known),
        }
    }

    /// How many are kept, and how many refusals.
    pub fn len(&self) -> (usize, usize) {
        (self.verified.len(), self.refused.len())
    }
}

/// A token that is kept.
#[derive(PartialEq, Eq)]
struct Text(Box<str>);

/// A token that is looked for.
struct Shown<'a>(&'a str);

impl Hash for Text {
    fn hash<H: Hasher>(&self, state: &mut H) {
        Shown(&self.0).hash(state);
    }
}

impl Hash for Shown<'_> {
    /// Its end is a signature, or random: hashing the rest would cost more than the comparison that
    /// follows. Texts that only begin differently share a slot, and are told apart by it.
    fn hash<H: Hasher>(&self, state: &mut H) {
        let bytes = self.0.as_bytes();
        let tail = &bytes[bytes.len().saturating_sub(32)..];
        state.write(tail);
        state.write_usize(bytes.len());
    }
}

impl Equivalent<Text> for Shown<'_> {
    fn equivalent(&self, text: &Text) -> bool {
        self.0 == &*text.0
    }
}
