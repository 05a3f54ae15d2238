//! What a client that listens is told outside of any call.

use crate::shares::{Share, Shares};
use portunus_config::UpstreamKey;
use portunus_filters::Released;
use portunus_filters::catalog::ListKind;
use std::ops::Deref;
use std::sync::Arc;

/// Something for who listens, outside of any call.
#[derive(Clone, Debug)]
pub enum Word {
    /// A list has changed.
    Changed(ListKind),
    /// A resource has changed.
    Updated {
        /// Whose it is.
        upstream: Arc<str>,
        /// The resource, as its server calls it.
        uri: Arc<str>,
        /// The notification.
        message: Spoken,
    },
    /// Any other notification, as it is.
    Said(Spoken),
    /// A question of a server.
    Asked(Spoken<Released>),
}

/// The text of a message, and its part of what may wait to be heard.
#[derive(Clone, Debug)]
pub struct Spoken<T = Arc<str>> {
    text: T,
    _share: Option<Arc<Share<UpstreamKey>>>,
}

impl<T: Into<Arc<str>>> From<T> for Spoken {
    fn from(text: T) -> Spoken {
        Spoken { text: text.into(), _share: None }
    }
}

impl From<Released> for Spoken<Released> {
    fn from(text: Released) -> Spoken<Released> {
        Spoken { text, _share: None }
    }
}

impl<T> Deref for Spoken<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.text
    }
}

impl<T> Spoken<T> {
    /// The same, with the share of an upstream.
    fn with(self, share: Share<UpstreamKey>) -> Spoken<T> {
        Spoken { _share: Some(Arc::new(share)), ..self }
    }
}

impl Word {
    /// The same, counted among what `upstream` has said and somebody has yet to hear; `None` if that is
    /// too much.
    pub fn counted(self, unheard_bytes: &Arc<Shares<UpstreamKey>>, upstream: UpstreamKey) -> Option<Word> {
        Some(match self {
            Word::Changed(kind) => Word::Changed(kind),
            Word::Updated { upstream: name, uri, message } => {
                let share = unheard_bytes.take(upstream, message.len() + uri.len())?;
                Word::Updated { upstream: name, uri, message: message.with(share) }
            }
            Word::Said(message) => {
                let share = unheard_bytes.take(upstream, message.len())?;
                Word::Said(message.with(share))
            }
            Word::Asked(message) => {
                let share = unheard_bytes.take(upstream, message.len())?;
                Word::Asked(message.with(share))
            }
        })
    }
}
