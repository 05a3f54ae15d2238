//! Two replicas behind a balancer that sends each connection to the other: what needs the home of a
//! session finds it, and when one is killed nothing hangs and the rest goes on.

use super::pair::{Pair, Steady};
use crate::harness::{Caller, Client, Era, Lost, Runtime, Said, within};
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

/// Longest wait that the loss of a replica may cost anybody.
const LOSS: Duration = Duration::from_secs(5);

/// Legacy sessions under load when a replica is killed.
const SESSIONS: usize = 30;

/// Calls that wait for an answer of their user then.
const PARKED: usize = 10;

/// Interval between the calls of one of these sessions. Each call has a connection of its own at client and balancer:
/// without a pause they use up the ports of the machine within seconds, and then nobody is answered.
const PACE: Duration = Duration::from_millis(100);

/// Sessions that were ended before.
const ENDED: usize = 6;

pub(super) async fn run() {
    let pair = Pair::start().await;
    elicitation(&pair).await;
    cancel(&pair).await;
    streams(&pair).await;
    sdk_clients(&pair).await;
    let ended = deleted(&pair).await;
    killed(pair, ended).await;
}

/// Every answer of a user comes to the other replica than its question came from.
async fn elicitation(pair: &Pair) {
    for era in [Era::Legacy, Era::Modern] {
        let mut caller = pair.caller(era).ready().await;
        for turn in 0..20 {
            let said = caller.call("confide", json!({})).await.unwrap();
            assert_eq!(said.text(), "kept Ada", "{era:?} {turn}: {}", said.all());
        }
        println!("{era:?}: 20 questions were answered across the replicas");
    }
}

/// A cancellation reaches the server from whichever replica it comes to.
async fn cancel(pair: &Pair) {
    for turn in 0..4 {
        let before = pair.vault.counted("notifications/cancelled");
        let hangs = pair.vault.counted("hangs");
        let mut caller = pair.caller(Era::Legacy).ready().await;
        let other = pair.caller(Era::Legacy).in_session(&caller.session.clone().unwrap());
        let id = caller.next_id();
        let calling = tokio::spawn(async move { caller.call("hang", json!({})).await });
        pair.vault.reaches("hangs", hangs + 1).await;
        let cancelled =
            json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": id}});
        assert_eq!(other.post(&cancelled).await, Ok(202), "turn {turn}");
        pair.vault.reaches("notifications/cancelled", before + 1).await;
        calling.abort();
    }
    println!("4 cancellations reached the server across the replicas");
}

/// GET, subscribe and resume.
async fn streams(pair: &Pair) {
    for turn in 0..4 {
        let mut caller = pair.caller(Era::Legacy).ready().await;
        let (stream, head) = caller.stream(None).await.unwrap();
        assert_eq!(head.status, 200, "GET, turn {turn}");
        let mut stream = Events::of(stream);
        let uri = json!({"uri": "scripted://watched"});
        let said = caller.request("resources/subscribe", uri.clone()).await.unwrap();
        assert!(said.message["result"].is_object(), "subscribe, turn {turn}: {}", said.all());
        let updated = "notifications/resources/updated";
        let heard = stream.hear_while(updated, || pair.vault.note(updated, uri.clone())).await;
        let last = stream.last_id.clone().unwrap_or_else(|| panic!("no event id on {heard}"));
        drop(stream);
        pair.vault.note("notifications/tools/list_changed", json!({}));
        let (stream, head) = caller.stream(Some(&last)).await.unwrap();
        assert_eq!(head.status, 200, "resume, turn {turn}");
        let changed = "notifications/tools/list_changed";
        Events::of(stream).hear_while(changed, || {}).await;
    }
    println!("4 sessions subscribed, listened and resumed across the replicas");
}

/// An event stream that is read as it comes.
struct Events {
    client: Client,
    text: String,
    last_id: Option<String>,
}

impl Events {
    fn of(client: Client) -> Events {
        Events { client, text: String::new(), last_id: None }
    }

    /// Does something twice a second until a notification of this method comes, and gives it.
    async fn hear_while(&mut self, method: &str, act: impl Fn()) -> Value {
        let mut tick = tokio::time::interval(Duration::from_millis(500));
        within(20, method, async {
            loop {
                tokio::select! {
                    chunk = self.client.chunk() => {
                        self.text.push_str(&chunk.expect("the stream goes on").replace('\r', ""));
                        if let Some(message) = self.find(method) {
                            return message;
                        }
                    }
                    _ = tick.tick() => act(),
                }
            }
        })
        .await
    }

    /// Reads until a notification of this method comes; `false` if the stream ends before.
    async fn outlives(mut self, method: &str) -> bool {
        while let Ok(Some(chunk)) = self.client.try_chunk().await {
            self.text.push_str(&chunk.replace('\r', ""));
            if self.find(method).is_some() {
                return true;
            }
        }
        false
    }

    fn find(&mut self, method: &str) -> Option<Value> {
        while let Some((event, rest)) = self.text.split_once("\n\n") {
            let (event, rest) = (event.to_owned(), rest.to_owned());
            self.text = rest;
            let field = |name: &str| event.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
            if let Some(id) = field("id:") {
                self.last_id = Some(id.to_owned());
            }
            let message: Value = serde_json::from_str(field("data:").unwrap_or_default()).unwrap_or_default();
            if message["method"] == method {
                return Some(message);
            }
        }
        None
    }
}

/// Four SDK clients pass every step through the balancer.
async fn sdk_clients(pair: &Pair) {
    let url = pair.url("/mcp");
    let names = ["py1", "py2-modern", "ts1", "ts2-auto"];
    let clients = names.map(|name| ["--client", name]).concat();
    let arguments = [&[url.as_str(), "--prefix", "dual_", "--scheme", "dual"], &clients[..]].concat();
    println!("{}", Runtime::Python2.run(600, "clients.py", &arguments).await);
}

/// Ends sessions; gives their ids.
async fn deleted(pair: &Pair) -> Vec<String> {
    let mut ids = Vec::new();
    for _ in 0..ENDED {
        let caller = pair.caller(Era::Legacy).ready().await;
        assert_eq!(caller.end().await, Ok(200));
        ids.push(caller.session.clone().unwrap());
    }
    assert_gone(pair, &ids).await;
    println!("{ENDED} sessions stay deleted on both replicas");
    ids
}

async fn assert_gone(pair: &Pair, ids: &[String]) {
    for id in ids {
        for turn in 0..4 {
            let said = pair.caller(Era::Legacy).in_session(id).call("echo", json!({})).await.unwrap();
            assert_eq!(said.head.status, 404, "a deleted session, turn {turn}: {}", said.all());
        }
    }
}

/// What one client saw after the kill.
#[derive(Debug, Default)]
struct After {
    answers: usize,
    broken: usize,
    gone: usize,
    lost: usize,
    longest: Duration,
}

impl After {
    fn and(self, other: After) -> After {
        After {
            answers: self.answers + other.answers,
            broken: self.broken + other.broken,
            gone: self.gone + other.gone,
            lost: self.lost + other.lost,
            longest: self.longest.max(other.longest),
        }
    }

    /// Counts how one call ended; gives whether the session is still of use.
    fn count(&mut self, said: &Result<Said, Lost>, took: Duration) -> bool {
        self.longest = self.longest.max(took);
        match said {
            Ok(said) if said.head.status == 404 => self.gone += 1,
            Ok(said) if said.code() == Some(-31503) => self.lost += 1,
            Ok(said) => {
                assert!(said.message["result"].is_object(), "{}", said.all());
                self.answers += 1;
            }
            Err(Lost::Broken) => self.broken += 1,
            Err(Lost::Late) => panic!("an answer did not come within {:?}", 2 * LOSS),
        }
        !matches!(said, Ok(said) if said.head.status == 404)
    }
}

/// Calls until told to stop; a session that is gone is replaced, as an SDK's user would.
async fn work(mut caller: Caller, mut stop: tokio::sync::watch::Receiver<bool>) -> After {
    let mut after = After::default();
    let mut pace = tokio::time::interval(PACE);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while !*stop.borrow_and_update() {
        pace.tick().await;
        let start = Instant::now();
        let said = caller.call("echo", json!({})).await;
        if !after.count(&said, start.elapsed()) {
            caller = caller.ready().await;
        }
    }
    after
}

/// One replica is killed under load.
async fn killed(mut pair: Pair, ended: Vec<String>) {
    let stop = tokio::sync::watch::Sender::new(false);
    let (mut load, mut parked, mut streams) = (JoinSet::new(), Vec::new(), Vec::new());
    for _ in 0..SESSIONS {
        let caller = pair.caller(Era::Legacy).patient_for(2 * LOSS).ready().await;
        let (stream, head) = caller.stream(None).await.unwrap();
        assert_eq!(head.status, 200);
        streams.push(stream);
        load.spawn(work(caller, stop.subscribe()));
    }
    for _ in 0..PARKED {
        let mut caller = pair.caller(Era::Modern).patient_for(2 * LOSS);
        let params = json!({"name": "confide", "arguments": {}});
        let asked = caller.request("tools/call", params).await.unwrap();
        assert_eq!(asked.message["result"]["resultType"], "input_required", "{}", asked.all());
        parked.push((caller, asked.message["result"].clone()));
    }
    let steady = Steady::start(&pair.url("/mcp")).await;
    let start = Instant::now();
    pair.kill_one();
    let resumed = resume(parked).await;
    println!("{PARKED} calls that waited for their user, after the kill: {resumed:?}");
    assert!(resumed.longest <= LOSS, "{resumed:?}");
    assert!(resumed.lost > 0 && resumed.answers > 0, "all were parked at one replica: {resumed:?}");
    steady.assert_carried_on(LOSS).await;
    println!("the SDK clients were done {:.1?} after the kill", start.elapsed());
    stop.send_replace(true);
    let mut sum = After::default();
    while let Some(after) = load.join_next().await {
        sum = sum.and(after.unwrap());
    }
    println!("{SESSIONS} legacy sessions under load, from before the kill to the end: {sum:?}");
    assert!(sum.longest <= LOSS, "{sum:?}");
    assert!(sum.broken <= SESSIONS * 2, "connections broke again and again: {sum:?}");
    streams_after(&pair, streams).await;
    assert_gone(&pair, &ended).await;
    println!("what was deleted stays deleted on the replica that is left");
}

/// A stream either ended with the replica or still carries what its servers say.
async fn streams_after(pair: &Pair, streams: Vec<Client>) {
    let changed = "notifications/tools/list_changed";
    let mut outcomes: JoinSet<bool> =
        streams.into_iter().map(|stream| Events::of(stream).outlives(changed)).collect();
    let (mut ended, mut alive) = (0, 0);
    let mut tick = tokio::time::interval(Duration::from_millis(500));
    let all = async {
        loop {
            tokio::select! {
                outcome = outcomes.join_next() => match outcome {
                    Some(Ok(true)) => alive += 1,
                    Some(outcome) => ended += usize::from(!outcome.unwrap()),
                    None => break,
                },
                _ = tick.tick() => pair.vault.note(changed, json!({})),
            }
        }
    };
    within(30, "every stream to end or to carry on", all).await;
    println!("{ended} of {SESSIONS} streams ended with the replica, {alive} carry on");
    assert!(ended > 0 && alive > 0, "{ended} ended, {alive} carry on");
}

/// Answers the parked calls; those of the killed replica are lost and say so.
async fn resume(parked: Vec<(Caller, Value)>) -> After {
    let mut after = After::default();
    for (mut caller, asked) in parked {
        let key = asked["inputRequests"].as_object().unwrap().keys().next().unwrap().clone();
        let answer = json!({"action": "accept", "content": {"name": "Ada"}});
        let params = json!({
            "name": "confide", "arguments": {}, "requestState": asked["requestState"], "inputResponses": {key: answer},
        });
        let start = Instant::now();
        let said = caller.request("tools/call", params).await;
        after.count(&said, start.elapsed());
    }
    after
}
