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
/// A verified token that is longer is verified each time.
const MAX_BYTES: usize = 16 << 10;
/// The same of a refused one, which anybody can make.
const MAX_REFUSED_BYTES: usize = 4 << 10;
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
    /// The result of a verification, kept until `until` of the monotonic clock.
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
        let most = if known.outcome.is_ok() { MAX_BYTES } else { MAX_REFUSED_BYTES };
        if token.len() > most {
            return;
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use portunus_config::{MapEnvironment, load_text};
    use std::path::Path;

    fn trust() -> TrustId {
        let text = "version: 1\nupstreams: {a: 'http://localhost:1/'}\nservers: {/mcp: a}\n\
                    identity: {keys: {entries: {}}}\n";
        let loaded = load_text(text, Path::new("g.yaml"), &MapEnvironment::default()).unwrap();
        loaded.snapshot.identities.as_ref().unwrap().keys.as_ref().unwrap().id
    }

    #[test]
    fn a_refusal_is_kept_for_its_text_alone_and_not_for_long() {
        let (tokens, second) = (Tokens::default(), Duration::from_secs(1));
        let known = Known::new(Err(Fault::Signature), trust(), None, 10 * second);
        let (shown, tail) = ("a".repeat(100), "b".repeat(40));
        tokens.keep(&format!("{shown}{tail}"), Arc::new(known));
        assert_eq!(tokens.len(), (0, 1));
        let found =
            |token: &str, at: Duration| tokens.find(token, at).map(|known| known.outcome.clone().err());
        assert_eq!(found(&format!("{shown}{tail}"), 9 * second), Some(Some(Fault::Signature)));
        assert_eq!(found(&format!("{shown}{tail}"), 10 * second), None);
        let alike = format!("{}{tail}", "c".repeat(100));
        assert_eq!(found(&alike, second), None, "it ends alike and is another");
    }
}
