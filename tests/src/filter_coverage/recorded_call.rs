//! Compares one call on both sides of the gateway with a record of it.

use super::setup::{ERAS, Setup};
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
fn normalize(text: &str) -> String {
    let mut lines = String::new();
    for line in text.replace('\r', "").lines() {
        let name = line.split_once(": ").map(|(name, _)| name.to_ascii_lowercase());
        match name.filter(|name| CHANGING.contains(&&**name)) {
            Some(name) => lines.push_str(&format!("{name}: ...")),
            None => lines.push_str(&mask_ids(line)),
        }
        lines.push('\n');
    }
    lines
}

/// A message without the numbers that count messages.
fn mask_ids(line: &str) -> String {
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
    for spec in ERAS.iter().copied() {
        let mut setup = Setup::start(spec, &binary()).await;
        let client = &mut setup.client;
        client.open().await;
        let [tools, ..] = client.lists().await;
        client.received.clear();
        client.call(&tools, "work").await;
        let mut calls = setup.server.received();
        calls.retain(|request| request.contains("tools/call"));
        for (whose, text) in [("server", calls.concat()), ("client", setup.client.received)] {
            record.push_str(&format!("==== {}: what the {whose} got\n\n{}\n", spec.name, normalize(&text)));
        }
    }
    let record: String = record.lines().map(|line| format!("{}\n", line.trim_end())).collect();
    let known = include_str!("recorded_call.txt");
    assert_eq!(record.trim_end(), known.trim_end(), "recorded_call.txt has to say:\n{record}");
}
