//! The file in the state folder that holds the keys of issuers: `issuer-keys.json`, replaced as a whole.
//!
//! The keys are public; but who could write them could sign tokens, so that a file which others may write
//! to is not read.

use super::{Held, KeySlot};
use crate::state_file;
use portunus_filters::Moment;
use portunus_filters::identity::KeySet;
use serde::{Deserialize, Serialize};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

const NAME: &str = "issuer-keys.json";

/// The form of the file; one of another form is not read.
const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
struct Document {
    issuers: Vec<Entry>,
}

/// The keys of one issuer, as it gave them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Entry {
    /// Its settings, digested: keys that were fetched under others are not its own.
    pub(super) trust: String,
    /// Seconds since 1970.
    pub(super) fetched_at: u64,
    /// The key set.
    pub(super) keys: String,
}

impl KeySlot {
    /// Takes the keys of an earlier process.
    pub(super) fn restore(&self, entry: &Entry, now: Moment) {
        let issuer = &*self.trust.issuer.name;
        let at = Duration::from_secs(entry.fetched_at);
        // One from the future was not written by a clock that agrees with ours.
        if now.wall < at || now.wall - at >= self.trust.max_stale {
            return tracing::warn!(issuer, "the keys of an earlier process are too old");
        }
        let Ok((keys, _)) = KeySet::read(entry.keys.as_bytes()) else {
            return tracing::warn!(issuer, "the keys of an earlier process cannot be read");
        };
        self.from_disk.store(true, Ordering::Release);
        self.fetch_state().got = Some(Moment { wall: at, ..now });
        self.hold(Some(Held { keys: Arc::new(keys), text: entry.keys.clone().into_bytes(), etag: None }));
    }

    /// Lets go of the keys of an earlier process when they are too old.
    pub(super) fn expire(&self, now: Moment) {
        if !self.from_disk.load(Ordering::Acquire) {
            return;
        }
        let got = self.fetch_state().got;
        if got.is_none_or(|got| now.wall.saturating_sub(got.wall) >= self.trust.max_stale) {
            self.from_disk.store(false, Ordering::Release);
            self.fetch_state().got = None;
            tracing::warn!(
                issuer = &*self.trust.issuer.name,
                "the keys of an earlier process are too old by now"
            );
            self.hold(None);
        }
    }

    /// What a later process may go on with.
    pub(super) fn entry(&self) -> Option<Entry> {
        let held = self.held.load_full().filter(|_| self.is_fetched())?;
        Some(Entry {
            trust: self.trust.id.hex(),
            fetched_at: self.fetch_state().got?.wall.as_secs(),
            keys: String::from_utf8(held.text.clone()).ok()?,
        })
    }
}

/// Writes the keys of all issuers.
///
/// # Errors
/// If the folder cannot be written to.
pub(super) fn write(folder: &Path, issuers: &[Entry]) -> io::Result<()> {
    state_file::write_document(&folder.join(NAME), VERSION, Document { issuers: issuers.to_vec() })
}

/// The keys that an earlier process has written; none if none did.
///
/// # Errors
/// If the file cannot be read, or is none of ours.
pub(super) fn read(folder: &Path) -> io::Result<Vec<Entry>> {
    let document: Option<Document> = state_file::read_document(&folder.join(NAME), VERSION)?;
    Ok(document.map_or_else(Vec::new, |document| document.issuers))
}
