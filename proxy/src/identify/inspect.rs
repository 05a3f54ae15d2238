//! Asking an issuer about a token (RFC 7662), where tokens say nothing themselves.
//!
//! A token is asked about once for all who show it at the same time, and what is said of it is kept
//! before the question is over: nobody falls between the two. An issuer that does not answer is left
//! alone for a while: calls are refused at once rather than held up behind it, and then one question
//! goes first.

use super::fetch;
use super::tokens::{KEEP_REFUSED, Known};
use crate::context::Gateway;
use bytes::Bytes;
use portunus_config::{Inspection, Snapshot, TrustId};
use portunus_filters::identity::{Fault, Verified};
use portunus_filters::mcp::object::Object;
use quick_cache::sync::Cache;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

/// Questions to one issuer at once.
const MAX_ASKED: usize = 64;
/// Calls at once that wait for what one issuer says.
const MAX_WAITING: usize = 4_096;
/// Tokens that one issuer has refused, of those that are kept.
const MAX_REFUSED: usize = 1_024;
/// Questions in a row without an answer, until it is left alone.
const MAX_FAILURES: u32 = 5;
/// For how long it is left alone.
const LEAVE_ALONE: Duration = Duration::from_secs(10);
const MAX_ANSWER_BYTES: usize = 64 << 10;

/// Issuers that are asked, by their settings.
#[derive(Default)]
pub struct Inspectors(Mutex<HashMap<TrustId, Arc<Inspector>>>);

/// One issuer that is asked: how it is, and what it is being asked.
struct Inspector {
    asked: Arc<Semaphore>,
    waiting: Semaphore,
    health: Mutex<Health>,
    /// Questions under way, by their token; the issuer has as many as it has permits.
    under_way: Mutex<HashMap<Box<str>, Awaited>>,
    refused: Cache<Box<str>, Arc<Known>>,
}

/// What a question comes to; `None` while it is under way.
type Awaited = watch::Receiver<Option<Result<Arc<Known>, Trouble>>>;

#[derive(Default)]
struct Health {
    failures: u32,
    left_alone_until: Duration,
}

/// Why a token was not verified.
#[derive(Clone, Debug)]
pub enum Trouble {
    /// It is not good.
    Fault(Fault),
    /// Nobody can tell now; the cause is for the record.
    Unavailable(String),
}

impl From<Fault> for Trouble {
    fn from(fault: Fault) -> Trouble {
        Trouble::Fault(fault)
    }
}

impl Inspectors {
    /// Forgets issuers that `snapshot` no longer has.
    pub fn reconcile(&self, snapshot: &Snapshot) {
        let known = |id: &TrustId| {
            snapshot.identities.iter().flat_map(|all| &all.inspections).any(|one| one.id == *id)
        };
        self.lock().retain(|id, _| known(id));
    }

    /// What an issuer says of a token: now, to somebody else who asks the same, or a moment ago.
    ///
    /// # Errors
    /// [`Trouble::Unavailable`]. That a token is not good is an answer.
    pub async fn ask(
        &self,
        gateway: &Arc<Gateway>,
        inspection: &Arc<Inspection>,
        token: &str,
    ) -> Result<Arc<Known>, Trouble> {
        let inspector = Arc::clone(self.lock().entry(inspection.id).or_default());
        let waiting = inspector.waiting.try_acquire();
        let _waiting = waiting.map_err(|_| unavailable("too many wait for what the issuer says"))?;
        let mut awaited = match inspector.question(gateway, inspection, token)? {
            Question::Answered(known) => return Ok(known),
            Question::Asked(awaited) => awaited,
        };
        let answer = awaited.wait_for(Option::is_some).await;
        let answer = answer.ok().and_then(|answer| answer.clone());
        answer.unwrap_or_else(|| Err(unavailable("the question was given up")))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<TrustId, Arc<Inspector>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a token is to those who ask about it.
enum Question {
    Answered(Arc<Known>),
    Asked(Awaited),
}

impl Default for Inspector {
    fn default() -> Inspector {
        Inspector {
            asked: Arc::new(Semaphore::new(MAX_ASKED)),
            waiting: Semaphore::new(MAX_WAITING),
            health: Mutex::default(),
            under_way: Mutex::default(),
            refused: Cache::new(MAX_REFUSED),
        }
    }
}

impl Inspector {
    /// Joins the question about a token, or begins it. It goes on by itself: it is not only for whoever
    /// asked first.
    fn question(
        self: &Arc<Self>,
        gateway: &Arc<Gateway>,
        inspection: &Arc<Inspection>,
        token: &str,
    ) -> Result<Question, Trouble> {
        let now = gateway.clock.now().monotonic;
        let mut under_way = self.under_way();
        if let Some(awaited) = under_way.get(token).filter(|awaited| awaited.has_changed().is_ok()) {
            return Ok(Question::Asked(awaited.clone()));
        }
        // Looked at under the lock: a question that ended before has left here what came of it.
        if let Some(known) = self.known(gateway, inspection, token, now) {
            return Ok(Question::Answered(known));
        }
        let permit = self.permit(now)?;
        let (answer, awaited) = watch::channel(None);
        under_way.insert(token.into(), awaited.clone());
        drop(under_way);
        let (inspector, gateway) = (Arc::clone(self), Arc::clone(gateway));
        let (inspection, token) = (Arc::clone(inspection), Box::<str>::from(token));
        tokio::spawn(async move {
            let said = inspector.told(&gateway, &inspection, &token).await;
            inspector.under_way().remove(&token);
            drop(permit);
            answer.send_replace(Some(said));
        });
        Ok(Question::Asked(awaited))
    }

    /// What the issuer has said of a token before, where that still holds.
    fn known(
        &self,
        gateway: &Gateway,
        inspection: &Inspection,
        token: &str,
        monotonic: Duration,
    ) -> Option<Arc<Known>> {
        let refused = self.refused.get(token).filter(|known| known.is_current(monotonic));
        let verified = || gateway.estate.callers.tokens.find(token, monotonic);
        refused.or_else(|| verified().filter(|known| known.trust == inspection.id && known.outcome.is_ok()))
    }

    /// Asks, and keeps what is said.
    async fn told(
        &self,
        gateway: &Arc<Gateway>,
        inspection: &Inspection,
        token: &str,
    ) -> Result<Arc<Known>, Trouble> {
        let answer = asked(gateway, inspection, token).await;
        self.note(answer.is_ok(), gateway.clock.now().monotonic);
        let result = if answer.is_ok() { "ok" } else { "failed" };
        let counter = &gateway.metrics.identity.inspections;
        counter.with_label_values(&[&*inspection.issuer.name, result]).inc();
        let answer = answer.map_err(Trouble::Unavailable)?;
        let keep = inspection.cache.max(Duration::from_secs(1));
        let outcome = inspection.issuer.inspected(&answer, gateway.clock.now().wall, keep);
        let known = Arc::new(kept(gateway, inspection, outcome));
        match known.outcome {
            Ok(_) => gateway.estate.callers.tokens.keep(token, Arc::clone(&known)),
            Err(_) => self.refused.insert(token.into(), Arc::clone(&known)),
        }
        Ok(known)
    }

    /// Leave to ask at `monotonic`.
    fn permit(&self, monotonic: Duration) -> Result<OwnedSemaphorePermit, Trouble> {
        let permit = Arc::clone(&self.asked).try_acquire_owned();
        let permit = permit.map_err(|_| unavailable("too many tokens are being asked about"))?;
        let mut health = self.health();
        if monotonic < health.left_alone_until {
            return Err(unavailable("the issuer is left alone, since it did not answer"));
        }
        if health.failures >= MAX_FAILURES {
            // Until this one is answered the others wait for their turn: they would find out the same.
            health.left_alone_until = monotonic + LEAVE_ALONE;
        }
        drop(health);
        Ok(permit)
    }

    fn note(&self, answered: bool, monotonic: Duration) {
        let mut health = self.health();
        match answered {
            true => *health = Health::default(),
            false => {
                health.failures = health.failures.saturating_add(1);
                if health.failures >= MAX_FAILURES {
                    health.left_alone_until = monotonic + LEAVE_ALONE;
                }
            }
        }
    }

    fn health(&self) -> MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn under_way(&self) -> MutexGuard<'_, HashMap<Box<str>, Awaited>> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn unavailable(cause: &str) -> Trouble {
    Trouble::Unavailable(cause.to_owned())
}

/// What the issuer answers. Anything that says nothing of the token is no answer: a token is not bad
/// because its issuer is unwell (RFC 7662 §2.2: `active` is always there).
async fn asked(gateway: &Gateway, inspection: &Inspection, token: &str) -> Result<String, String> {
    let form = Bytes::from(format!("token={}&token_type_hint=access_token", escaped(token)));
    let answer = fetch::post(gateway, &inspection.at, form, MAX_ANSWER_BYTES).await?;
    let answer = String::from_utf8(answer.into()).map_err(|_| "its answer is not UTF-8".to_owned())?;
    let says = Object::read(&answer).is_ok_and(|said| said.get("active").is_some());
    if says { Ok(answer) } else { Err("its answer is no JSON object with `active`".to_owned()) }
}

fn kept(gateway: &Gateway, inspection: &Inspection, outcome: Result<Verified, Fault>) -> Known {
    let now = gateway.clock.now();
    let keep = match &outcome {
        Ok(verified) => {
            let left =
                verified.principal.not_after.map_or(Duration::ZERO, |end| end.saturating_sub(now.wall));
            left.min(inspection.cache)
        }
        Err(_) => KEEP_REFUSED.min(inspection.cache),
    };
    let outcome = outcome.map(|verified| Arc::new(gateway.estate.callers.numbered(verified)));
    Known::new(outcome, inspection.id, None, now.monotonic + keep)
}

/// A token in a form; whatever is no letter or digit is escaped.
fn escaped(token: &str) -> String {
    let mut out = String::with_capacity(token.len());
    for byte in token.bytes() {
        match byte {
            b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' | b'-' | b'.' | b'_' => out.push(char::from(byte)),
            byte => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_issuer_that_does_not_answer_is_left_alone_for_a_while() {
        let inspector = Inspector::default();
        let now = Duration::from_secs(100);
        (1..MAX_FAILURES).for_each(|_| inspector.note(false, now));
        assert_eq!(inspector.health().left_alone_until, Duration::ZERO);
        inspector.note(true, now);
        (0..MAX_FAILURES).for_each(|_| inspector.note(false, now));
        assert_eq!(inspector.health().left_alone_until, now + LEAVE_ALONE);
        inspector.note(true, now);
        assert_eq!(inspector.health().left_alone_until, Duration::ZERO);
    }

    #[test]
    fn one_question_goes_first_when_an_issuer_is_asked_again() {
        let inspector = Inspector::default();
        let (then, now) = (Duration::from_secs(100), Duration::from_secs(100) + LEAVE_ALONE);
        (0..MAX_FAILURES).for_each(|_| inspector.note(false, then));
        assert!(inspector.permit(now - Duration::from_millis(1)).is_err());
        assert!(inspector.permit(now).is_ok() && inspector.permit(now).is_err());
        inspector.note(false, now);
        assert!(inspector.permit(now + LEAVE_ALONE / 2).is_err(), "one failure more is enough");
        inspector.note(true, now);
        assert!(inspector.permit(now).is_ok() && inspector.permit(now).is_ok());
    }

    #[test]
    fn no_more_questions_are_under_way_than_an_issuer_can_bear() {
        let inspector = Inspector::default();
        let all: Vec<_> = (0..MAX_ASKED).map(|_| inspector.permit(Duration::ZERO).unwrap()).collect();
        assert!(inspector.permit(Duration::ZERO).is_err());
        drop(all);
        assert!(inspector.permit(Duration::ZERO).is_ok());
    }

    #[test]
    fn a_token_cannot_add_fields_to_a_form() {
        assert_eq!(escaped("a&b=c+d%"), "a%26b%3Dc%2Bd%25");
    }
}
