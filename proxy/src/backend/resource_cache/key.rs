//! What an answer is to.

use super::Wanted;
use crate::sealing::CallerKey;
use portunus_config::UpstreamKey;
use ring::digest::{Context, SHA256};

/// What an answer is to.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct Key {
    /// The configuration in force: what was read under another is never given again.
    pub(super) serial: u64,
    pub(super) upstream: UpstreamKey,
    /// `None` for all callers.
    pub(super) caller: Option<CallerKey>,
    /// The request, and all that a server can tell its clients apart by.
    pub(super) request: [u8; 32],
}

/// What an answer depends on: all of the request but `_meta`, what the client is, and what its server
/// is shown of it. That holds for public answers too: what one caller's odd header brings about is not
/// for others. A legacy session remembers what was said on it.
pub(super) fn digest(wanted: &Wanted<'_>) -> [u8; 32] {
    let Wanted { place, params, session, .. } = wanted;
    let mut context = Context::new(&SHA256);
    let mut part = |bytes: &[u8]| {
        context.update(&(bytes.len() as u64).to_be_bytes());
        context.update(bytes);
    };
    part(place.profile.key());
    part(session.unwrap_or_default());
    for (name, value) in place.headers.distinguishing_fields() {
        part(name.as_bytes());
        part(value);
    }
    // No field has this name: what follows is of the parameters.
    part(b"");
    let mut members: Vec<_> = params.members().filter(|(key, _)| *key != "_meta").collect();
    members.sort_unstable();
    for (key, text) in members {
        part(key.as_bytes());
        part(text.as_bytes());
    }
    let mut digest = [0; 32];
    digest.copy_from_slice(context.finish().as_ref());
    digest
}
