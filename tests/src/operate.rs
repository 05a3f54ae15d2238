//! The surfaces for operators, and the command line.

use crate::harness::{Caller, Client, Era, Gateway, Mcp, Nature, Upstream, binary, rpc};
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Output};

fn portunus(arguments: &[&str]) -> Output {
    Command::new(binary()).args(arguments).output().unwrap()
}

fn file(name: &str, text: &str) -> std::path::PathBuf {
    let path = std::env::temp_dir().join(format!("portunus-{}-{name}", std::process::id()));
    std::fs::write(&path, text).unwrap();
    path
}

#[test]
fn check_names_every_mistake_at_once_and_exits_with_78() {
    let text = "version: 1\nlisten: nowhere\nupstrems:\n  up: http://127.0.0.1:1/mcp\nservers:\n  /mcp: upp\ndlp: { profile: balanced }\n";
    let path = file("bad.yaml", text);
    let output = portunus(&["check", path.to_str().unwrap()]);
    std::fs::remove_file(&path).unwrap();
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(78), "{told}");
    for expected in ["listen", "did you mean `upstreams`", "dlp", "hint:"] {
        assert!(told.contains(expected), "{expected} is missing:\n{told}");
    }
}

#[test]
fn the_command_line_answers_and_explains() {
    let version = portunus(&["--version"]);
    assert!(String::from_utf8_lossy(&version.stdout).starts_with("portunus ") && version.status.success());
    let help = String::from_utf8(portunus(&["--help"]).stdout).unwrap();
    for word in ["run", "demo", "check", "Exit codes"] {
        assert!(help.contains(word), "{help}");
    }
    assert_eq!(portunus(&["rnu"]).status.code(), Some(1));
    let missing = portunus(&["run", "--config", "/does/not/exist.yaml"]);
    assert_eq!(missing.status.code(), Some(78));
}

#[test]
fn what_is_printed_is_accepted_again_and_holds_no_secret() {
    let secret = file("printed-secret", "tops3cret\n");
    let text = format!(
        "version: 1\nupstreams:\n  up: {{ url: http://127.0.0.1:1/mcp, credentials: {{ bearer: \"file:{}\" }} }}\n\
         servers:\n  /mcp: up\n",
        secret.display()
    );
    let written = file("printed.yaml", &text);
    let printed = portunus(&["print", written.to_str().unwrap()]);
    let yaml = String::from_utf8(printed.stdout).unwrap();
    assert!(printed.status.success() && yaml.contains("max_body_bytes: 4194304"), "{yaml}");
    assert!(!yaml.contains("tops3cret"), "{yaml}");
    let again = file("printed-again.yaml", &yaml);
    assert!(portunus(&["check", again.to_str().unwrap()]).status.success(), "{yaml}");
    let json = portunus(&["print", again.to_str().unwrap(), "--format", "json"]);
    let json: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(json["servers"][0]["path"], "/mcp");
    for path in [written, again, secret] {
        std::fs::remove_file(&path).unwrap();
    }
    let refused = file("printed-refused.yaml", "version: 1\n");
    assert_eq!(portunus(&["print", refused.to_str().unwrap()]).status.code(), Some(78));
    std::fs::remove_file(&refused).unwrap();
}

#[test]
fn the_schema_is_the_one_that_the_samples_name() {
    let sample = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/gateway.schema.json");
    let printed = portunus(&["schema"]);
    assert_eq!(String::from_utf8(printed.stdout).unwrap(), std::fs::read_to_string(sample).unwrap());
}

#[test]
fn a_taken_address_is_told_and_exits_with_1() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let state = std::env::temp_dir().join(format!("portunus-{}-taken", std::process::id()));
    let text = format!(
        "version: 1\nlisten: {address}\nstate: {}\nupstreams:\n  up: http://127.0.0.1:1/mcp\nservers:\n  /mcp: up\n",
        state.display()
    );
    let path = file("taken.yaml", &text);
    let output = portunus(&["run", "--config", path.to_str().unwrap()]);
    std::fs::remove_file(&path).unwrap();
    std::fs::remove_dir_all(&state).unwrap();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(1) && told.contains("is another process using it?"), "{told}");
}

#[tokio::test]
async fn telemetry_shows_life_readiness_and_what_was_counted() {
    let upstream = Upstream::answering().await;
    let gateway = Gateway::before(upstream.address).await;
    for path in ["/livez", "/health", "/readyz", "/ready"] {
        assert_eq!(gateway.get(gateway.telemetry, path).await.status, 200, "{path}");
    }
    gateway.post("/mcp", &[], &rpc(1, "tools/call", r#"{"name":"echo"}"#)).await;
    gateway.post("/mcp", &[], "{").await;
    gateway.recorded("the refusal", |record| record["reason"] == "parse_error").await;
    let counted = [
        (r#"mcp_requests_total{server_name="mcp",status="ok",tool_name="echo"}"#, 1.0),
        (r#"mcp_requests_total{server_name="mcp",status="invalid",tool_name="other"}"#, 1.0),
        (r#"mcp_denials_total{reason="parse_error"}"#, 1.0),
        (r#"mcp_errors_total{reason="parse_error",server_name="mcp"}"#, 1.0),
        (r#"mcp_pending_requests{server_name="mcp"}"#, 0.0),
        (r#"mcp_stage_duration_seconds_count{stage="forward"}"#, 1.0),
        ("portunus_snapshots_alive", 1.0),
    ];
    for (name, expected) in counted {
        assert_eq!(gateway.metric(name).await, Some(expected), "{name}");
    }
}

#[tokio::test]
async fn a_record_has_an_id_of_its_own_beside_the_clients() {
    let upstream = Upstream::answering().await;
    let gateway = Gateway::before(upstream.address).await;
    let same = [("x-request-id", "mine".to_owned())];
    for body in [&rpc(1, "tools/call", r#"{"name":"echo"}"#), "{", "{"] {
        let response = gateway.post("/mcp", &same, body).await;
        assert_eq!(response.header("portunus-request-id"), Some("mine"));
    }
    gateway.counts("mcp_denials_total", "parse_error", 2.0).await;
    gateway.recorded("the call", |record| record["status"] == "ok").await;
    let records = gateway.records();
    let ids: std::collections::HashSet<_> =
        records.iter().map(|record| record["event_id"].to_string()).collect();
    assert_eq!((records.len(), ids.len()), (3, 3), "{records:?}");
    assert!(records.iter().all(|record| record["request_id"] == "mine"), "{records:?}");
}

#[tokio::test]
async fn metrics_are_text_that_prometheus_takes() {
    let upstream = Upstream::answering().await;
    let gateway = Gateway::before(upstream.address).await;
    gateway.post("/mcp", &[], &rpc(1, "tools/call", r#"{"name":"echo"}"#)).await;
    let text = String::from_utf8(gateway.get(gateway.telemetry, "/metrics").await.body).unwrap();
    let (mut families, mut series) = (std::collections::HashMap::new(), std::collections::HashSet::new());
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert!(families.insert(name, kind).is_none(), "{name} is there twice");
            assert!(kind != "counter" || name.ends_with("_total"), "the counter {name}");
            continue;
        }
        if line.starts_with("# HELP ") {
            continue;
        }
        let (name, value) = line.rsplit_once(' ').unwrap();
        assert!(value.parse::<f64>().is_ok(), "{line}");
        assert!(series.insert(name), "{name} is there twice");
        let bare = name.split('{').next().unwrap();
        let is_name = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
        assert!(bare.bytes().all(is_name), "{line}");
        let family = ["_bucket", "_sum", "_count"].iter().find_map(|part| bare.strip_suffix(part));
        let histogram = family.is_some_and(|family| families.get(family) == Some(&"histogram"));
        assert!(histogram || families.contains_key(bare), "{line} has no type");
    }
    for (name, kind) in [
        ("portunus_upstream_up", "gauge"),
        ("portunus_upstream_requests_total", "counter"),
        ("portunus_upstream_request_duration_seconds", "histogram"),
        ("portunus_upstream_connections", "gauge"),
        ("portunus_upstream_connect_failures_total", "counter"),
        ("portunus_upstream_ejections_total", "counter"),
        ("process_open_fds", "gauge"),
    ] {
        assert_eq!(families.get(name), Some(&kind), "{name}");
    }
}

/// How many streams there are by both surfaces.
async fn streams(gateway: &Gateway, count: u64) {
    gateway.reaches(&format!("{count} streams"), |status| status["streams"] == count).await;
    #[expect(clippy::cast_precision_loss, reason = "a small number")]
    let expected = count as f64;
    assert_eq!(gateway.metric("portunus_streams").await, Some(expected));
}

#[tokio::test]
async fn every_open_stream_is_counted_however_it_is_served() {
    let legacy = Mcp::naming(Nature::of(Era::Legacy), &["old".to_owned()]).await;
    let modern = Mcp::naming(Nature::of(Era::Modern), &["new".to_owned()]).await;
    let gateway = Gateway::start(&format!(
        "upstreams:\n  old: {}\n  new: {}\nservers:\n  /old: old\n  /new: new\n  /merged: {{ upstreams: [old, new] }}\n  \
         /kept: {{ upstreams: [old, new], replay: {{ events: 10 }} }}\n  /sse: {{ upstreams: old, http_sse: true }}\n",
        legacy.url(),
        modern.url()
    ))
    .await;
    let caller = |era: Era, path: &str| Caller::new(era, gateway.address).at(path);
    for (path, era) in [
        ("/old", Era::Legacy),
        ("/new", Era::Legacy),
        ("/merged", Era::Legacy),
        ("/kept", Era::Legacy),
        ("/old", Era::Modern),
        ("/merged", Era::Modern),
    ] {
        let mut caller = caller(era, path).ready().await;
        let stream = match era {
            Era::Legacy => caller.stream(None).await.unwrap().0,
            Era::Modern => caller.listening().await,
        };
        println!("{path} {era:?}");
        streams(&gateway, 1).await;
        drop(stream);
        streams(&gateway, 0).await;
    }
    let mut old_transport = gateway.connect().await;
    old_transport.open_stream("/sse", &[("accept", "text/event-stream".to_owned())]).await;
    assert_eq!(old_transport.response_head().await.status, 200);
    streams(&gateway, 1).await;
    drop(old_transport);
    streams(&gateway, 0).await;
}

#[tokio::test]
async fn made_up_tools_get_no_label() {
    let upstream =
        Upstream::start(|request: crate::harness::Request, mut wire: crate::harness::Wire| async move {
            wire.json(&format!(
                r#"{{"jsonrpc":"2.0","id":{},"error":{{"code":-32602,"message":"no"}}}}"#,
                request.id()
            ))
            .await;
            Some(wire)
        })
        .await;
    let gateway = Gateway::before(upstream.address).await;
    gateway.post("/mcp", &[], &rpc(1, "tools/call", r#"{"name":"made_up"}"#)).await;
    gateway.recorded("the record", |record| record["tool_name"] == "made_up").await;
    let text = String::from_utf8(gateway.get(gateway.telemetry, "/metrics").await.body).unwrap();
    assert!(!text.contains("made_up"));
    assert_eq!(
        gateway.metric(r#"mcp_requests_total{server_name="mcp",status="error",tool_name="other"}"#).await,
        Some(1.0)
    );
}

#[tokio::test]
async fn admin_reads_and_answers_no_stranger() {
    let upstream = Upstream::answering().await;
    let secret = file("secret", "tops3cret\n");
    let document = format!(
        "upstreams:\n  up: {{ url: http://{}/mcp, credentials: {{ bearer: \"file:{}\" }} }}\nservers:\n  /mcp: up\n",
        upstream.address,
        secret.display()
    );
    let gateway = Gateway::start(&document).await;
    let status = gateway.status().await;
    assert_eq!((status["phase"].as_str(), status["serial"].as_u64()), (Some("serving"), Some(1)));
    assert_eq!(status["servers"][0]["path"], "/mcp");
    let config = gateway.get(gateway.admin, "/config").await;
    let config = String::from_utf8(config.body).unwrap();
    let source = format!("\"bearer\": \"file:{}\"", secret.display());
    assert!(config.contains(&source) && !config.contains("tops3cret"), "{config}");
    gateway.post("/mcp", &[("x-request-id", "find-me".to_owned())], "{").await;
    gateway.recorded("the refusal", |record| record["request_id"] == "find-me").await;
    let refusals = gateway.get(gateway.admin, "/refusals?id=find-me").await.json();
    assert_eq!(
        (refusals[0]["reason"].as_str(), refusals.as_array().unwrap().len()),
        (Some("parse_error"), 1)
    );
    std::fs::remove_file(secret).unwrap();

    let mut rebound = Client::connect(gateway.admin).await;
    rebound.send(b"GET /status HTTP/1.1\r\nHost: evil.example\r\n\r\n").await;
    assert_eq!(rebound.response().await.status, 403);
    let mut write = Client::connect(gateway.admin).await;
    write
        .send(
            format!("POST /status HTTP/1.1\r\nHost: {}\r\nContent-Length: 0\r\n\r\n", gateway.admin)
                .as_bytes(),
        )
        .await;
    assert_eq!(write.response().await.status, 405);
}

#[tokio::test]
async fn the_control_socket_changes_the_level_and_is_private() {
    use std::os::unix::fs::PermissionsExt;
    let upstream = Upstream::answering().await;
    let gateway = Gateway::before(upstream.address).await;
    let socket = gateway.folder().join("state/control.sock");
    assert_eq!(std::fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(
        std::fs::metadata(gateway.folder().join("state")).unwrap().permissions().mode() & 0o777,
        0o700
    );
    let ask = |request: &str| {
        let mut stream = std::os::unix::net::UnixStream::connect(&socket).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    assert!(ask("POST /loglevel?warn HTTP/1.1\r\nHost: x\r\n\r\n").starts_with("HTTP/1.1 200"));
    assert!(ask("POST /loglevel?loud HTTP/1.1\r\nHost: x\r\n\r\n").starts_with("HTTP/1.1 400"));
    assert!(ask("GET /loglevel?warn HTTP/1.1\r\nHost: x\r\n\r\n").starts_with("HTTP/1.1 405"));
    assert!(ask("POST /nonsense HTTP/1.1\r\nHost: x\r\n\r\n").starts_with("HTTP/1.1 404"));
}
