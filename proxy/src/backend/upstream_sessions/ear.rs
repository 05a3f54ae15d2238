//! What one call hears on the stream of its leg.

use super::{Delivered, Leg};
use crate::backend::forward::{Failure, Patience};
use crate::backend::upstream_call::server_message::ServerMessage;
use std::sync::Arc;
use tokio::sync::mpsc;

/// A place among those who hear the stream of a leg, for as long as it lives.
pub(crate) struct Ear {
    leg: Arc<Leg>,
    number: u64,
    inbox: mpsc::Receiver<Delivered>,
}

impl Ear {
    pub(super) fn new(leg: &Arc<Leg>, number: u64, inbox: mpsc::Receiver<Delivered>) -> Ear {
        Ear { leg: Arc::clone(leg), number, inbox }
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
        self.leg.detach(self.number);
    }
}
