//! Which era an upstream speaks: pinned by the configuration, else found out once and remembered.
//!
//! A verdict holds for an upstream and the credential it was found with, for ten minutes, and falls
//! with the first answer that only the other era gives. A server that is down, refuses the credential or
//! takes no more requests is no evidence of anything. One that takes no more requests is not asked before
//! the time that it names, but after a minute at most, and as soon as it has answered anybody. One that is
//! unavailable and names a time is not asked with every call; that time is for clients.

use super::answers::{Pause, SHORTEST};
use crate::context::Gateway;
use crate::errand::{self, Addressed, Errand, Said};
use crate::forward::Failure;
use crate::legs::{LeaseOptions, credential};
use crate::respond::class::is_about_message;
use crate::talk::reading::malformed;
use crate::talk::{Outcome, Place};
use crate::turns::Turns;
use portunus_config::{Credentials, EraMode, Transport, Upstream, UpstreamKey};
use portunus_filters::mcp::bridge::Facts;
use portunus_filters::{Era, Moment, Reason};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// How long a verdict holds.
const HOLDS: Duration = Duration::from_secs(600);
/// How long a server that takes no more requests is not asked at most, whatever it says.
const ASKED_AGAIN: Duration = Duration::from_secs(60);
/// Verdicts that are remembered.
const MAX_VERDICTS: usize = 4096;

/// What is known of the eras of an upstream; `None` is not found out yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spoken {
    /// Whether it speaks a legacy revision.
    pub legacy: Option<bool>,
    /// Whether it speaks a modern revision.
    pub modern: Option<bool>,
}

impl Spoken {
    /// What is known of one era.
    pub fn knows(self, era: Era) -> Option<bool> {
        match era {
            Era::Legacy => self.legacy,
            Era::Modern => self.modern,
        }
    }

    fn with(self, era: Era, spoken: bool) -> Spoken {
        match era {
            Era::Legacy => Spoken { legacy: Some(spoken), ..self },
            Era::Modern => Spoken { modern: Some(spoken), ..self },
        }
    }

    fn is_of_use(self) -> bool {
        self.legacy == Some(true) || self.modern == Some(true)
    }

    fn pinned(upstream: &Upstream) -> Option<Spoken> {
        let only = |era| Spoken::default().with(era, true).with(other(era), false);
        match upstream.era {
            // No modern server speaks it.
            _ if upstream.transport == Transport::HttpSse => Some(only(Era::Legacy)),
            EraMode::Auto => None,
            EraMode::Legacy => Some(only(Era::Legacy)),
            EraMode::Modern => Some(only(Era::Modern)),
        }
    }
}

/// Verdicts by upstream and credential.
#[derive(Default)]
pub struct Eras {
    verdicts: Mutex<HashMap<Key, Arc<Verdict>>>,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    upstream: UpstreamKey,
    /// The client's own, where it is what the upstream sees.
    credential: Option<Box<[u8]>>,
}

impl Key {
    fn of(place: &Place) -> Key {
        let passes = matches!(place.upstream.credentials, Credentials::Passthrough);
        Key { upstream: place.upstream.key, credential: passes.then(|| credential(place)) }
    }
}

#[derive(Default)]
struct Verdict {
    turns: Turns,
    known: Mutex<Known>,
    refused: Mutex<Option<Refused>>,
}

/// An answer that there will be no other for a while.
#[derive(Clone)]
struct Refused {
    failure: Failure,
    /// What clients are told.
    named_until: Duration,
    /// The server is not asked.
    unasked_until: Duration,
    pause: Pause,
}

#[derive(Clone, Copy, Default)]
struct Known {
    spoken: Spoken,
    until: Duration,
}

impl Eras {
    /// What is known of an upstream, after asking if that is nothing: one era at least is spoken.
    ///
    /// # Errors
    /// [`Failure`] if it gives no evidence: it is down, or refuses the credential.
    pub async fn of(&self, gateway: &Arc<Gateway>, place: &Place) -> Result<Spoken, Failure> {
        if let Some(pinned) = Spoken::pinned(&place.upstream) {
            return Ok(pinned);
        }
        let verdict = self.verdict(place);
        if let Some(spoken) = verdict.fresh(gateway) {
            return Ok(spoken);
        }
        let _turn = verdict.turns.take(Instant::now()).await?;
        if let Some(spoken) = verdict.fresh(gateway) {
            return Ok(spoken);
        }
        if let Some(failure) = verdict.refusal(gateway) {
            return Err(failure);
        }
        let (settled, _seat) = gateway.estate.settle(gateway, place.clone());
        match probe(gateway, &settled).await {
            Ok(spoken) => {
                tracing::info!(
                    upstream = &*place.upstream.name,
                    modern = spoken.modern == Some(true),
                    "era found out"
                );
                verdict.learn(gateway, spoken);
                Ok(spoken)
            }
            Err(failure) => {
                verdict.refused_by(gateway, place, &failure);
                verdict.turns.fail(&failure);
                Err(failure)
            }
        }
    }

    /// The era in which an upstream is spoken to for a client of `wanted`: its own where that is spoken.
    ///
    /// # Errors
    /// As [`Eras::of`].
    pub async fn choose(&self, gateway: &Arc<Gateway>, place: &Place, wanted: Era) -> Result<Era, Failure> {
        match self.chosen(gateway, place, wanted) {
            Some(era) => Ok(era),
            // What no call waits for but the first must not make the state of all calls large.
            None => Box::pin(self.find(gateway, place, wanted)).await,
        }
    }

    /// As [`Eras::choose`], if that is known.
    fn chosen(&self, gateway: &Gateway, place: &Place, wanted: Era) -> Option<Era> {
        let spoken = Spoken::pinned(&place.upstream).or_else(|| self.verdict(place).fresh(gateway))?;
        spoken.knows(wanted).map(|speaks| if speaks { wanted } else { other(wanted) })
    }

    async fn find(&self, gateway: &Arc<Gateway>, place: &Place, wanted: Era) -> Result<Era, Failure> {
        let spoken = self.of(gateway, place).await?;
        match spoken.knows(wanted) {
            Some(true) => Ok(wanted),
            Some(false) => Ok(other(wanted)),
            // A server that answers `server/discover` may begin sessions as well.
            None => match gateway.estate.legs.lease(gateway, place, LeaseOptions::any()).await {
                Ok(_) => {
                    self.verdict(place).learn(gateway, spoken.with(wanted, true));
                    Ok(wanted)
                }
                Err(_) if self.verdict(place).knows(wanted) == Some(false) => Ok(other(wanted)),
                Err(failure) => Err(failure),
            },
        }
    }

    /// Whether an upstream speaks an era.
    ///
    /// # Errors
    /// As [`Eras::of`].
    pub async fn speaks(&self, gateway: &Arc<Gateway>, place: &Place, era: Era) -> Result<bool, Failure> {
        Ok(self.choose(gateway, place, era).await? == era)
    }

    /// What is known of an upstream at `now` without asking it; nothing where its clients' own
    /// credentials decide.
    pub fn known(&self, upstream: &Upstream, now: Moment) -> Spoken {
        if let Some(pinned) = Spoken::pinned(upstream) {
            return pinned;
        }
        let verdict = self.lock().get(&Key { upstream: upstream.key, credential: None }).cloned();
        let known = verdict.map(|verdict| *verdict.lock()).unwrap_or_default();
        if now.monotonic < known.until { known.spoken } else { Spoken::default() }
    }

    /// What was last found out of an upstream, however long ago: for while it gives no answer.
    pub fn last(&self, place: &Place) -> Spoken {
        Spoken::pinned(&place.upstream).unwrap_or_else(|| self.verdict(place).lock().spoken)
    }

    /// Notes that an upstream answered as one that does not speak `era`.
    pub fn contradicted(&self, place: &Place, era: Era) {
        if Spoken::pinned(&place.upstream).is_some() {
            return;
        }
        let verdict = self.verdict(place);
        let mut known = verdict.lock();
        known.spoken = known.spoken.with(era, false);
        if !known.spoken.is_of_use() && known.spoken.knows(other(era)) == Some(false) {
            *known = Known::default();
        }
        tracing::info!(upstream = &*place.upstream.name, era = era.as_str(), "era not spoken after all");
    }

    /// Verdicts that are remembered.
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// Whether nothing is remembered.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn verdict(&self, place: &Place) -> Arc<Verdict> {
        let key = Key::of(place);
        let mut verdicts = self.lock();
        if verdicts.len() >= MAX_VERDICTS && !verdicts.contains_key(&key) {
            // Nothing is lost but the probes.
            verdicts.retain(|_, verdict| Arc::strong_count(verdict) > 1);
        }
        Arc::clone(verdicts.entry(key).or_default())
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Arc<Verdict>>> {
        self.verdicts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Verdict {
    fn fresh(&self, gateway: &Gateway) -> Option<Spoken> {
        let known = *self.lock();
        let fresh = known.spoken.is_of_use() && gateway.clock.now().monotonic < known.until;
        fresh.then_some(known.spoken)
    }

    fn knows(&self, era: Era) -> Option<bool> {
        self.lock().spoken.knows(era)
    }

    fn learn(&self, gateway: &Gateway, spoken: Spoken) {
        *self.lock() = Known { spoken, until: gateway.clock.now().monotonic + HOLDS };
    }

    /// Notes an answer that there will be no other for a while.
    fn refused_by(&self, gateway: &Gateway, place: &Place, failure: &Failure) {
        let now = gateway.clock.now().monotonic;
        let is_limited = failure.denial.reason == Reason::UpstreamLimited;
        let named = failure.denial.retry_after().or(is_limited.then_some(SHORTEST));
        let refused = named.map(|named| Refused {
            failure: failure.clone(),
            named_until: now + named,
            unasked_until: now + named.min(if is_limited { ASKED_AGAIN } else { SHORTEST }),
            pause: Pause::begin(place.pool.answers(), now),
        });
        *self.refused.lock().unwrap_or_else(PoisonError::into_inner) = refused;
    }

    /// The same answer, with the time that is left.
    fn refusal(&self, gateway: &Gateway) -> Option<Failure> {
        let refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner).clone()?;
        let now = gateway.clock.now().monotonic;
        if now >= refused.unasked_until || refused.pause.is_over(now) {
            return None;
        }
        let mut failure = refused.failure;
        failure.denial.data.clear();
        failure.denial = failure.denial.retry_in(Some(refused.named_until.saturating_sub(now)));
        Some(failure)
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn probe(gateway: &Arc<Gateway>, place: &Place) -> Result<Spoken, Failure> {
    let errand = Errand::Discover;
    match errand::exchange(gateway, place, &errand, Addressed::modern(&errand)).await {
        Ok(said) if is_modern(&said) => Ok(Spoken::default().with(Era::Modern, true)),
        Ok(said) if said.status.is_client_error() && !is_about_message(said.status) => {
            let cause = format!("`server/discover` was answered by HTTP {}", said.status.as_u16());
            Err(Failure { cause, ..malformed("the server does not say which revisions it speaks") })
        }
        Ok(_) => Ok(Spoken::default().with(Era::Modern, false).with(Era::Legacy, true)),
        Err(failure) => Err(failure),
    }
}

/// A result that is one, or an error that only a modern server gives to a request without faults.
fn is_modern(said: &Said) -> bool {
    match &said.outcome {
        Some(Outcome::Result(result)) => {
            std::str::from_utf8(result).is_ok_and(|result| Facts::of_discover(result).is_ok())
        }
        Some(Outcome::Error { code, .. }) => matches!(code, -32022..=-32020),
        None => false,
    }
}

fn other(era: Era) -> Era {
    match era {
        Era::Legacy => Era::Modern,
        Era::Modern => Era::Legacy,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::errand::ask;
    use crate::testing::{Asked, Bed, Server, Wire, within};
    use portunus_filters::Clock;
    use std::sync::atomic::{AtomicBool, Ordering};

    const DISCOVERED: &str = r#"{"resultType":"complete","supportedVersions":["2026-07-28"],"capabilities":{"tools":{}},"ttlMs":0,"cacheScope":"private"}"#;
    const INITIALIZED: &str = r#"{"protocolVersion":"2025-11-25","capabilities":{"tools":{}},"serverInfo":{"name":"s","version":"1"}}"#;

    /// Answers as a server of the eras in `speaks`.
    async fn server(legacy: bool, modern: &'static AtomicBool) -> Server {
        Server::start(move |asked: Asked, mut wire: Wire| async move {
            let modern = modern.load(Ordering::SeqCst);
            let claims = asked.header("mcp-method").is_some();
            match (asked.method(), claims) {
                ("server/discover", true) if modern => wire.result(&asked, DISCOVERED).await,
                ("initialize", _) if legacy => wire.result(&asked, INITIALIZED).await,
                ("notifications/initialized", _) => wire.accepted().await,
                ("GET", _) => wire.status("405 No", "", "").await,
                (_, true) if modern => wire.result(&asked, r#"{"era":"modern","tools":[]}"#).await,
                (_, false) if legacy => wire.result(&asked, r#"{"era":"legacy","tools":[]}"#).await,
                _ => {
                    let error =
                        r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32600,"message":"Bad Request"}}"#;
                    wire.status("400 Bad Request", "content-type: application/json\r\n", error).await;
                }
            }
            Some(wire)
        })
        .await
    }

    const TOOLS: fn() -> Errand = || Errand::List { method: "tools/list", cursor: None };

    async fn listed(bed: &Bed, place: &Place) -> String {
        let result = within("the list", ask(&bed.gateway, place, TOOLS())).await.unwrap();
        serde_json::from_slice::<serde_json::Value>(&result).unwrap()["era"].as_str().unwrap().to_owned()
    }

    #[tokio::test]
    async fn an_era_is_found_out_once_and_the_clients_own_is_preferred() {
        static YES: AtomicBool = AtomicBool::new(true);
        static NO: AtomicBool = AtomicBool::new(false);
        let cases = [
            ("legacy", true, &NO, Era::Legacy, Era::Legacy),
            ("modern", false, &YES, Era::Modern, Era::Modern),
            ("both", true, &YES, Era::Legacy, Era::Modern),
        ];
        for (name, legacy, modern, for_legacy, for_modern) in cases {
            let server = server(legacy, modern).await;
            let bed = Bed::before(server.address, "");
            let (eras, place) = (&bed.gateway.estate.eras, bed.place("anna", "{}"));
            for _ in 0..3 {
                let chosen = eras.choose(&bed.gateway, &place, Era::Legacy).await.unwrap();
                assert_eq!(chosen, for_legacy, "{name}");
                let chosen = eras.choose(&bed.gateway, &place, Era::Modern).await.unwrap();
                assert_eq!(chosen, for_modern, "{name}");
            }
            assert_eq!(listed(&bed, &place).await, for_modern.as_str(), "{name}");
            assert_eq!(server.heard("server/discover").len(), 1, "{name}");
        }
    }

    #[tokio::test]
    async fn a_verdict_expires_and_falls_with_the_first_answer_against_it() {
        static MODERN: AtomicBool = AtomicBool::new(true);
        let server = server(true, &MODERN).await;
        let bed = Bed::before(server.address, "");
        let place = bed.place("anna", "{}");
        assert_eq!(listed(&bed, &place).await, "modern");
        MODERN.store(false, Ordering::SeqCst);
        assert!(ask(&bed.gateway, &place, TOOLS()).await.is_err());
        assert_eq!(listed(&bed, &place).await, "legacy");
        MODERN.store(true, Ordering::SeqCst);
        assert_eq!(listed(&bed, &place).await, "legacy");
        bed.clock.advance(HOLDS);
        let (eras, active) = (&bed.gateway.estate.eras, bed.gateway.active());
        let known = eras.known(&active.snapshot.upstreams[0], bed.clock.now());
        assert_eq!((known, eras.last(&place).modern), (Spoken::default(), Some(false)));
        assert_eq!(listed(&bed, &place).await, "modern");
    }

    #[tokio::test]
    async fn whatever_a_legacy_server_says_to_a_question_that_it_does_not_know_is_legacy() {
        let error = |code: i64, id: &str| {
            format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{{"code":{code},"message":"no such session"}}}}"#)
        };
        let answers = [
            ("400 Bad Request", error(-32001, "ID")),
            ("400 Bad Request", error(-32001, "null")),
            ("404 Not Found", error(-32001, "null")),
            ("400 Bad Request", error(-32000, "null")),
            ("200 OK", error(-32601, "ID")),
            ("200 OK", error(-32001, "ID")),
            ("405 Method Not Allowed", String::new()),
            ("400 Bad Request", "no session".to_owned()),
        ];
        for (status, answer) in answers {
            let said = answer.clone();
            let server = Server::start(move |asked: Asked, mut wire: Wire| {
                let said = said.clone();
                async move {
                    match asked.method() {
                        "server/discover" => {
                            let body = said.replace("ID", &asked.id());
                            wire.status(status, "content-type: application/json\r\n", &body).await;
                        }
                        "initialize" => wire.result(&asked, INITIALIZED).await,
                        "tools/list" => wire.result(&asked, r#"{"era":"legacy","tools":[]}"#).await,
                        _ => wire.accepted().await,
                    }
                    Some(wire)
                }
            })
            .await;
            let bed = Bed::before(server.address, "");
            let place = bed.place("anna", "{}");
            assert_eq!(listed(&bed, &place).await, "legacy", "{status} {answer}");
            assert_eq!(server.heard("tools/list").len(), 1, "{status} {answer}: the first call failed");
        }
    }

    #[tokio::test]
    async fn a_server_that_is_down_or_refuses_the_credential_is_no_evidence() {
        let statuses = ["503 Down", "500 Oops", "401 No", "403 No\r\nwww-authenticate: Bearer", "403 No"];
        for status in
            statuses.into_iter().chain(["407 Proxy", "408 Late", "413 Much", "425 Early", "431 Long"])
        {
            let server = Server::start(move |_, mut wire: Wire| async move {
                wire.status(status, "", "").await;
                Some(wire)
            })
            .await;
            let bed = Bed::before(server.address, "");
            let place = bed.place("anna", "{}");
            let failure = bed.gateway.estate.eras.of(&bed.gateway, &place).await.unwrap_err();
            assert_ne!(failure.denial.reason, Reason::InvalidRequest, "{status}");
            assert!(bed.gateway.estate.eras.of(&bed.gateway, &place).await.is_err(), "{status}");
            assert_eq!(server.heard("server/discover").len(), 2, "{status}: not remembered");
        }
    }

    #[tokio::test]
    async fn a_time_that_is_named_is_for_clients_and_an_answer_to_anybody_ends_it() {
        // What is answered, what clients are told, and after how long it is asked again.
        let cases = [
            ("503 Down\r\nretry-after: 300", 299_000, 1),
            ("429 Enough\r\nretry-after: 7", 6_000, 7),
            ("429 Enough\r\nretry-after: 300", 299_000, 60),
        ];
        for (status, told, pause) in cases {
            let server = Server::start(move |_, mut wire: Wire| async move {
                wire.status(status, "", "").await;
                Some(wire)
            })
            .await;
            let bed = Bed::before(server.address, "");
            let place = bed.place("anna", "{}");
            let asked = || async {
                let failure = bed.gateway.estate.eras.of(&bed.gateway, &place).await.unwrap_err();
                (failure.denial.retry_after(), server.heard("server/discover").len())
            };
            asked().await;
            bed.clock.advance(Duration::from_millis(999));
            assert_eq!(asked().await, (Some(Duration::from_millis(told + 1)), 1), "{status}");
            bed.clock.advance(Duration::from_secs(pause - 1));
            assert_eq!(asked().await.1, 1, "{status}");
            bed.clock.advance(Duration::from_millis(1));
            assert_eq!(asked().await.1, 2, "{status}: asked again");
            place.pool.note_answer();
            bed.clock.advance(Duration::from_secs(1));
            assert_eq!(asked().await.1, 3, "{status}: it has answered somebody");
        }
    }

    #[tokio::test]
    async fn a_pinned_era_is_not_asked_for() {
        static NO: AtomicBool = AtomicBool::new(false);
        let server = server(true, &NO).await;
        let bed = Bed::before(server.address, ", era: legacy");
        let place = bed.place("anna", "{}");
        bed.gateway.estate.eras.contradicted(&place, Era::Legacy);
        assert_eq!(listed(&bed, &place).await, "legacy");
        assert!(server.heard("server/discover").is_empty());
    }
}
