//! Every byte of an untouched message, in both directions, whatever its size and framing.

use crate::harness::{Client, Gateway, Request, Response, Upstream, Wire, within};
use std::sync::{Arc, Mutex};
use tokio::sync::mpsc;

const LIMIT: usize = 4 << 20;
/// Sizes at and beside the edges of buffers: heads, held bodies, write pieces, the limit.
const SIZES: [usize; 19] = [
    100,
    512,
    1_000,
    4_095,
    4_096,
    4_097,
    16_383,
    16_384,
    16_385,
    65_535,
    65_536,
    65_537,
    262_143,
    262_144,
    262_145,
    1 << 20,
    (1 << 20) + 1,
    LIMIT - 1,
    LIMIT,
];
/// Sizes of chunks and of the pieces in which they are written.
const CUTS: [usize; 6] = [1, 7, 1_021, 8_191, 65_537, LIMIT];
/// What a parser that re-encodes would change: number text, escapes, key order, look-alike keys.
const DELICATE: &str = r#""n":[1.0e5,1E+2,-0,0.10,12345678901234567890,1e400],"u":"é ż 日本 🙂 \u00e9 \ud83d\ude42 \/ \" \\ \n","Z":1,"a":{"b":[],"id":9,"method":"x","jsonrpc":"1.0","A":1,"a":2,"a ":3,"á":4,"á":5,"k":1,"k":2},"e":{} , "f" :false"#;
/// Text for padding, with characters of one to four bytes.
const SAMPLE: &str = "The quick zażółć 日本語 🙂 \\u00e9\\\\ fox. ";
/// Longest string of a padding; the default bound is 1 MiB.
const STRING: usize = 900_000;

/// How a body says where it ends.
#[derive(Clone, Copy, Debug)]
enum Framing {
    Length,
    Chunked,
    Close,
}

/// How a body travels: its framing, and the size of its chunks and writes.
#[derive(Clone, Copy, Debug)]
struct Travel(Framing, usize);

/// A JSON-RPC message of exactly `size` bytes, made of `head` and `tail` around strings.
fn message(head: &str, tail: &str, size: usize) -> Vec<u8> {
    let delicate = format!("{head}{DELICATE},\"pad\":[");
    let mut text = if size < delicate.len() + tail.len() + 8 { format!("{head}\"pad\":[") } else { delicate };
    let end = format!("\"]{tail}");
    text.push('"');
    let mut string = 0;
    while text.len() + SAMPLE.len() + end.len() < size {
        if string + SAMPLE.len() > STRING {
            text.push_str("\",\"");
            string = 0;
        }
        text.push_str(SAMPLE);
        string += SAMPLE.len();
    }
    text.push_str(&"x".repeat(size.saturating_sub(text.len() + end.len())));
    text.push_str(&end);
    assert_eq!(text.len(), size);
    text.into_bytes()
}

fn request(id: usize, size: usize) -> Vec<u8> {
    let head =
        format!(r#"{{"id":{id},"jsonrpc":"2.0","method":"tools/call","params":{{"name":"t","arguments":{{"#);
    message(&head, "}}}", size)
}

fn response(id: usize, size: usize) -> Vec<u8> {
    message(r#"{"jsonrpc":"2.0","result":{"#, &format!(r#"}},"id":{id}}}"#), size)
}

/// A body in pieces that are each sent by one write.
fn framed(body: &[u8], framing: Framing, cut: usize) -> Vec<Vec<u8>> {
    let pieces = body.chunks(cut);
    match framing {
        Framing::Length | Framing::Close => pieces.map(<[u8]>::to_vec).collect(),
        Framing::Chunked => {
            let chunk = |piece: &[u8]| [format!("{:x}\r\n", piece.len()).as_bytes(), piece, b"\r\n"].concat();
            pieces.map(chunk).chain([b"0\r\n\r\n".to_vec()]).collect()
        }
    }
}

fn framing_header(framing: Framing, length: usize) -> String {
    match framing {
        Framing::Length => format!("content-length: {length}\r\n"),
        Framing::Chunked => "transfer-encoding: chunked\r\n".to_owned(),
        Framing::Close => "connection: close\r\n".to_owned(),
    }
}

/// A gateway that logs no packets.
async fn quiet(upstream: &Upstream) -> Gateway {
    let document =
        format!("level: info\nupstreams:\n  up: http://{}/mcp\nservers:\n  /mcp: up\n", upstream.address);
    Gateway::start(&document).await
}

/// Whether so many pieces are worth their time.
fn is_sensible(size: usize, cut: usize) -> bool {
    cut < size * 2 && size / cut < 10_000
}

/// Sends a request and reads its answer; the connection is replaced when the gateway says that it closes.
async fn exchange(
    gateway: &Gateway,
    client: &mut Client,
    body: &[u8],
    framing: Framing,
    cut: usize,
) -> Response {
    let head = client.head("POST", "/mcp", &[]);
    let length = framing_header(framing, body.len());
    client.send(format!("{head}content-type: application/json\r\naccept: application/json, text/event-stream\r\n{length}\r\n").as_bytes()).await;
    for piece in framed(body, framing, cut) {
        client.send(&piece).await;
    }
    let answer = client.response().await;
    if answer.header("connection") == Some("close") {
        *client = gateway.connect().await;
    }
    answer
}

/// Requests of every size, with length and chunked, as they arrive at the upstream.
async fn requests() {
    let (seen, mut arrived) = mpsc::unbounded_channel();
    let upstream = Upstream::start(move |request: Request, mut wire: Wire| {
        let seen = seen.clone();
        async move {
            wire.result(&request).await;
            seen.send(request).ok();
            Some(wire)
        }
    })
    .await;
    let gateway = quiet(&upstream).await;
    let mut client = gateway.connect().await;
    let mut count = 0;
    for (id, size) in SIZES.into_iter().enumerate() {
        let body = request(id, size);
        for framing in [Framing::Length, Framing::Chunked] {
            for cut in CUTS.into_iter().filter(|cut| is_sensible(size, *cut)) {
                let case = format!("request of {size} B, {framing:?}, in pieces of {cut} B");
                let answer = exchange(&gateway, &mut client, &body, framing, cut).await;
                assert_eq!(answer.status, 200, "{case}");
                let came = within(5, &case, arrived.recv()).await.unwrap();
                assert!(came.body == body, "{case}: {} B came, other ones", came.body.len());
                count += 1;
            }
        }
    }
    println!("{count} request bodies of {} B to {LIMIT} B arrived byte for byte", SIZES[0]);
    refusals(&gateway, &mut client, &upstream).await;
}

/// What is no message or is too large never arrives; a request without a body arrives without one.
async fn refusals(gateway: &Gateway, client: &mut Client, upstream: &Upstream) {
    let before = upstream.requests();
    for framing in [Framing::Length, Framing::Chunked] {
        let answer = exchange(gateway, client, b"", framing, 1).await;
        assert_eq!(answer.reason(), "parse_error", "0 B, {framing:?}");
        let answer = exchange(gateway, client, &request(1, LIMIT + 1), framing, 65_537).await;
        assert_eq!(answer.json()["error"]["code"], -31413, "{} B, {framing:?}", LIMIT + 1);
    }
    assert_eq!(upstream.requests(), before);
    println!("0 B and {} B were refused, {before} requests passed", LIMIT + 1);
}

/// One answer of the scripted upstream.
#[derive(Clone, Default)]
struct Script {
    head: String,
    pieces: Vec<Vec<u8>>,
    closes: bool,
}

/// An upstream whose next answer a test puts down, and a client of the gateway before it.
struct Answering {
    gateway: Gateway,
    next: Arc<Mutex<Script>>,
    _upstream: Upstream,
}

impl Answering {
    async fn start() -> Answering {
        let next: Arc<Mutex<Script>> = Arc::default();
        let script = Arc::clone(&next);
        let upstream = Upstream::start(move |_, mut wire: Wire| {
            let Script { head, pieces, closes } = script.lock().unwrap().clone();
            async move {
                wire.send(head).await;
                for piece in pieces {
                    wire.send(piece).await;
                }
                (!closes).then_some(wire)
            }
        })
        .await;
        Answering { gateway: quiet(&upstream).await, next, _upstream: upstream }
    }

    /// The body that a client gets when the upstream sends this one.
    async fn passes(&self, client: &mut Client, media: &str, body: &[u8], travel: Travel) {
        let Travel(framing, cut) = travel;
        *self.next.lock().unwrap() = Script {
            head: format!(
                "HTTP/1.1 200 OK\r\ncontent-type: {media}\r\n{}\r\n",
                framing_header(framing, body.len())
            ),
            pieces: framed(body, framing, cut),
            closes: matches!(framing, Framing::Close),
        };
        client
            .post("/mcp", &[], br#"{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"t"}}"#)
            .await;
        let response = client.response().await;
        let case = format!("{media} of {} B, {framing:?}, in pieces of {cut} B", body.len());
        assert_eq!(response.status, 200, "{case}");
        assert!(response.body == body, "{case}: {}", difference(&response.body, body));
    }
}

/// Where two bodies part.
fn difference(came: &[u8], sent: &[u8]) -> String {
    let at = came.iter().zip(sent).take_while(|(one, other)| one == other).count();
    let shown = |bytes: &[u8]| {
        String::from_utf8_lossy(&bytes[at.min(bytes.len())..(at + 80).min(bytes.len())]).into_owned()
    };
    format!("{} B for {} B, from {at}: {:?} for {:?}", came.len(), sent.len(), shown(came), shown(sent))
}

/// JSON answers of every size and framing.
async fn answers() {
    let answering = Answering::start().await;
    let mut client = answering.gateway.connect().await;
    let mut count = 0;
    for size in SIZES.into_iter().chain([20 << 20]) {
        let body = response(7, size);
        for framing in [Framing::Length, Framing::Chunked, Framing::Close] {
            for cut in CUTS.into_iter().filter(|cut| is_sensible(size, *cut)) {
                answering.passes(&mut client, "application/json", &body, Travel(framing, cut)).await;
                count += 1;
            }
        }
    }
    println!("{count} JSON answers of {} B to {} B left byte for byte", SIZES[0], 20 << 20);
}

/// Event streams of every line ending and field.
fn streams() -> Vec<(&'static str, Vec<u8>)> {
    let note =
        r#"{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":"é 🙂"}}"#;
    let last = String::from_utf8(response(7, 700)).unwrap();
    let plain = format!(
        ": hello\n\nevent: message\nid: 1\nretry: 50\ndata: {note}\n\n:\n: a comment within\ndata:{note}\nid\nunknown: field\n\ndata: {last}\n\n"
    );
    let several = last.replacen("\"pad\"", "\ndata: \"pad\"", 1);
    let mixed =
        format!("data: {note}\r\n\r\nid: 2\rdata: {note}\r\rdata: {note}\n\n\n\n\r\n\rdata: {last}\r\n\n");
    let large = String::from_utf8(response(7, 20_000_000)).unwrap();
    vec![
        ("LF", plain.clone().into_bytes()),
        ("CRLF", plain.replace('\n', "\r\n").into_bytes()),
        ("CR", plain.replace('\n', "\r").into_bytes()),
        ("all line ends in turn", mixed.into_bytes()),
        ("a byte order mark", format!("\u{feff}{plain}").into_bytes()),
        ("data in several lines", format!("data: {several}\n\n").into_bytes()),
        ("an empty event with an id", format!("id: 0\nretry: 1\ndata:\n\ndata: {last}\n\n").into_bytes()),
        ("an event of 20 MB", format!("id: 1\ndata: {note}\n\nid: 2\ndata: {large}\n\n").into_bytes()),
    ]
}

/// Event streams, cut into chunks anywhere.
async fn events() {
    let answering = Answering::start().await;
    let mut client = answering.gateway.connect().await;
    let mut count = 0;
    for (name, body) in streams() {
        for framing in [Framing::Chunked, Framing::Close] {
            for cut in CUTS.into_iter().chain([2, 3, 5, 13]).filter(|cut| is_sensible(body.len(), *cut)) {
                answering.passes(&mut client, "text/event-stream", &body, Travel(framing, cut)).await;
                count += 1;
            }
        }
        println!("event stream with {name}, {} B, left byte for byte", body.len());
    }
    println!("{count} event streams left byte for byte");
}

pub(super) async fn run() {
    requests().await;
    answers().await;
    events().await;
}
