//! Callers that never rest, streams that are followed, and what they saw.

use crate::harness::{Client, Feed, Gateway, Long, dial_tls, event, rpc};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_rustls::rustls::ClientConfig;

/// Open files that the shows need: two for each stream, and room.
const FILES: u64 = 8_192;

/// Fails early where the limit of this shell is too low for a show.
pub(crate) fn assert_files() {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files")).unwrap();
    let soft: u64 = line.split_whitespace().next().unwrap().parse().unwrap_or(u64::MAX);
    assert!(
        soft >= FILES,
        "this show needs {FILES} open files, the limit is {soft}: run `ulimit -n {FILES}`"
    );
}

/// What callers saw.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// Answers by request id: the revision whose header the upstream got.
    pub(crate) answers: HashMap<String, String>,
    /// Calls without an answer: request id, and how it ended.
    pub(crate) unanswered: Vec<(String, Unanswered)>,
    /// Answers that were not the right one.
    pub(crate) wrong: Vec<String>,
    /// Connections that an answer closed by `Connection: close`.
    pub(crate) closed: usize,
    /// Connections that were refused.
    pub(crate) refused: usize,
    /// When the last answer came.
    pub(crate) last: Option<Instant>,
}

/// How a call ended that was not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unanswered {
    /// It could not even be sent whole: the connection was closed before.
    Unsent,
    /// It was sent on a connection that had carried answers before.
    Kept,
    /// It was sent on a fresh connection: the listener's queue had it, and nobody took it from there.
    Queued,
}

impl Tally {
    /// Both together.
    pub(crate) fn and(mut self, other: Tally) -> Tally {
        self.answers.extend(other.answers);
        self.unanswered.extend(other.unanswered);
        self.wrong.extend(other.wrong);
        self.closed += other.closed;
        self.refused += other.refused;
        self.last = self.last.max(other.last);
        self
    }
}

/// How callers reach the gateway.
#[derive(Clone)]
pub(crate) struct Way {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    /// Under TLS, to a server of this name.
    pub(crate) tls: Option<(ClientConfig, &'static str)>,
    /// Every call on a connection of its own.
    pub(crate) fresh: bool,
}

impl Way {
    async fn connect(&self) -> std::io::Result<Client> {
        match &self.tls {
            None => Client::try_connect(self.address).await,
            Some((config, name)) => {
                Ok(Client::over(dial_tls(self.address, config, name).await?, self.address))
            }
        }
    }
}

/// One caller on one connection, which it replaces when an answer closes it; or after each answer.
struct Caller {
    way: Way,
    name: String,
    connection: Option<(Client, bool)>,
    tally: Tally,
}

impl Caller {
    /// Calls until `stop`, or until nobody takes a connection any more.
    async fn run(mut self, stop: watch::Receiver<bool>) -> Tally {
        for turn in 0.. {
            if *stop.borrow() || !self.connect().await {
                break;
            }
            self.call(&format!("{}-{turn}", self.name), turn).await;
        }
        self.tally
    }

    async fn connect(&mut self) -> bool {
        if self.connection.is_none() {
            match self.way.connect().await {
                Ok(client) => self.connection = Some((client, true)),
                Err(_) => self.tally.refused += 1,
            }
        }
        self.connection.is_some()
    }

    async fn call(&mut self, request: &str, turn: u32) {
        let Some((mut client, fresh)) = self.connection.take() else { return };
        let body = rpc(turn, "tools/call", r#"{"name":"echo","arguments":{}}"#);
        let sent = client.try_post("/mcp", &[("x-request-id", request.to_owned())], body.as_bytes()).await;
        // What was not sent whole may still have been answered, by a refusal.
        let Some(response) = client.try_response().await else {
            let how = match (sent, fresh) {
                (Err(_), _) => Unanswered::Unsent,
                (Ok(()), true) => Unanswered::Queued,
                (Ok(()), false) => Unanswered::Kept,
            };
            return self.tally.unanswered.push((request.to_owned(), how));
        };
        self.tally.last = Some(Instant::now());
        let text = String::from_utf8_lossy(&response.body).into_owned();
        let message: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
        match message["result"]["rev"].as_str().filter(|_| message["id"].as_u64() == Some(u64::from(turn))) {
            Some(revision) => drop(self.tally.answers.insert(request.to_owned(), revision.to_owned())),
            None => self.tally.wrong.push(format!("{request}: {sent:?} {} {text}", response.status)),
        }
        if response.header("connection") == Some("close") {
            self.tally.closed += 1;
        } else if !self.way.fresh {
            self.connection = Some((client, false));
        }
    }
}

/// Callers at work.
pub(crate) struct Load {
    callers: Vec<JoinHandle<Tally>>,
    stop: watch::Sender<bool>,
}

impl Load {
    /// Starts so many callers that keep their connections.
    pub(crate) fn start(gateway: &Gateway, callers: usize) -> Load {
        Load::by(&Way { address: gateway.address, tls: None, fresh: false }, callers)
    }

    /// Starts so many callers with a connection for each call.
    pub(crate) fn fresh(gateway: &Gateway, callers: usize) -> Load {
        Load::by(&Way { address: gateway.address, tls: None, fresh: true }, callers)
    }

    /// Starts so many callers that come by one way.
    pub(crate) fn by(way: &Way, callers: usize) -> Load {
        let stop = watch::Sender::new(false);
        let caller = |number| {
            let name = format!("{}{number}", if way.fresh { "f" } else { "k" });
            let caller = Caller { way: way.clone(), name, connection: None, tally: Tally::default() };
            tokio::spawn(caller.run(stop.subscribe()))
        };
        Load { callers: (0..callers).map(caller).collect(), stop }
    }

    /// Stops the callers after their running calls.
    pub(crate) async fn stop(self) -> Tally {
        self.stop.send_replace(true);
        self.end().await
    }

    /// Waits until the callers end by themselves.
    pub(crate) async fn end(self) -> Tally {
        let mut sum = Tally::default();
        for caller in self.callers {
            sum = sum.and(caller.await.unwrap());
        }
        sum
    }
}

/// One long stream that is read as it comes.
pub(crate) struct Follower {
    /// Where it was opened.
    pub(crate) path: &'static str,
    ended: JoinHandle<Instant>,
}

/// Streams, and how many events they all had together.
pub(crate) struct Followers {
    /// The streams.
    pub(crate) streams: Vec<Follower>,
    heard: Arc<AtomicUsize>,
}

impl Followers {
    /// Opens `count` streams, half of them GET, on these paths in turn, before anything was said.
    pub(crate) async fn open(gateway: &Gateway, paths: &[&'static str], count: u32) -> Followers {
        Followers::open_after(0, gateway, paths, count).await
    }

    /// Opens them when `said` events are past.
    pub(crate) async fn open_after(
        said: usize,
        gateway: &Gateway,
        paths: &[&'static str],
        count: u32,
    ) -> Followers {
        let heard = Arc::new(AtomicUsize::new(0));
        let mut streams = Vec::new();
        for (number, path) in (0..count).zip(paths.iter().cycle().copied()) {
            let kind = if number % 2 == 0 { Long::Get } else { Long::Listen(number) };
            let client = kind.open(gateway, path).await;
            streams
                .push(Follower { path, ended: tokio::spawn(follow(client, kind, said, Arc::clone(&heard))) });
        }
        Followers { streams, heard }
    }

    /// Says something on every stream and waits until all `open` have heard it.
    pub(crate) async fn hear(&self, feed: &Feed, open: usize) {
        let before = self.heard.load(Ordering::SeqCst);
        feed.say();
        crate::harness::within(20, "every stream to carry the event", async {
            let mut tick = tokio::time::interval(std::time::Duration::from_millis(5));
            while self.heard.load(Ordering::SeqCst) < before + open {
                tick.tick().await;
            }
        })
        .await;
        let heard = self.heard.load(Ordering::SeqCst) - before;
        assert_eq!(heard, open, "events on {open} streams");
    }

    /// Streams that have ended.
    pub(crate) fn ended(&self) -> usize {
        self.streams.iter().filter(|stream| stream.ended.is_finished()).count()
    }

    /// Waits for the end of all streams on `path`, and gives the time of the last.
    pub(crate) async fn end(&mut self, path: &str) -> Option<Instant> {
        let mut last = None;
        for mut stream in self.streams.extract_if(.., |stream| stream.path == path) {
            last = last.max(Some((&mut stream.ended).await.unwrap()));
        }
        last
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        // The gateway ends before these tasks would.
        self.ended.abort();
    }
}

/// Reads events in their order up to a proper end in the way of this stream.
async fn follow(mut client: Client, kind: Long, said: usize, heard: Arc<AtomicUsize>) -> Instant {
    let mut expected = said + 1;
    let mut last = String::new();
    while let Some(chunk) = client.chunk().await {
        assert_eq!(last, "", "{kind:?} went on after its end");
        if chunk == event(expected) {
            expected += 1;
            heard.fetch_add(1, Ordering::SeqCst);
        } else {
            last = chunk;
        }
    }
    let now = Instant::now();
    kind.assert_ending(&last);
    now
}
