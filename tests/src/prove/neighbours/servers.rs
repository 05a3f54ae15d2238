//! Servers of every hostile kind.

use crate::harness::mcp::{Call, Reply, text, tool};
use crate::harness::{Era, Mcp, Nature, Request, Upstream, Wire};
use serde_json::{Value, json};
use std::sync::Arc;

/// A server that does not behave, at an endpoint of its own.
pub(super) struct Unwell {
    /// Its name in the document.
    pub(super) name: &'static str,
    server: Server,
}

enum Server {
    Raw(Upstream),
    Scripted(Mcp),
}

impl Unwell {
    pub(super) fn url(&self) -> String {
        match &self.server {
            Server::Raw(upstream) => format!("http://{}/mcp", upstream.address),
            Server::Scripted(server) => server.url(),
        }
    }
}

/// What a server says to anything but what it is hostile with.
fn usual(method: &str) -> Value {
    match method {
        "server/discover" => json!({
            "resultType": "complete", "supportedVersions": ["2026-07-28"],
            "capabilities": {"tools": {}, "resources": {}}, "ttlMs": 60_000,
        }),
        "tools/list" => json!({"tools": [tool("t")], "ttlMs": 1_000, "resultType": "complete"}),
        "resources/list" => json!({"resources": [], "ttlMs": 1_000, "resultType": "complete"}),
        "resources/templates/list" => {
            json!({"resourceTemplates": [], "ttlMs": 1_000, "resultType": "complete"})
        }
        _ => json!({"content": [], "resultType": "complete"}),
    }
}

/// A modern server that answers one method with this result.
async fn answering(method: &'static str, result: String) -> Server {
    let result: Arc<str> = result.into();
    let serve = move |request: Request, mut wire: Wire| {
        let result = Arc::clone(&result);
        async move {
            let message: Value = serde_json::from_slice(&request.body).unwrap_or_default();
            let asked = message["method"].as_str().unwrap_or_default();
            let id = &message["id"];
            match asked == method {
                true => wire.json(&format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{result}}}"#)).await,
                false => {
                    wire.json(&json!({"jsonrpc": "2.0", "id": id, "result": usual(asked)}).to_string()).await;
                }
            }
            Some(wire)
        }
    };
    Server::Raw(Upstream::of_an_era(serve).await)
}

/// A server that sends this for everything, byte for byte.
async fn saying(text: String) -> Server {
    let text: Arc<str> = text.into();
    let serve = move |_: Request, mut wire: Wire| {
        let text = Arc::clone(&text);
        async move {
            wire.send(text.as_bytes()).await;
            None
        }
    };
    Server::Raw(Upstream::of_an_era(serve).await)
}

/// A legacy server whose only tool does this.
async fn scripted<F>(script: impl Fn(Call) -> F + Send + Sync + 'static) -> Server
where
    F: Future<Output = Reply> + Send + 'static,
{
    Server::Scripted(Mcp::start(Nature::of(Era::Legacy), vec![tool("t")], script).await)
}

fn many(count: usize, item: impl Fn(usize) -> String) -> String {
    (0..count).map(item).collect::<Vec<_>>().join(",")
}

/// All of them.
pub(super) async fn start() -> Vec<Unwell> {
    let keys = many(200_000, |number| format!("\"{number:x}\":0"));
    let tools = many(100_000, |number| format!("{{\"name\":\"t{number}\",\"inputSchema\":{{}}}}"));
    let templates = many(19_000, |number| {
        format!("{{\"uriTemplate\":\"x{{a}}{{b}}{{c}}://{{d}}-{{e}}/{{f}}{number}\",\"name\":\"n{number}\"}}")
    });
    let closed = |status: &str, kind: &str, body: &str| {
        format!(
            "HTTP/1.1 {status}\r\ncontent-type: {kind}\r\nretry-after: 5\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
            body.len()
        )
    };
    let line = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\ndata: {}",
        "x".repeat(8 << 20)
    );
    let result = |inner: String| format!("{{\"resultType\":\"complete\",{inner}}}");
    vec![
        Unwell {
            name: "bloat",
            server: answering("tools/call", result(format!("\"structuredContent\":{{{keys}}}"))).await,
        },
        Unwell {
            name: "large",
            server: answering(
                "tools/call",
                result(format!("\"content\":[{{\"type\":\"text\",\"text\":\"{}\"}}]", "y".repeat(20 << 20))),
            )
            .await,
        },
        Unwell {
            name: "long",
            server: answering("tools/list", result(format!("\"ttlMs\":1000,\"tools\":[{tools}]"))).await,
        },
        Unwell {
            name: "patterns",
            server: answering(
                "resources/templates/list",
                result(format!("\"ttlMs\":1000,\"resourceTemplates\":[{templates}]")),
            )
            .await,
        },
        Unwell {
            name: "limited",
            server: saying(closed("429 Too Many Requests", "text/plain", "later")).await,
        },
        Unwell { name: "html", server: saying(closed("200 OK", "text/html", "<html>hello</html>")).await },
        Unwell { name: "endless", server: saying(line).await },
        Unwell { name: "mute", server: Server::Raw(Upstream::silent().await.0) },
        Unwell { name: "shouting", server: scripted(|call| async move { Ok(text(call.tool())) }).await },
        Unwell {
            name: "asking",
            server: scripted(|call| async move { Ok(call.elicit(&"q".repeat(64 << 10)).await) }).await,
        },
    ]
}

/// Updates of resources with URIs of a megabyte, to all who listen.
pub(super) fn shout(unwell: &[Unwell]) {
    for server in unwell {
        if let (Server::Scripted(server), "shouting") = (&server.server, server.name) {
            for number in 0..2 {
                let uri = format!("x://{number}{}", "u".repeat((1 << 20) - 256));
                server.note("notifications/resources/updated", json!({"uri": uri}));
            }
        }
    }
}
