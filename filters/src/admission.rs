//! Admits cleared messages: takes the permits and charges that their requests hold while they are open.
//!
//! A message is judged as often as it helps to know the outcome; it is admitted once, when the one request that it opens at
//! an upstream is about to leave. Its permits and charges go with the request through repeats, further rounds and
//! everything else that is the same call.

use crate::judged::Judged;
use crate::message::Message;
use crate::pipeline::Cleared;
use bytes::Bytes;
use portunus_base::Denial;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

/// The answer of a filter to a request that is about to be opened.
pub enum Admission {
    /// It holds nothing for it.
    Free,
    /// It holds this until the request is over.
    Granted(Box<dyn Hold>),
    /// It has the request wait for its turn.
    Queued(QueueTicket),
}

/// A place in a queue: ready when its turn has come, or with why it will not. Dropped, it leaves the queue. It may use
/// nothing of a runtime: whoever waits for it bounds the time.
pub type QueueTicket = Pin<Box<dyn Future<Output = Result<Box<dyn Hold>, Denial>> + Send>>;

/// Permits and charges of one filter for one request. Dropped before [`Hold::commit`] it gives back both, after that the
/// permits alone.
pub trait Hold: Send + Sync {
    /// Lets the charges stand: the upstream may have read the request. It may be told more than once.
    fn commit(&self);
}

/// All holds of one request; its copies are of the same.
#[derive(Clone, Default)]
pub struct Holds(Option<Arc<[Box<dyn Hold>]>>);

impl Holds {
    fn new(holds: Vec<Box<dyn Hold>>) -> Holds {
        Holds((!holds.is_empty()).then(|| holds.into()))
    }

    /// Lets the charges of all filters stand.
    pub fn commit(&self) {
        self.0.iter().flat_map(|holds| holds.iter()).for_each(|hold| hold.commit());
    }
}

impl fmt::Debug for Holds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Holds({})", self.0.as_ref().map_or(0, |holds| holds.len()))
    }
}

/// A cleared message whose request may have to wait for its turn.
#[must_use = "the request is opened by what this becomes"]
pub struct Admitting {
    cleared: Cleared,
    turns: Turns,
}

impl Admitting {
    pub(crate) fn new(cleared: Cleared, turns: Turns) -> Admitting {
        Admitting { cleared, turns }
    }

    /// The decision on the message.
    pub fn judged(&self) -> Option<&Arc<Judged>> {
        self.cleared.judged()
    }

    /// The permission, where no turn is waited for.
    ///
    /// # Errors
    /// The cleared message and what it waits for, if something is.
    pub fn at_once(self) -> Result<Admitted, (Cleared, Turns)> {
        let Admitting { cleared, turns } = self;
        match turns.at_once() {
            Ok(turned) => Ok(turned.admit(cleared)),
            Err(turns) => Err((cleared, turns)),
        }
    }
}

/// The turns that a request waits for, and what it holds already. Dropped, it leaves all queues and gives back what it holds.
#[must_use = "the request has left its queues"]
pub struct Turns {
    holds: Vec<Box<dyn Hold>>,
    turns: Vec<QueueTicket>,
}

impl Turns {
    pub(crate) fn none() -> Turns {
        Turns { holds: Vec::new(), turns: Vec::new() }
    }

    pub(crate) fn add(&mut self, admission: Admission) {
        match admission {
            Admission::Free => {}
            Admission::Granted(hold) => self.holds.push(hold),
            Admission::Queued(turn) => self.turns.push(turn),
        }
    }

    /// The holds of the request, where no turn is waited for.
    ///
    /// # Errors
    /// The same as it was, if one is.
    pub fn at_once(self) -> Result<Turned, Turns> {
        if self.turns.is_empty() { Ok(Turned(Holds::new(self.holds))) } else { Err(self) }
    }

    /// Waits for its turn at each filter that has it wait.
    ///
    /// # Errors
    /// The [`Denial`] of a filter at which its turn does not come.
    pub async fn taken(self) -> Result<Turned, Denial> {
        let Turns { mut holds, turns } = self;
        for turn in turns {
            holds.push(turn.await?);
        }
        Ok(Turned(Holds::new(holds)))
    }
}

/// Proof that the turn of a request has come at every filter, with what it holds for it.
#[must_use = "what it holds is for the request that it opens"]
pub struct Turned(Holds);

impl Turned {
    /// The permission for the message that waited, as the filters cleared it last: it may have been judged again meanwhile.
    pub fn admit(self, cleared: Cleared) -> Admitted {
        Admitted { cleared, holds: self.0 }
    }

    /// Its holds.
    pub fn into_holds(self) -> Holds {
        self.0
    }
}

/// The permission to open one request: its message was cleared and admitted.
#[must_use = "what it holds is for the request that it opens"]
#[derive(Debug)]
pub struct Admitted {
    cleared: Cleared,
    holds: Holds,
}

impl Admitted {
    /// The decision on the message.
    pub fn judged(&self) -> Option<&Arc<Judged>> {
        self.cleared.judged()
    }

    /// The holds of its request.
    pub fn holds(&self) -> &Holds {
        &self.holds
    }

    /// Gives up the permission for the body that may leave, the message in it if a filter changed that, and what is held
    /// for its request.
    pub fn into_parts(self) -> (Bytes, Option<Box<Message>>, Holds) {
        let (body, changed) = self.cleared.into_parts();
        (body, changed, self.holds)
    }
}
