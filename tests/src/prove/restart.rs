//! A server that restarts between two calls has lost its sessions: the next call works or fails, but it
//! never succeeds without having been made.

use crate::harness::mcp::{Call, text, tool};
use crate::harness::{Caller, Era, Gateway, Lost, Mcp, Nature, Runtime, Said, Server};
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What servers answer for a session that they do not know: as the specification wants it, as some do,
/// and as none should.
const UNKNOWN: [u16; 4] = [404, 400, 202, 200];

/// Clients and the paths that they go to: transparent, and one of two members.
const WAYS: [(Era, &str); 4] =
    [(Era::Legacy, "/plain"), (Era::Legacy, "/both"), (Era::Modern, "/plain"), (Era::Modern, "/both")];

fn document(counter: &str, other: &str) -> String {
    format!(
        "level: info\nupstreams:\n  counter: {counter}\n  other: {other}\nservers:\n  /plain: counter\n  \
         /both: {{ upstreams: [counter, other] }}\n"
    )
}

/// How a call after the restart came out.
#[derive(Debug, PartialEq, Eq)]
enum After {
    /// The tool ran, and the answer is its.
    Works,
    /// An error, or a session that is gone.
    Fails,
}

/// Judges a call by what the server counted: `ran` executions since the restart.
fn judge(what: &str, said: &Result<Said, Lost>, expected: usize, ran: usize) -> After {
    let said = said.as_ref().unwrap_or_else(|lost| panic!("{what}: no answer: {lost:?}"));
    let failed =
        said.head.status >= 400 || said.code().is_some() || said.message["result"]["isError"] == true;
    if failed {
        assert_eq!(ran, 0, "{what}: the tool ran and the call failed: {}", said.all());
        return After::Fails;
    }
    assert_eq!(ran, 1, "{what}: success, and the tool ran {ran} times: {}", said.all());
    assert_eq!(said.text(), expected.to_string(), "{what}: an empty success: {}", said.all());
    After::Works
}

/// A server of scripts forgets its sessions.
async fn scripted(unknown: u16) {
    let ran = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&ran);
    let answer = move |_: Call| {
        let count = counted.fetch_add(1, Ordering::SeqCst) + 1;
        async move { Ok(text(count.to_string())) }
    };
    let counter =
        Mcp::start(Nature { unknown, ..Nature::of(Era::Legacy) }, vec![tool("count")], answer).await;
    let other = Mcp::naming(Nature::of(Era::Modern), &["other".to_owned()]).await;
    let gateway = Gateway::start(&document(&counter.url(), &other.url())).await;
    for (era, path) in WAYS {
        let what = format!("{era:?} client at {path}, unknown sessions get {unknown}");
        let mut caller = Caller::new(era, gateway.address).at(path).ready().await;
        let before = ran.load(Ordering::SeqCst);
        judge(&what, &caller.call("count", json!({})).await, before + 1, ran.load(Ordering::SeqCst) - before);
        counter.forget();
        let before = ran.load(Ordering::SeqCst);
        let said = caller.call("count", json!({})).await;
        let after = judge(&what, &said, before + 1, ran.load(Ordering::SeqCst) - before);
        println!("{what}: the call after the restart {after:?}");
        if era == Era::Modern && unknown == 404 {
            assert_eq!(after, After::Works, "{what}: a modern client has no session to lose");
        }
        let mut caller = caller.ready().await;
        let before = ran.load(Ordering::SeqCst);
        let said = caller.call("count", json!({})).await;
        let again = judge(&what, &said, before + 1, ran.load(Ordering::SeqCst) - before);
        // What says yes to sessions that it does not know cannot be told from what has nothing to say.
        assert!(again == After::Works || unknown < 300, "{what}: a new session does not help");
    }
}

/// A real server is killed and started anew; its tool counts for itself, from one.
async fn real() {
    let program = (Runtime::Python1, "upstream_legacy.py");
    let mut server = Server::start(program.0, program.1).await;
    let other = Mcp::naming(Nature::of(Era::Modern), &["other".to_owned()]).await;
    let gateway = Gateway::start(&document(&server.url(), &other.url())).await;
    for (era, path) in WAYS {
        let what = format!("{era:?} client at {path}, {}", program.1);
        server.restart(program.0, program.1, &[]).await;
        let mut caller = Caller::new(era, gateway.address).at(path).ready().await;
        assert_eq!(caller.call("touch", json!({})).await.unwrap().text(), "1", "{what}");
        server.restart(program.0, program.1, &[]).await;
        let said = caller.call("touch", json!({})).await.unwrap();
        let works = said.text() == "1";
        println!("{what}: the call after the restart {:?}", if works { After::Works } else { After::Fails });
        let failed =
            said.head.status >= 400 || said.code().is_some() || said.message["result"]["isError"] == true;
        assert!(works || failed, "{what}: an empty success: {}", said.all());
        let mut caller = caller.ready().await;
        // The server's own count tells whether the call before ran, whatever it answered.
        let next = if works { "2" } else { "1" };
        assert_eq!(caller.call("touch", json!({})).await.unwrap().text(), next, "{what}");
    }
}

pub(super) async fn run() {
    for unknown in UNKNOWN {
        scripted(unknown).await;
    }
    real().await;
}

#[tokio::test]
#[should_panic(expected = "success, and the tool ran 0 times")]
async fn an_empty_success_is_seen() {
    let nature = Nature { unknown: 200, ..Nature::of(Era::Legacy) };
    let server = Mcp::naming(nature, &["count".to_owned()]).await;
    let mut caller = Caller::new(Era::Legacy, server.address()).ready().await;
    server.forget();
    judge("without a gateway", &caller.call("count", json!({})).await, 1, 0);
}
