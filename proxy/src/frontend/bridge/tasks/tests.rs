use crate::authorize::FailedLookups;
use crate::backend::headers::Stamp;
use crate::frontend::bridge::modern;
use crate::frontend::bridge::responder::{Part, Responder, Sink};
use crate::frontend::bridge::served_call::ServedCall;
use crate::frontend::call_context::CallContext;
use crate::frontend::context::MessageSnapshot;
use crate::frontend::session::End;
use crate::identify::ConnectionState;
use crate::record::RecordGuard;
use crate::sealing::CallerKey;
use crate::testing::origin;
use crate::testing::{Asked, Bed, Server, Wire, within};
use bytes::Bytes;
use http::Version;
use portunus_config::ServerId;
use portunus_filters::identity::Principal;
use portunus_filters::mcp::headers::Mirror;
use portunus_filters::mcp::{Bounds, Revision};
use portunus_filters::message::{Reading, read};
use portunus_filters::{Arrival, Denial, Identity, Message, Reason};
use serde_json::Value;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::sync::mpsc;

const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// A modern server whose tool makes a task; both servers mint the same ids.
async fn serve(asked: Asked, mut wire: Wire) -> Option<Wire> {
    let task = r#""taskId":"t-1","status":"working","ttlMs":1.50"#;
    let result = match asked.method() {
        "server/discover" => r#"{"resultType":"complete","supportedVersions":["2026-07-28"],"capabilities":{"tools":{},"extensions":{"io.modelcontextprotocol/tasks":{}}}}"#.to_owned(),
        "tools/list" => r#"{"resultType":"complete","tools":[{"name":"work","inputSchema":{"type":"object"}}]}"#.to_owned(),
        "tools/call" => format!(r#"{{"resultType":"task",{task}}}"#),
        "tasks/get" => format!(r#"{{"resultType":"complete",{task}}}"#),
        _ => r#"{"resultType":"complete"}"#.to_owned(),
    };
    wire.result(&asked, &result).await;
    Some(wire)
}

/// Two such servers, and an endpoint for both and one for the first alone.
async fn two() -> (Server, Server, Bed) {
    let (one, two) = (Server::start(serve).await, Server::start(serve).await);
    let text = format!(
        "version: 1\nlisten: 127.0.0.1:0\nupstreams:\n  one: http://{}/mcp\n  two: http://{}/mcp\nservers:\n  \
         /both: {{ upstreams: [one, two], names: prefix }}\n  /one: one\n",
        one.address, two.address
    );
    let bed = Bed::of(&text);
    (one, two, bed)
}

fn message(method: &str, name: (&str, &str)) -> Message {
    let meta = r#"{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{"extensions":{"io.modelcontextprotocol/tasks":{}}}}"#;
    let (key, name) = name;
    let body = format!(
        r#"{{"jsonrpc":"2.0","id":1,"method":"{method}","params":{{"{key}":"{name}","_meta":{meta}}}}}"#
    );
    let mirror = Mirror { version: Some("2026-07-28"), method: Some(method), name: Some(name) };
    match read(&Bytes::from(body), &Bounds::default(), &mirror, &Revision::ALL).unwrap() {
        Reading::One(message) => message,
        Reading::Batch(_) => panic!("a batch"),
    }
}

fn arrival(bed: &Bed, caller: &str) -> Arrival {
    Arrival {
        listener: "l".into(),
        source: LOCAL,
        identity: Identity::Principal(Arc::new(Principal::named("t", caller))),
        request_id: "r".into(),
        at: bed.gateway.clock.now(),
    }
}

/// What `caller` is answered at an endpoint.
async fn answer(bed: &Bed, path: &str, caller: &str, message: &Message) -> Result<Value, Denial> {
    let active = bed.gateway.active();
    let server = active.snapshot.routes.server(&ServerId(format!("*|{path}").into())).cloned().unwrap();
    let arrival = arrival(bed, caller);
    let identity = &arrival.identity.clone();
    let (parts, ()) = http::Request::post("/").body(()).unwrap().into_parts();
    let call = CallContext {
        authorization: None,
        snapshot: MessageSnapshot::holding(active),
        server,
        parts: Arc::new(parts),
        origin: Arc::new(origin(arrival.clone())),
        connection_state: Arc::new(ConnectionState::new(bed.gateway.drain.phases().child())),
        caller: CallerKey::for_tables(identity, &[]),
        bearer: CallerKey::for_seals(identity),
        sent_headers: Arc::default(),
        client_headers: Arc::default(),
        serial: 0,
        write_timeout: Duration::from_secs(1),
        takes_events: true,
        era: message.era,
        relayed: false,
        software: OnceLock::new(),
        failed_lookups: FailedLookups::default(),
        long_texts: None,
        audience: OnceLock::new(),
    };
    let served = ServedCall { gateway: &bed.gateway, context: &call };
    let (sender, mut parts) = mpsc::channel(8);
    let mut record = RecordGuard::new(&bed.gateway.recorder, &arrival);
    let mut out = Responder {
        sink: Sink::Batch(sender),
        record: &mut record,
        stamp: Stamp { request_id: "r", origin: None },
        write_timeout: Duration::from_secs(1),
        phases: bed.gateway.drain.phases(),
        version: Version::HTTP_11,
        takes_events: true,
        begun: false,
    };
    match within("the answer", modern::serve(&served, message, &mut out)).await {
        End::Refused(denial) => Err(denial),
        _ => match parts.recv().await {
            Some(Part::Answer(answer, _)) => Ok(serde_json::from_str(answer.text()).unwrap()),
            other => panic!("no answer: {other:?}"),
        },
    }
}

/// The id of a task that a tool makes.
async fn task(bed: &Bed, path: &str, tool: &str) -> String {
    let made = answer(bed, path, "anna", &message("tools/call", ("name", tool))).await.unwrap();
    assert_eq!(made["result"]["resultType"], "task");
    made["result"]["taskId"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn messages_about_a_task_reach_the_server_that_made_it_in_its_own_words() {
    let (one, two, bed) = two().await;
    let id = task(&bed, "/both", "two_work").await;
    assert!(!id.contains("t-1"), "{id}");
    for method in ["tasks/get", "tasks/update", "tasks/cancel"] {
        answer(&bed, "/both", "anna", &message(method, ("taskId", &id))).await.unwrap();
        let [heard] = &two.heard(method)[..] else { panic!("{method}") };
        assert_eq!((&heard.body["params"]["taskId"], heard.header("mcp-name")), (&"t-1".into(), Some("t-1")));
        assert!(one.heard(method).is_empty());
    }
    let state = answer(&bed, "/both", "anna", &message("tasks/get", ("taskId", &id))).await.unwrap();
    assert_eq!(state["result"]["taskId"], id, "the client knows it by this name");
    assert_eq!(state["result"]["status"], "working");
}

#[tokio::test]
async fn the_task_of_another_reads_as_one_that_never_was() {
    let (one, _two, bed) = two().await;
    let id = task(&bed, "/one", "work").await;
    let known = message("tasks/get", ("taskId", &id));
    assert!(answer(&bed, "/one", "anna", &known).await.is_ok());
    for (name, path, caller, shown) in [
        ("another caller", "/one", "bert", &*id),
        ("another endpoint", "/both", "anna", &*id),
        ("the server's own id", "/one", "anna", "t-1"),
    ] {
        let refused = answer(&bed, path, caller, &message("tasks/get", ("taskId", shown))).await.unwrap_err();
        assert_eq!((refused.reason, &*refused.detail), (Reason::InvalidParams, "Task not found"), "{name}");
    }
    assert_eq!(one.heard("tasks/get").len(), 1);
}

#[tokio::test]
async fn a_task_stays_with_the_replica_that_made_it() {
    let (one, two) = (Server::start(serve).await, Server::start(serve).await);
    let bed = Bed::of(&format!(
        "version: 1\nlisten: 127.0.0.1:0\nupstreams:\n  up: {{ replicas: ['http://{}/mcp', 'http://{}/mcp'] }}\n\
         servers:\n  /up: up\n",
        one.address, two.address
    ));
    for _ in 0..4 {
        let id = task(&bed, "/up", "work").await;
        for _ in 0..3 {
            answer(&bed, "/up", "anna", &message("tasks/get", ("taskId", &id))).await.unwrap();
        }
    }
    for server in [one, two] {
        let made = server.heard("tools/call").len();
        assert!(made > 0, "replicas take turns");
        assert_eq!(server.heard("tasks/get").len(), 3 * made);
    }
}
