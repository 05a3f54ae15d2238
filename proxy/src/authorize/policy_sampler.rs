//! What is done with questions after they were answered, off the workers: refusals are explained, a
//! policy that is tried is asked too, and questions are recorded.
//!
//! One thread with a bounded queue, of which callers have fair shares. Questions that do not fit, or whose
//! caller has used up its CPU time, are counted and dropped.

use super::recorder::Recorder;
use crate::clipped::Clipped;
use crate::metrics::Metrics;
use crate::shares::{Owner, Share, Shares};
use portunus_filters::authorize::{CpuBudgets, CpuTimer, Entry, Policy, Ruling, Use};
use portunus_filters::decision_record::{DecisionRecord, Sampler};
use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Questions that wait. Each may hold the arguments of a call.
const MAX_WAITING: usize = 1024;

/// Bytes of all questions that wait.
const MAX_WAITING_BYTES: usize = 16 << 20;

/// Differences of one kind are told one by one up to this, and then each time their number doubles.
const TOLD: u64 = 8;

/// Kinds of differences that are told apart.
const MAX_KINDS: usize = 1000;

/// The queue, and the recorder behind it.
pub struct SamplingQueue {
    jobs: SyncSender<Job>,
    places: Arc<Shares>,
    bytes: Arc<Shares>,
    metrics: Arc<Metrics>,
    recorder: Arc<Mutex<Recorder>>,
    /// Of how many questions one is recorded.
    pub recording: Arc<Sampler>,
}

/// What the thread is told.
enum Job {
    Sample(Question, [Share; 2]),
    EndRecording,
}

/// A question that was answered.
pub(super) struct Question {
    pub(super) policy: Arc<Policy>,
    pub(super) tried: Option<Arc<Policy>>,
    pub(super) decision_record: Arc<DecisionRecord>,
    /// The caller whose budget is charged.
    pub(super) owner: Owner,
    /// Monotonic time of the question.
    pub(super) at: Duration,
    pub(super) budgets: Arc<CpuBudgets>,
    pub(super) request_id: Arc<str>,
    /// The whole input document as JSON text.
    pub(super) input: String,
    /// A name was not found. That is explained even if policy allows the name, or explanations would slow the calls
    /// behind a hidden name and not those behind an absent one.
    pub(super) is_failed_lookup: bool,
}

impl Question {
    /// True if the caller has used up its CPU time.
    fn is_over_budget(&self) -> bool {
        self.policy.wait_for(Use::Sampling, || self.owner, (&self.budgets, self.at)).is_some()
    }
}

impl SamplingQueue {
    /// Starts the thread; it ends with the value.
    ///
    /// # Errors
    /// If the system gives no thread.
    pub fn start(metrics: Arc<Metrics>) -> io::Result<SamplingQueue> {
        let (jobs, mailbox) = sync_channel(MAX_WAITING);
        let recorder = Arc::new(Mutex::new(Recorder::default()));
        let recording = Arc::new(Sampler::default());
        let mut served = PolicySampler {
            metrics: Arc::clone(&metrics),
            recorder: Arc::clone(&recorder),
            recording: Arc::clone(&recording),
            differences: HashMap::new(),
        };
        std::thread::Builder::new().name("explanations".into()).spawn(move || served.work(&mailbox))?;
        let (places, bytes) = (Shares::new(MAX_WAITING), Shares::new(MAX_WAITING_BYTES));
        Ok(SamplingQueue { jobs, places, bytes, metrics, recorder, recording })
    }

    /// Takes a question on, if there is room.
    pub(super) fn consider(&self, question: Question) {
        let owner = question.owner;
        let place = self.places.take(owner, 1);
        let shares = place.and_then(|place| Some([place, self.bytes.take(owner, question.input.len())?]));
        let is_dropped = shares.is_none_or(|shares| {
            question.is_over_budget()
                || matches!(self.jobs.try_send(Job::Sample(question, shares)), Err(TrySendError::Full(_)))
        });
        if is_dropped {
            self.metrics.policy.aside_dropped.inc();
        }
    }

    /// Begins to record one of `every` questions, in a folder; a recording that runs ends.
    ///
    /// # Errors
    /// If the file cannot be made.
    pub fn record(&self, every: u32, folder: &Path, wall: Duration, within: Duration) -> io::Result<()> {
        let path = lock(&self.recorder).begin(folder, wall, within)?;
        self.recording.set(every);
        // Said when it holds: who reads it may count on the next question.
        tracing::info!(path = %path.display(), seconds = within.as_secs(), "questions to policy are recorded");
        Ok(())
    }

    /// Ends the recording behind what was asked before.
    pub fn end_recording(&self) {
        self.recording.set(0);
        if self.jobs.try_send(Job::EndRecording).is_err() {
            lock(&self.recorder).end();
        }
    }
}

/// Who does it.
struct PolicySampler {
    metrics: Arc<Metrics>,
    recorder: Arc<Mutex<Recorder>>,
    recording: Arc<Sampler>,
    /// How often each kind of difference was seen.
    differences: HashMap<(&'static str, Clipped<256>, Clipped<256>), u64>,
}

impl PolicySampler {
    fn work(&mut self, mailbox: &Receiver<Job>) {
        while let Ok(job) = mailbox.recv() {
            let (job, _shares) = match job {
                Job::Sample(question, shares) => (question, shares),
                Job::EndRecording => {
                    lock(&self.recorder).end();
                    continue;
                }
            };
            if job.is_over_budget() {
                self.metrics.policy.aside_dropped.inc();
                continue;
            }
            let timer = CpuTimer::start();
            self.sample(&job);
            job.policy.charge(job.owner, (Use::Sampling, timer.elapsed()), (&job.budgets, job.at));
        }
    }

    fn sample(&mut self, job: &Question) {
        let Some(policy_result) = &job.decision_record.policy else { return };
        if !policy_result.decision.ruling.allow || job.is_failed_lookup {
            self.explain(job, policy_result.entry);
        }
        if job.decision_record.sampled.tried {
            self.compare(job, policy_result.entry, &policy_result.decision.ruling);
        }
        if job.decision_record.sampled.recorded {
            self.record(job, policy_result.entry);
        }
    }

    fn explain(&self, job: &Question, entry: Entry) {
        if let Ok(Some(explanation)) = job.policy.explain_input(entry, &job.input) {
            // Of one refusal there is one account.
            let _ = job.decision_record.explained.set(explanation);
        }
    }

    fn compare(&mut self, job: &Question, entry: Entry, ruling: &Ruling) {
        let Some(tried) = &job.tried else { return };
        let result = match tried.ask(entry, &job.input) {
            Ok(other) if other.fault.is_some() && ruling.fault.is_none() => Some(("fault", other.reason)),
            Ok(other) if other.allow != ruling.allow => {
                Some((if other.allow { "would_allow" } else { "would_deny" }, other.reason))
            }
            Ok(other) if other.obligations != ruling.obligations => Some(("other_obligations", other.reason)),
            Ok(_) => None,
            Err(_) => Some(("fault", Arc::from(""))),
        };
        let label = result.as_ref().map_or("same", |(label, _)| label);
        self.metrics.policy.shadow.with_label_values(&[entry.as_str(), label]).inc();
        if let Some((label, reason)) = result {
            self.tell(job, (label, &ruling.reason, &reason));
        }
    }

    /// Tells a difference of a kind that is new, and how many there were when they have become many.
    fn tell(&mut self, job: &Question, (difference, now, then): (&'static str, &Arc<str>, &Arc<str>)) {
        let kind = (difference, Clipped::new(now), Clipped::new(then));
        if self.differences.len() >= MAX_KINDS && !self.differences.contains_key(&kind) {
            return;
        }
        let count = self.differences.entry(kind).or_default();
        *count += 1;
        if *count <= TOLD || count.is_power_of_two() {
            tracing::info!(
                request_id = &*job.request_id,
                difference,
                count = *count,
                reason = &**now,
                tried_reason = &**then,
                "the policy that is tried decides otherwise"
            );
        }
    }

    fn record(&self, job: &Question, entry: Entry) {
        let Some(projected) = job.policy.projected(entry, &job.input) else { return };
        if !lock(&self.recorder).write(entry, &projected) {
            self.recording.set(0);
        }
    }
}

fn lock(recorder: &Mutex<Recorder>) -> MutexGuard<'_, Recorder> {
    recorder.lock().unwrap_or_else(PoisonError::into_inner)
}
