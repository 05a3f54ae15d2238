//! Looks up the names of calls as their caller sees them.
//!
//! A hidden name and an absent one get the same answer in the same time. So each lookup that finds nothing asks policy
//! once, of a stand-in where no list has the name, and both are explained off the workers. The record and the list of
//! refusals get the explanation of a hidden name alone.

use super::{look_later, tell};
use crate::frontend::bridge::ServedCall;
use crate::frontend::context::Active;
use portunus_filters::authorize::Use;
use portunus_filters::call::{Call, KnownTool, Subject, Target, TaskCall};
use portunus_filters::catalog::{Entry, ListKind, Located};
use portunus_filters::gate::{Item, Lookup, Thing};
use portunus_filters::judged::Judged;
use portunus_filters::{Denial, Message, Reason};
use std::sync::{Arc, OnceLock};

/// The lookups of one message that found nothing. The first of each kind counts.
#[derive(Default)]
pub struct FailedLookups {
    hidden: OnceLock<FailedLookup>,
    absent: OnceLock<FailedLookup>,
}

struct FailedLookup {
    subject: Subject,
    upstream: Arc<str>,
    lookup: Lookup,
}

impl ServedCall<'_> {
    /// Looks up the entry of a list that a message names, as its sender sees it. The subject is `None` where no filter
    /// is on.
    pub fn finds(
        &self,
        message: &Message,
        kind: ListKind,
        (name, entry): (&str, Option<&Entry>),
    ) -> Option<Option<Subject>> {
        let active = self.active();
        if !active.pipeline.is_on() {
            return entry.map(|_| None);
        }
        let known = entry.and_then(|entry| {
            let upstream = self.leads_to(entry.member)?;
            let known = (kind == ListKind::Tools).then(|| active.authority.known(upstream, entry));
            Some((upstream, entry.subject(kind, known)?))
        });
        let Some((upstream, subject)) = known else {
            self.look_up_absent(&active, message, stand_in(kind, name));
            return None;
        };
        self.look_up(&active, message, upstream, subject).map(Some)
    }

    /// Looks up the tool of the `call` that made the task which a message is about.
    pub fn finds_task(
        &self,
        message: &Message,
        (original, entry): (&str, Option<&Entry>),
        call: &Arc<TaskCall>,
    ) -> Option<Subject> {
        let active = self.active();
        let Some((upstream, entry)) = entry.and_then(|entry| Some((self.leads_to(entry.member)?, entry)))
        else {
            self.look_up_absent(&active, message, stand_in(ListKind::Tools, original));
            return None;
        };
        let known = KnownTool::clone(&active.authority.known(upstream, entry));
        let known = Arc::new(KnownTool { task: Some(Arc::clone(call)), ..known });
        self.look_up(&active, message, upstream, Subject::Tool(known))
    }

    /// As [`ServedCall::finds`], of the URI of a resource.
    pub fn finds_uri(
        &self,
        message: &Message,
        (uri, located): (&str, Option<&Located<'_>>),
    ) -> Option<Option<Subject>> {
        let active = self.active();
        if !active.pipeline.is_on() {
            return located.map(|_| None);
        }
        let known =
            located.and_then(|found| Some((self.leads_to(found.member)?, active.authority.uri(found)?)));
        let Some((upstream, subject)) = known else {
            self.look_up_absent(&active, message, stand_in(ListKind::Resources, uri));
            return None;
        };
        self.look_up(&active, message, upstream, subject).map(Some)
    }

    /// Gives the subject back if the sender of a message sees it.
    pub(super) fn look_up(
        &self,
        active: &Active,
        message: &Message,
        upstream: &Arc<str>,
        subject: Subject,
    ) -> Option<Subject> {
        let target = Target { subject: Some(subject.clone()), ..self.target(active, upstream) };
        let item = Item { thing: Thing::Offered(&subject), upstream };
        let call = Call { arrival: &self.context.origin.arrival, message, target: &target };
        let lookup = active.authority.gate.look_up(&call, &item);
        if lookup.is_found {
            return Some(subject);
        }
        let upstream = Arc::clone(upstream);
        let _ = self.context.failed_lookups.hidden.set(FailedLookup { subject, upstream, lookup });
        None
    }

    fn look_up_absent(&self, active: &Active, message: &Message, subject: Subject) {
        let members = self.context.server.members.iter();
        let upstream = members.filter_map(|member| self.chosen(member)).next();
        let upstream = upstream.map(|upstream| Arc::clone(&upstream.name)).unwrap_or_default();
        let target = Target { subject: Some(subject.clone()), ..self.target(active, &upstream) };
        let item = Item { thing: Thing::Offered(&subject), upstream: &upstream };
        let call = Call { arrival: &self.context.origin.arrival, message, target: &target };
        let lookup = active.authority.gate.look_up_absent(&call, &item);
        let _ = self.context.failed_lookups.absent.set(FailedLookup { subject, upstream, lookup });
    }

    /// Completes the refusal of a name that was not found: operators learn why it is hidden, and callers when policy
    /// had no time to decide.
    pub fn explained(&self, active: &Active, message: &Message, denial: Denial) -> Denial {
        let gate = &active.authority.gate;
        // An absent thing has the limits of a hidden one, or they would tell the two apart.
        let is_unknown =
            matches!(denial.reason, Reason::UnknownTool | Reason::UnknownPrompt | Reason::UnknownResource);
        let limited =
            is_unknown.then(|| gate.over_budget(&self.context.origin.arrival, Use::Decision)).flatten();
        let FailedLookups { hidden, absent } = &self.context.failed_lookups;
        let failed = hidden.get().or(absent.get()).filter(|_| Judged::of_refusal(&denial).is_none());
        let Some(judged) = failed.and_then(|failed| self.failed_lookup(active, message, failed)) else {
            return limited.unwrap_or(denial);
        };
        let by_time = gate.denied_by_time(&judged);
        if by_time.is_some() {
            tell(self.gateway, &self.context.origin.arrival, &self.target(active, &Arc::from("")), &judged);
        }
        look_later(self.gateway, active, (&self.context.origin.arrival, true), &judged);
        let is_told = hidden.get().is_some() || by_time.is_some();
        let denial = by_time.or(limited).unwrap_or(denial);
        if is_told { denial.because(judged) } else { denial }
    }

    fn failed_lookup(
        &self,
        active: &Active,
        message: &Message,
        FailedLookup { subject, upstream, lookup }: &FailedLookup,
    ) -> Option<Arc<Judged>> {
        let target = Target { subject: Some(subject.clone()), ..self.target(active, upstream) };
        let item = Item { thing: Thing::Offered(subject), upstream };
        let call = Call { arrival: &self.context.origin.arrival, message, target: &target };
        active.authority.gate.failed_lookup(&call, &item, lookup).map(Arc::new)
    }
}

/// The subject that policy is asked of in place of an absent one. The facts of a tool are not looked up: those of a
/// hidden tool are remembered, and names that clients invent are not.
fn stand_in(kind: ListKind, name: &str) -> Subject {
    let name = Arc::from(name);
    match kind {
        ListKind::Tools => Subject::Tool(Arc::new(KnownTool::unrated(name))),
        ListKind::Prompts => Subject::Prompt(name),
        ListKind::Resources => Subject::Resource(name),
        ListKind::Templates => Subject::Template(name),
    }
}
