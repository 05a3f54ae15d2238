//! What one call looks like on the wire, on both sides of the gateway, by the way between them.

use super::{WAYS, Way};
use crate::harness::binary;

/// Header fields whose values differ each time, and the length of a text in which an id does.
const CHANGING: [&str; 8] = [
    "host",
    "date",
    "traceparent",
    "x-request-id",
    "portunus-request-id",
    "mcp-session-id",
    "forwarded",
    "content-length",
];

/// The text without what differs each time.
fn lasting(text: &str) -> String {
    let mut lines = String::new();
    for line in text.replace('\r', "").lines() {
        let name = line.split_once(": ").map(|(name, _)| name.to_ascii_lowercase());
        match name.filter(|name| CHANGING.contains(&&**name)) {
            Some(name) => lines.push_str(&format!("{name}: ...")),
            None => lines.push_str(&numberless(line)),
        }
        lines.push('\n');
    }
    lines
}

/// A message without the numbers that count messages.
fn numberless(line: &str) -> String {
    ["\"id\":", "\"progressToken\":"].into_iter().fold(line.to_owned(), |line, key| {
        let mut parts = line.split(key);
        let mut text = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            let rest = part.trim_start_matches(|digit: char| digit.is_ascii_digit());
            text.push_str(&format!("{key}{}{rest}", if rest.len() < part.len() { "N" } else { "" }));
        }
        text
    })
}

#[tokio::test]
async fn one_call_is_on_the_wire_as_recorded() {
    let mut record = String::new();
    for plan in WAYS {
        let Way { talkative, mut curious, _others } = Way::start(plan, &binary()).await;
        curious.open().await;
        let [tools, ..] = curious.lists().await;
        curious.received.clear();
        curious.call(&tools, "work").await;
        let mut calls = talkative.received();
        calls.retain(|request| request.contains("tools/call"));
        for (whose, text) in [("server", calls.concat()), ("client", curious.received)] {
            record.push_str(&format!("==== {}: what the {whose} got\n\n{}\n", plan.name, lasting(&text)));
        }
    }
    let record: String = record.lines().map(|line| format!("{}\n", line.trim_end())).collect();
    let known = include_str!("wire.txt");
    assert_eq!(record.trim_end(), known.trim_end(), "wire.txt has to say:\n{record}");
}
