//! Text that strangers choose and the gateway keeps is cut, counted in bytes, or refused.

use crate::harness::mcp::{text, tool};
use crate::harness::{Caller, Era, Gateway, Mcp, Nature, root, rpc};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// What a stranger chooses, as long as it may be.
fn long() -> String {
    "x".repeat(900_000)
}

/// How often it says so: more than memory may grow by in [`ALLOWED_KIB`].
const TIMES: usize = 100;
const ALLOWED_KIB: u64 = 40 << 10;

async fn server() -> Mcp {
    Mcp::start(Nature::of(Era::Legacy), vec![tool("a")], |call| async move { Ok(text(call.tool())) }).await
}

async fn gateway(server: &Mcp, more: &str) -> Gateway {
    let document = format!(
        "level: info\nupstreams:\n  up: {}\nservers:\n  /mcp: {{upstreams: [up], names: prefix}}\n{more}",
        server.url()
    );
    Gateway::start(&document).await
}

fn assert_small(gateway: &Gateway, before: u64, what: &str) {
    let grown = gateway.resident_kib().saturating_sub(before);
    assert!(grown < ALLOWED_KIB, "{what} grew memory by {grown} KiB");
}

#[tokio::test]
async fn refusals_keep_no_more_than_a_line_of_what_was_asked_for() {
    let server = server().await;
    let gateway = gateway(&server, "").await;
    let mut caller = Caller::new(Era::Legacy, gateway.address).ready().await;
    caller.call("nothing", json!({})).await.unwrap();
    let before = gateway.resident_kib();
    for number in 0..TIMES {
        let said = caller.call(&format!("{number}{}", long()), json!({})).await.unwrap();
        assert!(said.message["error"].is_object() || said.head.status >= 400, "{}", said.head.status);
    }
    assert_small(&gateway, before, "refused names");
    let shown = gateway.get(gateway.admin, "/refusals").await;
    assert!(shown.body.len() < 1 << 20, "{}", shown.body.len());
    assert_eq!(caller.call("up_a", json!({})).await.unwrap().text(), "a");
}

#[tokio::test]
async fn updates_of_resources_are_remembered_by_a_digest() {
    let server = server().await;
    let gateway = gateway(&server, "").await;
    let mut caller = Caller::new(Era::Legacy, gateway.address).ready().await;
    let (mut stream, _) = caller.stream(None).await.unwrap();
    let before = gateway.resident_kib();
    for number in 0..TIMES {
        server.note("notifications/resources/updated", json!({"uri": format!("a:{number}{}", long())}));
        // What comes behind it has been heard when this one has.
        server.note("notifications/x", json!({"n": number}));
        let mark = format!("\"n\":{number}");
        let mut said = String::new();
        crate::harness::within(20, "the mark", async {
            while !said.contains(&mark) {
                said.push_str(&stream.chunk().await.expect("the stream goes on"));
            }
        })
        .await;
    }
    assert_small(&gateway, before, "updates");
    assert_eq!(caller.call("up_a", json!({})).await.unwrap().text(), "a");
}

#[tokio::test]
async fn a_resource_with_a_longer_name_than_is_kept_cannot_be_subscribed_to() {
    let server = server().await;
    let gateway = gateway(&server, "").await;
    let mut caller = Caller::new(Era::Legacy, gateway.address).ready().await;
    let said = caller.request("resources/subscribe", json!({"uri": long()})).await.unwrap();
    assert_eq!(said.code(), Some(-32602), "{}", said.all());
    assert!(said.all().contains("may have at most 8192 bytes"), "{}", said.all());
    let said = caller.request("resources/subscribe", json!({"uri": "scripted://watched"})).await.unwrap();
    assert!(said.message["result"].is_object(), "{}", said.all());
}

#[tokio::test]
async fn sessions_that_keep_much_of_what_a_client_says_count_as_several() {
    let server = server().await;
    let more = "sessions: {max: 64}\n";
    let gateway = gateway(&server, more).await;
    let other = Caller::new(Era::Legacy, gateway.address).ready().await;
    for _ in 0..8 {
        let mut caller = Caller::new(Era::Legacy, gateway.address);
        let params = json!({
            "protocolVersion": "2025-11-25", "capabilities": {"experimental": {"a": {"b": "x".repeat(50_000)}}},
            "clientInfo": {"name": "y".repeat(50_000), "version": "1"},
        });
        let said = caller.request("initialize", params).await.unwrap();
        assert_eq!(said.head.status, 200, "{}", said.head.status);
    }
    drop(other);
    let few = sessions(&gateway, |count| count > 0.0 && count <= 3.0).await;
    assert!(few, "each keeps 200 KB");
    for _ in 0..20 {
        Caller::new(Era::Legacy, gateway.address).ready().await;
    }
    assert!(sessions(&gateway, |count| count >= 20.0).await, "those that keep little have room");
}

/// Whether the table of sessions comes to hold such a number.
async fn sessions(gateway: &Gateway, fits: impl Fn(f64) -> bool) -> bool {
    let reached = async {
        loop {
            let count =
                gateway.metric("portunus_table_entries{table=\"sessions\"}").await.unwrap_or_default();
            if fits(count) {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(15), reached).await.is_ok()
}

#[tokio::test]
async fn a_batch_has_a_number_of_messages_that_can_be_served() {
    let server = server().await;
    let document = format!(
        "upstreams:\n  up: {}\nservers:\n  /plain: up\n  /mcp: {{upstreams: [up], names: prefix}}\n",
        server.url()
    );
    let gateway = Gateway::start(&document).await;
    for path in ["/plain", "/mcp"] {
        for (count, expected) in [(100_000, "bounds_exceeded"), (257, "bounds_exceeded")] {
            let batch = vec![r#"{"jsonrpc":"2.0","method":"a"}"#; count].join(",");
            let said = gateway.post(path, &[], &format!("[{batch}]")).await;
            assert_eq!(said.reason(), expected, "{path} {count}");
        }
        let batch = vec![rpc(1, "ping", "{}"); 2].join(",");
        let said = gateway.post(path, &[], &format!("[{batch}]")).await;
        assert_ne!(said.header("portunus-outcome"), Some("bounds_exceeded"), "{path}");
    }
}

/// Fields of what outlives a message that hold text as it came, by what bounds it.
const BOUNDED: &[(&str, &[&str])] = &[
    (
        "names and texts of the configuration, of this process, and of its peers",
        &[
            "Active.revision",
            "FailedLookup.upstream",
            "Home.replica",
            "RequestIds.prefix",
            "Label.0",
            "Member.name",
            "Metrics.servers",
            "Pantry.changes",
            "Peers.members",
            "Place.name",
            "Providers.0",
            "Refusal.revision",
            "Refusal.server",
            "Resolver.flights",
            "Resolver.names",
            "Audience.tenant",
            "ServerMetrics.name",
            "Changes.all",
            "Kept.upstream",
            "Word.upstream",
            "Refusal.at",
            "Voucher.kept",
            "Session.questions",
            "FetchState.failed",
            "InstanceMonitor.url",
            "Known.instances",
            "Known.upstreams",
            "UpstreamMetrics.name",
        ],
    ),
    (
        "one message, for as long as it is served, or its connection reads",
        &[
            "Arrived.event_id",
            "Arrived.event_name",
            "Content.answer",
            "ServerMessage.bytes",
            "Answered.0",
            "Trouble.0",
            "Call.waiting",
            "Connection.buffer",
            "CallContext.software",
            "Failure.cause",
            "Inbox.bytes",
            "Link.sender",
            "Part.0",
            "StreamAuthorization.headers",
            "Trace.parent",
            "Waiting.answers",
            "Waiting.key",
        ],
    ),
    ("digests", &["Changes.one", "Key.credential", "Key.viewer"]),
    ("cut by its only constructor", &["Clipped.0"]),
    (
        "longer ones are not kept: tokens and fields of a connection, names in labels and of rated tools",
        &[
            "Introduced.said",
            "HeaderCache.fields",
            "Memory.digested",
            "Named.field",
            "PassedSession.own_id",
            "KnownTools.by_upstream",
            "Remembered.field",
            "ServerMetrics.tools",
            "Text.0",
        ],
    ),
    (
        "counted in bytes, for each session by `replay.bytes` or as a part of `sessions.max`",
        &["Event.id", "Event.message", "ClientHeaders.fields"],
    ),
    (
        "counted in bytes by owner, in all",
        &[
            "OwnUri.original",
            "OwnUri.served",
            "Question.input",
            "Question.request_id",
            "Resumed.questions",
            "Session.uris",
            "Subscribed.served",
        ],
    ),
    ("counted in bytes by upstream, in all", &["NoticeContent.message", "Word.0", "Word.uri"]),
    (
        "counted in bytes by `cache.max_bytes`, or by the bounds of the lists that are kept",
        &["Jar.names", "Kept.answer", "Last.pages"],
    ),
    ("what issuers publish, of bounded size", &["Held.etag", "Held.text", "Told.metadata"]),
    (
        "records and lines of the log, each text of which is cut, in bounded queues",
        &["Entry.0", "Waiting.lines"],
    ),
];

/// Types that hold text as it came.
const RAW: [&str; 9] = [
    "Box<str>",
    "Arc<str>",
    "String",
    "Bytes",
    "HeaderValue",
    "HeaderMap",
    "Vec<u8>",
    "Box<[u8]>",
    "Released",
];

/// Types behind which something outlives the message that brought it.
const LASTING: [&str; 9] =
    ["Mutex", "RwLock", "Cache", "Table", "ArcSwap", "ArcSwapOption", "SyncSender", "Sender", "VecDeque"];

/// A type of the gateway: its file, and its fields.
type Types = BTreeMap<String, Vec<(PathBuf, Vec<String>)>>;

#[test]
fn every_text_that_is_kept_has_a_bound() {
    // The table of the crate below holds what types of the gateway put into it.
    let types = types(&root().join("proxy/src"));
    let mut wrong: Vec<String> = Vec::new();
    let known: BTreeSet<&str> = BOUNDED.iter().flat_map(|(_, fields)| fields.iter().copied()).collect();
    let found = kept_fields(&types);
    assert!(found.len() > 20, "only {} fields were found", found.len());
    wrong.extend(found.iter().filter(|field| !known.contains(field.as_str())).map(|field| {
        format!("`{field}` keeps text as it came: cut it (`Clipped`), digest it, or count it and say so here")
    }));
    wrong.extend(
        known
            .iter()
            .filter(|field| !found.contains(**field))
            .map(|field| format!("there is no `{field}` any more")),
    );
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Every field with raw text that can be reached from a field behind which something lasts.
fn kept_fields(types: &Types) -> BTreeSet<String> {
    let all = types.iter().flat_map(|(name, all)| all.iter().map(move |(file, fields)| (name, file, fields)));
    let mut reached: Vec<(String, PathBuf, String)> = all
        .flat_map(|(name, file, fields)| {
            fields.iter().map(move |field| (name.clone(), file.clone(), field.clone()))
        })
        .filter(|(_, _, field)| words(field).any(|word| LASTING.contains(&word)))
        .collect();
    let (mut seen, mut found) = (BTreeSet::new(), BTreeSet::new());
    while let Some((name, file, field)) = reached.pop() {
        if !seen.insert((name.clone(), file.clone(), field.clone())) {
            continue;
        }
        if RAW.iter().any(|raw| holds(&field, raw)) {
            found.insert(format!("{name}.{}", label(&field)));
        }
        for word in words(&field).filter(|word| *word != name) {
            let Some(named) = types.get(word) else { continue };
            // Of several types of one name, the one beside.
            let near = |other: &Path| named.len() == 1 || other.parent() == file.parent();
            for (other, fields) in named.iter().filter(|(other, _)| near(other)) {
                reached.extend(fields.iter().map(|field| (word.to_owned(), other.clone(), field.clone())));
            }
        }
    }
    found
}

fn holds(field: &str, raw: &str) -> bool {
    field.match_indices(raw).any(|(at, _)| !field[..at].ends_with(|before: char| before.is_alphanumeric()))
}

fn words(field: &str) -> impl Iterator<Item = &str> {
    field.split(|letter: char| !letter.is_alphanumeric() && letter != '_').filter(|word| !word.is_empty())
}

/// The name of a field, or of a tuple's only one.
fn label(field: &str) -> &str {
    let name = field.split(':').next().unwrap_or_default().trim();
    match field.contains(": ") {
        true => name.rsplit(' ').next().unwrap_or_default(),
        false => "0",
    }
}

fn types(folder: &Path) -> Types {
    let mut types = Types::new();
    for path in sources(folder) {
        let text = fs::read_to_string(&path).unwrap();
        let text = text.split("\n#[cfg(test)]\nmod tests").next().unwrap_or_default();
        let mut lines = text.lines();
        while let Some(line) = lines.next() {
            let words: Vec<&str> = words(line).collect();
            if let Some((name, of)) = line.strip_prefix("type ").and_then(|line| line.split_once(" = ")) {
                types.entry(name.to_owned()).or_default().push((path.clone(), vec![of.to_owned()]));
                continue;
            }
            let Some(at) = words.iter().position(|word| *word == "struct" || *word == "enum") else {
                continue;
            };
            if line.trim_start().starts_with("//") || line.starts_with(' ') {
                continue;
            }
            let Some(name) = words.get(at + 1) else { continue };
            let mut fields = Vec::new();
            if line.ends_with('{') {
                let body = lines.by_ref().take_while(|line| *line != "}");
                fields.extend(body.map(|line| line.split("//").next().unwrap_or_default().trim().to_owned()));
            } else if let Some((_, tuple)) = line.split_once('(') {
                fields.push(tuple.to_owned());
            }
            types.entry((*name).to_owned()).or_default().push((path.clone(), fields));
        }
    }
    types
}

/// Sources without their tests.
fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        match path.is_dir() {
            true if name == "tests" => {}
            true => found.extend(sources(&path)),
            false if name.ends_with(".rs") && name != "tests.rs" && name != "testing.rs" => found.push(path),
            false => {}
        }
    }
    found
}
