//! Upgrades in a row under load, with streams open.

use super::load::{Followers, Load, Tally, Unanswered, assert_files};
use crate::harness::{Feed, Gateway, Request, Wire, within};
use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const STREAMS: u32 = 100;
const KEPT: usize = 16;
const FRESH: usize = 16;
const ROUNDS: usize = 5;
/// How long the upstream works on a call; about every tenth takes ten times as long.
const WORK: Duration = Duration::from_millis(10);
/// Calls before the first upgrade, and between two.
const BETWEEN: usize = 2_000;

/// Names of the requests that reached the upstream.
type Reached = Arc<Mutex<HashSet<String>>>;

async fn working() -> (Feed, Reached) {
    let reached = Reached::default();
    let shared = Arc::clone(&reached);
    let feed = Feed::start(move |request: Request, mut wire: Wire| {
        let name = request.header("x-request-id").unwrap().to_owned();
        // Spread over callers and turns, so that some are long whenever the upgrade comes.
        let long = name.bytes().map(usize::from).sum::<usize>() % 10 == 0;
        shared.lock().unwrap().insert(name);
        async move {
            tokio::time::sleep(if long { WORK * 10 } else { WORK }).await;
            wire.json(&format!(r#"{{"jsonrpc":"2.0","id":{},"result":{{"rev":"one"}}}}"#, request.id()))
                .await;
            Some(wire)
        }
    })
    .await;
    (feed, reached)
}

/// Waits until so many further calls have reached the upstream.
async fn further(reached: &Reached, calls: usize) {
    let until = reached.lock().unwrap().len() + calls;
    within(60, "the load to run", async {
        let mut tick = tokio::time::interval(Duration::from_millis(5));
        while reached.lock().unwrap().len() < until {
            tick.tick().await;
        }
    })
    .await;
}

/// One upgrade: streams end and are opened again, and the old process ends.
async fn round(number: usize, mut old: Gateway, feed: &Feed, reached: &Reached) -> Gateway {
    let mut followers = Followers::open_after(feed.said(), &old, &["/mcp"], STREAMS).await;
    followers.hear(feed, followers.streams.len()).await;
    let start = Instant::now();
    let new = old.succeed().await;
    let served = start.elapsed();
    let (streams, (status, exited)) =
        tokio::join!(followers.end("/mcp"), async { (old.ended().await, Instant::now()) });
    println!(
        "upgrade {number}: the successor served after {served:.2?}; {STREAMS} streams ended between two events, \
         the last after {:.2?}; the old process ended after {:.2?}",
        streams.unwrap().duration_since(start),
        exited.duration_since(start),
    );
    assert_eq!(status.code(), Some(0), "{}", old.log_text());
    further(reached, BETWEEN).await;
    new
}

fn report(kind: &str, tally: &Tally, reached: &Reached) {
    let reached = reached.lock().unwrap();
    let of = |how| tally.unanswered.iter().filter(|one| one.1 == how).count();
    let worked = tally.unanswered.iter().filter(|(name, _)| reached.contains(name)).count();
    // Nothing of these was answered or worked on: a client may send them again by rule.
    let races = tally.unanswered.len() - worked;
    println!(
        "{kind} connections: {} calls answered, {} wrongly; {} connects refused; {} connections told to close\n  \
         {worked} calls lost that were worked on; {races} that met a closing connection and may be sent again \
         ({} sent whole on a kept one, {} on a fresh one, {} not sent whole)",
        tally.answers.len(),
        tally.wrong.len(),
        tally.refused,
        tally.closed,
        of(Unanswered::Kept),
        of(Unanswered::Queued),
        of(Unanswered::Unsent),
    );
    assert!(tally.wrong.is_empty(), "{:?}", tally.wrong);
    assert_eq!((tally.refused, worked, of(Unanswered::Queued)), (0, 0, 0), "{:?}", tally.unanswered);
    // The old process waits for the next request of an idle connection for seconds: under load none
    // is idle for so long.
    assert_eq!(races, 0, "{:?}", tally.unanswered);
}

pub(super) async fn run() {
    assert_files();
    let (feed, reached) = working().await;
    let document = format!(
        "level: info\nrevision: one\nupstreams:\n  up: http://{}/mcp\nservers:\n  /mcp: up\n",
        feed.address()
    );
    let mut gateway = Gateway::start(&document).await;
    let (kept, fresh) = (Load::start(&gateway, KEPT), Load::fresh(&gateway, FRESH));
    further(&reached, BETWEEN).await;
    for number in 1..=ROUNDS {
        gateway = round(number, gateway, &feed, &reached).await;
    }
    let (kept, fresh) = tokio::join!(kept.stop(), fresh.stop());
    report("kept", &kept, &reached);
    report("fresh", &fresh, &reached);
    assert!(kept.closed >= KEPT * ROUNDS, "each kept connection moves at each upgrade: {}", kept.closed);
}
