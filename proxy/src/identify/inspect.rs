//! Asking an issuer about a token (RFC 7662), where tokens say nothing themselves.
//!
//! An issuer that does not answer is left alone for a while: calls are refused at once rather than
//! held up behind it.

use super::fetch;
use crate::context::Gateway;
use bytes::Bytes;
use portunus_config::{Inspection, Snapshot, TrustId};
use portunus_filters::identity::{Fault, Verified};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Semaphore;

/// Questions to one issuer at once.
const MAX_ASKED: usize = 64;
/// Questions in a row without an answer, until it is left alone.
const MAX_FAILURES: u32 = 5;
/// For how long it is left alone.
const LEAVE_ALONE: Duration = Duration::from_secs(10);
const MAX_ANSWER_BYTES: usize = 64 << 10;

/// Issuers that are asked, by their settings.
#[derive(Default)]
pub struct Inspectors(Mutex<HashMap<TrustId, Arc<Inspector>>>);

/// What is known of the health of an issuer that is asked.
struct Inspector {
    permits: Semaphore,
    health: Mutex<Health>,
}

#[derive(Default)]
struct Health {
    failures: u32,
    left_alone_until: Duration,
}

/// Why a token was not verified.
#[derive(Debug)]
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

    /// Asks about a token.
    ///
    /// # Errors
    /// [`Trouble`].
    pub async fn ask(
        &self,
        gateway: &Arc<Gateway>,
        inspection: &Inspection,
        token: &str,
    ) -> Result<Verified, Trouble> {
        let inspector = Arc::clone(self.lock().entry(inspection.id).or_default());
        let now = gateway.clock.now();
        if now.monotonic < inspector.health().left_alone_until {
            return Err(Trouble::Unavailable("the issuer is left alone, since it did not answer".to_owned()));
        }
        let Ok(_permit) = inspector.permits.try_acquire() else {
            return Err(Trouble::Unavailable("too many tokens are being asked about".to_owned()));
        };
        let form = Bytes::from(format!("token={}&token_type_hint=access_token", escaped(token)));
        let answer = fetch::post(gateway, &inspection.at, form, MAX_ANSWER_BYTES).await;
        inspector.note(answer.is_ok(), gateway.clock.now().monotonic);
        let result = if answer.is_ok() { "ok" } else { "failed" };
        let counter = &gateway.metrics.identity.inspections;
        counter.with_label_values(&[&*inspection.issuer.name, result]).inc();
        let answer = answer.map_err(Trouble::Unavailable)?;
        let answer = std::str::from_utf8(&answer).map_err(|_| Fault::Malformed)?;
        let keep = inspection.cache.max(Duration::from_secs(1));
        Ok(inspection.issuer.inspected(answer, gateway.clock.now().wall, keep)?)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<TrustId, Arc<Inspector>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Inspector {
    fn default() -> Inspector {
        Inspector { permits: Semaphore::new(MAX_ASKED), health: Mutex::default() }
    }
}

impl Inspector {
    fn note(&self, answered: bool, monotonic: Duration) {
        let mut health = self.health();
        match answered {
            true => *health = Health::default(),
            false => {
                health.failures += 1;
                if health.failures >= MAX_FAILURES {
                    *health = Health { failures: 0, left_alone_until: monotonic + LEAVE_ALONE };
                }
            }
        }
    }

    fn health(&self) -> MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }
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
    fn a_token_cannot_add_fields_to_a_form() {
        assert_eq!(escaped("a&b=c+d%"), "a%26b%3Dc%2Bd%25");
    }
}
