//! Two callers, one credential towards the servers: neither sees anything of the other, and what one
//! has stolen from the other opens nothing.

use crate::harness::mcp::{Call, question, text, tool};
use crate::harness::{self, Caller, Era, Gateway, Mcp, Nature, Said};
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;
use tokio::task::JoinSet;

/// What the callers present, and what is in everything that is theirs.
const NAMES: [&str; 2] = ["caller-a", "caller-b"];

/// Calls of both together.
const CALLS: usize = 10_000;

/// Who calls where, for each caller.
const CLIENTS: [(Era, &str); 6] = [
    (Era::Legacy, "/mcp"),
    (Era::Legacy, "/mcp"),
    (Era::Modern, "/mcp"),
    (Era::Modern, "/mcp"),
    (Era::Legacy, "/vault"),
    (Era::Modern, "/desk"),
];

/// Tools that fill more than one page of any gateway.
const FILLERS: usize = 1_500;

/// A legacy server whose sessions remember who logged in, and which asks on its own.
async fn vault() -> Mcp {
    let tools = ["login", "whoami", "confide"].map(tool).to_vec();
    Mcp::start(Nature::of(Era::Legacy), tools, |call: Call| async move {
        let session = Arc::clone(call.session.as_ref().expect("a session"));
        match call.tool() {
            "login" => {
                *session.state.lock().unwrap() = call.text("user");
                Ok(text("welcome"))
            }
            "whoami" => Ok(text(session.state.lock().unwrap().clone())),
            _ => {
                let answer = call.elicit(&format!("The secret of {}?", call.text("user"))).await;
                Ok(text(format!("{} for {}", answer["result"]["content"]["name"], call.text("user"))))
            }
        }
    })
    .await
}

/// A modern server with more tools than one page, tasks, and calls of two rounds; whoever has one of
/// its handles gets what is behind it.
async fn desk() -> Mcp {
    let mut tools = ["ask", "begin"].map(tool).to_vec();
    let filler = "x".repeat(1_000);
    let padded = |number| json!({"name": format!("filler_{number}"), "description": filler, "inputSchema": {"type": "object"}});
    tools.extend((0..FILLERS).map(padded));
    Mcp::start(Nature { page: 500, ..Nature::of(Era::Modern) }, tools, |call: Call| async move {
        if call.method == "tasks/get" {
            return Ok(json!({"taskId": call.params["taskId"], "status": "working", "statusMessage": call.params["taskId"]}));
        }
        let user = call.text("user");
        if call.tool() == "begin" {
            let task = json!({"resultType": "task", "taskId": format!("task of {user}"), "status": "working"});
            return Ok(task);
        }
        let answer = &call.params["inputResponses"]["who"]["content"]["name"];
        if let (Some(name), Some(state)) = (answer.as_str(), call.params["requestState"].as_str()) {
            return Ok(text(format!("{name} in {state}")));
        }
        let asked = json!({"method": "elicitation/create", "params": question(&format!("The name of {user}?"))});
        let state = format!("state of {user}");
        Ok(json!({"resultType": "input_required", "inputRequests": {"who": asked}, "requestState": state}))
    })
    .await
}

struct World {
    vault: Mcp,
    desk: Mcp,
    gateway: Gateway,
    calls: AtomicUsize,
}

impl World {
    async fn start() -> World {
        let (vault, desk) = (vault().await, desk().await);
        let credentials = "credentials: { bearer: \"env:SHOWN_CREDENTIAL\" }";
        let document = format!(
            "level: info\nupstreams:\n  vault: {{ url: {}, {credentials} }}\n  desk: {{ url: {}, {credentials} }}\n\
             servers:\n  /vault: vault\n  /desk: desk\n  /mcp: {{ upstreams: [vault, desk] }}\n",
            vault.url(),
            desk.url()
        );
        let gateway = Gateway::start_as(&document, |_| {
            let mut command = harness::run();
            command.env("SHOWN_CREDENTIAL", "the-one-credential");
            command
        })
        .await;
        World { vault, desk, gateway, calls: AtomicUsize::new(0) }
    }

    fn caller(&self, era: Era, path: &str, name: &str) -> Caller {
        Caller::new(era, self.gateway.address).at(path).presenting(name)
    }
}

/// One client of a caller at work.
struct Client {
    caller: Caller,
    name: &'static str,
    era: Era,
    path: &'static str,
    world: Arc<World>,
}

impl Client {
    async fn start(world: &Arc<World>, name: &'static str, (era, path): (Era, &'static str)) -> Client {
        let caller = world.caller(era, path, name).ready().await;
        Client { caller, name, era, path, world: Arc::clone(world) }
    }

    /// Calls, and demands that nothing of the other is in what comes back.
    async fn call(&mut self, tool: &str) -> Said {
        self.world.calls.fetch_add(1, Ordering::SeqCst);
        let said = self.caller.call(tool, json!({"user": self.name})).await.unwrap();
        let other = NAMES.iter().find(|name| **name != self.name).unwrap();
        assert!(!said.all().contains(other), "{} sees {other}: {}", self.name, said.all());
        said
    }

    /// Works until both callers together have made their calls.
    async fn work(mut self) {
        while self.world.calls.load(Ordering::SeqCst) < CALLS {
            if self.path != "/desk" {
                self.visit_vault().await;
            }
            if self.path != "/vault" {
                let said = self.call("ask").await;
                assert_eq!(said.text(), format!("{0} in state of {0}", self.name), "{}", said.all());
            }
        }
    }

    async fn visit_vault(&mut self) {
        assert_eq!(self.call("login").await.text(), "welcome");
        let said = self.call("whoami").await;
        // A modern client has no session: each call may find another of its caller's, or a new one.
        assert!(
            said.text() == self.name || (self.era == Era::Modern && said.text().is_empty()),
            "{} in {} is {}",
            self.name,
            self.path,
            said.all()
        );
        let said = self.call("confide").await;
        assert_eq!(said.text(), format!("\"{0}\" for {0}", self.name), "{}", said.all());
    }
}

/// A session id with another's token, or with none, names nothing.
async fn stolen_session(world: &World, path: &str) {
    let mut owner = world.caller(Era::Legacy, path, NAMES[0]).ready().await;
    let id = owner.session.clone().unwrap();
    let bare = Caller::new(Era::Legacy, world.gateway.address).at(path).in_session(&id);
    for (mut thief, who) in
        [(world.caller(Era::Legacy, path, NAMES[1]).in_session(&id), "another's token"), (bare, "no token")]
    {
        let said = thief.call("whoami", json!({})).await.unwrap();
        let (_, head) = thief.stream(None).await.unwrap();
        let ended = thief.end().await.unwrap();
        println!(
            "{path}: a session id with {who}: POST {}, GET {}, DELETE {ended}",
            said.head.status, head.status
        );
        assert_eq!((said.head.status, head.status, ended), (404, 404, 404), "{}", said.all());
    }
    let said = owner.call("whoami", json!({})).await.unwrap();
    assert_eq!(said.head.status, 200, "the thief has ended the session: {}", said.all());
}

/// A request state that another presents opens nothing, and its owner may still use it.
async fn stolen_state(world: &World, path: &str, tool: &str) {
    let [mut owner, mut thief] = NAMES.map(|name| world.caller(Era::Modern, path, name));
    let params = json!({"name": tool, "arguments": {"user": NAMES[0]}});
    let asked = owner.request("tools/call", params.clone()).await.unwrap();
    let result = &asked.message["result"];
    assert_eq!(result["resultType"], "input_required", "{}", asked.all());
    let key = result["inputRequests"].as_object().unwrap().keys().next().unwrap().clone();
    let answer = json!({"action": "accept", "content": {"name": NAMES[1]}});
    let mut retry = params;
    retry["requestState"] = result["requestState"].clone();
    retry["inputResponses"] = json!({key.clone(): answer});
    let stolen = thief.request("tools/call", retry.clone()).await.unwrap();
    println!("{path} {tool}: another's request state: {} {}", stolen.head.status, stolen.message);
    assert!(stolen.code().is_some(), "another's request state opened something: {}", stolen.all());
    retry["inputResponses"][&key]["content"]["name"] = NAMES[0].into();
    let said = owner.request("tools/call", retry).await.unwrap();
    assert!(said.text().contains(NAMES[0]), "the owner cannot go on: {}", said.all());
    assert!(!said.text().contains(NAMES[1]), "the thief's answer was taken: {}", said.all());
}

/// A cursor is a place in the caller's own list and nothing of a server's: another's is unknown, unless
/// both lists are the same, and then it is the caller's own.
async fn stolen_cursor(world: &World, path: &str) {
    let [mut owner, mut thief] = NAMES.map(|name| world.caller(Era::Modern, path, name));
    let first = owner.request("tools/list", json!({})).await.unwrap();
    let cursor = first.message["result"]["nextCursor"].clone();
    assert!(cursor.is_string(), "one page has it all, nothing is shown: {}", first.head.status);
    let own = thief.request("tools/list", json!({})).await.unwrap().message["result"].clone();
    let taken = thief.request("tools/list", json!({"cursor": cursor})).await.unwrap();
    let same = own["nextCursor"] == cursor && own["tools"] == first.message["result"]["tools"];
    println!("{path}: another's cursor: {} {}; same list: {same}", taken.head.status, taken.message["error"]);
    assert_eq!(taken.code(), (!same).then_some(-32602), "another's cursor was taken");
    // What the server itself gave as a cursor is a number; it would lead whoever knows it.
    let minted = thief.request("tools/list", json!({"cursor": "500"})).await.unwrap();
    assert_eq!(minted.code(), Some(-32602), "the server's own cursor was taken");
    let next = owner.request("tools/list", json!({"cursor": cursor})).await.unwrap();
    assert!(next.message["result"]["tools"].is_array(), "the owner cannot go on: {}", next.message["error"]);
}

/// A task that another asks for is unknown.
async fn stolen_task(world: &World, path: &str) {
    let [mut owner, mut thief] = NAMES.map(|name| world.caller(Era::Modern, path, name));
    let begun = owner.call("begin", json!({"user": NAMES[0]})).await.unwrap();
    let task = begun.message["result"]["taskId"].clone();
    assert!(task.is_string(), "no task: {}", begun.all());
    let stolen = thief.request("tasks/get", json!({"taskId": task})).await.unwrap();
    println!("{path}: another's task: {} {}", stolen.head.status, stolen.message);
    assert!(stolen.code().is_some() && !stolen.all().contains("task of"), "another's task was shown");
    let own = owner.request("tasks/get", json!({"taskId": task})).await.unwrap();
    assert_eq!(own.message["result"]["taskId"], task, "the owner's task is gone: {}", own.all());
}

pub(super) async fn run() {
    let world = Arc::new(World::start().await);
    let start = Instant::now();
    let mut clients = JoinSet::new();
    for name in NAMES {
        for way in CLIENTS {
            let world = Arc::clone(&world);
            clients.spawn(async move { Client::start(&world, name, way).await.work().await });
        }
    }
    while let Some(ended) = clients.join_next().await {
        ended.unwrap();
    }
    let calls = world.calls.load(Ordering::SeqCst);
    println!(
        "{calls} interleaved calls of two callers in {:.1?}: neither saw anything of the other",
        start.elapsed()
    );
    for (name, server) in [("vault", &world.vault), ("desk", &world.desk)] {
        let counts = server.counts();
        println!("{name}: {counts:?}");
        let shown: Vec<_> = counts.keys().filter(|what| what.starts_with("Bearer ")).collect();
        assert_eq!(shown, ["Bearer the-one-credential"], "credentials that {name} got");
    }
    for path in ["/vault", "/mcp"] {
        stolen_session(&world, path).await;
        stolen_state(&world, path, "confide").await;
    }
    for path in ["/desk", "/mcp"] {
        stolen_state(&world, path, "ask").await;
        stolen_cursor(&world, path).await;
    }
    for path in ["/desk", "/mcp"] {
        stolen_task(&world, path).await;
    }
}
