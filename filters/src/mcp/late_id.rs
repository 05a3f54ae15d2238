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
#[derive(Debug, Default)]
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
}

impl LateId {
    /// Follows the next bytes.
    pub fn push(&mut self, chunk: &[u8]) {
        for &byte in chunk {
            self.step(byte);
        }
    }

    /// The id, if the text so far had exactly one that is valid.
    pub fn finish(self) -> Option<Id> {
        let value = String::from_utf8(self.value).ok()?;
        let answer = format!("{{\"jsonrpc\":\"2.0\",\"id\":{},\"result\":0}}", value.trim());
        Envelope::read(&answer).ok()?.id
    }

    fn step(&mut self, byte: u8) {
        if self.in_string {
            self.take(byte);
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' => self.escaped = true,
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
            ("spaces", "{ \"id\" : 12 , \"method\":\"m\"}", Some("12")),
            ("cut off after it", r#"{"id":3,"params":{"text":"aaaa"#, Some("3")),
            ("none", r#"{"method":"m","params":{"id":5}}"#, None),
            ("null", r#"{"id":null}"#, None),
            ("twice", r#"{"id":1,"id":2}"#, None),
            ("an object", r#"{"id":{"id":1}}"#, None),
            ("a value named id", r#"{"method":"id","x":1}"#, None),
        ];
        for (name, text, expected) in cases {
            for cut in [1, 2, 7, 1000] {
                assert_eq!(found(text, cut).as_deref(), expected, "{name} in pieces of {cut}");
            }
        }
    }
}
