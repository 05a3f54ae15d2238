//! Two replicas of one gateway, with certificates for each other, behind a balancer that sends every
//! connection to the other one.

use crate::harness::mcp::{Call, question, text, tool};
use crate::harness::{
    self, Authority, Balancer, Caller, Era, Gateway, Mcp, Nature, free_address, rpc, within,
};
use crate::http_sse::Old;
use crate::replay::{Pace, Session, lost};
use serde_json::json;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

pub(crate) struct Pair {
    pub(crate) a: Gateway,
    pub(crate) b: Gateway,
    balancer: Balancer,
}

/// What a killed replica may cost its clients.
const AT_MOST: Duration = Duration::from_secs(10);

impl Pair {
    async fn before(servers: &[(&str, &Mcp)]) -> Pair {
        Pair::telling("", servers, "").await
    }

    /// With `more` at each upstream, and `rest` in the document.
    pub(crate) async fn telling(more: &str, servers: &[(&str, &Mcp)], rest: &str) -> Pair {
        let upstreams =
            servers.iter().map(|(name, mcp)| format!("  {name}: {{ url: \"{}\"{more} }}\n", mcp.url()));
        let names: Vec<&str> = servers.iter().map(|(name, _)| *name).collect();
        let document = format!(
            "{rest}upstreams:\n{}servers:\n  /mcp: {{ upstreams: [{names}], http_sse: true }}\n  \
             /kept: {{ upstreams: [{names}], replay: {{ events: 64 }} }}\n",
            upstreams.collect::<String>(),
            names = names.join(", ")
        );
        let [a, b] = replicas(&harness::binary(), &document).await;
        let balancer = Balancer::before(vec![a.address, b.address]).await;
        Pair { a, b, balancer }
    }

    pub(crate) fn caller(&self, era: Era) -> Caller {
        Caller::new(era, self.balancer.address).patient_for(AT_MOST).fresh()
    }
}

/// Starts two replicas of one gateway, each from `binary`.
pub(crate) async fn replicas(binary: &Path, document: &str) -> [Gateway; 2] {
    let authority = Authority::new("replicas");
    let places = [("a", free_address()), ("b", free_address())];
    let replica = |name| replica(name, places, &authority, binary, document);
    [replica("a").await, replica("b").await]
}

async fn replica(
    name: &str,
    places: [(&str, SocketAddr); 2],
    authority: &Authority,
    binary: &Path,
    document: &str,
) -> Gateway {
    let members = places.map(|(name, at)| format!("{name}: \"https://localhost:{}\"", at.port())).join(", ");
    let listen = places.iter().find(|place| place.0 == name).unwrap().1;
    let document = format!(
        "level: info\nlisten: 127.0.0.1:0\nreplica: {name}\nsealing: \"env:REPLICAS_SEAL\"\npeers:\n  listen: {listen}\n  tls: {{ ca: ca.pem, \
         certificate: own.pem, key: own.key }}\n  members: {{ {members} }}\n{document}"
    );
    let own = authority.issue(&["localhost"]);
    let ca = authority.pem();
    let place = |folder: &Path| {
        for (file, text) in [("ca.pem", &ca), ("own.pem", &own.chain), ("own.key", &own.key)] {
            std::fs::write(folder.join(file), text).unwrap();
        }
        let mut command = harness::run_binary(binary);
        command.env("REPLICAS_SEAL", "a key that only these tests use, and long enough");
        command
    };
    Gateway::start_as(&document, place).await
}

/// A server that asks for a name and keeps a state for each of its sessions.
async fn asking(era: Era) -> Mcp {
    let tool_name = if era == Era::Legacy { "old_ask" } else { "new_ask" };
    Mcp::start(Nature::of(era), vec![tool(tool_name)], |call: Call| async move {
        let name = match &call.session {
            Some(_) => call.elicit("Your name?").await["result"]["content"]["name"].clone(),
            None => call.params["inputResponses"]["who"]["content"]["name"].clone(),
        };
        match name.as_str() {
            Some(name) => Ok(text(format!("hello {name}"))),
            None => Ok(json!({
                "resultType": "input_required",
                "inputRequests": {"who": {"method": "elicitation/create", "params": question("Your name?")}},
                "requestState": "asked",
            })),
        }
    })
    .await
}

#[tokio::test]
async fn questions_of_servers_and_answers_of_clients_find_each_other_at_any_replica() {
    let (old, new) = (asking(Era::Legacy).await, asking(Era::Modern).await);
    let pair = Pair::before(&[("old", &old), ("new", &new)]).await;
    for era in [Era::Legacy, Era::Modern] {
        // An odd number of connections a round: the replicas change their parts.
        for round in 0..3 {
            let mut caller = pair.caller(era).ready().await;
            for name in ["old_ask", "new_ask"] {
                let said = caller.call(name, json!({})).await.unwrap();
                assert_eq!(said.text(), "hello Ada", "{era:?} {name} {round}: {}", said.all());
            }
        }
    }
}

#[tokio::test]
async fn messages_about_a_stream_of_2024_11_05_find_it_from_the_other_replica() {
    let server = asking(Era::Legacy).await;
    let mut pair = Pair::before(&[("old", &server)]).await;
    let mut old = Old::between(&pair.a, &pair.b).await;
    old.found().await;
    let asked = old.ask(&rpc(2, "tools/call", r#"{"name":"old_ask","arguments":{}}"#)).await;
    let content = json!({"action": "accept", "content": {"name": "Bo"}});
    let answer = json!({"jsonrpc": "2.0", "id": asked["id"], "result": content}).to_string();
    assert_eq!(old.ask(&answer).await["result"]["content"][0]["text"], "hello Bo");
    pair.a.signal("KILL");
    pair.a.ended().await;
    assert_eq!(old.post(&rpc(3, "ping", "{}")).await.status, 404, "a stream that is gone");
}

#[tokio::test]
async fn a_session_that_ended_at_one_replica_is_unknown_at_both() {
    let old = asking(Era::Legacy).await;
    let new = asking(Era::Modern).await;
    let pair = Pair::before(&[("old", &old), ("new", &new)]).await;
    let mut caller = Caller::new(Era::Legacy, pair.a.address).patient_for(AT_MOST).ready().await;
    let session = caller.session.clone().unwrap();
    let at = |address| Caller::new(Era::Legacy, address).patient_for(AT_MOST).in_session(&session);
    assert_eq!(caller.request("ping", json!({})).await.unwrap().head.status, 200);
    assert_eq!(at(pair.b.address).request("ping", json!({})).await.unwrap().head.status, 200);
    assert_eq!(at(pair.b.address).end().await, Ok(200));
    for address in [pair.a.address, pair.b.address] {
        assert_eq!(at(address).request("ping", json!({})).await.unwrap().head.status, 404);
    }
}

#[tokio::test]
async fn a_session_goes_on_within_seconds_when_its_home_is_killed() {
    let old = asking(Era::Legacy).await;
    let new = asking(Era::Modern).await;
    let pair = Pair::before(&[("old", &old), ("new", &new)]).await;
    let mut kept = Caller::new(Era::Legacy, pair.a.address).patient_for(AT_MOST).ready().await;
    let lost = Caller::new(Era::Legacy, pair.b.address).patient_for(AT_MOST).ready().await;
    let session = lost.session.clone().unwrap();
    let mut moved = Caller::new(Era::Legacy, pair.a.address).patient_for(AT_MOST).in_session(&session);
    let (_stream, head) = moved.stream(None).await.unwrap();
    assert_eq!(head.status, 200);

    pair.b.signal("KILL");
    // Whether the first has still reached it cannot be known, so it may say just that.
    let said = within(5, "an honest answer", moved.call("new_ask", json!({}))).await.unwrap();
    assert!(said.text() == "hello Ada" || said.code() == Some(-31503), "{}", said.all());
    let said = within(5, "the session to go on", moved.call("new_ask", json!({}))).await.unwrap();
    assert_eq!(said.text(), "hello Ada", "what its id says is enough: {}", said.all());
    assert_eq!(kept.call("new_ask", json!({})).await.unwrap().text(), "hello Ada");
    let mut again = pair.caller(Era::Legacy).ready().await;
    assert_eq!(again.call("old_ask", json!({})).await.unwrap().text(), "hello Ada");
}

#[tokio::test]
async fn a_call_is_taken_up_again_at_any_replica_while_its_home_lives() {
    let pace = Pace::start().await;
    let pair = Pair::before(&[("old", &pace.old), ("new", &pace.new)]).await;
    for name in ["old_count", "new_count"] {
        let session = Session::begin(pair.a.address, "/kept").await;
        let elsewhere = session.at(pair.b.address);
        let mut stream = session.call(7, name, json!({})).await;
        stream.primed().await;
        pace.step(1);
        let first = stream.event().await.unwrap();
        drop(stream);
        pace.step(3);
        let mut stream = elsewhere.get(Some(first.id())).await;
        stream.primed().await;
        assert_eq!(stream.gists().await, ["2", "3", "x"], "{name}");

        let mut stream = elsewhere.call(8, name, json!({})).await;
        let start = stream.primed().await;
        drop(stream);
        pace.step(4);
        let mut stream = session.get(Some(&start)).await;
        stream.primed().await;
        assert_eq!(stream.gists().await, ["1", "2", "3", "x"], "{name}: begun elsewhere");
    }
}

#[tokio::test]
async fn a_client_does_not_wait_for_an_answer_that_went_with_its_home() {
    let pace = Pace::start().await;
    let pair = Pair::before(&[("old", &pace.old), ("new", &pace.new)]).await;
    let session = Session::begin(pair.b.address, "/kept").await;
    let elsewhere = session.at(pair.a.address);
    let start = session.call(7, "new_count", json!({})).await.primed().await;
    let mut through = elsewhere.call(8, "new_count", json!({})).await;
    through.primed().await;
    pair.b.signal("KILL");
    let told = within(5, "an honest answer", through.event()).await.unwrap();
    assert_eq!(
        (told.message["id"].as_u64(), told.message["error"]["code"].as_i64()),
        (Some(8), Some(-31503))
    );
    let told = within(5, "an honest answer", elsewhere.get(Some(&start))).await.rest().await;
    assert_eq!(lost(&told, 7), "answer_lost");
}
