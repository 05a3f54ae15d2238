//! Asking an issuer about a token (RFC 7662), where tokens say nothing themselves.
//!
//! A token is asked about once for all who show it at the same time, and what is said of it is kept
//! before the question is over: nobody falls between the two. An issuer that does not answer is left
//! alone for a while: calls are refused at once rather than held up behind it, and then one question
//! goes first. What only one caller's tokens bring about is held against that caller alone.

use super::fetch;
use super::tokens::{KEEP_REFUSED, Known};
use crate::backend::upstreams::monitor::{MAX_CAUSE, Outages};
use crate::frontend::context::Gateway;
use crate::shares::{Owner, Share, Shares};
use bytes::Bytes;
use http::StatusCode;
use portunus_base::table::weight_of;
use portunus_config::{Inspection, Snapshot, TrustId};
use portunus_filters::identity::{Fault, Verified};
use portunus_filters::mcp::object::Object;
use quick_cache::sync::Cache;
use ring::digest::{SHA256, digest};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio::time::timeout;

/// Questions to one issuer at once.
const MAX_ASKED: usize = 64;
/// Calls at once that wait for what one issuer says; a long token counts as several.
const MAX_WAITING: usize = 4_096;
/// How long a question waits for its turn.
const TURN_WITHIN: Duration = Duration::from_secs(10);
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
    asked: Arc<Shares>,
    waiting: Arc<Shares>,
    health: Mutex<Health>,
    /// Questions under way, by the digest of their token.
    under_way: Mutex<HashMap<TokenDigest, Awaited>>,
    refused: Cache<TokenDigest, Arc<Known>>,
}

/// SHA-256 of a token: what strangers show is not kept.
type TokenDigest = [u8; 32];

fn digest_of(token: &str) -> TokenDigest {
    let mut whole = [0; 32];
    whole.copy_from_slice(digest(&SHA256, token.as_bytes()).as_ref());
    whole
}

/// What a question comes to; `None` while it is under way.
type Awaited = watch::Receiver<Option<Result<Arc<Known>, Trouble>>>;

/// How an issuer is. Failures in a row count, and whose questions they were: a stranger can make tokens
/// that an issuer or what is before it stumbles over, or asks too often because of. So an issuer is left
/// alone by everybody only if at least two owners found it failing with no answer to anybody between, and
/// by one owner who alone found it so. Another's next question then tells which of the two it is.
#[derive(Default)]
struct Health {
    failures: u32,
    /// Whose the first of them was.
    first: Option<Owner>,
    /// Others' are among them.
    is_common: bool,
    left_alone_until: Duration,
    /// Failures since the start.
    failed: u64,
    outages: Outages,
}

/// What the log says of how an issuer is.
#[derive(Debug, PartialEq, Eq)]
enum News {
    Fails,
    FailsOnAndOff {
        outages: u32,
    },
    AnswersAgain {
        /// Questions that failed meanwhile.
        failed: u64,
    },
}

/// What an issuer gives as an answer.
#[derive(Debug, PartialEq, Eq)]
enum IntrospectionAnswer {
    /// What it knows of the token.
    Of(String),
    /// A 4xx to the question itself: none that it would answer for this token.
    Refused,
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

    /// What an issuer says of a token that `owner` shows: now, to somebody else who asks the same, or a
    /// moment ago.
    ///
    /// # Errors
    /// [`Trouble::Unavailable`]. That a token is not good is an answer.
    pub async fn ask(
        &self,
        gateway: &Arc<Gateway>,
        inspection: &Arc<Inspection>,
        token: &str,
        owner: Owner,
    ) -> Result<Arc<Known>, Trouble> {
        let inspector = Arc::clone(self.lock().entry(inspection.id).or_default());
        let (mut awaited, _place) = match inspector.question(gateway, inspection, token, owner)? {
            Question::Answered(known) => return Ok(known),
            Question::Asked(awaited, place) => (awaited, place),
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
    /// Whoever joins has a place of its own while it waits; that of the first is the question's.
    Asked(Awaited, Option<Share>),
}

impl Default for Inspector {
    fn default() -> Inspector {
        Inspector {
            asked: Shares::new(MAX_ASKED),
            waiting: Shares::new(MAX_WAITING),
            health: Mutex::default(),
            under_way: Mutex::default(),
            refused: Cache::new(MAX_REFUSED),
        }
    }
}

impl Inspector {
    /// A place among those who wait for what the issuer says.
    fn waits(&self, token: &str, owner: Owner) -> Result<Share, Trouble> {
        let share = self.waiting.take(owner, weight_of(token.len()));
        share.ok_or_else(|| unavailable("too many wait for what the issuer says"))
    }

    /// Joins the question about a token, or begins it. It goes on by itself: it is not only for whoever
    /// asked first.
    fn question(
        self: &Arc<Self>,
        gateway: &Arc<Gateway>,
        inspection: &Arc<Inspection>,
        token: &str,
        owner: Owner,
    ) -> Result<Question, Trouble> {
        let now = gateway.clock.now().monotonic;
        let digest = digest_of(token);
        let mut under_way = self.under_way();
        if let Some(awaited) = under_way.get(&digest).filter(|awaited| awaited.has_changed().is_ok()) {
            return Ok(Question::Asked(awaited.clone(), Some(self.waits(token, owner)?)));
        }
        // Looked at under the lock: a question that ended before has left here what came of it.
        if let Some(known) = self.known((gateway, inspection), (token, &digest), now) {
            return Ok(Question::Answered(known));
        }
        if self.health().is_left_alone(owner, now) {
            return Err(left_alone());
        }
        // Whoever asked may leave; the token is kept until its turn all the same.
        let queued = self.waits(token, owner)?;
        let (answer, awaited) = watch::channel(None);
        under_way.insert(digest, awaited.clone());
        drop(under_way);
        let (inspector, gateway) = (Arc::clone(self), Arc::clone(gateway));
        let (inspection, token) = (Arc::clone(inspection), Box::<str>::from(token));
        tokio::spawn(async move {
            let said = inspector.asked_in_turn(&gateway, &inspection, &token, owner).await;
            inspector.under_way().remove(&digest);
            drop(queued);
            answer.send_replace(Some(said));
        });
        Ok(Question::Asked(awaited, None))
    }

    /// What the issuer has said of a token before, where that still holds.
    fn known(
        &self,
        (gateway, inspection): (&Gateway, &Inspection),
        (token, digest): (&str, &TokenDigest),
        monotonic: Duration,
    ) -> Option<Arc<Known>> {
        let refused = self.refused.get(digest).filter(|known| known.is_current(monotonic));
        let verified = || gateway.estate.callers.tokens.find(token, monotonic);
        refused.or_else(|| verified().filter(|known| known.trust == inspection.id && known.outcome.is_ok()))
    }

    /// Asks when it is the caller's turn, at most [`TURN_WITHIN`] later.
    async fn asked_in_turn(
        &self,
        gateway: &Arc<Gateway>,
        inspection: &Inspection,
        token: &str,
        owner: Owner,
    ) -> Result<Arc<Known>, Trouble> {
        let turn = timeout(TURN_WITHIN, self.asked.wait(owner, 1)).await;
        let _turn = turn.map_err(|_| unavailable("too many tokens are being asked about"))?;
        self.may_ask(owner, gateway.clock.now().monotonic)?;
        self.told(gateway, inspection, token, owner).await
    }

    /// Asks, and keeps what is said.
    async fn told(
        &self,
        gateway: &Arc<Gateway>,
        inspection: &Inspection,
        token: &str,
        owner: Owner,
    ) -> Result<Arc<Known>, Trouble> {
        let answer = asked(gateway, inspection, token).await;
        let issuer = &*inspection.issuer.name;
        let news = self.health().note(&answer, owner, gateway.clock.now().monotonic);
        if let Some(news) = news {
            tell(issuer, &news, answer.as_ref().err().map_or("", String::as_str));
        }
        let result = match &answer {
            Ok(IntrospectionAnswer::Of(_)) => "ok",
            Ok(IntrospectionAnswer::Refused) => "refused",
            Err(_) => "failed",
        };
        gateway.metrics.identity.inspections.with_label_values(&[issuer, result]).inc();
        let keep = inspection.cache.max(Duration::from_secs(1));
        let outcome = match answer.map_err(Trouble::Unavailable)? {
            IntrospectionAnswer::Of(answer) => {
                inspection.issuer.inspected(&answer, gateway.clock.now().wall, keep)
            }
            IntrospectionAnswer::Refused => Err(Fault::Inactive),
        };
        let known = Arc::new(kept(gateway, inspection, outcome));
        match known.outcome {
            Ok(_) => gateway.estate.callers.tokens.keep(token, Arc::clone(&known)),
            Err(_) => self.refused.insert(digest_of(token), Arc::clone(&known)),
        }
        Ok(known)
    }

    /// Leave to ask at `monotonic`.
    fn may_ask(&self, owner: Owner, monotonic: Duration) -> Result<(), Trouble> {
        let mut health = self.health();
        if health.is_left_alone(owner, monotonic) {
            return Err(left_alone());
        }
        if health.failures >= MAX_FAILURES {
            // Until this one is answered the others wait for their turn: they would find out the same.
            health.left_alone_until = monotonic + LEAVE_ALONE;
        }
        Ok(())
    }

    fn health(&self) -> MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn under_way(&self) -> MutexGuard<'_, HashMap<TokenDigest, Awaited>> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Health {
    fn is_left_alone(&self, owner: Owner, monotonic: Duration) -> bool {
        monotonic < self.left_alone_until && (self.is_common || self.first == Some(owner))
    }

    /// Notes what became of a question of `owner`, and gives what the log says of that.
    fn note(
        &mut self,
        answer: &Result<IntrospectionAnswer, String>,
        owner: Owner,
        monotonic: Duration,
    ) -> Option<News> {
        let now = Instant::now();
        let news = match answer {
            Ok(IntrospectionAnswer::Of(_)) => {
                (self.failures, self.first, self.is_common) = (0, None, false);
                self.left_alone_until = Duration::ZERO;
                let ended = self.outages.end().filter(|(_, is_told)| *is_told);
                ended.map(|(outage, _)| News::AnswersAgain { failed: self.failed - outage.calls_before })
            }
            // About the token alone: what answers so may stand before the issuer. The next may go first.
            Ok(IntrospectionAnswer::Refused) => {
                self.left_alone_until = Duration::ZERO;
                None
            }
            Err(_) => {
                self.failures = self.failures.saturating_add(1);
                self.is_common |= *self.first.get_or_insert(owner) != owner;
                if self.failures >= MAX_FAILURES {
                    self.left_alone_until = monotonic + LEAVE_ALONE;
                }
                let is_told = self.outages.begin("unanswered", self.failed, now);
                self.failed += 1;
                is_told.filter(|is_told| *is_told).map(|_| News::Fails)
            }
        };
        news.or_else(|| self.outages.sum_up(now).map(|outages| News::FailsOnAndOff { outages }))
    }
}

fn tell(issuer: &str, news: &News, cause: &str) {
    let cause = &cause[..cause.floor_char_boundary(MAX_CAUSE)];
    match news {
        News::Fails => tracing::warn!(issuer, cause, "the issuer that is asked about tokens is failing"),
        News::FailsOnAndOff { outages } => {
            tracing::warn!(issuer, outages, "the issuer that is asked about tokens fails on and off");
        }
        News::AnswersAgain { failed } => {
            tracing::warn!(issuer, failed, "the issuer that is asked about tokens answers again");
        }
    }
}

fn left_alone() -> Trouble {
    unavailable("the issuer is left alone, since it did not answer")
}

fn unavailable(cause: &str) -> Trouble {
    Trouble::Unavailable(cause.to_owned())
}

/// What the issuer answers. Anything that says nothing of the token is no answer: a token is not bad
/// because its issuer is unwell (RFC 7662 §2.2: `active` is always there).
async fn asked(
    gateway: &Gateway,
    inspection: &Inspection,
    token: &str,
) -> Result<IntrospectionAnswer, String> {
    let form = Bytes::from(format!("token={}&token_type_hint=access_token", escaped(token)));
    let (status, answer) = fetch::post(gateway, &inspection.at, form, MAX_ANSWER_BYTES).await?;
    if is_about_token(status) {
        return Ok(IntrospectionAnswer::Refused);
    }
    if status != StatusCode::OK {
        return Err(format!("it answers with status {}", status.as_u16()));
    }
    let answer = String::from_utf8(answer.into()).map_err(|_| "its answer is not UTF-8".to_owned())?;
    let says = Object::read(&answer).is_ok_and(|said| said.get("active").is_some());
    if says {
        Ok(IntrospectionAnswer::Of(answer))
    } else {
        Err("its answer is no JSON object with `active`".to_owned())
    }
}

/// Whether a status refuses the question for its token: not for who asks, nor how often, nor when.
fn is_about_token(status: StatusCode) -> bool {
    status.is_client_error() && ![401, 403, 404, 405, 408, 410, 425, 429].contains(&status.as_u16())
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
mod tests;
