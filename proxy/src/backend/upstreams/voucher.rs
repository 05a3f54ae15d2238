//! Assertions to one upstream about its callers: signed when they are first needed, and again before
//! they end.

use crate::backend::headers::told;
use crate::clock::SystemClock;
use crate::shares::Owner;
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderName, HeaderValue};
use portunus_base::table::{Holding, Table, Term};
use portunus_config::{AssertionRules, CallerFact, Upstream};
use portunus_filters::Clock;
use portunus_filters::identity::assertion::Terms;
use ring::digest::{Context, SHA256};
use std::sync::Arc;

/// Callers whose assertions are kept; for the others each is signed, which takes some 20 µs.
const MAX_KEPT: usize = 10_000;

/// Vouches for callers to one upstream.
pub struct Voucher {
    rules: Arc<AssertionRules>,
    clock: Box<dyn Clock>,
    kept: Table<[u8; 32], HeaderValue>,
}

impl Voucher {
    /// One for an upstream that wants assertions.
    pub fn new(upstream: &Upstream) -> Option<Voucher> {
        let rules = upstream.caller.assertion.as_ref()?;
        Some(Voucher::with_clock(Arc::clone(rules), Box::new(SystemClock::new())))
    }

    fn with_clock(rules: Arc<AssertionRules>, clock: Box<dyn Clock>) -> Voucher {
        Voucher { rules, clock, kept: Table::new(MAX_KEPT) }
    }

    /// The field that tells the upstream who sent these headers; `None` where nobody verified did.
    pub fn vouch(&self, headers: &HeaderMap) -> Option<(HeaderName, HeaderValue)> {
        if !headers.contains_key(CallerFact::Subject.header()) {
            return None;
        }
        let (key, now) = (digest(headers), self.clock.now());
        if let Some(kept) = self.kept.get(&key, now) {
            return Some((self.rules.header.clone(), kept));
        }
        let AssertionRules { keys, issuer, audience, lifetime, header, .. } = &*self.rules;
        let terms = Terms { issuer, audience, now: now.wall, lifetime: *lifetime };
        let token = keys.first()?.sign(&told(headers)?, &terms)?;
        let text = if *header == AUTHORIZATION { format!("Bearer {token}") } else { token };
        let mut value = HeaderValue::from_str(&text).ok()?;
        value.set_sensitive(true);
        // Who gets one has a third of its time left at least.
        let fresh = *lifetime * 2 / 3;
        let term = Term { idle: fresh, until: now.monotonic + fresh };
        // They are of one size, and made again when they are missed.
        let holding = Holding { owner: Owner::Nobody, weight: 1 };
        drop(self.kept.insert(key, value.clone(), holding, (term, now)));
        Some((header.clone(), value))
    }

    /// Lets go of those that are due to be signed again.
    pub fn sweep(&self) {
        self.kept.sweep(self.clock.now());
    }

    /// How many callers' are kept.
    pub fn len(&self) -> usize {
        self.kept.len()
    }

    /// Whether none is kept.
    pub fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }
}

/// Of all that is said of the caller, each part with its length before it.
fn digest(headers: &HeaderMap) -> [u8; 32] {
    let mut tape = Context::new(&SHA256);
    for (_, fact) in CallerFact::NAMES {
        let value = headers.get(fact.header()).map(HeaderValue::as_bytes).unwrap_or_default();
        tape.update(&value.len().to_be_bytes());
        tape.update(value);
    }
    let mut digest = [0; 32];
    digest.copy_from_slice(tape.finish().as_ref());
    digest
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::headers::stamp;
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use portunus_filters::identity::assertion::SigningKey;
    use portunus_filters::identity::{Principal, names};
    use portunus_filters::{ManualClock, Moment};
    use std::time::Duration;

    struct Shared(Arc<ManualClock>);

    impl Clock for Shared {
        fn now(&self) -> Moment {
            self.0.now()
        }
    }

    fn voucher(header: &'static str) -> (Voucher, Arc<ManualClock>) {
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        let rules = AssertionRules {
            keys: vec![Arc::new(SigningKey::from_pkcs8(key.serialized_der()).unwrap())],
            issuer: "https://gw".to_owned(),
            audience: "https://crm/mcp".to_owned(),
            lifetime: Duration::from_secs(300),
            header: HeaderName::from_static(header),
            sources: vec![],
        };
        let clock = Arc::new(ManualClock::default());
        (Voucher::with_clock(Arc::new(rules), Box::new(Shared(Arc::clone(&clock)))), clock)
    }

    fn from(caller: &Principal) -> HeaderMap {
        let mut headers = HeaderMap::new();
        stamp(&mut headers, caller);
        headers
    }

    fn claims(value: &HeaderValue) -> serde_json::Value {
        let text = value.to_str().unwrap().trim_start_matches("Bearer ");
        let claims = URL_SAFE_NO_PAD.decode(text.split('.').nth(1).unwrap()).unwrap();
        serde_json::from_slice(&claims).unwrap()
    }

    #[test]
    fn each_caller_has_an_assertion_of_its_own_that_never_comes_late() {
        let (voucher, clock) = voucher("x-portunus-assertion");
        let anna = Principal::named("acme", "anna");
        let (name, first) = voucher.vouch(&from(&anna)).unwrap();
        assert_eq!(name, "x-portunus-assertion");
        assert!(first.is_sensitive());
        let other = Principal { roles: names(["admin"]), ..anna.clone() };
        let (_, others) = voucher.vouch(&from(&other)).unwrap();
        assert_eq!((&claims(&first)["sub"], &claims(&first)["roles"]), (&"anna".into(), &().into()));
        assert_eq!(claims(&others)["roles"], serde_json::json!(["admin"]));
        clock.advance(Duration::from_secs(199));
        assert_eq!(voucher.vouch(&from(&anna)).unwrap().1, first, "kept");
        clock.advance(Duration::from_secs(1));
        let (_, later) = voucher.vouch(&from(&anna)).unwrap();
        assert_eq!(claims(&later)["exp"].as_u64(), claims(&first)["exp"].as_u64().map(|end| end + 200));
        assert_eq!(voucher.len(), 2);
        voucher.sweep();
        assert_eq!(voucher.len(), 1, "the other one is due");
    }

    #[test]
    fn nobody_is_vouched_for_who_was_not_verified() {
        let (voucher, _) = voucher("x-portunus-assertion");
        assert_eq!(voucher.vouch(&HeaderMap::new()), None);
    }

    #[test]
    fn in_authorization_it_is_a_bearer_token() {
        let (voucher, _) = voucher("authorization");
        let (_, value) = voucher.vouch(&from(&Principal::named("acme", "anna"))).unwrap();
        assert!(value.to_str().unwrap().starts_with("Bearer ey"));
    }
}
