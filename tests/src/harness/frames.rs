//! HTTP/2 frame by frame (RFC 9113 §4.1), for what no library would send.

use super::client::Duplex;
use super::within;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const PRIORITY: u8 = 2;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;
/// Of SETTINGS and PING.
pub(crate) const ACK: u8 = 1;
/// Of DATA and HEADERS.
pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// One frame that came.
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

/// A connection of either side.
pub(crate) struct Frames(Box<dyn Duplex>);

/// One frame as bytes.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let head = [&length[1..], &[kind, flags], &stream.to_be_bytes()].concat();
    [&head, payload].concat()
}

/// A field that no table is needed for (RFC 7541 §6.2.2).
pub(crate) fn field(name: &str, value: &str) -> Vec<u8> {
    let text = |text: &str| {
        let length = u8::try_from(text.len()).ok().filter(|length| *length < 127).unwrap();
        [&[length], text.as_bytes()].concat()
    };
    [&[0][..], &text(name), &text(value)].concat()
}

/// The pseudo-fields of a POST to `/mcp`.
pub(crate) fn post(authority: Option<&str>) -> Vec<u8> {
    let mut block = [field(":method", "POST"), field(":scheme", "http"), field(":path", "/mcp")].concat();
    if let Some(authority) = authority {
        block.extend(field(":authority", authority));
    }
    block.extend(field("content-type", "application/json"));
    block
}

impl Frames {
    /// Begins as a client.
    pub(crate) async fn client(io: impl Duplex + 'static) -> Frames {
        let mut frames = Frames(Box::new(io));
        assert!(frames.send(&[PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()).await);
        frames
    }

    /// Begins as a server; its settings take any number of streams.
    pub(crate) async fn server(io: impl Duplex + 'static) -> Frames {
        let mut frames = Frames(Box::new(io));
        let mut preface = [0; PREFACE.len()];
        within(10, "the preface", frames.0.read_exact(&mut preface)).await.unwrap();
        assert!(frames.send(&frame(SETTINGS, 0, 0, &[])).await);
        frames
    }

    /// Sends bytes; false if nobody takes them any more.
    pub(crate) async fn send(&mut self, bytes: &[u8]) -> bool {
        self.0.write_all(bytes).await.is_ok() && self.0.flush().await.is_ok()
    }

    /// The next frame, `None` at the end of the connection; settings and pings are answered.
    pub(crate) async fn next(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        self.0.read_exact(&mut head).await.ok()?;
        let [high, middle, low, kind, flags, stream @ ..] = head;
        let mut payload = vec![0; usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low)];
        self.0.read_exact(&mut payload).await.ok()?;
        match (kind, flags & ACK) {
            (SETTINGS, 0) => drop(self.send(&frame(SETTINGS, ACK, 0, &[])).await),
            (PING, 0) => drop(self.send(&frame(PING, ACK, 0, &payload)).await),
            _ => {}
        }
        Some(Frame { kind, flags, stream: u32::from_be_bytes(stream), payload })
    }

    /// The next frame of a kind; panics if the connection ends before.
    pub(crate) async fn until(&mut self, kind: u8) -> Frame {
        within(10, "a frame", async {
            loop {
                let frame = self.next().await.expect("a frame before the connection ended");
                if frame.kind == kind && !(matches!(kind, SETTINGS | PING) && frame.flags & ACK == 0) {
                    return frame;
                }
            }
        })
        .await
    }

    /// The kinds of all frames up to the end of the connection.
    pub(crate) async fn until_closed(&mut self) -> Vec<u8> {
        let mut kinds = Vec::new();
        let read = async {
            while let Some(frame) = self.next().await {
                kinds.push(frame.kind);
            }
        };
        within(20, "the end of the connection", read).await;
        kinds
    }

    /// Waits until the other side has taken in everything that was sent.
    pub(crate) async fn taken_in(&mut self) {
        assert!(self.send(&frame(PING, 0, 0, b"taken in")).await);
        self.until(PING).await;
    }

    /// Answers a request of a client with JSON.
    pub(crate) async fn answer(&mut self, stream: u32, body: &str) {
        let head = [field(":status", "200"), field("content-type", "application/json")].concat();
        let head = frame(HEADERS, END_HEADERS, stream, &head);
        self.send(&[head, frame(DATA, END_STREAM, stream, body.as_bytes())].concat()).await;
    }
}
