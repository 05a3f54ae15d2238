//! What servers send is bounded, and a large text of one stops no call at another endpoint.

use crate::harness::{
    Caller, Client, Era, Gateway, Request, Response, Upstream, Wire, dial_from, modern_call, modern_headers,
    rpc,
};
use serde_json::{Value, json};
use std::net::Ipv4Addr;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

/// How an answer comes.
#[derive(Clone, Copy, PartialEq)]
enum Form {
    /// As one body.
    Body,
    /// As the event of a stream.
    Events,
}

/// What a tool of the hostile server answers.
struct Case {
    tool: &'static str,
    form: Form,
    /// What is sent before the answer.
    before: fn() -> String,
    /// The result, or with `"code"` the error.
    answer: fn() -> String,
    /// Why the call fails, if it does.
    refused: Option<&'static str>,
}

fn nothing() -> String {
    String::new()
}

fn small() -> String {
    r#"{"resultType":"complete","content":[]}"#.to_owned()
}

fn repeated(head: &str, part: &str, count: usize, tail: &str) -> String {
    format!("{head}{}{tail}", part.repeat(count))
}

fn long_text(bytes: usize) -> String {
    repeated(r#"{"resultType":"complete","content":[{"type":"text","text":""#, "x", bytes, r#""}]}"#)
}

fn tiny_keys(count: usize) -> String {
    let keys: Vec<String> = (0..count).map(|key| format!("\"{key}\":0")).collect();
    format!(r#"{{"resultType":"complete","content":[],{}}}"#, keys.join(","))
}

const CASES: &[Case] = &[
    Case { tool: "small", form: Form::Body, before: nothing, answer: small, refused: None },
    Case { tool: "large", form: Form::Body, before: nothing, answer: || long_text(20 << 20), refused: None },
    Case {
        tool: "large_event",
        form: Form::Events,
        before: nothing,
        answer: || long_text(8 << 20),
        refused: None,
    },
    Case {
        tool: "numbers",
        form: Form::Body,
        before: nothing,
        answer: || {
            repeated(
                r#"{"resultType":"complete","content":[],"structuredContent":{"a":[0"#,
                ",0",
                6 << 20,
                "]}}",
            )
        },
        refused: None,
    },
    Case {
        tool: "some_keys",
        form: Form::Body,
        before: nothing,
        answer: || tiny_keys(50_000),
        refused: None,
    },
    Case {
        tool: "tiny_keys",
        form: Form::Body,
        before: nothing,
        answer: || tiny_keys(1_000_000),
        refused: Some("more keys than are read"),
    },
    Case {
        tool: "tiny_lines",
        form: Form::Events,
        before: || repeated("", "x\n", 4 << 20, ""),
        answer: small,
        refused: None,
    },
    Case {
        tool: "notification",
        form: Form::Events,
        before: || {
            let head = r#"data: {"jsonrpc":"2.0","method":"notifications/message","params":{"level":"error","data":""#;
            repeated(head, "x", 2 << 20, "\"}}\n\n")
        },
        answer: small,
        refused: None,
    },
    Case {
        tool: "error",
        form: Form::Body,
        before: nothing,
        answer: || repeated(r#"{"code":-32000,"message":""#, "x", 2 << 20, r#""}"#),
        refused: Some("an error that is too long"),
    },
    Case {
        tool: "question",
        form: Form::Body,
        before: nothing,
        answer: || {
            let head = r#"{"resultType":"input_required","inputRequests":{"q":{"method":"elicitation/create","params":{"message":""#;
            repeated(head, "x", 5 << 20, r#"","requestedSchema":{"type":"object"}}}}}"#)
        },
        refused: Some("asks for input at too great a length"),
    },
    Case {
        tool: "largest",
        form: Form::Body,
        before: nothing,
        answer: || long_text(24 << 20),
        refused: None,
    },
    Case {
        tool: "largest_event",
        form: Form::Events,
        before: nothing,
        answer: || long_text(24 << 20),
        refused: None,
    },
    Case {
        tool: "beyond_all",
        form: Form::Body,
        before: nothing,
        answer: || long_text(33 << 20),
        refused: Some("too large"),
    },
];

/// A modern server with a tool for each case; tells when it has sent an answer.
async fn hostile(told: UnboundedSender<()>) -> Upstream {
    Upstream::start(move |request: Request, mut wire: Wire| {
        let told = told.clone();
        async move {
            let message: Value = serde_json::from_slice(&request.body).unwrap();
            let id = request.id();
            match message["method"].as_str() {
                Some("tools/call") => {
                    let case = CASES.iter().find(|case| message["params"]["name"] == case.tool).unwrap();
                    let answer = (case.answer)();
                    let member = if answer.starts_with("{\"code\"") { "error" } else { "result" };
                    let answer = format!(r#"{{"jsonrpc":"2.0","id":{id},"{member}":{answer}}}"#);
                    match case.form {
                        Form::Body => wire.json(&answer).await,
                        Form::Events => {
                            wire.begin_events().await;
                            wire.chunk(&format!("{}data: {answer}\n\n", (case.before)())).await;
                            wire.end_chunks().await;
                        }
                    }
                    told.send(()).ok();
                }
                Some("server/discover") => wire.json(&discovered(&id)).await,
                Some("initialize") => wire.json(&unknown_method(&id)).await,
                Some("tools/list") => {
                    let tools: Vec<Value> = CASES.iter().map(|case| tool(case.tool)).collect();
                    wire.json(&listed(&id, &json!(tools).to_string())).await;
                }
                _ => wire.result(&request).await,
            }
            Some(wire)
        }
    })
    .await
}

/// A modern server without tools.
async fn honest() -> Upstream {
    Upstream::start(|request: Request, mut wire: Wire| async move {
        let message: Value = serde_json::from_slice(&request.body).unwrap();
        match message["method"].as_str() {
            Some("server/discover") => wire.json(&discovered(&request.id())).await,
            Some("initialize") => wire.json(&unknown_method(&request.id())).await,
            Some("tools/list") => wire.json(&listed(&request.id(), "[]")).await,
            _ => wire.result(&request).await,
        }
        Some(wire)
    })
    .await
}

fn tool(name: &str) -> Value {
    json!({"name": name, "inputSchema": {"type": "object"}})
}

fn unknown_method(id: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{{"code":-32601,"message":"Method not found"}}}}"#)
}

fn discovered(id: &str) -> String {
    let result = r#"{"resultType":"complete","supportedVersions":["2026-07-28"],"capabilities":{"tools":{},"resources":{}},"ttlMs":60000,"cacheScope":"private"}"#;
    format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{result}}}"#)
}

fn listed(id: &str, tools: &str) -> String {
    format!(
        r#"{{"jsonrpc":"2.0","id":{id},"result":{{"resultType":"complete","ttlMs":60000,"cacheScope":"private","tools":{tools}}}}}"#
    )
}

/// A gateway with one worker and the hostile server on a merged endpoint, beside an endpoint of its own
/// for an honest one.
async fn gateway(hostile: &Upstream, honest: &Upstream) -> Gateway {
    let document = format!(
        "threads: 1\nupstreams:\n  hostile: http://{}/mcp\n  honest: http://{}/mcp\nservers:\n  \
         /mcp: {{ upstreams: [hostile, honest] }}\n  /passed: hostile\n  /probe: honest\n",
        hostile.address, honest.address
    );
    Gateway::start(&document).await
}

/// Calls a tool on a connection of its own, as a client of an era.
async fn call(gateway: &Gateway, era: Era, session: Option<&str>, tool: &str) -> Response {
    match era {
        Era::Modern => gateway.post("/mcp", &modern_headers(tool), &modern_call(1, tool)).await,
        Era::Legacy => {
            let headers = [("mcp-session-id", session.unwrap().to_owned())];
            let params = format!(r#"{{"name":"{tool}","arguments":{{}}}}"#);
            gateway.post("/mcp", &headers, &rpc(1, "tools/call", &params)).await
        }
    }
}

#[tokio::test]
async fn answers_of_servers_are_bounded_by_what_they_are() {
    let (told, _sent) = unbounded_channel();
    let (server, honest) = (hostile(told).await, honest().await);
    let gateway = gateway(&server, &honest).await;
    let legacy = Caller::new(Era::Legacy, gateway.address).ready().await;
    for era in [Era::Modern, Era::Legacy] {
        for case in CASES {
            let response = call(&gateway, era, legacy.session.as_deref(), case.tool).await;
            let body = String::from_utf8_lossy(&response.body);
            let start = &body[..body.len().min(300)];
            match case.refused {
                None => {
                    assert!(
                        body.contains("\"result\":") && !body.contains("\"error\":"),
                        "{}: {start}",
                        case.tool
                    );
                    let longest = (case.answer)().len().saturating_sub(60);
                    assert!(body.len() > longest, "{}: {} of {longest} bytes", case.tool, body.len());
                }
                Some(why) => {
                    assert_eq!(response.reason(), "upstream_malformed", "{era:?} {}: {start}", case.tool);
                    assert!(body.contains(why), "{era:?} {}: {start}", case.tool);
                }
            }
        }
    }
}

/// How many calls of another endpoint, one after the other, are answered while a call is under way whose
/// answer has been sent.
#[tokio::test]
async fn a_large_answer_stops_no_call_at_another_endpoint() {
    const PROBES: usize = 8;
    let (told, mut sent) = unbounded_channel();
    let (server, honest) = (hostile(told).await, honest().await);
    let gateway = gateway(&server, &honest).await;
    // So that all connections and lists are there.
    call(&gateway, Era::Modern, None, "small").await;
    sent.recv().await.unwrap();
    for tool in ["numbers", "tiny_lines"] {
        let mut probe = gateway.connect().await;
        let probes = std::sync::Mutex::new(0);
        let calling = call(&gateway, Era::Modern, None, tool);
        let probing = async {
            sent.recv().await.unwrap();
            loop {
                probe.post("/probe", &[], rpc(5, "ping", "{}").as_bytes()).await;
                assert_eq!(probe.response().await.status, 200);
                *probes.lock().unwrap() += 1;
            }
        };
        let response = tokio::select! {
            response = calling => response,
            () = probing => unreachable!("it probes for ever"),
        };
        assert_eq!(response.status, 200);
        let probes = *probes.lock().unwrap();
        assert!(probes >= PROBES, "{tool}: {probes} calls were answered meanwhile");
    }
}

/// Of 64 MiB that large answers of one server may take, two take 48. Of unknown length, each has 32 until it is there.
#[tokio::test]
async fn large_answers_that_nobody_reads_leave_no_room_for_more_until_they_go() {
    for (endpoint, tool, fit) in
        [("/mcp", "largest", 2), ("/mcp", "largest_event", 2), ("/passed", "largest_event", 2)]
    {
        unread_answers_take_room(endpoint, tool, fit).await;
    }
}

async fn unread_answers_take_room(endpoint: &str, tool: &str, fit: usize) {
    let (told, mut sent) = unbounded_channel();
    let (server, honest) = (hostile(told).await, honest().await);
    let gateway = gateway(&server, &honest).await;
    let mut unread = Vec::new();
    for client in 0..=fit {
        let last = u8::try_from(client + 2).unwrap();
        let stream = dial_from(Ipv4Addr::new(127, 0, 0, last), gateway.address).await.unwrap();
        let mut client = Client::over(stream, gateway.address);
        client.post(endpoint, &modern_headers(tool), modern_call(1, tool).as_bytes()).await;
        unread.push(client);
        if unread.len() <= fit {
            sent.recv().await.unwrap();
        }
    }
    for _ in 0..200 {
        assert_eq!(
            call(&gateway, Era::Modern, None, "small").await.status,
            200,
            "short answers need no room"
        );
        sent.recv().await.unwrap();
    }
    let taken = sent.try_recv().is_ok();
    assert!(!taken, "{endpoint} {tool}: one more answer was taken beside {fit} that nobody reads");
    unread.remove(0);
    sent.recv().await.unwrap();
    for client in &mut unread {
        assert!(client.response().await.body.len() > 24 << 20);
    }
}

#[tokio::test]
async fn lists_of_servers_are_bounded_and_long_ones_served() {
    for (name, items, expected) in [
        ("ten thousand tools", (0..10_000).map(|n| tool(&format!("t{n}")).to_string()).collect(), 10_000),
        ("millions of items", vec!["0".to_owned(); 2 << 20], 0),
    ] as [(&str, Vec<String>, usize); 2]
    {
        let list = format!("[{}]", items.join(","));
        let server = Upstream::start(move |request: Request, mut wire: Wire| {
            let list = list.clone();
            async move {
                let message: Value = serde_json::from_slice(&request.body).unwrap();
                match message["method"].as_str() {
                    Some("server/discover") => wire.json(&discovered(&request.id())).await,
                    Some("tools/list") => wire.json(&listed(&request.id(), &list)).await,
                    _ => wire.result(&request).await,
                }
                Some(wire)
            }
        })
        .await;
        let (told, _sent) = unbounded_channel();
        let other = hostile(told).await;
        let gateway = gateway(&server, &other).await;
        let mut caller = Caller::new(Era::Modern, gateway.address);
        let (mut tools, mut cursor) = (0, Value::Null);
        loop {
            let params = if cursor.is_null() { json!({}) } else { json!({"cursor": cursor}) };
            let said = caller.request("tools/list", params).await.unwrap();
            let result = &said.message["result"];
            tools += result["tools"].as_array().unwrap().len();
            cursor = result["nextCursor"].clone();
            if cursor.is_null() {
                break;
            }
        }
        assert_eq!(tools, expected + CASES.len(), "{name}");
        let status = gateway.status().await;
        let of_hostile = &status["servers"][0]["lists"]["members"][0]["lists"]["tools"];
        assert_eq!(
            of_hostile["state"],
            if expected > 0 { "known" } else { "missing" },
            "{name}: {of_hostile}"
        );
    }
}

#[tokio::test]
async fn templates_of_servers_are_bounded_in_number_length_and_work() {
    let hostile = "{+a}b".repeat(30);
    let templates = |templates: Vec<String>| {
        let items = templates.into_iter().map(|template| json!({"uriTemplate": template, "name": "t"}));
        json!({"resultType": "complete", "ttlMs": 60000, "cacheScope": "private", "resourceTemplates": items.collect::<Vec<_>>()})
    };
    let numbered = (0..19_000).map(|n| format!("{hostile}{n}{{+x}}"));
    let hostile_list = templates(numbered.chain(["x:".to_owned() + &"y".repeat(4_000)]).collect());
    let honest_list = templates(vec!["honest://{id}".to_owned()]);
    let server = |list: Value| {
        Upstream::start(move |request: Request, mut wire: Wire| {
            let list = list.clone();
            async move {
                let message: Value = serde_json::from_slice(&request.body).unwrap();
                let id = request.id();
                let result = match message["method"].as_str() {
                    Some("server/discover") => {
                        wire.json(&discovered(&id)).await;
                        return Some(wire);
                    }
                    Some("resources/templates/list") => list,
                    Some("resources/list") => {
                        json!({"resultType": "complete", "ttlMs": 60000, "cacheScope": "private", "resources": []})
                    }
                    Some("resources/read") => {
                        let contents = json!([{"uri": message["params"]["uri"], "text": "here"}]);
                        json!({"resultType": "complete", "ttlMs": 0, "cacheScope": "private", "contents": contents})
                    }
                    _ => json!({}),
                };
                wire.json(&format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{result}}}"#)).await;
                Some(wire)
            }
        })
    };
    let (hostile, honest) = (server(hostile_list).await, server(honest_list).await);
    let gateway = gateway(&hostile, &honest).await;
    let mut caller = Caller::new(Era::Modern, gateway.address);
    let uri = format!("honest://{}", "b".repeat(2_000));
    let said = caller.request("resources/read", json!({"uri": uri})).await.unwrap();
    assert_eq!(said.message["result"]["contents"][0]["text"], "here", "{}", said.all());
    let status = gateway.status().await;
    let lists = &status["servers"][0]["lists"];
    let of_hostile = &lists["members"][0]["lists"]["resourceTemplates"];
    assert_eq!(of_hostile["quarantined"]["count"], 18_001, "{of_hostile}");
    assert!(lists["lookupsCutShort"].as_u64().is_some_and(|lookups| lookups > 0), "{lists}");
    let told = |entry: &Value| {
        entry["message"].as_str().is_some_and(|said| said.contains("are not served"))
            && entry["count"] == 18_001
    };
    gateway.logged("what is not served", told).await;
}

#[tokio::test]
async fn what_servers_choose_acts_on_no_terminal_that_shows_status_or_log() {
    let name = "\u{202e}evil\u{9b}31m\u{200b}\u{2066}";
    let list = json!([{"name": name, "inputSchema": {}}, tool("good")]).to_string();
    let server = Upstream::start(move |request: Request, mut wire: Wire| {
        let list = list.clone();
        async move {
            let message: Value = serde_json::from_slice(&request.body).unwrap();
            match message["method"].as_str() {
                Some("server/discover") => wire.json(&discovered(&request.id())).await,
                Some("tools/list") => wire.json(&listed(&request.id(), &list)).await,
                _ => wire.result(&request).await,
            }
            Some(wire)
        }
    })
    .await;
    let other = honest().await;
    let gateway = gateway(&server, &other).await;
    let mut caller = Caller::new(Era::Modern, gateway.address);
    let said = caller.request("tools/list", json!({})).await.unwrap();
    assert_eq!(said.message["result"]["tools"].as_array().unwrap().len(), 1);
    gateway
        .logged("what is not served", |entry| {
            entry["name"].as_str().is_some_and(|name| name.contains("evil"))
        })
        .await;
    for path in ["/status", "/config", "/refusals"] {
        let shown = String::from_utf8(gateway.get(gateway.admin, path).await.body).unwrap();
        let acts = |one: &char| matches!(one, '\u{80}'..='\u{9f}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}');
        assert_eq!(shown.chars().find(acts), None, "{path}: {shown}");
        assert!(path != "/status" || shown.contains("evil"), "{shown}");
    }
    let status = gateway.status().await;
    let of_hostile =
        &status["servers"][0]["lists"]["members"][0]["lists"]["tools"]["quarantined"]["items"][0];
    assert_eq!(of_hostile["name"], name, "it reads back as it was");
}
