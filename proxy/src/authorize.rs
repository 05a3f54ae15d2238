//! Decisions on live traffic: the policy of the configuration in force, asked for every message.
//!
//! The one way to a permission is [`judge`], on every path. What a caller sees of lists is in
//! `views`, of servers in `server_visibility`; what a call is judged with, names among it, in
//! `request_admission`. Deciding itself is pure and in [`portunus_filters::authorization_filter`].

mod policy_sampler;
mod recorder;
mod request_admission;
mod response_pipeline;
mod server_visibility;
mod views;

pub use policy_sampler::SamplingQueue;
pub use recorder::MAX_WITHIN;
pub use request_admission::{AdmittedMessage, CallTerms, FailedLookups, RequestAdmission, RoutedRequest};
pub use response_pipeline::{CallRules, ResponsePipeline, error};
pub use views::{Views, Wanted};

use crate::frontend::context::{Active, Gateway};
use crate::metrics::Metrics;
use policy_sampler::Question;
use portunus_config::{ListRule, PolicyRules, Snapshot, ToolRules};
use portunus_filters::authorization_filter::{AuthorizationFilter, Lists, Rules};
use portunus_filters::authorize::{DecisionCache, Fault};
use portunus_filters::call::{KnownTool, Subject, Target};
use portunus_filters::catalog::{Entry, Located};
use portunus_filters::decision_record::{DecisionRecord, Sampler};
use portunus_filters::mcp::object::StrictObject;
use portunus_filters::{Arrival, Cleared, Denial, Message};
use quick_cache::sync::Cache;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Bytes that one remembered decision takes, about.
const DECISION_BYTES: u64 = 1024;

/// Tools of one upstream that are remembered.
const MAX_TOOLS: usize = 10_000;

/// A longer name, which no server should have, is looked up each time.
const MAX_NAME_BYTES: usize = 256;

/// The authorization filter of one configuration, and the facts that it is asked with.
pub struct PolicyRuntime {
    /// What every message has to pass.
    pub filter: Arc<AuthorizationFilter>,
    /// What is known of tools.
    pub known_tools: KnownTools,
    /// Lists as callers see them.
    pub views: Views,
    /// The policy reads what servers claim of their tools.
    pub reads_claims: bool,
    /// The policy reads what the client's software calls itself.
    pub reads_client: bool,
    /// The policy reads URIs, so each must be read by its server as it is judged.
    pub reads_uris: bool,
    policy: Option<Arc<PolicyRules>>,
}

/// Knowledge that the configuration has of each tool, looked up once: by its upstream and the name it has there.
pub struct KnownTools {
    rules: Arc<ToolRules>,
    by_upstream: HashMap<Arc<str>, Cache<Arc<str>, Arc<KnownTool>>>,
}

impl PolicyRuntime {
    /// The policy runtime of a configuration. If its rules are those that were in force `before`, it remembers
    /// their decisions.
    pub fn of(snapshot: &Snapshot, recorded: &Arc<Sampler>, before: Option<&PolicyRuntime>) -> PolicyRuntime {
        let policy = snapshot.policy.clone();
        let rules = policy.as_ref().map(|policy| Rules {
            policy: Arc::clone(&policy.policy),
            decisions: decisions(policy, before),
            budgets: before
                .and_then(|before| Some(Arc::clone(&before.filter.rules()?.budgets)))
                .unwrap_or_default(),
            lists: lists(policy.lists),
            reasons_to_client: policy.reasons_to_client,
        });
        let tried = policy.as_ref().and_then(|policy| policy.shadow.as_ref());
        let tried = tried.map_or(0, |shadow| u32::try_from(shadow.sample).unwrap_or(u32::MAX));
        let filter = AuthorizationFilter::new(rules, snapshot.controls.clone(), !snapshot.tools.is_empty());
        let filter = Arc::new(filter.with_sampling(tried, Arc::clone(recorded)));
        PolicyRuntime {
            known_tools: KnownTools::of(snapshot),
            views: Views::default(),
            reads_claims: filter.reads("input.tool.claimed"),
            reads_client: filter.reads("input.context.client"),
            reads_uris: filter.reads("input.mcp.uri"),
            filter,
            policy,
        }
    }

    /// Whether anything is asked of messages: then what lists show depends on who asks.
    pub fn governs(&self) -> bool {
        self.filter.governs()
    }

    /// What is known of a tool of a catalogue.
    pub fn known(&self, upstream: &str, entry: &Entry) -> Arc<KnownTool> {
        let known = self.known_tools.tool(upstream, &entry.original);
        if !self.reads_claims {
            return known;
        }
        let claimed = claims(entry).map(Arc::from);
        Arc::new(KnownTool { claimed, ..KnownTool::clone(&known) })
    }

    /// What rules are asked of a URI; `None` if its server may read it in another way than they do.
    fn uri(&self, located: &Located<'_>) -> Option<Subject> {
        let unread = || Subject::Resource(Arc::from(&*located.original));
        located.subject().or_else(|| (!self.reads_uris).then(unread))
    }

    /// Measures what is remembered of decisions, and tells of what ran out of time since it was called last.
    pub fn sweep(&self, metrics: &Metrics, now: Duration) {
        let Some(rules) = self.filter.rules() else { return };
        rules.budgets.sweep(rules.policy.time_limit(), now);
        let ran_out = rules.budgets.take_ran_out();
        metrics.policy.ran_out(&ran_out);
        if ran_out.iter().any(|(_, times)| *times > 0) {
            let [decisions, callers, lists] = ran_out.map(|(_, times)| times);
            tracing::warn!(
                decisions,
                refused_callers = callers,
                lists,
                "the policy ran out of CPU time: see `policy.time_limit`"
            );
        }
        let sizes = [
            ("decisions", rules.decisions.len()),
            ("decision_bytes", usize::try_from(rules.decisions.bytes()).unwrap_or(usize::MAX)),
            ("views", self.views.len()),
            ("policy_accounts", rules.budgets.len()),
        ];
        for (table, size) in sizes {
            metrics.tables.with_label_values(&[table]).set(i64::try_from(size).unwrap_or(i64::MAX));
        }
    }

    /// Where a message of `arrival` goes, and where it comes from.
    pub fn target(&self, arrival: &Arrival, server: &Arc<str>, upstream: &Arc<str>) -> Target {
        let zone = self.policy.as_ref().and_then(|policy| policy.zones.of(arrival.source));
        Target { zone: zone.map(Arc::from), ..Target::new(server, upstream) }
    }
}

impl KnownTools {
    /// Of the tools of a configuration.
    pub fn of(snapshot: &Snapshot) -> KnownTools {
        let upstreams = snapshot.upstreams.iter();
        let by_upstream =
            upstreams.map(|upstream| (Arc::clone(&upstream.name), Cache::new(MAX_TOOLS))).collect();
        KnownTools { rules: Arc::clone(&snapshot.tools), by_upstream }
    }

    /// What is known of a tool.
    pub fn tool(&self, upstream: &str, original: &Arc<str>) -> Arc<KnownTool> {
        let known = || {
            let facts = Arc::new(self.rules.facts(upstream, original));
            Arc::new(KnownTool { original: Arc::clone(original), facts, claimed: None, task: None })
        };
        let Some(tools) = self.by_upstream.get(upstream) else { return known() };
        if let Some(tool) = tools.get(original) {
            return tool;
        }
        let tool = known();
        if original.len() <= MAX_NAME_BYTES {
            tools.insert(Arc::clone(original), Arc::clone(&tool));
        }
        tool
    }
}

/// What a server says of its tool, as the text of a JSON object.
fn claims(entry: &Entry) -> Option<&str> {
    let object = StrictObject::read(std::str::from_utf8(entry.definition()).ok()?).ok()?;
    object.get("annotations").ok()?.filter(|annotations| annotations.starts_with('{'))
}

/// Judges messages, and tells of it.
///
/// # Errors
/// What the filters refuse.
pub fn judge(
    gateway: &Gateway,
    active: &Active,
    arrival: &Arrival,
    messages: &[Message],
    target: &Target,
) -> Result<Cleared, Denial> {
    let mut began = active.pipeline.is_on().then(Instant::now);
    let result = active.pipeline.judge(arrival, messages, target, |filter| {
        if let Some(began) = &mut began {
            let now = Instant::now();
            gateway.metrics.filter(filter, (now - std::mem::replace(began, now)).as_secs_f64());
        }
    });
    let refused = result.as_ref().err().and_then(DecisionRecord::of_refusal);
    let cleared = result.as_ref().ok().and_then(Cleared::decision_record);
    if let Some(decision_record) = refused.as_ref().or(cleared) {
        tell(gateway, arrival, target, decision_record);
        look_later(gateway, active, (arrival, false), decision_record);
    }
    result
}

/// Has a question looked at off the workers, if it is to be.
fn look_later(
    gateway: &Gateway,
    active: &Active,
    (arrival, is_failed_lookup): (&Arrival, bool),
    decision_record: &Arc<DecisionRecord>,
) {
    let policy_runtime = &active.policy_runtime;
    let (Some(rules), Some(filter_rules)) = (&policy_runtime.policy, policy_runtime.filter.rules()) else {
        return;
    };
    let Some(input) = decision_record.question.take() else { return };
    gateway.sampling_queue.consider(Question {
        policy: Arc::clone(&rules.policy),
        tried: rules.shadow.as_ref().map(|shadow| Arc::clone(&shadow.policy)),
        decision_record: Arc::clone(decision_record),
        owner: arrival.owner(),
        at: arrival.at.monotonic,
        budgets: Arc::clone(&filter_rules.budgets),
        request_id: Arc::clone(&arrival.request_id),
        input,
        is_failed_lookup,
    });
}

fn tell(gateway: &Gateway, arrival: &Arrival, target: &Target, decision_record: &DecisionRecord) {
    gateway.metrics.policy.decided(decision_record);
    if let Some(policy_result) = &decision_record.policy {
        if policy_result.decision.diverged {
            tracing::error!(
                request_id = &*arrival.request_id,
                entry = policy_result.entry.as_str(),
                "the policy reads more than its analysis found: it is given the whole input from now on"
            );
        }
        // Who has used up its time asks often: `sweep` tells of all of them in one line.
        let is_told =
            |fault: &&Fault| !policy_result.decision.cached && !matches!(fault, Fault::OverBudget(_));
        if let Some(fault) = policy_result.decision.ruling.fault.as_ref().filter(is_told) {
            tracing::warn!(
                request_id = &*arrival.request_id,
                server = &*target.server,
                entry = policy_result.entry.as_str(),
                %fault,
                "the policy gave no decision"
            );
        }
    }
    if decision_record.alert {
        tracing::warn!(
            request_id = &*arrival.request_id,
            server = &*target.server,
            upstream = &*target.upstream,
            tool = target.tool().map(|tool| &*tool.original),
            rule = decision_record.rule(),
            "alert: a message that somebody wants to know of"
        );
    }
}

/// What some rules have said.
fn decisions(policy: &PolicyRules, before: Option<&PolicyRuntime>) -> Arc<DecisionCache> {
    let known = before.and_then(|before| Some((before.filter.rules()?, before.policy.as_ref()?)));
    match known {
        Some((rules, known))
            if Arc::ptr_eq(&rules.policy, &policy.policy) && known.cache_entries == policy.cache_entries =>
        {
            Arc::clone(&rules.decisions)
        }
        _ => Arc::new(DecisionCache::new(policy.cache_entries, policy.cache_entries as u64 * DECISION_BYTES)),
    }
}

fn lists(rule: ListRule) -> Lists {
    match rule {
        ListRule::Visible => Lists::Visible,
        ListRule::Decision => Lists::Decision,
        ListRule::Show => Lists::Show,
        ListRule::WithoutArguments => Lists::WithoutArguments,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use portunus_config::{Attempt, Carry, MapEnvironment};
    use std::path::Path;

    const RULES: &str = "package mcp.authz\nimport rego.v1\ndefault decision := false\n";

    /// A configuration whose policy is `rules`, in force after those that `carry` has seen.
    fn activated(carry: &mut Carry, rules: &str, policy: &str) -> Snapshot {
        let mut env = MapEnvironment::default();
        let head = "version: 1\nupstreams: {a: 'http://localhost:1/'}\nservers: {/mcp: a}\n";
        env.files.insert("c/gateway.yaml".into(), format!("{head}policy: {policy}\n"));
        env.files.insert("c/p.rego".into(), rules.to_owned());
        let loaded = Attempt::new(Path::new("c/gateway.yaml"), &env).outcome;
        let mut snapshot = loaded.unwrap_or_else(|report| panic!("{report}")).snapshot;
        carry.activate(&mut snapshot);
        snapshot
    }

    #[test]
    fn decisions_are_remembered_for_as_long_as_the_rules_are_the_same() {
        let (mut carry, sampler) = (Carry::default(), Arc::default());
        let first = PolicyRuntime::of(&activated(&mut carry, RULES, "p.rego"), &sampler, None);
        let goes_on = |carry: &mut Carry, rules: &str, policy: &str| {
            let next = PolicyRuntime::of(&activated(carry, rules, policy), &sampler, Some(&first));
            let known = |policy_runtime: &PolicyRuntime| {
                Arc::clone(&policy_runtime.filter.rules().unwrap().decisions)
            };
            Arc::ptr_eq(&known(&first), &known(&next))
        };
        assert!(goes_on(&mut carry, RULES, "p.rego"), "nothing has changed");
        assert!(goes_on(&mut carry, RULES, "{path: p.rego, reasons_to_client: false}"), "no rule has");
        assert!(!goes_on(&mut carry, RULES, "{path: p.rego, cache_entries: 10}"), "another size");
        assert!(goes_on(&mut carry, RULES, "p.rego"), "the rules were the same all the time");
        assert!(!goes_on(&mut carry, RULES, "{path: p.rego, time_zone: Asia/Tokyo}"), "another clock");
        assert!(!goes_on(&mut carry, RULES, "p.rego"), "other rules have been in force");
        let other = RULES.replace("false", "true");
        assert!(!goes_on(&mut carry, &other, "p.rego"), "other rules");
    }
}
