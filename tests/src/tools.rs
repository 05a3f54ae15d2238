//! The commands of the first hour: what they say, what they write, and that it works.

use crate::harness::{
    Client, Demo, Gateway, Request, Runtime, Upstream, Wire, modern_call, modern_headers, rpc,
};
use crate::harness::{binary, within};
use serde_json::Value;
use std::fs;
use std::path::PathBuf;
use std::process::{Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use tokio::process::Command;
use tokio::sync::mpsc;

const TOKEN: &str = "hunter2-token";

/// Runs a command to its end, in `folder` or where the test runs.
async fn run_in(folder: Option<&PathBuf>, arguments: &[&str]) -> Output {
    let mut command = Command::new(binary());
    command.args(arguments).env("PORTUNUS_TEST_TOKEN", TOKEN).stdin(Stdio::null()).kill_on_drop(true);
    if let Some(folder) = folder {
        command.current_dir(folder);
    }
    within(60, &arguments.join(" "), command.output()).await.unwrap()
}

async fn run(arguments: &[&str]) -> Output {
    run_in(None, arguments).await
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// The report of a probe, and whether its exit code said that the server can be served.
async fn probed(url: &str, arguments: &[&str]) -> (Value, bool) {
    let arguments = [&["probe", url, "--json"], arguments].concat();
    let output = run(&arguments).await;
    let report = serde_json::from_slice(&output.stdout);
    let report: Value = report.unwrap_or_else(|error| panic!("{error}: {output:?}"));
    let served = output.status.code() == Some(0);
    assert_eq!(report["served"], served, "{report:#}");
    (report, served)
}

/// A step of a report.
fn step<'a>(report: &'a Value, name: &str) -> &'a Value {
    let steps = report["steps"].as_array().unwrap();
    steps.iter().find(|step| step["step"] == name).unwrap_or_else(|| panic!("no step {name}: {report:#}"))
}

/// A folder that goes with the value.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Folder {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("portunus-tools-{}-{number}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Folder(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).ok();
    }
}

/// How a scripted server answers besides its lists.
#[derive(Clone, Copy)]
struct Manner {
    /// Status of the answer to `server/discover`.
    discover: u16,
    /// What `tools/list` gives: the members of its result.
    tools: &'static str,
}

const PLAIN: Manner =
    Manner { discover: 400, tools: r#""tools":[{"name":"a","inputSchema":{"type":"object"}}]"# };

/// A server with sessions that speaks 2025-06-18, and what it is asked.
async fn legacy(manner: Manner) -> (Upstream, mpsc::UnboundedReceiver<Request>) {
    let (told, asked) = mpsc::unbounded_channel();
    let upstream = Upstream::start(move |request: Request, mut wire: Wire| {
        told.send(request.clone()).ok();
        async move {
            answer(manner, &request, &mut wire).await;
            Some(wire)
        }
    })
    .await;
    (upstream, asked)
}

async fn answer(manner: Manner, request: &Request, wire: &mut Wire) {
    let message: Value = serde_json::from_slice(&request.body).unwrap_or_default();
    let result = match message["method"].as_str().unwrap_or_default() {
        "initialize" => {
            let body = format!(
                r#"{{"jsonrpc":"2.0","id":{},"result":{{"protocolVersion":"2025-06-18","capabilities":{{"tools":{{}}}},"serverInfo":{{"name":"s\u001b[31m\u202e","version":"1"}}}}}}"#,
                request.id()
            );
            let length = body.len();
            return wire
                .send(format!(
                    "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nmcp-session-id: s-1\r\ncontent-length: {length}\r\n\r\n{body}"
                ))
                .await;
        }
        "tools/list" => format!("{{{}}}", manner.tools),
        "server/discover" => {
            let status = manner.discover;
            return wire.send(format!("HTTP/1.1 {status} X\r\ncontent-length: 0\r\n\r\n")).await;
        }
        _ if request.head.starts_with("GET") => {
            return wire.send("HTTP/1.1 405 X\r\ncontent-length: 0\r\n\r\n").await;
        }
        _ => return wire.send("HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n").await,
    };
    wire.json(&format!(r#"{{"jsonrpc":"2.0","id":{},"result":{result}}}"#, request.id())).await;
}

fn url_of(upstream: &Upstream) -> String {
    format!("http://{}/mcp", upstream.address)
}

#[tokio::test]
async fn every_demo_server_speaks_both_eras_through_the_gateway() {
    let demo = Demo::start().await;
    let base = demo.url().strip_suffix("/mcp").unwrap();
    let cases = [
        ("/mcp", "demo-dual", Some("2026-07-28"), Some("2025-11-25")),
        ("/legacy/mcp", "demo-legacy", Some("2026-07-28"), Some("2025-11-25")),
        ("/modern/mcp", "demo-modern", Some("2026-07-28"), Some("2025-11-25")),
    ];
    for (path, name, modern, legacy) in cases {
        let (report, served) = probed(&format!("{base}{path}"), &[]).await;
        let server = &report["server"];
        assert!(served, "{report:#}");
        assert_eq!(server["name"], name);
        assert_eq!(server["modern"][0].as_str(), modern, "{path}");
        assert_eq!(server["legacy"].as_str(), legacy, "{path}");
        assert_eq!(server["session"], legacy.is_some(), "{path}");
        assert!(server["tools"]["count"].as_u64() > Some(3), "{path}");
        assert_eq!(server["tools"]["broken"].as_array().map(Vec::len), Some(0), "{report:#}");
        assert_eq!(server["era"], Value::Null, "nothing has to be pinned at {path}");
    }
}

#[tokio::test]
async fn probe_shows_each_step_as_a_line_and_ends_its_session() {
    let (upstream, mut asked) = legacy(PLAIN).await;
    let output = run(&["probe", &url_of(&upstream)]).await;
    let told = stdout(&output);
    assert_eq!(output.status.code(), Some(0), "{told}");
    assert!(told.contains("It declares `tools`."), "{told}");
    for step in ["address", "connect", "initialize", "tools", "stream", "end"] {
        assert!(told.lines().any(|line| line.split_whitespace().nth(1) == Some(step)), "{step}:\n{told}");
    }
    assert!(!told.contains('\u{1b}') && !told.contains('\u{202e}'), "{told:?}");
    assert!(told.contains(r"s\u001b[31m\u202e"), "{told}");
    let mut last = None;
    while let Ok(request) = asked.try_recv() {
        last = Some(request);
    }
    let last = last.unwrap();
    assert!(last.head.starts_with("DELETE") && last.header("mcp-session-id") == Some("s-1"), "{last:?}");
}

#[tokio::test]
async fn probe_names_the_step_that_fails_and_what_to_do() {
    let page = Upstream::start(|_, mut wire: Wire| async move {
        wire.send("HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 4\r\n\r\n<b>\x1b").await;
        Some(wire)
    })
    .await;
    let missing = Upstream::start(|_, mut wire: Wire| async move {
        wire.send("HTTP/1.1 404 X\r\ncontent-length: 0\r\n\r\n").await;
        Some(wire)
    })
    .await;
    let old = Upstream::start(|request: Request, mut wire: Wire| async move {
        if request.head.starts_with("GET") {
            wire.begin_events().await;
            wire.chunk("event: endpoint\ndata: /messages?session_id=1\n\n").await;
            wire.closed().await;
        } else {
            wire.send("HTTP/1.1 405 X\r\ncontent-length: 0\r\n\r\n").await;
        }
        Some(wire)
    })
    .await;
    let moved = Upstream::start(|_, mut wire: Wire| async move {
        wire.send("HTTP/1.1 307 X\r\nlocation: /elsewhere\r\ncontent-length: 0\r\n\r\n").await;
        Some(wire)
    })
    .await;
    let noise =
        Upstream::raw(|mut wire: Wire| async move { wire.send("220 mail.example ESMTP\r\n").await }).await;
    let dead = Upstream::unreachable().await.address;
    let cases = [
        (format!("http://{dead}/mcp"), "connect", "refused", "start the server"),
        ("http://does-not-exist.invalid/mcp".to_owned(), "dns", "does-not-exist.invalid", "mend the name"),
        (url_of(&page), "initialize", r"\u003cb\u003e\u001b", "no MCP server"),
        (url_of(&missing), "initialize", "404", "most are at `/mcp`"),
        (url_of(&old), "initialize", "HTTP+SSE", "streamable HTTP"),
        (url_of(&moved), "initialize", "/elsewhere", "follows no redirect"),
        (url_of(&noise), "initialize", "not HTTP/1.1", "another protocol"),
    ];
    for (url, failed, detail, hint) in cases {
        let (report, served) = probed(&url, &["--timeout", "5s"]).await;
        assert!(!served, "{url}: {report:#}");
        assert_eq!(report["failed"], failed, "{url}: {report:#}");
        let step = step(&report, failed);
        assert!(step["detail"].as_str().unwrap().contains(detail), "{url}: {step:#}");
        assert!(step["hints"][0].as_str().unwrap().contains(hint), "{url}: {step:#}");
    }
}

#[tokio::test]
async fn probe_shows_what_a_handshake_showed_and_why_one_failed() {
    let (upstream, _asked) = legacy(PLAIN).await;
    let folder = Folder::new();
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let mut params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    params.distinguished_name.push(rcgen::DnType::CommonName, "stranger");
    let other = params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap();
    let [certificate, key, stranger] =
        ["gateway.pem", "gateway.key", "other.pem"].map(|name| folder.0.join(name));
    fs::write(&certificate, made.cert.pem()).unwrap();
    fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    fs::write(&stranger, other.pem()).unwrap();
    let (certificate, key) = (certificate.to_str().unwrap(), key.to_str().unwrap());
    let gateway = Gateway::start(&format!(
        "listeners:\n- bind: 127.0.0.1:0\n  tls: {{ certificates: {{ certificate: {certificate}, key: {key} }} }}\n\
         upstreams:\n  up: {}\nservers:\n  /mcp: up\n",
        url_of(&upstream)
    ))
    .await;
    let url = |host: &str| format!("https://{host}:{}/mcp", gateway.address.port());
    let (report, served) = probed(&url("localhost"), &["--ca", certificate]).await;
    let detail = step(&report, "tls")["detail"].to_string();
    assert!(served && detail.contains("TLS 1.3") && detail.contains("rcgen"), "{report:#}");
    let plain = Upstream::raw(|mut wire: Wire| async move {
        wire.read_some().await;
        wire.send("HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n").await;
    })
    .await;
    let plain_url = format!("https://{}/mcp", plain.address);
    let cases = [
        (url("localhost"), stranger.to_str().unwrap(), "nobody who is trusted"),
        (url("127.0.0.1"), certificate, "another name"),
        (plain_url, certificate, "does not speak TLS"),
    ];
    for (url, ca, expected) in cases {
        let (report, served) = probed(&url, &["--ca", ca]).await;
        assert!(!served && report["failed"] == "tls", "{url}: {report:#}");
        assert!(step(&report, "tls")["detail"].to_string().contains(expected), "{url}: {report:#}");
    }
    let output = run(&["init", &url("localhost"), "--ca", certificate, "--stdout"]).await;
    assert!(stdout(&output).contains(&format!("tls: {{ ca: \"{certificate}\" }}")), "{output:?}");
}

#[tokio::test]
async fn probe_of_a_server_that_hangs_ends_in_bounded_time() {
    let (upstream, _asked) = Upstream::silent().await;
    let start = Instant::now();
    let (report, served) = probed(&url_of(&upstream), &["--timeout", "300ms"]).await;
    assert!(!served && report["failed"] == "initialize", "{report:#}");
    assert!(start.elapsed() < Duration::from_secs(10), "it took {:?}", start.elapsed());
}

#[tokio::test]
async fn probe_that_is_interrupted_ends_its_session_all_the_same() {
    let (told, mut asked) = mpsc::unbounded_channel();
    let upstream = Upstream::start(move |request: Request, mut wire: Wire| {
        told.send(request.clone()).ok();
        async move {
            match String::from_utf8_lossy(&request.body).contains("tools/list") {
                true => wire.idle().await,
                false => answer(PLAIN, &request, &mut wire).await,
            }
            Some(wire)
        }
    })
    .await;
    let mut command = Command::new(binary());
    command.args(["probe", &url_of(&upstream), "--timeout", "60s"]).stdout(Stdio::piped()).kill_on_drop(true);
    let child = command.spawn().unwrap();
    let heard = async |asked: &mut mpsc::UnboundedReceiver<Request>, wanted: &str| loop {
        let request = within(30, wanted, asked.recv()).await.unwrap();
        if request.head.starts_with(wanted) || String::from_utf8_lossy(&request.body).contains(wanted) {
            return request;
        }
    };
    heard(&mut asked, "tools/list").await;
    let pid = child.id().unwrap().to_string();
    assert!(std::process::Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
    assert_eq!(heard(&mut asked, "DELETE").await.header("mcp-session-id"), Some("s-1"));
    let output = within(30, "the end of the probe", child.wait_with_output()).await.unwrap();
    assert!(output.status.code() == Some(1) && stdout(&output).contains("interrupted"), "{output:?}");
}

#[tokio::test]
async fn probe_finds_what_clients_will_stumble_over() {
    let tools = r##""tools":[{"name":"a b","inputSchema":{"type":"object"}},{"name":"c","inputSchema":[]},
        {"name":"c","inputSchema":{"type":"object","properties":{"x":{"$ref":"#/$defs/none"}}}}],"nextCursor":"same""##;
    let (upstream, _asked) = legacy(Manner { tools, ..PLAIN }).await;
    let (report, served) = probed(&url_of(&upstream), &[]).await;
    assert!(served, "a gateway passes it all the same: {report:#}");
    let broken = report["server"]["tools"]["broken"].to_string();
    for expected in ["characters beside", "not an object", "same name", "leads nowhere"] {
        assert!(broken.contains(expected), "{expected}: {broken}");
    }
    let step = step(&report, "tools");
    assert_eq!(step["verdict"], "warn");
    assert!(step["hints"].to_string().contains("the list has no end"), "{step:#}");
}

#[tokio::test]
async fn probe_and_init_pin_the_era_of_a_server_that_misleads_clients_of_the_other() {
    let (upstream, _asked) = legacy(Manner { discover: 500, ..PLAIN }).await;
    let (report, served) = probed(&url_of(&upstream), &[]).await;
    assert!(served && report["server"]["era"] == "legacy", "{report:#}");
    assert!(step(&report, "initialize")["hints"].to_string().contains("era: legacy"), "{report:#}");
    let output = run(&["init", &url_of(&upstream), "--stdout"]).await;
    assert!(stdout(&output).contains("\n    era: legacy\n"), "{output:?}");
}

#[tokio::test]
async fn a_token_reaches_the_server_and_nobody_else() {
    let upstream = Upstream::start(|request: Request, mut wire: Wire| async move {
        if request.header("authorization") == Some("Bearer hunter2-token") {
            answer(PLAIN, &request, &mut wire).await;
        } else {
            wire.send("HTTP/1.1 401 X\r\nwww-authenticate: Bearer realm=\"a\"\r\ncontent-length: 0\r\n\r\n")
                .await;
        }
        Some(wire)
    })
    .await;
    let url = url_of(&upstream);
    let (report, served) = probed(&url, &[]).await;
    assert!(!served && report["failed"] == "discover", "{report:#}");
    assert!(step(&report, "discover")["hints"].to_string().contains("--bearer env:NAME"), "{report:#}");
    let (report, served) = probed(&url, &["--bearer", "env:PORTUNUS_TEST_TOKEN"]).await;
    assert!(served, "{report:#}");
    let output = run(&["init", &url, "--stdout", "--bearer", "env:PORTUNUS_TEST_TOKEN"]).await;
    assert!(stdout(&output).contains(r#"credentials: { bearer: "env:PORTUNUS_TEST_TOKEN" }"#), "{output:?}");
    for shown in [report.to_string(), stdout(&output), stderr(&output)] {
        assert!(!shown.contains(TOKEN), "{shown}");
    }
    let output = run(&["probe", &url, "--bearer", TOKEN]).await;
    assert!(output.status.code() == Some(1) && !stderr(&output).contains(TOKEN), "{output:?}");
}

#[tokio::test]
async fn what_init_writes_is_checked_run_and_connected_to() {
    let demo = Demo::start().await;
    let base = demo.url().strip_suffix("/mcp").unwrap();
    let (modern, legacy) = (format!("{base}/modern/mcp"), format!("{base}/legacy/mcp"));
    let dead = format!("http://{}/mcp", Upstream::unreachable().await.address);
    let folder = Folder::new();
    let output = run_in(Some(&folder.0), &["init", &modern, &legacy, &dead, "--listen", "127.0.0.1:0"]).await;
    let told = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "one of them is dead: {told}");
    assert!(told.contains("2 of 3 servers; one is in it as a comment"), "{told}");
    let text = fs::read_to_string(folder.0.join("gateway.yaml")).unwrap();
    assert!(text.contains("# Not served: connect:") && text.contains("# /mcp/server: server"), "{text}");

    let checked = run_in(Some(&folder.0), &["check", "gateway.yaml"]).await;
    let warnings = stdout(&checked).matches("warning:").count();
    assert_eq!((checked.status.code(), warnings), (Some(0), 1), "only the missing policy: {checked:?}");

    let again = run_in(Some(&folder.0), &["init", &modern]).await;
    assert!(again.status.code() == Some(1) && stderr(&again).contains("--force"), "{again:?}");
    assert_eq!(fs::read_to_string(folder.0.join("gateway.yaml")).unwrap(), text, "an old file is kept");

    let gateway = Gateway::as_written(&text).await;
    let call = modern_call(1, "echo").replace("\"arguments\":{}", "\"arguments\":{\"text\":\"hi\"}");
    let answer = gateway.post("/mcp/demo-modern", &modern_headers("echo"), &call).await;
    assert!(answer.status == 200 && String::from_utf8_lossy(&answer.body).contains("hi"), "{answer:?}");
    let answer = gateway.post("/mcp/demo-legacy", &[], &initialize()).await;
    assert!(answer.header("mcp-session-id").is_some(), "{answer:?}");

    let forced = run_in(Some(&folder.0), &["init", &legacy, "--force"]).await;
    assert_eq!(forced.status.code(), Some(0), "{forced:?}");
    let text = fs::read_to_string(folder.0.join("gateway.yaml")).unwrap();
    assert!(text.contains("\n  /mcp: demo-legacy\n"), "{text}");
    assert_eq!(fs::read_dir(&folder.0).unwrap().count(), 1, "nothing is left beside it");
}

fn initialize() -> String {
    let params =
        r#"{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"t","version":"1"}}"#;
    rpc(1, "initialize", params)
}

#[tokio::test]
async fn init_writes_nothing_where_nothing_works_or_a_token_could_go_astray() {
    let dead = format!("http://{}/mcp", Upstream::unreachable().await.address);
    let (upstream, mut asked) = legacy(PLAIN).await;
    let url = url_of(&upstream);
    let folder = Folder::new();
    let cases: [(&[&str], &str); 6] = [
        (&["init", &dead], "nothing is written"),
        (&["init", &url, &url], "is given twice"),
        (&["init", &url, "--ca", "ca.pem"], "no URL begins with `https://`"),
        (&["init", &url, "nowhere"], "\"nowhere\": the URL does not begin with"),
        (&["init", &url, "--listen", "0.0.0.0:8080"], "--allow-anonymous"),
        (&["init", &url, &dead, "--bearer", "env:PORTUNUS_TEST_TOKEN"], "HOST=env:NAME"),
    ];
    for (arguments, expected) in cases {
        let output = run_in(Some(&folder.0), arguments).await;
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        assert!(stderr(&output).contains(expected), "{arguments:?}: {}", stderr(&output));
        assert_eq!(fs::read_dir(&folder.0).unwrap().count(), 0, "{arguments:?}");
    }
    assert!(asked.try_recv().is_err(), "no server is asked for a command that is refused");
}

#[tokio::test]
async fn the_texts_of_connect_lead_to_the_gateway() {
    let demo = Demo::start().await;
    let cases = [
        ("claude-code", "", ""),
        ("claude-desktop", "/mcpServers/portunus/args/2", ""),
        ("vscode", "/servers/portunus/url", ""),
        ("cursor", "/mcpServers/portunus/url", ""),
        ("gemini", "/mcpServers/portunus/httpUrl", ""),
        ("codex", "", "url = \""),
    ];
    for (client, pointer, line) in cases {
        let output = run(&["connect", client, "--url", demo.url(), "--raw"]).await;
        let text = stdout(&output);
        let url = match (pointer, line) {
            ("", "") => text.trim().rsplit(' ').next().unwrap().to_owned(),
            ("", start) => {
                text.lines().find_map(|line| line.strip_prefix(start)).unwrap().trim_matches('"').to_owned()
            }
            (pointer, _) => {
                let parsed: Value = serde_json::from_str(&text).unwrap();
                parsed.pointer(pointer).unwrap().as_str().unwrap().to_owned()
            }
        };
        let (authority, path) = url.strip_prefix("http://").unwrap().split_once('/').unwrap();
        let mut caller = Client::connect(authority.parse().unwrap()).await;
        caller.post(&format!("/{path}"), &[], initialize().as_bytes()).await;
        assert_eq!(caller.response().await.status, 200, "{client}: {text}");
    }
    let listed = stdout(&run(&["connect"]).await);
    for (client, ..) in cases {
        assert!(listed.contains(&format!("\n  {client} ")), "{listed}");
    }
}

#[tokio::test]
async fn the_programs_of_connect_run() {
    let demo = Demo::start().await;
    let cases = [
        (Runtime::Python2, "python", "connect.py"),
        (Runtime::Python1, "python-v1", "connect.py"),
        (Runtime::Node, "typescript", "connect.mjs"),
        (Runtime::Node, "typescript-v1", "connect.mjs"),
    ];
    for (runtime, client, file) in cases {
        let text = run(&["connect", client, "--url", demo.url(), "--raw"]).await;
        let folder = runtime.folder(client);
        let program = folder.join(file);
        fs::write(&program, &text.stdout).unwrap();
        let told = runtime.run(60, program.to_str().unwrap(), &[]).await;
        fs::remove_dir_all(folder).unwrap();
        assert!(told.lines().any(|line| line == "echo"), "{client}: {told}");
    }
}
