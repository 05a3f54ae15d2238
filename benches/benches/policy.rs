//! What a decision costs: remembered, worked out, and for a list; and what a policy costs to compile.

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use portunus::authorize::{PolicyRuntime, Wanted};
use portunus_benches::catalogue::{merged, sources};
use portunus_config::{MapEnvironment, load_text};
use portunus_filters::authorization_filter::Viewer;
use portunus_filters::authorize::{
    Context, DecisionCache, Direction, Document, Entry, Kind, Mcp, Module, Policy, Question, Settings,
    Threat, Tool,
};
use portunus_filters::call::Target;
use portunus_filters::catalog::{Closing, ListKind};
use portunus_filters::identity::{Claims, Principal, names};
use portunus_filters::mcp::bridge::Caching;
use portunus_filters::{Arrival, Era, Identity, Moment};
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

const ROLES: &str = r#"package mcp.authz
default decision := {"allow": false, "reason": "no role allows it"}
decision := {"allow": true, "reason": "role"} if {
    some role in input.principal.roles
    some allowed in data.roles[role]
    startswith(input.mcp.name, allowed)
}
"#;
/// Of ten tools one is not for this caller.
const SEEN: &str = r#"package mcp.authz
import rego.v1
default decision := false
decision if input.mcp.kind == "server"
decision if {
    "reader" in input.principal.roles
    not endswith(input.mcp.name, "7")
}
"#;
const GRANTS: &str = r#"package mcp.authz
default decision := {"allow": false, "reason": "no grant"}
decision := {"allow": true, "reason": "granted"} if {
    not input.principal.claims.suspended
    some grant in data.grants[input.principal.subject]
    grant.tool == input.mcp.name
    input.mcp.arguments.region in grant.regions
    input.time.hour >= grant.from
}
"#;

#[expect(clippy::panic, reason = "there is nothing to measure without one")]
fn policy(modules: &[Module], data: &[Document]) -> Policy {
    Policy::compile(modules, data, &Settings::default()).unwrap_or_else(|problems| panic!("{problems:?}"))
}

fn module(path: &str, text: &str) -> Module {
    Module { path: path.to_owned(), text: text.to_owned() }
}

fn document(text: String) -> Document {
    Document { path: "data.json".to_owned(), mount: String::new(), text }
}

fn roles() -> Policy {
    let roles = r#"{"roles": {"reader": ["search", "list"], "writer": ["update", "search"], "admin": [""]}}"#;
    policy(&[module("roles.rego", ROLES)], &[document(roles.to_owned())])
}

/// 5,000 callers with their grants: 0.8 MB.
fn grants() -> Policy {
    let grant = |number: usize| {
        format!(
            r#""user{number}":[{{"tool":"search","regions":["eu","us"],"from":0,"note":"{}"}},{{"tool":"update","regions":["eu"],"from":0}}]"#,
            "what it was for ".repeat(3)
        )
    };
    let grants: Vec<String> = (0..5_000).map(grant).collect();
    policy(&[module("grants.rego", GRANTS)], &[document(format!(r#"{{"grants":{{{}}}}}"#, grants.join(",")))])
}

fn caller() -> Principal {
    let claims = Claims::new(vec![("department".into(), "\"sales\"".into())]);
    let named = Principal::named("acme", "user4321");
    Principal { roles: names(["reader", "staff"]), claims, ..named }.with_digest()
}

fn question<'a>(principal: &'a Principal, name: &'a str, arguments: Option<&'a str>) -> Question<'a> {
    Question {
        principal,
        mcp: Mcp {
            method: "tools/call",
            direction: Direction::ToServer,
            server: "/mcp",
            upstream: Some("crm"),
            kind: Kind::Tool,
            name: Some(name),
            uri: None,
            arguments,
            responses: None,
            era: "modern",
        },
        tool: Some(Tool {
            original: name,
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
            zone: Some("office"),
            listener: "main",
            client: Some("bench"),
            justification: None,
        },
        threat: Threat::None,
        findings: None,
        now: Moment { monotonic: Duration::ZERO, wall: Duration::from_secs(1_800_000_000) },
    }
}

fn arguments(bytes: usize) -> String {
    format!(r#"{{"text":"{}","region":"eu","limit":10}}"#, "a".repeat(bytes))
}

fn decisions(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("decision");
    let principal = caller();
    let (small, large) = (arguments(300), arguments(4_000));
    let cases = [
        ("roles", roles(), None),
        ("grants", grants(), Some(&small)),
        ("grants-4KB", grants(), Some(&large)),
    ];
    for (name, policy, arguments) in &cases {
        let question = question(&principal, "search", arguments.map(String::as_str));
        let cache = DecisionCache::new(100_000, 64 << 20);
        group.bench_function(format!("hit/{name}"), |bencher| {
            bencher.iter(|| policy.decide(Entry::Decision, black_box(&question), &cache));
        });
        let nothing = DecisionCache::new(1, 1);
        group.bench_function(format!("miss/{name}"), |bencher| {
            bencher.iter(|| policy.decide(Entry::Decision, black_box(&question), &nothing));
        });
    }
    group.finish();
}

fn lists(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("list-1000");
    group.sample_size(20);
    let (policy, principal) = (roles(), caller());
    let tools: Vec<String> = (0..1_000).map(|number| format!("tool_{number}")).collect();
    let filter = |cache: &DecisionCache| {
        let allowed =
            |tool: &&String| policy.decide(Entry::Decision, &question(&principal, tool, None), cache).allow;
        tools.iter().filter(allowed).count()
    };
    let fresh = || DecisionCache::new(100_000, 64 << 20);
    group.bench_function("cold", |bencher| {
        bencher.iter_batched(fresh, |cache| filter(&cache), BatchSize::PerIteration)
    });
    let cache = fresh();
    group.bench_function("cached", |bencher| bencher.iter(|| filter(&cache)));
    group.finish();
}

/// Of 1,000 merged tools those that a caller sees, up to the segments of the answer.
#[expect(clippy::unwrap_used, reason = "a bench that cannot be set up has nothing to measure")]
fn views(criterion: &mut Criterion) {
    let text =
        "version: 1\nupstreams: {crm: 'http://localhost:1/'}\nservers: {/mcp: crm}\npolicy: roles.rego\n";
    let files = [("/gateway/roles.rego".into(), SEEN.to_owned())].into();
    let environment = MapEnvironment { files, ..MapEnvironment::default() };
    let loaded = load_text(text, Path::new("/gateway/gateway.yaml"), &environment);
    let policy_runtime = PolicyRuntime::of(&loaded.unwrap().snapshot, &Arc::default(), None);
    let at = Moment { monotonic: Duration::ZERO, wall: Duration::from_secs(1_800_000_000) };
    let arrival = Arrival {
        listener: "main".into(),
        source: IpAddr::V4(Ipv4Addr::LOCALHOST),
        identity: Identity::Principal(Arc::new(caller())),
        request_id: "1".into(),
        at,
    };
    let target = Target::new(&"/mcp".into(), &"".into());
    let viewer = Viewer { arrival: &arrival, target: &target, era: "modern" };
    let (catalog, upstream) = (Arc::new(merged(&sources(1_000))), Arc::from("crm"));
    let closing =
        Closing { era: Era::Modern, caching: Caching::NONE, server_info: None, now: at, untold: &[] };
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let mut group = criterion.benchmark_group("list-1000");
    group.bench_function("seen", |bencher| {
        bencher.iter(|| {
            let wanted = Wanted { catalog: &catalog, kind: ListKind::Tools, upstream: &|_| Some(&upstream) };
            let view = runtime.block_on(policy_runtime.view(black_box(&viewer), &wanted));
            view.map(|view| view.list.result(&catalog, None, &closing))
        });
    });
    group.finish();
}

/// What roles may do, worked out anew: of a caller with one grant, and of those with 10,000 as ten roles and as
/// one thousand.
#[expect(clippy::unwrap_used, reason = "a bench that cannot be set up has nothing to measure")]
fn rbac(criterion: &mut Criterion) {
    let text = "version: 1\nupstreams: {crm: 'http://localhost:1/'}\nservers: {/mcp: crm}\n\
                policy: {builtin: rbac, data: roles.yaml}\n";
    let mut group = criterion.benchmark_group("rbac");
    for (name, roles, grants, pattern) in [
        ("1-grant", 1, 1, "crm.get_"),
        ("10000-names", 10, 1_000, "crm.get_"),
        ("10000-patterns", 10, 1_000, "crm.get_*_"),
        ("1000-roles", 1_000, 10, "crm.get_"),
    ] {
        let of = |role: usize| {
            let grants = (0..grants).map(|grant| format!("'{pattern}{role}_{grant}'")).collect::<Vec<_>>();
            format!("  r{role}: {{allow: [{}]}}\n", grants.join(", "))
        };
        let file = format!("roles:\n{}", (0..roles).map(of).collect::<String>());
        let files = [("/gateway/roles.yaml".into(), file)].into();
        let environment = MapEnvironment { files, ..MapEnvironment::default() };
        let loaded = load_text(text, Path::new("/gateway/gateway.yaml"), &environment).unwrap();
        let policy = loaded.snapshot.policy.unwrap();
        let held = names((0..roles).map(|role| format!("r{role}")));
        let principal = Principal { roles: held, ..caller() }.with_digest();
        let nothing = DecisionCache::new(1, 1);
        for (what, tool) in [("granted", "get_0_0"), ("not-granted", "set_0_0")] {
            let question = question(&principal, tool, None);
            group.bench_function(format!("{name}/{what}"), |bencher| {
                bencher.iter(|| policy.policy.decide(Entry::Visible, black_box(&question), &nothing));
            });
        }
    }
    group.finish();
}

/// 50 modules and 10,000 entries of data.
fn activation(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("policy");
    group.sample_size(10);
    let mut modules = vec![module("grants.rego", GRANTS)];
    for number in 0..49 {
        let text = GRANTS.replace("mcp.authz", &format!("team{number}.authz"));
        modules.push(module(&format!("team{number}.rego"), &text));
    }
    let entry =
        |number: usize| format!(r#""entry{number}":{{"tool":"search","regions":["eu"],"from":{number}}}"#);
    let data = format!(r#"{{"grants":{{{}}}}}"#, (0..10_000).map(entry).collect::<Vec<_>>().join(","));
    let data = [document(data)];
    group.bench_function("compile", |bencher| bencher.iter(|| policy(&modules, &data)));
    group.bench_function("drop", |bencher| {
        bencher.iter_batched(|| policy(&modules, &data), drop, BatchSize::PerIteration);
    });
    group.finish();
}

criterion_group!(benches, decisions, lists, views, rbac, activation);
criterion_main!(benches);
