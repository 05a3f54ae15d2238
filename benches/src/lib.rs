//! Inputs that the benches share.

pub mod catalogue;

use http::{HeaderMap, HeaderName, HeaderValue};

/// Bytes of a message where its size matters: a small call, a page of text, a large argument.
pub const SIZES: [usize; 3] = [400, 4_096, 65_536];

/// The head of a request as a client of 2026-07-28 sends it.
pub const REQUEST_HEAD: &[u8] = b"POST /mcp HTTP/1.1\r\nHost: 127.0.0.1:8080\r\nAccept: application/json, text/event-stream\r\n\
Content-Type: application/json\r\nMCP-Protocol-Version: 2026-07-28\r\nMcp-Method: tools/call\r\nMcp-Name: echo\r\n\
User-Agent: bench/1\r\nContent-Length: 400\r\n\r\n";

/// The same fields as a map.
pub fn request_headers() -> HeaderMap {
    let text = String::from_utf8_lossy(REQUEST_HEAD);
    let fields = text.lines().skip(1).filter_map(|line| line.split_once(": "));
    let pair = |(name, value): (&str, &str)| {
        Some((HeaderName::from_bytes(name.as_bytes()).ok()?, HeaderValue::from_str(value).ok()?))
    };
    fields.filter_map(pair).collect()
}

/// A modern `tools/call` of `size` bytes, or a little more if so few cannot hold one.
pub fn modern_call(size: usize) -> String {
    padded(size, |text| {
        format!(
            r#"{{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{{"name":"echo","arguments":{{"text":"{text}","n":1,"list":[1,2,3]}},"_meta":{{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientInfo":{{"name":"bench","version":"1"}},"io.modelcontextprotocol/clientCapabilities":{{}}}}}}}}"#
        )
    })
}

/// The answer to it, of `size` bytes.
pub fn answer(size: usize) -> String {
    padded(size, |text| {
        format!(
            r#"{{"jsonrpc":"2.0","id":7,"result":{{"resultType":"complete","content":[{{"type":"text","text":"{text}"}}]}}}}"#
        )
    })
}

/// An event of a stream, of `size` bytes.
pub fn event(size: usize) -> String {
    padded(size, |text| {
        format!(
            "event: message\ndata: {{\"jsonrpc\":\"2.0\",\"method\":\"notifications/message\",\"params\":{{\"data\":\"{text}\"}}}}\n\n"
        )
    })
}

fn padded(size: usize, text: impl Fn(&str) -> String) -> String {
    let least = text("").len();
    text(&"x".repeat(size.saturating_sub(least)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use portunus_config::{MapEnvironment, load_text};
    use std::path::Path;

    /// The configuration with the lines of these marks, as the comparison writes it.
    fn marked(marks: [&str; 2]) -> String {
        let line = |line: &str| {
            let text = line.trim_start();
            let of_mark = marks.iter().find_map(|mark| text.strip_prefix(mark)?.strip_prefix("# "));
            let indent = &line[..line.len() - text.len()];
            format!("{}\n", of_mark.map_or(line.to_owned(), |text| format!("{indent}{text}")))
        };
        include_str!("../peers/portunus.yaml").lines().map(line).collect()
    }

    #[test]
    fn the_compared_configurations_are_accepted_with_and_without_a_log() {
        for log in ["#quiet", "#log"] {
            for way in ["#plain", "#same", "#other", "#several"] {
                let words =
                    [("@LISTEN@", "127.0.0.1:1"), ("@UPSTREAM@", "127.0.0.1:2"), ("@FOLDER@", "folder")];
                let text =
                    words.iter().fold(marked([log, way]), |text, (word, value)| text.replace(word, value));
                let loaded = load_text(&text, Path::new("portunus.yaml"), &MapEnvironment::default());
                assert!(loaded.is_ok_and(|loaded| loaded.bootstrap.threads == 1), "{log} {way}");
            }
        }
    }

    #[test]
    fn inputs_have_the_size_they_are_named_by() {
        for size in SIZES {
            assert_eq!([modern_call(size), answer(size), event(size)].map(|text| text.len()), [size; 3]);
        }
        assert_eq!(request_headers().len(), 8);
    }
}
