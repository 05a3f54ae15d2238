//! Real clients over HTTP/2 through two gateways that speak it with each other, bodies of every size,
//! and floods beside callers who do not notice.

use crate::floods::{Bystander, ENDING, bomb, flood};
use crate::h2::Chain;
use crate::harness::frames::{Frames, HEADERS};
use crate::harness::{
    Authority, Gateway, Request, Runtime, Server, Upstream, Wire, dial, dial_tls, root, within,
};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

/// Scenarios that the fixture server passes, over all four revisions.
const SCENARIOS: &str = "101";
const LIMIT: usize = 4 << 20;
/// First byte of a connection under TLS.
const TLS: u8 = 0x16;
/// Frames of one flood, if its connection lasts as long.
const FRAMES: u32 = 1_000_000;
const FLOODERS: usize = 8;
const GROWTH_KIB: u64 = 64 << 10;

/// How a connection speaks.
#[derive(Clone, Copy)]
enum Spoken {
    Plain,
    One,
    Two,
}

/// Passes connections on to a gateway as they come, and counts how they speak.
///
/// Two scenarios of the suite connect without TLS whatever the URL says; those go to a listener of
/// their own.
struct Counting {
    address: SocketAddr,
    taken: Arc<[AtomicUsize; 3]>,
    accepting: JoinHandle<()>,
}

impl Counting {
    async fn before(gateway: &Gateway, authority: &Authority) -> Counting {
        let (secure, plain) = (gateway.listener("secure"), gateway.listener("plain"));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        // One scenario calls itself by another name, which the client then verifies.
        let pair = authority.issue(&["localhost", "evil.example.com"]);
        let tls = TlsAcceptor::from(Arc::new(pair.server(&["h2", "http/1.1"])));
        let clients = ["http/1.1", "h2"].map(|alpn| authority.client(&[alpn], None));
        let taken: Arc<[AtomicUsize; 3]> = Arc::default();
        let counters = Arc::clone(&taken);
        let accepting = tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                stream.set_nodelay(true).ok();
                let (tls, clients, counters) = (tls.clone(), clients.clone(), Arc::clone(&counters));
                let count = move |spoken: Spoken| counters[spoken as usize].fetch_add(1, Ordering::SeqCst);
                tokio::spawn(async move {
                    let mut first = [0];
                    if !matches!(stream.peek(&mut first).await, Ok(1)) {
                        return;
                    }
                    if first[0] != TLS {
                        count(Spoken::Plain);
                        let mut far = dial(plain).await.unwrap();
                        tokio::io::copy_bidirectional(&mut stream, &mut far).await.ok();
                        return;
                    }
                    let Ok(mut near) = tls.accept(stream).await else { return };
                    let two = near.get_ref().1.alpn_protocol() == Some(b"h2");
                    count(if two { Spoken::Two } else { Spoken::One });
                    let mut far = dial_tls(secure, &clients[usize::from(two)], "localhost").await.unwrap();
                    tokio::io::copy_bidirectional(&mut near, &mut far).await.ok();
                });
            }
        });
        Counting { address, taken, accepting }
    }

    /// Connections of each kind since the last time.
    fn taken(&self) -> [usize; 3] {
        self.taken.each_ref().map(|count| count.swap(0, Ordering::SeqCst))
    }
}

impl Drop for Counting {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// Everything between a client and a server: TLS and HTTP/2 in, HTTP/2 between two gateways, HTTP/1.1 out.
struct Hops {
    counting: Counting,
    _both: [Gateway; 2],
    ca: String,
}

impl Hops {
    async fn before(upstream: &str) -> Hops {
        let authority = Authority::new("of the hops");
        let pair = authority.issue(&["localhost"]);
        let ca = authority.pem();
        let files = [("gw.pem", pair.chain.as_str()), ("gw.key", &pair.key), ("ca.pem", &ca)];
        let document = |up: &str| {
            format!(
                "level: info\nlisteners:\n  - bind: 127.0.0.1:0\n    name: secure\n    \
                 tls: {{ certificates: {{ certificate: gw.pem, key: gw.key }} }}\n  - {{ bind: 127.0.0.1:0, name: plain }}\n\
                 upstreams:\n  up: {{ {up} }}\nservers:\n  /mcp: up\n"
            )
        };
        let back = Gateway::start_beside(&files, &document(&format!("url: {upstream}"))).await;
        let hop = format!(
            "url: https://localhost:{}/mcp, http: 2, host: preserve, tls: {{ ca: ca.pem }}",
            back.listener("secure").port()
        );
        let front = Gateway::start_beside(&files, &document(&hop)).await;
        let counting = Counting::before(&front, &authority).await;
        let ca = front.folder().join("ca.pem").to_str().unwrap().to_owned();
        Hops { counting, _both: [front, back], ca }
    }

    fn url(&self) -> String {
        format!("https://localhost:{}/mcp", self.counting.address.port())
    }

    /// Runs a program whose Node and Python children agree on HTTP/2 where they can.
    async fn run(&self, seconds: u64, program: &str, arguments: &[&str]) -> String {
        let sdk = root().join("tests/sdk");
        let preload = format!("--import={}", sdk.join("over_h2.mjs").display());
        let patches = sdk.join("over_h2").display().to_string();
        let variables = [
            ("NODE_OPTIONS", preload.as_str()),
            ("NODE_EXTRA_CA_CERTS", &self.ca),
            ("PYTHONPATH", &patches),
            ("SSL_CERT_FILE", &self.ca),
        ];
        Runtime::Python2.run_with(&variables, seconds, program, arguments).await
    }

    /// Says by which protocol the connections of `who` came, and that HTTP/2 was among them.
    fn assert_over_h2(&self, who: &str) {
        let [plain, one, two] = self.counting.taken();
        println!("{who}: {two} connections over HTTP/2, {one} over HTTP/1.1, {plain} in the clear");
        assert!(two > 0, "{who} spoke no HTTP/2");
    }
}

/// Every revision of the suite, directly over HTTP/1.1 and through three hops of HTTP/2.
async fn conformance() {
    let server = Server::start(Runtime::Node, "fixture.mjs").await;
    let direct = server.url();
    let hops = Hops::before(&direct).await;
    let through = hops.url();
    let arguments = ["--upstream", &direct, "--gateway", &through, "--require", SCENARIOS];
    let told = hops.run(900, "through.py", &arguments).await;
    println!("{told}");
    assert!(told.ends_with(&format!("\n{SCENARIOS} passed, 0 failed, 0 skipped\n")), "{told}");
    hops.assert_over_h2("the conformance suite");
}

/// Each SDK client by itself, so that its connections are counted by themselves.
async fn clients() {
    let server = Server::start(Runtime::Python2, "upstream.py").await;
    let direct = server.url();
    let hops = Hops::before(&direct).await;
    let through = hops.url();
    for name in ["py1", "py2-legacy", "py2-auto", "py2-modern", "ts1", "ts2-legacy", "ts2-auto", "ts2-modern"]
    {
        let mut arguments = vec![through.as_str(), "--direct", &direct, "--client", name];
        if matches!(name, "py2-auto" | "py2-modern") {
            // Modern clients cancel by leaving, and the HTTP library of this one leaves a stream of a
            // connection that goes on without a reset: no server can see that.
            arguments.extend(["--allow", "cancel"]);
        }
        let told = hops.run(600, "clients.py", &arguments).await;
        println!("{}", told.lines().last().unwrap_or_default());
        hops.assert_over_h2(name);
    }
}

/// A message of exactly `size` bytes, in strings below the bound of one.
fn message(head: &str, tail: &str, size: usize) -> Vec<u8> {
    let mut text = format!("{head}\"pad\":[\"");
    while text.len() + tail.len() + 900_000 < size {
        text.push_str(&"zażółć 🙂\\u00e9".repeat(40_000));
        text.push_str("\",\"");
    }
    text.push_str(&"y".repeat(size.saturating_sub(text.len() + tail.len() + 2)));
    format!("{text}\"]{tail}").into_bytes()
}

/// Bodies both ways, at and beside the edges of frames, windows and buffers.
async fn bodies() {
    let (seen, mut arrived) = mpsc::unbounded_channel();
    let upstream = Upstream::start(move |request: Request, mut wire: Wire| {
        let seen = seen.clone();
        async move {
            let body = message(r#"{"jsonrpc":"2.0","result":{"#, r#"},"id":5}"#, request.body.len());
            wire.json(std::str::from_utf8(&body).unwrap()).await;
            seen.send(request.body).unwrap();
            Some(wire)
        }
    })
    .await;
    let head = r#"{"jsonrpc":"2.0","id":5,"method":"tools/call","params":{"name":"t","arguments":{"#;
    let edges = [256, 1_024, 4_096, 16_384, 65_535, 65_536, 131_072, 262_144, 1 << 20, 2 << 20];
    let sizes: Vec<usize> = edges.into_iter().flat_map(|edge| [edge - 1, edge, edge + 1]).collect();
    for secure in [false, true] {
        let chain = Chain::before(upstream.address, secure).await;
        let empty = chain.client.post("/mcp", &[], b"").await;
        assert_eq!(empty.reason(), "parse_error", "0 B");
        for &size in sizes.iter().chain(&[LIMIT - 1, LIMIT]) {
            let sent = message(head, "}}}", size);
            let answer = chain.client.post("/mcp", &[], &sent).await;
            let came = within(5, "the body", arrived.recv()).await.unwrap();
            assert!(came == sent && came.len() == size, "{size} B, TLS {secure}");
            let back = message(r#"{"jsonrpc":"2.0","result":{"#, r#"},"id":5}"#, size);
            assert!(answer.body == back, "{size} B back, TLS {secure}");
        }
        let refused = chain.client.post("/mcp", &[], &message(head, "}}}", LIMIT + 1)).await;
        assert_eq!(refused.json()["error"]["code"], -31413);
        println!(
            "{} bodies of {} B to {LIMIT} B passed both ways byte for byte, {}; 0 B and {} B were refused",
            sizes.len() + 2,
            sizes[0],
            if secure { "under TLS" } else { "in the clear" },
            LIMIT + 1
        );
    }
}

/// Every flood from several connections at once, beside four callers.
async fn floods() {
    let upstream = Upstream::answering().await;
    let document = format!(
        "level: info\nlisteners:\n  - {{ bind: 127.0.0.1:0, http2: true }}\n\
         upstreams:\n  up: http://{}/mcp\nservers:\n  /mcp: up\n",
        upstream.address
    );
    let gateway = Arc::new(Gateway::start(&document).await);
    let mut bystanders = Vec::new();
    for _ in 0..4 {
        bystanders.push(Bystander::start(&gateway).await);
    }
    let before = gateway.resident_kib();
    let mut peak = before;
    for one in ENDING {
        let flooders: Vec<_> = (0..FLOODERS)
            .map(|_| {
                let gateway = Arc::clone(&gateway);
                tokio::spawn(async move { flood(&gateway, one, FRAMES).await })
            })
            .collect();
        let mut taken = Vec::new();
        for flooder in flooders {
            taken.push(flooder.await.unwrap().unwrap_or_else(|| panic!("{}: still open", one.0)));
        }
        let now = gateway.resident_kib();
        peak = peak.max(now);
        let most = taken.iter().max().unwrap();
        println!("  {:<36} {FLOODERS} connections ended after at most {most:>7} writes; {now} KiB", one.0);
        assert!(*most < FRAMES, "{}", one.0);
    }
    for _ in 0..100 {
        let mut frames = Frames::client(dial(gateway.address).await.unwrap()).await;
        frames.send(&bomb(&gateway.address.to_string())).await;
        within(5, "an answer to the bomb", async {
            while frames.next().await.is_some_and(|frame| frame.kind != HEADERS) {}
        })
        .await;
    }
    let after = gateway.resident_kib();
    peak = peak.max(after);
    println!("  100 header sections of 40 MB each, packed into 14 KB: {after} KiB");
    println!("resident memory: {before} KiB before, {peak} KiB at most, {after} KiB after");
    assert!(peak - before <= GROWTH_KIB, "grew by {} KiB", peak - before);
    let mut answered = Vec::new();
    for bystander in bystanders {
        answered.push(bystander.unharmed().await);
    }
    println!("calls of the four others meanwhile: {answered:?}, none failed");
}

pub(super) async fn run() {
    bodies().await;
    floods().await;
    conformance().await;
    clients().await;
}
