//! What a message is found by, and what it is judged with beside its text.

use super::{Authority, Overseer, judge, look_later};
use crate::bridge::Desk;
use crate::context::Active;
use bytes::Bytes;
use portunus_filters::call::{Call, KnownTool, Target, TaskCall};
use portunus_filters::gate::{Item, Onlooker, Thing};
use portunus_filters::mcp::bridge::{Caching, Profile, Scope};
use portunus_filters::mcp::catalog::{Catalog, Closing, Entry, ListKind, UnknownCursor};
use portunus_filters::mcp::object::Object;
use portunus_filters::{Arrival, Cleared, Denial, Era, Message};
use std::sync::Arc;

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
}

/// What a server says of its tool, as the text of a JSON object.
fn claims(entry: &Entry) -> Option<&str> {
    let object = Object::read(std::str::from_utf8(entry.definition()).ok()?).ok()?;
    object.get("annotations").filter(|annotations| annotations.starts_with('{'))
}

/// An entry of a list as policy is asked of it; `None` for a tool of which nothing is known.
pub(super) fn item<'a>(
    kind: ListKind,
    upstream: &'a str,
    name: &'a str,
    known: Option<&'a KnownTool>,
) -> Option<Item<'a>> {
    let thing = match kind {
        ListKind::Tools => Thing::Tool(name, known?),
        ListKind::Prompts => Thing::Prompt(name),
        ListKind::Resources => Thing::Resource(name),
        ListKind::Templates => Thing::Template(name),
    };
    Some(Item { thing, upstream })
}

impl Desk<'_> {
    /// Notes what the client's software calls itself, where that counts.
    pub fn spoken_by(&self, profile: &Profile) {
        if self.gateway.glance().authority.reads_client
            && let Some(name) = profile.client_info.as_deref().and_then(named)
        {
            // Of a desk that serves several messages of one client the first is as good as any.
            let _ = self.software.set(name);
        }
    }

    /// Where a message goes, and what is known of it beside its text.
    pub fn target(&self, active: &Active, upstream: &Arc<str>) -> Target {
        let target = active.authority.target(self.arrival, &self.server.name, upstream);
        Target { client: self.software.get().cloned(), ..target }
    }

    /// Stages 5 to 8 of one message that goes to `upstream`, of a call with the tool that it is of.
    ///
    /// # Errors
    /// What the filters refuse.
    pub fn clear(
        &self,
        active: &Active,
        message: &Message,
        upstream: &Arc<str>,
        tool: Option<Arc<KnownTool>>,
    ) -> Result<Cleared, Denial> {
        let target = Target { tool, ..self.target(active, upstream) };
        judge(self.gateway, active, self.arrival, std::slice::from_ref(message), &target)
    }

    /// As [`Desk::clear`], of a call, with what stands over it while it is under way.
    ///
    /// # Errors
    /// What the filters refuse.
    pub fn clear_call(
        &self,
        active: &Active,
        message: &Message,
        upstream: &Arc<str>,
        tool: Option<Arc<KnownTool>>,
    ) -> Result<(Cleared, Overseer), Denial> {
        let target = Target { tool, ..self.target(active, upstream) };
        let cleared = judge(self.gateway, active, self.arrival, std::slice::from_ref(message), &target)?;
        let whence = Target { tool: None, ..target };
        let overseer = Overseer::of(self.arrival, whence, message.era, &cleared);
        Ok((cleared, overseer))
    }

    /// What stands over what the client is told and asked outside of calls.
    pub fn overseer(&self) -> Overseer {
        let target = self.target(&self.gateway.active(), &Arc::from(""));
        Overseer::of_client(self.arrival, target, self.era)
    }

    /// As [`Desk::clear`], of a message that is answered here.
    ///
    /// # Errors
    /// What the filters refuse.
    pub fn admit(&self, message: &Message) -> Result<(), Denial> {
        self.clear(&self.gateway.active(), message, &Arc::from(""), None).map(drop)
    }

    /// As [`Desk::admit`], of a message that came a while ago and is judged as if it came now.
    ///
    /// # Errors
    /// What the filters refuse.
    pub fn admit_again(&self, message: &Message) -> Result<(), Denial> {
        let active = self.gateway.active();
        let arrival = Arrival { at: self.gateway.clock.now(), ..self.arrival.clone() };
        let target = self.target(&active, &Arc::from(""));
        judge(self.gateway, &active, &arrival, std::slice::from_ref(message), &target).map(drop)
    }

    /// What is known of a tool by the name that its server gives it.
    pub fn rated(&self, upstream: &str, original: &Arc<str>) -> Option<Arc<KnownTool>> {
        let active = self.gateway.glance();
        active.authority.governs().then(|| active.authority.ratings.tool(upstream, original))
    }

    /// The upstream that an entry of a catalogue leads to, where no argument selects another.
    pub fn leads_to(&self, member: usize) -> Option<&Arc<str>> {
        self.chosen(self.server.members.get(member)?).map(|upstream| &upstream.name)
    }

    /// Whether a message may find an entry of a list: what its sender does not see reads as unknown.
    pub fn finds(&self, message: &Message, kind: ListKind, entry: &Entry) -> bool {
        let active = self.gateway.glance();
        let Some(upstream) = self.leads_to(entry.member).filter(|_| active.authority.governs()) else {
            return !active.authority.governs();
        };
        self.finds_named(&active, message, (kind, upstream, &entry.name), None)
    }

    /// As [`Desk::finds`], of a tool: what is known of it, where calls are held to that; `None` if the
    /// message does not find it.
    pub fn finds_tool(&self, message: &Message, entry: &Entry) -> Option<Option<Arc<KnownTool>>> {
        let active = self.gateway.glance();
        if !active.authority.governs() {
            return Some(None);
        }
        let upstream = self.leads_to(entry.member)?;
        let known = active.authority.known(upstream, entry);
        let named = (ListKind::Tools, upstream, &*entry.name);
        self.finds_named(&active, message, named, Some(Arc::clone(&known))).then_some(Some(known))
    }

    /// As [`Desk::finds_tool`], of a tool whose `call` made the task that the message is about.
    pub fn finds_task(
        &self,
        message: &Message,
        entry: &Entry,
        call: &Arc<TaskCall>,
    ) -> Option<Arc<KnownTool>> {
        let active = self.gateway.glance();
        let upstream = self.leads_to(entry.member)?;
        let known = KnownTool::clone(&active.authority.known(upstream, entry));
        let known = Arc::new(KnownTool { task: Some(Arc::clone(call)), ..known });
        let named = (ListKind::Tools, upstream, &*entry.name);
        self.finds_named(&active, message, named, Some(Arc::clone(&known))).then_some(known)
    }

    /// The same for a URI that is in no list.
    pub fn finds_uri(&self, message: &Message, member: usize, uri: &str) -> bool {
        let active = self.gateway.glance();
        let Some(upstream) = self.leads_to(member).filter(|_| active.authority.governs()) else {
            return !active.authority.governs();
        };
        self.finds_named(&active, message, (ListKind::Resources, upstream, uri), None)
    }

    /// Whether a caller sees a resource.
    pub fn sees_uri(&self, member: usize, uri: &str, era: Era) -> bool {
        let active = self.gateway.glance();
        let Some(upstream) = self.leads_to(member).filter(|_| active.authority.governs()) else {
            return !active.authority.governs();
        };
        let target = self.target(&active, upstream);
        let onlooker = Onlooker { arrival: self.arrival, target: &target, era: era.as_str() };
        let item = Item { thing: Thing::Resource(uri), upstream };
        active.authority.gate.sight(&onlooker, &item).is_shown()
    }

    fn finds_named(
        &self,
        active: &Active,
        message: &Message,
        (kind, upstream, name): (ListKind, &Arc<str>, &str),
        known: Option<Arc<KnownTool>>,
    ) -> bool {
        let Some(item) = item(kind, upstream, name, known.as_deref()) else { return false };
        let target = Target { tool: known.clone(), ..self.target(active, upstream) };
        let call = Call { arrival: self.arrival, message, target: &target };
        let found = active.authority.gate.finds(&call, &item);
        if !found && self.hidden.get().is_none() {
            // What was hidden first is what the refusal is about.
            let judged = active.authority.gate.hidden(&call, &item);
            let _ = judged.map(|judged| self.hidden.set(Arc::new(judged)));
        }
        found
    }

    /// A refusal that nothing has the name, with why that is so for its caller: for the operator alone.
    pub fn accounted(&self, denial: Denial) -> Denial {
        let Some(judged) = self.hidden.get().filter(|_| denial.judged.is_none()) else { return denial };
        look_later(self.gateway, &self.gateway.active(), self.arrival, judged);
        Denial { judged: Some(Arc::clone(judged)), ..denial }
    }

    /// The result of a list request, as who asks sees the list.
    ///
    /// # Errors
    /// [`UnknownCursor`] for one that is not of this list as it is seen now.
    pub fn listed(
        &self,
        catalog: &Arc<Catalog>,
        (kind, cursor): (ListKind, Option<&str>),
        closing: &Closing<'_>,
    ) -> Result<Vec<Bytes>, UnknownCursor> {
        let active = self.gateway.active();
        if !active.authority.governs() {
            return catalog.result(kind, cursor, closing);
        }
        let target = self.target(&active, &Arc::from(""));
        let onlooker = Onlooker { arrival: self.arrival, target: &target, era: closing.era.as_str() };
        let view = active.authority.view(&onlooker, catalog, kind, &|member| self.leads_to(member));
        let left = view.until.saturating_sub(self.arrival.at.wall);
        let ttl_ms = u64::try_from(left.as_millis()).unwrap_or(u64::MAX).min(closing.caching.ttl_ms);
        let caching = Caching { ttl_ms, scope: Scope::Private };
        view.list.result(catalog, cursor, &Closing { caching, ..*closing })
    }
}

fn named(info: &str) -> Option<Arc<str>> {
    Object::read(info).ok()?.text("name").map(Arc::from)
}
