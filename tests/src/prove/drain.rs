//! SIGTERM under load, with streams open.

use super::load::{Followers, Load, Unanswered, assert_files};
use crate::harness::{Feed, Gateway, Request, Wire, within};
use std::collections::HashSet;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const STREAMS: u32 = 100;
const CALLERS: usize = 32;
const ROUNDS: usize = 5;
/// How long the upstream works on a call; about every tenth takes ten times as long.
const WORK: Duration = Duration::from_millis(20);

/// What the upstream knows of the calls.
#[derive(Default)]
struct Work {
    /// Requests that reached it.
    reached: Mutex<HashSet<String>>,
    /// Calls that it works on, and those of them that take long.
    running: AtomicUsize,
    long: AtomicUsize,
}

/// An upstream that takes its time and remembers which requests reached it.
async fn working() -> (Feed, Arc<Work>) {
    let work: Arc<Work> = Arc::default();
    let shared = Arc::clone(&work);
    let feed = Feed::start(move |request: Request, mut wire: Wire| {
        let work = Arc::clone(&shared);
        async move {
            let name = request.header("x-request-id").unwrap().to_owned();
            // Spread over callers and turns, so that some are long whenever the signal comes.
            let long = name.bytes().map(usize::from).sum::<usize>() % 10 == 0;
            work.reached.lock().unwrap().insert(name);
            work.running.fetch_add(1, SeqCst);
            work.long.fetch_add(usize::from(long), SeqCst);
            tokio::time::sleep(if long { WORK * 10 } else { WORK }).await;
            work.running.fetch_sub(1, SeqCst);
            work.long.fetch_sub(usize::from(long), SeqCst);
            wire.json(&format!(r#"{{"jsonrpc":"2.0","id":{},"result":{{"rev":"one"}}}}"#, request.id()))
                .await;
            Some(wire)
        }
    })
    .await;
    (feed, work)
}

async fn round(number: usize) {
    let (feed, work) = working().await;
    let document = format!(
        "level: info\nrevision: one\nupstreams:\n  up: http://{}/mcp\nservers:\n  /mcp: up\n",
        feed.address()
    );
    let mut gateway = Gateway::start(&document).await;
    let mut followers = Followers::open(&gateway, &["/mcp"], STREAMS).await;
    followers.hear(&feed, followers.streams.len()).await;
    let load = Load::start(&gateway, CALLERS);
    within(20, "the load to run", async {
        let mut tick = tokio::time::interval(Duration::from_millis(5));
        while work.reached.lock().unwrap().len() < 1_000 || work.long.load(SeqCst) == 0 {
            tick.tick().await;
        }
    })
    .await;
    let (running, long) = (work.running.load(SeqCst), work.long.load(SeqCst));
    let start = Instant::now();
    gateway.signal("TERM");
    let (tally, streams, (status, exited)) =
        tokio::join!(load.end(), followers.end("/mcp"), async { (gateway.ended().await, Instant::now()) });
    let reached = work.reached.lock().unwrap();
    let of = |how| tally.unanswered.iter().filter(|one| one.1 == how).count();
    let worked = tally.unanswered.iter().filter(|(name, _)| reached.contains(name)).count();
    let last = tally.last.unwrap();
    let after = exited.saturating_duration_since(last);
    println!(
        "round {number}: SIGTERM with {running} calls at the upstream ({long} of them long) and {STREAMS} streams\n  \
         {} calls answered, {} wrongly; {worked} lost that were worked on\n  \
         unanswered: {} on a kept connection, {} queued and never taken, {} not sent; {} connects refused\n  \
         {} connections told to close; streams ended after {:.0?}, last answer after {:.0?}, exit {after:.0?} later",
        tally.answers.len(),
        tally.wrong.len(),
        of(Unanswered::Kept),
        of(Unanswered::Queued),
        of(Unanswered::Unsent),
        tally.refused,
        tally.closed,
        streams.unwrap().duration_since(start),
        last.saturating_duration_since(start),
    );
    assert!(running > 0 && long > 0, "nothing was at stake");
    assert!(tally.wrong.is_empty(), "{:?}", tally.wrong);
    // A request that was sent after the close may be repeated; one that was sent before it is lost.
    assert_eq!((worked, of(Unanswered::Kept), of(Unanswered::Queued)), (0, 0, 0), "{:?}", tally.unanswered);
    assert_eq!(status.code(), Some(0), "{}", gateway.log_text());
    assert!(after <= Duration::from_secs(1), "exit {after:?} after the last answer");
}

pub(super) async fn run() {
    assert_files();
    for number in 1..=ROUNDS {
        round(number).await;
    }
}
