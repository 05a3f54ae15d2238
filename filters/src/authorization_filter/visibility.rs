//! What lists show: the same policy, asked of an item instead of a call.

use super::{
    AuthorizationFilter, DecisionRecord, Lists, PolicyResult, Rules, SampledInput, about, principal, tool,
};
use crate::authorize::{Context, Direction, Entry, Fault, Kind, Mcp, Memory, Obligations, Question, Threat};
use crate::call::{Call, KnownTool, Subject, Target};
use crate::message::Arrival;
use portunus_base::Era;
use std::sync::Arc;
use std::time::Duration;

/// Where no policy decides, tools that are withdrawn leave lists after this.
const LOOKED_AT: Duration = Duration::from_secs(60);

/// Who looks at a list.
#[derive(Clone, Copy, Debug)]
pub struct Viewer<'a> {
    /// Who asks, and when.
    pub arrival: &'a Arrival,
    /// Where; its tool and upstream say nothing here.
    pub target: &'a Target,
    /// `modern` or `legacy`.
    pub era: &'a str,
}

/// One of the things that a server offers.
#[derive(Clone, Copy, Debug)]
pub struct Item<'a> {
    /// What it is.
    pub list_item: ListItem<'a>,
    /// The upstream that it is of.
    pub upstream: &'a str,
}

/// What a server offers.
#[derive(Clone, Copy, Debug)]
pub enum ListItem<'a> {
    /// An item of its lists.
    Offered(&'a Subject),
    /// The server itself: what it says of itself, of its state, and on its own.
    Server,
}

impl<'a> ListItem<'a> {
    /// The method by which a client of `era` uses it, and what it is.
    fn used_by(self, era: &str) -> (&'static str, Kind) {
        match self {
            ListItem::Offered(subject) => {
                let method = match subject {
                    Subject::Tool(_) => "tools/call",
                    Subject::Prompt(_) => "prompts/get",
                    Subject::Resource(_) | Subject::Template(_) => "resources/read",
                };
                (method, subject.kind())
            }
            ListItem::Server if era == Era::Legacy.as_str() => ("initialize", Kind::Server),
            ListItem::Server => ("server/discover", Kind::Server),
        }
    }

    /// True if it is a tool that is no longer served.
    fn is_withdrawn(self, arrival: &Arrival) -> bool {
        let end = self.tool().and_then(|known| known.facts.not_after);
        end.is_some_and(|end| arrival.at.wall >= end)
    }

    fn tool(self) -> Option<&'a KnownTool> {
        match self {
            ListItem::Offered(Subject::Tool(tool)) => Some(tool),
            _ => None,
        }
    }
}

/// How a caller sees an item.
#[derive(Clone, Debug)]
pub enum Visibility {
    /// Not at all.
    Hidden,
    /// As it is, but for arguments that are set whatever a caller sends.
    Shown(Arc<Obligations>),
    /// Nobody knows: the policy gave no decision. Not at all, then, and the log says so.
    Undecided(Fault),
}

impl Visibility {
    /// Whether it is seen.
    pub fn is_shown(&self) -> bool {
        matches!(self, Visibility::Shown(_))
    }

    /// A tool's definition as the caller gets it; `None` if that is as it is.
    pub fn definition(&self, definition: &str) -> Option<String> {
        match self {
            Visibility::Shown(obligations) if !obligations.inject.is_empty() => {
                super::edits::without_injected(definition, &obligations.inject)
            }
            _ => None,
        }
    }
}

/// The result of looking up the target of a call.
#[derive(Clone, Debug)]
pub struct Lookup {
    /// True if the caller may call it.
    pub is_found: bool,
    /// The decision for lists; `None` if no policy was asked.
    policy_result: Option<PolicyResult>,
}

impl AuthorizationFilter {
    /// How an item is seen.
    pub fn visibility(&self, viewer: &Viewer<'_>, item: &Item<'_>) -> Visibility {
        self.visibility_by(viewer, item, Rules::ask)
    }

    /// How an item of a list is seen. Lists are remembered as a whole and paid for as a whole, see
    /// [`AuthorizationFilter::charge_list`].
    pub fn visibility_in_list(&self, viewer: &Viewer<'_>, item: &Item<'_>) -> Visibility {
        self.visibility_by(viewer, item, |rules, entry, question| {
            let memory = Memory { decisions: &rules.decisions, budgets: None, keeps: false };
            rules.ask_with(entry, question, &memory)
        })
    }

    fn visibility_by(
        &self,
        viewer: &Viewer<'_>,
        item: &Item<'_>,
        ask: impl FnOnce(&Rules, Entry, &Question<'_>) -> PolicyResult,
    ) -> Visibility {
        let shown = || Visibility::Shown(Arc::default());
        if item.list_item.is_withdrawn(viewer.arrival) {
            return Visibility::Hidden;
        }
        let Some(rules) = &self.rules else { return shown() };
        let entry = match item.list_item {
            // In no list, and greeted as the policy decides on greetings.
            ListItem::Server => Some(Entry::Decision),
            _ => rules.lists.entry(),
        };
        let Some(entry) = entry else { return shown() };
        let policy_result = ask(rules, entry, &viewer.question(Some(item)));
        match &policy_result.decision.ruling.fault {
            _ if policy_result.decision.allow => {
                Visibility::Shown(Arc::clone(&policy_result.decision.ruling.obligations))
            }
            // To say nothing is to refuse; all else is no answer.
            None | Some(Fault::Undefined) => Visibility::Hidden,
            Some(fault) => Visibility::Undecided(fault.clone()),
        }
    }

    /// Decides on the target of a call: what a caller sees, and where lists hide what depends on arguments, what
    /// these arguments open.
    pub fn look_up(&self, call: &Call<'_>, item: &Item<'_>) -> Lookup {
        let policy_result = self.asked_for_lists(call, item);
        let is_withdrawn = item.list_item.is_withdrawn(call.arrival);
        if !is_withdrawn && policy_result.as_ref().is_none_or(|policy_result| policy_result.decision.allow) {
            return Lookup { is_found: true, policy_result };
        }
        let opened = self.opened(call).is_some_and(|opened| opened.decision.allow);
        Lookup { is_found: opened && !is_withdrawn, policy_result }
    }

    /// Asks policy of a name that nothing has as often as [`AuthorizationFilter::look_up`] asks of one that is hidden, so
    /// that the time of an answer does not tell them apart.
    pub fn look_up_absent(&self, call: &Call<'_>, stand_in: &Item<'_>) -> Lookup {
        let policy_result = self.asked_for_lists(call, stand_in);
        let _ = self.opened(call);
        Lookup { is_found: false, policy_result }
    }

    /// Gives the decision by which a lookup failed, with its input for the explanation; `None` if no policy was asked.
    pub fn failed_lookup(&self, call: &Call<'_>, item: &Item<'_>, lookup: &Lookup) -> Option<DecisionRecord> {
        let (rules, policy_result) = (self.rules.as_ref()?, lookup.policy_result.clone()?);
        // A decision that took too long once is not worked out again.
        let is_of_time = policy_result.decision.fault.as_ref().is_some_and(Fault::is_of_time);
        let input = || rules.policy.input(policy_result.entry, &viewer(call).question(Some(item)));
        let question = SampledInput::of((!is_of_time).then(input).flatten());
        let facts = call.target.tool().map(|tool| Arc::clone(&tool.facts));
        Some(DecisionRecord { policy: Some(policy_result), facts, question, ..DecisionRecord::default() })
    }

    /// Asks policy of an item as it is asked for lists; `None` if lists show everything.
    fn asked_for_lists(&self, call: &Call<'_>, item: &Item<'_>) -> Option<PolicyResult> {
        let rules = self.rules.as_ref()?;
        Some(rules.ask(rules.lists.entry()?, &viewer(call).question(Some(item))))
    }

    /// Asks policy of a call with its arguments, where lists hide what depends on them.
    fn opened(&self, call: &Call<'_>) -> Option<PolicyResult> {
        let hides = self.rules.as_ref().is_some_and(|rules| rules.lists == Lists::WithoutArguments);
        hides.then(|| self.opens(call)).flatten()
    }

    fn opens(&self, call: &Call<'_>) -> Option<PolicyResult> {
        let params = about::params(call.message).ok()?;
        let about = about::About::of(call, &params, true).ok()?;
        self.ruled(&super::question(call, &about))
    }

    /// Until when servers are seen as they are now, as a time since the epoch; `None` for ever.
    pub fn servers_seen_until(&self, viewer: &Viewer<'_>) -> Option<Duration> {
        let rules = self.rules.as_ref()?;
        let view = rules.policy.view(Entry::Decision, &viewer.question(None));
        Some(viewer.lasting(view.map_or(Duration::ZERO, |view| view.until)))
    }

    /// What all answers to this onlooker have in common, as a key: two with one key see the same. With
    /// it, when it ends for all of them, as a time since the epoch. `None` if each item has to be asked for
    /// anew.
    pub fn view(&self, viewer: &Viewer<'_>) -> Option<(Vec<u8>, Duration)> {
        let same_for_all = || Some((Vec::new(), viewer.arrival.at.wall.saturating_add(LOOKED_AT)));
        let Some(rules) = &self.rules else { return same_for_all() };
        let Some(entry) = rules.lists.entry() else { return same_for_all() };
        let view = rules.policy.view(entry, &viewer.question(None)).ok()?;
        Some((view.key.into(), view.until))
    }
}

fn viewer<'a>(call: &Call<'a>) -> Viewer<'a> {
    Viewer { arrival: call.arrival, target: call.target, era: call.message.era.as_str() }
}

impl Lists {
    /// The rule that is asked for each item; `None` if everything is shown.
    fn entry(self) -> Option<Entry> {
        match self {
            Lists::Show => None,
            Lists::Visible => Some(Entry::Visible),
            Lists::Decision | Lists::WithoutArguments => Some(Entry::Decision),
        }
    }
}

impl<'a> Viewer<'a> {
    /// Until when this onlooker may see what is there for everybody `until` a time since the epoch: no longer than
    /// what it has shown of itself holds.
    pub fn lasting(&self, until: Duration) -> Duration {
        principal(self.arrival).not_after.map_or(until, |not_after| until.min(not_after))
    }

    /// The question that an item is; without one, what is common to all of them.
    pub(super) fn question(&self, item: Option<&'a Item<'a>>) -> Question<'a> {
        let list_item = item.map(|item| item.list_item);
        let (method, kind) = list_item.map_or(("", Kind::Server), |list_item| list_item.used_by(self.era));
        let (name, uri) = match list_item {
            Some(ListItem::Offered(subject)) => subject.name_and_uri(),
            Some(ListItem::Server) | None => (None, None),
        };
        let known = list_item.and_then(ListItem::tool).map(tool);
        let server: &'a str = &self.target.server;
        Question {
            principal: principal(self.arrival),
            mcp: Mcp {
                method,
                direction: Direction::ToServer,
                server,
                upstream: item.map(|item| item.upstream),
                kind,
                name,
                uri,
                arguments: None,
                responses: None,
                era: self.era,
            },
            tool: known,
            context: Context {
                source_ip: self.arrival.source,
                zone: self.target.zone.as_deref(),
                listener: &self.arrival.listener,
                client: self.target.client.as_deref(),
                justification: None,
            },
            threat: Threat::None,
            findings: None,
            now: self.arrival.at,
        }
    }
}
