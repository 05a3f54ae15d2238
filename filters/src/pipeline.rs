//! The one way from a message to the permission to open its request.
//!
//! The order of the filters is that of [`FILTERS`](crate::FILTERS); a bundle turns them on and fills them. Only
//! [`Pipeline::judge`] makes a [`Cleared`], only what [`Pipeline::admit`], [`Pipeline::reserve`] and [`Pipeline::pass`] give
//! makes an [`Admitted`] of it, and forwarding takes nothing else, so a path that skips the filters does not compile.
//!
//! A message is judged as often as it helps to know the outcome; it is admitted once, when the one request that it opens at
//! an upstream is about to leave. Its permits and charges go with the request through repeats, further rounds and
//! everything else that is the same call.

use crate::answer_bound::LongTexts;
use crate::call::{Call, Edit, Target, Verdict, splice};
use crate::decision_record::DecisionRecord;
use crate::filter::{Filter, Needs};
use crate::filters::{place_of, read_in_turn};
use crate::inspect::Inspectors;
use crate::mcp::bridge::ClientPlace;
use crate::message::{Arrival, Message};
use crate::released::{Channel, Released};
use bytes::Bytes;
use portunus_base::{Denial, Reason};
use std::borrow::Cow;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

/// The filters of one configuration, in order; all its virtual servers share them.
#[derive(Default)]
pub struct Pipeline {
    filters: Vec<Box<dyn Filter>>,
}

/// Proof that every filter agreed; consumed once, to open the requests of the message.
#[must_use = "the message may leave only as the filters left it"]
#[derive(Debug)]
pub struct Cleared {
    body: Bytes,
    /// The message as it may leave, if a filter changed it and it is not one of a batch.
    changed: Option<Box<Message>>,
    decision_record: Option<Arc<DecisionRecord>>,
    inspectors: Inspectors,
}

impl Cleared {
    /// What was decided of the message; of a batch, of its last.
    pub fn decision_record(&self) -> Option<&Arc<DecisionRecord>> {
        self.decision_record.as_ref()
    }

    /// The inspectors of texts of servers that are for its sender.
    pub fn inspectors(&self) -> &Inspectors {
        &self.inspectors
    }

    /// The same, whose inspectors read texts within the bound of `long`.
    pub fn bounded(self, long: Option<Arc<LongTexts>>) -> Cleared {
        Cleared { inspectors: self.inspectors.bounded(long), ..self }
    }

    /// The message as it may leave, if a filter changed it.
    pub fn changed(&self) -> Option<&Message> {
        self.changed.as_deref()
    }

    /// Gives up the permission for the body that may leave.
    pub fn into_body(self) -> Bytes {
        self.body
    }

    /// As [`Cleared::into_body`], with the message in it if a filter changed that.
    pub fn into_parts(self) -> (Bytes, Option<Box<Message>>) {
        (self.body, self.changed)
    }
}

impl Pipeline {
    /// A pipeline of these filters, in the order of [`FILTERS`](crate::FILTERS).
    pub fn new(mut filters: Vec<Box<dyn Filter>>) -> Pipeline {
        filters.sort_by_key(|filter| place_of(filter.name()));
        Pipeline { filters }
    }

    /// True if a filter may refuse, read or change something.
    pub fn is_on(&self) -> bool {
        self.filters.iter().any(|filter| filter.is_on())
    }

    /// The most that a filter needs to know of what a message names.
    pub fn needs(&self) -> Needs {
        self.filters.iter().map(|filter| filter.needs()).max().unwrap_or_default()
    }

    /// True if a filter reads texts of clients that reach servers beside their messages.
    pub fn reads_client_texts(&self) -> bool {
        self.filters.iter().any(|filter| filter.reads_client_texts())
    }

    /// Runs the filters over a text of a client that reaches servers beside its messages.
    ///
    /// # Errors
    /// The first [`Denial`].
    pub fn client_text<'t>(&self, place: ClientPlace<'_>, text: &'t str) -> Result<Cow<'t, str>, Denial> {
        read_in_turn(&self.filters, text, |filter, text| filter.client_text(place, text))
    }

    /// Releases a text of a server that is no part of the answer to a message, as the filters leave it.
    ///
    /// # Errors
    /// The first [`Denial`]; [`Reason::UpstreamMalformed`] if a filter is on and it is not UTF-8.
    pub fn release(&self, channel: Channel, text: &[u8]) -> Result<Released, Denial> {
        if !self.is_on() {
            return Ok(Released::inspected(channel, Bytes::copy_from_slice(text)));
        }
        let text = std::str::from_utf8(text)
            .map_err(|_| Denial::new(Reason::UpstreamMalformed, "the server's text is not UTF-8"))?;
        let permitted = read_in_turn(&self.filters, text, |filter, text| filter.server_text(channel, text))?;
        Ok(Released::inspected(channel, Bytes::copy_from_slice(permitted.as_bytes())))
    }

    /// Runs the filters over the messages of one body, each on what those before it left.
    ///
    /// `done` is told the name of each filter after it ran or refused: the runner measures, not the filter.
    /// One refused element refuses a batch: half a batch is not what the client asked for.
    ///
    /// # Errors
    /// The first [`Denial`]; [`Reason::InvalidRequest`] if a filter makes a message of it that cannot be read, or that is
    /// aimed at something else than was judged.
    pub fn judge(
        &self,
        arrival: &Arrival,
        messages: &[Message],
        target: &Target,
        mut done: impl FnMut(&'static str),
    ) -> Result<Cleared, Denial> {
        let mut verdict = Verdict::default();
        let mut inspectors = Vec::new();
        let mut changed: Option<Vec<Message>> = None;
        for filter in &self.filters {
            let current = changed.as_deref().unwrap_or(messages);
            let mut applying = current.iter().filter(|message| filter.applies(message.kind)).peekable();
            if applying.peek().is_none() {
                continue;
            }
            let result = applying
                .try_for_each(|message| filter.judge(&Call::new(arrival, message, target), &mut verdict));
            if result.is_err() {
                done(filter.name());
            }
            result?;
            if !verdict.edits.is_empty() {
                changed = Some(edited(current, std::mem::take(&mut verdict.edits))?);
            }
            inspectors.extend(verdict.inspectors.drain(..).map(|inspector| (filter.name(), inspector)));
            done(filter.name());
        }
        let current = changed.as_deref().unwrap_or(messages);
        let body = current.first().map(|message| message.body.clone()).unwrap_or_default();
        let inspectors = Inspectors::new(inspectors);
        let changed = changed.filter(|all| all.len() == 1).and_then(|mut all| all.pop()).map(Box::new);
        Ok(Cleared { body, changed, decision_record: verdict.decision_record, inspectors })
    }
}

impl Pipeline {
    /// The permission to pass a message as it came; `None` if a filter is on, which has to be asked.
    pub fn pass(&self, cleared: Cleared) -> Option<Admitted> {
        if self.is_on() { None } else { Admitting::new(cleared, Turns::none()).at_once().ok() }
    }

    /// Has the filters take permits and charges for the request that a cleared message opens, in their order.
    ///
    /// # Errors
    /// The first [`Denial`]; what earlier filters took is given back.
    pub fn admit(
        &self,
        cleared: Cleared,
        arrival: &Arrival,
        message: &Message,
        target: &Target,
    ) -> Result<Admitting, Denial> {
        let message = cleared.changed().unwrap_or(message);
        let decision_record = cleared.decision_record().map(|decision_record| &**decision_record);
        let turns = self.reserve_for(&Call { arrival, message, target, decision_record })?;
        Ok(Admitting::new(cleared, turns))
    }

    /// As [`Pipeline::admit`], for one of several requests that a message opens which is answered by the gateway.
    ///
    /// # Errors
    /// As there.
    pub fn reserve(&self, arrival: &Arrival, message: &Message, target: &Target) -> Result<Turns, Denial> {
        self.reserve_for(&Call::new(arrival, message, target))
    }

    fn reserve_for(&self, call: &Call<'_>) -> Result<Turns, Denial> {
        let mut turns = Turns::none();
        for filter in &self.filters {
            turns.add(filter.admit(call)?);
        }
        Ok(turns)
    }
}

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

    /// Frees the permits while the request waits for its client.
    fn suspend(&self) {}

    /// Takes the permits again, whether or not there is room for them: a request that goes on is not refused.
    fn resume(&self) {}

    /// Names of the rules that only observe and would have refused the request.
    fn observed(&self) -> &[Arc<str>] {
        &[]
    }
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

impl Holds {
    /// Frees the permits of all filters while the request waits for its client.
    pub fn suspend(&self) {
        self.0.iter().flat_map(|holds| holds.iter()).for_each(|hold| hold.suspend());
    }

    /// Takes the permits of all filters again.
    pub fn resume(&self) {
        self.0.iter().flat_map(|holds| holds.iter()).for_each(|hold| hold.resume());
    }

    /// Names of the rules that only observe and would have refused the request.
    pub fn observed(&self) -> impl Iterator<Item = &Arc<str>> {
        self.0.iter().flat_map(|holds| holds.iter()).flat_map(|hold| hold.observed())
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
    fn new(cleared: Cleared, turns: Turns) -> Admitting {
        Admitting { cleared, turns }
    }

    /// The decision on the message.
    pub fn decision_record(&self) -> Option<&Arc<DecisionRecord>> {
        self.cleared.decision_record()
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
    fn none() -> Turns {
        Turns { holds: Vec::new(), turns: Vec::new() }
    }

    fn add(&mut self, admission: Admission) {
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
    pub fn decision_record(&self) -> Option<&Arc<DecisionRecord>> {
        self.cleared.decision_record()
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

/// The messages of one body after a filter has changed it.
fn edited(messages: &[Message], edits: Vec<Edit>) -> Result<Vec<Message>, Denial> {
    let refused = |detail: &'static str| Denial::new(Reason::InvalidRequest, detail);
    let body = messages.first().map(|message| &message.body).cloned().unwrap_or_default();
    let body = splice(&body, edits).map_err(|_| refused("a rule changes one part of the message twice"))?;
    let changed = Message::all_with_body(messages, &body)
        .map_err(|_| refused("a rule makes a message of it that cannot be read"))?;
    // What was looked up and judged is what leaves. A request that is aimed at nothing readable stays as it is.
    if messages.iter().zip(&changed).any(|(before, after)| before.aim().ok() != after.aim().ok()) {
        return Err(refused("a rule changes what the message is aimed at"));
    }
    Ok(changed)
}

#[cfg(test)]
mod tests;
