//! Checks which text crosses the gateway without passing a filter.
//!
//! Servers and clients write a marker into many places. A filter that only the binary of these tests has changes each
//! marker that it sees: one that arrives unchanged went past it. `coverage.txt` says how each of them arrives today, by
//! place and by the setup between client and server:
//!
//! - `seen`: as the filter made it, wherever it arrived;
//! - `PAST`: unchanged, at least once;
//! - `gone`: not at all;
//! - `-`: never written in this setup.
//!
//! A setup is named by the eras of client and server; `!` has a policy, `+` another server beside it. With `@` the client
//! talks to a replica that does not own its sessions and calls, with `>` it sends only its answers and notifications there
//! (`coverage_relays.txt`). With `~` it loses each stream and takes it up again by `Last-Event-ID` (`coverage_replays.txt`),
//! with `~>` at the replica that does not own it. With `^` its server gets its credentials, and it gets the challenges of that
//! (`coverage_passthrough.txt`). `sse` is the transport of 2024-11-05 (`coverage_http_sse.txt`).
//! The filter is on in all of them, so none passes messages as they came.

mod client;
mod recorded_call;
mod server;
mod setup;

use crate::harness::{binary, marking_binary};
use setup::{ERAS, HTTP_SSE, PASSTHROUGH, RELAYS, REPLAYS, Setup, SetupSpec};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

/// Before each marker, as the filter knows it, and after the filter.
const BEFORE: &str = "rawMARKER-";
const AFTER: &str = "clrMARKER-";

/// Ends a marker in the name of a header field, in place of the dot.
const FIELD_NAME_END: &str = "-end";

/// Longer than what is read by the thread that serves the call, and than a megabyte.
const LARGE: usize = 300 << 10;
const HUGE: usize = 1200 << 10;

/// Names the folder that gets what both sides received, for those who want to see how a marker arrived.
const TRAFFIC: &str = "COVERAGE_TRAFFIC";

/// Places that a marker was written to.
#[derive(Default)]
struct Markers(Mutex<BTreeSet<String>>);

impl Markers {
    /// A marker for this place.
    fn write(&self, place: &str) -> String {
        self.0.lock().unwrap().insert(place.to_owned());
        format!("{BEFORE}{place}.")
    }

    /// The way in which each of them arrived in `text`.
    fn found_in(&self, text: &str) -> BTreeMap<String, &'static str> {
        // The name of a header field arrives in lower case.
        let arrived = |place: &String| {
            let has = |prefix: &str| {
                let name = format!("{prefix}{place}{FIELD_NAME_END}").to_ascii_lowercase();
                text.contains(&format!("{prefix}{place}.")) || text.contains(&name)
            };
            match (has(BEFORE), has(AFTER)) {
                (true, _) => "PAST",
                (false, true) => "seen",
                (false, false) => "gone",
            }
        };
        self.0.lock().unwrap().iter().map(|place| (place.clone(), arrived(place))).collect()
    }
}

/// The ways in which the markers of both sides arrive at the other.
async fn trace_markers(spec: SetupSpec) -> [BTreeMap<String, &'static str>; 2] {
    let mut setup = Setup::start(spec, &marking_binary()).await;
    setup.client.do_everything().await;
    setup.assert_route().await;
    let (client, server) = (setup.client, setup.server);
    if let Ok(folder) = std::env::var(TRAFFIC) {
        let place = |side: &str| std::path::Path::new(&folder).join(format!("{}.{side}", spec.name));
        std::fs::write(place("client"), &client.received).unwrap();
        std::fs::write(place("server"), server.received().concat()).unwrap();
    }
    [server.sent().found_in(&client.received), client.sent.found_in(&server.received().concat())]
}

/// The table of how each marker arrives in each of these setups.
async fn coverage(setups: &[SetupSpec]) -> String {
    let mut found: [BTreeMap<String, Vec<&str>>; 2] = Default::default();
    for (number, spec) in setups.iter().enumerate() {
        for (rows, markers) in found.iter_mut().zip(trace_markers(*spec).await) {
            for (place, arrived) in markers {
                rows.entry(place).or_insert_with(|| vec!["-"; setups.len()])[number] = arrived;
            }
        }
    }
    let mut table = String::new();
    for (title, rows) in ["of servers, at clients", "of clients, at servers"].into_iter().zip(found) {
        table.push_str(&format!("{title:<24}"));
        table.extend(setups.iter().map(|setup| format!(" {:<8}", setup.name)));
        table.push('\n');
        for (place, row) in rows {
            table.push_str(&format!("{place:<24}"));
            table.extend(row.into_iter().map(|arrived| format!(" {arrived:<8}")));
            table.push('\n');
        }
    }
    table.lines().map(|line| format!("{}\n", line.trim_end())).collect()
}

async fn assert_coverage(setups: &[SetupSpec], file: &str, known: &str) {
    let table = coverage(setups).await;
    assert_eq!(table, known, "{file} has to say:\n{table}");
}

#[tokio::test]
async fn text_places_arrive_as_listed() {
    assert_coverage(ERAS, "coverage.txt", include_str!("coverage.txt")).await;
}

#[tokio::test]
async fn text_places_arrive_as_listed_where_credentials_are_passed() {
    assert_coverage(PASSTHROUGH, "coverage_passthrough.txt", include_str!("coverage_passthrough.txt")).await;
}

#[tokio::test]
async fn text_places_arrive_as_listed_through_another_replica() {
    assert_coverage(RELAYS, "coverage_relays.txt", include_str!("coverage_relays.txt")).await;
}

#[tokio::test]
async fn text_places_arrive_as_listed_by_last_event_id() {
    assert_coverage(REPLAYS, "coverage_replays.txt", include_str!("coverage_replays.txt")).await;
}

#[tokio::test]
async fn text_places_arrive_as_listed_over_http_sse() {
    assert_coverage(HTTP_SSE, "coverage_http_sse.txt", include_str!("coverage_http_sse.txt")).await;
}

#[test]
fn marking_filter_is_absent_from_the_default_binary() {
    let has = |binary: std::path::PathBuf| {
        let bytes = std::fs::read(binary).unwrap();
        memchr::memmem::find(&bytes, BEFORE.as_bytes()).is_some()
    };
    assert!(has(marking_binary()), "the filter is in the binary of this test");
    assert!(!has(binary()));
}
