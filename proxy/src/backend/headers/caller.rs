//! Who is calling, in header fields.
//!
//! The fields are the gateway's own: whatever a client says under such a name is dropped as its
//! request begins. Once the caller is known they are written into its request, so that all that is
//! kept apart by what goes up is kept apart by them, and each upstream gets those that its document
//! names.

use http::{HeaderMap, HeaderName, HeaderValue};
use portunus_config::{CallerFact, CallerRules};
use portunus_filters::identity::Principal;
use portunus_filters::identity::assertion::Told;
use std::sync::Arc;

/// Says who is calling in the headers of its request, from which [`claims::strip`](super::claims::strip)
/// has dropped what its client wrote there.
pub fn stamp(headers: &mut HeaderMap, caller: &Principal) {
    let mut put = |fact: CallerFact, text: String| {
        if text.is_empty() {
            return;
        }
        // What was escaped is visible ASCII.
        if let Ok(value) = HeaderValue::from_str(&text) {
            headers.insert(fact.header(), value);
        }
    };
    put(CallerFact::Subject, escaped(&caller.subject));
    put(CallerFact::Tenant, escaped(&caller.tenant));
    put(CallerFact::Agent, caller.agent.as_deref().map(escaped).unwrap_or_default());
    put(CallerFact::OnBehalfOf, caller.on_behalf_of.as_deref().map(escaped).unwrap_or_default());
    put(CallerFact::Roles, list(&caller.roles));
    put(CallerFact::Groups, list(&caller.groups));
    put(CallerFact::Scopes, list(&caller.scopes));
}

/// What [`stamp`] wrote; `None` in what no verified caller sent.
pub fn told(headers: &HeaderMap) -> Option<Told> {
    let text = |fact: CallerFact| headers.get(fact.header()).and_then(|value| value.to_str().ok());
    let one = |fact| text(fact).map(plain);
    let many = |fact| text(fact).unwrap_or_default().split(',').filter(|name| !name.is_empty()).map(plain);
    Some(Told {
        sub: one(CallerFact::Subject)?,
        tenant: one(CallerFact::Tenant)?,
        agent: one(CallerFact::Agent),
        on_behalf_of: one(CallerFact::OnBehalfOf),
        roles: many(CallerFact::Roles).collect(),
        groups: many(CallerFact::Groups).collect(),
        scope: many(CallerFact::Scopes).collect::<Vec<_>>().join(" "),
    })
}

/// Whether an upstream with these rules does not get a field that [`stamp`] may have written.
pub(super) fn is_kept_from(name: &HeaderName, rules: &CallerRules) -> bool {
    is_ours(name.as_str()) && !rules.headers.iter().any(|fact| fact.header() == *name)
}

/// Whether an upstream with these rules learns of a field that [`stamp`] may have written, be it in
/// what is signed for it.
pub(super) fn is_told(name: &HeaderName, rules: &CallerRules) -> bool {
    is_ours(name.as_str()) && (rules.assertion.is_some() || !is_kept_from(name, rules))
}

/// Whether an upstream with these rules gets a signed statement under this name, whatever the name is.
pub(super) fn is_assertion(name: &HeaderName, rules: &CallerRules) -> bool {
    rules.assertion.as_ref().is_some_and(|assertion| assertion.header == *name)
}

/// Whether a field is one of those that only the gateway may write.
pub(super) fn is_ours(name: &str) -> bool {
    name.starts_with(CallerFact::HEADER_PREFIX)
}

fn list(names: &[Arc<str>]) -> String {
    names.iter().map(|name| escaped(name)).collect::<Vec<_>>().join(",")
}

/// Visible ASCII as it is, the rest of UTF-8, `%` and the comma of lists as `%XX`.
fn escaped(text: &str) -> String {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'%' | b',' => {}
            b'!'..=b'~' => {
                out.push(char::from(byte));
                continue;
            }
            _ => {}
        }
        out.extend([
            '%',
            char::from(DIGITS[usize::from(byte >> 4)]),
            char::from(DIGITS[usize::from(byte & 15)]),
        ]);
    }
    out
}

/// What was [`escaped`].
fn plain(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let digits = tail.get(..2).filter(|_| *first == b'%');
        let escaped =
            digits.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok());
        bytes.push(escaped.unwrap_or(*first));
        rest = if escaped.is_some() { &tail[2..] } else { tail };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::headers::claims;
    use portunus_filters::identity::names;
    use proptest::prelude::*;

    fn headers(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        fields.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap())).collect()
    }

    #[test]
    fn what_a_client_says_of_itself_is_dropped() {
        let mut said = headers(&[
            ("x-portunus-subject", "root"),
            ("x-portunus-whatever", "1"),
            ("x-portunus-assertion", "a.b.c"),
            ("x-team", "blue"),
        ]);
        claims::strip(&mut said);
        assert_eq!(said, headers(&[("x-team", "blue")]));
        assert_eq!(told(&said), None);
        stamp(&mut said, &Principal::named("acme", "anna"));
        let expected = [("x-team", "blue"), ("x-portunus-subject", "anna"), ("x-portunus-tenant", "acme")];
        assert_eq!(said, headers(&expected));
    }

    #[test]
    fn an_upstream_gets_the_facts_that_its_document_names() {
        let some = CallerRules { headers: vec![CallerFact::Roles], assertion: None };
        let cases = [
            ("x-portunus-roles", &some, false),
            ("x-portunus-subject", &some, true),
            ("x-portunus-roles", &CallerRules::default(), true),
            ("x-portunus-other", &some, true),
            ("x-team", &CallerRules::default(), false),
        ];
        for (name, rules, kept) in cases {
            assert_eq!(is_kept_from(&HeaderName::from_static(name), rules), kept, "{name}");
        }
    }

    proptest! {
        #[test]
        fn what_is_said_of_a_caller_is_what_is_known(
            subject in ".{1,20}", agent in proptest::option::of(".{1,9}"), roles in proptest::collection::vec(".{1,9}", 0..4)
        ) {
            let caller = Principal {
                agent: agent.clone().map(Into::into),
                roles: names(roles),
                scopes: names(["a", "b"]),
                ..Principal::named("zażółć, inc", subject.as_str())
            };
            let mut said = HeaderMap::new();
            stamp(&mut said, &caller);
            let told = told(&said).unwrap();
            prop_assert_eq!((&told.sub, &told.agent, told.tenant.as_str()), (&subject, &agent, "zażółć, inc"));
            let roles: Vec<&str> = caller.roles.iter().map(|role| &**role).collect();
            prop_assert_eq!((told.roles.iter().map(String::as_str).collect::<Vec<_>>(), told.scope.as_str()), (roles, "a b"));
            for value in said.values() {
                prop_assert!(value.as_bytes().iter().all(|byte| byte.is_ascii_graphic()));
            }
        }
    }
}
