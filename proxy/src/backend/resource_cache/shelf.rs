//! Answers of one virtual server within a number of bytes. What was not asked for since its last turn
//! makes room first.

use super::{Kept, Key};
use portunus_filters::Moment;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

/// An answer that would take more than this part of the room is not kept.
const LARGEST_PART: usize = 8;

#[derive(Default)]
pub(super) struct Shelf {
    slots: HashMap<Key, Slot>,
    /// Whose turn it is to make room; keys that are gone are passed over.
    turns: VecDeque<Key>,
    bytes: usize,
}

struct Slot {
    kept: Arc<Kept>,
    asked_for: bool,
}

impl Shelf {
    pub(super) fn get(&mut self, key: &Key) -> Option<Arc<Kept>> {
        let slot = self.slots.get_mut(key)?;
        slot.asked_for = true;
        Some(Arc::clone(&slot.kept))
    }

    pub(super) fn put(&mut self, key: Key, kept: Arc<Kept>, max_bytes: usize) {
        let bytes = kept.bytes();
        if bytes > max_bytes / LARGEST_PART {
            return;
        }
        self.remove(&key);
        while self.bytes + bytes > max_bytes {
            let Some(turn) = self.turns.pop_front() else { break };
            match self.slots.get_mut(&turn) {
                Some(slot) if slot.asked_for => {
                    slot.asked_for = false;
                    self.turns.push_back(turn);
                }
                _ => self.remove(&turn),
            }
        }
        self.bytes += bytes;
        self.slots.insert(key.clone(), Slot { kept, asked_for: false });
        self.turns.push_back(key);
        if self.turns.len() > 2 * self.slots.len() + 64 {
            self.turns = self.slots.keys().cloned().collect();
        }
    }

    /// Lets go of what can no longer stand in.
    pub(super) fn sweep(&mut self, now: Moment) {
        self.slots.retain(|_, slot| now.monotonic < slot.kept.until);
        self.bytes = self.slots.values().map(|slot| slot.kept.bytes()).sum();
        self.turns.retain(|key| self.slots.contains_key(key));
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn remove(&mut self, key: &Key) {
        if let Some(slot) = self.slots.remove(key) {
            self.bytes -= slot.kept.bytes();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::upstream_call::{Answer, Outcome};
    use portunus_config::{MapEnvironment, UpstreamKey, load_text};
    use portunus_filters::mcp::bridge::Scope;
    use portunus_filters::{Clock, Era, ManualClock};
    use std::path::Path;
    use std::time::Duration;

    fn upstream() -> UpstreamKey {
        let text = "version: 1\nlisten: 127.0.0.1:0\nupstreams: {a: {url: \"http://127.0.0.1:1/\"}}\nservers: {/mcp: a}\n";
        let loaded = load_text(text, Path::new("gateway.yaml"), &MapEnvironment::default()).unwrap();
        loaded.snapshot.upstreams[0].key
    }

    #[test]
    fn memory_is_bounded_and_what_is_asked_for_stays() {
        let mut shelf = Shelf::default();
        let upstream = upstream();
        let key = |number: u32| {
            let mut request = [0; 32];
            request[..4].copy_from_slice(&number.to_be_bytes());
            Key { serial: 1, upstream, caller: None, request }
        };
        let kept = |size: usize, until| {
            let until = Duration::from_secs(until);
            let read_at = ManualClock::default().now();
            let answer = Answer {
                era: Era::Modern,
                outcome: Outcome::Result(vec![b'x'; size].into()),
                facts: None,
                received: None,
                room: None,
            };
            Arc::new(Kept {
                answer,
                upstream: "a".into(),
                uri_digest: [0; 32],
                caller: None,
                read_at,
                fresh_until: Duration::ZERO,
                renewable_until: Duration::ZERO,
                until,
                scope: Scope::Private,
            })
        };
        shelf.put(key(0), kept(1_000, 1), 100_000);
        for number in 1..10_000 {
            assert!(shelf.get(&key(0)).is_some());
            shelf.put(key(number), kept(1_000, 2), 100_000);
            assert!(shelf.bytes() <= 100_000 && shelf.turns.len() <= 2 * shelf.len() + 64);
        }
        shelf.put(key(10_000), kept(12_500, 2), 100_000);
        assert!(shelf.get(&key(10_000)).is_none(), "too large a part");
        for _ in 0..1_000 {
            shelf.put(key(1), kept(1_000, 2), 100_000);
            assert!(shelf.turns.len() <= 2 * shelf.len() + 65);
        }
        let clock = ManualClock::default();
        clock.advance(Duration::from_secs(2));
        shelf.sweep(clock.now());
        assert_eq!((shelf.len(), shelf.bytes(), shelf.turns.len()), (0, 0, 0));
    }
}
