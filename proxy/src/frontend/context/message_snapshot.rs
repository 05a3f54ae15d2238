//! Keeps the snapshot of a message: holds it until the request is sent, and remembers it while the answer is awaited.

use super::{Active, Gateway};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// The snapshot by which one message is routed, judged and sent: one for all of it, whatever is activated
/// meanwhile.
///
/// It is let go when the request is sent, since its answer may take hours. From then on [`AnswerSnapshot`] counts, and
/// for what is not a message the snapshot in force.
pub struct MessageSnapshot(Mutex<Held>);

enum Held {
    /// The message is still judged by it.
    Whole(Arc<Active>),
    /// The message was sent.
    Remembered(AnswerSnapshot),
}

/// The snapshot by which answers to a message are judged: that of the message for as long as the gateway keeps it, then
/// the one in force. The default is the one in force.
#[derive(Clone, Default)]
pub struct AnswerSnapshot(Weak<Active>);

impl AnswerSnapshot {
    /// That of a message that `active` has judged.
    pub fn of(active: &Arc<Active>) -> AnswerSnapshot {
        AnswerSnapshot(Arc::downgrade(active))
    }

    /// The snapshot that judges what is answered now.
    pub fn active(&self, gateway: &Gateway) -> Arc<Active> {
        self.0.upgrade().filter(|own| gateway.keeps(own)).unwrap_or_else(|| gateway.active())
    }
}

impl MessageSnapshot {
    /// That of a message which is to be judged by `active`.
    pub fn holding(active: Arc<Active>) -> MessageSnapshot {
        MessageSnapshot(Mutex::new(Held::Whole(active)))
    }

    /// The snapshot of the message; once its request was sent, the one that judges its answers.
    pub fn active(&self, gateway: &Gateway) -> Arc<Active> {
        match &*self.lock() {
            Held::Whole(active) => Arc::clone(active),
            Held::Remembered(own) => own.active(gateway),
        }
    }

    /// The snapshot that judges the answers to the message.
    pub fn for_answers(&self) -> AnswerSnapshot {
        self.lock().for_answers()
    }

    /// Lets the snapshot go: the request was judged, and what is left to judge is its answer.
    pub fn release(&self) {
        drop(self.hand_over());
    }

    /// Has `active`, which has judged the message last, judge its answers.
    pub fn answer_under(&self, active: &Arc<Active>) {
        self.replace(AnswerSnapshot::of(active));
    }

    /// Lets the snapshot go for good: what a stream brings is judged by the one in force.
    pub fn forget(&self) {
        self.replace(AnswerSnapshot::default());
    }

    /// Gives the snapshot to whoever serves the message from here on.
    pub fn hand_over(&self) -> MessageSnapshot {
        let own = self.for_answers();
        MessageSnapshot(Mutex::new(self.replace(own)))
    }

    /// The same snapshot for a part of the message.
    pub fn share(&self) -> MessageSnapshot {
        let held = match &*self.lock() {
            Held::Whole(active) => Held::Whole(Arc::clone(active)),
            Held::Remembered(own) => Held::Remembered(own.clone()),
        };
        MessageSnapshot(Mutex::new(held))
    }

    fn replace(&self, own: AnswerSnapshot) -> Held {
        std::mem::replace(&mut *self.lock(), Held::Remembered(own))
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    fn for_answers(&self) -> AnswerSnapshot {
        match self {
            Held::Whole(active) => AnswerSnapshot::of(active),
            Held::Remembered(own) => own.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Bed;

    const DOCUMENT: &str = "version: 1\nlisten: 127.0.0.1:0\nupstreams:\n  up: { url: \"http://127.0.0.1:9/\" }\nservers:\n  /mcp: up\n";

    #[tokio::test]
    async fn withdrawn_snapshot_judges_no_answers_even_if_somebody_holds_it() {
        let bed = Bed::of(DOCUMENT);
        let held = bed.gateway.active();
        let own = AnswerSnapshot::of(&held);
        bed.activate(DOCUMENT);
        assert!(Arc::ptr_eq(&own.active(&bed.gateway), &held), "it is the one before");
        bed.activate(DOCUMENT);
        assert!(Arc::ptr_eq(&own.active(&bed.gateway), &bed.gateway.active()));
    }
}
