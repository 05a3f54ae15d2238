//! Sessions and lists that servers refuse.

use super::MarkingClient;

impl MarkingClient {
    /// Opens a session and asks for lists in each way in which servers refuse the one or the other.
    pub(super) async fn be_refused(&mut self) {
        let session = self.session.take();
        for refused in ["opening", "lists"] {
            for way in ["401", "403", "error"] {
                self.refusal = Some(format!("{refused} {way}"));
                self.open().await;
                self.lists().await;
                self.session = None;
            }
        }
        (self.refusal, self.session) = (None, session);
    }
}
