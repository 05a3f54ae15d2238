//! Keeps the [`Record`] of a message while it is on its way, and settles it once.
//!
//! The [`RecordGuard`] is the only place that counts messages and writes records, at the latest when it is
//! dropped, so a path that forgets to report does not exist: a message that was left without an end counts as
//! cancelled. A message that another replica serves is recorded there.

mod line;

use crate::access_log::Sink;
use crate::backend::upstreams::pool::Pool;
use crate::metrics::{Counted, Metrics, ServerMetrics, Stage, UpstreamMetrics};
use crate::refusals::{Refusal, Refusals};
use crate::request_ids::RequestIds;
use chrono::{DateTime, SecondsFormat};
use portunus_config::VirtualServer;
use portunus_filters::decision_record::DecisionRecord;
use portunus_filters::identity::Principal;
use portunus_filters::mcp::Method;
use portunus_filters::{
    Arrival, Beyond, Denial, Era, Holds, LongTextObserver, LongTexts, Message, Record, Status,
};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The sinks of records.
pub struct Recorder {
    /// The access log.
    pub access_log: Sink,
    /// The last refusals.
    pub refusals: Refusals,
    /// Everything that is measured.
    pub metrics: Arc<Metrics>,
    /// Names the events.
    pub ids: Arc<RequestIds>,
}

/// The record of one message, or of one batch, until it is settled.
pub struct RecordGuard {
    recorder: Arc<Recorder>,
    record: Record,
    keeper: Keeper,
    started: Instant,
    /// Start of the stage that is under way; `None` after the last.
    stage: Option<Instant>,
    server: Option<Arc<ServerMetrics>>,
    /// From the moment at which the upstream was chosen.
    forwarded: Option<Forwarded>,
    /// Start of the present wait for the upstream.
    waits_since: Option<Instant>,
    /// Texts for its client that were too long to be read.
    long_texts: Option<Arc<LongTexts>>,
}

/// The process that keeps the record of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Keeper {
    /// This process.
    Here,
    /// The replica that serves it.
    OtherReplica,
    /// Nobody: it is no message, or another `RecordGuard` goes on with it.
    Nobody,
}

/// A message that was given to an upstream, or to another replica.
struct Forwarded {
    at: Instant,
    upstream: Option<Arc<UpstreamMetrics>>,
    /// In the gauges of pending and active messages.
    _counted: Option<[Counted; 2]>,
}

impl RecordGuard {
    /// The guard of the record of a message that has just arrived.
    pub fn new(recorder: &Arc<Recorder>, arrival: &Arrival) -> RecordGuard {
        let record = Record {
            event: recorder.ids.number(),
            request_id: Arc::clone(&arrival.request_id),
            listener: Arc::clone(&arrival.listener),
            source: Some(arrival.source),
            auth: arrival.identity.auth(),
            arrived: arrival.at.wall,
            ..Record::default()
        };
        RecordGuard::start(recorder, Keeper::Here, record)
    }

    fn start(recorder: &Arc<Recorder>, keeper: Keeper, record: Record) -> RecordGuard {
        let now = Instant::now();
        RecordGuard {
            recorder: Arc::clone(recorder),
            record,
            keeper,
            started: now,
            stage: Some(now),
            server: None,
            forwarded: None,
            waits_since: None,
            long_texts: None,
        }
    }

    /// Hands the record over to the task that goes on with the message.
    pub fn hand_over(&mut self) -> RecordGuard {
        let nothing = RecordGuard::unrecorded(&self.recorder);
        std::mem::replace(self, nothing)
    }

    /// A guard for text that answers no message: nothing of it is recorded.
    pub fn unrecorded(recorder: &Arc<Recorder>) -> RecordGuard {
        RecordGuard::start(recorder, Keeper::Nobody, Record::default())
    }

    /// Notes the name of the client's software and the trace of the message, if records are written.
    pub fn note_client(&mut self, user_agent: Option<&str>, trace_id: Option<&str>) {
        if self.recorder.access_log.is_enabled() {
            self.record.user_agent = user_agent.map(Into::into);
            self.record.trace_id = trace_id.map(Into::into);
        }
    }

    /// Notes that the message belongs to another trace.
    pub fn note_trace(&mut self, id: &str) {
        if self.recorder.access_log.is_enabled() {
            self.record.trace_id = Some(id.into());
        }
    }

    /// Notes the verified caller.
    pub fn note_caller(&mut self, principal: &Arc<Principal>) {
        self.record.auth = principal.auth.as_str();
        self.record.caller = Some(Arc::clone(principal));
    }

    /// Notes at its end how many texts were too long to be read.
    pub fn watch_long_texts(&mut self, texts: Option<&Arc<LongTexts>>) {
        self.long_texts = texts.cloned();
    }

    /// Notes the virtual server and its configuration.
    pub fn note_server(&mut self, server: &VirtualServer, revision: &Arc<str>) {
        self.record.server = Some(Arc::clone(&server.name));
        self.record.revision = Some(Arc::clone(revision));
        self.server = Some(self.recorder.metrics.server(server));
    }

    /// Notes the revision of the configuration that judged the answer, if it is another than that of the message.
    pub fn note_answer_revision(&mut self, revision: Option<&Arc<str>>) {
        if let Some(revision) = revision.filter(|revision| self.record.revision.as_ref() != Some(revision)) {
            self.record.revision_answered = Some(Arc::clone(revision));
        }
    }

    /// Notes the message; of a batch, its first.
    pub fn note_message(&mut self, message: &Message, body_bytes: usize) {
        self.record.era = Some(message.era);
        self.record.version = message.revision.map(|revision| revision.as_str());
        self.record.action = Some(message.action());
        self.record.target.clone_from(&message.target);
        self.record.request_bytes = body_bytes;
    }

    /// Ends the filters and notes the upstream that was chosen, by its connections. From here on the message counts as
    /// pending, and the upstream is waited for.
    pub fn begin_forwarding(&mut self, pool: &Pool) {
        let upstream = pool.monitor().map(|monitor| Arc::clone(&monitor.upstream));
        self.record.upstream = upstream.as_ref().map(|upstream| Arc::clone(&upstream.name));
        let at = self.end_stage(Stage::Filters);
        self.waits_since = Some(at);
        let counted = self.server.as_ref().map(|server| [&server.pending, &server.active].map(Counted::one));
        self.forwarded = Some(Forwarded { at, upstream, _counted: counted });
    }

    /// Ends a wait for the upstream, whatever came of it. The first one ends the stage of forwarding.
    pub fn end_upstream_wait(&mut self) {
        let Some(since) = self.waits_since.take() else { return };
        let now = match self.record.upstream_time {
            None => self.end_stage(Stage::Forward),
            Some(_) => Instant::now(),
        };
        *self.record.upstream_time.get_or_insert_default() += now.duration_since(since);
    }

    /// Begins another wait for the upstream; before its first message one is under way.
    pub fn begin_upstream_wait(&mut self) {
        if self.record.upstream_time.is_some() {
            self.waits_since.get_or_insert_with(Instant::now);
        }
    }

    /// Ends a stage; its time starts where the last one ended.
    pub fn end_stage(&mut self, stage: Stage) -> Instant {
        let now = Instant::now();
        let since = self.stage.replace(now).unwrap_or(now);
        self.recorder.metrics.stage(stage, now.duration_since(since).as_secs_f64());
        now
    }

    /// Ends the last stage: the answer was written to the client, or cannot be.
    pub fn end_last_stage(&mut self) {
        if self.stage.is_some() && self.keeper != Keeper::Nobody {
            self.end_upstream_wait();
            self.end_stage(Stage::Respond);
            self.stage = None;
        }
    }

    /// Notes that another replica serves the message, and records it.
    pub fn leave_to_replica(&mut self) {
        self.keeper = Keeper::OtherReplica;
    }

    /// Notes that the other replica is lost, which may not have recorded the message any more.
    pub fn take_back(&mut self) {
        self.keeper = Keeper::Here;
    }

    /// Notes bytes that went to the client, and how many events they were.
    pub fn add_sent(&mut self, bytes: usize, events: u64) {
        self.record.response_bytes += bytes as u64;
        self.record.events += events;
    }

    /// Notes the status line that the client got.
    pub fn note_http_status(&mut self, status: u16) {
        self.record.http_status = status;
    }

    /// Notes that the message was answered, and by which JSON-RPC error if by one.
    pub fn note_answer(&mut self, rpc_error: Option<i64>) {
        self.end_upstream_wait();
        self.record.rpc_error = rpc_error;
        self.record.status = Some(if rpc_error.is_some() { Status::Error } else { Status::Ok });
    }

    /// As [`RecordGuard::note_answer`]; an HTTP error status is an error too.
    pub fn note_http_answer(&mut self, status: u16, rpc_error: Option<i64>) {
        self.note_answer(rpc_error);
        if status >= 400 {
            self.record.status = Some(Status::Error);
        }
    }

    /// Notes whether the upstream gave a result that is no tool error: the tool then exists.
    pub fn note_proof(&mut self, proven: bool) {
        self.record.proven = proven;
    }

    /// Notes that the client did not get the end of its answer.
    pub fn note_cut(&mut self) {
        if self.record.reason.is_none() {
            self.record.status = Some(Status::Cancelled);
        }
    }

    /// Notes what could be read of a message that is refused.
    pub fn note_refused_message(
        &mut self,
        era: Era,
        method: Option<&Method>,
        target: Option<Arc<str>>,
        body_bytes: usize,
    ) {
        self.record.era = Some(era);
        self.record.action = method.map(Method::to_name);
        self.record.target = target;
        self.record.request_bytes = body_bytes;
    }

    /// Notes what was decided of the message.
    pub fn note_decision(&mut self, decision_record: Option<&Arc<DecisionRecord>>) {
        self.record.decision_record = decision_record.cloned();
    }

    /// Notes what is held for the one request that it opens.
    pub fn note_holds(&mut self, holds: &Holds) {
        self.record.observed.extend(holds.observed().cloned());
    }

    /// The refusal that the client gets.
    pub fn note_denial(&mut self, denial: &Denial) {
        self.end_upstream_wait();
        if let Some(decision_record) = DecisionRecord::of_refusal(denial) {
            self.record.decision_record = Some(decision_record);
        }
        self.record.limit = denial.account().or(self.record.limit.take());
        self.record.reason = Some(denial.reason);
        self.record.status = Some(denial.reason.into());
        self.record.detail.get_or_insert_with(|| denial.detail.clone().into_owned());
    }

    /// Notes the cause of a failure, which operators alone may read.
    pub fn note_cause(&mut self, cause: &dyn fmt::Display) {
        tracing::debug!(
            request_id = &*self.record.request_id,
            upstream = self.record.upstream.as_deref(),
            "{cause}"
        );
        self.record.detail = Some(cause.to_string());
    }

    /// True if the answer is a JSON-RPC error.
    pub fn is_error(&self) -> bool {
        self.record.rpc_error.is_some()
    }

    /// True once the reason of a refusal or failure was noted.
    pub fn is_failed(&self) -> bool {
        self.record.reason.is_some()
    }

    /// Settles the record: counts the message and gives its record to those who keep it.
    fn settle(&mut self) {
        self.end_last_stage();
        if self.keeper != Keeper::Here {
            return;
        }
        let now = Instant::now();
        let metrics = &self.recorder.metrics;
        self.record.elapsed = now.duration_since(self.started);
        if let Some(texts) = &self.long_texts {
            (self.record.texts_blocked, self.record.texts_unread) = texts.counts();
        }
        let (record, status) = (&self.record, self.record.status());
        if let Some(server) = &self.server {
            let tool = metrics.tool(server, record.tool(), record.proven);
            tool.count(status, record.elapsed.as_secs_f64());
        }
        if let Some(Forwarded { at, upstream: Some(upstream), .. }) = &self.forwarded {
            upstream.count(status, record.reason, now.duration_since(*at).as_secs_f64());
        }
        if let Some(reason) = record.reason {
            metrics.denied(reason, record.server.as_deref());
            self.recorder.refusals.push(Refusal::of(record, reason));
        }
        if self.recorder.access_log.is_enabled() {
            let event_id = self.recorder.ids.spell(record.event);
            self.recorder.access_log.write(line::write(record, &event_id));
        }
    }
}

impl Drop for RecordGuard {
    fn drop(&mut self) {
        self.settle();
    }
}

/// The long texts that are for the client of a message at a virtual server.
pub fn long_texts(metrics: &Arc<Metrics>, server: &VirtualServer) -> Arc<LongTexts> {
    let counter = Counter { metrics: Arc::clone(metrics), server: Arc::clone(&server.name) };
    Arc::new(LongTexts::new(server.answers, Box::new(counter)))
}

/// Counts texts of servers that filters had to read and that were longer than what is held for that, in the metrics of
/// one virtual server.
struct Counter {
    metrics: Arc<Metrics>,
    server: Arc<str>,
}

impl LongTextObserver for Counter {
    fn observe(&self, beyond: Beyond) {
        self.metrics.long_text(&self.server, beyond);
    }
}

impl fmt::Debug for Counter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Counter").field("server", &self.server).finish_non_exhaustive()
    }
}

/// RFC 3339 in UTC with milliseconds.
pub fn timestamp(wall: Duration) -> String {
    let seconds = i64::try_from(wall.as_secs()).unwrap_or_default();
    DateTime::from_timestamp(seconds, wall.subsec_nanos())
        .map(|time| time.to_rfc3339_opts(SecondsFormat::Millis, true))
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Bed, arrival};
    use portunus_filters::Reason;
    use std::net::{IpAddr, Ipv4Addr, SocketAddr};

    const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    fn refused(bed: &Bed) -> RecordGuard {
        let arrival = arrival(bed.gateway.clock.now());
        let mut guard = RecordGuard::new(&bed.gateway.recorder, &arrival);
        guard.note_denial(&Denial::new(Reason::Forbidden, "no"));
        guard
    }

    #[test]
    fn record_is_settled_once_by_the_guard_that_keeps_it() {
        let bed = Bed::before(SocketAddr::from((LOCAL, 9)), "");
        let settled = || bed.gateway.recorder.refusals.len();
        let mut first = refused(&bed);
        let second = first.hand_over();
        drop(first);
        assert_eq!(settled(), 0, "handed over");
        drop(second);
        assert_eq!(settled(), 1, "dropped");
        let mut unrecorded = RecordGuard::unrecorded(&bed.gateway.recorder);
        unrecorded.note_denial(&Denial::new(Reason::Forbidden, "no"));
        drop(unrecorded);
        assert_eq!(settled(), 1, "of no message");
        let mut relayed = refused(&bed);
        relayed.leave_to_replica();
        drop(relayed);
        assert_eq!(settled(), 1, "kept by another replica");
        let mut lost = refused(&bed);
        lost.leave_to_replica();
        lost.take_back();
        drop(lost);
        assert_eq!(settled(), 2, "taken back");
    }
}
