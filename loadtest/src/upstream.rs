//! A server to stand behind what is measured: one tool, `echo`, answered as cheaply as can be.
//!
//! It finds what it needs by searching the bytes and does not parse JSON: good for a measurement,
//! and for nothing else. One thread, one `epoll`, one read and one write a call.

use crate::poll::{Interest, Poll};
use crate::process::allow_files;
use crate::wire::{Head, Inbox, body};
use memchr::memmem;
use std::io::{self, ErrorKind, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::ExitCode;

/// Connections that it may have; idle ones of a proxy are cheap.
const CONNECTIONS: usize = 4_000;

/// The listener's token; those of connections are their places.
const LISTENER: u64 = u64::MAX;

/// Serves until the process is ended.
///
/// # Errors
/// If it cannot listen, or waiting fails.
#[expect(clippy::print_stdout, reason = "who started this waits for the line")]
pub(crate) fn run(bind: SocketAddr) -> Result<ExitCode, String> {
    let mut upstream = Upstream::bind(bind).map_err(|error| format!("{bind}: {error}"))?;
    // Fewer than the hard limit allows are enough for most runs.
    allow_files(CONNECTIONS).ok();
    let address = upstream.address().map_err(|error| error.to_string())?;
    println!("listening on {address}");
    upstream.serve().map_err(|error| error.to_string())?;
    Ok(ExitCode::SUCCESS)
}

/// The listener and its connections.
#[derive(Debug)]
pub(crate) struct Upstream {
    listener: TcpListener,
    poll: Poll,
    clients: Vec<Option<Client>>,
}

#[derive(Debug)]
struct Client {
    stream: TcpStream,
    inbox: Inbox,
    outbox: Vec<u8>,
    written: usize,
    close: bool,
}

impl Upstream {
    /// Listens on an address.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn bind(address: SocketAddr) -> io::Result<Upstream> {
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        let poll = Poll::new()?;
        poll.add(&listener, LISTENER)?;
        Ok(Upstream { listener, poll, clients: Vec::new() })
    }

    /// The address it listens on.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Answers calls.
    ///
    /// # Errors
    /// If waiting fails; it does not end otherwise.
    pub(crate) fn serve(&mut self) -> io::Result<()> {
        let (mut ready, mut joined) = (Vec::new(), Vec::new());
        loop {
            self.poll.wait(None, &mut ready)?;
            for token in &ready {
                if *token == LISTENER {
                    self.accept();
                } else if let Some(slot) =
                    usize::try_from(*token).ok().and_then(|at| self.clients.get_mut(at))
                    && slot
                        .as_mut()
                        .is_some_and(|client| client.ready(&self.poll, *token, &mut joined).is_err())
                {
                    *slot = None;
                }
            }
        }
    }

    fn accept(&mut self) {
        while let Ok((stream, _)) = self.listener.accept() {
            let place = self.clients.iter().position(Option::is_none).unwrap_or(self.clients.len());
            let ready = stream
                .set_nonblocking(true)
                .and_then(|()| stream.set_nodelay(true))
                .and_then(|()| self.poll.add(&stream, place as u64));
            if ready.is_err() {
                continue;
            }
            let (inbox, outbox) = (Inbox::default(), Vec::new());
            let client = Client { stream, inbox, outbox, written: 0, close: false };
            if place == self.clients.len() {
                self.clients.push(Some(client));
            } else {
                self.clients[place] = Some(client);
            }
        }
    }
}

impl Client {
    /// Goes on where the socket is ready; an error ends the connection.
    fn ready(&mut self, poll: &Poll, token: u64, joined: &mut Vec<u8>) -> Result<(), String> {
        if self.written < self.outbox.len() {
            return self.push(poll, token);
        }
        match self.inbox.fill(&self.stream) {
            Ok(0) => return Err("closed".to_owned()),
            Ok(_) => {}
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
                return Ok(());
            }
            Err(error) => return Err(error.to_string()),
        }
        self.outbox.clear();
        self.written = 0;
        while let Some(taken) = self.answer_first(joined)? {
            self.inbox.consume(taken);
        }
        self.push(poll, token)
    }

    /// Answers the request at the front, once it is complete, and gives its length.
    fn answer_first(&mut self, joined: &mut Vec<u8>) -> Result<Option<usize>, String> {
        let bytes = self.inbox.bytes();
        let Some(head) = Head::read(bytes)? else { return Ok(None) };
        if head.first.starts_with(b"POST ") {
            let Some((json, taken)) = body(&bytes[head.length..], head.framing, joined)? else {
                return Ok(None);
            };
            answer(json, &mut self.outbox);
            self.close |= head.close;
            return Ok(Some(head.length + taken));
        }
        self.close |= head.close;
        self.outbox.extend_from_slice(
            b"HTTP/1.1 405 Method Not Allowed\r\nallow: POST\r\ncontent-length: 0\r\n\r\n",
        );
        Ok(Some(head.length))
    }

    fn push(&mut self, poll: &Poll, token: u64) -> Result<(), String> {
        let partial = self.written > 0;
        while self.written < self.outbox.len() {
            match (&self.stream).write(&self.outbox[self.written..]) {
                Ok(written) => self.written += written,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    let change = poll.change(&self.stream, token, Interest::ReadAndWrite);
                    return change.map_err(|error| error.to_string());
                }
                Err(error) => return Err(error.to_string()),
            }
        }
        if self.close {
            return Err("asked to close".to_owned());
        }
        if partial {
            poll.change(&self.stream, token, Interest::Read).map_err(|error| error.to_string())?;
        }
        Ok(())
    }
}

/// Appends the answer to a message.
fn answer(json: &[u8], out: &mut Vec<u8>) {
    let Some(id) = after(json, b"\"id\":").map(scalar) else {
        out.extend_from_slice(b"HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n");
        return;
    };
    let method = after(json, b"\"method\":").map(scalar).unwrap_or_default();
    // Servers of earlier revisions say less of their results.
    let is_modern = memmem::find(json, b"io.modelcontextprotocol/protocolVersion").is_some();
    let said = |what: &'static [u8]| if is_modern { what } else { b"{" };
    match method {
        b"\"tools/call\"" => {
            let text = after(json, b"\"text\":").map(scalar).unwrap_or(b"\"\"");
            let start = br#""content":[{"type":"text","text":"#;
            write(out, (id, ""), "result", &[said(COMPLETE), start, text, b"}]}"]);
        }
        b"\"initialize\"" => write(out, (id, SESSION), "result", &[INITIALIZED]),
        b"\"server/discover\"" => write(out, (id, ""), "result", &[DISCOVERED]),
        b"\"tools/list\"" => write(out, (id, ""), "result", &[said(LISTED), TOOLS]),
        b"\"ping\"" => write(out, (id, ""), "result", &[b"{}"]),
        _ => write(out, (id, ""), "error", &[br#"{"code":-32601,"message":"no such method here"}"#]),
    }
}

const INITIALIZED: &[u8] = br#"{"protocolVersion":"2025-11-25","capabilities":{"tools":{}},"serverInfo":{"name":"echo","version":"1"}}"#;
const DISCOVERED: &[u8] = br#"{"resultType":"complete","supportedVersions":["2026-07-28"],"capabilities":{"tools":{}},"ttlMs":60000,"cacheScope":"public"}"#;
const COMPLETE: &[u8] = br#"{"resultType":"complete","#;
const LISTED: &[u8] = br#"{"resultType":"complete","ttlMs":60000,"cacheScope":"public","#;
const TOOLS: &[u8] = br#""tools":[{"name":"echo","description":"Answers with its text","inputSchema":{"type":"object","properties":{"text":{"type":"string"}},"required":["text"]}}]}"#;

/// All sessions are one, since nothing is kept of any; most servers of earlier revisions have some.
const SESSION: &str = "mcp-session-id: 5f0c8b1e-7a55-4d7e-9a3f-2f1d9be0c4aa\r\n";

fn write(out: &mut Vec<u8>, (id, fields): (&[u8], &str), member: &str, value: &[&[u8]]) {
    let start = br#"{"jsonrpc":"2.0","id":"#;
    let length: usize = value.iter().map(|part| part.len()).sum();
    let length = start.len() + id.len() + member.len() + length + 5;
    out.extend_from_slice(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: ");
    out.extend_from_slice(length.to_string().as_bytes());
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(fields.as_bytes());
    out.extend_from_slice(b"\r\n");
    for part in [start, id, b",\"", member.as_bytes(), b"\":"] {
        out.extend_from_slice(part);
    }
    value.iter().for_each(|part| out.extend_from_slice(part));
    out.push(b'}');
}

/// What follows the first `mark`.
fn after<'a>(json: &'a [u8], mark: &[u8]) -> Option<&'a [u8]> {
    memmem::find(json, mark).map(|at| json[at + mark.len()..].trim_ascii_start())
}

/// The string (without escapes of quotes) or number at the front, as it is written.
fn scalar(json: &[u8]) -> &[u8] {
    let length = match json.first() {
        Some(b'"') => memchr::memchr(b'"', &json[1..]).map_or(json.len(), |end| end + 2),
        _ => json.iter().position(|byte| b",} \r\n\t".contains(byte)).unwrap_or(json.len()),
    };
    &json[..length]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(json: &str) -> (String, serde_json::Value) {
        let mut out = Vec::new();
        answer(json.as_bytes(), &mut out);
        let text = String::from_utf8(out).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        let length = format!("content-length: {}", body.len());
        assert!(head.lines().any(|line| line == length), "{head}");
        (head[..12].to_owned(), serde_json::from_str(body).unwrap_or_default())
    }

    #[test]
    fn each_method_has_its_answer() {
        let call = r#"{"jsonrpc":"2.0","id":"a7","method":"tools/call","params":{"name":"echo","arguments":{"text":"n1"}}}"#;
        let (head, json) = answered(call);
        assert_eq!((head.as_str(), &json["id"]), ("HTTP/1.1 200", &"a7".into()));
        assert_eq!(json["result"]["content"][0]["text"], "n1");
        for (method, place) in [
            ("initialize", "/result/protocolVersion"),
            ("server/discover", "/result/supportedVersions"),
            ("tools/list", "/result/tools/0/name"),
            ("ping", "/result"),
            ("else", "/error/code"),
        ] {
            let (_, json) = answered(&format!(r#"{{"jsonrpc": "2.0", "id": 3 , "method": "{method}"}}"#));
            assert!(json["id"] == 3 && json.pointer(place).is_some(), "{method}: {json}");
        }
        let mut greeted = Vec::new();
        answer(br#"{"jsonrpc":"2.0","id":1,"method":"initialize"}"#, &mut greeted);
        assert!(memmem::find(&greeted, SESSION.as_bytes()).is_some());
        let (head, _) = answered(r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#);
        assert_eq!(head, "HTTP/1.1 202");
    }
}
