//! Replicas of one gateway: what each is called, what they share, and where the others are.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use crate::bootstrap::Listener;
use crate::upstream::Upstream;
use portunus_base::Secret;

/// Name of a process among its peers: 1 to 16 letters, digits, `.`, `_`, `-`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ReplicaId(Arc<str>);

impl ReplicaId {
    /// Most bytes of a name: sealed ids carry it.
    pub const MAX_BYTES: usize = 16;

    /// Reads a name.
    ///
    /// # Errors
    /// What is wrong with it, completing a sentence that begins with the name.
    pub fn parse(text: &str) -> Result<ReplicaId, &'static str> {
        match text.len() {
            0 => Err("is empty"),
            1..=ReplicaId::MAX_BYTES if text.bytes().all(is_name_byte) => Ok(ReplicaId(text.into())),
            1..=ReplicaId::MAX_BYTES => Err("has other characters than letters, digits, `.`, `_`, `-`"),
            _ => Err("is longer than 16 characters"),
        }
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ReplicaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"._-".contains(&byte)
}

/// What seals session ids, cursors and the state of calls that wait.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sealing {
    /// The first seals, all open; each is a text of at least [`Sealing::MIN_KEY_BYTES`]. Empty: a
    /// key made at start, so that nothing sealed outlives the process or is opened by another.
    pub keys: Vec<Secret>,
}

impl Sealing {
    /// Fewest bytes of a key's text: 32 random bytes are 43 characters of base64.
    pub const MIN_KEY_BYTES: usize = 32;

    /// Most keys: those of a rotation that is under way, and some to spare.
    pub(crate) const MAX_KEYS: usize = 4;
}

/// The other replicas of this gateway, and where they find this one.
#[derive(Clone, Debug)]
pub struct Peers {
    /// Where they connect: mutual TLS, or plain on loopback.
    pub listener: Listener,
    /// The others by name, this process left out: where each is and how it is spoken to.
    pub members: BTreeMap<ReplicaId, Arc<Upstream>>,
}

impl Peers {
    /// Most replicas of one gateway.
    pub(crate) const MAX_MEMBERS: usize = 100;

    fn places(&self) -> impl Iterator<Item = (&ReplicaId, &portunus_base::UpstreamUrl)> {
        self.members.iter().map(|(name, upstream)| (name, &upstream.url))
    }

    /// Whether `new` needs a restart. What is inside `tls` does not.
    pub(crate) fn restart_needed(&self, new: &Peers) -> bool {
        self.listener.restart_needed(&new.listener) || !self.places().eq(new.places())
    }
}

impl PartialEq for Peers {
    fn eq(&self, other: &Peers) -> bool {
        let keys = |peers: &Peers| peers.members.values().map(|one| one.key).collect::<Vec<_>>();
        self.listener == other.listener && self.places().eq(other.places()) && keys(self) == keys(other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replica_has_a_short_plain_name() {
        let table = [
            ("a", true),
            ("portunus-0", true),
            ("sixteen.bytes_16", true),
            ("seventeen-bytes-1", false),
            ("", false),
            ("a/b", false),
            ("a b", false),
            ("ä", false),
        ];
        for (name, accepted) in table {
            assert_eq!(ReplicaId::parse(name).is_ok(), accepted, "{name}");
        }
    }
}
