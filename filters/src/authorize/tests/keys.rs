//! Two questions share an answer exactly where the policy is given the same of both.

use super::kit::Kit;
use super::*;
use crate::identity::{AuthMethod, Claims, Principal, names};
use proptest::prelude::*;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::LazyLock;

/// Reads every member of the input, of those that are JSON a part.
static PARTS: LazyLock<Kit> = LazyLock::new(|| {
    reading(&[
        "principal.claims.x.y",
        "principal.claims.z",
        "mcp.arguments.region",
        "mcp.arguments.filter.danger",
        "tool.claimed.readOnlyHint",
    ])
});

/// Reads every member of the input as a whole.
static WHOLES: LazyLock<Kit> =
    LazyLock::new(|| reading(&["principal.claims", "mcp.arguments", "tool.claimed"]));

fn reading(json: &[&str]) -> Kit {
    let is_json = |name: &str| ["claims", "arguments", "claimed"].contains(&name);
    let plain = Field::ALL.iter().filter(|(_, name, _)| !is_json(name));
    let places = plain.map(|(group, name, _)| format!("{group}.{name}"));
    let rules = places.chain(json.iter().map(|place| (*place).to_owned()));
    let rules: String = rules.map(|place| format!("seen contains input.{place}\n")).collect();
    let kit = Kit::of(&format!("package mcp.authz\ndecision if count(seen) > 0\n{rules}"));
    assert!(!kit.policy.points[0].projection.is_whole());
    kit
}

const CHOICES: u8 = 4;
const GENES: usize = 34;

/// A question in small numbers: each chooses what one member says.
#[derive(Clone, Debug)]
struct Genes([u8; GENES]);

impl Genes {
    fn of<T: Copy>(&self, gene: usize, choices: [T; CHOICES as usize]) -> T {
        choices[usize::from(self.0[gene])]
    }

    /// Texts that run together easily.
    fn text(&self, gene: usize) -> &'static str {
        self.of(gene, ["", "a", "b", "ab"])
    }

    fn maybe(&self, gene: usize) -> Option<&'static str> {
        self.of(gene, [None, Some(""), Some("a"), Some("ab")])
    }

    fn list(&self, gene: usize) -> Arc<[Arc<str>]> {
        names(self.of::<&[&str]>(gene, [&[], &["a"], &["a", "b"], &["ab"]]).iter().copied())
    }

    fn flag(&self, gene: usize) -> Option<bool> {
        self.of(gene, [None, None, Some(false), Some(true)])
    }

    fn principal(&self) -> Principal {
        let json = [None, Some("1"), Some(r#"{"y":1}"#), Some(r#"{"y":{"y":[]}}"#)];
        let claims = [("x", self.of(10, json)), ("z", self.of(11, json))].into_iter();
        let claims = claims.filter_map(|(name, value)| Some((name.into(), value?.into()))).collect();
        Principal {
            agent: self.maybe(2).map(Into::into),
            on_behalf_of: self.maybe(3).map(Into::into),
            roles: self.list(4),
            groups: self.list(5),
            scopes: self.list(6),
            auth: self.of(7, [AuthMethod::Jwt, AuthMethod::Jwt, AuthMethod::Mtls, AuthMethod::ApiKey]),
            mfa: self.of(7, [false, true, false, true]),
            acr: self.maybe(8).map(Into::into),
            auth_time: self.of(9, [None, Some(0), Some(1), Some(256)]),
            claims: Claims::new(claims),
            ..Principal::named(self.text(0), self.text(1))
        }
    }

    fn mcp(&self) -> Mcp<'static> {
        let arguments = [
            Some(r#"{"region":"a","filter":{"danger":"b","x":1}}"#),
            Some(r#"{"region":{"deep":1},"filter":[]}"#),
            Some("{}"),
            None,
        ];
        Mcp {
            method: self.text(12),
            direction: self
                .of(33, [Direction::ToServer, Direction::ToServer, Direction::ToClient, Direction::ToClient]),
            server: self.text(13),
            upstream: self.maybe(14),
            kind: self.of(33, [Kind::Tool, Kind::Prompt, Kind::Prompt, Kind::Server]),
            name: self.maybe(15),
            uri: self.maybe(16),
            arguments: self.of(17, arguments),
            responses: None,
            era: self.text(18),
        }
    }

    fn tool<'a>(&self, labels: &'a [Arc<str>], scopes: &'a [Arc<str>]) -> Option<Tool<'a>> {
        let claimed =
            [None, Some("{}"), Some(r#"{"readOnlyHint":true}"#), Some(r#"{"readOnlyHint":[true]}"#)];
        self.of(19, [false, true, true, true]).then_some(Tool {
            original: self.text(20),
            risk: self.of(20, ["low", "low", "low", "high"]),
            class: self.of(20, ["public", "internal", "public", "public"]),
            labels,
            scopes,
            owner: self.maybe(23),
            read_only: self.flag(24),
            idempotent: self.flag(25),
            claimed: self.of(26, claimed),
        })
    }

    fn context(&self) -> Context<'static> {
        let mapped = IpAddr::V6(Ipv4Addr::LOCALHOST.to_ipv6_mapped());
        let others = [Ipv4Addr::new(10, 0, 0, 1).into(), Ipv6Addr::LOCALHOST.into()];
        Context {
            source_ip: self.of(31, [Ipv4Addr::LOCALHOST.into(), mapped, others[0], others[1]]),
            zone: self.maybe(27),
            listener: self.text(28),
            client: self.maybe(29),
            justification: self.maybe(30),
        }
    }

    /// The bytes and the input that are made of the question for an entry point.
    fn projected(&self, kit: &Kit) -> (Vec<u8>, Value) {
        let (principal, labels, scopes) = (self.principal(), self.list(21), self.list(22));
        let wall = Duration::from_secs(self.of(32, [0, 59, 60, 365 * 86_400]));
        let question = Question {
            principal: &principal,
            mcp: self.mcp(),
            tool: self.tool(&labels, &scopes),
            context: self.context(),
            threat: self.of(32, [Threat::None, Threat::None, Threat::None, Threat::High]),
            findings: None,
            now: crate::Moment { monotonic: Duration::ZERO, wall },
        };
        let (time, projection) = (kit.policy.calendar.at(wall), &kit.policy.points[0].projection);
        let mut key = Key::default();
        projection.key(&question, time, &mut key).unwrap();
        (key.0, projection.input(&question, time).unwrap())
    }
}

fn genes() -> impl Strategy<Value = Genes> {
    proptest::collection::vec(0..CHOICES, GENES).prop_map(|genes| Genes(genes.try_into().unwrap()))
}

/// A question and one that differs from it in a few members, or in none.
fn pairs() -> impl Strategy<Value = (Genes, Genes)> {
    let changes = proptest::collection::vec((0..GENES, 0..CHOICES), 0..4);
    (genes(), changes).prop_map(|(one, changes)| {
        let mut other = one.clone();
        changes.into_iter().for_each(|(gene, choice)| other.0[gene] = choice);
        (one, other)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn questions_share_a_key_exactly_where_their_inputs_are_equal((one, other) in pairs()) {
        for kit in [&*PARTS, &*WHOLES] {
            let ((one, first), (other, second)) = (one.projected(kit), other.projected(kit));
            prop_assert_eq!(one == other, first == second, "{} {}", first, second);
        }
    }
}

#[test]
fn every_member_alone_tells_questions_apart() {
    let base = Genes([1; GENES]);
    let is_alike = |gene: usize, choice: u8| match gene {
        // A tool that is there.
        19 => choice > 0,
        // Flags that are not there, this machine's address in two forms, two seconds of one minute.
        24 | 25 | 31 | 32 => choice == 0,
        _ => false,
    };
    for kit in [&*PARTS, &*WHOLES] {
        let (key, input) = base.projected(kit);
        for (gene, choice) in (0..GENES).flat_map(|gene| [0, 2, 3].map(|choice| (gene, choice))) {
            let mut other = base.clone();
            other.0[gene] = choice;
            let (other, changed) = other.projected(kit);
            assert_eq!(
                (other == key, changed == input),
                (is_alike(gene, choice), is_alike(gene, choice)),
                "{gene} {choice}: {changed}"
            );
        }
    }
}

/// What is told of a caller named `subject` of `tenant`, and of its arguments.
fn told(places: &[&str], (tenant, subject): (&str, &str), arguments: &str) -> (Vec<u8>, Value) {
    let rules: String = places.iter().map(|place| format!("seen contains input.{place}\n")).collect();
    let kit = Kit::of(&format!("package mcp.authz\ndecision if count(seen) > 0\n{rules}"));
    let object: serde_json::Map<String, serde_json::Value> = serde_json::from_str(arguments).unwrap();
    let claims =
        object.iter().map(|(name, value)| (name.as_str().into(), value.to_string().into())).collect();
    let principal = Principal { claims: Claims::new(claims), ..Principal::named(tenant, subject) };
    let mut question = super::kit::question(&principal);
    question.mcp.arguments = Some(arguments);
    let (time, projection) = (kit.policy.calendar.at(Duration::ZERO), &kit.policy.points[0].projection);
    let mut key = Key::default();
    projection.key(&question, time, &mut key).unwrap();
    (key.0, projection.input(&question, time).unwrap())
}

#[test]
fn what_would_run_together_is_told_apart() {
    let nobody = ("", "");
    let deep = ["mcp.arguments.a.y.z", "mcp.arguments.b.y.z"];
    let table: [(&str, &[&str], _, _); 4] = [
        ("members", &["mcp.arguments.a", "mcp.arguments.b"], (nobody, r#"{"a":1}"#), (nobody, r#"{"b":1}"#)),
        (
            "claims",
            &["principal.claims.a", "principal.claims.b"],
            (nobody, r#"{"a":1}"#),
            (nobody, r#"{"b":1}"#),
        ),
        (
            "what is no object",
            &deep,
            (nobody, r#"{"a":[],"b":{"y":[]}}"#),
            (nobody, r#"{"a":{"y":[]},"b":[]}"#),
        ),
        (
            "texts",
            &["principal.tenant", "principal.subject"],
            (("a\u{3}\0\0\0\0\0\0\0\0b", "c"), "{}"),
            (("a", "b\u{3}\0\0\0\0\0\0\0\0c"), "{}"),
        ),
    ];
    for (name, places, (one, first), (other, second)) in table {
        let (one, other) = (told(places, one, first), told(places, other, second));
        assert_ne!(one.1, other.1, "{name}");
        assert_ne!(one.0, other.0, "{name}");
    }
}

#[test]
fn a_message_about_no_tool_is_not_one_about_a_tool_of_which_nothing_is_known() {
    let kit = Kit::of("package mcp.authz\ndecision if count(seen) > 0\nseen contains input.tool.owner");
    let principal = super::kit::principal(&[], &[]);
    let known = super::kit::question(&principal);
    let other = Question { tool: None, ..known };
    let projected = |question: &Question<'_>| {
        let mut key = Key::default();
        let (time, projection) = (kit.policy.calendar.at(Duration::ZERO), &kit.policy.points[0].projection);
        projection.key(question, time, &mut key).unwrap();
        (key.0, projection.input(question, time).unwrap().to_string())
    };
    let (known, other) = (projected(&known), projected(&other));
    assert_eq!((known.1.as_str(), other.1.as_str()), (r#"{"tool":{}}"#, "{}"));
    assert_ne!(known.0, other.0);
}

#[test]
fn every_part_of_a_date_tells_days_apart() {
    let kit = Kit::of("package mcp.authz\ndecision if input.time.date == \"1970-01-01\"");
    let principal = super::kit::principal(&[], &[]);
    let on = |days: u64| {
        let mut question = super::kit::question(&principal);
        question.now.wall = Duration::from_secs(days * 86_400);
        let (time, mut key) = (kit.policy.calendar.at(question.now.wall), Key::default());
        kit.policy.points[0].projection.key(&question, time, &mut key).unwrap();
        key.0
    };
    for (name, days) in [("a day", 1), ("a month", 31), ("a year", 365)] {
        assert_ne!(on(days), on(0), "{name}");
    }
}
