//! Policy decides on the part of the arguments that it reads as it would on all of them, whatever the
//! arguments are.
//!
//! An input is the text of the arguments.

#![no_main]

use libfuzzer_sys::fuzz_target;
use portunus_filters::Moment;
use portunus_filters::authorize::{
    Context, DecisionCache, Direction, Entry, Fault, Kind, Mcp, Module, Policy, Question, Settings, Threat,
};
use portunus_filters::identity::Principal;
use portunus_filters::mcp::{Bounds, check};
use serde_json::Value;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::LazyLock;
use std::time::Duration;

const RULES: &str = r#"package mcp.authz
import input.mcp.arguments as args
default decision := {"allow": false, "reason": "no"}
decision := {"allow": true, "reason": "region"} if {
    args.region == "eu"
    not args.filter.max > 10
}
decision := {"allow": true, "reason": "list"} if {
    args.region != "eu"
    object.get(args, "list", []) == [1, 2]
}
"#;

static POLICY: LazyLock<(Policy, Principal)> = LazyLock::new(|| {
    let modules = [Module { path: "rules.rego".into(), text: RULES.into() }];
    (Policy::compile(&modules, &[], &Settings::default()).expect("compiles"), Principal::named("a", "b"))
});

fuzz_target!(|input: &[u8]| {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let (policy, principal) = &*POLICY;
    let cache = DecisionCache::new(8, 1 << 16);
    let question = question(principal, text);
    let first = policy.decide(Entry::Decision, &question, &cache);
    let second = policy.decide(Entry::Decision, &question, &cache);
    assert_eq!(first.ruling, second.ruling, "the same question twice");
    assert!(!first.diverged, "the part decides otherwise than all of it");
    assert!(!first.allow || first.fault.is_none(), "a fault denies");
    // Arguments stand in a message that was read: what is no JSON alone would be, with what is put
    // around it here, another document.
    if matches!(first.fault, Some(Fault::Unreadable(_))) || check(input, &Bounds::default()).is_err() {
        return;
    }
    if let Ok(full) = policy.ask_in_full(Entry::Decision, &format!(r#"{{"mcp":{{"arguments":{text}}}}}"#)) {
        assert!(serde_json::from_str::<Value>(text).is_ok(), "what is read is JSON");
        assert_eq!(full.allow, first.allow, "the part decides otherwise than all of it");
    }
});

fn question<'a>(principal: &'a Principal, arguments: &'a str) -> Question<'a> {
    Question {
        principal,
        mcp: Mcp {
            method: "tools/call",
            direction: Direction::ToServer,
            server: "/mcp",
            upstream: None,
            kind: Kind::Tool,
            name: Some("search"),
            uri: None,
            arguments: Some(arguments),
            responses: None,
            era: "modern",
        },
        tool: None,
        context: Context {
            source_ip: IpAddr::V4(Ipv4Addr::LOCALHOST),
            zone: None,
            listener: "main",
            client: None,
            justification: None,
        },
        threat: Threat::None,
        findings: None,
        now: Moment { monotonic: Duration::ZERO, wall: Duration::ZERO },
    }
}
