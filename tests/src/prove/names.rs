//! A tool, prompt, resource or template that a caller may not see, and one that does not exist, get the same bytes, cause
//! the same requests to servers, and take as long.

use crate::harness::Caller;
use crate::invisible::{ENDPOINTS, ERAS, House, KINDS, Kind, ask, compare_at_first};
use std::time::{Duration, Instant};

/// Calls of each of the two that are compared.
const CALLS: usize = 400;

/// Times that a pair is measured which was told apart.
const MEASUREMENTS: usize = 3;

pub(super) async fn run() {
    let mut compared = 0;
    for (server, client) in ERAS.into_iter().flat_map(|server| ERAS.map(|client| (server, client))) {
        for path in ENDPOINTS {
            for kind in KINDS {
                compare_at_first(server, client, path, kind).await;
                compared += 1;
            }
        }
    }
    println!(
        "{compared} kinds of requests, each to gateways that knew nothing: same bytes, same requests to servers"
    );
    let mut told_apart = Vec::new();
    for (server, client) in ERAS.into_iter().flat_map(|server| ERAS.map(|client| (server, client))) {
        for path in ENDPOINTS {
            let house = House::start(server).await;
            let mut caller = house.caller(client, path).await;
            for kind in KINDS {
                let what = format!("{client:?} at {server:?}, {path}, {}", kind.name);
                if tells_apart(&mut caller, kind, &what).await {
                    told_apart.push(what);
                }
            }
        }
    }
    assert!(told_apart.is_empty(), "times tell what is hidden from what is absent: {told_apart:#?}");
}

/// Whether times tell what is hidden from what is absent: each time that they are measured, and in the same direction. Of
/// many pairs of equal times, a few differ by chance.
async fn tells_apart(caller: &mut Caller, kind: Kind, what: &str) -> bool {
    let mut slower = None;
    for _ in 0..MEASUREMENTS {
        let mut took = [Vec::new(), Vec::new()];
        for round in 0..2 * CALLS {
            // First, second, second, first: what comes every second call falls on both alike.
            let which = (round + round / 2) % 2;
            let start = Instant::now();
            let said = ask(caller, kind, kind.pair[which]).await;
            took[which].push(start.elapsed());
            assert!(said.code().is_some(), "{}", said.all());
        }
        let [hidden, absent] = took.map(Quartiles::of);
        println!("{what}: hidden {hidden}, absent {absent}");
        let is_hidden_slower = hidden.0[1] > absent.0[1];
        if hidden.is_like(&absent) || slower.is_some_and(|slower| slower != is_hidden_slower) {
            return false;
        }
        slower = Some(is_hidden_slower);
    }
    true
}

/// The quartiles of some times.
struct Quartiles([Duration; 3]);

impl Quartiles {
    fn of(mut times: Vec<Duration>) -> Quartiles {
        times.sort();
        Quartiles([1, 2, 3].map(|quarter| times[times.len() * quarter / 4]))
    }

    /// True if the median of each lies between the quartiles of the other.
    fn is_like(&self, other: &Quartiles) -> bool {
        let within = |one: &Quartiles, other: &Quartiles| (one.0[0]..=one.0[2]).contains(&other.0[1]);
        within(self, other) && within(other, self)
    }
}

impl std::fmt::Display for Quartiles {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [low, median, high] = self.0.map(|time| time.as_micros());
        write!(f, "{median} µs ({low} to {high})")
    }
}
