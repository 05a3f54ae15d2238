//! Which era an upstream speaks: pinned by the configuration, else found out once and remembered.
//!
//! A verdict holds for an upstream and the credential it was found with, for ten minutes, and falls
//! with the first answer that only the other era gives. A server that is down, refuses the credential or
//! takes no more requests is no evidence of anything. One that takes no more requests is not asked before
//! the time that it names, but after a minute at most, and as soon as it has answered anybody. One that is
//! unavailable and names a time is not asked with every call; that time is for clients.

use super::monitor::{Pause, SHORTEST_PAUSE};
use crate::backend::Backend;
use crate::backend::forward::{Failure, malformed};
use crate::backend::gateway_requests::{self, Addressed, GatewayRequest, GatewayRequestAnswer};
use crate::backend::single_flight::Turns;
use crate::backend::upstream_call::{Outcome, UpstreamTarget};
use crate::backend::upstream_sessions::{LeaseOptions, credential};
use crate::backend::upstreams::answer_class::is_about_message;
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
    fn of(place: &UpstreamTarget) -> Key {
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
    pub async fn of(&self, backend: &Arc<Backend>, place: &UpstreamTarget) -> Result<Spoken, Failure> {
        if let Some(pinned) = Spoken::pinned(&place.upstream) {
            return Ok(pinned);
        }
        let verdict = self.verdict(place);
        if let Some(spoken) = verdict.fresh(backend) {
            return Ok(spoken);
        }
        let _turn = verdict.turns.take(Instant::now()).await?;
        if let Some(spoken) = verdict.fresh(backend) {
            return Ok(spoken);
        }
        if let Some(failure) = verdict.refusal(backend) {
            return Err(failure);
        }
        let (settled, _seat) = backend.settle(place.clone());
        match probe(backend, &settled).await {
            Ok(spoken) => {
                tracing::info!(
                    upstream = &*place.upstream.name,
                    modern = spoken.modern == Some(true),
                    "era found out"
                );
                verdict.learn(backend, spoken);
                Ok(spoken)
            }
            Err(failure) => {
                verdict.refused_by(backend, place, &failure);
                verdict.turns.fail(&failure);
                Err(failure)
            }
        }
    }

    /// The era in which an upstream is spoken to for a client of `wanted`: its own where that is spoken.
    ///
    /// # Errors
    /// As [`Eras::of`].
    pub async fn choose(
        &self,
        backend: &Arc<Backend>,
        place: &UpstreamTarget,
        wanted: Era,
    ) -> Result<Era, Failure> {
        match self.chosen(backend, place, wanted) {
            Some(era) => Ok(era),
            // What no call waits for but the first must not make the state of all calls large.
            None => Box::pin(self.find(backend, place, wanted)).await,
        }
    }

    /// As [`Eras::choose`], if that is known.
    fn chosen(&self, backend: &Backend, place: &UpstreamTarget, wanted: Era) -> Option<Era> {
        let spoken = Spoken::pinned(&place.upstream).or_else(|| self.verdict(place).fresh(backend))?;
        spoken.knows(wanted).map(|speaks| if speaks { wanted } else { other(wanted) })
    }

    async fn find(
        &self,
        backend: &Arc<Backend>,
        place: &UpstreamTarget,
        wanted: Era,
    ) -> Result<Era, Failure> {
        let spoken = self.of(backend, place).await?;
        match spoken.knows(wanted) {
            Some(true) => Ok(wanted),
            Some(false) => Ok(other(wanted)),
            // A server that answers `server/discover` may begin sessions as well.
            None => match backend.session_pools.lease(backend, place, LeaseOptions::any()).await {
                Ok(_) => {
                    self.verdict(place).learn(backend, spoken.with(wanted, true));
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
    pub async fn speaks(
        &self,
        backend: &Arc<Backend>,
        place: &UpstreamTarget,
        era: Era,
    ) -> Result<bool, Failure> {
        Ok(self.choose(backend, place, era).await? == era)
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
    pub fn last(&self, place: &UpstreamTarget) -> Spoken {
        Spoken::pinned(&place.upstream).unwrap_or_else(|| self.verdict(place).lock().spoken)
    }

    /// Notes that an upstream answered as one that does not speak `era`.
    pub fn contradicted(&self, place: &UpstreamTarget, era: Era) {
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

    fn verdict(&self, place: &UpstreamTarget) -> Arc<Verdict> {
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
    fn fresh(&self, backend: &Backend) -> Option<Spoken> {
        let known = *self.lock();
        let fresh = known.spoken.is_of_use() && backend.clock.now().monotonic < known.until;
        fresh.then_some(known.spoken)
    }

    fn knows(&self, era: Era) -> Option<bool> {
        self.lock().spoken.knows(era)
    }

    fn learn(&self, backend: &Backend, spoken: Spoken) {
        *self.lock() = Known { spoken, until: backend.clock.now().monotonic + HOLDS };
    }

    /// Notes an answer that there will be no other for a while.
    fn refused_by(&self, backend: &Backend, place: &UpstreamTarget, failure: &Failure) {
        let now = backend.clock.now().monotonic;
        let is_limited = failure.denial.reason == Reason::UpstreamLimited;
        let named = failure.denial.retry_after().or(is_limited.then_some(SHORTEST_PAUSE));
        let refused = named.map(|named| Refused {
            failure: failure.clone(),
            named_until: now + named,
            unasked_until: now + named.min(if is_limited { ASKED_AGAIN } else { SHORTEST_PAUSE }),
            pause: Pause::begin(place.pool.answers(), now),
        });
        *self.refused.lock().unwrap_or_else(PoisonError::into_inner) = refused;
    }

    /// The same answer, with the time that is left.
    fn refusal(&self, backend: &Backend) -> Option<Failure> {
        let refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner).clone()?;
        let now = backend.clock.now().monotonic;
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

async fn probe(backend: &Arc<Backend>, place: &UpstreamTarget) -> Result<Spoken, Failure> {
    let gateway_request = GatewayRequest::Discover;
    match gateway_requests::exchange(backend, place, &gateway_request, Addressed::modern(&gateway_request))
        .await
    {
        Ok(answer) if is_modern(&answer) => Ok(Spoken::default().with(Era::Modern, true)),
        Ok(answer) if answer.status.is_client_error() && !is_about_message(answer.status) => {
            let cause = format!("`server/discover` was answered by HTTP {}", answer.status.as_u16());
            Err(Failure { cause, ..malformed("the server does not say which revisions it speaks") })
        }
        Ok(_) => Ok(Spoken::default().with(Era::Modern, false).with(Era::Legacy, true)),
        Err(failure) => Err(failure),
    }
}

/// A result that is one, or an error that only a modern server gives to a request without faults.
fn is_modern(answer: &GatewayRequestAnswer) -> bool {
    match &answer.outcome {
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
mod tests;
