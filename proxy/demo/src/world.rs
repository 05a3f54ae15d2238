//! What one demo server remembers: notes, counters, and who wants to hear of changes.

use ring::hmac;
use ring::rand::SystemRandom;
use serde_json::{Map, Value, json};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::broadcast;

/// Notes kept; the oldest makes room.
pub(super) const MAX_NOTES: usize = 256;
/// Bytes of one note.
pub(super) const MAX_NOTE_BYTES: usize = 4096;
/// Changes that a slow stream may lag behind before it is told that everything may have changed.
const BACKLOG: usize = 256;
/// The resource that tells what the server holds.
pub(super) const README: &str = "demo://readme";

/// The state behind one path.
pub(super) struct World {
    notes: Mutex<Notes>,
    changes: broadcast::Sender<Change>,
    running: AtomicU64,
    cancelled: AtomicU64,
    seal: Option<hmac::Key>,
}

impl World {
    /// An empty world.
    pub(super) fn new() -> World {
        World {
            notes: Mutex::default(),
            changes: broadcast::Sender::new(BACKLOG),
            running: AtomicU64::new(0),
            cancelled: AtomicU64::new(0),
            seal: hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new()).ok(),
        }
    }

    /// Keeps a note and tells the listeners; gives the note's number.
    pub(super) fn add_note(&self, text: &str) -> u64 {
        let (id, first) = {
            let mut notes = self.notes();
            let first = notes.kept.is_empty();
            notes.last += 1;
            let id = notes.last;
            notes.kept.push_back((id, text.to_owned()));
            if notes.kept.len() > MAX_NOTES {
                notes.kept.pop_front();
            }
            (id, first)
        };
        self.tell(Change::Resources);
        self.tell(Change::Updated(note_uri(id)));
        self.tell(Change::Updated(README.to_owned()));
        if first {
            self.tell(Change::Tools);
        }
        id
    }

    /// Forgets all notes and tells the listeners; gives how many there were.
    pub(super) fn clear_notes(&self) -> usize {
        let gone = std::mem::take(&mut self.notes().kept);
        if !gone.is_empty() {
            self.tell(Change::Resources);
            self.tell(Change::Updated(README.to_owned()));
            self.tell(Change::Tools);
        }
        gone.len()
    }

    /// The numbers of the notes, oldest first.
    pub(super) fn note_ids(&self) -> Vec<u64> {
        self.notes().kept.iter().map(|(id, _)| *id).collect()
    }

    /// The text of a note.
    pub(super) fn note(&self, id: u64) -> Option<String> {
        self.notes().kept.iter().find(|(kept, _)| *kept == id).map(|(_, text)| text.clone())
    }

    /// Changes from now on.
    pub(super) fn changes(&self) -> broadcast::Receiver<Change> {
        self.changes.subscribe()
    }

    /// Counts a long call until the guard is finished or dropped.
    pub(super) fn running(&self) -> Running<'_> {
        self.running.fetch_add(1, Ordering::Relaxed);
        Running { world: self, finished: false }
    }

    /// Long calls that run now, and how many were cancelled so far.
    pub(super) fn calls(&self) -> (u64, u64) {
        (self.running.load(Ordering::Relaxed), self.cancelled.load(Ordering::Relaxed))
    }

    /// A text that only this server can have made, for `purpose`; `None` without a random key.
    pub(super) fn seal(&self, purpose: &str) -> Option<String> {
        let tag = hmac::sign(self.seal.as_ref()?, purpose.as_bytes());
        Some(hex(tag.as_ref()))
    }

    /// Whether [`World::seal`] made `text` for `purpose`.
    pub(super) fn sealed(&self, purpose: &str, text: &str) -> bool {
        let (Some(key), Some(tag)) = (&self.seal, unhex(text)) else { return false };
        hmac::verify(key, purpose.as_bytes(), &tag).is_ok()
    }

    fn tell(&self, change: Change) {
        // An error only says that nobody listens.
        self.changes.send(change).ok();
    }

    fn notes(&self) -> MutexGuard<'_, Notes> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Something that a client may want to read again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// The list of tools.
    Tools,
    /// The list of resources.
    Resources,
    /// The resource at this URI.
    Updated(String),
}

impl Change {
    /// The notification that tells of it: its method, and its parameters with `meta` if there is any.
    pub(super) fn notification(&self, meta: Option<Value>) -> (&'static str, Value) {
        let mut params = Map::new();
        let method = match self {
            Change::Tools => "notifications/tools/list_changed",
            Change::Resources => "notifications/resources/list_changed",
            Change::Updated(uri) => {
                params.insert("uri".to_owned(), json!(uri));
                "notifications/resources/updated"
            }
        };
        if let Some(meta) = meta {
            params.insert("_meta".to_owned(), meta);
        }
        (method, Value::Object(params))
    }
}

/// A call that is counted while it runs.
pub(super) struct Running<'a> {
    world: &'a World,
    finished: bool,
}

impl Running<'_> {
    /// The call came to its end; without this it counts as cancelled.
    pub(super) fn finish(mut self) {
        self.finished = true;
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.world.running.fetch_sub(1, Ordering::Relaxed);
        if !self.finished {
            self.world.cancelled.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[derive(Default)]
struct Notes {
    last: u64,
    kept: VecDeque<(u64, String)>,
}

/// The URI of a note.
pub(super) fn note_uri(id: u64) -> String {
    format!("demo://note/{id}")
}

/// Lower-case hexadecimal.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(text.get(at..at + 2)?, 16).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_note_makes_room() {
        let world = World::new();
        for n in 0..=MAX_NOTES {
            world.add_note(&n.to_string());
        }
        assert_eq!(world.note_ids().len(), MAX_NOTES);
        assert_eq!((world.note(1), world.note(2).as_deref()), (None, Some("1")));
    }

    #[test]
    fn the_tool_list_changes_with_the_first_note_and_the_last() {
        let world = World::new();
        let mut changes = world.changes();
        world.add_note("a");
        world.add_note("b");
        world.clear_notes();
        world.clear_notes();
        let told: Vec<Change> = std::iter::from_fn(|| changes.try_recv().ok()).collect();
        assert_eq!(told.iter().filter(|change| **change == Change::Tools).count(), 2, "{told:?}");
        assert_eq!(told.iter().filter(|change| **change == Change::Resources).count(), 3, "{told:?}");
    }

    #[test]
    fn numbers_are_not_used_twice() {
        let world = World::new();
        world.add_note("a");
        world.clear_notes();
        assert_eq!(world.add_note("b"), 2);
    }

    #[test]
    fn a_seal_holds_for_its_purpose_and_server_only() {
        let (world, other) = (World::new(), World::new());
        let seal = world.seal("ask_name").unwrap();
        assert!(world.sealed("ask_name", &seal));
        assert!(!world.sealed("echo", &seal));
        assert!(!other.sealed("ask_name", &seal));
        for bad in ["", "zz", "ż", &seal[2..], &"+0".repeat(32)] {
            assert!(!world.sealed("ask_name", bad), "{bad}");
        }
    }

    #[test]
    fn a_call_that_is_dropped_counts_as_cancelled() {
        let world = World::new();
        world.running().finish();
        let dropped = world.running();
        assert_eq!(world.calls(), (1, 0));
        drop(dropped);
        assert_eq!(world.calls(), (0, 1));
    }
}
