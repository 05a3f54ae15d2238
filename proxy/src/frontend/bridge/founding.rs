//! How a legacy client's session begins, is found again, and ends.

use super::replay::Replay;
use super::responder::Responder;
use super::served_call::{ServedCall, params};
use super::sessions::Session;
use super::{adoption, call, hub, lists};
use crate::backend::forward::Failure;
use crate::backend::headers::MCP_SESSION_ID;
use crate::backend::upstream_call::{SessionOwner, UpstreamTarget};
use crate::backend::upstream_sessions::UpstreamSession;
use crate::frontend::context::Gateway;
use crate::frontend::session::End;
use crate::identify::Recalled;
use crate::sealing::{Binding, SealedUpstreamSession, SessionToken};
use async_trait::async_trait;
use portunus_config::UpstreamKey;
use portunus_filters::mcp::Revision;
use portunus_filters::mcp::bridge::{self, Facts, LogLevel, Profile};
use portunus_filters::mcp::object::Object;
use portunus_filters::{Channel, Denial, Era, Message, Reason, Released};
use ring::rand::{SecureRandom, SystemRandom};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// A session in use is looked up this often, or more often where less keeps it from being idle.
const FOUND_FOR: Duration = Duration::from_secs(1);

/// Founds a session: every server is greeted at once, each within the deadline of a fan-out.
pub(super) async fn found(
    served: &ServedCall<'_>,
    message: &Message,
    out: &mut Responder<'_>,
) -> Result<End, Denial> {
    let Founded { session, sealed, result } = begin(served, message).await?;
    let text = seal(served, &session, sealed);
    out.record.note_answer(None);
    let told = result.translated(bridge::wrap_result(call::id_text(message), result.text()));
    Ok(out.founding(&text, told).await)
}

/// A session that has begun.
pub(super) struct Founded {
    pub(super) session: Arc<Session>,
    /// What other replicas could go on with.
    sealed: Vec<SealedUpstreamSession>,
    /// The result of `initialize`.
    pub(super) result: Released,
}

/// Begins a session.
pub(super) async fn begin(served: &ServedCall<'_>, message: &Message) -> Result<Founded, Denial> {
    let admitted = served.admit(message)?;
    let fields = params(admitted.message(message))?;
    let said = Arc::new(Profile::of_initialize(&fields)?);
    let version = agreed(&fields);
    let greetings = greet_all(served, &served.permitted(Arc::clone(&said))?, version).await?;
    let session = Session::new(session_number()?, served.context.server.id.clone(), version, said, true);
    let session = Arc::new(
        session.keeping(replay(served)).owned_by(served.owner(), served.context.client_headers.bytes()),
    );
    let mut sealed = Vec::new();
    for (upstream, upstream_session) in greetings.upstream_sessions {
        sealed.extend(seal_upstream_session(&upstream_session));
        own(served.gateway, &session, upstream, upstream_session).map_err(|failure| failure.denial)?;
    }
    greetings.unreached.into_iter().for_each(|upstream| session.expect_upstream_session(upstream));
    let facts = lists::merged(served, &greetings.facts);
    let result = lists::with_missing(facts.initialize_result(version), &greetings.missing);
    let released = admitted.responses.inspectors().release(Channel::ServerInfo, &result.into());
    let result = released.inspect_err(|_| end(served, &session))?;
    served.gateway.estate.sessions.insert(&served.context.server, &session, lifetime(served), served.gateway);
    Ok(Founded { session, sealed, result })
}

/// What another replica could go on with: of a session that is its stream, nothing.
fn seal_upstream_session(upstream_session: &UpstreamSession) -> Option<SealedUpstreamSession> {
    let at = &upstream_session.place().upstream;
    (!upstream_session.is_relayed()).then(|| SealedUpstreamSession {
        upstream: at.mark,
        id: upstream_session.id().and_then(|id| id.to_str().ok()).unwrap_or_default().into(),
        version: upstream_session.version,
    })
}

/// What keeps the events of a new session, where its virtual server wants that.
pub(super) fn replay(served: &ServedCall<'_>) -> Option<Arc<Replay>> {
    let estate = &served.gateway.estate;
    // Different from every other of this run, and most likely from those of others.
    let number = u32::try_from(served.gateway.backend.number() & u64::from(u32::MAX)).unwrap_or_default();
    let table = estate.home.boot().wrapping_add(number);
    served.context.server.replay.map(|rules| Replay::new(rules, table, estate.sessions.kept()))
}

pub(crate) fn session_number() -> Result<[u8; 16], Denial> {
    let mut number = [0; 16];
    let failed = |_| Denial::new(Reason::Overloaded, "the system has no randomness");
    SystemRandom::new().fill(&mut number).map_err(failed)?;
    Ok(number)
}

/// The revision of the session: the client's, if it is a legacy one that exists.
fn agreed(fields: &Object<'_>) -> Revision {
    let asked = fields.text("protocolVersion").and_then(|asked| Revision::parse(&asked));
    asked.filter(|revision| revision.era() == Era::Legacy).unwrap_or(Revision::V2025_11_25)
}

/// Members and what became of greeting them.
#[derive(Default)]
struct Greetings {
    /// What the servers that spoke say of themselves.
    facts: Vec<(Arc<str>, Arc<Facts>)>,
    /// Sessions of legacy servers, by the upstream as it is configured.
    upstream_sessions: Vec<(UpstreamKey, Arc<UpstreamSession>)>,
    /// Members whose servers did not speak.
    missing: Vec<(Arc<str>, Reason)>,
    /// Upstreams of these.
    unreached: Vec<UpstreamKey>,
}

/// Greets every server that the caller is told of and that is not known to be down. One that cannot be
/// reached is missing, and gets its session with the first call that needs it; if all are, that is the
/// answer.
async fn greet_all(
    served: &ServedCall<'_>,
    profile: &Arc<Profile>,
    version: Revision,
) -> Result<Greetings, Denial> {
    let merged = served.lists(profile, &[]).await?;
    let told = |member| served.tells_of(member);
    let known = merged.known_facts(&told);
    let mut greetings = Greetings { missing: merged.silent(&told), ..Greetings::default() };
    let active = served.active();
    let mut tasks = JoinSet::new();
    for (index, member) in served.context.server.members.iter().enumerate() {
        let Some(upstream) = served.chosen(member) else { continue };
        let Some((_, facts)) = known.iter().find(|(name, _)| *name == member.name) else {
            greetings.unreached.extend(told(index).then_some(upstream.key));
            continue;
        };
        let place = served.place(&active, upstream, profile)?;
        let (gateway, within) = (Arc::clone(served.gateway), served.context.server.list_timeout);
        let facts = (Arc::clone(&member.name), Arc::clone(facts));
        tasks.spawn(async move {
            (index, facts, place.upstream.key, greet(&gateway, &place, version, within).await)
        });
    }
    drop(active);
    let mut done = tasks.join_all().await;
    done.sort_by_key(|(index, ..)| *index);
    let mut first = None;
    for (_, (member, facts), upstream, upstream_session) in done {
        match upstream_session {
            Ok(upstream_session) => {
                let own = upstream_session
                    .as_ref()
                    .map_or(facts, |upstream_session| Arc::clone(&upstream_session.facts));
                greetings.facts.push((member, own));
                greetings
                    .upstream_sessions
                    .extend(upstream_session.map(|upstream_session| (upstream, upstream_session)));
            }
            Err(failure) => {
                greetings.missing.push((member, failure.denial.reason));
                greetings.unreached.push(upstream);
                first.get_or_insert(failure.denial);
            }
        }
    }
    match first {
        Some(denial) if greetings.facts.is_empty() => Err(denial),
        _ => Ok(greetings),
    }
}

/// The client's own session with a server; `None` with a modern one.
async fn greet(
    gateway: &Arc<Gateway>,
    place: &UpstreamTarget,
    version: Revision,
    within: Duration,
) -> Result<Option<Arc<UpstreamSession>>, Failure> {
    let greeting = async {
        match gateway.backend.eras.choose(&gateway.backend, place, Era::Legacy).await? {
            Era::Legacy => {
                gateway.backend.session_pools.own(&gateway.backend, place, version).await.map(Some)
            }
            Era::Modern => Ok(None),
        }
    };
    timeout(within, greeting).await.unwrap_or_else(|_| {
        Err(Denial::new(Reason::UpstreamTimeout, "the server did not answer in time").into())
    })
}

fn seal(served: &ServedCall<'_>, session: &Session, upstream_sessions: Vec<SealedUpstreamSession>) -> String {
    let token = SessionToken {
        issued: served.gateway.clock.now().wall.as_secs(),
        version: session.version,
        number: session.number,
        home: served.gateway.estate.home.clone(),
        passes: false,
        abilities: session.profile.bits(),
        client: session.profile.client_info.as_deref().unwrap_or_default().into(),
        upstream_sessions,
    };
    token.seal(&served.gateway.estate.seals, &binding(served)).text
}

fn binding<'a>(served: &'a ServedCall<'_>) -> Binding<'a> {
    Binding { server: &served.context.server.id, caller: served.context.bearer }
}

/// The session that a request names.
///
/// # Errors
/// [`Reason::MissingSession`]; [`Reason::UnknownSession`], the same whether it ended, never was, or is
/// somebody else's.
pub(super) fn session(served: &ServedCall<'_>) -> Result<Arc<Session>, Denial> {
    let named = served.context.parts.headers.get(MCP_SESSION_ID);
    let missing =
        || Denial::new(Reason::MissingSession, "the `Mcp-Session-Id` header is missing: initialize first");
    let unknown = || Denial::new(Reason::UnknownSession, "Session not found");
    let named = named.ok_or_else(missing)?;
    let estate = &served.gateway.estate;
    let now = served.context.origin.arrival.at;
    let recalled =
        served.context.connection_state.recall(&estate.seals, &binding(served), named, now.monotonic);
    let Recalled { name, session } = recalled.ok_or_else(unknown)?;
    let name = name.for_caller(&served.context.origin.arrival.identity).ok_or_else(unknown)?;
    if name.is_over(now.wall, lifetime(served)) {
        return Err(unknown());
    }
    if let Some(session) = session {
        return Ok(session);
    }
    let number = name.number_for(served.context.bearer);
    if estate.sessions.is_ended(&number) {
        return Err(unknown());
    }
    let session = match estate.sessions.find(&served.context.server.id, &number, served.gateway) {
        Some(session) => session,
        // It was kept here and is no longer; or another replica takes this one for its home.
        None if name.passed.is_none() && (name.home == estate.home || served.context.relayed) => {
            return Err(unknown());
        }
        None => {
            let text = named.to_str().map_err(|_| unknown())?;
            let token =
                SessionToken::open_session(&estate.seals, &binding(served), text).ok_or_else(unknown)?;
            adoption::adopt(served, SessionToken { number, ..token })
        }
    };
    let again = FOUND_FOR.min(served.context.server.sessions.idle / 4);
    served.context.connection_state.found(&name, &session, now.monotonic + again);
    Ok(session)
}

/// How long a session of this caller may last.
pub(super) fn lifetime(served: &ServedCall<'_>) -> Duration {
    let anonymous = served.context.origin.arrival.identity.is_anonymous();
    served.context.server.sessions.lifetime_of(anonymous)
}

/// Ends a session, here and at the servers it was opened with.
pub(super) fn end(served: &ServedCall<'_>, session: &Arc<Session>) {
    served.gateway.estate.sessions.end(session, lifetime(served), served.gateway);
}

/// The session's own session with a server; `None` if that server is a modern one.
///
/// # Errors
/// [`Failure`] if there is none and none can be made.
pub(super) async fn upstream_session(
    served: &ServedCall<'_>,
    session: &Arc<Session>,
    place: &UpstreamTarget,
) -> Result<Option<Arc<UpstreamSession>>, Failure> {
    if let Some(upstream_session) = living(served.gateway, session, place.upstream.key)? {
        return Ok(Some(upstream_session));
    }
    let eras = &served.gateway.backend.eras;
    if eras.choose(&served.gateway.backend, place, Era::Legacy).await? == Era::Modern {
        return Ok(None);
    }
    obtain_upstream_session(served.gateway, session, place).await.map(Some)
}

/// The session's own session with a legacy server, for a request: the one it has, or a new one where
/// nothing that the client has done is missing from that.
///
/// # Errors
/// [`Reason::UnknownSession`] if something would be missing: the client must begin anew, and not go on
/// unaware of it. [`Failure`] if none can be made.
async fn obtain_upstream_session(
    gateway: &Arc<Gateway>,
    session: &Arc<Session>,
    place: &UpstreamTarget,
) -> Result<Arc<UpstreamSession>, Failure> {
    if let Some(upstream_session) = living(gateway, session, upstream_of(gateway, place))? {
        return Ok(upstream_session);
    }
    // What another replica knew of the session is not known here; only where there is nothing to know
    // is that of no consequence.
    if !session.native && !place.upstream.stateless_ok {
        return Err(Failure::session_lost());
    }
    restore(gateway, session, place).await
}

/// A client's session, and what it takes to give it another session with a server.
pub(super) struct OwnSession {
    pub(super) gateway: Arc<Gateway>,
    pub(super) session: Arc<Session>,
}

#[async_trait]
impl SessionOwner for OwnSession {
    async fn obtain_upstream_session(&self, place: &UpstreamTarget) -> Result<Arc<UpstreamSession>, Failure> {
        obtain_upstream_session(&self.gateway, &self.session, place).await
    }
}

/// The session's own session with a legacy server, for what the server says outside of calls: the one it
/// has, or a new one, with its log level and subscriptions. In the place of one that was lost, the client
/// is told that lists may have changed meanwhile.
///
/// # Errors
/// [`Failure`] if none can be made.
pub(super) async fn restore(
    gateway: &Arc<Gateway>,
    session: &Arc<Session>,
    place: &UpstreamTarget,
) -> Result<Arc<UpstreamSession>, Failure> {
    let upstream = upstream_of(gateway, place);
    let was_expected = session.expects_upstream_session(&upstream);
    let init_lock = session.init_lock(upstream);
    let _guard = init_lock.lock().await;
    if let Some(upstream_session) =
        session.upstream_session(&upstream).filter(|upstream_session| !upstream_session.is_dead())
    {
        return Ok(upstream_session);
    }
    let upstream_session =
        gateway.backend.session_pools.own(&gateway.backend, place, session.version).await?;
    own(gateway, session, upstream, Arc::clone(&upstream_session))?;
    if let Some(level) = session.level()
        && let Err(failure) = upstream_session.set_level(&gateway.backend, level).await
    {
        tracing::debug!(upstream = &*place.upstream.name, cause = failure.cause, "no log level set");
    }
    if was_expected {
        hub::subscribe_again(gateway, &upstream_session, session.uris_at(&place.upstream.name)).await;
        hub::tell_changed(gateway, session, &upstream_session);
    }
    Ok(upstream_session)
}

/// Gives a session its own session with a server.
fn own(
    gateway: &Arc<Gateway>,
    session: &Arc<Session>,
    upstream: UpstreamKey,
    upstream_session: Arc<UpstreamSession>,
) -> Result<(), Failure> {
    gateway.estate.hub.own(&upstream_session, session);
    session.hold(upstream, upstream_session).map_err(|upstream_session| {
        gateway.estate.hub.disown(&upstream_session);
        upstream_session.end(&gateway.backend);
        Failure::session_lost()
    })
}

/// The upstream session that a request goes on, if the session has one that lives.
fn living(
    gateway: &Arc<Gateway>,
    session: &Session,
    upstream: UpstreamKey,
) -> Result<Option<Arc<UpstreamSession>>, Failure> {
    let lost = |_| Failure::session_lost();
    let upstream_session = session.upstream_session_for_request(&upstream).map_err(lost)?;
    match upstream_session {
        Some(upstream_session) if upstream_session.is_dead() => {
            session.lose(&upstream, &upstream_session);
            gateway.estate.hub.disown(&upstream_session);
            session.upstream_session_for_request(&upstream).map_err(lost)
        }
        upstream_session => Ok(upstream_session),
    }
}

/// The upstream as it is configured, of which a place may be one of several.
fn upstream_of(gateway: &Gateway, place: &UpstreamTarget) -> UpstreamKey {
    gateway.backend.instances.whole(place.upstream.key).map_or(place.upstream.key, |whole| whole.key)
}

/// The description of a session's client as servers may have it now, with the log level that it has set since.
///
/// # Errors
/// What a filter refuses.
pub(super) fn profile_now(served: &ServedCall<'_>, session: &Session) -> Result<Arc<Profile>, Denial> {
    let permitted = served.profile_of(session)?;
    Ok(match session.level() {
        None => permitted,
        level => Arc::new(permitted.with_log_level(level)),
    })
}

/// `logging/setLevel`: kept for modern servers, told to legacy ones.
///
/// # Errors
/// [`Reason::InvalidParams`] for a level that does not exist; what a server's failure says.
pub(super) async fn set_level(
    served: &ServedCall<'_>,
    session: &Session,
    fields: &Object<'_>,
) -> Result<(), Denial> {
    let wrong = || Denial::new(Reason::InvalidParams, "`level` must be one of debug to emergency");
    let level = fields.text("level").and_then(|level| LogLevel::parse(&level)).ok_or_else(wrong)?;
    session.set_level(level);
    for upstream_session in session.upstream_sessions() {
        // What the server of a session that passed can do, nobody here has read.
        if upstream_session.facts.has("logging") || session.passed() {
            match upstream_session.set_level(&served.gateway.backend, level).await {
                Err(_) if session.passed() => {}
                // The one in its place gets it.
                Err(_) if upstream_session.is_dead() => {}
                set => set.map_err(|failure| failure.denial)?,
            }
        }
    }
    Ok(())
}
