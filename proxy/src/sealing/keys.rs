//! The keys, and the sealing itself.
//!
//! All keys of a process are derived when it starts, one per purpose and configured key: a call only
//! uses them. Nonces are the output of a keyed function over a counter, so that no token shows how
//! many were made before it, and none waits for the system's randomness.

use super::caller::Binding;
use aes_gcm_siv::aead::{AeadInOut, KeyInit};
use aes_gcm_siv::{Aes256GcmSiv, Key, Nonce, Tag};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use portunus_base::Secret;
use ring::rand::{SecureRandom, SystemRandom};
use ring::{hkdf, hmac};
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

/// Fewest characters of a configured key: what 24 random bytes take in base64.
const MIN_KEY: usize = 32;

/// First byte of every token, and part of what is bound into it.
pub(super) const FORM: u8 = 1;
const KEY_ID: usize = 4;
const NONCE: usize = 12;
const TAG: usize = 16;
/// Bytes of a token beside its contents.
const OVERHEAD: usize = 1 + KEY_ID + NONCE + TAG;

/// What a token is for; each has a key of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// `Mcp-Session-Id` of a legacy client.
    Session,
    /// `requestState` of a parked call.
    State,
    /// A handle of a server: the id of a task.
    Handle,
    /// What one replica tells another about a caller.
    Peer,
}

impl Purpose {
    /// All of them.
    pub const ALL: [Purpose; 4] = [Purpose::Session, Purpose::State, Purpose::Handle, Purpose::Peer];

    /// Longest text of such a token, in bytes: what stands in a header has to fit there, what stands in
    /// a body may be as long as servers reasonably make it.
    pub fn max_text(self) -> usize {
        match self {
            Purpose::Session => 512,
            Purpose::State => 64 << 10,
            Purpose::Handle => 8 << 10,
            // With everything that policy may read of a caller; a header section has twice the room.
            Purpose::Peer => 32 << 10,
        }
    }

    /// Most bytes that such a token can hold.
    pub fn max_plain(self) -> usize {
        self.max_text() / 4 * 3 - OVERHEAD
    }

    /// What the key is derived for; also part of what is bound into a token.
    fn label(self) -> &'static [u8] {
        match self {
            Purpose::Session => b"session",
            Purpose::State => b"state",
            Purpose::Handle => b"handle",
            Purpose::Peer => b"peer",
        }
    }

    fn number(self) -> u8 {
        match self {
            Purpose::Session => 0,
            Purpose::State => 1,
            Purpose::Handle => 2,
            Purpose::Peer => 3,
        }
    }
}

/// Everything that seals and opens, for the life of the process.
pub struct Seals {
    /// The first one seals.
    keys: Vec<KeyRing>,
    /// Whether other replicas have them too.
    configured: bool,
    identity: hmac::Key,
    nonces: hmac::Key,
    next: AtomicU64,
}

/// What one configured key became.
struct KeyRing {
    id: [u8; KEY_ID],
    ciphers: [Aes256GcmSiv; Purpose::ALL.len()],
}

impl Seals {
    /// Derives all keys: the first of `keys` seals, all open. Without any, one is made that nobody
    /// else has and that ends with the process.
    ///
    /// # Errors
    /// If a key is too short, one stands there twice, or the system has no randomness.
    pub fn new(keys: &[Secret]) -> io::Result<Seals> {
        for (index, key) in keys.iter().enumerate() {
            let problem = match key.expose() {
                short if short.len() < MIN_KEY => "is shorter than 32 characters",
                again if keys[..index].iter().any(|before| before.expose() == again) => "stands there twice",
                _ => continue,
            };
            let hint = "make each one with `openssl rand -base64 32`";
            let problem = format!("the sealing key from {} {problem}; {hint}", key.source());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, problem));
        }
        Seals::of(keys.iter().map(|key| key.expose().as_bytes()))
    }

    /// As [`Seals::new`], from bytes that are known to be good keys.
    ///
    /// # Errors
    /// If the system has no randomness.
    pub fn of<'a>(keys: impl IntoIterator<Item = &'a [u8]>) -> io::Result<Seals> {
        let (mut made, mut nonces) = ([0; 32], [0; 32]);
        let random = SystemRandom::new();
        for bytes in [&mut made, &mut nonces] {
            random.fill(bytes).map_err(|_| io::Error::other("the system has no randomness"))?;
        }
        let mut roots: Vec<Root> = keys.into_iter().map(Root::of).collect();
        let configured = !roots.is_empty();
        if !configured {
            roots.push(Root::of(&made));
        }
        let failed = || io::Error::other("a sealing key cannot be derived");
        let rings: Option<Vec<KeyRing>> = roots.iter().map(KeyRing::of).collect();
        let identity = roots.first().and_then(|root| root.derive(b"identity")).ok_or_else(failed)?;
        Ok(Seals {
            keys: rings.ok_or_else(failed)?,
            configured,
            identity: hmac::Key::new(hmac::HMAC_SHA256, &identity),
            nonces: hmac::Key::new(hmac::HMAC_SHA256, &nonces),
            next: AtomicU64::new(0),
        })
    }

    /// Whether the keys were configured, so that other replicas open what is sealed here.
    pub fn are_shared(&self) -> bool {
        self.configured
    }

    /// The key of the digests of what callers show: all replicas with the same first key tell callers
    /// apart in the same way.
    pub fn identity_key(&self) -> &hmac::Key {
        &self.identity
    }

    /// `plain` under the key of `purpose`, bound to `binding`.
    pub fn seal(&self, purpose: Purpose, binding: &Binding<'_>, plain: &[u8]) -> String {
        let Some(key) = self.keys.first() else { return String::new() };
        let nonce: [u8; NONCE] = self.fresh();
        let mut token = Vec::with_capacity(OVERHEAD + plain.len());
        token.push(FORM);
        token.extend_from_slice(&key.id);
        token.extend_from_slice(&nonce);
        token.extend_from_slice(&[0; TAG]);
        token.extend_from_slice(plain);
        let (head, contents) = token.split_at_mut(OVERHEAD);
        let bound = binding.associated(FORM, purpose.number());
        match key.cipher(purpose).encrypt_inout_detached(&Nonce::from(nonce), &bound, contents.into()) {
            Ok(tag) => head[OVERHEAD - TAG..].copy_from_slice(&tag),
            // Beyond 64 GiB; what is not sealed must not leave.
            Err(_) => return String::new(),
        }
        URL_SAFE_NO_PAD.encode(token)
    }

    /// What was sealed for `purpose` and `binding`; `None` for everything else.
    pub fn open(&self, purpose: Purpose, binding: &Binding<'_>, text: &str) -> Option<Vec<u8>> {
        if text.len() > purpose.max_text() {
            return None;
        }
        let token = URL_SAFE_NO_PAD.decode(text).ok()?;
        let (head, contents) = token.split_at_checked(OVERHEAD)?;
        let (&form, head) = head.split_first()?;
        let (id, head) = head.split_first_chunk::<KEY_ID>()?;
        let (nonce, tag) = head.split_first_chunk::<NONCE>()?;
        let (nonce, tag) = (Nonce::from(*nonce), Tag::from(*tag.first_chunk::<TAG>()?));
        if form != FORM {
            return None;
        }
        let bound = binding.associated(form, purpose.number());
        // Two keys with one id are as good as impossible, and still no reason to fail.
        self.keys.iter().filter(|key| key.id == *id).find_map(|key| {
            let mut plain = contents.to_vec();
            let opened =
                key.cipher(purpose).decrypt_inout_detached(&nonce, &bound, plain.as_mut_slice().into(), &tag);
            opened.is_ok().then_some(plain)
        })
    }

    /// At most 32 bytes.
    fn fresh<const N: usize>(&self) -> [u8; N] {
        let turn = self.next.fetch_add(1, Ordering::Relaxed);
        let tag = hmac::sign(&self.nonces, &turn.to_be_bytes());
        let mut fresh = [0; N];
        fresh.copy_from_slice(&tag.as_ref()[..N]);
        fresh
    }
}

impl KeyRing {
    fn of(root: &Root) -> Option<KeyRing> {
        let id = *root.derive(b"key id")?.first_chunk()?;
        let cipher = |purpose: Purpose| {
            Some(Aes256GcmSiv::new(&Key::<Aes256GcmSiv>::from(root.derive(purpose.label())?)))
        };
        let [session, state, handle, peer] = Purpose::ALL.map(cipher);
        Some(KeyRing { id, ciphers: [session?, state?, handle?, peer?] })
    }

    fn cipher(&self, purpose: Purpose) -> &Aes256GcmSiv {
        &self.ciphers[usize::from(purpose.number())]
    }
}

/// A configured key, from which all others are derived (HKDF, RFC 5869).
struct Root(hkdf::Prk);

impl Root {
    fn of(key: &[u8]) -> Root {
        Root(hkdf::Salt::new(hkdf::HKDF_SHA256, b"portunus sealing 1").extract(key))
    }

    fn derive(&self, label: &[u8]) -> Option<[u8; 32]> {
        let mut key = [0; 32];
        self.0.expand(&[label], hkdf::HKDF_SHA256).ok()?.fill(&mut key).ok()?;
        Some(key)
    }
}
