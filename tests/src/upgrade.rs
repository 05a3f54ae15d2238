//! A process that is succeeded by another: what the callers see, and what becomes of attempts that fail.

use crate::harness::{Client, Feed, Gateway, Long, Request, Upstream, Wire, rpc, run, within};
use crate::prove::load::Load;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;
use tokio::sync::watch;

/// An upstream whose calls are counted, and answered when `release` says so.
struct Counted {
    feed: Feed,
    calls: Arc<AtomicUsize>,
    release: watch::Sender<bool>,
}

impl Counted {
    async fn start() -> Counted {
        let (calls, release) = (Arc::new(AtomicUsize::new(0)), watch::Sender::new(true));
        let (counter, gate) = (Arc::clone(&calls), release.clone());
        let feed = Feed::start(move |request: Request, mut wire: Wire| {
            let mut gate = gate.subscribe();
            counter.fetch_add(1, SeqCst);
            async move {
                gate.wait_for(|open| *open).await.ok();
                wire.json(&format!(r#"{{"jsonrpc":"2.0","id":{},"result":{{"rev":"one"}}}}"#, request.id()))
                    .await;
                Some(wire)
            }
        })
        .await;
        Counted { feed, calls, release }
    }

    fn document(&self, more: &str) -> String {
        let address = self.feed.address();
        format!("level: info\n{more}upstreams:\n  up: http://{address}/mcp\nservers:\n  /mcp: up\n")
    }

    async fn gateway(&self) -> Gateway {
        Gateway::start(&self.document("")).await
    }

    /// Waits until so many further calls have come.
    async fn further(&self, calls: usize) {
        let until = self.calls.load(SeqCst) + calls;
        within(20, "calls at the upstream", async {
            let mut tick = tokio::time::interval(Duration::from_millis(5));
            while self.calls.load(SeqCst) < until {
                tick.tick().await;
            }
        })
        .await;
    }
}

/// One call: its status, and whether its answer closes the connection.
async fn call(client: &mut Client) -> (u16, bool) {
    client.post("/mcp", &[], rpc(5, "tools/call", r#"{"name":"a"}"#).as_bytes()).await;
    let response = client.response().await;
    assert_eq!(response.json()["id"].as_u64(), Some(5));
    (response.status, response.header("connection") == Some("close"))
}

async fn assert_serves(gateway: &Gateway) {
    assert_eq!(call(&mut gateway.connect().await).await, (200, false));
}

async fn assert_ends_in_order(gateway: &mut Gateway) {
    assert_eq!(gateway.ended().await.code(), Some(0), "{}", gateway.log_text());
}

/// Waits until an attempt to upgrade is over and has changed nothing.
async fn goes_on(gateway: &Gateway, why: &str) {
    let failed = |entry: &serde_json::Value| {
        entry["message"] == "the upgrade failed, this process goes on"
            && entry["error"].as_str().is_some_and(|error| error.contains(why))
    };
    gateway.logged("the end of the attempt", failed).await;
    assert_serves(gateway).await;
    assert_eq!(gateway.status().await["phase"], "serving");
}

fn control(gateway: &Gateway, request: &str) -> (UnixStream, String) {
    let mut stream = UnixStream::connect(gateway.folder().join("state/control.sock")).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let answer = read_until(&mut stream, "\r\n\r\n");
    (stream, answer)
}

/// Reads up to `end`, or to the end of the stream; sockets that come along are closed.
fn read_until(stream: &mut UnixStream, end: &str) -> String {
    let (mut text, mut byte) = (String::new(), [0]);
    while !text.ends_with(end) && stream.read(&mut byte).unwrap() > 0 {
        text.push(char::from(byte[0]));
    }
    text
}

/// Asks for the sockets as a successor does, and has been given them.
fn pretend(gateway: &Gateway) -> UnixStream {
    let (mut stream, head) = control(gateway, &ask("portunus-handover/1"));
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    for surface in ["mcp", "telemetry", "admin"] {
        let line = read_until(&mut stream, "\n");
        assert!(line.contains(&format!(r#""surface":"{surface}""#)), "{line}");
    }
    assert!(read_until(&mut stream, "\n").starts_with(r#"{"all":"#));
    stream
}

fn ask(protocol: &str) -> String {
    format!("POST /upgrade HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: {protocol}\r\n\r\n")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_upgrades_in_a_row_lose_no_call_and_refuse_no_connection() {
    let upstream = Counted::start().await;
    let mut first = upstream.gateway().await;
    let (kept, fresh) = (Load::start(&first, 4), Load::fresh(&first, 4));
    upstream.further(100).await;
    let mut second = first.succeed().await;
    assert_eq!(
        (second.address, second.telemetry, second.admin),
        (first.address, first.telemetry, first.admin)
    );
    upstream.further(100).await;
    let mut third = second.succeed().await;
    upstream.further(100).await;
    for old in [&mut first, &mut second] {
        assert_ends_in_order(old).await;
    }
    upstream.further(100).await;
    let tally = kept.stop().await.and(fresh.stop().await);
    assert_eq!((tally.refused, &tally.unanswered, &tally.wrong), (0, &vec![], &vec![]));
    // Each kept connection was ended in order by an answer that said so; the second upgrade came before
    // the first was over, so it may have moved only once.
    assert!(tally.closed >= 4, "{}", tally.closed);
    third.signal("TERM");
    assert_ends_in_order(&mut third).await;
    assert!(!third.folder().join("state/control.sock").exists());
}

#[tokio::test]
async fn what_runs_in_the_old_process_ends_as_in_a_drain() {
    let upstream = Counted::start().await;
    upstream.release.send_replace(false);
    let mut old = upstream.gateway().await;
    let mut streams = Vec::new();
    for kind in [Long::Get, Long::Listen(7)] {
        streams.push((kind, kind.open(&old, "/mcp").await));
    }
    let mut running = old.connect().await;
    running.post("/mcp", &[], rpc(5, "tools/call", r#"{"name":"a"}"#).as_bytes()).await;
    upstream.further(1).await;
    let new = old.succeed().await;
    for (kind, stream) in &mut streams {
        kind.assert_ending(&within(2, "the end of a stream", stream.rest()).await);
        kind.open(&new, "/mcp").await;
    }
    upstream.release.send_replace(true);
    let response = running.response().await;
    assert_eq!((response.status, response.header("connection")), (200, Some("close")));
    assert_ends_in_order(&mut old).await;
    assert_serves(&new).await;
}

#[tokio::test]
async fn an_idle_connection_is_still_served_by_the_old_process() {
    let upstream = Counted::start().await;
    let mut old = Gateway::start(&upstream.document("").replace("level: info", "level: debug")).await;
    let (mut early, mut late) = (old.connect().await, old.connect().await);
    assert_eq!(call(&mut early).await, (200, false));
    let _new = old.succeed().await;
    let ending = "ending streams, and connections that are idle";
    old.logged("the end of idle connections", |entry| entry["message"] == ending).await;
    // An equal process without a successor drains from beginning to end meanwhile.
    let mut twin = upstream.gateway().await;
    let mut closed = twin.connect().await;
    twin.signal("TERM");
    assert_ends_in_order(&mut twin).await;
    assert_eq!(closed.until_closed().await, "");
    for client in [&mut early, &mut late] {
        assert_eq!(call(client).await, (200, true));
        assert_eq!(client.until_closed().await, "");
    }
    assert_ends_in_order(&mut old).await;
}

#[tokio::test]
async fn the_operating_surfaces_and_the_control_socket_are_the_successors() {
    let upstream = Counted::start().await;
    let old = upstream.gateway().await;
    let mut prober = Client::connect(old.telemetry).await;
    let probe = b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n";
    prober.send(probe).await;
    assert_eq!(prober.response().await.status, 200);
    upstream.release.send_replace(false);
    let mut running = old.connect().await;
    running.post("/mcp", &[], rpc(5, "tools/call", r#"{"name":"a"}"#).as_bytes()).await;
    upstream.further(1).await;
    let new = old.succeed().await;
    old.logged("the start of the drain", |entry| entry["message"] == "draining").await;
    // The prober's connection leads to the old process, its question is about the address.
    prober.send(probe).await;
    assert_eq!(prober.response().await.status, 200);
    for _ in 0..20 {
        assert_eq!(old.status().await["phase"], "serving");
    }
    let (_, answer) = control(&new, "POST /loglevel?debug HTTP/1.1\r\nHost: x\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    new.logged("the new level", |entry| entry["message"] == "log level changed").await;
    assert!(!new.folder().join("state/control.sock.next").exists());
}

#[tokio::test]
async fn sockets_are_matched_with_what_the_new_configuration_says() {
    let upstream = Counted::start().await;
    let listeners = |text: &str| upstream.document(&format!("listeners:\n{text}"));
    let fixed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let document =
        listeners(&format!("  - {{ name: one, bind: 127.0.0.1:0 }}\n  - {{ name: two, bind: {fixed} }}\n"));
    let mut old = Gateway::start(&document).await;
    // `one` goes, `three` comes, and what `two` has is named `four` now.
    old.configure(&listeners(&format!(
        "  - {{ name: three, bind: 127.0.0.1:0 }}\n  - {{ name: four, bind: {fixed} }}\n"
    )));
    let new = old.succeed().await;
    assert_ends_in_order(&mut old).await;
    assert_ne!(new.address, old.address);
    assert!(Client::try_connect(old.address).await.is_err(), "a listener that is gone");
    assert_serves(&new).await;
    assert_eq!(call(&mut Client::connect(fixed).await).await, (200, false));
}

#[tokio::test]
async fn a_successor_that_cannot_start_changes_nothing() {
    let upstream = Counted::start().await;
    let gateway = upstream.gateway().await;
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let cases = [
        ("a configuration that is wrong", "listne: x\n".to_owned(), 78, "did you mean `listen`"),
        (
            "an address that is taken",
            format!("listeners:\n  - {{ name: a, bind: {address} }}\n"),
            1,
            "is another process using it?",
        ),
    ];
    for (case, document, code, problem) in cases {
        gateway.configure(&upstream.document(&document));
        for command in [&["upgrade", "--config", "gateway.yaml"][..], &["run", "--upgrade"]] {
            let output = gateway.command(command).await;
            let text = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(code), "{case}: {text}");
            assert!(text.contains(problem), "{case}: {text}");
            assert_serves(&gateway).await;
        }
    }
    goes_on(&gateway, "the successor ended before it served").await;
    gateway.configure(&upstream.document(""));
    assert_serves(&gateway.succeed().await).await;
}

#[tokio::test]
async fn a_successor_that_ends_early_or_says_nonsense_changes_nothing() {
    let upstream = Counted::start().await;
    let mut gateway = upstream.gateway().await;
    drop(pretend(&gateway));
    goes_on(&gateway, "the successor ended before it served").await;

    let mut stream = pretend(&gateway);
    stream.write_all(b"{\"ready\":\"no numbers\"}\n").unwrap();
    assert!(read_until(&mut stream, "\n").starts_with(r#"{"refused":"#));
    goes_on(&gateway, "invalid type").await;

    let mut stream = pretend(&gateway);
    stream.write_all(&[b'x'; 128 * 1024]).ok();
    goes_on(&gateway, "a line is too long").await;

    for garbage in ["\0\u{1}\u{2}\r\n\r\n", "GET /upgrade HTTP/1.1\r\nHost: x\r\n\r\n", "x"] {
        let mut stream = UnixStream::connect(gateway.folder().join("state/control.sock")).unwrap();
        stream.write_all(garbage.as_bytes()).unwrap();
    }
    let new = gateway.succeed().await;
    assert_ends_in_order(&mut gateway).await;
    assert_serves(&new).await;
}

#[tokio::test]
async fn a_refused_successor_is_told_why() {
    let upstream = Counted::start().await;
    let mut gateway = upstream.gateway().await;
    let (_, answer) = control(&gateway, &ask("portunus-handover/0"));
    assert!(answer.starts_with("HTTP/1.1 426 "), "{answer}");

    let talking = pretend(&gateway);
    let refused = |output: std::process::Output| {
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{text}");
        text
    };
    let text = refused(gateway.command(&["run", "--upgrade"]).await);
    assert!(text.contains("another upgrade is under way"), "{text}");
    drop(talking);
    goes_on(&gateway, "the successor ended before it served").await;

    upstream.release.send_replace(false);
    let mut running = gateway.connect().await;
    running.post("/mcp", &[], rpc(5, "tools/call", r#"{"name":"a"}"#).as_bytes()).await;
    upstream.further(1).await;
    gateway.signal("TERM");
    gateway.logged("the start of the drain", |entry| entry["message"] == "draining").await;
    let text = refused(gateway.command(&["run", "--upgrade"]).await);
    assert!(text.contains("this process ends already"), "{text}");
    upstream.release.send_replace(true);
    assert_eq!(running.response().await.status, 200);
    assert_ends_in_order(&mut gateway).await;

    let text = refused(gateway.command(&["run", "--upgrade"]).await);
    assert!(text.contains("no process answers on") && text.contains("start without --upgrade"), "{text}");
}

#[tokio::test]
async fn an_end_during_the_talk_is_told_to_the_successor() {
    let upstream = Counted::start().await;
    let mut gateway = upstream.gateway().await;
    let mut stream = pretend(&gateway);
    gateway.signal("TERM");
    assert_eq!(read_until(&mut stream, "\n"), "{\"refused\":\"the running process ends\"}\n");
    assert_ends_in_order(&mut gateway).await;
}

#[tokio::test]
async fn the_command_returns_when_the_successor_serves() {
    let upstream = Counted::start().await;
    let mut old = upstream.gateway().await;
    let output = old.command(&["upgrade"]).await;
    let successor = Drained(&mut old);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(0), "{text} {}", String::from_utf8_lossy(&output.stderr));
    assert!(text.starts_with("process ") && text.contains(" serves"), "{text}");
    assert_eq!(successor.0.ended().await.code(), Some(0), "{}", successor.0.log_text());
    assert_serves(successor.0).await;
}

/// A successor that this test did not start itself, and ends by its control socket.
struct Drained<'a>(&'a mut Gateway);

impl Drop for Drained<'_> {
    fn drop(&mut self) {
        let (_, answer) = control(self.0, "POST /drain HTTP/1.1\r\nHost: x\r\n\r\n");
        assert!(answer.starts_with("HTTP/1.1 202"), "{answer}");
    }
}

/// What a supervisor hears.
struct Supervisor(UnixDatagram);

impl Supervisor {
    fn heard(&self) -> String {
        let mut buffer = [0; 512];
        let length = self.0.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    }

    /// The next that is no sign of life.
    fn told(&self) -> String {
        loop {
            let heard = self.heard();
            if heard != "WATCHDOG=1\n" {
                return heard;
            }
        }
    }
}

#[tokio::test]
async fn a_supervisor_hears_of_each_step() {
    let upstream = Counted::start().await;
    let mut socket = None;
    let mut old = Gateway::start_as(&upstream.document(""), |folder: &Path| {
        let path = folder.join("notify");
        let bound = UnixDatagram::bind(&path).unwrap();
        bound.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        socket = Some(bound);
        let mut command = run();
        command.env("NOTIFY_SOCKET", path).env("WATCHDOG_USEC", "20000000");
        command
    })
    .await;
    let supervisor = Supervisor(socket.unwrap());
    assert_eq!(supervisor.told(), "READY=1\nSTATUS=serving\n");
    drop(pretend(&old));
    assert!(supervisor.told().starts_with("RELOADING=1\nMONOTONIC_USEC="));
    assert_eq!(supervisor.told(), format!("MAINPID={}\n", old.pid()));
    assert_eq!(supervisor.told(), "READY=1\nSTATUS=serving after an upgrade that failed\n");

    // The successor learns of the supervisor from the old process, its own environment has none.
    let mut new = old.succeed().await;
    assert!(supervisor.told().starts_with("RELOADING=1\n"));
    assert_eq!(supervisor.told(), format!("MAINPID={}\n", new.pid()));
    assert_eq!(supervisor.told(), "READY=1\nSTATUS=serving\n");
    assert_ends_in_order(&mut old).await;
    new.signal("TERM");
    assert_eq!(supervisor.told(), "STOPPING=1\nSTATUS=draining\n");
    assert_ends_in_order(&mut new).await;
}

/// The gateway as systemd starts it with this socket.
fn activated(socket: &TcpListener, name: &str) -> Command {
    let mut command = Command::new("sh");
    // The number of the process is not known before it runs, and `exec` keeps it.
    command.args(["-c", r#"LISTEN_PID=$$ exec "$0" "$@" 3<&0 0</dev/null"#]);
    command.arg(crate::harness::binary()).args(["run", "--config", "gateway.yaml"]);
    command.env("LISTEN_FDS", "1").env("LISTEN_FDNAMES", name);
    command.stdin(Stdio::from(OwnedFd::from(socket.try_clone().unwrap()))).stdout(Stdio::null());
    command
}

#[tokio::test]
async fn with_socket_activation_callers_wait_while_nothing_runs() {
    let upstream = Upstream::answering().await;
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let document = format!(
        "listen: {address}\nupstreams:\n  up: http://{}/mcp\nservers:\n  /mcp: up\n",
        upstream.address
    );
    // Connected, and asked, before there is anybody.
    let mut early = Client::connect(address).await;
    early.post("/mcp", &[], rpc(5, "tools/call", r#"{"name":"a"}"#).as_bytes()).await;
    let mut first = Gateway::start_as(&document, |_| activated(&socket, "main")).await;
    assert_eq!(first.address, address);
    assert_eq!(early.response().await.status, 200);
    drop(early);

    // A successor has it from the first process, and must not close it for systemd either.
    let mut second = first.succeed().await;
    assert_ends_in_order(&mut first).await;
    assert_serves(&second).await;
    second.signal("TERM");
    assert_ends_in_order(&mut second).await;
    let mut between = Client::connect(address).await;
    between.post("/mcp", &[], rpc(5, "tools/call", r#"{"name":"a"}"#).as_bytes()).await;
    let third = Gateway::start_as(&document, |_| activated(&socket, "main")).await;
    assert_eq!(between.response().await.status, 200);
    assert_serves(&third).await;
}

#[tokio::test]
async fn a_passed_socket_without_a_listener_is_an_error() {
    let upstream = Counted::start().await;
    let gateway = upstream.gateway().await;
    let stray = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut command = activated(&stray, "stray");
    // A place of its own: the other gateway only lends its configuration.
    let state = gateway.folder().join("elsewhere");
    let document = format!(
        "version: 1\nlisten: 127.0.0.1:0\nstate: {}\nupstreams:\n  up: http://127.0.0.1:1/mcp\nservers:\n  /mcp: up\n",
        state.display()
    );
    std::fs::create_dir_all(&state).unwrap();
    std::fs::write(state.join("gateway.yaml"), document).unwrap();
    let output = command.current_dir(&state).stderr(Stdio::piped()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("(`stray`), and no listener of the configuration has that address"), "{text}");
}
