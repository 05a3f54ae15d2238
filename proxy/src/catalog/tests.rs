//! Catalogues against scripted upstreams and a clock that is moved by hand.

mod announced;
mod restart;
mod shared;

use super::fetch::Question;
use super::*;
use crate::backend::forward::Failure;
use crate::backend::upstreams::monitor::Answers;
use crate::offload::OffloadQueue;
use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use portunus_config::{Choice, Loaded, MapEnvironment, Member, NamePolicy, load_text};
use portunus_filters::catalog::State;
use portunus_filters::mcp::bridge::Scope;
use portunus_filters::{Denial, Identity, ManualClock, Reason};
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use tokio::sync::watch;

/// What upstreams say, by name, and how often each was asked for what.
#[derive(Default)]
struct Script {
    says: Mutex<HashMap<&'static str, Says>>,
    asked: Mutex<Vec<(String, Option<ListKind>)>>,
    /// Answers of [`Says::Later`] wait for it.
    gate: watch::Sender<bool>,
    /// Answers of any upstream to others.
    answers: Arc<Answers>,
}

#[derive(Clone, Copy)]
enum Says {
    /// Tools of these names, with a time to live.
    Tools(&'static [&'static str], Option<u64>),
    /// The same, public.
    Public(&'static [&'static str]),
    /// The same a page each.
    Paged(&'static [&'static str]),
    /// One more page each time.
    Endless,
    /// The same when the gate opens.
    Later(&'static [&'static str]),
    Fails(Reason),
    /// No lists, and for how long that holds.
    Described(u64),
    /// Never.
    Nothing,
}

impl Script {
    fn say(&self, upstream: &'static str, says: Says) {
        self.says.lock().unwrap().insert(upstream, says);
    }

    /// How often an upstream was asked for tools.
    fn asked(&self, upstream: &str) -> usize {
        let asked = self.asked.lock().unwrap();
        asked.iter().filter(|(name, kind)| name == upstream && *kind == Some(ListKind::Tools)).count()
    }
}

fn tools(names: &[&str], more: &str) -> Bytes {
    let tools: Vec<String> = names
        .iter()
        .map(|name| format!(r#"{{"name":"{name}","inputSchema":{{"type":"object"}}}}"#))
        .collect();
    format!(r#"{{"tools":[{}]{more}}}"#, tools.join(",")).into()
}

#[async_trait]
impl Asks for Script {
    async fn ask(&self, upstream: &Arc<Upstream>, question: Question) -> Result<Bytes, Failure> {
        let says = *self.says.lock().unwrap().get(&*upstream.name).unwrap_or(&Says::Nothing);
        let (kind, cursor) = match question {
            Question::Discover => (None, None),
            Question::List { kind, cursor } => (Some(kind), cursor),
        };
        self.asked.lock().unwrap().push((upstream.name.to_string(), kind));
        match says {
            Says::Nothing => return std::future::pending().await,
            Says::Fails(reason) => return Err(Denial::new(reason, "scripted").into()),
            Says::Later(_) => drop(self.gate.subscribe().wait_for(|open| *open).await),
            _ => {}
        }
        if let (None, Says::Described(ttl)) = (kind, says) {
            return Ok(format!(
                r#"{{"supportedVersions":["2026-07-28"],"capabilities":{{}},"ttlMs":{ttl}}}"#
            )
            .into());
        }
        if kind.is_none() {
            return Ok(r#"{"supportedVersions":["2026-07-28"],"capabilities":{"tools":{}}}"#.into());
        }
        assert_eq!(kind, Some(ListKind::Tools), "only declared lists are asked for");
        let place: usize = cursor.as_deref().map_or(0, |cursor| cursor.parse().unwrap());
        Ok(match says {
            Says::Tools(names, Some(ttl)) => tools(names, &format!(r#","ttlMs":{ttl}"#)),
            Says::Public(names) => tools(names, r#","ttlMs":10000,"cacheScope":"public""#),
            Says::Paged(names) if place + 1 < names.len() => {
                tools(&names[place..=place], &format!(r#","nextCursor":"{}""#, place + 1))
            }
            Says::Paged(names) => tools(&names[place..], ""),
            Says::Endless => tools(&[], r#","nextCursor":"0""#),
            Says::Tools(names, None) | Says::Later(names) => tools(names, ""),
            Says::Fails(_) | Says::Nothing | Says::Described(_) => unreachable!(),
        })
    }

    fn offload(&self, _: &Upstream) -> OffloadQueue {
        OffloadQueue::default()
    }

    fn answers(&self, _: &Upstream) -> Option<Arc<Answers>> {
        Some(Arc::clone(&self.answers))
    }
}

/// One virtual server before scripted upstreams.
struct Stage {
    catalogs: Catalogs,
    script: Arc<Script>,
    clock: Arc<ManualClock>,
    as_clock: Arc<dyn Clock>,
    server: Arc<VirtualServer>,
    caller: CallerKey,
    client_headers: ClientHeaders,
    shows: Shows,
}

/// A virtual server with two members.
fn configured(order: [usize; 2], names: NamePolicy, trusted: bool) -> Arc<VirtualServer> {
    let loaded = loaded();
    let member = |place: usize| {
        let mut upstream = Upstream::clone(&loaded.snapshot.upstreams[place]);
        upstream.trust_cache_scope = trusted;
        Member { name: Arc::clone(&upstream.name), choice: Choice::Fixed(Arc::new(upstream)) }
    };
    let members = order.map(member).to_vec();
    let upstreams = members.iter().flat_map(|member| member.choice.upstreams().cloned()).collect();
    let one = loaded.snapshot.routes.iter().next().unwrap();
    Arc::new(VirtualServer { members, upstreams, names, ..VirtualServer::clone(one) })
}

fn loaded() -> Loaded {
    let upstreams =
        ["a", "b"].map(|name| format!("  {name}: {{url: \"http://127.0.0.1:1/{name}\"}}\n")).join("");
    let text =
        format!("version: 1\nlisten: 127.0.0.1:0\nupstreams:\n{upstreams}servers: {{/mcp: a, /b: b}}\n");
    load_text(&text, Path::new("gateway.yaml"), &MapEnvironment::default()).unwrap()
}

fn caller(last: u8) -> CallerKey {
    CallerKey::for_tables(&Identity::Anonymous { source: IpAddr::V4(Ipv4Addr::new(10, 0, 0, last)) }, &[])
}

impl Stage {
    fn new(server: Arc<VirtualServer>) -> Stage {
        let clock = Arc::new(ManualClock::default());
        let as_clock: Arc<dyn Clock> = clock.clone();
        let (catalogs, script) = (Catalogs::default(), Arc::default());
        let (caller, client_headers) = (caller(1), ClientHeaders::default());
        Stage { catalogs, script, clock, as_clock, server, caller, client_headers, shows: Shows::Nothing }
    }

    fn plain() -> Stage {
        Stage::new(configured([0, 1], NamePolicy::PrefixOnConflict, false))
    }

    async fn merged(&self, caller: CallerKey, purpose: Purpose) -> Arc<MergedCatalog> {
        self.offering_of(&[ListKind::Tools], caller, purpose).await
    }

    async fn offering_of(
        &self,
        kinds: &[ListKind],
        caller: CallerKey,
        purpose: Purpose,
    ) -> Arc<MergedCatalog> {
        let asking = || -> Arc<dyn Asks> { self.script.clone() };
        let (server, client_headers, shows, clock) =
            (&self.server, &self.client_headers, self.shows, &self.as_clock);
        let query = Query {
            server,
            caller,
            owner: Default::default(),
            only: None,
            tenant: None,
            client_headers,
            shows,
            asking: &asking,
            clock,
            now: clock.now(),
        };
        self.catalogs.merged(&query, kinds, purpose).await
    }

    async fn show(&self) -> Vec<String> {
        names(&*self.merged(self.caller, Purpose::Show).await)
    }

    fn pass(&self, ms: u64) {
        self.clock.advance(Duration::from_millis(ms));
    }

    /// Lets what runs aside run to its end.
    async fn settle(&self) {
        for _ in 0..50 {
            tokio::task::yield_now().await;
        }
    }

    fn changed(&self, upstream: usize) {
        self.catalogs.changed(&self.server.upstreams[upstream], ListKind::Tools);
    }
}

fn names(merged: &MergedCatalog) -> Vec<String> {
    merged.catalog.entries(ListKind::Tools).iter().map(|entry| entry.name.to_string()).collect()
}

fn states(merged: &MergedCatalog) -> Vec<State> {
    merged.catalog.servers().iter().map(|server| server.states[0]).collect()
}

#[tokio::test]
async fn lists_are_fetched_once_and_only_when_they_are_old() {
    let stage = Stage::plain();
    stage.script.say("a", Says::Tools(&["x"], None));
    stage.script.say("b", Says::Tools(&["x", "y"], Some(10_000)));
    for _ in 0..100 {
        assert_eq!(stage.show().await, ["x", "b_x", "y"]);
    }
    assert_eq!((stage.script.asked("a"), stage.script.asked("b")), (1, 1));
    stage.pass(10_000);
    stage.script.say("b", Says::Tools(&["z"], Some(10_000)));
    assert_eq!(stage.show().await, ["x", "b_x", "y"], "a little old is good enough");
    stage.settle().await;
    assert_eq!(stage.show().await, ["x", "z"]);
    assert_eq!((stage.script.asked("a"), stage.script.asked("b")), (1, 2));
}

#[tokio::test]
async fn a_stampede_asks_once() {
    let stage = Arc::new(Stage::plain());
    stage.script.say("a", Says::Later(&["x"]));
    stage.script.say("b", Says::Later(&["y"]));
    let tasks: Vec<_> = (0..1_000)
        .map(|_| {
            let stage = Arc::clone(&stage);
            tokio::spawn(async move { stage.show().await })
        })
        .collect();
    stage.settle().await;
    stage.script.gate.send_replace(true);
    for task in tasks {
        assert_eq!(task.await.unwrap(), ["x", "y"]);
    }
    assert_eq!((stage.script.asked("a"), stage.script.asked("b")), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_server_that_is_down_is_waited_for_once() {
    let stage = Stage::plain();
    stage.script.say("a", Says::Nothing);
    stage.script.say("b", Says::Tools(&["y"], None));
    let begun = tokio::time::Instant::now();
    let merged = stage.merged(stage.caller, Purpose::Show).await;
    assert_eq!(begun.elapsed(), stage.server.list_timeout);
    assert_eq!(states(&merged)[0], State::Missing { reason: "upstream_timeout" });
    assert_eq!(names(&merged), ["b_y"]);
    let begun = tokio::time::Instant::now();
    for other in 1..50 {
        let merged = stage.merged(caller(other), Purpose::Route).await;
        assert_eq!((names(&merged), states(&merged)[0]), (vec!["b_y".to_owned()], states(&merged)[0]));
        stage.pass(100);
    }
    assert_eq!(begun.elapsed(), Duration::ZERO, "nobody waits again");
    let attempts = stage.script.asked.lock().unwrap().iter().filter(|(name, _)| name == "a").count();
    assert!((2..6).contains(&attempts), "{attempts} attempts in five seconds");
}

#[tokio::test]
async fn a_server_that_answers_anybody_is_no_longer_down() {
    let stage = Stage::plain();
    stage.script.say("a", Says::Fails(Reason::UpstreamUnavailable));
    stage.script.say("b", Says::Tools(&["y"], Some(600_000)));
    stage.show().await;
    for _ in 0..3 {
        stage.pass(60_000);
        stage.show().await;
        stage.settle().await;
    }
    let tries = stage.script.asked.lock().unwrap().len();
    stage.script.say("a", Says::Tools(&["x"], None));
    stage.pass(2_000);
    assert_eq!(names(&*stage.merged(caller(2), Purpose::Show).await), ["b_y"], "it is taken to be down");
    stage.settle().await;
    assert_eq!(stage.script.asked.lock().unwrap().len(), tries + 2, "only the other is asked");
    stage.script.answers.note();
    assert_eq!(names(&*stage.merged(caller(3), Purpose::Show).await), ["x", "y"]);
}

#[tokio::test]
async fn a_server_that_comes_back_is_found() {
    let stage = Stage::plain();
    stage.script.say("a", Says::Fails(Reason::UpstreamUnavailable));
    stage.script.say("b", Says::Tools(&["x"], None));
    assert_eq!(stage.show().await, ["b_x"], "a bare name may turn out to be the first one's");
    stage.script.say("a", Says::Tools(&["x"], None));
    assert_eq!(stage.show().await, ["b_x"]);
    stage.pass(1_000);
    stage.show().await;
    stage.settle().await;
    let merged = stage.merged(stage.caller, Purpose::Show).await;
    assert_eq!(names(&merged), ["x", "b_x"], "as where it was there at first");
    assert!(states(&merged).iter().all(|state| *state == State::Fresh));
}

#[tokio::test]
async fn the_last_list_stands_in_for_a_bounded_time() {
    let stage = Stage::plain();
    stage.script.say("a", Says::Tools(&["x"], Some(1_000)));
    stage.script.say("b", Says::Tools(&["y"], None));
    stage.show().await;
    stage.script.say("a", Says::Fails(Reason::UpstreamUnavailable));
    stage.pass(1_000);
    stage.show().await;
    stage.settle().await;
    let merged = stage.merged(stage.caller, Purpose::Show).await;
    assert_eq!(names(&merged), ["x", "y"]);
    assert!(matches!(states(&merged)[0], State::Stale { reason: "upstream_unavailable", .. }));
    assert_eq!(merged.caching(ListKind::Tools, stage.clock.now()).ttl_ms, 0);
    assert!(merged.failure(ListKind::Tools, &|_| true).is_none());
    stage.pass(600_000);
    let merged = stage.merged(stage.caller, Purpose::Route).await;
    assert!(matches!(states(&merged)[0], State::Missing { .. }));
    assert_eq!(names(&merged), ["y"]);
}

#[tokio::test]
async fn where_nothing_is_known_the_failure_is() {
    let stage = Stage::plain();
    stage.script.say("a", Says::Fails(Reason::UpstreamUnauthorized));
    stage.script.say("b", Says::Fails(Reason::UpstreamMalformed));
    let merged = stage.merged(stage.caller, Purpose::Show).await;
    let failure = merged.failure(ListKind::Tools, &|_| true).unwrap();
    assert_eq!(failure.denial.reason, Reason::UpstreamUnauthorized);
    assert!(matches!(&merged.facts[0], Some(Err(failure)) if failure.denial.detail == "scripted"));
}

#[tokio::test]
async fn calls_fetch_nothing() {
    let stage = Stage::plain();
    stage.script.say("a", Says::Tools(&["x"], Some(0)));
    stage.script.say("b", Says::Tools(&["y"], None));
    for _ in 0..10_000 {
        stage.merged(stage.caller, Purpose::Route).await;
        stage.pass(1);
    }
    stage.settle().await;
    assert_eq!((stage.script.asked("a"), stage.script.asked("b")), (1, 1));
    stage.show().await;
    stage.pass(300);
    stage.show().await;
    assert_eq!((stage.script.asked("a"), stage.script.asked("b")), (3, 1), "never fresh is shown fresh");
}

#[tokio::test]
async fn callers_never_share_a_private_list() {
    let stage = Stage::new(configured([0, 1], NamePolicy::PrefixOnConflict, true));
    stage.script.say("a", Says::Tools(&["mine"], Some(10_000)));
    stage.script.say("b", Says::Public(&["ours"]));
    assert_eq!(stage.show().await, ["mine", "ours"]);
    stage.script.say("a", Says::Tools(&["yours"], Some(10_000)));
    let merged = stage.merged(caller(2), Purpose::Show).await;
    assert_eq!(names(&merged), ["yours", "ours"]);
    assert_eq!((stage.script.asked("a"), stage.script.asked("b")), (2, 1));
    assert_eq!(stage.show().await, ["mine", "ours"]);
    assert_eq!(merged.caching(ListKind::Tools, stage.clock.now()).scope, Scope::Private);
}

#[tokio::test]
async fn public_counts_only_where_it_is_trusted() {
    for shared in [false, true] {
        let stage = Stage::new(configured([0, 1], NamePolicy::PrefixOnConflict, shared));
        stage.script.say("a", Says::Public(&["x"]));
        stage.script.say("b", Says::Public(&["y"]));
        let one = stage.merged(caller(1), Purpose::Show).await;
        let other = stage.merged(caller(2), Purpose::Show).await;
        assert_eq!(stage.script.asked("a"), if shared { 1 } else { 2 });
        let scope = if shared { Scope::Public } else { Scope::Private };
        assert_eq!(one.caching(ListKind::Tools, stage.clock.now()).scope, scope);
        assert!(Arc::ptr_eq(&one.catalog, &other.catalog), "equal lists are merged once");
        let (name, value) = (HeaderName::from_static("x-key"), HeaderValue::from_static("k"));
        let stage = Stage { client_headers: HeaderMap::from_iter([(name, value)]).into(), ..stage };
        stage.merged(caller(3), Purpose::Show).await;
        assert_eq!(stage.script.asked("a"), if shared { 2 } else { 3 }, "what a key brings about is its own");
    }
}

#[tokio::test]
async fn a_new_configuration_names_anew_and_fetches_nothing() {
    let mut stage = Stage::plain();
    stage.script.say("a", Says::Tools(&["x"], None));
    stage.script.say("b", Says::Tools(&["x"], None));
    assert_eq!(stage.show().await, ["x", "b_x"]);
    stage.server = configured([1, 0], NamePolicy::Prefix, false);
    assert_eq!(stage.show().await, ["b_x", "a_x"]);
    assert_eq!((stage.script.asked("a"), stage.script.asked("b")), (1, 1));
}

#[tokio::test]
async fn what_a_server_says_of_itself_is_shown_for_as_long_as_it_says() {
    let stage = Stage::plain();
    stage.script.say("a", Says::Described(0));
    stage.script.say("b", Says::Described(10_000));
    let asked = |upstream: &str| {
        stage.script.asked.lock().unwrap().iter().filter(|(name, _)| name == upstream).count()
    };
    for (ms, expected) in [(0, (1, 1)), (100, (1, 1)), (200, (2, 1)), (9_000, (3, 1))] {
        stage.pass(ms);
        stage.offering_of(&[], stage.caller, Purpose::Show).await;
        assert_eq!((asked("a"), asked("b")), expected, "after {ms} ms more");
    }
    stage.pass(10_000);
    stage.merged(stage.caller, Purpose::Show).await;
    assert_eq!((asked("a"), asked("b")), (3, 1), "beside lists an old word will do");
}

#[tokio::test]
async fn all_pages_are_read_and_endless_ones_are_not() {
    let stage = Stage::plain();
    stage.script.say("a", Says::Paged(&["x", "y", "z"]));
    stage.script.say("b", Says::Endless);
    let merged = stage.merged(stage.caller, Purpose::Show).await;
    assert_eq!(names(&merged), ["x", "y", "z"]);
    assert_eq!(stage.script.asked("a"), 3);
    assert_eq!(states(&merged)[1], State::Missing { reason: "upstream_malformed" });
}

#[tokio::test]
async fn gone_audiences_are_forgotten() {
    let stage = Stage::plain();
    stage.script.say("a", Says::Tools(&["x"], None));
    stage.script.say("b", Says::Tools(&["y"], None));
    for last in 0..200 {
        stage.merged(caller(last), Purpose::Show).await;
    }
    let held = |stage: &Stage| stage.catalogs.sizes().map(|(_, size)| size);
    let [catalogs, lists, bytes, last] = held(&stage);
    assert_eq!((catalogs, lists, last), (200, 2, 2), "equal lists lie in memory once");
    assert!(bytes > 0);
    stage.pass(30 * 60 * 1_000);
    stage.catalogs.sweep(stage.clock.now(), &loaded().snapshot);
    assert_eq!(held(&stage), [0, 0, 0, 2], "the last good ones are remembered as text");
}

#[tokio::test]
async fn operators_see_what_is_wrong() {
    let stage = Stage::plain();
    assert!(stage.catalogs.report(&stage.server.id, stage.clock.now()).is_none());
    stage.script.say("a", Says::Tools(&["x", "not good"], None));
    stage.script.say("b", Says::Tools(&["x"], None));
    stage.show().await;
    let report = stage.catalogs.report(&stage.server.id, stage.clock.now()).unwrap();
    assert_eq!(report["served"]["tools"], 2);
    let of_a = &report["members"][0]["lists"];
    assert_eq!((&of_a["tools"]["state"], &of_a["prompts"]["state"]), (&"known".into(), &"missing".into()));
    assert_eq!(of_a["tools"]["quarantined"]["items"][0]["name"], "not good");
    let conflict = &report["conflicts"]["items"][0];
    assert_eq!((&conflict["owner"], &conflict["servedAs"]), (&"a".into(), &"b_x".into()));
}
