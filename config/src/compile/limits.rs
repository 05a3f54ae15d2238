//! Limits: rules by name, and warnings of rules that do not do what their author may expect.

use crate::described::Described;
use crate::diagnostic::{Findings, Place};
use crate::document::ToolLine;
use crate::document::{
    Budget, CallLimit, ConcurrencyLimit, LimitExceptionDocument, LimitMatchDocument, LimitRuleDocument,
    LimitsDocument, LoopLimit, NamePattern, Quota, RulesDocument, Zone,
};
use crate::limit_rules::LimitRules;
use crate::reader::suggestion;
use crate::snapshot::VirtualServer;
use crate::tools::Fact;
use crate::units::{Rate, show_rate};
use crate::view::split_upstream;
use portunus_filters::glob::Glob;
use portunus_filters::limits::{
    Exception, Gcra, KeyPart, Match, Meter, Mode, Rule, ToolPattern, Unit, show_money,
};
use std::time::Duration;

/// The rules of a document; what is wrong with them is reported.
pub(super) fn compile(
    rules: &RulesDocument,
    servers: &[VirtualServer],
    findings: &Findings,
) -> Option<LimitRules> {
    let document = rules.limits.as_ref()?;
    let compiler = Compiler {
        zone: document.time_zone,
        upstreams: rules.upstreams.iter().map(|upstream| upstream.name.value.as_str()).collect(),
        endpoints: servers.iter().map(|server| &*server.name).collect(),
        findings,
    };
    let compiled = compiler.rules(document);
    if compiled.is_empty() {
        findings.error(
            &document.place,
            "no limit is named",
            "write `per_principal: 1000/hour`, or remove the section",
        );
    }
    compiler.refuse_doubles(document, &compiled);
    warn_of_shared_counts(document, &compiled, findings);
    warn_of_rules_that_never_bind(document, &compiled, findings);
    warn_of_money_without_prices(rules, &compiled, findings);
    let max_keys = usize::try_from(document.max_keys.0).unwrap_or(usize::MAX);
    Some(LimitRules { rules: compiled, max_keys, section: document.shown() })
}

/// The longest time in which a burst may come again.
const LONGEST_BURST: Duration = Duration::from_secs(10 * 366 * 86_400);

struct Compiler<'c> {
    zone: Zone,
    upstreams: Vec<&'c str>,
    endpoints: Vec<&'c str>,
    findings: &'c Findings,
}

/// What a document says of one rule, whatever form it has.
struct Written<'d> {
    name: &'d str,
    key: &'d [KeyPart],
    unit: Unit,
    matches: Option<&'d LimitMatchDocument>,
    except: &'d [LimitExceptionDocument],
    mode: Mode,
    place: &'d Place,
}

impl Compiler<'_> {
    fn rules(&self, document: &LimitsDocument) -> Vec<Rule> {
        use KeyPart::{Principal, Project, Tenant, Tool};
        let of_calls: [(&str, _, &[KeyPart], Unit); 5] = [
            ("per_principal", &document.per_principal, &[Principal], Unit::Calls),
            ("per_tool", &document.per_tool, &[Principal, Tool], Unit::Calls),
            ("per_tenant", &document.per_tenant, &[Tenant], Unit::Calls),
            ("per_project", &document.per_project, &[Tenant, Project], Unit::Calls),
            ("polls", &document.polls, &[Principal], Unit::Polls),
        ];
        let of_calls = of_calls.into_iter().filter_map(|(name, limit, key, unit)| {
            let limit = &limit.as_ref()?.0;
            self.call_limit(limit, (name, key, unit))
        });
        let concurrent = document.concurrent.as_ref().and_then(|limit| self.concurrency_limit(&limit.0));
        let same = document.r#loop.as_ref().and_then(|limit| self.loop_limit(&limit.0));
        let ceiling = document.per_tool_call.map(|money| {
            let written = Written {
                name: "per_tool_call",
                key: &[],
                unit: Unit::Calls,
                matches: None,
                except: &[],
                mode: Mode::Enforce,
                place: &document.place,
            };
            self.finish(&written, (Meter::Ceiling { most_micros: money.micros }, show_money(money.micros)))
        });
        let own = document.rules.iter().filter_map(|rule| self.rule(rule));
        of_calls.chain(concurrent).chain(same).chain(ceiling).chain(own).collect()
    }

    fn call_limit(&self, limit: &CallLimit, (name, key, unit): (&str, &[KeyPart], Unit)) -> Option<Rule> {
        let CallLimit { place, rate, burst, quota, budget, time_zone, r#match, except, mode } = limit;
        let (meter, shown) = match (rate, quota, budget) {
            (Some(rate), None, None) => (self.rate(*rate, burst.map(|burst| burst.0)), show_rate(*rate)),
            (None, Some(quota), None) => self.quota(*quota, *time_zone),
            (None, None, Some(budget)) => self.budget(*budget, *time_zone),
            _ => {
                let found =
                    [("rate", rate.is_some()), ("quota", quota.is_some()), ("budget", budget.is_some())];
                return self.one_of(place, "`rate`, `quota` and `budget`", &found);
            }
        };
        self.refuse_stray(place, ("burst", burst.is_some()), ("rate", rate.is_some()));
        let is_windowed = quota.is_some() || budget.is_some();
        self.refuse_stray(place, ("time_zone", time_zone.is_some()), ("quota", is_windowed));
        let written = Written { name, key, unit, matches: r#match.as_ref(), except, mode: *mode, place };
        Some(self.finish(&written, (meter, shown)))
    }

    fn concurrency_limit(&self, limit: &ConcurrencyLimit) -> Option<Rule> {
        let ConcurrencyLimit { place, most, r#match, except, mode } = limit;
        let (name, key, unit) = ("concurrent", &[KeyPart::Principal], Unit::Calls);
        let written = Written { name, key, unit, matches: r#match.as_ref(), except, mode: *mode, place };
        Some(self.finish(&written, (Meter::Concurrency { most: most.0 }, most.0.to_string())))
    }

    fn loop_limit(&self, limit: &LoopLimit) -> Option<Rule> {
        let LoopLimit { place, rate, r#match, except, mode } = limit;
        let (name, key, unit) = ("loop", &[KeyPart::Principal, KeyPart::Tool], Unit::Calls);
        let written = Written { name, key, unit, matches: r#match.as_ref(), except, mode: *mode, place };
        Some(self.finish(&written, (Meter::Loop(gcra(*rate, rate.count)), show_rate(*rate))))
    }

    fn rule(&self, rule: &LimitRuleDocument) -> Option<Rule> {
        let LimitRuleDocument { place, rate, quota, budget, concurrent, r#loop: same, .. } = rule;
        let meters = [
            rate.map(|rate| (self.rate(rate, rule.burst.map(|burst| burst.0)), show_rate(rate))),
            quota.map(|quota| self.quota(quota, rule.time_zone)),
            budget.map(|budget| self.budget(budget, rule.time_zone)),
            concurrent.map(|most| (Meter::Concurrency { most: most.0 }, most.0.to_string())),
            same.map(|rate| (Meter::Loop(gcra(rate, rate.count)), show_rate(rate))),
        ];
        let mut written = meters.into_iter().flatten();
        let (Some(meter), None) = (written.next(), written.next()) else {
            let found = [
                ("rate", rate.is_some()),
                ("quota", quota.is_some()),
                ("budget", budget.is_some()),
                ("concurrent", concurrent.is_some()),
                ("loop", same.is_some()),
            ];
            return self.one_of(place, "`rate`, `quota`, `budget`, `concurrent` and `loop`", &found);
        };
        self.refuse_stray(place, ("burst", rule.burst.is_some()), ("rate", rate.is_some()));
        let is_windowed = quota.is_some() || budget.is_some();
        self.refuse_stray(place, ("time_zone", rule.time_zone.is_some()), ("quota", is_windowed));
        // The arguments of one tool are not those of another.
        let mut key = rule.key.clone();
        key.sort_unstable();
        key.dedup();
        if matches!(meter.0, Meter::Loop(_)) && !key.contains(&KeyPart::Tool) {
            key.push(KeyPart::Tool);
            key.sort_unstable();
        }
        self.refuse_two_lists(rule);
        let (name, matches) = (&rule.name.0.value, rule.r#match.as_ref());
        let (except, mode, unit) = (&rule.except, rule.mode, rule.unit);
        Some(self.finish(&Written { name, key: &key, unit, matches, except, mode, place }, meter))
    }

    fn finish(&self, written: &Written<'_>, (meter, shown): (Meter, String)) -> Rule {
        if let Meter::Rate(gcra) | Meter::Loop(gcra) = meter
            && gcra.time_of_burst() > LONGEST_BURST
        {
            let hint = "write a smaller `burst`, or a faster rate";
            self.findings.error(written.place, "the burst takes more than ten years to come again", hint);
        }
        let matched =
            written.matches.into_iter().chain(written.except.iter().map(|exception| &exception.r#match));
        let names_tools = matched.clone().any(|matches| !matches.tools.is_empty());
        if written.unit == Unit::Polls && (names_tools || written.key.contains(&KeyPart::Tool)) {
            let hint = "count polls by `principal`, `upstream` or `endpoint`";
            self.findings.error(written.place, "a poll is about a task and names no tool", hint);
        }
        let exceptions = written.except.iter().map(|exception| Exception {
            matches: self.matches(&exception.r#match, written.unit),
            until: exception.until.as_ref().map(|end| end.0.value),
        });
        Rule {
            name: written.name.into(),
            key: written.key.into(),
            unit: written.unit,
            matches: written.matches.map(|document| self.matches(document, written.unit)).unwrap_or_default(),
            except: exceptions.collect(),
            mode: written.mode,
            meter,
            shown: shown.into(),
            place: written
                .place
                .at
                .as_ref()
                .map(|at| format!("{}:{}", at.file.display(), at.line))
                .unwrap_or_default()
                .into(),
        }
    }

    fn rate(&self, rate: Rate, burst: Option<u64>) -> Meter {
        Meter::Rate(gcra(rate, burst.unwrap_or(rate.count)))
    }

    fn quota(&self, Quota { most, period }: Quota, zone: Option<Zone>) -> (Meter, String) {
        let Zone(zone) = zone.unwrap_or(self.zone);
        (Meter::Quota { most, period, zone }, format!("{most}/{}", period.as_str()))
    }

    fn budget(&self, Budget { most_micros, period }: Budget, zone: Option<Zone>) -> (Meter, String) {
        let Zone(zone) = zone.unwrap_or(self.zone);
        (
            Meter::Budget { most_micros, period, zone },
            format!("{}/{}", show_money(most_micros), period.as_str()),
        )
    }

    fn one_of(&self, place: &Place, what: &str, found: &[(&str, bool)]) -> Option<Rule> {
        let found: Vec<String> =
            found.iter().filter(|(_, is_written)| *is_written).map(|(key, _)| format!("`{key}`")).collect();
        let found = if found.is_empty() {
            "none is written".to_owned()
        } else {
            format!("found {}", found.join(", "))
        };
        self.findings.error(
            place,
            format!("a limit has one of {what}: {found}"),
            format!("write exactly one of {what}"),
        );
        None
    }

    fn refuse_stray(&self, place: &Place, (key, is_written): (&str, bool), (owner, has_owner): (&str, bool)) {
        if is_written && !has_owner {
            let hint = format!("write `{owner}`, or remove `{key}`");
            self.findings.error(place, format!("`{key}` belongs to `{owner}`, which is not written"), hint);
        }
    }

    /// A caller has several roles and several groups: counting each pair is seldom meant.
    fn refuse_two_lists(&self, rule: &LimitRuleDocument) {
        if rule.key.contains(&KeyPart::Role) && rule.key.contains(&KeyPart::Group) {
            let hint = "write a rule by `role` and another by `group`";
            self.findings.error(&rule.place, "`key` has both `role` and `group`", hint);
        }
    }

    /// Counts are kept by name.
    fn refuse_doubles(&self, document: &LimitsDocument, compiled: &[Rule]) {
        for (index, rule) in compiled.iter().enumerate() {
            if compiled[..index].iter().any(|other| other.name == rule.name) {
                // The keys of the section itself come first and differ, so it is one of `rules`.
                let own = document.rules.iter().rev().find(|own| *own.name.0.value == *rule.name);
                let place = own.map_or(&document.place, |own| &own.name.0.place);
                let hint = "give the rule another name: counts are kept under it";
                self.findings.error(place, format!("two limits are named `{}`", rule.name), hint);
            }
        }
    }

    fn matches(&self, document: &LimitMatchDocument, unit: Unit) -> Match {
        let globs = |patterns: &[NamePattern]| patterns.iter().map(NamePattern::glob).collect::<Vec<Glob>>();
        self.check_names(&document.upstreams, (&self.upstreams, "upstream"));
        self.check_names(&document.endpoints, (&self.endpoints, "endpoint"));
        self.check_names(&document.methods, (unit.methods(), "counted method"));
        let matches = Match {
            tools: document.tools.iter().filter_map(|pattern| self.tool(pattern)).collect(),
            upstreams: globs(&document.upstreams),
            endpoints: globs(&document.endpoints),
            methods: globs(&document.methods),
            tenants: globs(&document.tenants),
            principals: globs(&document.principals),
            agents: globs(&document.agents),
            roles: globs(&document.roles),
            groups: globs(&document.groups),
        };
        if matches.is_any() && document.tools.is_empty() {
            self.findings.error(
                &document.place,
                "no call is described",
                "write `tools: [crm.delete_*]` or another key",
            );
        }
        matches
    }

    fn tool(&self, NamePattern(pattern): &NamePattern) -> Option<ToolPattern> {
        match split_upstream(&pattern.value, &self.upstreams) {
            Ok((upstream, tool)) => {
                let name = NamePattern(crate::diagnostic::Located {
                    value: upstream.to_owned(),
                    place: pattern.place.clone(),
                });
                self.check_names(std::slice::from_ref(&name), (&self.upstreams, "upstream"));
                Some(ToolPattern { upstream: name.glob(), tool: Glob::new(tool) })
            }
            Err(problem) => {
                let hint =
                    "write `UPSTREAM.NAME`, with `*` for any run of characters: `crm.delete_*`, `*.delete_*`";
                self.findings.error(&pattern.place, format!("`{}`: {problem}", pattern.value), hint);
                None
            }
        }
    }

    /// A name that nothing has is a mistake: the rule would never bind.
    fn check_names(&self, patterns: &[NamePattern], (known, what): (&[&str], &str)) {
        for pattern in patterns {
            let glob = pattern.glob();
            if known.is_empty() || known.iter().any(|name| glob.matches(name)) {
                continue;
            }
            let hint = suggestion(&pattern.0.value, known, &format!("known {what}s:"));
            match glob.is_literal() {
                true => self.findings.error(&pattern.0.place, format!("no {what} is named `{glob}`"), hint),
                false => self.findings.warn(&pattern.0.place, format!("`{glob}` matches no {what}"), hint),
            }
        }
    }
}

fn gcra(rate: Rate, burst: u64) -> Gcra {
    Gcra::new(rate.count, rate.per, burst)
}

/// One caller can use up what several share, and the others learn it from their refusals.
fn warn_of_shared_counts(document: &LimitsDocument, rules: &[Rule], findings: &Findings) {
    let is_bounded = rules.iter().any(Rule::binds_every_caller);
    let is_shared = |rule: &&Rule| {
        rule.mode == Mode::Enforce
            && !rule.key.contains(&KeyPart::Principal)
            && !matches!(rule.meter, Meter::Ceiling { .. })
            // A rule for each caller bounds calls, and no polls.
            && (!is_bounded || rule.unit == Unit::Polls)
    };
    for rule in rules.iter().filter(is_shared) {
        let problem = format!("one caller can use up what all share under `{}`", rule.name);
        let hint = "add `per_principal` with a rate or quota, which bounds each of them, or `principal` to its `key`";
        findings.warn(place_of(document, &rule.name), problem, hint);
    }
}

/// A rule beside which a tighter one counts the same calls is never the one that refuses.
fn warn_of_rules_that_never_bind(document: &LimitsDocument, rules: &[Rule], findings: &Findings) {
    for (index, rule) in rules.iter().enumerate() {
        let is_tighter = |(at, other): &(usize, &Rule)| {
            // Of two that are equal the later one is told of.
            let is_equal = other.meter == rule.meter;
            *at != index
                && (!is_equal || *at < index)
                && other.mode == Mode::Enforce
                && (&other.key, other.unit, &other.matches, &other.except)
                    == (&rule.key, rule.unit, &rule.matches, &rule.except)
                && rule.meter.never_binds_beside(other.meter)
        };
        if let Some((_, other)) = rules.iter().enumerate().find(is_tighter) {
            let problem = format!(
                "`{}` never refuses a call: `{}` refuses the same ones before",
                rule.name, other.name
            );
            findings.warn(place_of(document, &rule.name), problem, "remove one of them");
        }
    }
}

/// Without a price nothing is ever counted by a budget.
fn warn_of_money_without_prices(rules: &RulesDocument, compiled: &[Rule], findings: &Findings) {
    let has_price = |line: &ToolLine| line.facts.iter().any(|fact| matches!(fact, Fact::CostMicros(_)));
    let counts_money = |rule: &&Rule| matches!(rule.meter, Meter::Budget { .. } | Meter::Ceiling { .. });
    let is_priced = rules.policy.is_some() || rules.tools.iter().any(has_price);
    if let (Some(rule), Some(document), false) =
        (compiled.iter().find(counts_money), &rules.limits, is_priced)
    {
        let problem = format!("`{}` counts money, and no call costs any", rule.name);
        let hint = "give tools a price, `tools: {crm.*: {cost: 0.05}}`, or have the policy say `cost`";
        findings.warn(place_of(document, &rule.name), problem, hint);
    }
}

fn place_of<'d>(document: &'d LimitsDocument, name: &str) -> &'d Place {
    let own = document.rules.iter().find(|rule| rule.name.0.value == name);
    own.map_or(&document.place, |rule| &rule.place)
}

#[cfg(test)]
mod tests;
