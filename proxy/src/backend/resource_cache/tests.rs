use super::*;
use crate::backend::upstreams::pool::Pool;
use http::{HeaderMap, HeaderName, HeaderValue};
use portunus_config::{Loaded, MapEnvironment, load_text};
use portunus_filters::mcp::bridge::Profile;
use portunus_filters::{Denial, Identity, ManualClock};
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

struct Stage {
    reads: Arc<Reads>,
    clock: Arc<ManualClock>,
    as_clock: Arc<dyn Clock>,
    loaded: Loaded,
}

const PARAMS: &str = r#"{"uri":"file:///a","_meta":{"progressToken":1}}"#;

impl Stage {
    fn new(trusted: bool) -> Stage {
        Stage::with(trusted, "revalidate: 0s")
    }

    /// With rules of the cache.
    fn with(trusted: bool, rules: &str) -> Stage {
        let text = format!(
            "version: 1\nlisten: 127.0.0.1:0\nupstreams: {{a: {{url: \"http://127.0.0.1:1/\"}}}}\n\
             cache: {{{rules}}}\nservers: {{/mcp: a}}\n"
        );
        let mut loaded = load_text(&text, Path::new("gateway.yaml"), &MapEnvironment::default()).unwrap();
        let mut upstream = Upstream::clone(&loaded.snapshot.upstreams[0]);
        upstream.trust_cache_scope = trusted;
        loaded.snapshot.upstreams[0] = Arc::new(upstream);
        let clock = Arc::new(ManualClock::default());
        let as_clock: Arc<dyn Clock> = clock.clone();
        let reads = Arc::<Reads>::default();
        reads.reconcile(&loaded.snapshot);
        Stage { reads, clock, as_clock, loaded }
    }

    fn upstream(&self) -> Arc<Upstream> {
        Arc::clone(&self.loaded.snapshot.upstreams[0])
    }

    fn place(&self, caller: u8) -> UpstreamTarget {
        let source = IpAddr::V4(Ipv4Addr::new(10, 0, 0, caller));
        let upstream = self.upstream();
        UpstreamTarget {
            pool: Arc::new(Pool::new(&upstream)),
            upstream,
            server: self.loaded.snapshot.routes.iter().next().unwrap().id.clone(),
            caller: CallerKey::for_tables(&Identity::Anonymous { source }, &[]),
            owner: Default::default(),
            profile: Arc::new(Profile::silent("test", "1")),
            headers: Arc::default(),
        }
    }

    fn read_at(&self, place: &UpstreamTarget, params: &str) -> Option<Read> {
        self.read_in(Era::Modern, None, place, params)
    }

    fn read_in(
        &self,
        era: Era,
        session: Option<&[u8]>,
        place: &UpstreamTarget,
        params: &str,
    ) -> Option<Read> {
        let params = Object::read(params).unwrap();
        let wanted = Wanted { place, era, session, params: &params, target: None };
        self.reads.read(&self.as_clock, &wanted)
    }

    fn read_of(&self, caller: u8, params: &str) -> Option<Read> {
        self.read_at(&self.place(caller), params)
    }

    fn read(&self, caller: u8) -> Read {
        self.read_of(caller, PARAMS).unwrap()
    }

    /// What `caller` gets without asking.
    async fn found(&self, caller: u8) -> Option<String> {
        let kept = self.read(caller).kept().await?;
        Some(String::from_utf8(kept.text().to_vec()).unwrap())
    }

    async fn keep(&self, caller: u8, result: &str) {
        let mut read = self.read(caller);
        assert!(read.kept().await.is_none());
        read.keep(&answer(result));
    }

    fn pass(&self, ms: u64) {
        self.clock.advance(Duration::from_millis(ms));
    }
}

fn answer(result: &str) -> Answer<Bytes> {
    Answer {
        era: Era::Modern,
        outcome: Outcome::Result(Bytes::from(result.to_owned())),
        facts: None,
        received: None,
        room: None,
    }
}

const PUBLIC: &str = r#"{"contents":[ 1.50 ],"ttlMs":10000,"cacheScope":"public"}"#;

#[tokio::test]
async fn an_answer_is_given_again_with_the_time_that_is_left() {
    let stage = Stage::new(false);
    stage.keep(1, PUBLIC).await;
    stage.pass(4_000);
    let expected = r#"{"contents":[ 1.50 ],"ttlMs":6000,"cacheScope":"private"}"#;
    assert_eq!(stage.found(1).await.as_deref(), Some(expected));
    assert_eq!(stage.found(2).await, None, "public is not trusted");
    stage.pass(6_000);
    assert_eq!(stage.found(1).await, None);
    stage.pass(10 * 60_000 - 1);
    stage.reads.sweep(stage.clock.now());
    assert_eq!(stage.reads.sizes()[0], ("reads", 1), "it may stand in");
    stage.pass(1);
    stage.reads.sweep(stage.clock.now());
    assert_eq!(stage.reads.sizes(), [("reads", 0), ("read_bytes", 0)]);
}

#[tokio::test]
async fn callers_share_what_is_public_and_trusted() {
    let stage = Stage::new(true);
    stage.keep(1, PUBLIC).await;
    assert!(stage.found(2).await.is_some());
    let stage = Stage::new(true);
    stage.keep(1, &PUBLIC.replace("public", "private")).await;
    assert!(stage.found(1).await.is_some() && stage.found(2).await.is_none());
}

#[tokio::test]
async fn what_holds_for_one_answer_only_is_not_kept() {
    let results = [
        r#"{"contents":[]}"#,
        r#"{"contents":[],"ttlMs":0}"#,
        r#"{"contents":[],"ttlMs":-5}"#,
        r#"{"resultType":"input_required","requestState":"x","ttlMs":9999}"#,
        r#"{"resultType":"of_an_extension","ttlMs":9999}"#,
        r#"{"resultType":7,"ttlMs":9999}"#,
    ];
    for result in results {
        let stage = Stage::new(true);
        stage.keep(1, result).await;
        assert_eq!(stage.found(1).await, None, "{result}");
    }
    let stage = Stage::new(true);
    for params in [r#"{"uri":"u","inputResponses":{}}"#, r#"{"uri":"u","requestState":"x"}"#, "{}"] {
        assert!(stage.read_of(1, params).is_none(), "{params}");
    }
}

#[tokio::test]
async fn requests_are_told_apart_by_all_but_their_meta() {
    let stage = Stage::new(false);
    stage.keep(1, PUBLIC).await;
    let found = |params| {
        let mut read = stage.read_of(1, params).unwrap();
        async move { read.kept().await.is_some() }
    };
    assert!(found(r#"{"_meta":{"x":2},"uri":"file:///a"}"#).await);
    assert!(!found(r#"{"uri":"file:///b"}"#).await);
    assert!(!found(r#"{"uri":"file:///a","range":1}"#).await);
}

#[tokio::test]
async fn announced_changes_end_what_was_read_before() {
    for whole_list in [false, true] {
        let stage = Stage::new(false);
        stage.keep(1, PUBLIC).await;
        let mut under_way = stage.read_of(1, r#"{"uri":"file:///a","n":1}"#).unwrap();
        assert!(under_way.kept().await.is_none());
        stage.pass(1);
        stage.reads.updated(&stage.upstream(), "file:///b", stage.clock.now());
        assert!(stage.found(1).await.is_some(), "another one changed");
        match whole_list {
            true => stage.reads.changed(&stage.upstream(), stage.clock.now()),
            false => stage.reads.updated(&stage.upstream(), "file:///a", stage.clock.now()),
        }
        assert!(stage.found(1).await.is_none());
        under_way.keep(&answer(PUBLIC));
        assert_eq!(stage.reads.sizes()[0].1, 1, "what was asked for before is not kept after");
        stage.pass(1);
        stage.keep(1, PUBLIC).await;
        assert!(stage.found(1).await.is_some());
    }
}

#[tokio::test]
async fn those_who_want_the_same_wait_for_one_answer() {
    let stage = Stage::new(false);
    let mut first = stage.read(1);
    assert!(first.kept().await.is_none());
    let waiting: Vec<_> = (0..1_000)
        .map(|_| {
            let mut read = stage.read(1);
            tokio::spawn(async move { read.kept().await.is_some() })
        })
        .collect();
    tokio::task::yield_now().await;
    first.keep(&answer(PUBLIC));
    for task in waiting {
        assert!(task.await.unwrap());
    }
}

#[tokio::test]
async fn nobody_waits_for_what_holds_for_nobody_else() {
    let stage = Stage::new(false);
    let mut first = stage.read(1);
    assert!(first.kept().await.is_none());
    let mut second = stage.read(1);
    let waits = tokio::spawn(async move { second.kept().await.is_some() });
    tokio::task::yield_now().await;
    first.keep(&answer("{}"));
    assert!(!waits.await.unwrap());
    let (mut third, mut fourth) = (stage.read(1), stage.read(1));
    assert!(third.kept().await.is_none() && fourth.kept().await.is_none(), "both ask");
    stage.pass(60_000);
    stage.reads.sweep(stage.clock.now());
    let mut gone = stage.read(1);
    assert!(gone.kept().await.is_none());
    drop(gone);
    let mut next = stage.read(1);
    assert!(next.kept().await.is_none(), "one who left is not waited for");
}

#[tokio::test]
async fn callers_that_only_their_server_can_tell_apart_never_share() {
    let table = [
        ("x-api-key", "another", false),
        ("cookie", "session=another", false),
        ("accept-language", "de", false),
        ("user-agent", "another", true),
        ("baggage", "another", true),
    ];
    for scope in ["public", "private"] {
        for (name, value, same) in table {
            let stage = Stage::new(true);
            stage.keep(1, &PUBLIC.replace("public", scope)).await;
            let mut place = stage.place(1);
            let mut headers = HeaderMap::new();
            headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
            place.headers = Arc::new(headers.into());
            let mut other = stage.read_at(&place, PARAMS).unwrap();
            assert_eq!(other.kept().await.is_some(), same, "{scope}, {name}");
            let silent = failure(Reason::UpstreamUnavailable);
            assert_eq!(other.instead(&silent).is_some(), same, "{scope}, {name}: in the place of a failure");
            assert!(stage.found(1).await.is_some(), "{scope}, {name}: it stays whose it is");
        }
    }
}

#[tokio::test]
async fn a_new_configuration_begins_with_nothing() {
    let mut stage = Stage::new(true);
    stage.keep(1, PUBLIC).await;
    let mut under_way = stage.read(2);
    assert!(under_way.kept().await.is_some());
    let mut under_way = stage.read_of(2, r#"{"uri":"file:///b"}"#).unwrap();
    assert!(under_way.kept().await.is_none());
    let before = stage.place(1);
    let again = stage.upstream();
    stage.loaded.snapshot.upstreams[0] = Arc::new(Upstream::clone(&again));
    stage.loaded.snapshot.serial += 1;
    stage.reads.reconcile(&stage.loaded.snapshot);
    assert_eq!(stage.reads.sizes(), [("reads", 0), ("read_bytes", 0)]);
    assert_eq!(stage.found(1).await, None);
    let mut waiting = stage.read_of(2, r#"{"uri":"file:///b"}"#).unwrap();
    let asks = tokio::time::timeout(Duration::from_secs(10), waiting.kept()).await;
    assert!(asks.expect("it does not wait for what was asked before").is_none());
    under_way.keep(&answer(PUBLIC));
    let mut next = stage.read_of(2, r#"{"uri":"file:///b"}"#).unwrap();
    drop(waiting);
    assert!(next.kept().await.is_none(), "asked for before");
    assert!(stage.read_at(&before, PARAMS).is_none(), "judged before");
}

#[tokio::test]
async fn an_older_answer_stands_in_for_a_silent_server_and_for_nothing_else() {
    let silent = [Reason::UpstreamUnavailable, Reason::UpstreamTimeout];
    let refuses = [Reason::UpstreamUnauthorized, Reason::UpstreamMalformed, Reason::UpstreamUntrusted];
    for (reason, scope) in
        silent.into_iter().chain(refuses).flat_map(|one| [(one, "public"), (one, "private")])
    {
        let stage = Stage::new(true);
        stage.keep(1, &PUBLIC.replace("public", scope)).await;
        stage.pass(10_000 + 10 * 60_000 - 1);
        let mut read = stage.read(1);
        assert!(read.kept().await.is_none());
        let told = read.instead(&failure(reason)).map(|answer| answer.text().clone());
        let expected = r#"{"contents":[ 1.50 ],"ttlMs":0,"cacheScope":"private"}"#;
        assert_eq!(told, silent.contains(&reason).then(|| Bytes::from(expected)), "{reason} {scope}");
        assert_eq!(
            stage.read(2).instead(&failure(reason)).is_some(),
            silent.contains(&reason) && scope == "public"
        );
        let again = |stage: &Stage| stage.read(1).instead(&failure(Reason::UpstreamTimeout)).is_some();
        assert_eq!(again(&stage), silent.contains(&reason), "{reason} {scope}: a refusal ends it");
        stage.pass(1);
        assert!(!again(&stage), "{reason} {scope}: too old");
    }
}

#[tokio::test]
async fn what_changed_or_is_an_error_now_does_not_stand_in() {
    let stands_in = |stage: &Stage| stage.read(1).instead(&failure(Reason::UpstreamTimeout)).is_some();
    let stage = Stage::new(false);
    stage.keep(1, PUBLIC).await;
    assert!(stands_in(&stage));
    stage.reads.updated(&stage.upstream(), "file:///a", stage.clock.now());
    assert!(!stands_in(&stage));
    for scope in ["public", "private"] {
        let stage = Stage::new(true);
        stage.keep(1, &PUBLIC.replace("public", scope)).await;
        stage.pass(10_000);
        let mut read = stage.read(1);
        assert!(read.kept().await.is_none());
        let error = Outcome::Error { code: -32002, error: Bytes::from_static(b"{}") };
        read.keep(&Answer { outcome: error, ..answer("") });
        assert!(!stands_in(&stage), "{scope}");
    }
}

#[tokio::test]
async fn one_upstream_that_announces_without_end_does_not_revive_what_another_ended() {
    let stage = Stage::new(false);
    stage.keep(1, PUBLIC).await;
    stage.pass(1);
    stage.reads.updated(&stage.upstream(), "file:///a", stage.clock.now());
    let mut noisy = Upstream::clone(&stage.upstream());
    noisy.name = "noisy".into();
    for number in 0..=MAX_UPDATES {
        stage.reads.updated(&noisy, &number.to_string(), stage.clock.now());
        assert!(lock(&stage.reads.changes).one.len() <= MAX_UPDATES);
    }
    assert_eq!(stage.found(1).await, None);
}

#[tokio::test]
async fn what_is_kept_holds_no_more_memory_than_its_text() {
    let stage = Stage::new(false);
    let mut read = stage.read(1);
    assert!(read.kept().await.is_none());
    let buffer = Bytes::from(format!("{PUBLIC}{}", " ".repeat(1 << 20)));
    let answer = Answer { outcome: Outcome::Result(buffer.slice(..PUBLIC.len())), ..answer("") };
    read.keep(&answer);
    drop(answer);
    assert!(buffer.try_into_mut().is_ok(), "nobody else holds the buffer");
    assert!(stage.found(1).await.is_some());
}

fn failure(reason: Reason) -> Failure {
    Denial::new(reason, "no").into()
}

/// What is at hand, in a word, and what it says.
fn at_hand(read: &mut Read) -> Option<(&'static str, String)> {
    let (what, answer) = match read.at_hand()? {
        AtHand::Fresh(answer) => ("fresh", answer),
        AtHand::Older(answer) => ("older", answer),
        AtHand::Renewing(answer) => ("renewing", answer),
    };
    Some((what, String::from_utf8(answer.text().to_vec()).unwrap()))
}

#[tokio::test]
async fn an_older_answer_is_given_at_once_while_one_asks_again() {
    let stage = Stage::with(false, "revalidate: 5s");
    stage.keep(1, PUBLIC).await;
    stage.pass(9_999);
    assert_eq!(at_hand(&mut stage.read(1)).unwrap().0, "fresh");
    stage.pass(1);
    let mut asks = stage.read(1);
    let (what, text) = at_hand(&mut asks).unwrap();
    assert_eq!((what, text.contains(r#""ttlMs":0"#)), ("older", true), "{text}");
    assert_eq!(at_hand(&mut stage.read(1)).unwrap().0, "renewing", "one asks for all");
    assert_eq!(at_hand(&mut stage.read(2)), None, "another caller");
    stage.pass(1_000);
    asks.keep(&answer(PUBLIC));
    assert_eq!(at_hand(&mut stage.read(1)).unwrap().0, "fresh");
    stage.pass(9_000 + 4_999);
    assert_eq!(at_hand(&mut stage.read(1)).unwrap().0, "older", "who asked left without an answer");
    assert_eq!(at_hand(&mut stage.read(1)).unwrap().0, "older");
    stage.pass(1);
    assert_eq!(at_hand(&mut stage.read(1)), None, "the bound");
    assert!(stage.read(1).instead(&failure(Reason::UpstreamTimeout)).is_some(), "it may stand in yet");
}

#[tokio::test]
async fn an_older_answer_is_given_no_longer_than_it_was_fresh_or_may_stand_in() {
    for (rules, fresh_ms, bound_ms) in
        [("revalidate: 1h", 200, 200), ("revalidate: 1h, stale: 50ms", 200, 50)]
    {
        let stage = Stage::with(false, rules);
        stage.keep(1, &PUBLIC.replace("10000", &fresh_ms.to_string())).await;
        stage.pass(fresh_ms + bound_ms - 1);
        assert_eq!(at_hand(&mut stage.read(1)).unwrap().0, "older", "{rules}");
        stage.pass(1);
        assert_eq!(at_hand(&mut stage.read(1)), None, "{rules}");
    }
    let stage = Stage::with(false, "revalidate: 1h");
    stage.keep(1, PUBLIC).await;
    stage.pass(10_000);
    stage.reads.updated(&stage.upstream(), "file:///a", stage.clock.now());
    assert_eq!(at_hand(&mut stage.read(1)), None, "it changed");
}

/// A caller that waits for what another asked for; whether it was brought.
fn waiter(stage: &Stage, caller: u8) -> tokio::task::JoinHandle<bool> {
    let mut read = stage.read(caller);
    tokio::spawn(async move { read.kept().await.is_some() })
}

#[tokio::test]
async fn callers_wait_for_each_other_where_public_is_trusted() {
    let stage = Stage::new(true);
    let mut first = stage.read(1);
    assert!(first.kept().await.is_none());
    let waiting: Vec<_> = (2..100).map(|caller| waiter(&stage, caller)).collect();
    tokio::task::yield_now().await;
    first.keep(&answer(PUBLIC));
    for task in waiting {
        assert!(task.await.unwrap());
    }
    let stage = Stage::new(false);
    let mut first = stage.read(1);
    assert!(first.kept().await.is_none());
    assert!(stage.read(2).kept().await.is_none(), "public is not trusted: each asks");
}

#[tokio::test]
async fn one_callers_answer_is_not_brought_to_another_who_waited_for_it() {
    let stage = Stage::new(true);
    let private = PUBLIC.replace("public", "private");
    let mut first = stage.read(1);
    assert!(first.kept().await.is_none());
    let own = waiter(&stage, 1);
    let mut other = stage.read(2);
    let mut others = tokio::spawn(async move {
        assert!(other.kept().await.is_none(), "it asks for itself");
        other
    });
    tokio::task::yield_now().await;
    assert!(!others.is_finished(), "it waits");
    first.keep(&answer(&private));
    assert!(own.await.unwrap());
    let other = (&mut others).await.unwrap();
    let second = waiter(&stage, 2);
    tokio::task::yield_now().await;
    assert!(!second.is_finished(), "for its own caller's");
    assert!(stage.read(3).kept().await.is_none(), "callers do not wait for each other now");
    other.keep(&answer(&private));
    assert!(second.await.unwrap());
}

#[tokio::test]
async fn answers_of_legacy_servers_are_kept_where_the_configuration_says_so() {
    let result = r#"{"contents":[],"ttlMs":99999999,"cacheScope":"public"}"#;
    let legacy = Answer { era: Era::Legacy, ..answer(result) };
    let stage = Stage::with(true, "legacy_reads: 1s, revalidate: 0s");
    let place = stage.place(1);
    let read = |session: Option<&'static [u8]>| stage.read_in(Era::Legacy, session, &place, PARAMS).unwrap();
    let mut first = read(None);
    assert!(first.kept().await.is_none());
    first.keep(&legacy);
    stage.pass(999);
    assert_eq!(at_hand(&mut read(None)).unwrap(), ("fresh", result.to_owned()), "as the server said it");
    assert_eq!(at_hand(&mut read(Some(b"s"))), None, "another session, which may remember more");
    assert_eq!(at_hand(&mut stage.read_in(Era::Legacy, None, &stage.place(2), PARAMS).unwrap()), None);
    stage.pass(1);
    assert_eq!(at_hand(&mut read(None)), None);
    let off = Stage::new(true);
    assert!(off.read_in(Era::Legacy, None, &off.place(1), PARAMS).is_none(), "not unless it is asked for");
}
