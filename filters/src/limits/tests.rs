//! Limits as the pipeline asks them: rules against references, refunds, permits, tables that are full.

mod counts;

use super::*;
use crate::call::{KnownTool, Subject, Target};
use crate::facts::ToolFacts;
use crate::glob::Glob;
use crate::identity::{Identity, Principal, names};
use crate::mcp::headers::Mirror;
use crate::mcp::{Bounds, Revision};
use crate::message::{Arrival, Message, Reading, read};
use bytes::Bytes;
use chrono_tz::Tz;
use portunus_base::{ManualClock, Reason};
use std::net::IpAddr;
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);

/// A gateway's limits on a clock that tests move.
struct Bed {
    clock: Arc<ManualClock>,
    counters: Counters,
    limits: Limits,
}

impl Bed {
    fn new(rules: &[Rule]) -> Bed {
        Bed::with_room(rules, 1_000_000)
    }

    fn with_room(rules: &[Rule], most_keys: usize) -> Bed {
        let clock = Arc::new(ManualClock::default());
        clock.advance(1_000 * SECOND);
        let counters = Counters::new([1, 2]);
        let limits = Limits::new(rules, most_keys, &counters, Arc::<ManualClock>::clone(&clock));
        Bed { clock, counters, limits }
    }

    /// Another configuration.
    fn swap(&mut self, rules: &[Rule]) {
        self.limits = Limits::new(rules, 1_000_000, &self.counters, Arc::<ManualClock>::clone(&self.clock));
    }

    fn admit(&self, call: &Sent) -> Result<Option<Box<dyn Hold>>, Denial> {
        let admission = self.limits.admit(&Call::new(&call.arrival, &call.message, &call.target))?;
        match admission {
            Admission::Free => Ok(None),
            Admission::Granted(hold) => Ok(Some(hold)),
            Admission::Queued(_) => panic!("nothing queues"),
        }
    }

    /// Whether a call is admitted and sent.
    fn sends(&self, call: &Sent) -> bool {
        let admitted = self.admit(call);
        admitted.iter().flatten().for_each(|hold| hold.commit());
        admitted.is_ok()
    }

    /// How many of `calls` that are sent now are admitted.
    fn sent(&self, call: &Sent, calls: usize) -> usize {
        (0..calls).filter(|_| self.sends(call)).count()
    }
}

/// A call of a client.
#[derive(Clone)]
struct Sent {
    arrival: Arrival,
    message: Message,
    target: Target,
}

impl Sent {
    /// A call of the tool `find` of the upstream `crm`.
    fn by(subject: &str) -> Sent {
        Sent::of(Identity::Principal(Arc::new(Principal::named("acme", subject))), [192, 0, 2, 1].into())
    }

    fn from_address(source: impl Into<IpAddr>) -> Sent {
        let source = source.into();
        Sent::of(Identity::Anonymous { source }, source)
    }

    fn of(identity: Identity, source: IpAddr) -> Sent {
        let arrival = Arrival {
            listener: "main".into(),
            source,
            identity,
            request_id: "r".into(),
            at: ManualClock::default().now(),
        };
        let target = Target::new(&"mcp".into(), &"crm".into());
        Sent { arrival, message: message("tools/call", "{}"), target }.tool("find")
    }

    fn tool(mut self, name: &str) -> Sent {
        self.target.subject = Some(Subject::Tool(Arc::new(KnownTool::unrated(name.into()))));
        self
    }

    fn arguments(self, arguments: &str) -> Sent {
        Sent { message: message("tools/call", arguments), ..self }
    }

    fn method(mut self, method: &str) -> Sent {
        self.target.subject = None;
        Sent { message: message(method, "{}"), ..self }
    }
}

fn message(method: &str, arguments: &str) -> Message {
    let body = format!(
        "{{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"{method}\",\"params\":{{\"name\":\"find\",\"arguments\":{arguments}}}}}"
    );
    match read(&Bytes::from(body), &Bounds::default(), &Mirror::default(), &Revision::ALL).unwrap() {
        Reading::One(message) => message,
        Reading::Batch(_) => panic!("a batch"),
    }
}

fn rule(name: &str, key: &[KeyPart], meter: Meter) -> Rule {
    Rule {
        name: name.into(),
        key: key.into(),
        unit: Unit::Calls,
        matches: Match::default(),
        except: Box::default(),
        mode: Mode::Enforce,
        meter,
        shown: "a limit".into(),
        place: "gateway.yaml:1".into(),
    }
}

fn rate(count: u64, seconds: u32) -> Meter {
    Meter::Rate(Gcra::new(count, seconds * SECOND, count))
}

fn per_principal(meter: Meter) -> Rule {
    rule("per_principal", &[KeyPart::Principal], meter)
}

#[test]
fn each_caller_has_a_count_of_its_own() {
    let bed = Bed::new(&[per_principal(rate(3, 60))]);
    for subject in ["ann", "bob"] {
        assert_eq!(bed.sent(&Sent::by(subject), 5), 3, "{subject}");
    }
    let refusal = bed.admit(&Sent::by("ann")).err().unwrap();
    assert_eq!((refusal.reason, refusal.retry_after()), (Reason::RateLimited, Some(20 * SECOND)));
    let account = refusal.account::<ReachedLimit>().unwrap();
    assert_eq!((&*account.rule, &*account.spent), ("per_principal", "3"));
    assert_eq!(account.key, [("principal", "ann".to_owned())]);
    bed.clock.advance(20 * SECOND);
    assert_eq!(bed.sent(&Sent::by("ann"), 5), 1);
}

#[test]
fn parts_of_a_key_tell_calls_apart() {
    let principal = |change: fn(&mut Principal)| {
        let mut principal = Principal::named("acme", "ann");
        change(&mut principal);
        Sent::of(Identity::Principal(Arc::new(principal.with_digest())), [192, 0, 2, 1].into())
    };
    let plain = || principal(|_| {});
    let other_listener = {
        let mut sent = plain();
        sent.arrival.listener = "edge".into();
        sent
    };
    let other_target = |change: fn(&mut Target)| {
        let mut sent = plain();
        change(&mut sent.target);
        sent
    };
    let claim = |name: &'static str| {
        let mut principal = Principal::named("acme", "ann");
        principal.claims = crate::identity::Claims::new(vec![(name.into(), "\"x\"".into())]);
        Sent::of(Identity::Principal(Arc::new(principal.with_digest())), [192, 0, 2, 1].into())
    };
    let others = [
        (KeyPart::Tenant, principal(|one| one.tenant = "other".into())),
        (KeyPart::Principal, Sent::by("bob")),
        (KeyPart::OnBehalfOf, principal(|one| one.on_behalf_of = Some("bob".into()))),
        (KeyPart::Agent, principal(|one| one.agent = Some("bot".into()))),
        (KeyPart::Project, claim("project")),
        (KeyPart::Team, claim("team")),
        (KeyPart::Listener, other_listener),
        (KeyPart::Endpoint, other_target(|target| target.server = "other".into())),
        (KeyPart::Upstream, other_target(|target| target.upstream = "other".into())),
        (KeyPart::Tool, plain().tool("read")),
        (KeyPart::Method, plain().method("prompts/get")),
        (KeyPart::Source, Sent::of(plain().arrival.identity, [192, 0, 2, 2].into())),
    ];
    for (part, other) in others {
        let bed = Bed::new(&[rule("one", &[part], rate(1, 60))]);
        assert!(bed.sends(&plain()) && !bed.sends(&plain()), "{part:?}");
        assert!(bed.sends(&other), "{part:?} tells them apart");
        assert!(!bed.sends(&other), "{part:?} counts the other too");
    }
}

#[test]
fn each_role_of_a_caller_is_counted() {
    let with = |roles: &[&str]| {
        let mut principal = Principal::named("acme", "ann");
        principal.roles = names(roles.iter().copied());
        Sent::of(Identity::Principal(Arc::new(principal.with_digest())), [192, 0, 2, 1].into())
    };
    let bed = Bed::new(&[rule("by_role", &[KeyPart::Role], rate(2, 60))]);
    assert!(bed.sends(&with(&["reader"])));
    assert!(bed.sends(&with(&["reader", "writer"])));
    assert!(!bed.sends(&with(&["reader", "writer"])), "one of both is used up");
    assert_eq!(bed.sent(&with(&["writer"]), 5), 1, "the refused call was counted by none");
    assert_eq!(bed.sent(&with(&[]), 5), 5, "a caller without roles is not counted");
}

#[test]
fn rules_are_asked_before_any_counts_and_the_longest_wait_answers() {
    let bed = Bed::new(&[
        per_principal(rate(10, 10)),
        rule("per_tool", &[KeyPart::Principal, KeyPart::Tool], rate(2, 120)),
    ]);
    assert_eq!(bed.sent(&Sent::by("ann"), 50), 2);
    let refusal = bed.admit(&Sent::by("ann")).err().unwrap();
    assert_eq!(&*refusal.account::<ReachedLimit>().unwrap().rule, "per_tool");
    assert_eq!(bed.sent(&Sent::by("ann").tool("read"), 2), 2);
    assert_eq!(bed.sent(&Sent::by("ann").tool("list"), 2), 2);
    assert_eq!(bed.sent(&Sent::by("ann").tool("sum"), 2), 2);
    assert_eq!(
        bed.sent(&Sent::by("ann").tool("add"), 5),
        2,
        "refused calls were not counted by the other rule"
    );
}

#[test]
fn only_calls_are_counted_and_polls_by_their_own_rules() {
    let polls = Rule { unit: Unit::Polls, ..rule("polls", &[KeyPart::Principal], rate(1, 60)) };
    let bed = Bed::new(&[per_principal(rate(1, 60)), polls]);
    let ann = || Sent::by("ann");
    for method in ["tools/list", "ping", "logging/setLevel", "initialize", "subscriptions/listen"] {
        assert_eq!(bed.sent(&ann().method(method), 10), 10, "{method}");
    }
    assert_eq!(bed.sent(&ann().method("tasks/get"), 10), 1);
    let all = ["tools/call", "prompts/get", "resources/read", "completion/complete"];
    assert_eq!(all.map(|method| bed.sent(&ann().method(method), 10)).iter().sum::<usize>(), 1);
}

#[test]
fn match_and_except_choose_the_calls() {
    let only = |matches: Match| Bed::new(&[Rule { matches, ..per_principal(rate(1, 60)) }]);
    let glob = |text: &str| vec![Glob::new(text)];
    let mut principal = Principal::named("acme", "ann");
    principal.agent = Some("bot".into());
    principal.roles = names(["reader"]);
    principal.groups = names(["staff"]);
    let ann = Sent::of(Identity::Principal(Arc::new(principal.with_digest())), [192, 0, 2, 1].into());
    let tool = |upstream, tool| vec![ToolPattern { upstream: Glob::new(upstream), tool: Glob::new(tool) }];
    let any = Match::default;
    let cases = [
        ("tools", Match { tools: tool("crm", "fi*"), ..any() }, Match { tools: tool("erp", "*"), ..any() }),
        ("upstreams", Match { upstreams: glob("c*"), ..any() }, Match { upstreams: glob("erp"), ..any() }),
        ("endpoints", Match { endpoints: glob("mcp"), ..any() }, Match { endpoints: glob("x"), ..any() }),
        (
            "methods",
            Match { methods: glob("tools/*"), ..any() },
            Match { methods: glob("prompts/*"), ..any() },
        ),
        ("tenants", Match { tenants: glob("acme"), ..any() }, Match { tenants: glob("x"), ..any() }),
        ("principals", Match { principals: glob("a*"), ..any() }, Match { principals: glob("b*"), ..any() }),
        ("agents", Match { agents: glob("bot"), ..any() }, Match { agents: glob("x"), ..any() }),
        ("roles", Match { roles: glob("read*"), ..any() }, Match { roles: glob("writer"), ..any() }),
        ("groups", Match { groups: glob("staff"), ..any() }, Match { groups: glob("x"), ..any() }),
    ];
    for (name, matching, other) in cases {
        assert_eq!(only(matching.clone()).sent(&ann, 3), 1, "{name}");
        assert_eq!(only(other).sent(&ann, 3), 3, "{name} of another");
        let until = Some(1_010 * SECOND);
        let except = Box::from([Exception { matches: matching, until }]);
        let bed = Bed::new(&[Rule { except, ..per_principal(rate(1, 60)) }]);
        assert_eq!(bed.sent(&ann, 3), 3, "{name} is excepted");
        bed.clock.advance(10 * SECOND);
        assert_eq!(bed.sent(&ann, 3), 1, "{name} is excepted no longer");
    }
}

#[test]
fn requests_that_were_not_sent_give_back_and_permits_are_freed_in_any_case() {
    let bed = Bed::new(&[
        per_principal(rate(2, 60)),
        rule("concurrent", &[KeyPart::Principal], Meter::Concurrency { most: 2 }),
    ]);
    let ann = Sent::by("ann");
    for _ in 0..100 {
        drop(bed.admit(&ann).unwrap());
    }
    let holds: Vec<_> = (0..2).map(|_| bed.admit(&ann).unwrap().unwrap()).collect();
    let refusal = bed.admit(&ann).err().unwrap();
    assert_eq!(refusal.reason, Reason::RateLimited, "its wait is known and longer");
    holds.iter().for_each(|hold| hold.commit());
    bed.clock.advance(60 * SECOND);
    assert_eq!(bed.admit(&ann).err().unwrap().reason, Reason::ConcurrencyReached);
    drop(holds);
    assert_eq!(bed.sent(&ann, 5), 2);
    let counters: Vec<usize> = bed.limits.rules().iter().map(|active| active.counters.keys()).collect();
    assert_eq!(counters, [1, 0], "a key without permits is not kept");
}

#[test]
fn quota_is_exact_and_begins_again_with_its_window() {
    let quota = Meter::Quota { most: 3, period: Period::Hour, zone: Tz::UTC };
    let bed = Bed::new(&[per_principal(quota)]);
    let ann = Sent::by("ann");
    drop(bed.admit(&ann).unwrap());
    assert_eq!(bed.sent(&ann, 10), 3);
    let refusal = bed.admit(&ann).err().unwrap();
    assert_eq!((refusal.reason, refusal.retry_after()), (Reason::QuotaSpent, Some(2_600 * SECOND)));
    bed.clock.advance(2_599 * SECOND);
    assert_eq!(bed.sent(&ann, 10), 0);
    bed.clock.advance(SECOND);
    let unsent = bed.admit(&ann).unwrap();
    bed.clock.advance(3_600 * SECOND);
    assert_eq!(bed.sent(&ann, 1), 1);
    drop(unsent);
    assert_eq!(bed.sent(&ann, 10), 2, "what a window before has counted is not given back to this one");
}

#[test]
fn loop_counts_the_same_call_again() {
    let bed = Bed::new(&[rule(
        "loop",
        &[KeyPart::Principal, KeyPart::Tool],
        Meter::Loop(Gcra::new(3, 60 * SECOND, 3)),
    )]);
    let same = [r#"{"q":"x","n":1}"#, "{ \"n\": 1,\n\"q\": \"\\u0078\" }", r#"{"n":1,"q":"x"}"#];
    assert!(same.iter().all(|arguments| bed.sends(&Sent::by("ann").arguments(arguments))));
    let refusal = bed.admit(&Sent::by("ann").arguments(same[0])).err().unwrap();
    assert_eq!(refusal.reason, Reason::LoopDetected);
    assert!(refusal.detail.contains("change the arguments"), "{}", refusal.detail);
    assert!(bed.sends(&Sent::by("ann").arguments(r#"{"q":"x","n":2}"#)), "another call");
    assert!(bed.sends(&Sent::by("bob").arguments(same[0])), "another caller");
    assert!(bed.sends(&Sent::by("ann").tool("read").arguments(same[0])), "another tool");
}

#[test]
fn observed_rules_refuse_nothing_and_count() {
    let bed = Bed::new(&[Rule { mode: Mode::Observe, ..per_principal(rate(2, 60)) }]);
    assert_eq!(bed.sent(&Sent::by("ann"), 5), 5);
    let outcomes = bed.limits.rules()[0].counters.take_outcomes().map(|(_, calls)| calls);
    assert_eq!(outcomes, [2, 0, 3]);
    let hold = bed.admit(&Sent::by("ann")).unwrap().unwrap();
    assert_eq!(hold.observed(), ["per_principal".into()]);
}

#[test]
fn addresses_of_one_ipv6_network_share_a_count() {
    let bed = Bed::new(&[per_principal(rate(1, 60))]);
    let from = |text: &str| Sent::from_address(text.parse::<IpAddr>().unwrap());
    assert!(bed.sends(&from("2001:db8::1")) && !bed.sends(&from("2001:db8::ffff:2")));
    assert!(bed.sends(&from("2001:db8:0:1::1")));
    let refusal = bed.admit(&from("2001:db8::3")).err().unwrap();
    let account = refusal.account::<ReachedLimit>().unwrap();
    assert_eq!(account.key, [("principal", "2001:db8::/64".to_owned())]);
    assert!(bed.sends(&from("192.0.2.1")) && !bed.sends(&from("::ffff:192.0.2.1")));
}

/// A call of a tool with a price.
fn priced(micros: u64) -> Sent {
    let mut sent = Sent::by("ann");
    let facts = Arc::new(ToolFacts { cost_micros: Some(micros), ..ToolFacts::default() });
    sent.target.subject =
        Some(Subject::Tool(Arc::new(KnownTool { facts, ..KnownTool::unrated("find".into()) })));
    sent
}

#[test]
fn budget_counts_prices_and_tells_when_four_fifths_are_spent() {
    let budget = Meter::Budget { most_micros: 1_000_000, period: Period::Day, zone: Tz::UTC };
    let bed = Bed::new(&[rule("spending", &[KeyPart::Tenant], budget)]);
    let told = || bed.limits.rules()[0].counters.take_nearly_spent();
    assert_eq!(bed.sent(&Sent::by("ann"), 100), 100, "what has no price is not counted");
    assert_eq!((bed.sent(&priced(300_000), 2), told()), (2, (vec![], 0)));
    drop(bed.admit(&priced(300_000)).unwrap());
    assert_eq!(told(), (vec!["tenant acme".to_owned()], 0), "also by a call that is given back");
    assert_eq!((bed.sent(&priced(300_000), 5), told()), (1, (vec![], 0)), "once in a window");
    let refusal = bed.admit(&priced(300_000)).err().unwrap();
    assert_eq!(refusal.reason, Reason::BudgetSpent);
    let text = "this call costs $0.30, and $0.10 of budget `spending`";
    assert!(refusal.detail.contains(text), "{}", refusal.detail);
    assert_eq!(bed.sent(&priced(100_000), 5), 1, "what is left is enough for a cheaper one");
    let dear = bed.admit(&priced(2_000_000)).err().unwrap();
    assert_eq!(dear.retry_after(), None, "no time makes room for it");
    bed.clock.advance(86_400 * SECOND);
    assert_eq!((bed.sent(&priced(900_000), 5), told().0.len()), (1, 1), "the next window");
}

#[test]
fn ceiling_refuses_dear_calls_and_keeps_no_keys() {
    let bed = Bed::new(&[rule("per_tool_call", &[], Meter::Ceiling { most_micros: 500_000 })]);
    assert_eq!(bed.sent(&priced(500_000), 100), 100);
    let refusal = bed.admit(&priced(500_001)).err().unwrap();
    assert_eq!((refusal.reason, refusal.retry_after()), (Reason::BudgetSpent, None));
    assert_eq!(bed.limits.rules()[0].counters.keys(), 0);
}

/// The algorithm as ITU-T I.371 gives it, in whole nanoseconds.
struct Reference {
    tat: i128,
}

impl Reference {
    fn admits(&mut self, now: Duration, (count, per, burst): (u64, Duration, u64)) -> bool {
        let increment = i128::try_from(per.as_nanos()).unwrap().div_euclid(i128::from(count));
        let limit = increment * i128::from(burst - 1);
        let now = i128::try_from(now.as_nanos()).unwrap();
        let conforms = now >= self.tat - limit;
        if conforms {
            self.tat = self.tat.max(now) + increment;
        }
        conforms
    }
}

#[test]
fn callers_are_admitted_as_by_a_reference_from_one_two_and_eight_threads() {
    const CALLERS: usize = 16;
    let terms = (10, 2 * SECOND, 7);
    for threads in [1, 2, 8] {
        let bed = Bed::new(&[per_principal(Meter::Rate(Gcra::new(terms.0, terms.1, terms.2)))]);
        let callers: Vec<Sent> = (0..CALLERS).map(|number| Sent::by(&number.to_string())).collect();
        let mut references: Vec<Reference> = (0..CALLERS).map(|_| Reference { tat: 0 }).collect();
        for round in 0..400_usize {
            // The clock stands still while all threads send, so the order among them does not matter.
            let calls = |caller: usize| 1 + (round * 7 + caller * 3) % 5;
            let admitted: Vec<usize> = std::thread::scope(|scope| {
                let bed = &bed;
                let callers = &callers;
                let run = |thread: usize| {
                    scope.spawn(move || -> Vec<usize> {
                        let share = |caller: usize| (calls(caller) + threads - 1 - thread) / threads;
                        callers.iter().enumerate().map(|(at, caller)| bed.sent(caller, share(at))).collect()
                    })
                };
                let running: Vec<_> = (0..threads).map(run).collect();
                let each = running.into_iter().map(|thread| thread.join().unwrap());
                each.reduce(|one, other| one.iter().zip(other).map(|(a, b)| a + b).collect()).unwrap()
            });
            let now = bed.clock.now().monotonic;
            for (caller, reference) in references.iter_mut().enumerate() {
                let expected = (0..calls(caller)).filter(|_| reference.admits(now, terms)).count();
                assert_eq!(admitted[caller], expected, "{threads} threads, round {round}, caller {caller}");
            }
            bed.clock.advance(Duration::from_millis((round as u64 * 37) % 900));
        }
    }
}

#[test]
fn exactly_as_many_are_under_way_as_may_be_whatever_ends_them() {
    const MOST: u64 = 2;
    let bed = Bed::new(&[rule("concurrent", &[KeyPart::Principal], Meter::Concurrency { most: MOST })]);
    let ann = Sent::by("ann");
    let most_at_once = std::sync::atomic::AtomicU64::new(0);
    let under_way = std::sync::atomic::AtomicU64::new(0);
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (bed, ann, under_way, most_at_once) = (&bed, &ann, &under_way, &most_at_once);
            scope.spawn(move || {
                for call in 0..25_000 {
                    let Ok(Some(hold)) = bed.admit(ann) else { continue };
                    let now = under_way.fetch_add(1, Ordering::SeqCst) + 1;
                    most_at_once.fetch_max(now, Ordering::SeqCst);
                    if (call + thread) % 3 == 0 {
                        hold.commit();
                    }
                    std::thread::yield_now();
                    under_way.fetch_sub(1, Ordering::SeqCst);
                    if call % 1_000 == 999 {
                        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                            let _hold = hold;
                            std::panic::resume_unwind(Box::new(()));
                        }));
                        assert!(panicked.is_err());
                    }
                }
            });
        }
    });
    assert_eq!(most_at_once.load(Ordering::SeqCst), MOST, "more never, and as many at times");
    let holds: Vec<_> = (0..MOST).map(|_| bed.admit(&ann).unwrap()).collect();
    assert!(bed.admit(&ann).is_err());
    drop(holds);
}
