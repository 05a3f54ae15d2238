//! Finding the id of a message that is too large to keep.
//!
//! Some SDKs write the id first, others last. This follows a JSON object through chunks, keeping
//! nothing but the text of its top-level `id`, so that an oversize request can still be answered
//! in a way its client understands.

use super::Id;
use super::envelope::Envelope;

/// Longest id that is kept.
const MAX_ID_BYTES: usize = 256;

/// Follows a JSON text and remembers its top-level `id`.
#[derive(Clone, Debug, Default)]
pub struct LateId {
    depth: usize,
    in_string: bool,
    escaped: bool,
    /// The top-level string that was read last: a key, if a colon follows.
    word: Vec<u8>,
    /// The value that follows the key `id`.
    value: Vec<u8>,
    taking: bool,
    seen: bool,
    /// A top-level key `method` was there: without it, it is no request.
    calls: bool,
    /// A top-level key `result` or `error` was there: it is an answer.
    answers: bool,
}

impl LateId {
    /// Follows the next bytes.
    pub fn push(&mut self, chunk: &[u8]) {
        for &byte in chunk {
            self.step(byte);
        }
    }

    /// The id, if the text so far is a request's and had exactly one that is valid.
    ///
    /// A client's answer carries an id of the server's: it must never be answered under it.
    pub fn finish(self) -> Option<Id> {
        if self.calls { self.id() } else { None }
    }

    /// The id of the question that the text answers, under the same conditions.
    pub fn finish_answer(self) -> Option<Id> {
        if self.answers && !self.calls && self.depth == 0 { self.id() } else { None }
    }

    fn id(self) -> Option<Id> {
        let value = String::from_utf8(self.value).ok()?;
        let answer = format!("{{\"jsonrpc\":\"2.0\",\"id\":{},\"result\":0}}", value.trim());
        Envelope::read(&answer).ok()?.id
    }

    fn step(&mut self, byte: u8) {
        if self.in_string {
            self.take(byte);
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' => {
                    self.escaped = true;
                    // A key with an escape is none that is looked for.
                    self.word.push(byte);
                }
                b'"' => self.in_string = false,
                _ if self.depth == 1 && self.word.len() <= MAX_ID_BYTES => self.word.push(byte),
                _ => {}
            }
            return;
        }
        match byte {
            b'"' => {
                self.in_string = true;
                if self.depth == 1 {
                    self.word.clear();
                }
            }
            b':' if self.depth == 1 => {
                self.calls |= self.word == b"method";
                self.answers |= self.word == b"result" || self.word == b"error";
                self.taking = self.word == b"id";
                if self.taking && std::mem::replace(&mut self.seen, true) {
                    // Twice the same key: neither counts.
                    self.taking = false;
                    self.value = b"null".to_vec();
                }
                return;
            }
            b',' | b'}' if self.depth == 1 => self.taking = false,
            _ => {}
        }
        match byte {
            b'{' | b'[' => self.depth += 1,
            b'}' | b']' => self.depth = self.depth.saturating_sub(1),
            _ => {}
        }
        self.take(byte);
    }

    fn take(&mut self, byte: u8) {
        if self.taking && self.value.len() <= MAX_ID_BYTES {
            self.value.push(byte);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_id_of_an_answer_is_that_of_its_question() {
        let answered = |text: &str| {
            let mut finder = LateId::default();
            finder.push(text.as_bytes());
            finder.finish_answer().map(|id| id.as_json().to_owned())
        };
        let cases = [
            (r#"{"jsonrpc":"2.0","id":"q-1","result":{"id":2}}"#, Some(r#""q-1""#)),
            (r#"{"error":{"code":1},"id":7}"#, Some("7")),
            (r#"{"jsonrpc":"2.0","id":1,"method":"ping","result":{}}"#, None),
            (r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#, None),
            (r#"{"jsonrpc":"2.0","id":1,"result":{}"#, None),
            (r#"{"id":1,"id":2,"result":{}}"#, None),
            (r#"[{"id":1,"result":{}}]"#, None),
        ];
        for (text, expected) in cases {
            assert_eq!(answered(text).as_deref(), expected, "{text}");
        }
    }

    fn found(text: &str, cut: usize) -> Option<String> {
        let mut finder = LateId::default();
        for chunk in text.as_bytes().chunks(cut) {
            finder.push(chunk);
        }
        finder.finish().map(|id| id.as_json().to_owned())
    }

    #[test]
    fn the_top_level_id_is_found_wherever_it_stands() {
        let cases = [
            ("first", r#"{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"id":9}}"#, Some("7")),
            (
                "last",
                r#"{"method":"m","params":{"a":[{"id":1}],"b":"\"id\":2"},"jsonrpc":"2.0","id":"x\"y"}"#,
                Some(r#""x\"y""#),
            ),
            ("an answer", r#"{"jsonrpc":"2.0","id":1,"result":{"method":"m"}}"#, None),
            ("an escaped key", r#"{"method":"m","i\"d":4}"#, None),
            ("spaces", "{ \"id\" : 12 , \"method\":\"m\"}", Some("12")),
            ("cut off after it", r#"{"method":"m","id":3,"params":{"text":"aaaa"#, Some("3")),
            ("none", r#"{"method":"m","params":{"id":5}}"#, None),
            ("null", r#"{"method":"m","id":null}"#, None),
            ("twice", r#"{"method":"m","id":1,"id":2}"#, None),
            ("an object", r#"{"method":"m","id":{"id":1}}"#, None),
            ("a value named id", r#"{"method":"id","x":1}"#, None),
        ];
        for (name, text, expected) in cases {
            for cut in [1, 2, 7, 1000] {
                assert_eq!(found(text, cut).as_deref(), expected, "{name} in pieces of {cut}");
            }
        }
    }
}
