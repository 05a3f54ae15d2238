//! Errands that are waited for.

use super::{Errand, WITHIN, aside, count};
use crate::backend::Backend;
use crate::backend::forward::{self, Dispatch, Exchange, Failure, Patience, Use, Wording, malformed};
use crate::backend::upstream_call::reading::Reading;
use crate::backend::upstream_call::server_message::ServerMessage;
use crate::backend::upstream_call::voice::{self, Fields, Voice};
use crate::backend::upstream_call::{Outcome, Place};
use crate::backend::upstream_sessions::{LeaseOptions, Leg};
use crate::backend::upstreams::answer_class::is_about_message;
use crate::backend::upstreams::pool::Pool;
use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use portunus_filters::mcp::Revision;
use portunus_filters::mcp::bridge::{self, Caching, Parts, Put};
use portunus_filters::{Denial, Era, Kind, Reason};
use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout};

/// Longest wait for an answer, if the upstream's own limits are longer.
const ANSWERED_WITHIN: Duration = Duration::from_secs(30);

/// Longest answer to what is no list: all others are kept for as long as the server is known.
const MAX_DESCRIPTION_BYTES: usize = 1 << 20;

/// Asks an upstream in the words of its era, and gives the text of the result in the same words.
///
/// Safe to drop: what was asked is broken off.
///
/// # Errors
/// [`Failure`], also for an error answer.
pub async fn ask(backend: &Arc<Backend>, place: &Place, errand: Errand) -> Result<Bytes, Failure> {
    let wanted = match errand {
        Errand::Subscribe { .. } | Errand::Unsubscribe { .. } | Errand::SetLevel { .. } | Errand::Ping => {
            Era::Legacy
        }
        _ => Era::Modern,
    };
    let era = backend.eras.choose(backend, place, wanted).await?;
    let (place, seat) = backend.settle(place.clone());
    let said = match era {
        Era::Modern => in_modern_words(backend, &place, &errand).await,
        Era::Legacy => in_legacy_words(backend, &place, &errand).await,
    };
    if let Some(seat) = seat {
        seat.judge(said.as_ref().err(), backend.clock.now().monotonic);
    }
    said
}

/// Whether an upstream answers at all: whatever it says to `server/discover` but that it is down.
pub(crate) async fn lives(backend: &Arc<Backend>, place: &Place) -> bool {
    let errand = Errand::Discover;
    match exchange(backend, place, &errand, Addressed::modern(&errand)).await {
        Ok(said) => !said.status.is_server_error(),
        Err(failure) => {
            matches!(failure.denial.reason, Reason::UpstreamUnauthorized | Reason::UpstreamLimited)
        }
    }
}

async fn in_modern_words(backend: &Arc<Backend>, place: &Place, errand: &Errand) -> Result<Bytes, Failure> {
    let said = exchange(backend, place, errand, Addressed::modern(errand)).await?;
    if said.contradicts(Era::Modern) {
        backend.contradicted(place, Era::Modern);
    }
    said.result(errand)
}

/// A leg that the upstream forgot is replaced once: what was asked on it was not read.
async fn in_legacy_words(backend: &Arc<Backend>, place: &Place, errand: &Errand) -> Result<Bytes, Failure> {
    let legs = &backend.legs;
    let lease = async |since| match errand {
        // What is said on the stream of a leg that all share finds nobody.
        Errand::Subscribe { .. } | Errand::Unsubscribe { .. } | Errand::SetLevel { .. } => {
            legs.lease(backend, place, LeaseOptions { exclusive: false, since }).await
        }
        _ => legs.lease_any(backend, place, since).await,
    };
    let leg = lease(None).await?;
    match asked(backend, &leg, errand).await {
        Err(_) if leg.is_dead() => {
            drop(leg);
            let leg = lease(Some(Instant::now())).await?;
            asked(backend, &leg, errand).await
        }
        result => result,
    }
}

async fn asked(backend: &Arc<Backend>, leg: &Arc<Leg>, errand: &Errand) -> Result<Bytes, Failure> {
    if let Errand::Discover = errand {
        return Ok(leg.facts.discover_result(Caching::NONE).into());
    }
    if let Errand::Subscribe { .. } = errand {
        // What is subscribed to is told on the stream: it should be there before.
        leg.listening().await;
    }
    on_leg_said(backend, leg, errand).await?.result(errand)
}

/// Runs an errand on a legacy session; gives the text of the result, if there is one.
pub(crate) async fn on_leg(backend: &Arc<Backend>, leg: &Arc<Leg>, errand: Errand) -> Result<Bytes, Failure> {
    on_leg_said(backend, leg, &errand).await?.result(&errand)
}

/// True if the server answers for a legacy session: an error is an answer too. While too many servers are asked
/// this, it is taken to; nothing is said of the server's health.
pub(crate) async fn answers_ping(backend: &Arc<Backend>, leg: &Arc<Leg>) -> bool {
    let Ok(_permit) = backend.asked.pings.try_acquire() else { return true };
    let (place, errand) = (leg.place(), Errand::Ping);
    let addressed = Addressed { fields: leg.posted().clone(), leg: Some(leg) };
    let asked = conversation(backend, place, &errand, addressed);
    let said = timeout(place.upstream.timeouts.first_byte.min(ANSWERED_WITHIN), asked).await;
    let said = said.ok().and_then(Result::ok);
    let answers = said.is_some_and(|said| !is_forgotten(backend, leg, &said) && said.outcome.is_some());
    count(backend, &errand, answers);
    answers
}

async fn on_leg_said(backend: &Arc<Backend>, leg: &Arc<Leg>, errand: &Errand) -> Result<Said, Failure> {
    let addressed = Addressed { fields: leg.posted().clone(), leg: Some(leg) };
    let said = exchange(backend, leg.place(), errand, addressed).await?;
    if is_forgotten(backend, leg, &said) { Err(Failure::forgotten()) } else { Ok(said) }
}

/// True if the server said that it does not know the leg, which is noted.
fn is_forgotten(backend: &Arc<Backend>, leg: &Arc<Leg>, said: &Said) -> bool {
    let is_unknown = leg.is_unknown(said.status, said.refusal.as_ref().map(|refusal| &*refusal.bytes));
    if is_unknown {
        leg.forgotten(backend);
    }
    is_unknown
}

/// Where an errand goes, beside its upstream.
pub(crate) struct Addressed<'a> {
    /// Fields of the request.
    pub(crate) fields: Fields,
    /// The legacy session.
    pub(crate) leg: Option<&'a Arc<Leg>>,
}

impl Addressed<'_> {
    /// To a modern upstream.
    pub(crate) fn modern(errand: &Errand) -> Addressed<'static> {
        let mut fields = voice::posted();
        let method = Cow::Borrowed(errand.method().unwrap_or_default());
        voice::mirror(&mut fields, Revision::V2026_07_28, method, None);
        Addressed { fields, leg: None }
    }
}

/// What an upstream said to an errand.
pub(crate) struct Said {
    /// The status.
    pub(crate) status: StatusCode,
    /// The headers.
    pub(crate) headers: HeaderMap,
    /// The answer, if it is one.
    pub(crate) outcome: Option<Outcome<Bytes>>,
    /// The body of a 4xx.
    pub(crate) refusal: Option<ServerMessage>,
}

impl Said {
    /// Whether only a server that does not speak `era` says this.
    pub(crate) fn contradicts(&self, era: Era) -> bool {
        let code = match &self.outcome {
            Some(Outcome::Error { code, .. }) => Some(*code),
            Some(Outcome::Result(_)) => return false,
            None => None,
        };
        match era {
            Era::Modern => is_about_message(self.status) && !code.is_some_and(is_modern_code),
            Era::Legacy => code.is_some_and(|code| code == -32022),
        }
    }

    /// Notes what it says of its server: one that limits how often it is asked, or sends an answer that is
    /// none, does not serve.
    fn note(&self, pool: &Pool, errand: &Errand) {
        let kind = errand.kind();
        let problem = match self.status {
            StatusCode::TOO_MANY_REQUESTS => Some("limited"),
            status if status.is_server_error() => Some("unavailable"),
            status if status.is_success() && errand.method().is_some() && self.outcome.is_none() => {
                Some("malformed")
            }
            _ => None,
        };
        match problem {
            None => pool.note_answer(),
            Some(_) => {
                let cause = format!("`{kind}` was answered by HTTP {}", self.status.as_u16());
                pool.note_failure(&Failure { cause, problem, ..malformed("the server does not serve") });
            }
        }
    }

    fn result(self, errand: &Errand) -> Result<Bytes, Failure> {
        let (kind, status) = (errand.kind(), self.status.as_u16());
        match self.outcome {
            Some(Outcome::Result(result)) => Ok(result),
            // A server that declares resources need not know of templates.
            Some(Outcome::Error { code: -32601, .. })
                if errand.method() == Some("resources/templates/list") =>
            {
                Ok(Bytes::from_static(br#"{"resourceTemplates":[]}"#))
            }
            None if errand.method().is_none() && self.status.is_success() => Ok(Bytes::new()),
            Some(Outcome::Error { code, .. }) => {
                let cause = format!("`{kind}` was answered by error {code} (HTTP {status})");
                Err(Failure { cause, ..malformed("the server refused what the gateway asked of it") })
            }
            None => {
                let cause = format!("`{kind}` was answered by HTTP {status} without a message");
                Err(Failure { cause, ..malformed("the server's answer is no JSON-RPC answer") })
            }
        }
    }
}

/// Codes that only a modern server gives, with a 4xx status (2026-07-28 basic, "Error Codes").
pub(crate) fn is_modern_code(code: i64) -> bool {
    matches!(code, -32022..=-32020 | -32602 | -32601)
}

/// Sends an errand and waits for the head of the answer.
pub(crate) async fn send(
    backend: &Arc<Backend>,
    place: &Place,
    errand: &Errand,
    addressed: Addressed<'_>,
) -> Result<Exchange, Failure> {
    send_as(backend, place, errand, &addressed, Bytes::new()).await
}

/// Sends an errand and reads on to its answer, within a time of its own.
pub(crate) async fn exchange(
    backend: &Arc<Backend>,
    place: &Place,
    errand: &Errand,
    addressed: Addressed<'_>,
) -> Result<Said, Failure> {
    let within = place.upstream.timeouts.first_byte.min(ANSWERED_WITHIN);
    let within = if errand.method().is_some() { within } else { within.min(WITHIN) };
    let exchanged = timeout(within, async {
        let _permit = backend.asked.most.acquire().await.ok();
        conversation(backend, place, errand, addressed).await
    });
    let said = exchanged.await.unwrap_or_else(|_| {
        let denial = Denial::new(Reason::UpstreamTimeout, "the server did not answer in time");
        Err(Failure { cause: format!("no answer to `{}` within {within:?}", errand.kind()), ..denial.into() })
    });
    count(backend, errand, said.is_ok());
    match &said {
        Ok(said) => said.note(&place.pool, errand),
        Err(failure) => place.pool.note_failure(failure),
    }
    said
}

async fn conversation(
    backend: &Arc<Backend>,
    place: &Place,
    errand: &Errand,
    addressed: Addressed<'_>,
) -> Result<Said, Failure> {
    if let Some(leg) = addressed.leg.filter(|leg| leg.is_relayed() && errand.method().is_some()) {
        return aside::ask(backend, leg, errand).await;
    }
    let number = match addressed.leg {
        Some(leg) => leg.number(),
        None => backend.number(),
    }
    .to_string();
    let body = worded(place, errand, &addressed, &number)?;
    let asked = errand.method().is_some();
    let kind = if asked { Kind::Request } else { Kind::Notification };
    let sent = send_as(backend, place, errand, &addressed, body).await?;
    let mut reading = Reading::begin(sent, &place.upstream, kind)?;
    let (status, headers) = (reading.status(), reading.headers().clone());
    let mut said = Said { status, headers, outcome: None, refusal: None };
    while asked || status.is_client_error() {
        let Some(message) = reading.next(Patience::default()).await? else { break };
        if status.is_client_error() {
            said.refusal = Some(message.clone());
        }
        if message.bytes.len() > MAX_DESCRIPTION_BYTES && !matches!(errand, Errand::List { .. }) {
            return Err(malformed("the server's answer is too long"));
        }
        match message.answer(&number, status.is_client_error()) {
            Some(outcome) => {
                said.outcome = Some(outcome);
                break;
            }
            None => match addressed.leg {
                Some(leg) => leg.overhear(backend, &message),
                None => overhear(backend, place, &message),
            },
        }
    }
    reading.finish();
    Ok(said)
}

/// Takes in what a server says beside its answer.
fn overhear(backend: &Backend, place: &Place, message: &ServerMessage) {
    if let Ok(content) = &message.content
        && let Some(method) = &content.method
    {
        backend.overheard(&place.upstream, method, message.text());
    }
}

pub(super) fn worded(
    place: &Place,
    errand: &Errand,
    addressed: &Addressed<'_>,
    number: &str,
) -> Result<Bytes, Failure> {
    if let Errand::Initialize { version } = errand {
        return Ok(bridge::initialize(&place.profile, number, *version));
    }
    let message = errand.message(number);
    if addressed.leg.is_some() {
        return Ok(message);
    }
    let unsayable = |_| malformed("what the gateway asks cannot be said");
    let text = std::str::from_utf8(&message).map_err(|_| malformed("what the gateway asks is not UTF-8"))?;
    let put = Put { id: number, progress_token: None, target: None };
    let modern = Parts::read(text)
        .and_then(|parts| bridge::modern_request(&parts, &put, &place.profile, Revision::V2026_07_28, None));
    modern.map(Bytes::from).map_err(unsayable)
}

pub(super) async fn send_as(
    backend: &Arc<Backend>,
    place: &Place,
    errand: &Errand,
    addressed: &Addressed<'_>,
    body: Bytes,
) -> Result<Exchange, Failure> {
    let voice = Voice::own(backend, &place.headers, place.owner);
    let method = errand.http();
    let repeatable = matches!(errand, Errand::Discover | Errand::List { .. } | Errand::Ping | Errand::Stream);
    let use_of = Use { repeatable, endless: matches!(errand, Errand::Stream | Errand::Listen { .. }) };
    let wording = Wording { inbound: &voice.inbound(&method), own: &addressed.fields, body };
    let leg = Dispatch::errand(errand, wording, Arc::clone(&place.upstream), Arc::clone(&place.pool), use_of);
    forward::send(leg, Arc::clone(&backend.resolver)).await
}
