//! Policies and questions for tests.

use crate::authorize::*;
use crate::identity::{Claims, Principal, names};
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

/// A policy with a table of its own.
pub(super) struct Kit {
    pub(super) policy: Policy,
    pub(super) cache: DecisionCache,
}

impl Kit {
    pub(super) fn of(text: &str) -> Kit {
        Kit::with(text, &[]).unwrap()
    }

    pub(super) fn with(text: &str, data: &[Document]) -> Result<Kit, Vec<Problem>> {
        let policy = Policy::compile(&[module(text)], data, &lenient_settings())?;
        Ok(Kit::around(policy))
    }

    pub(super) fn around(policy: Policy) -> Kit {
        Kit { policy, cache: DecisionCache::new(1_000, 1_000_000) }
    }

    pub(super) fn decide(&self, question: &Question<'_>) -> Decision {
        self.policy.decide(Entry::Decision, question, &self.cache)
    }
}

/// Time enough for evaluations of a build that is not optimised, on a machine that has other work.
pub(crate) fn lenient_settings() -> Settings {
    Settings { time_limit: Duration::from_secs(1), ..Settings::default() }
}

pub(super) fn asked(kit: &Kit, entry: Entry, question: &Question<'_>) -> Decision {
    kit.policy.decide(entry, question, &kit.cache)
}

pub(super) fn module(text: &str) -> Module {
    Module { path: "policy/authz.rego".to_owned(), text: text.to_owned() }
}

/// Anna of Acme.
pub(super) fn principal(roles: &[&str], claims: &[(&str, &str)]) -> Principal {
    let claims = claims.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
    Principal {
        roles: names(roles.iter().copied()),
        claims: Claims::new(claims),
        ..Principal::named("acme", "anna")
    }
    .with_digest()
}

pub(super) fn principal_named(subject: &str, roles: &[&str]) -> Principal {
    Principal { roles: names(roles.iter().copied()), ..Principal::named("acme", subject) }.with_digest()
}

/// A call of a tool, at the epoch.
pub(super) fn question(principal: &Principal) -> Question<'_> {
    Question {
        principal,
        mcp: Mcp {
            method: "tools/call",
            direction: Direction::ToServer,
            server: "/mcp",
            upstream: Some("crm"),
            kind: Kind::Tool,
            name: Some("search"),
            uri: None,
            arguments: None,
            responses: None,
            era: "modern",
        },
        tool: Some(Tool {
            original: "search",
            risk: "low",
            class: "internal",
            labels: &[],
            scopes: &[],
            owner: None,
            read_only: Some(true),
            idempotent: None,
            claimed: None,
        }),
        context: Context {
            source_ip: IpAddr::V4(Ipv4Addr::LOCALHOST),
            zone: None,
            listener: "main",
            client: None,
            justification: None,
        },
        threat: Threat::None,
        findings: None,
        now: crate::Moment { monotonic: Duration::ZERO, wall: Duration::ZERO },
    }
}
