//! The calls that are made, and whether an answer is theirs.

use crate::target::Target;
use crate::wire::{Framing, Head, Inbox, body};
use memchr::memmem;
use std::hash::{BuildHasher, RandomState};
use std::io::Write;
use std::net::TcpStream;
use std::time::Duration;

/// Form of the calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Era {
    /// 2026-07-28: no session, the revision in each call.
    Modern,
    /// 2025-11-25: `initialize`, then calls in that session.
    Legacy,
}

/// The first id; all have its 13 digits, so that every call has the same length.
const FIRST_ID: u64 = 1_000_000_000_000;

/// Time for the answer to one call before the run, or to one of a held connection.
const WITHIN: Duration = Duration::from_secs(10);

/// All calls of a run: one text, in which only the id and the nonce differ.
#[derive(Debug)]
pub(crate) struct Calls {
    /// Where they go.
    pub(crate) target: Target,
    /// Bytes of a call's JSON.
    pub(crate) size: usize,
    text: Vec<u8>,
    id_at: usize,
    nonce_at: usize,
    seed: u64,
}

impl Calls {
    /// Calls of a tool in `size` bytes of JSON, with header fields of the caller's own; for the
    /// legacy era a session is opened first.
    ///
    /// # Errors
    /// If that many bytes are too few, or no session can be opened.
    pub(crate) fn new(target: Target, era: Era, own: &str, call: (&str, usize)) -> Result<Calls, String> {
        let fields = match era {
            Era::Modern => {
                let (revision, tool) = ("mcp-protocol-version: 2026-07-28", call.0);
                format!("{own}{revision}\r\nmcp-method: tools/call\r\nmcp-name: {tool}\r\n")
            }
            Era::Legacy => open_session(&target, own)?,
        };
        Calls::with_fields(target, era, &fields, call)
    }

    fn with_fields(
        target: Target,
        era: Era,
        fields: &str,
        (tool, size): (&str, usize),
    ) -> Result<Calls, String> {
        let meta = match era {
            Era::Modern => {
                r#","_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientInfo":{"name":"load","version":"1"},"io.modelcontextprotocol/clientCapabilities":{}}"#
            }
            Era::Legacy => "",
        };
        let tool = serde_json::to_string(tool).map_err(|error| error.to_string())?;
        let json = |padding: &str| {
            format!(
                r#"{{"jsonrpc":"2.0","id":{FIRST_ID},"method":"tools/call","params":{{"name":{tool},"arguments":{{"text":"{:016x}{padding}"}}{meta}}}}}"#,
                0
            )
        };
        let least = json("").len();
        let padding = size
            .checked_sub(least)
            .ok_or_else(|| format!("--size {size} is too small: this call takes {least} bytes at least"))?;
        let text = request(&target, fields, &json(&"x".repeat(padding)));
        let find = |part: &[u8]| memmem::find(&text, part).map(|at| at + part.len());
        let marks = (find(br#""id":"#), find(br#""text":""#));
        let (Some(id_at), Some(nonce_at)) = marks else { return Err("a call without its marks".to_owned()) };
        Ok(Calls { target, size, text, id_at, nonce_at, seed: RandomState::new().hash_one(0) })
    }

    /// Puts call `number` into `out`, in place of what is there.
    pub(crate) fn write(&self, number: u64, out: &mut Vec<u8>) {
        out.clear();
        out.extend_from_slice(&self.text);
        out[self.id_at..self.id_at + 13].copy_from_slice(&id(number));
        out[self.nonce_at..self.nonce_at + 16].copy_from_slice(&self.nonce(number));
    }

    /// Whether an answer is the one to call `number`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn verify(&self, number: u64, status: Option<u16>, body: &[u8]) -> Result<(), String> {
        if status != Some(200) {
            return Err(format!("status {}: {}", status.unwrap_or_default(), start(body)));
        }
        if !has_id(body, &id(number)) {
            return Err("an answer with another id".to_owned());
        }
        if memmem::find(body, b"\"result\"").is_none() {
            // From the error on, so that equal ones count as one problem, whatever their ids.
            let error = memmem::find(body, b"\"error\"").unwrap_or(0);
            return Err(format!("an answer without a result: {}", start(&body[error..])));
        }
        match memmem::find(body, &self.nonce(number)) {
            Some(_) => Ok(()),
            None => Err("an answer without the nonce of its call".to_owned()),
        }
    }

    /// 16 digits that no other call has, and that nobody knows before: a bijection of the number,
    /// mixed with a random seed (the finalizer of `SplitMix64`).
    fn nonce(&self, number: u64) -> [u8; 16] {
        let mut mixed = number.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(self.seed);
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        let mut digits = [0; 16];
        for digit in digits.iter_mut().rev() {
            *digit = b"0123456789abcdef"[(mixed & 15) as usize];
            mixed >>= 4;
        }
        digits
    }
}

/// The digits of a call's id.
fn id(number: u64) -> [u8; 13] {
    let mut rest = FIRST_ID + number;
    let mut digits = [0; 13];
    for digit in digits.iter_mut().rev() {
        let last = (rest % 10) as u8;
        *digit = b'0' + last;
        rest /= 10;
    }
    digits
}

/// Whether a body says `"id":` with just these digits.
fn has_id(body: &[u8], digits: &[u8]) -> bool {
    memmem::find_iter(body, digits).any(|at| {
        let before = body[..at].trim_ascii_end();
        let ends = !body.get(at + digits.len()).is_some_and(u8::is_ascii_digit);
        ends && before.ends_with(b"\"id\":")
    })
}

/// The first bytes of a text, for an error.
fn start(body: &[u8]) -> String {
    let text: String = String::from_utf8_lossy(body).chars().take(120).collect();
    text.escape_default().to_string()
}

fn request(target: &Target, fields: &str, json: &str) -> Vec<u8> {
    format!(
        "POST {} HTTP/1.1\r\nhost: {}\r\ncontent-type: application/json\r\naccept: application/json, text/event-stream\r\n\
         {fields}content-length: {}\r\n\r\n{json}",
        target.path,
        target.authority,
        json.len()
    )
    .into_bytes()
}

/// Opens a legacy session and gives the header fields of calls in it.
fn open_session(target: &Target, own: &str) -> Result<String, String> {
    let mut stream = connect(target)?;
    let hello = r#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"load","version":"1"}}}"#;
    let answer = exchange(&mut stream, &request(target, own, hello))?;
    if answer.status != Some(200) {
        return Err(format!("`initialize` was answered by {}", start(&answer.body)));
    }
    let mut fields = format!("{own}mcp-protocol-version: 2025-11-25\r\n");
    if let Some(session) = answer.session {
        fields.push_str(&format!("mcp-session-id: {session}\r\n"));
    }
    let ready = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;
    match exchange(&mut stream, &request(target, &fields, ready))?.status {
        Some(200..=299) => Ok(fields),
        status => Err(format!("`notifications/initialized` was answered by status {status:?}")),
    }
}

/// A connection to the target.
///
/// # Errors
/// What the system says.
pub(crate) fn connect(target: &Target) -> Result<TcpStream, String> {
    let ready = TcpStream::connect_timeout(&target.address, WITHIN).and_then(|stream| {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(WITHIN))?;
        Ok(stream)
    });
    ready.map_err(|error| format!("{}: {error}", target.address))
}

/// One answer.
#[derive(Debug)]
pub(crate) struct Answer {
    /// Its status.
    pub(crate) status: Option<u16>,
    /// Its `Mcp-Session-Id`.
    pub(crate) session: Option<String>,
    /// Its body.
    pub(crate) body: Vec<u8>,
}

/// Sends a request and waits for its answer.
///
/// # Errors
/// What was wrong with the answer.
pub(crate) fn exchange(stream: &mut TcpStream, request: &[u8]) -> Result<Answer, String> {
    stream.write_all(request).map_err(|error| error.to_string())?;
    let (mut inbox, mut joined) = (Inbox::default(), Vec::new());
    loop {
        if inbox.fill(&*stream).map_err(|error| error.to_string())? == 0 {
            return Err("the connection closed within an answer".to_owned());
        }
        let Some(head) = Head::read(inbox.bytes())? else { continue };
        // A 202 may say nothing of its body, which is then empty.
        let framing = if head.status() == Some(202) { Framing::Length(0) } else { head.framing };
        if let Some((body, _)) = body(&inbox.bytes()[head.length..], framing, &mut joined)? {
            let session = head.session.map(|session| String::from_utf8_lossy(session).into_owned());
            return Ok(Answer { status: head.status(), session, body: body.to_vec() });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn calls(size: usize) -> Result<Calls, String> {
        let target = Target::parse("http://127.0.0.1:1/mcp").unwrap();
        Calls::with_fields(target, Era::Modern, "", ("echo", size))
    }

    fn body_of(calls: &Calls, number: u64) -> String {
        let mut out = Vec::new();
        calls.write(number, &mut out);
        let text = String::from_utf8(out).unwrap();
        text.split_once("\r\n\r\n").unwrap().1.to_owned()
    }

    #[test]
    fn a_call_has_the_asked_size_and_its_own_id_and_nonce() {
        let calls = calls(400).unwrap();
        let mut nonces = std::collections::BTreeSet::new();
        for number in [0, 1, 7_654_321] {
            let body = body_of(&calls, number);
            assert_eq!(body.len(), 400);
            let json: serde_json::Value = serde_json::from_str(&body).unwrap();
            assert_eq!(json["id"], 1_000_000_000_000 + number);
            nonces.insert(json["params"]["arguments"]["text"].as_str().unwrap()[..16].to_owned());
        }
        assert_eq!(nonces.len(), 3);
        assert!(calls_error(100).contains("too small"));
    }

    fn calls_error(size: usize) -> String {
        calls(size).unwrap_err()
    }

    #[test]
    fn only_its_own_answer_is_accepted() {
        let calls = calls(400).unwrap();
        let nonce = String::from_utf8(calls.nonce(5).to_vec()).unwrap();
        let other = String::from_utf8(calls.nonce(6).to_vec()).unwrap();
        let answer = |id: &str, kind: &str, text: &str| format!(r#"{{"id":{id},"{kind}":"{text}"}}"#);
        let cases = [
            ("its own", 200, answer("1000000000005", "result", &nonce), None),
            ("with a space", 200, answer(" 1000000000005", "result", &nonce), None),
            ("a status", 502, answer("1000000000005", "result", &nonce), Some("status 502")),
            ("another id", 200, answer("1000000000006", "result", &nonce), Some("another id")),
            ("a longer id", 200, answer("10000000000055", "result", &nonce), Some("another id")),
            ("an error", 200, answer("1000000000005", "error", &nonce), Some("without a result")),
            ("another's text", 200, answer("1000000000005", "result", &other), Some("nonce")),
        ];
        for (name, status, body, problem) in cases {
            let verdict = calls.verify(5, Some(status), body.as_bytes());
            match problem {
                None => assert_eq!(verdict, Ok(()), "{name}"),
                Some(part) => assert!(verdict.unwrap_err().contains(part), "{name}"),
            }
        }
    }
}
