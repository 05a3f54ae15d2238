//! Facts of tools and the controls that follow from them: patterns that concern some upstream, lines
//! that do not contradict each other, controls that some code enforces.

use portunus_filters::glob::Glob;
use portunus_filters::limits::Rule;
use portunus_filters::{Control, Controls};

use crate::diagnostic::{Findings, Located};
use crate::document::{RulesDocument, ToolLine};
use crate::limit_rules::LimitRules;
use crate::reader::suggestion;
use crate::tools::{Line, ToolRules, conflicts};
use crate::view::{Pattern, split_upstream};

/// What is known of tools; what is wrong with it is reported.
pub(super) fn compile(rules: &RulesDocument, findings: &Findings) -> ToolRules {
    let known: Vec<&str> = rules.upstreams.iter().map(|upstream| upstream.name.value.as_str()).collect();
    let mut places = Vec::new();
    let mut lines = Vec::new();
    for ToolLine { pattern, facts } in &rules.tools {
        let Some(parsed) = parse(pattern, &known, findings) else { continue };
        check_upstream(pattern, &parsed, &known, findings);
        places.push(pattern);
        lines.push(Line { pattern: parsed, facts: facts.clone() });
    }
    for conflict in conflicts(&lines) {
        let [first, second] = conflict.lines.map(|index| places[index]);
        let problem = format!("`{}` says otherwise of `{}` for some names", first.value, conflict.fact);
        findings.error(&second.place, problem, conflict.to_string());
    }
    ToolRules::new(lines)
}

fn parse(pattern: &Located<String>, known: &[&str], findings: &Findings) -> Option<Pattern> {
    match split_upstream(&pattern.value, known) {
        Ok((upstream, original)) => {
            Some(Pattern { member: Glob::new(upstream), original: Glob::new(original) })
        }
        Err(problem) => {
            let hint =
                "write `UPSTREAM.NAME`, with `*` for any run of characters: `crm.delete_*`, `*.delete_*`";
            findings.error(&pattern.place, format!("`{}`: {problem}", pattern.value), hint);
            None
        }
    }
}

/// A misspelt upstream leaves its tools unrated: an error. A pattern may wait for an upstream.
fn check_upstream(pattern: &Located<String>, parsed: &Pattern, known: &[&str], findings: &Findings) {
    let of = &parsed.member;
    if known.is_empty() || known.iter().any(|name| of.matches(name)) {
        return;
    }
    let hint = suggestion(&of.to_string(), known, "known upstreams:");
    match of.is_literal() {
        true => findings.error(&pattern.place, format!("no upstream is named `{of}`"), hint),
        false => findings.warn(&pattern.place, format!("`{of}` matches no upstream"), hint),
    }
}

/// The profile in force; what it asks for and cannot be had is reported.
pub(super) fn controls(
    rules: &RulesDocument,
    limits: Option<&LimitRules>,
    findings: &Findings,
) -> Option<Controls> {
    let document = rules.controls.as_ref()?;
    let Controls { profile, without } = &document.controls;
    let mut missing = document.controls.unenforced();
    if limits.is_some_and(|limits| limits.rules.iter().any(Rule::binds_every_caller)) {
        missing.retain(|control| *control != Control::RateLimit.as_str());
    }
    if !missing.is_empty() {
        let problem = format!("this build cannot enforce {} of `controls`", quoted(&missing));
        let all: Vec<&str> = without.iter().map(|control| control.as_str()).chain(missing).collect();
        let hint = format!(
            "say in writing that tools are used without: `controls: {{profile: {}, without: [{}]}}`",
            profile.as_str(),
            all.join(", ")
        );
        findings.error(&document.place, problem, hint);
    }
    let needed = [("identity", rules.identity.is_some()), ("policy", rules.policy.is_some())];
    for (section, _) in needed.iter().filter(|(_, written)| !written) {
        let problem = format!("`controls` asks for `{section}`, which is not written");
        findings.error(&document.place, problem, format!("write `{section}`, or remove `controls`"));
    }
    if !without.contains(&Control::Approval) {
        let problem =
            "calls of tools with high risk wait for approvals, and nobody can approve in this build";
        let hint = "they are refused; to allow them without: `without: [approval]`";
        findings.warn(&document.place, problem, hint);
    }
    Some(document.controls.clone())
}

fn quoted(names: &[&str]) -> String {
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use portunus_filters::{Class, Risk, ToolFacts};

    use crate::testing::{loaded, problems};

    fn text(rules: &str) -> String {
        format!(
            "version: 1\nupstreams: {{crm: 'http://localhost:1/', crm.v2: 'http://localhost:2/'}}\n\
             servers: {{/mcp: {{upstreams: [crm, {{name: two, upstream: crm.v2}}]}}}}\n{rules}\n"
        )
    }

    fn facts(rules: &str, upstream: &str, tool: &str) -> ToolFacts {
        loaded(&text(rules)).snapshot.tools.facts(upstream, tool)
    }

    #[test]
    fn every_fact_is_read() {
        let facts = facts(
            "tools: {'crm.delete_*': {risk: critical, class: restricted, labels: [pii, external, pii],\n  \
             scopes: crm.write, cost: 0.05, timeout: 10s, owner: crm-team, not_after: 2026-12-31,\n  \
             read_only: false, idempotent: true, max_auth_age: 30d}}",
            "crm",
            "delete_one",
        );
        let words = |words: &[&str]| words.iter().map(|word| (*word).into()).collect();
        let expected = ToolFacts {
            risk: Risk::Critical,
            class: Class::Restricted,
            labels: words(&["external", "pii"]),
            scopes: words(&["crm.write"]),
            cost_micros: Some(50_000),
            timeout: Some(Duration::from_secs(10)),
            owner: Some("crm-team".into()),
            not_after: Some(Duration::from_secs(1_798_761_600)),
            read_only: Some(false),
            idempotent: Some(true),
            max_auth_age: Some(Duration::from_secs(30 * 86_400)),
        };
        assert_eq!(facts, expected);
        assert!(loaded(&text("")).snapshot.tools.is_empty());
    }

    #[test]
    fn a_pattern_begins_with_the_whole_name_of_an_upstream() {
        let rules = "tools: {crm.v2.find: {risk: low}, 'crm.*': {risk: high}}";
        assert_eq!(facts(rules, "crm.v2", "find").risk, Risk::Low);
        assert_eq!(facts(rules, "crm", "v2.find").risk, Risk::High);
    }

    #[test]
    fn wrong_facts_are_named() {
        let table = [
            ("tools: {}", "tools: no tool is named"),
            ("tools: {crm.a: {}}", "tools.crm.a: nothing is said of these tools"),
            ("tools: {crm.a: high}", "tools.crm.a: text where a mapping should be"),
            ("tools: {find: {risk: low}}", "tools.find: `find`: does not say whose it is"),
            ("tools: {cmr.a: {risk: low}}", "tools.cmr.a: no upstream is named `cmr`"),
            ("tools: {crm.a: {risk: medum}}", "tools.crm.a.risk: `medum` is not known here"),
            ("tools: {crm.a: {class: secret}}", "tools.crm.a.class: `secret` is not known here"),
            ("tools: {crm.a: {cost: -1}}", "tools.crm.a.cost: `-1` is out of range"),
            ("tools: {crm.a: {cost: '1'}}", "tools.crm.a.cost: text where a number such as `0.05` should be"),
            ("tools: {crm.a: {scopes: 'a b'}}", "tools.crm.a.scopes: `a b`: is no OAuth scope"),
            (
                "tools: {crm.a: {not_after: soon}}",
                "tools.crm.a.not_after: `soon`: is no time: write `2026-12-31`, or `2026-12-31T08:00:00Z`",
            ),
            (
                "tools: {'crm.*': {risk: low}, '*.delete_*': {risk: high}}",
                "tools.*.delete_*: `crm.*` says otherwise of `risk` for some names",
            ),
        ];
        for (rules, problem) in table {
            assert!(
                problems(&text(rules)).contains(&problem.to_owned()),
                "{rules}: {:?}",
                problems(&text(rules))
            );
        }
    }

    #[test]
    fn a_pattern_that_matches_no_upstream_is_a_warning() {
        let warned = |rules: &str| {
            let warnings = loaded(&text(rules)).warnings;
            warnings.into_iter().any(|found| found.problem.contains("matches no upstream"))
        };
        assert!(warned("tools: {'wiki*.a': {risk: low}}"));
        assert!(!warned("tools: {'crm*.a': {risk: low}}"));
    }

    #[test]
    fn controls_that_no_code_enforces_are_left_out_in_writing() {
        let missing = "controls: this build cannot enforce `audit`, `schema`, `rate_limit`, `dlp`, \
                       `sealed_capture`, `strict_audit` of `controls`";
        let needs =
            |section: &str| format!("controls: `controls` asks for `{section}`, which is not written");
        assert_eq!(
            problems(&text("controls: strict")),
            [missing.to_owned(), needs("identity"), needs("policy")]
        );
        let without = "controls: {profile: balanced, without: [audit, schema, rate_limit, dlp, sealed_capture, \
                       strict_audit]}";
        assert_eq!(problems(&text(without)), [needs("identity"), needs("policy")]);
        let limited = |limits: &str| {
            let found = problems(&text(&format!("controls: strict\nlimits: {limits}")));
            !found.iter().any(|problem| problem.contains("`rate_limit`"))
        };
        assert!(limited("{per_principal: 10/s}") && limited("{per_tool: {quota: 5/day}}"));
        let loose = [
            "{concurrent: 5}",
            "{per_tenant: 10/s}",
            "{polls: 10/s}",
            "{per_principal: {rate: 10/s, mode: observe}}",
            "{per_principal: {rate: 10/s, match: {roles: reader}}}",
            "{per_principal: {rate: 10/s, except: {match: {roles: admin}}}}",
        ];
        for limits in loose {
            assert!(!limited(limits), "{limits}");
        }
        let unknown = problems(&text("controls: {profile: balanced, without: [policy]}"));
        assert!(
            unknown.contains(&"controls.without[0]: `policy` is not known here".to_owned()),
            "{unknown:?}"
        );
    }
}
