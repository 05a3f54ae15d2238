//! How a legacy client's session begins, is found again, and ends.

use super::answering::Answering;
use super::desk::{Desk, params};
use super::sessions::Session;
use super::{call, lists};
use crate::context::Gateway;
use crate::errand::{self, Errand};
use crate::estate::Estate;
use crate::forward::Failure;
use crate::legs::Leg;
use crate::respond::End;
use crate::sealing::{Binding, CallerKey, SealedLeg, SessionToken, Token, UpstreamMark};
use crate::talk::Place;
use http::{HeaderMap, HeaderName};
use portunus_config::VirtualServer;
use portunus_filters::mcp::Revision;
use portunus_filters::mcp::bridge::{self, Facts, LogLevel, Profile};
use portunus_filters::mcp::object::Object;
use portunus_filters::{Denial, Era, Identity, Message, Reason};
use ring::rand::{SecureRandom, SystemRandom};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::timeout;

pub(super) const MCP_SESSION_ID: HeaderName = HeaderName::from_static("mcp-session-id");

/// What one server said when a session with it began.
struct Greeting {
    facts: Arc<Facts>,
    leg: Option<Arc<Leg>>,
}

/// Founds a session: every server is greeted at once, each within the deadline of a fan-out.
pub(super) async fn found(
    desk: &Desk<'_>,
    message: &Message,
    out: &mut Answering<'_>,
) -> Result<End, Denial> {
    desk.admit(message)?;
    let fields = params(message)?;
    let profile = Arc::new(Profile::of_initialize(&fields)?);
    let version = agreed(&fields);
    let (greetings, missing) = greet_all(desk, &profile, version).await?;
    let session = Arc::new(Session::new(number()?, desk.server.id.clone(), version, profile, true));
    let mut sealed = Vec::new();
    for (place, greeting) in &greetings {
        if let Some(leg) = &greeting.leg {
            session.hold(place.upstream.key, Arc::clone(leg));
            desk.gateway.estate.hub.own(leg, &session);
            sealed.push(SealedLeg {
                upstream: UpstreamMark::of(&place.upstream.name, &place.upstream.url),
                id: leg.id().and_then(|id| id.to_str().ok()).unwrap_or_default().into(),
                version: leg.version,
            });
        }
    }
    let text = seal(desk, &session, sealed);
    let facts: Vec<_> = greetings
        .iter()
        .map(|(place, greeting)| (Arc::clone(&place.upstream.name), Arc::clone(&greeting.facts)))
        .collect();
    let facts = lists::merged(desk, &facts);
    let result = lists::with_missing(facts.initialize_result(version), &missing);
    desk.gateway.estate.sessions.insert(&desk.server, &session, lifetime(desk), desk.gateway);
    out.outcome.answered(None);
    Ok(out.founding(&text, bridge::wrap_result(call::id_text(message), &result)).await)
}

fn number() -> Result<[u8; 16], Denial> {
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

type Greetings = Vec<(Place, Greeting)>;

/// Greets every server. One that cannot be reached is missing; if all are, that is the answer.
async fn greet_all(
    desk: &Desk<'_>,
    profile: &Arc<Profile>,
    version: Revision,
) -> Result<(Greetings, Vec<(Arc<str>, Reason)>), Denial> {
    let active = desk.gateway.active();
    let mut tasks = JoinSet::new();
    for (index, upstream) in desk.upstreams().into_iter().enumerate() {
        let place = desk.place(&active, upstream, profile)?;
        let (gateway, within) = (Arc::clone(desk.gateway), desk.server.list_timeout);
        tasks.spawn(async move {
            let greeting = greet(&gateway, &place, version, within).await;
            (index, place, greeting)
        });
    }
    drop(active);
    let mut done = tasks.join_all().await;
    done.sort_by_key(|(index, ..)| *index);
    let (mut greetings, mut missing, mut first) = (Vec::new(), Vec::new(), None);
    for (_, place, greeting) in done {
        match greeting {
            Ok(greeting) => greetings.push((place, greeting)),
            Err(failure) => {
                missing.push((Arc::clone(&place.upstream.name), failure.denial.reason));
                first.get_or_insert(failure.denial);
            }
        }
    }
    match first {
        Some(denial) if greetings.is_empty() => Err(denial),
        _ => Ok((greetings, missing)),
    }
}

async fn greet(
    gateway: &Arc<Gateway>,
    place: &Place,
    version: Revision,
    within: Duration,
) -> Result<Greeting, Failure> {
    let greeting = async {
        if gateway.estate.eras.choose(gateway, place, Era::Legacy).await? == Era::Legacy {
            let leg = gateway.estate.legs.own(gateway, place, version).await?;
            return Ok(Greeting { facts: Arc::clone(&leg.facts), leg: Some(leg) });
        }
        let said = errand::ask(gateway, place, Errand::Discover).await?;
        let text = std::str::from_utf8(&said).unwrap_or_default();
        let malformed =
            |_| Denial::new(Reason::UpstreamMalformed, "what the server says of itself cannot be read");
        Ok(Greeting { facts: Arc::new(Facts::of_discover(text).map_err(malformed)?), leg: None })
    };
    timeout(within, greeting).await.unwrap_or_else(|_| {
        Err(Denial::new(Reason::UpstreamTimeout, "the server did not answer in time").into())
    })
}

fn seal(desk: &Desk<'_>, session: &Session, legs: Vec<SealedLeg>) -> String {
    let token = SessionToken {
        issued: desk.gateway.clock.now().wall.as_secs(),
        version: session.version,
        number: session.number,
        home: desk.gateway.estate.home.clone(),
        legs,
    };
    token.seal(&desk.gateway.estate.seals, &binding(desk)).text
}

fn binding<'a>(desk: &'a Desk<'_>) -> Binding<'a> {
    Binding { server: &desk.server.id, caller: desk.bearer }
}

/// The session that a request names.
///
/// # Errors
/// [`Reason::MissingSession`]; [`Reason::UnknownSession`], the same whether it ended, never was, or is
/// somebody else's.
pub(super) fn session(desk: &Desk<'_>) -> Result<Arc<Session>, Denial> {
    let named = desk.inbound.headers.get(MCP_SESSION_ID);
    let missing =
        || Denial::new(Reason::MissingSession, "the `Mcp-Session-Id` header is missing: initialize first");
    let unknown = || Denial::new(Reason::UnknownSession, "Session not found");
    let text = named.ok_or_else(missing)?.to_str().map_err(|_| unknown())?;
    let estate = &desk.gateway.estate;
    let token = SessionToken::open(&estate.seals, &binding(desk), text).ok_or_else(unknown)?;
    let now = desk.gateway.clock.now();
    if token.is_over(now.wall, lifetime(desk)) || estate.sessions.is_ended(&token.number) {
        return Err(unknown());
    }
    estate.sessions.find(&desk.server.id, &token.number, desk.gateway).ok_or_else(unknown)
}

/// How long a session of this caller may last.
fn lifetime(desk: &Desk<'_>) -> Duration {
    let anonymous = matches!(desk.arrival.identity, Identity::Anonymous { .. });
    desk.server.sessions.lifetime_of(anonymous)
}

/// Ends a session, here and at the servers it was opened with.
pub(super) fn end(desk: &Desk<'_>, session: &Arc<Session>) {
    desk.gateway.estate.sessions.end(session, lifetime(desk), desk.gateway);
}

/// The session's own session with a server; `None` if that server is a modern one.
///
/// # Errors
/// [`Failure`] if there is none and none can be made.
pub(super) async fn leg(
    desk: &Desk<'_>,
    session: &Arc<Session>,
    place: &Place,
) -> Result<Option<Arc<Leg>>, Failure> {
    if let Some(leg) = session.leg(&place.upstream.key) {
        if !leg.is_dead() {
            return Ok(Some(leg));
        }
        session.release(&place.upstream.key);
    }
    let estate = &desk.gateway.estate;
    if estate.eras.choose(desk.gateway, place, Era::Legacy).await? == Era::Modern {
        return Ok(None);
    }
    let leg = estate.legs.own(desk.gateway, place, session.version).await?;
    if let Some(level) = session.level() {
        leg.set_level(desk.gateway, level).await?;
    }
    session.hold(place.upstream.key, Arc::clone(&leg));
    estate.hub.own(&leg, session);
    Ok(Some(leg))
}

/// What the client says of itself, with the log level that it has set since.
pub(super) fn profile_now(session: &Session) -> Arc<Profile> {
    match session.level() {
        None => Arc::clone(&session.profile),
        level => Arc::new(session.profile.with_log_level(level)),
    }
}

/// `logging/setLevel`: kept for modern servers, told to legacy ones.
///
/// # Errors
/// [`Reason::InvalidParams`] for a level that does not exist; what a server's failure says.
pub(super) async fn set_level(desk: &Desk<'_>, session: &Session, fields: &Object<'_>) -> Result<(), Denial> {
    let wrong = || Denial::new(Reason::InvalidParams, "`level` must be one of debug to emergency");
    let level = fields.text("level").and_then(|level| LogLevel::parse(&level)).ok_or_else(wrong)?;
    session.set_level(level);
    for leg in session.legs() {
        if leg.facts.has("logging") {
            leg.set_level(desk.gateway, level).await.map_err(|failure| failure.denial)?;
        }
    }
    Ok(())
}

/// Whether the session id of a request is one of ours, for this caller.
pub fn is_sealed(estate: &Estate, server: &VirtualServer, identity: &Identity, headers: &HeaderMap) -> bool {
    let binding = Binding { server: &server.id, caller: CallerKey::for_seals(identity) };
    let named = headers.get(MCP_SESSION_ID).and_then(|id| id.to_str().ok());
    named.is_some_and(|id| SessionToken::open(&estate.seals, &binding, id).is_some())
}
