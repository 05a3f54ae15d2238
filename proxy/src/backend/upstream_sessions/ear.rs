//! The messages that one call hears on the stream of its upstream session.

use super::{Delivered, UpstreamSession};
use crate::backend::forward::{Failure, Patience};
use crate::backend::upstream_call::server_message::ServerMessage;
use std::sync::Arc;
use tokio::sync::mpsc;

/// A place among those who hear the stream of an upstream session, for as long as it lives.
pub(crate) struct Ear {
    upstream_session: Arc<UpstreamSession>,
    number: u64,
    inbox: mpsc::Receiver<Delivered>,
}

impl Ear {
    pub(super) fn new(
        upstream_session: &Arc<UpstreamSession>,
        number: u64,
        inbox: mpsc::Receiver<Delivered>,
    ) -> Ear {
        Ear { upstream_session: Arc::clone(upstream_session), number, inbox }
    }

    /// The next message for the call; `None` when nothing will come any more. Safe to cancel.
    pub(crate) async fn next(&mut self) -> Option<ServerMessage> {
        self.inbox.recv().await.map(|delivered| delivered.message)
    }

    /// As [`Ear::next`], for a call whose answer comes this way. Safe to cancel.
    ///
    /// # Errors
    /// [`Failure`] if the stream has broken off, or nothing comes in time.
    pub(crate) async fn answer(&mut self, patience: Patience) -> Result<ServerMessage, Failure> {
        let heard = patience.bound(self.next()).await?;
        heard.ok_or_else(|| Failure::broken("the stream of the session is lost".to_owned()))
    }
}

impl Drop for Ear {
    fn drop(&mut self) {
        self.upstream_session.detach(self.number);
    }
}
