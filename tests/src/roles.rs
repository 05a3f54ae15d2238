//! `builtin: rbac` is answered from an index, and says what the rules that it is ejected to say: files of roles and
//! questions are drawn at random, and both are asked.

use crate::prove::policy::Dice;
use portunus_config::{MapEnvironment, PolicyRules, load_text};
use portunus_filters::Moment;
use portunus_filters::authorize::{
    Context, DecisionCache, Direction, Document, Entry, Fault, Kind, Mcp, Policy, Question, Settings, Threat,
    Tool,
};
use portunus_filters::identity::{Claims, Principal};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Of each file of roles.
const CALLERS: usize = 12;
const MESSAGES: usize = 14;

const HEAD: &str = "version: 1\nupstreams: {crm: 'http://localhost:1/', crm.v2: 'http://localhost:2/', \
    bank: 'http://localhost:3/'}\nservers: {/mcp: {upstreams: [crm, bank], name: main}, \
    /v2: {upstreams: crm.v2, name: second}}\npolicy: {builtin: rbac, data: roles.yaml}\n";

const UPSTREAMS: [&str; 4] = ["crm", "crm.v2", "bank", "gone"];
const UPSTREAM_PATTERNS: [&str; 7] = ["crm", "crm.v2", "bank", "*", "crm*", "c*v2", "*a*"];
const NAMES: [&str; 9] =
    ["get_a", "get_b", "get_secret", "set_a", "aé", "aba", "x", "find*all", "get_find_all"];
const URIS: [&str; 5] =
    ["file:///open/a", "file:///open/b.txt", "file:///etc/a", "file:///open/{x}", "memo:a"];
const NAME_PATTERNS: [&str; 15] = [
    "get_a",
    "get_*",
    "*_a",
    "*",
    "get_*a*",
    "*get*a",
    "aé",
    "a*",
    "*é",
    "ab*ba",
    "*a*",
    "get_secret",
    "g*t*_*",
    "x",
    "*find*all",
];
const URI_PATTERNS: [&str; 6] =
    ["file:///open/*", "*", "*.txt", "file:///*/a", "file:///open/{x}", "*open*a"];
const WORDS: [&str; 4] = ["reader", "writer", "admin", "guest"];
const ARGUMENTS: [&str; 9] = [
    "{}",
    r#"{"region":"eu"}"#,
    r#"{"region":"us","n":1}"#,
    r#"{"n":1.0,"list":[1,2]}"#,
    r#"{"region":null}"#,
    r#"{"region":"eu","Region":"us"}"#,
    r#"{"n":9007199254740993}"#,
    "[]",
    r#"{"region":{"a":[true]}}"#,
];

fn one<T: Copy>(dice: &mut Dice, of: &[T]) -> T {
    of[dice.roll(of.len())]
}

fn some<T: Copy>(dice: &mut Dice, most: usize, of: &[T]) -> Vec<T> {
    (0..dice.roll(most + 1)).map(|_| one(dice, of)).collect()
}

fn pattern(dice: &mut Dice, names: &[&str]) -> String {
    format!("{}.{}", one(dice, &UPSTREAM_PATTERNS), one(dice, names))
}

fn conditions(dice: &mut Dice) -> Value {
    let all = [
        ("zones", json!(one(dice, &["office", "vpn"]))),
        ("classes", json!(some(dice, 2, &["public", "internal", "restricted"]))),
        ("max_risk", json!(one(dice, &["low", "medium", "high", "critical", "unrated"]))),
        ("mfa", json!(dice.roll(2) == 0)),
        ("weekdays", json!(some(dice, 2, &["Saturday", "Sunday", "Monday"]))),
        ("hours", one(dice, &[json!({"from": 0, "to": 9}), json!({"from": 9, "to": 24})].each_ref()).clone()),
        ("justification", json!(dice.roll(2) == 0)),
    ];
    let mut when: Map<String, Value> =
        all.into_iter().filter(|_| dice.roll(7) == 0).map(|(key, value)| (key.to_owned(), value)).collect();
    if dice.roll(5) == 0 {
        let wanted = [
            json!({"region": "eu"}),
            json!({"region": {"claim": "region"}}),
            json!({"n": [1, 2]}),
            json!({"region": ["eu", null], "n": 1}),
            json!({"list": [[1, 2]], "n": 1}),
            json!({}),
        ];
        when.insert("arguments".to_owned(), wanted[dice.roll(wanted.len())].clone());
    }
    Value::Object(when)
}

fn grant(dice: &mut Dice) -> Value {
    if dice.roll(3) == 0 {
        return json!(pattern(dice, &NAME_PATTERNS));
    }
    let mut grant = json!({"when": conditions(dice)});
    for key in ["tools", "tools", "prompts", "resources"] {
        if dice.roll(2) == 0 || key == "tools" && dice.roll(2) == 0 {
            let names: &[&str] = if key == "resources" { &URI_PATTERNS } else { &NAME_PATTERNS };
            grant[key] = json!((0..=dice.roll(2)).map(|_| pattern(dice, names)).collect::<Vec<_>>());
        }
    }
    if grant.as_object().is_some_and(|keys| keys.len() == 1) {
        grant["tools"] = json!(pattern(dice, &NAME_PATTERNS));
    }
    if dice.roll(6) == 0 {
        grant["servers"] = json!(one(dice, &["main", "second"]));
    }
    grant
}

fn role(dice: &mut Dice) -> Value {
    let mut role = json!({ "allow": (0..=dice.roll(4)).map(|_| grant(dice)).collect::<Vec<_>>() });
    if dice.roll(2) == 0 {
        role["deny"] = (0..dice.roll(3)).map(|_| grant(dice)).collect();
    }
    for (key, words) in
        [("roles", &WORDS[..]), ("groups", &["staff", "audit"]), ("subjects", &["ada", "eve"])]
    {
        if dice.roll(3) == 0 {
            role[key] = json!(some(dice, 2, words));
        }
    }
    if dice.roll(4) == 0 {
        role["tenants"] = json!(some(dice, 2, &["acme", "other"]));
    }
    if dice.roll(4) == 0 {
        role["methods"] = json!(some(dice, 2, &["acme/report", "tasks/list"]));
    }
    role
}

/// What is drawn for one message.
struct Message {
    kind: Kind,
    method: &'static str,
    direction: Direction,
    server: &'static str,
    upstream: Option<&'static str>,
    name: Option<&'static str>,
    uri: Option<&'static str>,
    arguments: Option<&'static str>,
    facts: Option<(&'static str, &'static str)>,
    zone: Option<&'static str>,
    justification: Option<&'static str>,
    hours: u64,
}

fn message(dice: &mut Dice) -> Message {
    let kinds = [Kind::Prompt, Kind::Resource, Kind::Template, Kind::Server, Kind::Stream, Kind::Other];
    let kind = if dice.roll(2) == 0 { Kind::Tool } else { one(dice, &kinds) };
    let methods = [
        "tools/call",
        "tools/list",
        "initialize",
        "stream",
        "acme/report",
        "tasks/list",
        "sampling/createMessage",
    ];
    let facts = |dice: &mut Dice| {
        let risk = one(dice, &["low", "medium", "high", "critical", "unrated", "odd"]);
        (risk, one(dice, &["public", "internal", "restricted"]))
    };
    Message {
        kind,
        method: one(dice, &methods),
        direction: if dice.roll(5) == 0 { Direction::ToClient } else { Direction::ToServer },
        server: one(dice, &["main", "second"]),
        upstream: (dice.roll(12) > 0).then(|| one(dice, &UPSTREAMS)),
        name: (dice.roll(12) > 0).then(|| one(dice, &NAMES)),
        uri: (dice.roll(12) > 0).then(|| one(dice, &URIS)),
        arguments: (dice.roll(3) > 0).then(|| one(dice, &ARGUMENTS)),
        facts: (dice.roll(8) > 0).then(|| facts(dice)),
        zone: (dice.roll(2) == 0).then(|| one(dice, &["office", "vpn", "home"])),
        justification: (dice.roll(2) == 0).then(|| one(dice, &["", " \u{a0}", "because"])),
        hours: dice.roll(24 * 7) as u64,
    }
}

fn caller(dice: &mut Dice) -> Principal {
    let words = |words: Vec<&str>| words.into_iter().map(Arc::from).collect::<Vec<Arc<str>>>();
    let regions = ["\"eu\"", "\"us\"", "{\"a\":[true]}", "null", "12345678901234567890"];
    let region = (dice.roll(3) == 0).then(|| ("region".into(), one(dice, &regions).into()));
    Principal {
        roles: words(some(dice, 3, &["r0", "r1", "reader", "writer", "admin", "guest"])).into(),
        groups: words(some(dice, 2, &["staff", "audit", "none"])).into(),
        mfa: dice.roll(2) == 0,
        claims: Claims::new(region.into_iter().collect()),
        ..Principal::named(one(dice, &["acme", "other"]), one(dice, &["ada", "eve", "bob"]))
    }
    .with_digest()
}

fn question<'a>(principal: &'a Principal, message: &'a Message) -> Question<'a> {
    let Message { kind, method, direction, server, upstream, name, uri, arguments, .. } = *message;
    Question {
        principal,
        mcp: Mcp {
            method,
            direction,
            server,
            upstream,
            kind,
            name,
            uri,
            arguments,
            responses: None,
            era: "modern",
        },
        tool: message.facts.map(|(risk, class)| Tool {
            original: name.unwrap_or_default(),
            risk,
            class,
            labels: &[],
            scopes: &[],
            owner: None,
            read_only: None,
            idempotent: None,
            claimed: None,
        }),
        context: Context {
            source_ip: IpAddr::V4(Ipv4Addr::LOCALHOST),
            zone: message.zone,
            listener: "main",
            client: None,
            justification: message.justification,
        },
        threat: Threat::None,
        findings: None,
        now: Moment {
            monotonic: Duration::ZERO,
            wall: Duration::from_secs(1_785_574_800 + 3_600 * message.hours),
        },
    }
}

/// The policy of a file of roles, and the rules that it is ejected to.
fn both(roles: &Value) -> (Arc<PolicyRules>, Policy) {
    let files = [("/c/roles.yaml".into(), roles.to_string())].into();
    let environment = MapEnvironment { files, ..MapEnvironment::default() };
    let loaded = load_text(HEAD, Path::new("/c/gateway.yaml"), &environment);
    let rules = loaded.unwrap_or_else(|report| panic!("{report}\n{roles}")).snapshot.policy.unwrap();
    let text = Value::Object(rules.source.data.clone()).to_string();
    let data = Document { path: "data".to_owned(), mount: String::new(), text };
    let settings = Settings { time_limit: Duration::from_secs(60), ..rules.settings.clone() };
    let ejected = Policy::compile(&rules.source.modules, &[data], &settings).unwrap();
    (rules, ejected)
}

/// Asks at least `questions` in all. Those whose lists are shared have to see the same, too.
pub(crate) fn differ(questions: usize) {
    let mut dice = Dice(0x5eed_0401_e500);
    let (mut asked, mut shared) = (0, 0);
    let mut said: BTreeMap<String, usize> = BTreeMap::new();
    while asked < questions {
        let roles: Map<String, Value> =
            (0..=dice.roll(5)).map(|number| (format!("r{number}"), role(&mut dice))).collect();
        let roles = json!({ "roles": roles });
        let (rules, ejected) = both(&roles);
        let callers: Vec<Principal> = (0..CALLERS).map(|_| caller(&mut dice)).collect();
        let messages: Vec<Message> = (0..MESSAGES).map(|_| message(&mut dice)).collect();
        let forget = DecisionCache::new(1, 1);
        for message in &messages {
            let mut views = BTreeMap::new();
            for (number, principal) in callers.iter().enumerate() {
                let question = question(principal, message);
                for entry in [Entry::Decision, Entry::Visible] {
                    let ours = rules.policy.decide(entry, &question, &forget);
                    let theirs = ejected.decide(entry, &question, &forget);
                    assert_eq!(ours.ruling, theirs.ruling, "{entry:?} {question:?}\n{roles}");
                    assert!(rules.policy.class(entry) == ejected.class(entry));
                    let kind = ours.fault.as_ref().map_or("", |_| "fault");
                    *said.entry(format!("{entry:?} {} {}{kind}", ours.allow, ours.reason)).or_default() += 1;
                    asked += 1;
                    let unreadable = matches!(ours.fault, Some(Fault::Unreadable(_)));
                    // What a list is asked with has no arguments and no reason.
                    if entry == Entry::Visible && !unreadable {
                        let view = rules.policy.view(entry, &question).unwrap();
                        let (first, seen) = views.entry(view.key).or_insert((number, theirs.allow));
                        assert_eq!(*seen, theirs.allow, "{:?} and {principal:?}\n{roles}", callers[*first]);
                        shared += usize::from(*first != number);
                    }
                }
            }
        }
    }
    println!("{asked} questions, {shared} lists shared, {said:#?}");
    assert!(said.len() >= 6 && said.values().all(|times| times * 200 > asked), "{said:#?}");
    assert!(shared * 20 > asked, "{shared} of {asked}");
}

#[test]
fn roles_are_answered_as_the_rules_they_are_ejected_to_say() {
    differ(3_000);
}
