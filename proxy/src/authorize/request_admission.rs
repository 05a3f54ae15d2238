//! Looks up what a message names as its caller sees it, and judges and admits its requests with that.
//!
//! A hidden name and an absent one get the same answer in the same time. So each lookup that finds nothing asks policy
//! once, of a stand-in where no list has the name, and both are explained off the workers. The record and the list of
//! refusals get the explanation of a hidden name alone.

use super::{ResponsePipeline, judge, look_later, tell};
use crate::backend::upstream_call::UpstreamTarget;
use crate::frontend::bridge::{ServedCall, shown};
use crate::frontend::context::{Active, AnswerSnapshot};
use portunus_config::Upstream;
use portunus_filters::authorization_filter::{Item, ListItem, Lookup, Viewer};
use portunus_filters::authorize::Use;
use portunus_filters::call::{Call, KnownTool, Subject, Target, TaskCall};
use portunus_filters::catalog::{Catalog, Entry, ListKind, Located};
use portunus_filters::decision_record::DecisionRecord;
use portunus_filters::mcp::Method;
use portunus_filters::mcp::bridge::Profile;
use portunus_filters::mcp::object::StrictObject;
use portunus_filters::mcp::uri::{Normal, normal};
use portunus_filters::{Admitting, Cleared, Denial, Era, Holds, Kind, Message, Reason, Turned};
use std::sync::{Arc, OnceLock};

/// A message that is answered here, as the filters left it.
#[must_use = "what is done is what the filters left of the message"]
pub struct AdmittedMessage {
    changed: Option<Box<Message>>,
    /// What stands over its answer, and over what the client is told and asked on the stream that it opens.
    pub responses: ResponsePipeline,
}

impl AdmittedMessage {
    /// The message as it was admitted; `sent` is what its client sent.
    pub fn message<'m>(&'m self, sent: &'m Message) -> &'m Message {
        self.changed.as_deref().unwrap_or(sent)
    }
}

/// A request that a message opens at an upstream, as it was routed.
pub struct RoutedRequest<'r> {
    /// The message.
    pub message: &'r Message,
    /// The upstream.
    pub upstream: &'r Arc<Upstream>,
    /// The item that it is about there, where rules are asked of that.
    pub subject: Option<Subject>,
}

/// The terms under which a request that was judged goes on.
pub struct CallTerms {
    /// The rules for its answers.
    pub responses: ResponsePipeline,
    /// The place that it goes to.
    pub place: UpstreamTarget,
}

/// A request that was judged and admitted, and may have to wait for its turn.
pub struct RequestAdmission {
    /// The permission, as far as it goes.
    pub admitting: Admitting,
    /// The terms under which it goes on.
    pub terms: CallTerms,
    /// The configuration that judged it.
    pub serial: u64,
}

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
    /// Notes the name that the client's software gives itself, where that counts.
    ///
    /// # Errors
    /// As `profile`.
    pub fn spoken_by(&self, profile: impl FnOnce() -> Result<Arc<Profile>, Denial>) -> Result<(), Denial> {
        if self.active().policy_runtime.reads_client
            && let Some(name) = profile()?.client_info.as_deref().and_then(named)
        {
            // Of a context of several messages of one client the first is as good as any.
            let _ = self.context.software.set(name);
        }
        Ok(())
    }

    /// Where a message goes, and what is known of it beside its text.
    pub fn target(&self, active: &Active, upstream: &Arc<str>) -> Target {
        let target =
            active.policy_runtime.target(&self.context.origin.arrival, &self.context.server.name, upstream);
        Target { client: self.context.software.get().cloned(), ..target }
    }

    /// Judges a message that goes to `upstream`, with what it is about there.
    ///
    /// # Errors
    /// What the filters refuse.
    pub fn clear(
        &self,
        message: &Message,
        upstream: &Arc<str>,
        subject: Option<Subject>,
    ) -> Result<Cleared, Denial> {
        let active = self.active();
        let target = Target { subject, ..self.target(&active, upstream) };
        self.judge_message(&active, message, &target)
    }

    /// Judges a request and admits it. This is the last that its message needs of its snapshot, which is released.
    ///
    /// # Errors
    /// The [`Denial`] of a filter; as [`ServedCall::place`].
    pub fn admit_request(
        &self,
        request: &RoutedRequest<'_>,
        profile: &Arc<Profile>,
    ) -> Result<RequestAdmission, Denial> {
        let active = self.active();
        let (cleared, target) = self.judge_request(&active, request)?;
        let terms = self.terms((&active, &cleared, &target), request, profile)?;
        let admitting = active.admit(cleared, &self.context.origin.arrival, request.message, &target)?;
        self.context.snapshot.release();
        Ok(RequestAdmission { admitting, terms, serial: active.snapshot.serial })
    }

    /// Judges a request that waits for its turn again, by the configuration in force.
    ///
    /// # Errors
    /// The [`Denial`] of a filter; [`Reason::RouteRemoved`] if it leads nowhere any more.
    pub fn judge_request_again(
        &self,
        request: &RoutedRequest<'_>,
        profile: &Arc<Profile>,
    ) -> Result<(Cleared, CallTerms), Denial> {
        let active = self.gateway.active();
        let (cleared, target) = self.judge_again(&active, request)?;
        let terms = self.terms((&active, &cleared, &target), request, profile)?;
        self.context.snapshot.answer_under(&active);
        Ok((cleared, terms))
    }

    /// Admits one of the streams that listen at servers for a stream of the client, which `message` opens and which was
    /// judged.
    ///
    /// # Errors
    /// The [`Denial`] of a limit; [`Reason::Overloaded`] if it would have to wait for its turn.
    pub fn admit_stream(&self, message: &Message, upstream: &Arc<str>) -> Result<Holds, Denial> {
        let active = self.gateway.active();
        let target = self.target(&active, upstream);
        let arrival = self.context.origin.arrival.coming_at(self.gateway.clock.now());
        let turns = active.pipeline.reserve(&arrival, message, &target)?;
        let late = |_| Denial::new(Reason::Overloaded, "as many streams are open as may be");
        turns.at_once().map(Turned::into_holds).map_err(late)
    }

    fn judge_request(
        &self,
        active: &Active,
        request: &RoutedRequest<'_>,
    ) -> Result<(Cleared, Target), Denial> {
        let subject = request.subject.clone();
        let target = Target { subject, ..self.target(active, &request.upstream.name) };
        Ok((self.judge_message(active, request.message, &target)?, target))
    }

    /// As [`ServedCall::judge_request`], now and by a later configuration than that which routed the request: what it leads to is
    /// held to the view and the facts of that.
    fn judge_again(&self, active: &Active, request: &RoutedRequest<'_>) -> Result<(Cleared, Target), Denial> {
        let removed = || Denial::new(Reason::RouteRemoved, "what this calls is no longer served here");
        let RoutedRequest { message, upstream, subject } = request;
        let server = active.snapshot.routes.server(&self.context.server.id).ok_or_else(removed)?;
        if !server.upstreams.iter().any(|one| one.key == upstream.key) {
            return Err(removed());
        }
        let is_viewed = |original: &str| {
            let member = server.member_of(&upstream.name).map(|member| &server.members[member].name);
            member.is_some_and(|member| server.view.admits(member, original))
        };
        let subject = match subject {
            Some(Subject::Tool(known)) if is_viewed(&known.original) => {
                let policy_runtime = &active.policy_runtime;
                // The claims of its server were not read under the configuration before.
                if policy_runtime.reads_claims && known.claimed.is_none() {
                    return Err(removed());
                }
                let facts =
                    Arc::clone(&policy_runtime.known_tools.tool(&upstream.name, &known.original).facts);
                Some(Subject::Tool(Arc::new(KnownTool { facts, ..KnownTool::clone(known) })))
            }
            Some(Subject::Prompt(name)) if is_viewed(name) => subject.clone(),
            // Nor was another spelling of a URI than the normal one refused, if no rule read URIs.
            Some(Subject::Resource(uri) | Subject::Template(uri))
                if is_viewed(uri) && (!active.policy_runtime.reads_uris || normal(uri).is_exact()) =>
            {
                subject.clone()
            }
            None if server.view.is_empty() => None,
            _ => return Err(removed()),
        };
        let arrival = self.context.origin.arrival.coming_at(self.gateway.clock.now());
        if let Some(subject) = subject.clone().filter(|_| active.pipeline.is_on()) {
            let found = self.look_up(active, message, &upstream.name, subject);
            found.ok_or_else(|| self.explained(active, message, removed()))?;
        }
        let target = Target { subject, ..self.target(active, &upstream.name) };
        let cleared = judge(self.gateway, active, &arrival, std::slice::from_ref(*message), &target)?;
        Ok((cleared.bounded(self.context.long_texts.clone()), target))
    }

    fn terms(
        &self,
        (active, cleared, target): (&Arc<Active>, &Cleared, &Target),
        request: &RoutedRequest<'_>,
        profile: &Arc<Profile>,
    ) -> Result<CallTerms, Denial> {
        let whence = Target { subject: None, ..target.clone() };
        let reads_arguments = active.policy_runtime.filter.reads_arguments();
        let responses = ResponsePipeline::of(&self.context.origin, whence, request.message.era, cleared);
        let responses = responses.reading(reads_arguments).answered_under(AnswerSnapshot::of(active));
        let place = self.place(active, request.upstream, profile)?;
        Ok(CallTerms { responses, place })
    }

    /// As [`ServedCall::clear`], of a message that is answered here.
    ///
    /// # Errors
    /// What the filters refuse.
    pub fn admit(&self, message: &Message) -> Result<AdmittedMessage, Denial> {
        self.admit_at(message, None)
    }

    /// As [`ServedCall::admit`], of a message for an upstream; `None` if it is for none.
    ///
    /// # Errors
    /// What the filters refuse; [`Reason::RouteRemoved`] if the endpoint has the upstream no longer.
    pub fn admit_at(
        &self,
        message: &Message,
        upstream: Option<&Arc<Upstream>>,
    ) -> Result<AdmittedMessage, Denial> {
        let active = self.active();
        if upstream.is_some_and(|upstream| !self.context.server.leads_to(upstream)) {
            return Err(Denial::new(Reason::RouteRemoved, "the server that asked is no longer served here"));
        }
        let name = upstream.map(|upstream| Arc::clone(&upstream.name)).unwrap_or_default();
        let target = self.target(&active, &name);
        let cleared = self.judge_message(&active, message, &target)?;
        let responses = ResponsePipeline::of(&self.context.origin, target, self.context.era, &cleared);
        let (_, changed) = cleared.into_parts();
        Ok(AdmittedMessage { changed, responses })
    }

    /// As [`ServedCall::admit`], of a message that came a while ago and is judged as if it came now, by the
    /// snapshot in force.
    ///
    /// # Errors
    /// What the filters refuse.
    pub fn admit_again(&self, message: &Message) -> Result<(), Denial> {
        let active = self.gateway.active();
        let arrival = self.context.origin.arrival.coming_at(self.gateway.clock.now());
        let target = self.target(&active, &Arc::from(""));
        judge(self.gateway, &active, &arrival, std::slice::from_ref(message), &target).map(drop)
    }

    /// What the filters of a snapshot say of a message of this caller.
    fn judge_message(&self, active: &Active, message: &Message, target: &Target) -> Result<Cleared, Denial> {
        let cleared =
            judge(self.gateway, active, &self.context.origin.arrival, std::slice::from_ref(message), target)?;
        Ok(cleared.bounded(self.context.long_texts.clone()))
    }

    /// What is known of a tool by the name that its server gives it.
    pub fn rated(&self, upstream: &str, original: &Arc<str>) -> Option<Arc<KnownTool>> {
        let active = self.active();
        active.pipeline.is_on().then(|| active.policy_runtime.known_tools.tool(upstream, original))
    }

    /// The upstream that an entry of a catalogue leads to, where no argument selects another.
    pub fn leads_to(&self, member: usize) -> Option<&Arc<str>> {
        self.chosen(self.context.server.members.get(member)?).map(|upstream| &upstream.name)
    }

    /// What a URI is about, if the caller sees that in lists.
    pub fn sees_uri(&self, located: &Located<'_>, era: Era) -> Option<Option<Subject>> {
        let active = self.active();
        if !active.pipeline.is_on() {
            return Some(None);
        }
        let upstream = self.leads_to(located.member)?;
        let subject = active.policy_runtime.uri(located)?;
        let target = self.target(&active, upstream);
        let viewer = Viewer { arrival: &self.context.origin.arrival, target: &target, era: era.as_str() };
        let item = Item { list_item: ListItem::Offered(&subject), upstream };
        active.policy_runtime.filter.visibility(&viewer, &item).is_shown().then_some(Some(subject))
    }

    /// Whether who opened a stream may be told now that a resource changed, by its URI at an upstream: the
    /// view has it, the caller sees it, and would be let subscribe to it.
    pub fn may_hear(&self, opening: &Message, upstream: &Arc<str>, original: &str) -> bool {
        let active = self.active();
        let Some(server) = active.snapshot.routes.server(&self.context.server.id) else { return false };
        let Normal { form, .. } = normal(original);
        let member = server.member_of(upstream).map(|member| &server.members[member].name);
        if !member.is_some_and(|member| server.view.admits(member, &form)) {
            return false;
        }
        if !active.pipeline.is_on() {
            return true;
        }
        let subject = Subject::Resource(form.as_ref().into());
        let arrival = self.context.origin.arrival.coming_at(self.gateway.clock.now());
        let target = Target { subject: Some(subject.clone()), ..self.target(&active, upstream) };
        let viewer = Viewer { arrival: &arrival, target: &target, era: opening.era.as_str() };
        let item = Item { list_item: ListItem::Offered(&subject), upstream };
        let method = Some(Method::of("resources/subscribe"));
        let message = Message { kind: Kind::Request, method, ..opening.clone() };
        active.policy_runtime.filter.visibility(&viewer, &item).is_shown()
            && judge(self.gateway, &active, &arrival, std::slice::from_ref(&message), &target).is_ok()
    }

    /// Why a URI that nothing has was not even looked for, if it was not: rules are asked of a normal
    /// form, and of another spelling nobody knows how a server reads it.
    pub fn spelling(&self, catalog: &Catalog, uri: &str) -> Option<Denial> {
        if !catalog.is_selective() && !self.active().policy_runtime.reads_uris {
            return None;
        }
        let Normal { form, fault } = match normal(catalog.received(uri)) {
            normal if normal.is_exact() => return None,
            normal => normal,
        };
        let detail = match fault {
            Some(fault) => format!("the URI has no normal form (RFC 3986, 6.2.2): {fault}"),
            None => format!("the URI is not in normal form (RFC 3986, 6.2.2): write {}", shown(&form)),
        };
        Some(Denial::new(Reason::InvalidParams, detail))
    }
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
            let known = (kind == ListKind::Tools).then(|| active.policy_runtime.known(upstream, entry));
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
        let known = KnownTool::clone(&active.policy_runtime.known(upstream, entry));
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
            located.and_then(|found| Some((self.leads_to(found.member)?, active.policy_runtime.uri(found)?)));
        let Some((upstream, subject)) = known else {
            self.look_up_absent(&active, message, stand_in(ListKind::Resources, uri));
            return None;
        };
        self.look_up(&active, message, upstream, subject).map(Some)
    }

    /// Gives the subject back if the sender of a message sees it.
    fn look_up(
        &self,
        active: &Active,
        message: &Message,
        upstream: &Arc<str>,
        subject: Subject,
    ) -> Option<Subject> {
        let target = Target { subject: Some(subject.clone()), ..self.target(active, upstream) };
        let item = Item { list_item: ListItem::Offered(&subject), upstream };
        let call = Call::new(&self.context.origin.arrival, message, &target);
        let lookup = active.policy_runtime.filter.look_up(&call, &item);
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
        let item = Item { list_item: ListItem::Offered(&subject), upstream: &upstream };
        let call = Call::new(&self.context.origin.arrival, message, &target);
        let lookup = active.policy_runtime.filter.look_up_absent(&call, &item);
        let _ = self.context.failed_lookups.absent.set(FailedLookup { subject, upstream, lookup });
    }

    /// Completes the refusal of a name that was not found: operators learn why it is hidden, and callers when policy
    /// had no time to decide.
    pub fn explained(&self, active: &Active, message: &Message, denial: Denial) -> Denial {
        let filter = &active.policy_runtime.filter;
        // An absent thing has the limits of a hidden one, or they would tell the two apart.
        let is_unknown =
            matches!(denial.reason, Reason::UnknownTool | Reason::UnknownPrompt | Reason::UnknownResource);
        let limited =
            is_unknown.then(|| filter.over_budget(&self.context.origin.arrival, Use::Decision)).flatten();
        let FailedLookups { hidden, absent } = &self.context.failed_lookups;
        let failed = hidden.get().or(absent.get()).filter(|_| DecisionRecord::of_refusal(&denial).is_none());
        let Some(decision_record) = failed.and_then(|failed| self.failed_lookup(active, message, failed))
        else {
            return limited.unwrap_or(denial);
        };
        let by_time = filter.denied_by_time(&decision_record);
        if by_time.is_some() {
            tell(
                self.gateway,
                &self.context.origin.arrival,
                &self.target(active, &Arc::from("")),
                &decision_record,
            );
        }
        look_later(self.gateway, active, (&self.context.origin.arrival, true), &decision_record);
        let is_told = hidden.get().is_some() || by_time.is_some();
        let denial = by_time.or(limited).unwrap_or(denial);
        if is_told { denial.because(decision_record) } else { denial }
    }

    fn failed_lookup(
        &self,
        active: &Active,
        message: &Message,
        FailedLookup { subject, upstream, lookup }: &FailedLookup,
    ) -> Option<Arc<DecisionRecord>> {
        let target = Target { subject: Some(subject.clone()), ..self.target(active, upstream) };
        let item = Item { list_item: ListItem::Offered(subject), upstream };
        let call = Call::new(&self.context.origin.arrival, message, &target);
        active.policy_runtime.filter.failed_lookup(&call, &item, lookup).map(Arc::new)
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

fn named(info: &str) -> Option<Arc<str>> {
    let info = StrictObject::read(info).ok()?;
    info.get("name").ok()??;
    info.as_object().text("name").map(Arc::from)
}
