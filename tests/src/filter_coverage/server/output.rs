//! Writes the answer of a server to a request.

use crate::harness::Wire;
use tokio::sync::mpsc::UnboundedSender;

/// The response to the request itself, or the stream of its session in the transport of 2024-11-05.
pub(super) enum Output {
    Response(Wire),
    Stream(UnboundedSender<String>),
}

impl Output {
    /// Writes a whole response, or its body as an event.
    pub(super) async fn send(self, status: &str, fields: &str, body: &str) -> Option<Wire> {
        match self {
            Output::Response(mut wire) => {
                let length = body.len();
                wire.send(format!("HTTP/1.1 {status}\r\n{fields}content-length: {length}\r\n\r\n{body}"))
                    .await;
                Some(wire)
            }
            Output::Stream(stream) => {
                stream.send(format!("event: message\ndata: {body}\n\n")).ok();
                None
            }
        }
    }

    /// Begins an event stream where there is none.
    pub(super) async fn begin_events(&mut self, fields: &str) {
        if let Output::Response(wire) = self {
            wire.send(format!("HTTP/1.1 200 OK\r\n{fields}transfer-encoding: chunked\r\n\r\n")).await;
        }
    }

    /// Writes events.
    pub(super) async fn event(&mut self, text: &str) {
        match self {
            Output::Response(wire) => wire.chunk(text).await,
            Output::Stream(stream) => drop(stream.send(text.to_owned())),
        }
    }

    /// Ends an event stream that was begun for this answer, with a trailer field.
    pub(super) async fn end(self, trailer: &str) -> Option<Wire> {
        let Output::Response(mut wire) = self else { return None };
        wire.send(format!("0\r\nx-trailer: {trailer}\r\n\r\n")).await;
        Some(wire)
    }

    /// Waits until the other side closes.
    pub(super) async fn closed(&mut self) {
        match self {
            Output::Response(wire) => wire.closed().await,
            Output::Stream(stream) => stream.closed().await,
        }
    }
}
