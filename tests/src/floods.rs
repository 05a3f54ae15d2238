//! Floods of HTTP/2 frames: the connection ends, memory stays, other connections do not notice.

use crate::harness::frames::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, Frames, HEADERS, PING, PRIORITY, RST_STREAM, SETTINGS,
    WINDOW_UPDATE, field, frame, post,
};
use crate::harness::h2::H2Client;
use crate::harness::{Gateway, Upstream, dial, rpc, within};
use tokio::task::JoinHandle;

const FRAMES: u32 = 200_000;

/// A flood: its name, and what it sends for the n-th time.
pub(crate) type Flood = (&'static str, fn(u32, &str) -> Vec<u8>);

/// Floods that must end their connection.
pub(crate) const ENDING: [Flood; 10] = [
    ("rapid reset", |n, host| {
        let stream = 2 * n + 1;
        let head = frame(HEADERS, END_HEADERS, stream, &post(Some(host)));
        [head, frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes())].concat()
    }),
    ("continuations without an end", |n, host| match n {
        0 => frame(HEADERS, 0, 1, &post(Some(host))),
        _ => frame(CONTINUATION, 0, 1, &field("x-a", &"b".repeat(100))),
    }),
    ("empty continuations", |n, host| match n {
        0 => frame(HEADERS, 0, 1, &post(Some(host))),
        _ => frame(CONTINUATION, 0, 1, &[]),
    }),
    ("settings", |_, _| frame(SETTINGS, 0, 0, &[])),
    ("pings", |_, _| frame(PING, 0, 0, &[7; 8])),
    ("priorities", |n, _| frame(PRIORITY, 0, 2 * n + 1, &[0; 5])),
    ("empty data", |n, host| match n {
        0 => frame(HEADERS, END_HEADERS, 1, &post(Some(host))),
        _ => frame(DATA, 0, 1, &[]),
    }),
    ("window updates", |_, _| frame(WINDOW_UPDATE, 0, 0, &1_u32.to_be_bytes())),
    ("malformed requests", |n, _| frame(HEADERS, END_HEADERS | END_STREAM, 2 * n + 1, &post(None))),
    ("requests with an upper-case field", |n, host| {
        let block = [post(Some(host)), field("X-Bad", "1")].concat();
        frame(HEADERS, END_HEADERS | END_STREAM, 2 * n + 1, &block)
    }),
];

/// One request of a few bytes whose header section is 40 MB when it is unpacked (RFC 7541 §6.1).
pub(crate) fn bomb(host: &str) -> Vec<u8> {
    let value = "v".repeat(4_000);
    // A literal that enters the table, with a length of two bytes and more (§5.1).
    let entry = [&[0x40, 1, b'x', 0x7f, 0xa1, 0x1e][..], value.as_bytes()].concat();
    let block = [post(Some(host)), entry, vec![0xbe; 10_000]].concat();
    frame(HEADERS, END_HEADERS | END_STREAM, 1, &block)
}

/// A caller on a connection of its own who never rests; how many calls were answered.
pub(crate) struct Bystander {
    stop: tokio::sync::watch::Sender<bool>,
    calling: JoinHandle<usize>,
}

impl Bystander {
    /// Connects and begins.
    pub(crate) async fn start(gateway: &Gateway) -> Bystander {
        let client = H2Client::over(dial(gateway.address).await.unwrap(), gateway.address).await;
        let stop = tokio::sync::watch::Sender::new(false);
        let told = stop.subscribe();
        let calling = tokio::spawn(async move {
            let mut answered = 0;
            while !*told.borrow() {
                let call = rpc(5, "tools/call", r#"{"name":"echo"}"#);
                assert_eq!(client.post("/mcp", &[], call.as_bytes()).await.status, 200);
                answered += 1;
            }
            answered
        });
        Bystander { stop, calling }
    }

    /// Stops it; how many calls were answered, which is all of them.
    pub(crate) async fn unharmed(self) -> usize {
        self.stop.send_replace(true);
        within(20, "the bystander", self.calling).await.expect("every call was answered")
    }
}

/// Sends a flood until its connection ends; how many frames were taken.
pub(crate) async fn flood(gateway: &Gateway, flood: Flood, most: u32) -> Option<u32> {
    let (_, next) = flood;
    let host = gateway.address.to_string();
    let socket = dial(gateway.address).await.unwrap();
    let (mut reading, writing) = socket.into_split();
    // Answers are read, so that the gateway never waits for that.
    let draining = tokio::spawn(async move {
        let mut sink = vec![0; 64 << 10];
        while tokio::io::AsyncReadExt::read(&mut reading, &mut sink).await.is_ok_and(|read| read > 0) {}
    });
    let mut frames = Frames::client(tokio::io::join(tokio::io::empty(), writing)).await;
    let mut sent = 0;
    while sent < most && !draining.is_finished() && frames.send(&next(sent, &host)).await {
        sent += 1;
    }
    // The end may still be on its way.
    tokio::time::timeout(std::time::Duration::from_secs(5), draining).await.ok()?.ok()?;
    Some(sent)
}

#[tokio::test]
async fn a_flood_ends_its_connection_and_nothing_else() {
    let upstream = Upstream::answering().await;
    let document = format!(
        "level: info\nlisteners:\n  - {{ bind: 127.0.0.1:0, http2: true }}\n\
         upstreams:\n  up: http://{}/mcp\nservers:\n  /mcp: up\n",
        upstream.address
    );
    let gateway = Gateway::start(&document).await;
    let bystander = Bystander::start(&gateway).await;
    let before = gateway.resident_kib();
    for one in ENDING {
        let ended = flood(&gateway, one, FRAMES).await;
        assert!(ended.is_some_and(|sent| sent < FRAMES), "{}: {ended:?}", one.0);
    }
    for _ in 0..20 {
        let mut frames = Frames::client(dial(gateway.address).await.unwrap()).await;
        frames.send(&bomb(&gateway.address.to_string())).await;
        // Answered by 431 or by the end of the connection.
        within(5, "an answer to the bomb", async {
            while frames.next().await.is_some_and(|frame| frame.kind != HEADERS) {}
        })
        .await;
    }
    let grown = gateway.resident_kib().saturating_sub(before);
    assert!(grown < 32 << 10, "floods grew memory by {grown} KiB");
    assert!(bystander.unharmed().await > 0);
}
