//! A process that is succeeded by another: what the callers see, and what becomes of attempts that fail.

mod supervised;

use crate::harness::{Client, Feed, Gateway, Long, Request, Wire, rpc, run, within};
use crate::prove::load::Load;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
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

    async fn verbose_gateway(&self) -> Gateway {
        Gateway::start(&self.document("").replace("level: info", "level: debug")).await
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

/// Waits until the old process, which logs at `debug`, lets nothing idle run on.
async fn ending(old: &Gateway) {
    let ending = "ending streams, and connections that are idle";
    old.logged("the end of what is idle", |entry| entry["message"] == ending).await;
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
    let (mut stream, head) = control(gateway, &ask("portunus-handover/2"));
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    for output in ["stdout", "stderr"] {
        assert_eq!(read_until(&mut stream, "\n"), format!("{{\"output\":\"{output}\"}}\n"));
    }
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
    let mut old = upstream.verbose_gateway().await;
    let (mut early, mut late) = (old.connect().await, old.connect().await);
    assert_eq!(call(&mut early).await, (200, false));
    let _new = old.succeed().await;
    ending(&old).await;
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
async fn a_stream_on_a_connection_of_the_old_process_begins_before_it_ends() {
    let upstream = Counted::start().await;
    let mut old = upstream.gateway().await;
    let mut client = old.connect().await;
    assert_eq!(call(&mut client).await, (200, false));
    let _new = old.succeed().await;
    old.logged("the start of the drain", |entry| entry["message"] == "draining").await;
    client.open_stream("/mcp", &[("mcp-session-id", "s-1".to_owned())]).await;
    assert_eq!(client.response_head().await.status, 200);
    Long::Get.assert_ending(&within(5, "the end of the stream", client.rest()).await);
    assert_ends_in_order(&mut old).await;
}

#[tokio::test]
async fn the_operating_surfaces_and_the_control_socket_are_the_successors() {
    let upstream = Counted::start().await;
    let old = upstream.verbose_gateway().await;
    let mut prober = Client::connect(old.telemetry).await;
    let probe = b"GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n";
    prober.send(probe).await;
    assert_eq!(prober.response().await.status, 200);
    upstream.release.send_replace(false);
    let mut running = old.connect().await;
    running.post("/mcp", &[], rpc(5, "tools/call", r#"{"name":"a"}"#).as_bytes()).await;
    upstream.further(1).await;
    let new = old.succeed().await;
    ending(&old).await;
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
async fn a_successor_of_another_user_is_refused() {
    const NOBODY: u32 = 65_534;
    let upstream = Counted::start().await;
    let gateway = upstream.gateway().await;
    let folder = gateway.folder();
    if std::fs::metadata(folder).unwrap().uid() != 0 {
        println!("skipped: only root can be somebody else");
        return;
    }
    // Even where the file system would let it in.
    let (own, state) = (folder.join("portunus"), folder.join("state"));
    std::fs::copy(crate::harness::binary(), &own).unwrap();
    for (path, mode) in [(&state, 0o755), (&state.join("control.sock"), 0o666)] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }
    let document = format!(
        "version: 1\nlisten: 127.0.0.1:0\nstate: {}\naccess_log: off\nupstreams:\n  up: http://127.0.0.1:1/mcp\nservers:\n  /mcp: up\n",
        state.display()
    );
    std::fs::write(folder.join("other.yaml"), document).unwrap();
    let mut command = Command::new(own);
    command.args(["run", "--upgrade", "--config", "other.yaml"]).current_dir(folder).uid(NOBODY).gid(NOBODY);
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("the running process belongs to user 0, this one to 65534"), "{text}");
    assert_serves(&gateway).await;
    assert!(!gateway.log_text().contains("handing"), "{}", gateway.log_text());
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

/// Answers one successor as an old process without sockets does, and with `last` when it is ready.
fn old_process_in(folder: &Path, last: &'static str) -> std::thread::JoinHandle<()> {
    std::fs::create_dir_all(folder.join("state")).unwrap();
    let listener = UnixListener::bind(folder.join("state/control.sock")).unwrap();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        assert!(read_until(&mut stream, "\r\n\r\n").starts_with("POST /upgrade HTTP/1.1\r\n"));
        stream.write_all(b"HTTP/1.1 101 Switching Protocols\r\n\r\n").unwrap();
        let facts = r#"{"all":{"version":"0.0.0","notify":null,"watchdog_usec":null}}"#;
        stream.write_all(format!("{facts}\n").as_bytes()).unwrap();
        assert_eq!(read_until(&mut stream, "\n"), "{\"ready\":[]}\n");
        stream.write_all(last.as_bytes()).unwrap();
    })
}

#[tokio::test]
async fn an_old_process_that_dies_at_the_last_word_is_succeeded_all_the_same() {
    let upstream = Counted::start().await;
    let mut old = None;
    let new = Gateway::start_as(&upstream.document(""), |folder| {
        old = Some(old_process_in(folder, ""));
        let mut command = run();
        command.arg("--upgrade");
        command
    })
    .await;
    old.unwrap().join().unwrap();
    let died = "the old process died while it was succeeded";
    new.logged("what became of it", |entry| entry["message"] == died).await;
    assert_serves(&new).await;
    let (_, answer) = control(&new, "POST /reload HTTP/1.1\r\nHost: x\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 202"), "{answer}");
}

#[tokio::test]
async fn a_successor_that_is_refused_at_the_last_word_ends() {
    let upstream = Counted::start().await;
    let lender = upstream.gateway().await;
    let folder = lender.folder().join("elsewhere");
    let old = old_process_in(&folder, "{\"refused\":\"second thoughts\"}\n");
    let text = std::fs::read_to_string(lender.folder().join("gateway.yaml")).unwrap();
    let state = lender.folder().join("state");
    let text = text.replace(&*state.to_string_lossy(), &folder.join("state").to_string_lossy());
    std::fs::write(folder.join("gateway.yaml"), text).unwrap();
    let output = lender.command(&["upgrade", "--config", "elsewhere/gateway.yaml"]).await;
    old.join().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("does not hand over, and goes on: second thoughts"), "{text}");
    // The path is the old process's, and what was made beside it is gone.
    assert!(folder.join("state/control.sock").exists() && !folder.join("state/control.sock.next").exists());
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
    assert_eq!(successor.0.exited().await.code(), Some(0), "{}", successor.0.log_text());
    assert_serves(successor.0).await;
}

#[tokio::test]
async fn a_successor_writes_where_the_old_process_did() {
    let upstream = Counted::start().await;
    let mut old = Gateway::start_as(&upstream.document(""), |folder| {
        let mut command = run();
        command.stdout(std::fs::File::create(folder.join("old-stdout")).unwrap());
        command
    })
    .await;
    let output = old.command(&["upgrade"]).await;
    let successor = Drained(&mut old);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let pid = said.strip_prefix("process ").and_then(|rest| rest.split(' ').next());
    let pid: u32 = pid.and_then(|pid| pid.parse().ok()).unwrap_or_else(|| panic!("{said}"));
    let stdout = std::fs::read_link(format!("/proc/{pid}/fd/1")).unwrap();
    assert_eq!(stdout.file_name().unwrap(), "old-stdout", "{}", stdout.display());
    assert_eq!(successor.0.exited().await.code(), Some(0), "{}", successor.0.log_text());
    // The second `ready` in the log of the old process is the successor's.
    let readies = successor.0.logged_so_far(|entry| entry["message"] == "ready");
    assert_eq!(readies.len(), 2, "{}", successor.0.log_text());
    assert!(!String::from_utf8_lossy(&output.stderr).contains("ready"));
}

/// A successor that this test did not start itself, and ends by its control socket.
struct Drained<'a>(&'a mut Gateway);

impl Drop for Drained<'_> {
    fn drop(&mut self) {
        let (_, answer) = control(self.0, "POST /drain HTTP/1.1\r\nHost: x\r\n\r\n");
        assert!(answer.starts_with("HTTP/1.1 202"), "{answer}");
    }
}
