//! Answers that several clients share are inspected for each of them.

use super::*;
use crate::frontend::context::TEST_FILTERS;
use portunus_filters::filter::Filter;
use portunus_filters::inspect::Inspector;
use portunus_filters::{Call, Channel, Denial, Kind, Reason, Verdict};
use std::borrow::Cow;
use tokio::sync::watch;

/// Marks what servers say to a client by the name that its message has in `_meta`, and refuses it to `refused`.
struct MarksByReader {
    judged: watch::Sender<usize>,
}

#[derive(Debug)]
struct Reader(String);

impl Filter for MarksByReader {
    fn name(&self) -> &'static str {
        "marks-by-reader"
    }
    fn applies(&self, _: Kind) -> bool {
        true
    }
    fn judge(&self, call: &Call<'_>, verdict: &mut Verdict) -> Result<(), Denial> {
        let message: Value = serde_json::from_slice(&call.message.body).unwrap_or_default();
        if let Some(reader) = message["params"]["_meta"]["reader"].as_str() {
            verdict.inspectors.push(Arc::new(Reader(reader.to_owned())));
            self.judged.send_modify(|judged| *judged += 1);
        }
        Ok(())
    }
}

impl Inspector for Reader {
    fn inspect<'t>(&self, _: Channel, text: &'t str) -> Result<Cow<'t, str>, Denial> {
        match &*self.0 {
            "refused" => Err(Denial::new(Reason::Forbidden, "not for this reader")),
            reader => Ok(Cow::Owned(text.replace("SERVER", reader))),
        }
    }
}

const READ: &str = r#"{"resultType":"complete","contents":[{"uri":"a:1","text":"SERVER"}],"ttlMs":60000,"cacheScope":"SCOPE"}"#;
const TOOLS: &str = r#"{"resultType":"complete","tools":[{"name":"t","description":"SERVER","inputSchema":{"type":"object"}}],"ttlMs":60000,"cacheScope":"SCOPE"}"#;
const OFFERED: &str = r#"{"resultType":"complete","supportedVersions":["2026-07-28"],"capabilities":{"tools":{},"resources":{}},"ttlMs":60000,"cacheScope":"SCOPE"}"#;

/// A server whose answers have a scope, and are given when `go` has a permit for each.
struct Shared {
    stand: Stand,
    go: Arc<Semaphore>,
    judged: watch::Receiver<usize>,
}

impl Shared {
    /// `cache` are settings of the endpoint.
    async fn start(scope: &'static str, cache: &str) -> Shared {
        let go = Arc::new(Semaphore::new(0));
        let waits = Arc::clone(&go);
        let server = Server::start(move |asked, mut wire| {
            let waits = Arc::clone(&waits);
            async move {
                let result = match asked.method() {
                    "resources/read" => READ,
                    "tools/list" => TOOLS,
                    _ => OFFERED,
                };
                if asked.method() == "resources/read" {
                    waits.acquire().await.unwrap().forget();
                }
                wire.result(&asked, &result.replace("SCOPE", scope)).await;
                Some(wire)
            }
        })
        .await;
        let filter = Arc::new(MarksByReader { judged: watch::Sender::default() });
        let judged = filter.judged.subscribe();
        TEST_FILTERS.set(vec![filter]);
        let bed = Bed::of(&format!(
            "version: 1\nlisten: 127.0.0.1:0\nupstreams:\n  up: {{ url: \"http://{}/mcp\", era: modern, \
             trust_cache_scope: true }}\nservers:\n  /mcp: {{ upstreams: up, cache: {{ {cache} }} }}\n",
            server.address
        ));
        Shared { stand: Stand::of(server, Arc::new(Semaphore::new(0)), bed), go, judged }
    }

    /// Sends the read of a reader, and waits until it was judged.
    async fn send_read(&mut self, bearer: &str, reader: &str) -> TcpStream {
        let before = *self.judged.borrow_and_update();
        let fields = "MCP-Protocol-Version: 2026-07-28\r\nMcp-Method: resources/read\r\nMcp-Name: a:1\r\n";
        let mut params = envelope();
        params["uri"] = "a:1".into();
        params["_meta"]["reader"] = reader.into();
        let sent = self.stand.send(bearer, fields, &request("resources/read", params)).await;
        within("the judgement of a read", self.judged.wait_for(|judged| *judged > before)).await.unwrap();
        sent
    }

    /// The tools as a reader is told of them.
    async fn tools(&self, bearer: &str, reader: &str) -> Value {
        let fields = "MCP-Protocol-Version: 2026-07-28\r\nMcp-Method: tools/list\r\n";
        let mut params = envelope();
        params["_meta"]["reader"] = reader.into();
        self.stand.ask(bearer, fields, &request("tools/list", params)).await.1
    }
}

/// The text that a reader got, or the reason for which it got none.
async fn text_of(sent: TcpStream) -> String {
    let (_, said) = answered(sent).await;
    let text = said["result"]["contents"][0]["text"].as_str();
    assert!(!said.to_string().contains("SERVER"), "{said}");
    text.or(said["error"]["data"]["reason"].as_str()).unwrap_or_else(|| panic!("{said}")).to_owned()
}

/// Reads at the same time, one after the other as they are judged, and again once an answer is there.
async fn joined_and_kept(scope: &'static str, callers: [&str; 4], cache: &str) -> (Vec<String>, usize) {
    let mut shared = Shared::start(scope, cache).await;
    let [first, second, third, later] = callers;
    let sent = [
        shared.send_read(first, "first").await,
        shared.send_read(second, "refused").await,
        shared.send_read(third, "third").await,
    ];
    shared.stand.server.hears("resources/read").await;
    shared.go.add_permits(9);
    let mut texts = Vec::new();
    for sent in sent {
        texts.push(text_of(sent).await);
    }
    for reader in ["later", "refused"] {
        let sent = shared.send_read(later, reader).await;
        texts.push(text_of(sent).await);
    }
    (texts, shared.stand.reads())
}

const EACH: [&str; 5] = ["first", "forbidden", "third", "later", "forbidden"];

#[tokio::test]
async fn read_is_inspected_for_each_reader_of_a_joined_or_kept_answer() {
    let callers = [["ada"; 4], ["ada", "bo", "cy", "dee"]];
    for (scope, callers, reads) in
        [("private", callers[0], 1), ("public", callers[1], 1), ("private", callers[1], 4)]
    {
        let (texts, asked) = joined_and_kept(scope, callers, "max_ttl: 1h").await;
        assert_eq!((texts, asked), (EACH.map(str::to_owned).to_vec(), reads), "{scope} {callers:?}");
    }
}

#[tokio::test]
async fn read_is_inspected_for_each_reader_of_a_joined_answer_that_is_not_kept() {
    // No answer fits: what is not asked for again was joined.
    let (texts, asked) = joined_and_kept("public", ["ada", "bo", "cy", "dee"], "max_bytes: 1").await;
    assert_eq!(
        (texts, asked),
        (EACH.map(str::to_owned).to_vec(), 3),
        "one for three, and one for each later"
    );
}

#[tokio::test]
async fn read_that_its_first_reader_is_refused_is_given_to_others_as_their_inspectors_leave_it() {
    let mut shared = Shared::start("public", "max_ttl: 1h").await;
    let sent = [shared.send_read("ada", "refused").await, shared.send_read("bo", "second").await];
    shared.go.add_permits(9);
    let [first, second] = sent.map(text_of);
    assert_eq!((&*first.await, &*second.await), ("forbidden", "second"));
    let later = shared.send_read("cy", "later").await;
    assert_eq!((&*text_of(later).await, shared.stand.reads()), ("later", 1));
}

#[tokio::test]
async fn list_is_inspected_for_each_reader_of_a_kept_list() {
    for (scope, lists) in [("public", 1), ("private", 3)] {
        let shared = Shared::start(scope, "max_ttl: 1h").await;
        let mut texts = Vec::new();
        for (bearer, reader) in [("ada", "first"), ("ada", "again"), ("bo", "second"), ("cy", "refused")] {
            let said = shared.tools(bearer, reader).await;
            let text = said["result"]["tools"][0]["description"].as_str();
            texts.push(text.or(said["error"]["data"]["reason"].as_str()).unwrap_or_default().to_owned());
        }
        assert_eq!(texts, ["first", "again", "second", "forbidden"], "{scope}");
        assert_eq!(shared.stand.server.heard("tools/list").len(), lists, "{scope}");
    }
}
