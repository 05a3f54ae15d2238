//! Sessions that change what they want to hear.

use super::admissions::{Counts, limited, reaches, stand_before};
use super::*;
use std::sync::Mutex;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

const CHANGED: &str = r#"{"jsonrpc":"2.0","method":"notifications/tools/list_changed","params":{}}"#;

/// The streams of a server, in the order in which they were asked for.
#[derive(Clone, Default)]
struct Streams {
    says: Arc<Mutex<Vec<UnboundedSender<&'static str>>>>,
    /// Streams that the gateway has left.
    left: Arc<Mutex<Vec<usize>>>,
}

impl Streams {
    fn begin(&self) -> (usize, UnboundedReceiver<&'static str>) {
        let (sender, told) = unbounded_channel();
        let mut says = self.says.lock().unwrap();
        says.push(sender);
        (says.len() - 1, told)
    }

    fn say(&self, stream: usize, text: &'static str) {
        self.says.lock().unwrap()[stream].send(text).unwrap();
    }

    async fn left(&self, stream: usize) {
        let left = async {
            while !self.left.lock().unwrap().contains(&stream) {
                tokio::task::yield_now().await;
            }
        };
        within("the end of a stream", left).await;
    }
}

async fn tell(asked: Asked, mut wire: Wire, streams: Streams) -> Option<Wire> {
    match asked.method() {
        "server/discover" => wire.result(&asked, DISCOVERED).await,
        "subscriptions/listen" => {
            let (number, mut told) = streams.begin();
            wire.begin_events().await;
            loop {
                tokio::select! {
                    Some(text) = told.recv() => wire.event(text).await,
                    () = wire.closed() => break,
                }
            }
            streams.left.lock().unwrap().push(number);
            return None;
        }
        _ => wire.accepted().await,
    }
    Some(wire)
}

/// Reads a stream until it has said something.
async fn heard(stream: &mut TcpStream, text: &str) {
    let mut told = String::new();
    let read = async {
        while !told.contains(text) {
            let mut piece = [0; 1024];
            let read = stream.read(&mut piece).await.unwrap();
            assert!(read > 0, "{told}");
            told.push_str(std::str::from_utf8(&piece[..read]).unwrap());
        }
    };
    within("what a server says", read).await;
}

#[tokio::test]
async fn a_stream_goes_on_until_the_one_in_its_place_is_acknowledged() {
    let streams = Streams::default();
    let script = streams.clone();
    let server = Server::start(move |asked, wire| tell(asked, wire, script.clone())).await;
    let stand = Stand::before(server, Arc::new(Semaphore::new(0)), ", era: modern");
    let fields = stand.session().await;
    let mut heard_by = stand.listen(&fields).await;
    stand.server.hears("subscriptions/listen").await;
    streams.say(0, ACKNOWLEDGED);
    streams.say(0, CHANGED);
    heard(&mut heard_by, "tools/list_changed").await;
    for uri in ["a:1", "a:2"] {
        let subscribe = request("resources/subscribe", json!({"uri": uri}));
        assert!(stand.ask("ada", &fields, &subscribe).await.1["result"].is_object());
        let listen = stand.server.hears("subscriptions/listen").await;
        let wanted = &listen.body["params"]["notifications"]["resourceSubscriptions"];
        assert!(wanted.as_array().unwrap().contains(&uri.into()), "{wanted}");
    }
    streams.left(1).await;
    streams.say(0, CHANGED);
    heard(&mut heard_by, "tools/list_changed").await;
    streams.say(2, ACKNOWLEDGED);
    streams.say(2, UPDATED);
    heard(&mut heard_by, "resources/updated").await;
    streams.left(0).await;
}

#[tokio::test]
async fn stream_at_a_server_is_admitted_once_and_holds_its_permit_as_long_as_it_is_heard() {
    for (era, told) in [("legacy", "list_changed"), ("modern", "subscriptions/acknowledged")] {
        let counts = limited(Counts::default());
        let streams = Streams::default();
        let script = streams.clone();
        let server = Server::start(move |asked, wire| tell(asked, wire, script.clone())).await;
        let stand = stand_before(server, ", era: modern");
        let (mut stream, stand) = match era {
            "legacy" => (stand.listen(&stand.session().await).await, stand),
            _ => {
                let mut params = envelope();
                params["notifications"] = json!({"toolsListChanged": true});
                let fields = "MCP-Protocol-Version: 2026-07-28\r\nMcp-Method: subscriptions/listen\r\n";
                (stand.send("ada", fields, &request("subscriptions/listen", params)).await, stand)
            }
        };
        let began = async {
            while stand.server.heard("subscriptions/listen").is_empty() {
                tokio::task::yield_now().await;
            }
        };
        within("a stream at the server", began).await;
        streams.say(0, CHANGED);
        heard(&mut stream, told).await;
        reaches(&counts, [1, 1, 1]).await;
        drop(stream);
        streams.left(0).await;
        reaches(&counts, [1, 0, 1]).await;
    }
}

#[tokio::test]
async fn stream_that_a_limit_refuses_is_not_opened() {
    limited(Counts { refuses: true, ..Counts::default() });
    let streams = Streams::default();
    let server = Server::start(move |asked, wire| tell(asked, wire, streams.clone())).await;
    let stand = stand_before(server, ", era: modern");
    let mut params = envelope();
    params["notifications"] = json!({"toolsListChanged": true});
    let fields = "MCP-Protocol-Version: 2026-07-28\r\nMcp-Method: subscriptions/listen\r\n";
    let (_, said) = stand.ask("ada", fields, &request("subscriptions/listen", params)).await;
    assert_eq!(said["error"]["data"]["reason"], "overloaded", "{said}");
    assert!(stand.server.heard("subscriptions/listen").is_empty());
}
