//! A file of roles, its mistakes, and what its rules decide.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use portunus_filters::Moment;
use portunus_filters::authorize::{
    Class as Depends, Context, DecisionCache, Direction, Entry, Kind, Mcp, Question, Threat, Tool, Unit,
};
use portunus_filters::identity::{Claims, Principal};

use super::{ASKED_OF_CLIENTS, GENERAL, NAMING};
use crate::testing::brief;
use crate::{Attempt, ListRule, MapEnvironment, PolicyRules, Report};

const HEAD: &str = "version: 1\nupstreams: {crm: 'http://localhost:1/', crm.v2: 'http://localhost:2/'}\n\
                    servers: {/mcp: {upstreams: crm, name: main}, /v2: {upstreams: crm.v2, name: second}}\n\
                    policy: {builtin: rbac, data: roles.yaml}\n";

fn attempt(roles: &str) -> Result<Arc<PolicyRules>, Report> {
    let mut env = MapEnvironment::default();
    env.files.insert("gateway.yaml".into(), HEAD.to_owned());
    env.files.insert("roles.yaml".into(), roles.to_owned());
    let loaded = Attempt::new(Path::new("gateway.yaml"), &env).outcome?;
    Ok(loaded.snapshot.policy.unwrap())
}

fn rules(roles: &str) -> Arc<PolicyRules> {
    attempt(roles).unwrap_or_else(|report| panic!("{report}"))
}

/// One question, of which tests change a part.
#[derive(Clone)]
struct Asked {
    principal: Principal,
    kind: Kind,
    method: &'static str,
    direction: Direction,
    upstream: &'static str,
    name: &'static str,
    server: &'static str,
    risk: &'static str,
    class: &'static str,
    arguments: &'static str,
    zone: Option<&'static str>,
    justification: Option<&'static str>,
    wall: Duration,
}

impl Asked {
    /// A call by a caller with these roles, at 9 o'clock of a Saturday in UTC.
    fn by(roles: &[&str]) -> Asked {
        let words = |words: &[&str]| words.iter().map(|word| Arc::from(*word)).collect::<Vec<Arc<str>>>();
        let mut principal = Principal::named("acme", "ada");
        principal.roles = words(roles).into();
        Asked {
            principal,
            kind: Kind::Tool,
            method: "tools/call",
            direction: Direction::ToServer,
            upstream: "crm",
            name: "get_customer",
            server: "main",
            risk: "low",
            class: "internal",
            arguments: "{}",
            zone: None,
            justification: None,
            wall: Duration::from_secs(1_785_574_800),
        }
    }

    fn allowed(&self, rules: &PolicyRules, entry: Entry) -> bool {
        let tool = Tool {
            original: self.name,
            risk: self.risk,
            class: self.class,
            labels: &[],
            scopes: &[],
            owner: None,
            read_only: None,
            idempotent: None,
            claimed: None,
        };
        let question = Question {
            principal: &self.principal,
            mcp: Mcp {
                method: self.method,
                direction: self.direction,
                server: self.server,
                upstream: Some(self.upstream),
                kind: self.kind,
                name: matches!(self.kind, Kind::Tool | Kind::Prompt).then_some(self.name),
                uri: matches!(self.kind, Kind::Resource | Kind::Template).then_some(self.name),
                arguments: Some(self.arguments),
                responses: None,
                era: "modern",
            },
            tool: (self.kind == Kind::Tool).then_some(tool),
            context: Context {
                source_ip: IpAddr::V4(Ipv4Addr::LOCALHOST),
                zone: self.zone,
                listener: "main",
                client: None,
                justification: self.justification,
            },
            threat: Threat::None,
            findings: None,
            now: Moment { monotonic: Duration::ZERO, wall: self.wall },
        };
        let decision = rules.policy.decide(entry, &question, &DecisionCache::new(100, 100_000));
        assert_eq!(decision.fault, None);
        decision.allow
    }
}

fn may(rules: &PolicyRules, asked: &Asked) -> bool {
    asked.allowed(rules, Entry::Decision)
}

fn sees(rules: &PolicyRules, asked: &Asked) -> bool {
    asked.allowed(rules, Entry::Visible)
}

#[test]
fn a_role_has_the_tools_that_it_is_granted() {
    let rules = rules(
        "roles:\n  support: {allow: 'crm.get_*', deny: 'crm.get_secret'}\n  \
         sales: {roles: [seller, boss], allow: ['crm.*', 'crm.v2.*']}\n  \
         auditor: {groups: audit, subjects: [eve], tenants: [acme], allow: '*.*t*r'}\n",
    );
    assert_eq!(rules.lists, ListRule::Visible);
    let named = |roles: &[&str], upstream, name| Asked { upstream, name, ..Asked::by(roles) };
    let table = [
        ("granted", named(&["support"], "crm", "get_customer"), true),
        ("not granted", named(&["support"], "crm", "delete_customer"), false),
        ("denied", named(&["support"], "crm", "get_secret"), false),
        ("denied by one role, granted by another", named(&["boss", "support"], "crm", "get_secret"), false),
        ("another upstream that begins alike", named(&["support"], "crm.v2", "get_customer"), false),
        ("the role's own name, where others are written", named(&["sales"], "crm", "x"), false),
        ("one of two", named(&["seller"], "crm.v2", "x"), true),
        ("no role", named(&[], "crm", "get_customer"), false),
    ];
    for (name, asked, expected) in table {
        assert_eq!((may(&rules, &asked), sees(&rules, &asked)), (expected, expected), "{name}");
    }
    let mut eve = Asked::by(&[]);
    eve.principal.subject = "eve".into();
    assert!(may(&rules, &eve) && !may(&rules, &Asked { name: "delete", ..eve.clone() }));
    eve.principal.tenant = "other".into();
    assert!(!may(&rules, &eve), "of another tenant");
    let mut group = Asked::by(&[]);
    group.principal.groups = [Arc::from("audit")].into();
    assert!(may(&rules, &group));
}

#[test]
fn what_is_about_nothing_is_open_to_everyone_who_has_a_role() {
    let rules = rules("roles: {support: {allow: 'crm.get_*'}}\n");
    for (kind, method) in
        [(Kind::Server, "initialize"), (Kind::Server, "tools/list"), (Kind::Stream, "stream")]
    {
        assert!(may(&rules, &Asked { kind, method, ..Asked::by(&["support"]) }));
        assert!(!may(&rules, &Asked { kind, method, ..Asked::by(&[]) }));
    }
}

#[test]
fn a_method_that_not_all_roles_have_is_granted_by_name() {
    let rules = rules(
        "roles:\n  support: {allow: 'crm.get_*'}\n  auditor: {methods: [acme/report, tasks/list]}\n  \
         guest: {tenants: [other], methods: [acme/report]}\n",
    );
    let sent = |roles: &[&str], kind, method| Asked { kind, method, ..Asked::by(roles) };
    let asked =
        |roles: &[&str], kind, method| Asked { direction: Direction::ToClient, ..sent(roles, kind, method) };
    let table = [
        ("of the role", sent(&["auditor"], Kind::Other, "acme/report"), true),
        ("known to MCP, and of the role", sent(&["auditor"], Kind::Server, "tasks/list"), true),
        ("of another role", sent(&["support"], Kind::Other, "acme/report"), false),
        ("of another tenant's", sent(&["guest"], Kind::Other, "acme/report"), false),
        ("of none", sent(&["auditor"], Kind::Other, "admin/wipe"), false),
        ("begins alike", sent(&["auditor"], Kind::Other, "acme/reports"), false),
        ("known to MCP, and of none", sent(&["support"], Kind::Server, "tasks/list"), false),
        ("an unknown notification", sent(&["auditor"], Kind::Other, "notifications/acme"), false),
        ("of all", sent(&["auditor"], Kind::Server, "server/discover"), true),
        ("of a server", asked(&["auditor"], Kind::Server, "elicitation/create"), true),
        ("of a server, by a client", sent(&["auditor"], Kind::Server, "elicitation/create"), false),
        ("of a client, by a server", asked(&["auditor"], Kind::Server, "tools/list"), false),
        ("of a server, and unknown", asked(&["support"], Kind::Other, "acme/ask"), false),
        ("a tool is no method", sent(&["auditor"], Kind::Tool, "acme/report"), false),
    ];
    for (name, asked, expected) in table {
        assert_eq!(may(&rules, &asked), expected, "{name}");
    }
}

/// Every method of MCP that a client may send is granted in one way.
#[test]
fn every_method_of_mcp_is_general_or_named_or_granted() {
    let granted = ["tasks/result", "tasks/list"];
    let from_servers = ["roots/list", "sampling/createMessage", "elicitation/create"];
    for method in portunus_filters::mcp::Method::names() {
        let told = method.starts_with("notifications/") && !GENERAL.contains(&method);
        let ways = [
            GENERAL.contains(&method),
            NAMING.iter().any(|(naming, _)| *naming == method),
            granted.contains(&method),
            from_servers.contains(&method),
            told,
        ];
        assert_eq!(ways.iter().filter(|way| **way).count(), 1, "{method}");
        assert_eq!(ASKED_OF_CLIENTS.contains(&method), from_servers.contains(&method) || method == "ping");
    }
}

#[test]
fn prompts_and_resources_are_granted_by_themselves() {
    let rules = rules("roles: {support: {allow: {prompts: 'crm.ask*', resources: 'crm.file:///open/*'}}}\n");
    let asked = |kind, name| Asked { kind, name, ..Asked::by(&["support"]) };
    let table = [
        (Kind::Prompt, "ask_me", true),
        (Kind::Prompt, "renamed", false),
        (Kind::Resource, "file:///open/a", true),
        (Kind::Template, "file:///open/{x}", true),
        (Kind::Resource, "file:///etc/a", false),
        (Kind::Tool, "renamed", false),
    ];
    for (kind, name, expected) in table {
        assert_eq!(may(&rules, &asked(kind, name)), expected, "{kind:?} {name}");
    }
}

/// A condition, a call that fulfils it, and one that does not.
type Condition = (&'static str, Asked, Asked);

fn conditions_on_the_caller(base: &Asked) -> Vec<Condition> {
    let asked = |change: fn(&mut Asked)| {
        let mut asked = base.clone();
        change(&mut asked);
        asked
    };
    let office = asked(|asked| asked.zone = Some("office"));
    let justified = asked(|asked| asked.justification = Some("because"));
    let hour = asked(|asked| asked.wall += Duration::from_secs(3600));
    let day = asked(|asked| asked.wall += Duration::from_secs(86_400));
    vec![
        ("zones: office", office.clone(), asked(|asked| asked.zone = Some("vpn"))),
        ("zones: office", office, base.clone()),
        ("mfa: true", asked(|asked| asked.principal.mfa = true), base.clone()),
        ("hours: {from: 9, to: 10}", base.clone(), hour),
        ("weekdays: Saturday", base.clone(), day),
        ("justification: true", justified.clone(), base.clone()),
        ("justification: true", justified, asked(|asked| asked.justification = Some(" "))),
    ]
}

fn conditions_on_the_call(base: &Asked) -> Vec<Condition> {
    let risk = |risk| Asked { risk, ..base.clone() };
    let with = |arguments| Asked { arguments, ..base.clone() };
    let claims = |region: &str, arguments| {
        let mut asked = with(arguments);
        asked.principal.claims = Claims::new(vec![("region".into(), format!("\"{region}\"").into())]);
        asked
    };
    let (eu, own) = (r#"{"region": "eu"}"#, "arguments: {region: {claim: region}}");
    vec![
        ("classes: [public, internal]", base.clone(), Asked { class: "restricted", ..base.clone() }),
        ("max_risk: medium", risk("medium"), risk("unrated")),
        ("max_risk: high", risk("unrated"), risk("critical")),
        ("arguments: {region: eu}", with(eu), base.clone()),
        ("arguments: {n: [1, 2]}", with(r#"{"n": 2}"#), with(r#"{"n": [1, 2]}"#)),
        (own, claims("eu", eu), claims("us", eu)),
        (own, claims("eu", eu), claims("eu", "{}")),
        (own, claims("eu", eu), with(eu)),
    ]
}

#[test]
fn every_condition_counts() {
    let base = Asked::by(&["r"]);
    for (when, good, bad) in [conditions_on_the_caller(&base), conditions_on_the_call(&base)].concat() {
        let rules = rules(&format!("roles: {{r: {{allow: {{tools: 'crm.*', when: {{{when}}}}}}}}}\n"));
        assert!(may(&rules, &good), "{when}");
        assert!(!may(&rules, &bad), "{when}");
        assert!(sees(&rules, &good), "{when}");
    }
    let second = rules("roles: {r: {allow: {tools: 'crm.*', servers: second}}}\n");
    assert!(!may(&second, &base) && may(&second, &Asked { server: "second", ..base }));
}

#[test]
fn a_tool_is_shown_for_what_may_change_and_hidden_for_what_does_not() {
    let rules = rules(
        "roles: {r: {allow: {tools: 'crm.*', when: {hours: {from: 0, to: 1}, arguments: {a: 1}}},\n  \
         deny: [{tools: crm.get_customer, when: {zones: vpn}}, crm.gone]}}\n",
    );
    let asked = Asked::by(&["r"]);
    assert!(!may(&rules, &asked) && sees(&rules, &asked));
    assert!(!sees(&rules, &Asked { name: "gone", ..asked }));
}

#[test]
fn decisions_depend_on_no_more_than_the_roles_ask_for() {
    let class = |when: &str| {
        let rules = rules(&format!("roles: {{r: {{allow: {{tools: 'crm.*', when: {{{when}}}}}}}}}\n"));
        (rules.policy.classes()[0].1, rules.policy.reads_arguments(Entry::Decision))
    };
    assert_eq!(class("mfa: true"), (Depends::Pure, false));
    assert_eq!(class("arguments: {a: 1}"), (Depends::Pure, true));
    assert_eq!(class("weekdays: Monday"), (Depends::Time(Unit::Hour), false));
}

#[test]
fn wrong_roles_are_named_with_their_line() {
    let table = [
        ("", "the document is empty"),
        ("roles: {}", "roles: no role is named, so nobody may do anything"),
        ("rules: {}", "rules: unknown key `rules`"),
        ("roles: {a: {}}", "roles.a: the role says nothing"),
        ("roles: {a: {alow: 'crm.x'}}", "roles.a.alow: unknown key `alow`"),
        (
            "roles: {a: {methods: tools/list}}",
            "roles.a.methods: `tools/list`: is open to every role: leave it out",
        ),
        (
            "roles: {a: {methods: tools/call}}",
            "roles.a.methods: `tools/call`: is granted by what it names: write `tools` in `allow`",
        ),
        (
            "roles: {a: {methods: ['acme/*']}}",
            "roles.a.methods[0]: `acme/*`: is no name of a method; patterns are not known here",
        ),
        (
            "roles: {a: {deny: {resources: 'crm.FILE:///etc/*'}}}",
            "roles.a.deny.resources: `FILE:///etc/*` matches no URI: rules are asked of the normal form",
        ),
        ("roles: {a: {allow: 'cmr.x'}}", "roles.a.allow: no upstream is named `cmr`"),
        ("roles: {a: {allow: 'x'}}", "roles.a.allow: `x`: does not say whose it is"),
        ("roles: {a: {allow: {when: {}}}}", "roles.a.allow: the grant is about nothing"),
        (
            "roles: {a: {allow: {tools: 'crm.x', servers: man}}}",
            "roles.a.allow.servers: no server is named `man`",
        ),
        (
            "roles: {a: {allow: {tools: 'crm.x', when: {weekdays: monday}}}}",
            "roles.a.allow.when.weekdays: `monday` is not known here",
        ),
        (
            "roles: {a: {allow: {tools: 'crm.x', when: {hours: {from: 22, to: 6}}}}}",
            "roles.a.allow.when.hours: these hours end before they begin",
        ),
        (
            "roles: {a: {allow: {tools: 'crm.x', when: {arguments: {r: {clam: x}}}}}}",
            "roles.a.allow.when.arguments.r: `claim` is missing",
        ),
    ];
    for (roles, problem) in table {
        let Err(Report(found)) = attempt(roles) else { panic!("accepted: {roles}") };
        let shown: Vec<String> = found.iter().map(brief).collect();
        assert!(shown.contains(&problem.to_owned()), "{roles}: {shown:?}");
        let at =
            found.iter().find(|found| brief(found) == problem).and_then(|found| found.at.clone()).unwrap();
        assert_eq!((at.file.to_str(), at.line), (Some("roles.yaml"), 1), "{roles}");
    }
}
