//! Queues what legacy upstreams say outside of any call.

use super::UpstreamSession;
use crate::backend::upstream_call::{CallerKey, Question};
use crate::shares::Share;
use bytes::Bytes;
use portunus_config::{ServerId, Upstream, UpstreamKey};
use portunus_filters::mcp::{Id, Method};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::Notify;

/// Messages that wait for the one who hears them.
const MAX_WAITING: usize = 4096;

/// Something that came on the stream of an upstream session.
#[derive(Clone)]
pub struct ServerNotice {
    /// Who said it.
    pub upstream: Arc<Upstream>,
    /// The virtual server whose client the upstream session is for.
    pub server: ServerId,
    /// The authorization context that the upstream session is for.
    pub caller: CallerKey,
    /// The upstream session that it came on.
    pub upstream_session: Arc<UpstreamSession>,
    /// What was said.
    pub content: NoticeContent,
    /// Its part of what may wait.
    pub share: Option<Arc<Share<UpstreamKey>>>,
}

impl ServerNotice {
    /// Bytes of what the server said.
    pub fn bytes(&self) -> usize {
        match &self.content {
            NoticeContent::Notification { message, .. } => message.len(),
            NoticeContent::Question { question, .. } => question.params.len(),
            NoticeContent::Gap | NoticeContent::Gone => 0,
        }
    }
}

/// What was said.
#[derive(Clone, Debug)]
pub enum NoticeContent {
    /// A notification.
    Notification {
        /// Its method.
        method: Method,
        /// The whole message.
        message: Bytes,
    },
    /// A question outside of any call, on the session of one client; answered by [`UpstreamSession::answer`].
    Question {
        /// Under which the upstream waits for the answer.
        id: Id,
        /// What is asked.
        question: Question,
    },
    /// The stream was lost and is there again: what was said in between is unknown.
    Gap,
    /// The upstream session is gone.
    Gone,
}

/// A bounded queue from all upstream sessions to one hub; what is too much drops the oldest notification.
#[derive(Default)]
pub struct NoticeQueue {
    waiting: Mutex<VecDeque<ServerNotice>>,
    arrived: Notify,
}

impl NoticeQueue {
    /// The next message; waits for it. Safe to cancel.
    pub async fn next(&self) -> ServerNotice {
        loop {
            let arrived = self.arrived.notified();
            if let Some(notice) = self.lock().pop_front() {
                return notice;
            }
            arrived.await;
        }
    }

    /// Messages that wait.
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Gives what had to make room: never that an upstream session is gone, nor a question whose server waits, as long
    /// as there is something else.
    pub(crate) fn push(&self, notice: ServerNotice) -> Option<ServerNotice> {
        let mut waiting = self.lock();
        let is_full = waiting.len() >= MAX_WAITING;
        let dropped = is_full.then(|| {
            let oldest =
                waiting.iter().position(|one| matches!(one.content, NoticeContent::Notification { .. }));
            waiting.remove(oldest.unwrap_or_default())
        });
        waiting.push_back(notice);
        drop(waiting);
        self.arrived.notify_one();
        dropped.flatten()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, VecDeque<ServerNotice>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
