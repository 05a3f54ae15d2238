//! Judges and admits the requests of a message with what was looked up for it.

use super::{Authority, ResponsePipeline, Wanted, judge};
use crate::backend::upstream_call::UpstreamTarget;
use crate::frontend::bridge::{ServedCall, shown};
use crate::frontend::context::{Active, AnswerSnapshot};
use bytes::Bytes;
use portunus_config::Upstream;
use portunus_filters::call::{KnownTool, Subject, Target};
use portunus_filters::catalog::{Catalog, Closing, Entry, ListKind, Located, UnknownCursor};
use portunus_filters::gate::{Item, Onlooker, Thing};
use portunus_filters::mcp::Method;
use portunus_filters::mcp::bridge::{Caching, Profile, Scope};
use portunus_filters::mcp::object::StrictObject;
use portunus_filters::mcp::uri::{Normal, normal};
use portunus_filters::{Admitting, Cleared, Denial, Era, Holds, Kind, Message, Reason, Turned};
use std::sync::Arc;

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

impl Authority {
    /// What is known of a tool of a catalogue.
    pub fn known(&self, upstream: &str, entry: &Entry) -> Arc<KnownTool> {
        let known = self.ratings.tool(upstream, &entry.original);
        if !self.reads_claims {
            return known;
        }
        let claimed = claims(entry).map(Arc::from);
        Arc::new(KnownTool { claimed, ..KnownTool::clone(&known) })
    }

    /// What rules are asked of a URI; `None` if its server may read it in another way than they do.
    pub(super) fn uri(&self, located: &Located<'_>) -> Option<Subject> {
        let unread = || Subject::Resource(Arc::from(&*located.original));
        located.subject().or_else(|| (!self.reads_uris).then(unread))
    }
}

/// What a server says of its tool, as the text of a JSON object.
fn claims(entry: &Entry) -> Option<&str> {
    let object = StrictObject::read(std::str::from_utf8(entry.definition()).ok()?).ok()?;
    object.get("annotations").ok()?.filter(|annotations| annotations.starts_with('{'))
}

impl ServedCall<'_> {
    /// Notes the name that the client's software gives itself, where that counts.
    ///
    /// # Errors
    /// As `profile`.
    pub fn spoken_by(&self, profile: impl FnOnce() -> Result<Arc<Profile>, Denial>) -> Result<(), Denial> {
        if self.active().authority.reads_client
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
            active.authority.target(&self.context.origin.arrival, &self.context.server.name, upstream);
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
        self.judged(&active, message, &target)
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
        let admitting =
            active.pipeline.admit(cleared, &self.context.origin.arrival, request.message, &target)?;
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
        Ok((self.judged(active, request.message, &target)?, target))
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
                let authority = &active.authority;
                // The claims of its server were not read under the configuration before.
                if authority.reads_claims && known.claimed.is_none() {
                    return Err(removed());
                }
                let facts = Arc::clone(&authority.ratings.tool(&upstream.name, &known.original).facts);
                Some(Subject::Tool(Arc::new(KnownTool { facts, ..KnownTool::clone(known) })))
            }
            Some(Subject::Prompt(name)) if is_viewed(name) => subject.clone(),
            // Nor was another spelling of a URI than the normal one refused, if no rule read URIs.
            Some(Subject::Resource(uri) | Subject::Template(uri))
                if is_viewed(uri) && (!active.authority.reads_uris || normal(uri).is_exact()) =>
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
        let reads_arguments = active.authority.gate.reads_arguments();
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
        let active = self.active();
        let target = self.target(&active, &Arc::from(""));
        let cleared = self.judged(&active, message, &target)?;
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
    fn judged(&self, active: &Active, message: &Message, target: &Target) -> Result<Cleared, Denial> {
        let cleared =
            judge(self.gateway, active, &self.context.origin.arrival, std::slice::from_ref(message), target)?;
        Ok(cleared.bounded(self.context.long_texts.clone()))
    }

    /// What is known of a tool by the name that its server gives it.
    pub fn rated(&self, upstream: &str, original: &Arc<str>) -> Option<Arc<KnownTool>> {
        let active = self.active();
        active.pipeline.is_on().then(|| active.authority.ratings.tool(upstream, original))
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
        let subject = active.authority.uri(located)?;
        let target = self.target(&active, upstream);
        let onlooker = Onlooker { arrival: &self.context.origin.arrival, target: &target, era: era.as_str() };
        let item = Item { thing: Thing::Offered(&subject), upstream };
        active.authority.gate.sight(&onlooker, &item).is_shown().then_some(Some(subject))
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
        let onlooker = Onlooker { arrival: &arrival, target: &target, era: opening.era.as_str() };
        let item = Item { thing: Thing::Offered(&subject), upstream };
        let method = Some(Method::of("resources/subscribe"));
        let message = Message { kind: Kind::Request, method, ..opening.clone() };
        active.authority.gate.sight(&onlooker, &item).is_shown()
            && judge(self.gateway, &active, &arrival, std::slice::from_ref(&message), &target).is_ok()
    }

    /// Why a URI that nothing has was not even looked for, if it was not: rules are asked of a normal
    /// form, and of another spelling nobody knows how a server reads it.
    pub fn spelling(&self, catalog: &Catalog, uri: &str) -> Option<Denial> {
        if !catalog.is_selective() && !self.active().authority.reads_uris {
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

    /// The result of a list request, as who asks sees the list.
    ///
    /// # Errors
    /// [`Reason::UnknownState`] for a cursor that is not of this list as it is seen now; as [`Authority::view`].
    pub async fn listed(
        &self,
        catalog: &Arc<Catalog>,
        (kind, cursor): (ListKind, Option<&str>),
        closing: &Closing<'_>,
    ) -> Result<Vec<Bytes>, Denial> {
        let stale = |_: UnknownCursor| {
            Denial::new(Reason::UnknownState, "the cursor is not of this list as it is now")
        };
        let active = self.active();
        if !active.authority.governs() {
            return catalog.result(kind, cursor, closing).map_err(stale);
        }
        let target = self.target(&active, &Arc::from(""));
        let onlooker =
            Onlooker { arrival: &self.context.origin.arrival, target: &target, era: closing.era.as_str() };
        let wanted = Wanted { catalog, kind, upstream: &|member| self.leads_to(member) };
        let view = active.authority.view(&onlooker, &wanted).await?;
        let left = onlooker.lasting(view.until).saturating_sub(self.context.origin.arrival.at.wall);
        let ttl_ms = u64::try_from(left.as_millis()).unwrap_or(u64::MAX).min(closing.caching.ttl_ms);
        let caching = Caching { ttl_ms, scope: Scope::Private };
        view.list.result(catalog, cursor, &Closing { caching, ..*closing }).map_err(stale)
    }
}

fn named(info: &str) -> Option<Arc<str>> {
    let info = StrictObject::read(info).ok()?;
    info.get("name").ok()??;
    info.as_object().text("name").map(Arc::from)
}
