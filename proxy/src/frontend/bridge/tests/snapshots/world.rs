//! Serves calls through a gateway whose configuration is replaced when a test says so.

use super::super::*;
use crate::frontend::context::{Gateway, TEST_FILTERS};
use portunus_config::{MapEnvironment, load_text};
use portunus_filters::call::Edit;
use portunus_filters::filter::Filter;
use portunus_filters::inspect::Inspector;
use portunus_filters::mcp::Span;
use portunus_filters::{Call, Channel, Denial, Kind, Reason, Verdict};
use std::borrow::Cow;
use std::collections::HashMap;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::task::{Context, Poll};

const INITIALIZED: &str =
    r#"{"protocolVersion":"2025-11-25","capabilities":{"tools":{}},"serverInfo":{"name":"s","version":"1"}}"#;
const OFFERED: &str = r#"{"resultType":"complete","supportedVersions":["2026-07-28"],"capabilities":{"tools":{}},"serverInfo":{"name":"s","version":"1"},"ttlMs":0,"cacheScope":"private"}"#;
const ASKS: &str = r#"{"jsonrpc":"2.0","id":"q","method":"elicitation/create","params":{"message":"?","requestedSchema":{"type":"object","properties":{}}}}"#;

/// Writes the name of its revision into the arguments of calls and into what servers say to them.
#[derive(Debug)]
struct Marks {
    revision: String,
    allows_questions: bool,
}

impl Filter for Marks {
    fn name(&self) -> &'static str {
        "marks"
    }
    fn applies(&self, _: Kind) -> bool {
        true
    }
    fn judge(&self, call: &Call<'_>, verdict: &mut Verdict) -> Result<(), Denial> {
        if call.message.kind == Kind::ServerRequest && !self.allows_questions {
            return Err(Denial::new(Reason::Forbidden, "no questions"));
        }
        let body = &call.message.body;
        for at in memchr::memmem::find_iter(body, "JUDGED") {
            let span = Span::locate(body, &body[at..at + "JUDGED".len()]).unwrap();
            verdict.edits.push(Edit { owner: "marks", span, with: self.revision.clone().into() });
        }
        verdict.inspectors.push(Arc::new(Marks { revision: self.revision.clone(), allows_questions: true }));
        Ok(())
    }
}

impl Inspector for Marks {
    fn inspect<'t>(&self, _: Channel, text: &'t str) -> Result<Cow<'t, str>, Denial> {
        Ok(Cow::Owned(text.replace("INSPECTED", &self.revision)))
    }
}

/// A swap right before or after a certain poll of the connection that is accepted next.
#[derive(Default)]
pub(super) struct Plan {
    pub(super) at: AtomicUsize,
    pub(super) is_after: AtomicBool,
    pub(super) swap: Mutex<Option<Box<dyn FnOnce() + Send>>>,
    polls: AtomicUsize,
    pub(super) most_alive: AtomicI64,
}

impl Plan {
    fn swap(&self) {
        let swap = self.swap.lock().unwrap().take();
        swap.into_iter().for_each(|swap| swap());
    }
}

/// A connection that is served under a plan.
struct Planned<F> {
    served: Pin<Box<F>>,
    gateway: Arc<Gateway>,
    plan: Arc<Plan>,
    at: usize,
    polls: usize,
}

impl<F: Future<Output = ()>> Future for Planned<F> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        self.polls += 1;
        let is_after = self.plan.is_after.load(Ordering::SeqCst);
        if self.polls == self.at && !is_after {
            self.plan.swap();
        }
        let served = self.served.as_mut().poll(context);
        if self.polls == self.at && is_after {
            self.plan.swap();
        }
        if self.at > 0 {
            self.plan.polls.store(self.polls, Ordering::SeqCst);
            self.plan.most_alive.fetch_max(self.gateway.metrics.snapshots_alive.get(), Ordering::SeqCst);
        }
        served
    }
}

/// A server that is behind two upstreams of each revision, and a gateway before it that serves planned connections.
pub(super) struct World {
    pub(super) stand: Stand,
    pub(super) plan: Arc<Plan>,
    era: &'static str,
    log: PathBuf,
    pub(super) revision: AtomicUsize,
    /// Calls wait for it at the server.
    pub(super) go: Arc<Semaphore>,
}

/// The revision and the upstream in the path of a request.
fn path_of(asked: &Asked) -> (String, String) {
    let mut parts = asked.head.split(' ').nth(1).unwrap().split('/').skip(1);
    (parts.next().unwrap().to_owned(), parts.next().unwrap().to_owned())
}

async fn answer(asked: Asked, mut wire: Wire, go: Arc<Semaphore>) -> Option<Wire> {
    let (revision, upstream) = path_of(&asked);
    match asked.method() {
        "server/discover" => wire.result(&asked, OFFERED).await,
        "initialize" => wire.result(&asked, INITIALIZED).await,
        "tools/list" => {
            let name = if upstream == "one" { "echo" } else { "other" };
            let tools = json!({"resultType": "complete", "ttlMs": 0, "cacheScope": "private",
                "tools": [{"name": name, "inputSchema": {"type": "object"}}]});
            wire.result(&asked, &tools.to_string()).await;
        }
        "tools/call" => {
            let token = asked.body["params"]["_meta"]["progressToken"].to_string();
            wire.begin_events().await;
            wire.event(&PROGRESS.replace("ID", &token)).await;
            go.acquire().await.unwrap().forget();
            if asked.body["params"]["arguments"]["asks"] == true {
                wire.event(ASKS).await;
                go.acquire().await.unwrap().forget();
            }
            let said = json!({"resultType": "complete", "content": [{"type": "text", "text": "INSPECTED"}],
                "structuredContent": {"sent": revision, "judged": asked.body["params"]["arguments"]["rev"]}});
            wire.event(&format!(r#"{{"jsonrpc":"2.0","id":{},"result":{said}}}"#, asked.id())).await;
            wire.end().await;
        }
        "GET" => wire.status("405 No", "", "").await,
        _ => {
            if asked.body["id"] == "q" {
                go.add_permits(1);
            }
            wire.accepted().await;
        }
    }
    Some(wire)
}

/// Puts a revision in force.
fn filters_of(revision: usize, allows_questions: bool) {
    let marks = Marks { revision: format!("r{revision}"), allows_questions };
    TEST_FILTERS.set(vec![Arc::new(marks)]);
}

fn document(revision: usize, era: &str, address: SocketAddr, log: &Path) -> String {
    let upstream = |name: &str| {
        format!(
            "  {name}_r{revision}: {{ url: \"http://{address}/r{revision}/{name}\", era: {era}, \
             pool: {{ max_connections: 4000 }} }}\n"
        )
    };
    format!(
        "version: 1\nrevision: r{revision}\nlisten: 127.0.0.1:0\naccess_log: {}\nupstreams:\n{}{}\
         servers:\n  /mcp: {{ upstreams: [one_r{revision}, two_r{revision}] }}\n",
        log.display(),
        upstream("one"),
        upstream("two")
    )
}

impl World {
    pub(super) async fn start(era: &'static str, name: &str) -> World {
        let go = Arc::new(Semaphore::new(0));
        let told = Arc::clone(&go);
        let server = Server::start(move |asked, wire| answer(asked, wire, Arc::clone(&told))).await;
        let log = std::env::temp_dir().join(format!("portunus-{}-{name}-{era}", std::process::id()));
        std::fs::remove_file(&log).ok();
        filters_of(0, true);
        let bed = Bed::of(&document(0, era, server.address, &log));
        let plan = Arc::<Plan>::default();
        let stand = accepting(server, bed, Arc::clone(&plan)).await;
        World { stand, plan, era, log, revision: AtomicUsize::new(0), go }
    }

    /// Has the next revision put in force when this is called.
    pub(super) fn next_revision(&self, allows_questions: bool) -> impl FnOnce() + Send + use<> {
        let revision = self.revision.fetch_add(1, Ordering::SeqCst) + 1;
        let text = document(revision, self.era, self.stand.server.address, &self.log);
        let gateway = Arc::clone(&self.stand.bed.gateway);
        move || {
            filters_of(revision, allows_questions);
            gateway.activate(load_text(&text, Path::new("t.yaml"), &MapEnvironment::default()).unwrap());
        }
    }

    pub(super) fn alive(&self) -> i64 {
        self.stand.bed.gateway.metrics.snapshots_alive.get()
    }

    /// The fields of a client of an era, and its call.
    pub(super) async fn call(&self, client: &str, id: &str, arguments: Value) -> (String, Value) {
        let mut params = json!({"name": "echo", "arguments": arguments});
        let fields = match client {
            "modern" => {
                params["_meta"] = envelope()["_meta"].clone();
                params["_meta"]["io.modelcontextprotocol/clientCapabilities"] = json!({"elicitation": {}});
                "MCP-Protocol-Version: 2026-07-28\r\nMcp-Method: tools/call\r\nMcp-Name: echo\r\n".to_owned()
            }
            _ => {
                params["_meta"] = json!({});
                self.stand.session().await
            }
        };
        params["_meta"]["progressToken"] = "t".into();
        (format!("X-Request-Id: {id}\r\n{fields}"), request("tools/call", params))
    }

    /// Sends a call in two pieces, the second once the first was read.
    #[expect(clippy::disallowed_methods, reason = "a client's connection, not one of the gateway's")]
    pub(super) async fn send(&self, (fields, call): (String, Value)) -> TcpStream {
        let mut stream = TcpStream::connect(self.stand.clients).await.unwrap();
        let body = call.to_string();
        let head = format!(
            "POST /mcp HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer ada\r\nConnection: close\r\n\
             Accept: application/json, text/event-stream\r\nContent-Type: application/json\r\n{fields}\
             Content-Length: {}\r\n\r\n",
            body.len()
        );
        self.plan.polls.store(0, Ordering::SeqCst);
        stream.write_all(format!("{head}{}", &body[..9]).as_bytes()).await.unwrap();
        let read = async {
            while self.plan.polls.load(Ordering::SeqCst) == 0 {
                tokio::task::yield_now().await;
            }
        };
        within("the first poll", read).await;
        stream.write_all(&body.as_bytes()[9..]).await.unwrap();
        stream
    }

    /// Records of calls by their ids, once no more come.
    pub(super) fn records(&self) -> HashMap<String, Value> {
        self.stand.bed.gateway.recorder.access_log.close();
        let text = std::fs::read_to_string(&self.log).unwrap();
        std::fs::remove_file(&self.log).unwrap();
        let mut records = HashMap::new();
        let all = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        for record in all.filter(|record| record["action"] == "tools/call") {
            let id = record["request_id"].as_str().unwrap().to_owned();
            assert!(records.insert(id, record).is_none(), "two records of one call");
        }
        records
    }
}

/// A stand whose connections are served as planned.
async fn accepting(server: Server, bed: Bed, plan: Arc<Plan>) -> Stand {
    let socket = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let clients = socket.local_addr().unwrap();
    let connection_server = Arc::new(ConnectionServer::new(Arc::clone(&bed.gateway), &[clients], None));
    let gateway = Arc::clone(&bed.gateway);
    let serving = tokio::spawn(async move {
        while let Ok((stream, _)) = socket.accept().await {
            let (served, gateway) = (Box::pin(connection_server.run(stream)), Arc::clone(&gateway));
            let at = plan.at.swap(0, Ordering::SeqCst);
            tokio::spawn(Planned { served, gateway, plan: Arc::clone(&plan), at, polls: 0 });
        }
    });
    Stand { server, bed, clients, changes: Arc::new(Semaphore::new(0)), serving }
}
