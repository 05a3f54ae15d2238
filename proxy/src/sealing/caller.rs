//! For whom something is: the virtual server and the caller, as keys.

use portunus_config::ServerId;
use portunus_filters::Identity;
use ring::digest::{Context, SHA256};
use std::fmt;
use std::hash::{Hash, Hasher};
use std::net::IpAddr;
use std::sync::LazyLock;

/// Where a token is valid.
#[derive(Clone, Copy, Debug)]
pub struct Binding<'a> {
    /// The virtual server that it was given out by.
    pub server: &'a ServerId,
    /// Who may bring it back, by [`CallerKey::for_seals`].
    pub caller: CallerKey,
}

impl Binding<'_> {
    /// What is authenticated beside a token's contents: all but the last part have fixed lengths, so
    /// no two run together.
    pub(super) fn associated(&self, form: u8, purpose: u8) -> Vec<u8> {
        let server = self.server.0.as_bytes();
        let mut bound = Vec::with_capacity(2 + self.caller.0.len() + server.len());
        bound.extend_from_slice(&[form, purpose]);
        bound.extend_from_slice(&self.caller.0);
        bound.extend_from_slice(server);
        bound
    }
}

/// What servers are shown of a caller: names of headers, with their values.
pub type Marks<'a> = [(&'a str, &'a [u8])];

/// A digest of who calls; two callers never share one.
///
/// Equal on every replica: for a verified principal because nothing else goes into it, for a
/// credential that was only shown because replicas digest those under one key.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct CallerKey([u8; 16]);

impl Hash for CallerKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.part());
    }
}

impl CallerKey {
    /// A part of the digest, which is as good as all of it for a hash.
    pub fn part(&self) -> u64 {
        let mut part = [0; 8];
        part.copy_from_slice(&self.0[..8]);
        u64::from_ne_bytes(part)
    }
}

static ANONYMOUS: LazyLock<CallerKey> = LazyLock::new(|| CallerKey::digest(&[b"anonymous"], &[]));

impl CallerKey {
    /// For what callers carry. All who show nothing are one caller: their address may change on the
    /// way, so what they carry is a secret that whoever bears it may use.
    pub fn for_seals(identity: &Identity) -> CallerKey {
        match identity {
            identity if identity.is_anonymous() => *ANONYMOUS,
            identity => CallerKey::for_tables(identity, &[]),
        }
    }

    /// For what whoever bears it may use.
    pub fn for_bearers() -> CallerKey {
        *ANONYMOUS
    }

    /// For sessions whose messages pass: their server judges what callers show it, which may be renewed while the session
    /// lasts, so only whom the gateway itself has verified is bound to them.
    pub fn for_passed(identity: &Identity) -> CallerKey {
        match identity.principal() {
            Some(_) => CallerKey::for_seals(identity),
            None => CallerKey::for_bearers(),
        }
    }

    /// For what callers carry and nobody but the gateway judges again: as [`CallerKey::for_seals`],
    /// and bound to what servers are shown of the caller.
    pub fn for_states(identity: &Identity, marks: &Marks<'_>) -> CallerKey {
        match identity {
            identity if identity.is_anonymous() => CallerKey::digest(&[b"anonymous"], marks),
            identity => CallerKey::for_tables(identity, marks),
        }
    }

    /// For what is kept here: sessions with servers, caches, counts of parked calls. Those who show
    /// the gateway nothing are told apart by their address, and all by what their servers are shown of
    /// them, so that strangers never share a thing.
    pub fn for_tables(identity: &Identity, marks: &Marks<'_>) -> CallerKey {
        match identity {
            Identity::Anonymous { source: IpAddr::V4(address) } => {
                CallerKey::digest(&[b"address", &address.octets()], marks)
            }
            Identity::Anonymous { source: IpAddr::V6(address) } => {
                CallerKey::digest(&[b"address", &address.octets()], marks)
            }
            // Made under a key of ours, so nobody has another digest run into it.
            Identity::Presented { digest } if marks.is_empty() => CallerKey(digest.0),
            Identity::Presented { digest } => CallerKey::digest(&[b"presented", &digest.0], marks),
            Identity::Principal(principal) if marks.is_empty() => CallerKey(principal.holder.0),
            Identity::Principal(principal) => CallerKey::digest(&[b"principal", &principal.holder.0], marks),
        }
    }

    /// For what belongs to no caller in particular: probes, and sessions that a document lets callers
    /// share.
    pub fn for_all() -> CallerKey {
        CallerKey::digest(&[b"all"], &[])
    }

    /// For what replicas say to each other.
    pub fn of_replicas() -> CallerKey {
        CallerKey::digest(&[b"replica"], &[])
    }

    /// The key itself, for keys that are made of several.
    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// Each part with its length before it, so that no two lists of parts run together.
    fn digest(parts: &[&[u8]], marks: &Marks<'_>) -> CallerKey {
        let mut context = Context::new(&SHA256);
        let marks = marks.iter().flat_map(|(name, value)| [name.as_bytes(), value]);
        for part in parts.iter().copied().chain(marks) {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part);
        }
        let mut key = [0; 16];
        key.copy_from_slice(&context.finish().as_ref()[..16]);
        CallerKey(key)
    }
}

impl fmt::Debug for CallerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CallerKey(")?;
        self.0.iter().take(4).try_for_each(|byte| write!(f, "{byte:02x}"))?;
        f.write_str("…)")
    }
}
