//! What is known of whoever is at the other end of a connection.

use super::tokens::Known;
use crate::sealing::{Binding, CallerKey, Seals, SessionName};
use http::HeaderValue;
use portunus_config::{Profile, ServerId};
use portunus_filters::Denial;
use portunus_filters::identity::{Certificate, CertificateRules, Digest, Verified};
use portunus_filters::mcp::bridge;
use portunus_filters::mcp::object::Object;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// What a client says of itself at greater length than this is read each time: idle connections should
/// not hold much.
const MAX_REMEMBERED_BYTES: usize = 2048;

/// The other end of a connection: its certificate, and what was last shown on it.
#[derive(Default)]
pub struct Guest {
    certificate: Option<Certificate>,
    memory: Mutex<Memory>,
}

#[derive(Default)]
struct Memory {
    token: Option<Remembered>,
    named: Option<(Arc<CertificateRules>, Arc<Verified>)>,
    digested: Option<(HeaderValue, Digest)>,
    introduced: Option<Arc<bridge::Profile>>,
    session: Option<Named>,
}

/// A session id that was opened.
struct Named {
    text: Box<str>,
    server: ServerId,
    caller: CallerKey,
    name: SessionName,
}

/// A token that was shown and verified.
pub(super) struct Remembered {
    /// The whole field.
    pub(super) field: HeaderValue,
    /// What is known of it.
    pub(super) known: Arc<Known>,
}

impl Guest {
    /// Somebody who showed this certificate in the handshake, in DER. One that cannot be read names
    /// nobody.
    pub fn with_certificate(der: Option<&[u8]>) -> Guest {
        Guest { certificate: der.and_then(|der| Certificate::read(der).ok()), memory: Mutex::default() }
    }

    /// The client's certificate.
    pub fn certificate(&self) -> Option<&Certificate> {
        self.certificate.as_ref()
    }

    /// The digest of a field: as it was when the same field was last shown on this connection, or by
    /// `make`.
    pub(super) fn digest(&self, field: &HeaderValue, make: impl FnOnce(&HeaderValue) -> Digest) -> Digest {
        let mut memory = self.lock();
        if let Some((_, digest)) = memory.digested.as_ref().filter(|(digested, _)| digested == field) {
            return *digest;
        }
        let digest = make(field);
        memory.digested = Some((field.clone(), digest));
        digest
    }

    /// What a modern request says of its client in `meta`, its `_meta`: as it was when a request on this
    /// connection last said the same.
    ///
    /// # Errors
    /// As [`bridge::Profile::of_envelope`].
    pub(crate) fn introduced(&self, meta: &Object<'_>) -> Result<Arc<bridge::Profile>, Denial> {
        let mut memory = self.lock();
        if let Some(known) = memory.introduced.as_ref().filter(|known| known.is_of_envelope(meta)) {
            return Ok(Arc::clone(known));
        }
        let profile = Arc::new(bridge::Profile::of_envelope(meta)?);
        let bytes = profile.capabilities.len() + profile.client_info.as_deref().map_or(0, str::len);
        memory.introduced = (bytes <= MAX_REMEMBERED_BYTES).then(|| Arc::clone(&profile));
        Ok(profile)
    }

    /// The session that `text` names to a server and caller, as it was when the same was last shown on this
    /// connection: the keys that it was sealed under last as long as the process.
    pub(crate) fn session(&self, seals: &Seals, binding: &Binding<'_>, text: &str) -> Option<SessionName> {
        let mut memory = self.lock();
        let is_known = |known: &&Named| {
            *known.text == *text && known.caller == binding.caller && known.server == *binding.server
        };
        if let Some(known) = memory.session.as_ref().filter(is_known) {
            return Some(known.name.clone());
        }
        let name = SessionName::open(seals, binding, text)?;
        let (server, caller) = (binding.server.clone(), binding.caller);
        memory.session = Some(Named { text: text.into(), server, caller, name: name.clone() });
        Some(name)
    }

    /// What verifying gave when the same field was last shown on this connection.
    pub(super) fn remembered(
        &self,
        field: &HeaderValue,
        profile: &Profile,
        monotonic: Duration,
    ) -> Option<Arc<Verified>> {
        let memory = self.lock();
        let remembered = memory.token.as_ref()?;
        let known = &remembered.known;
        let trusted = || profile.trusts(known.trust);
        let same = remembered.field == *field && known.is_current(monotonic) && trusted();
        same.then(|| known.outcome.clone().ok())?
    }

    pub(super) fn remember(&self, remembered: Remembered) {
        self.lock().token = Some(remembered);
    }

    /// Whom the certificate names by these rules, if that was asked before.
    pub(super) fn named(&self, rules: &Arc<CertificateRules>) -> Option<Arc<Verified>> {
        let memory = self.lock();
        let (known, verified) = memory.named.as_ref()?;
        Arc::ptr_eq(known, rules).then(|| Arc::clone(verified))
    }

    pub(super) fn name(&self, rules: &Arc<CertificateRules>, verified: &Arc<Verified>) {
        self.lock().named = Some((Arc::clone(rules), Arc::clone(verified)));
    }

    fn lock(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use portunus_filters::mcp::bridge::META_CLIENT_CAPABILITIES;

    #[test]
    fn what_a_client_says_of_itself_is_read_once_unless_it_is_long_or_something_else() {
        let guest = Guest::default();
        let introduced = |capabilities: &str| {
            let meta = format!("{{\"{META_CLIENT_CAPABILITIES}\":{capabilities}}}");
            guest.introduced(&Object::read(&meta).unwrap()).ok()
        };
        let same = |one: &str, two: &str| {
            let (one, two) = (introduced(one).unwrap(), introduced(two).unwrap());
            assert!(one.capabilities.len() > 1 && two.capabilities.len() > 1);
            Arc::ptr_eq(&one, &two)
        };
        assert!(same("{}", "{}"));
        assert!(!same("{}", "{\"roots\":{}}"));
        assert!(introduced("[]").is_none());
        let long = format!("{{\"experimental\":{{\"a\":\"{}\"}}}}", "x".repeat(MAX_REMEMBERED_BYTES));
        assert!(!same(&long, &long));
    }
}
