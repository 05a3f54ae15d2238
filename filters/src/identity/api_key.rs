//! API keys: their form, what is stored of one, and how one that is shown is verified.
//!
//! A key reads `ptk_ID.SECRET`. `ID` is 16 characters of lower-case base32 and no secret: records and
//! revocations name a key by it. `SECRET` is base64url of 32 random bytes and the first four bytes of
//! a SHA-256 over all that stands before them, so that a scanner tells a leaked key from a word that
//! looks like one, and a key that was cut short is refused before anything is looked up.
//!
//! Stored is an HMAC of the whole key. Nothing slower is needed: who has the stored value would have
//! to guess 256 random bits, not a word that a person has chosen.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::digest::{SHA256, digest};
use ring::hmac;

use super::{AuthMethod, Fault, Principal};

/// What every key begins with.
pub const PREFIX: &str = "ptk_";

/// Characters of an id.
const ID_CHARACTERS: usize = 16;
const SECRET_BYTES: usize = 32;
const CHECKSUM_BYTES: usize = 4;
/// Characters of the secret and its checksum.
const SECRET_CHARACTERS: usize = 48;

/// The alphabet of RFC 4648 §6 in lower case, which nobody mistypes for want of a shift key.
const BASE32: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

/// Under which keys are stored where a deployment has no key of its own: it hides nothing, and what
/// is made with it is of no use elsewhere.
const NO_SERVER_KEY: &[u8] = b"portunus api key, version 1";

/// The public name of a key.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyId(Arc<str>);

impl KeyId {
    /// An id as it stands in a document, without the prefix.
    pub fn parse(text: &str) -> Option<KeyId> {
        let spelt = text.len() == ID_CHARACTERS && text.bytes().all(|byte| BASE32.contains(&byte));
        spelt.then(|| KeyId(text.into()))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A key that someone shows; its form is right, and nothing else is known of it.
#[derive(Clone, Copy)]
pub struct ShownKey<'a> {
    whole: &'a str,
}

impl<'a> ShownKey<'a> {
    /// Reads a credential; `None` for everything that was never made by [`mint`].
    pub fn parse(text: &'a str) -> Option<ShownKey<'a>> {
        let (id, secret) = text.strip_prefix(PREFIX)?.split_once('.')?;
        if id.len() != ID_CHARACTERS || secret.len() != SECRET_CHARACTERS {
            return None;
        }
        let mut bytes = [0; SECRET_BYTES + CHECKSUM_BYTES];
        URL_SAFE_NO_PAD.decode_slice(secret, &mut bytes).ok()?;
        let (secret, sum) = bytes.split_at(SECRET_BYTES);
        (checksum(id, secret) == sum).then_some(ShownKey { whole: text })
    }

    /// Its public part.
    pub fn id(self) -> &'a str {
        &self.whole[PREFIX.len()..PREFIX.len() + ID_CHARACTERS]
    }
}

impl fmt::Debug for ShownKey<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}.[secret]", self.id())
    }
}

/// Makes a key of random bytes; the text is shown once and kept by nobody but its holder.
pub fn mint(random: &[u8; 42]) -> (KeyId, String) {
    let (name, secret) = random.split_at(42 - SECRET_BYTES);
    let id = base32(name);
    let sealed = [secret, &checksum(&id, secret)].concat();
    let whole = format!("{PREFIX}{id}.{}", URL_SAFE_NO_PAD.encode(sealed));
    (KeyId(id.into()), whole)
}

/// The key under which a deployment stores the keys of its callers.
#[derive(Clone)]
pub struct ServerKey {
    name: ServerKeyName,
    hmac: hmac::Key,
}

/// Which server key a stored key belongs to: `none`, or eight digits made from the key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ServerKeyName(Option<[u8; 4]>);

impl ServerKey {
    /// Fewest characters of a server key.
    pub const MIN_BYTES: usize = 32;

    /// A deployment's own key.
    pub fn new(secret: &[u8]) -> ServerKey {
        let hmac = hmac::Key::new(hmac::HMAC_SHA256, secret);
        let tag = hmac::sign(&hmac, b"name of a server key");
        let name = tag.as_ref().first_chunk().copied();
        ServerKey { name: ServerKeyName(name), hmac }
    }

    /// What stands in for one where a deployment has none.
    pub fn none() -> ServerKey {
        ServerKey { name: ServerKeyName(None), hmac: hmac::Key::new(hmac::HMAC_SHA256, NO_SERVER_KEY) }
    }

    /// Its name in stored keys.
    pub fn name(&self) -> ServerKeyName {
        self.name
    }

    /// What is stored of a key that [`mint`] made.
    pub fn store(&self, whole: &str) -> StoredKey {
        let mut tag = [0; 32];
        tag.copy_from_slice(hmac::sign(&self.hmac, whole.as_bytes()).as_ref());
        StoredKey { server_key: self.name, tag }
    }
}

impl fmt::Debug for ServerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ServerKey({})", self.name)
    }
}

impl fmt::Display for ServerKeyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(name) => name.iter().try_for_each(|byte| write!(f, "{byte:02x}")),
            None => f.write_str("none"),
        }
    }
}

impl ServerKeyName {
    fn parse(text: &str) -> Option<ServerKeyName> {
        if text == "none" {
            return Some(ServerKeyName(None));
        }
        let hex = text.len() == 8 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        let name = hex.then(|| u32::from_str_radix(text, 16).ok())??;
        Some(ServerKeyName(Some(name.to_be_bytes())))
    }
}

/// What a deployment keeps of a key: `hmac-sha256:SERVERKEY:TAG`. Nobody gets in with it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct StoredKey {
    /// Under which server key it was made.
    pub server_key: ServerKeyName,
    tag: [u8; 32],
}

impl StoredKey {
    /// Reads what [`StoredKey`] shows as text.
    pub fn parse(text: &str) -> Option<StoredKey> {
        let (name, tag) = text.strip_prefix("hmac-sha256:")?.split_once(':')?;
        let tag = URL_SAFE_NO_PAD.decode(tag).ok()?.try_into().ok()?;
        Some(StoredKey { server_key: ServerKeyName::parse(name)?, tag })
    }
}

impl fmt::Display for StoredKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "hmac-sha256:{}:{}", self.server_key, URL_SAFE_NO_PAD.encode(self.tag))
    }
}

impl fmt::Debug for StoredKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StoredKey({}, …)", self.server_key)
    }
}

/// One key that a deployment knows. Times count from the Unix epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownKey {
    /// Its public name.
    pub id: KeyId,
    /// Whose it is, as who shows it is known: [`AuthMethod::ApiKey`], until the key expires.
    pub holder: Arc<Principal>,
    /// What is stored of it.
    pub stored: StoredKey,
    /// When it was made.
    pub created: Option<Duration>,
    /// When it was taken back.
    pub revoked: Option<Duration>,
}

impl KnownKey {
    /// A key of `holder` from now on, for as long as `expires` says.
    pub fn new(id: KeyId, holder: Principal, stored: StoredKey, expires: Option<Duration>) -> KnownKey {
        let holder = Principal { auth: AuthMethod::ApiKey, not_after: expires, ..holder }.with_digest();
        KnownKey { id, holder: Arc::new(holder), stored, created: None, revoked: None }
    }

    /// From when on it is refused.
    pub fn expires(&self) -> Option<Duration> {
        self.holder.not_after
    }
}

/// Why a key is refused; a client is told none of it but that its key is not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyFault {
    /// No key looks like this.
    Malformed,
    /// No such key was ever given out, or it was taken out of the document.
    Unknown,
    /// The id is known and the secret is another.
    WrongSecret,
    /// It was taken back.
    Revoked,
    /// Its time is over.
    Expired,
}

impl From<KeyFault> for Fault {
    fn from(fault: KeyFault) -> Fault {
        match fault {
            KeyFault::Malformed | KeyFault::Unknown | KeyFault::WrongSecret => Fault::ApiKey,
            KeyFault::Revoked => Fault::Revoked,
            KeyFault::Expired => Fault::Expired,
        }
    }
}

/// The keys of a deployment.
#[derive(Clone, Default)]
pub struct KeyTable {
    server_keys: HashMap<ServerKeyName, ServerKey>,
    keys: HashMap<KeyId, Arc<KnownKey>>,
}

impl KeyTable {
    /// Most keys of one deployment.
    pub const MAX_KEYS: usize = 20_000;
    /// Most server keys at once.
    pub const MAX_SERVER_KEYS: usize = 4;

    /// `server_keys` are those of the deployment; keys that are stored under another verify nobody.
    pub fn new(
        server_keys: impl IntoIterator<Item = ServerKey>,
        keys: impl IntoIterator<Item = KnownKey>,
    ) -> KeyTable {
        let server_keys = server_keys.into_iter().chain([ServerKey::none()]);
        KeyTable {
            server_keys: server_keys.map(|key| (key.name, key)).collect(),
            keys: keys.into_iter().map(|key| (key.id.clone(), Arc::new(key))).collect(),
        }
    }

    /// The key that is shown, if it is one of these and its time is not over. `now` counts from the
    /// Unix epoch.
    ///
    /// How long it takes says nothing about a secret, though it may say that an id is known, which is
    /// none. Only who has the secret learns that a key has expired or was revoked.
    ///
    /// # Errors
    /// Why it is refused.
    pub fn verify(&self, shown: &str, now: Duration) -> Result<&Arc<KnownKey>, KeyFault> {
        let shown = ShownKey::parse(shown).ok_or(KeyFault::Malformed)?;
        let id = KeyId::parse(shown.id()).ok_or(KeyFault::Malformed)?;
        let known = self.keys.get(&id).ok_or(KeyFault::Unknown)?;
        let server_key = self.server_keys.get(&known.stored.server_key).ok_or(KeyFault::WrongSecret)?;
        hmac::verify(&server_key.hmac, shown.whole.as_bytes(), &known.stored.tag)
            .map_err(|_| KeyFault::WrongSecret)?;
        match known {
            _ if known.revoked.is_some() => Err(KeyFault::Revoked),
            _ if known.holder.has_ended(now) => Err(KeyFault::Expired),
            _ => Ok(known),
        }
    }

    /// All keys, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<KnownKey>> {
        self.keys.values()
    }

    /// Whether a server key is among those of the deployment.
    pub fn has_server_key(&self, name: ServerKeyName) -> bool {
        self.server_keys.contains_key(&name)
    }
}

/// In the order of the names, so that equal tables look alike.
impl fmt::Debug for KeyTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys: BTreeMap<_, _> = self.keys.iter().collect();
        let server_keys: BTreeSet<String> = self.server_keys.keys().map(ToString::to_string).collect();
        f.debug_struct("KeyTable").field("keys", &keys).field("server_keys", &server_keys).finish()
    }
}

fn checksum(id: &str, secret: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let whole = [PREFIX.as_bytes(), id.as_bytes(), b".", secret].concat();
    digest(&SHA256, &whole).as_ref().first_chunk().copied().unwrap_or_default()
}

/// Ten bytes are sixteen characters.
fn base32(bytes: &[u8]) -> String {
    let groups =
        bytes.chunks(5).map(|group| group.iter().fold(0_u64, |bits, byte| bits << 8 | u64::from(*byte)));
    let digits = groups.flat_map(|bits| (0..8).rev().map(move |digit| bits >> (5 * digit) & 31));
    digits
        .filter_map(|digit| BASE32.get(usize::try_from(digit).ok()?))
        .map(|byte| char::from(*byte))
        .collect()
}

#[cfg(test)]
mod tests;
