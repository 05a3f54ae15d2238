//! What is known of whoever is at the other end of a connection.

use super::tokens::Known;
use crate::backend::headers::{ClientHeaders, HeaderCache, detached};
use crate::drain::Phases;
use crate::frontend::bridge::sessions::Session;
use crate::frontend::context::Active;
use crate::frontend::edge::LiveTls;
use crate::keepalive_timer::SharedTimer;
use crate::sealing::{Binding, CallerKey, Seals, SessionName};
use http::{HeaderMap, HeaderValue};
use portunus_config::{ClientNames, ListenerTls, Profile, ServerId, VirtualServer};
use portunus_filters::identity::{Certificate, Digest, Fault, Verified};
use portunus_filters::mcp::bridge;
use portunus_filters::mcp::object::Object;
use portunus_filters::{Denial, Identity, Moment, Pipeline};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;
use tokio_rustls::rustls::pki_types::CertificateDer;

/// What a client says of itself at greater length than this is read each time: idle connections should
/// not hold much.
const MAX_REMEMBERED_BYTES: usize = 2048;

/// The same of one field: tokens and session ids may be longer.
const MAX_FIELD_BYTES: usize = 8192;

/// For how long a certificate that a listener would take is not looked at again, while nothing changes:
/// those that signed it may expire, and their revocation lists.
const LOOK_AGAIN: Duration = Duration::from_secs(10);

/// The other end of a connection: its certificate, and what was last shown on it.
pub struct ConnectionState {
    /// The end of the process, as the connection is told of it: its calls share no lock with others to wait for that.
    pub(crate) phases: Phases,
    shown: Option<ShownCertificate>,
    memory: Mutex<Memory>,
    /// How long its connection is silent.
    pub(crate) shared_timer: SharedTimer,
}

#[derive(Default)]
struct Memory {
    token: Option<Remembered>,
    named: Option<(Arc<ClientNames>, Arc<Verified>)>,
    digested: Option<(HeaderValue, Digest)>,
    introduced: Option<Introduced>,
    session: Option<Named>,
    header_cache: Option<HeaderCache>,
    permitted_headers: Option<Permitted<ClientHeaders>>,
    permitted_profile: Option<Permitted<bridge::Profile>>,
}

/// A certificate that was shown in a handshake.
struct ShownCertificate {
    certificate: Certificate,
    /// All that was shown, the certificate first.
    chain: Vec<CertificateDer<'static>>,
    /// How its listener speaks TLS, whatever a reload brings.
    tls: Arc<LiveTls>,
    /// What the listener had in force when it last would have taken it, and until when that is enough.
    accepted: Mutex<Option<(Weak<ListenerTls>, Duration)>>,
}

/// What a modern client said of itself.
struct Introduced {
    /// The `_meta` in which it did.
    said: Box<str>,
    profile: Arc<bridge::Profile>,
}

/// Something that a client says of itself, and what the filters of a snapshot made of it.
struct Permitted<T> {
    serial: u64,
    said: Arc<T>,
    made: Arc<T>,
}

/// A session id that was opened.
struct Named {
    /// The whole field.
    field: HeaderValue,
    server: ServerId,
    caller: CallerKey,
    name: Arc<SessionName>,
    /// The session, and when it has to be looked up again.
    found: Option<(Weak<Session>, Duration)>,
}

/// What a session id stands for.
pub(crate) struct Recalled {
    /// What the id says.
    pub(crate) name: Arc<SessionName>,
    /// The session that was found by it, where that was a moment ago and it has not ended since.
    pub(crate) session: Option<Arc<Session>>,
}

/// A token that was shown and verified.
pub(super) struct Remembered {
    /// The whole field.
    pub(super) field: HeaderValue,
    /// What is known of it.
    pub(super) known: Arc<Known>,
}

impl ConnectionState {
    /// Somebody who has shown nothing, and is told of these phases.
    pub fn new(phases: Phases) -> ConnectionState {
        ConnectionState {
            phases,
            shown: None,
            memory: Mutex::default(),
            shared_timer: SharedTimer::default(),
        }
    }

    /// Somebody who showed these certificates, its own first, in a handshake with `tls`.
    pub fn with_certificates(
        phases: Phases,
        chain: &[CertificateDer<'_>],
        tls: &Arc<LiveTls>,
    ) -> ConnectionState {
        let shown = chain.first().map(|leaf| ShownCertificate {
            certificate: Certificate::read(leaf).unwrap_or_else(|_| Certificate::unreadable(leaf)),
            chain: chain.iter().map(|der| der.clone().into_owned()).collect(),
            tls: Arc::clone(tls),
            accepted: Mutex::default(),
        });
        ConnectionState { shown, ..ConnectionState::new(phases) }
    }

    /// The client's certificate.
    pub fn certificate(&self) -> Option<&Certificate> {
        self.shown.as_ref().map(|shown| &shown.certificate)
    }

    /// Holds the certificate to what its listener would take now: a connection outlives its handshake.
    ///
    /// # Errors
    /// [`Fault::Withdrawn`].
    pub fn check_certificate(&self, now: Moment) -> Result<(), Fault> {
        self.shown.as_ref().map_or(Ok(()), |shown| shown.check(now))
    }

    /// Whom the certificate names by these rules.
    pub(super) fn named_by(&self, names: &ClientNames, wall: Duration) -> Result<Verified, Fault> {
        let shown = self.shown.as_ref().ok_or(Fault::NoCertificate)?;
        names.verify(&shown.certificate, &shown.chain, wall)
    }

    /// The digest of a field: as it was when the same field was last shown on this connection, or by
    /// `make`.
    pub(super) fn digest(&self, field: &HeaderValue, make: impl FnOnce(&HeaderValue) -> Digest) -> Digest {
        let mut memory = self.lock();
        if let Some((_, digest)) = memory.digested.as_ref().filter(|(digested, _)| digested == field) {
            return *digest;
        }
        let digest = make(field);
        memory.digested = is_short(field).then(|| (detached(field), digest));
        digest
    }

    /// What a modern request with these parameters says of its client in `_meta`: as it was when a
    /// request on this connection last said the same.
    ///
    /// # Errors
    /// As [`bridge::Profile::of_envelope`].
    pub(crate) fn introduced(&self, params: &Object<'_>) -> Result<Arc<bridge::Profile>, Denial> {
        let said = params.get("_meta").unwrap_or_default();
        let mut memory = self.lock();
        let known = memory.introduced.as_ref();
        if let Some(known) = known.filter(|known| *known.said == *said) {
            return Ok(Arc::clone(&known.profile));
        }
        let meta = params.inside("_meta").ok().flatten().unwrap_or_default();
        // Of `_meta` there may be more that differs from call to call.
        if let Some(known) = known.filter(|known| known.profile.is_of_envelope(&meta)) {
            return Ok(Arc::clone(&known.profile));
        }
        let profile = Arc::new(bridge::Profile::of_envelope(&meta)?);
        let known = || Introduced { said: said.into(), profile: Arc::clone(&profile) };
        memory.introduced = (said.len() <= MAX_REMEMBERED_BYTES).then(known);
        Ok(profile)
    }

    /// A client's description of itself, as the filters of a snapshot let servers have it.
    ///
    /// # Errors
    /// What a filter refuses.
    pub(crate) fn permitted_profile(
        &self,
        said: &Arc<bridge::Profile>,
        active: &Active,
    ) -> Result<Arc<bridge::Profile>, Denial> {
        let change = |pipeline: &Pipeline| said.changed_by(|place, text| pipeline.client_text(place, text));
        self.permitted(|memory| &mut memory.permitted_profile, (said, said.bytes()), active, change)
    }

    /// Headers of a client that go up, as the filters of a snapshot let servers have them.
    ///
    /// # Errors
    /// What a filter refuses.
    pub(crate) fn permitted_headers(
        &self,
        said: &Arc<ClientHeaders>,
        active: &Active,
    ) -> Result<Arc<ClientHeaders>, Denial> {
        let change = |pipeline: &Pipeline| said.changed_by(pipeline);
        self.permitted(|memory| &mut memory.permitted_headers, (said, said.bytes()), active, change)
    }

    /// Something that a client says, as the filters of a snapshot leave it: as the last time where that was the same, or as
    /// `change` says.
    fn permitted<T>(
        &self,
        place: impl Fn(&mut Memory) -> &mut Option<Permitted<T>>,
        (said, bytes): (&Arc<T>, usize),
        active: &Active,
        change: impl FnOnce(&Pipeline) -> Result<Option<T>, Denial>,
    ) -> Result<Arc<T>, Denial> {
        if !active.pipeline.reads_client_texts() {
            return Ok(Arc::clone(said));
        }
        let serial = active.snapshot.serial;
        let is_known = |known: &&Permitted<T>| known.serial == serial && Arc::ptr_eq(&known.said, said);
        if let Some(known) = (*place(&mut self.lock())).as_ref().filter(is_known) {
            return Ok(Arc::clone(&known.made));
        }
        let made = change(&active.pipeline)?.map_or_else(|| Arc::clone(said), Arc::new);
        let permitted = Permitted { serial, said: Arc::clone(said), made: Arc::clone(&made) };
        *place(&mut self.lock()) = (bytes <= MAX_REMEMBERED_BYTES).then_some(permitted);
        Ok(made)
    }

    /// What a field names to a server and caller, as it was when the same was last shown on this
    /// connection: the keys that it was sealed under last as long as the process.
    pub(crate) fn recall(
        &self,
        seals: &Seals,
        binding: &Binding<'_>,
        field: &HeaderValue,
        now: Duration,
    ) -> Option<Recalled> {
        let mut memory = self.lock();
        let is_known = |known: &&Named| {
            known.field == *field && known.caller == binding.caller && known.server == *binding.server
        };
        if let Some(known) = memory.session.as_ref().filter(is_known) {
            let found = known.found.as_ref().filter(|(_, until)| now < *until);
            let session = found.and_then(|(session, _)| session.upgrade());
            let session = session.filter(|session| !session.is_over());
            return Some(Recalled { name: Arc::clone(&known.name), session });
        }
        let name = Arc::new(SessionName::open(seals, binding, field.to_str().ok()?)?);
        let (server, caller) = (binding.server.clone(), binding.caller);
        let known = Named { field: detached(field), server, caller, name: Arc::clone(&name), found: None };
        memory.session = is_short(field).then_some(known);
        Some(Recalled { name, session: None })
    }

    /// The headers of a request that go up, see [`ClientHeaders::of`]: as they were with the last request on this
    /// connection where nothing differs that counts.
    pub(crate) fn client_headers(
        &self,
        headers: &HeaderMap,
        server: &Arc<VirtualServer>,
    ) -> Arc<ClientHeaders> {
        HeaderCache::choose(&mut self.lock().header_cache, headers, server, MAX_REMEMBERED_BYTES)
    }

    /// The key of a caller: that of the last request on this connection where caller and headers that go up are the
    /// same, or the one that `make` gives.
    pub(crate) fn caller_key(
        &self,
        identity: &Identity,
        client_headers: &Arc<ClientHeaders>,
        make: impl FnOnce() -> CallerKey,
    ) -> CallerKey {
        let known = self
            .lock()
            .header_cache
            .as_ref()
            .and_then(|header_cache| header_cache.caller_key(identity, client_headers));
        known.unwrap_or_else(|| {
            let key = make();
            if let Some(header_cache) = &mut self.lock().header_cache {
                header_cache.keep_caller_key(identity, client_headers, key);
            }
            key
        })
    }

    /// Notes that the session of a name was found, and when it has to be looked up again.
    pub(crate) fn found(&self, name: &Arc<SessionName>, session: &Arc<Session>, until: Duration) {
        let mut memory = self.lock();
        if let Some(known) = memory.session.as_mut().filter(|known| Arc::ptr_eq(&known.name, name)) {
            known.found = Some((Arc::downgrade(session), until));
        }
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
        self.lock().token = Some(remembered).filter(|remembered| is_short(&remembered.field));
    }

    /// Whom the certificate names by these rules, if that was asked before.
    pub(super) fn named(&self, rules: &Arc<ClientNames>) -> Option<Arc<Verified>> {
        let memory = self.lock();
        let (known, verified) = memory.named.as_ref()?;
        Arc::ptr_eq(known, rules).then(|| Arc::clone(verified))
    }

    pub(super) fn name(&self, rules: &Arc<ClientNames>, verified: &Arc<Verified>) {
        self.lock().named = Some((Arc::clone(rules), Arc::clone(verified)));
    }

    fn lock(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a field is remembered.
fn is_short(field: &HeaderValue) -> bool {
    field.len() <= MAX_FIELD_BYTES
}

impl ShownCertificate {
    fn check(&self, now: Moment) -> Result<(), Fault> {
        let current = self.tls.current();
        let mut accepted = self.accepted.lock().unwrap_or_else(PoisonError::into_inner);
        let is_known = |(tls, until): &(Weak<ListenerTls>, Duration)| {
            tls.as_ptr() == Arc::as_ptr(&current) && now.monotonic < *until
        };
        if accepted.as_ref().is_some_and(is_known) {
            return Ok(());
        }
        *accepted = None;
        let clients = current.clients.as_ref().ok_or(Fault::Withdrawn)?;
        clients.verify(&self.chain, now.wall).map_err(|_| Fault::Withdrawn)?;
        *accepted = Some((Arc::downgrade(&current), now.monotonic + LOOK_AGAIN));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use portunus_filters::mcp::bridge::{META_CLIENT_CAPABILITIES, Parts};
    use std::cell::Cell;

    #[test]
    fn what_a_client_says_of_itself_is_read_once_unless_it_is_long_or_something_else() {
        let connection_state = ConnectionState::new(Phases::default());
        let (said, varies) = (Cell::new(0), Cell::new(false));
        let introduced = |capabilities: &str| {
            said.set(said.get() + 1);
            let rest = if varies.get() { format!(",\"n\":{}", said.get()) } else { String::new() };
            let params = format!("{{\"_meta\":{{\"{META_CLIENT_CAPABILITIES}\":{capabilities}{rest}}}}}");
            let message = format!("{{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"ping\",\"params\":{params}}}");
            connection_state.introduced(Parts::read(&message).unwrap().params()).ok()
        };
        let same = |one: &str, two: &str| {
            let (one, two) = (introduced(one).unwrap(), introduced(two).unwrap());
            assert!(one.capabilities.len() > 1 && two.capabilities.len() > 1);
            Arc::ptr_eq(&one, &two)
        };
        assert!(same("{}", "{}"));
        varies.set(true);
        assert!(same("{}", "{}"));
        assert!(!same("{}", "{\"roots\":{}}"));
        assert!(introduced("[]").is_none());
        let long = format!("{{\"experimental\":{{\"a\":\"{}\"}}}}", "x".repeat(MAX_REMEMBERED_BYTES));
        assert!(!same(&long, &long));
    }
}
