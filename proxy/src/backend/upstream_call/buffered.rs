//! What a server says to a call whose client is away: kept as it came, and inspected once the client is back.

use super::inspection::RawEvent;
use super::{Answer, CallEvent, UpstreamCall};
use crate::offload::INLINE_BYTES;
use crate::shares::Share;
use bytes::Bytes;
use tokio::task::yield_now;

/// Most messages that wait for one call.
pub(crate) const MAX_BUFFERED_MESSAGES: usize = 256;

/// A message that nobody has inspected, and its part of what its caller's calls may keep.
pub(super) struct Buffered {
    raw: RawEvent,
    _share: Share,
}

impl UpstreamCall {
    /// Listens while the client is away, and keeps what the server says next for [`UpstreamCall::next_buffered`]. `false` if
    /// there is no room for it: the call cannot go on then. Safe to cancel; waits for ever once the upstream call is over.
    pub async fn buffer_next(&mut self) -> bool {
        loop {
            if self.over {
                std::future::pending::<()>().await;
            }
            // Where the answer may be kept is no longer known: that ends with the first question.
            let (raw, _) = self.next_raw_event().await;
            let Some(raw) = self.compact(raw) else { continue };
            if self.buffered.len() == MAX_BUFFERED_MESSAGES {
                return false;
            }
            let Some(share) = self.call.backend.texts.take(self.owner(), raw.kept_bytes()) else {
                return false;
            };
            self.buffered.push_back(Buffered { raw, _share: share });
            return true;
        }
    }

    /// The next turn that comes of what was kept, which inspectors read now, by the rules of the call and of the request
    /// that takes it up again; `None` once there is no more. Safe to cancel.
    pub async fn next_buffered(&mut self) -> Option<CallEvent> {
        loop {
            let event = match self.inspecting {
                Some(_) => self.inspected().await,
                None if self.buffered.is_empty() => return None,
                None => {
                    // Many may come of which the client hears nothing: other tasks have their turn between them.
                    yield_now().await;
                    let next = self.buffered.pop_front()?;
                    self.inspect(next.raw, None)
                }
            };
            if event.is_some() {
                return event;
            }
        }
    }

    /// A message with no more memory than it is long; `None` for a notification that this client never hears.
    fn compact(&self, raw: RawEvent) -> Option<RawEvent> {
        Some(match raw {
            RawEvent::Note { message, number } => {
                if message.len() <= INLINE_BYTES && !self.call.hears(&message, &number) {
                    return None;
                }
                // It is a part of what was read at once from the server.
                RawEvent::Note { message: Bytes::copy_from_slice(&message), number }
            }
            // It is counted with all that is kept, no longer with what is read of its upstream.
            RawEvent::Done(answer) => RawEvent::Done(Answer { room: None, ..answer }),
            raw @ (RawEvent::Ask(_) | RawEvent::Failed(_)) => raw,
        })
    }
}
