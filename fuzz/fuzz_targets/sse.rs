//! An event stream, however it is cut, comes out byte for byte and with the same data.
//!
//! An input is one line whose bytes are the lengths of the chunks, taken in turn, and the stream
//! after it. So seeds can be read and written by hand.

#![no_main]

use libfuzzer_sys::fuzz_target;
use portunus_filters::mcp::sse::{Event, Oversize, Splitter};

fuzz_target!(|input: &[u8]| {
    let at = input.iter().position(|byte| *byte == b'\n').unwrap_or(input.len());
    let (lengths, stream) = (&input[..at], input.get(at + 1..).unwrap_or_default());
    let chunks = cut(stream, lengths);

    let (events, rest, end) = split(&chunks, usize::MAX);
    assert_eq!(end, Ok(()), "without a limit nothing is refused");
    assert_eq!([concat(&events), rest].concat(), stream, "every byte comes out, in order");

    let (whole, _, _) = split(&[stream], usize::MAX);
    assert_eq!(meaning(&events), meaning(&whole), "what the events say does not depend on the chunks");

    let limit = lengths.len();
    let (small, rest, end) = split(&chunks, limit);
    assert!(small.iter().all(|event| event.raw().len() <= limit), "no event is above the limit");
    assert!(end.is_err() || rest.len() <= limit, "no more than the limit is kept");
    assert!(stream.starts_with(&concat(&small)), "what came out before a refusal is untouched");
});

/// Chunks of these lengths, the rest in one; lengths stay small, where line ends are cut.
fn cut<'a>(mut stream: &'a [u8], lengths: &[u8]) -> Vec<&'a [u8]> {
    let mut chunks = Vec::new();
    for length in lengths.iter().cycle().take(stream.len()) {
        let length = usize::from(length % 16).min(stream.len());
        let (chunk, rest) = stream.split_at(length);
        chunks.push(chunk);
        stream = rest;
    }
    chunks.push(stream);
    chunks
}

fn split(chunks: &[&[u8]], limit: usize) -> (Vec<Event>, Vec<u8>, Result<(), Oversize>) {
    let mut splitter = Splitter::new(limit);
    let mut events = Vec::new();
    for chunk in chunks {
        splitter.push(chunk);
        loop {
            match splitter.next_event() {
                Ok(Some(event)) => events.push(event),
                Ok(None) => break,
                Err(oversize) => return (events, splitter.remainder().to_vec(), Err(oversize)),
            }
        }
    }
    (events, splitter.remainder().to_vec(), Ok(()))
}

fn concat(events: &[Event]) -> Vec<u8> {
    events.iter().flat_map(|event| event.raw().iter().copied()).collect()
}

/// Data and resumability of the events that have any.
fn meaning(events: &[Event]) -> Vec<(Option<Vec<u8>>, bool)> {
    let parts = events.iter().map(|event| (event.data().map(|data| data.into_owned()), event.has_id()));
    parts.filter(|(data, id)| data.is_some() || *id).collect()
}
