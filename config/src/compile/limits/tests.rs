//! Limits as documents say them.

use crate::document::limits_reference;
use crate::testing::{loaded, problems};
use portunus_filters::limits::{Gcra, KeyPart, Meter, Mode, Period, Rule, Unit};
use std::time::Duration;

fn text(limits: &str) -> String {
    format!(
        "version: 1\nupstreams: {{crm: 'http://localhost:1/', erp: 'http://localhost:2/'}}\n\
         servers: {{/mcp: {{upstreams: [crm, erp]}}}}\nlimits:\n{limits}\n"
    )
}

fn rules(limits: &str) -> Vec<Rule> {
    loaded(&text(limits)).snapshot.limits.unwrap().rules.clone()
}

fn warnings(limits: &str) -> Vec<String> {
    loaded(&text(limits)).warnings.into_iter().map(|found| found.problem).collect()
}

#[test]
fn short_forms_are_rules() {
    let found = rules(
        "  per_principal: 1000/hour\n  per_tool: 10/s\n  per_tenant: 5/m\n  per_project: 1/15m\n  \
         concurrent: 7\n  loop: 5/m\n  polls: 60/m",
    );
    let rate = |count, seconds| Meter::Rate(Gcra::new(count, Duration::from_secs(seconds), count));
    let expected = [
        ("per_principal", vec![KeyPart::Principal], rate(1000, 3600), Unit::Calls),
        ("per_tool", vec![KeyPart::Principal, KeyPart::Tool], rate(10, 1), Unit::Calls),
        ("per_tenant", vec![KeyPart::Tenant], rate(5, 60), Unit::Calls),
        ("per_project", vec![KeyPart::Tenant, KeyPart::Project], rate(1, 900), Unit::Calls),
        ("polls", vec![KeyPart::Principal], rate(60, 60), Unit::Polls),
        ("concurrent", vec![KeyPart::Principal], Meter::Concurrency { most: 7 }, Unit::Calls),
        (
            "loop",
            vec![KeyPart::Principal, KeyPart::Tool],
            Meter::Loop(Gcra::new(5, Duration::from_secs(60), 5)),
            Unit::Calls,
        ),
    ];
    let found: Vec<_> =
        found.iter().map(|rule| (&*rule.name, rule.key.to_vec(), rule.meter, rule.unit)).collect();
    assert_eq!(found, expected);
}

#[test]
fn long_forms_say_everything() {
    let found = rules(
        "  time_zone: Europe/Berlin\n  per_principal: {quota: 5000/month, mode: observe}\n  rules:\n  \
         - {name: writes, key: [principal, upstream], rate: 10/m, burst: 3,\n     \
         match: {tools: ['crm.set_*', '*.delete']}, except: {match: {roles: admin}, until: 2026-12-31}}\n  \
         - {name: days, key: tenant, quota: 7/day, time_zone: Asia/Kolkata}\n  \
         - {name: polled, loop: 2/m, key: principal}\n  - {name: open, key: principal, concurrent: 3}",
    );
    let quota = |most, period, zone| Meter::Quota { most, period, zone };
    assert_eq!(found[0].meter, quota(5000, Period::Month, chrono_tz::Europe::Berlin));
    assert_eq!((found[0].mode, found[1].mode), (Mode::Observe, Mode::Enforce));
    let writes = &found[1];
    assert_eq!(writes.meter, Meter::Rate(Gcra::new(10, Duration::from_secs(60), 3)));
    let tools: Vec<String> = writes.matches.tools.iter().map(ToString::to_string).collect();
    assert_eq!(tools, ["crm.set_*", "*.delete"]);
    assert_eq!(writes.except[0].until, Some(Duration::from_secs(1_798_761_600)));
    assert_eq!((&*writes.shown, &*writes.place), ("10/minute", "gateway.yaml:8"));
    assert_eq!(found[2].meter, quota(7, Period::Day, chrono_tz::Asia::Kolkata));
    assert_eq!(*found[3].key, [KeyPart::Principal, KeyPart::Tool], "arguments are those of a tool");
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table of named cases")]
fn mistakes_are_named() {
    let table = [
        ("  {}", "limits: no limit is named"),
        ("  per_principal: 1000", "limits.per_principal: a rate without its time"),
        (
            "  per_principal: 0/s",
            "limits.per_principal: `0/s`: a rate of nothing: write at least 1, or remove the key",
        ),
        ("  per_prinicpal: 1/s", "limits.per_prinicpal: unknown key `per_prinicpal`"),
        (
            "  per_tool: {mode: observe}",
            "limits.per_tool: a limit has one of `rate`, `quota` and `budget`: none is written",
        ),
        (
            "  per_tool: {rate: 1/s, quota: 1/day}",
            "limits.per_tool: a limit has one of `rate`, `quota` and `budget`: found `rate`, `quota`",
        ),
        (
            "  per_tool: {quota: 1/day, burst: 3}",
            "limits.per_tool: `burst` belongs to `rate`, which is not written",
        ),
        (
            "  per_tool: {rate: 1/s, time_zone: UTC}",
            "limits.per_tool: `time_zone` belongs to `quota`, which is not written",
        ),
        ("  concurrent: 0", "limits.concurrent: `0` is out of range"),
        (
            "  per_tool: {quota: 1/week}",
            "limits.per_tool.quota: `1/week`: a quota is a whole number per hour, day or month, such as `5000/month`",
        ),
        ("  time_zone: Mars\n  loop: 1/s", "limits.time_zone: `Mars`: is not a time zone"),
        ("  rules: [{rate: 1/s}]", "limits.rules[0]: `name` is missing"),
        (
            "  rules: [{name: a, rate: 1/s, quota: 1/day}]",
            "limits.rules[0]: a limit has one of `rate`, `quota`, `budget`, `concurrent` and `loop`: found `rate`, `quota`",
        ),
        ("  rules: [{name: a, key: who, rate: 1/s}]", "limits.rules[0].key: `who` is not known here"),
        (
            "  rules: [{name: a, key: [role, group], rate: 1/s}]",
            "limits.rules[0]: `key` has both `role` and `group`",
        ),
        (
            "  loop: 5/m\n  rules: [{name: loop, rate: 1/s}]",
            "limits.rules[0].name: two limits are named `loop`",
        ),
        (
            "  rules: [{name: a, rate: 1/s}, {name: a, rate: 2/s}]",
            "limits.rules[1].name: two limits are named `a`",
        ),
        ("  per_tool: {rate: 1/s, match: {}}", "limits.per_tool.match: no call is described"),
        (
            "  per_tool: {rate: 1/s, match: {tools: find}}",
            "limits.per_tool.match.tools: `find`: does not say whose it is",
        ),
        (
            "  per_tool: {rate: 1/s, match: {tools: cmr.find}}",
            "limits.per_tool.match.tools: no upstream is named `cmr`",
        ),
        (
            "  per_tool: {rate: 1/s, match: {upstreams: cmr}}",
            "limits.per_tool.match.upstreams: no upstream is named `cmr`",
        ),
        (
            "  per_tool: {rate: 1/s, match: {endpoints: mpc}}",
            "limits.per_tool.match.endpoints: no endpoint is named `mpc`",
        ),
        (
            "  per_tool: {rate: 1/s, match: {methods: tool/call}}",
            "limits.per_tool.match.methods: no counted method is named `tool/call`",
        ),
        (
            "  rules: [{name: a, unit: polls, key: tool, rate: 1/s}]",
            "limits.rules[0]: a poll is about a task and names no tool",
        ),
        (
            "  polls: {rate: 1/s, match: {tools: crm.find}}",
            "limits.polls: a poll is about a task and names no tool",
        ),
        (
            "  per_tool: {rate: 1/s, except: {until: 2026-12-31}}",
            "limits.per_tool.except: `match` is missing",
        ),
    ];
    for (limits, problem) in table {
        let found = problems(&text(limits));
        assert!(found.contains(&problem.to_owned()), "{limits}: {found:?}");
    }
}

#[test]
fn rules_that_one_caller_uses_up_for_all_and_rules_that_never_bind_are_told() {
    let shared = "one caller can use up what all share under `all`".to_owned();
    let all = "  rules: [{name: all, key: tool, rate: 10/s}]";
    assert_eq!(warnings(all).iter().filter(|problem| **problem == shared).count(), 1);
    assert!(!warnings(&format!("  per_principal: 1/s\n{all}")).contains(&shared), "each of them is bounded");
    let loose = [
        "per_principal: {rate: 1/s, mode: observe}",
        "concurrent: 5",
        "loop: 5/m",
        "per_principal: {rate: 1/s, except: {match: {roles: admin}}}",
        "rules: [{name: by_role, key: [principal, role], rate: 1/s}]",
        "rules: [{name: by_source, key: [source], rate: 1/s}]",
    ];
    for limits in loose {
        let shared = if limits.starts_with("rules") { "per_tenant: 5/s" } else { &all[2..] };
        let found = warnings(&format!("  {limits}\n  {shared}"));
        assert!(
            found.iter().any(|problem| problem.starts_with("one caller can use up")),
            "{limits}: {found:?}"
        );
    }
    let observed = warnings("  rules: [{name: all, key: tool, rate: 10/s, mode: observe}]");
    assert!(!observed.contains(&shared), "it refuses nobody");
    let twice = warnings("  per_principal: 10/s\n  rules: [{name: same, key: principal, rate: 10/s}]");
    assert_eq!(twice.iter().filter(|problem| problem.contains("never refuses")).count(), 1, "{twice:?}");
    let loose = "  per_principal: 10/s\n  rules: [{name: wide, key: principal, rate: 20/s}]";
    let never = "`wide` never refuses a call: `per_principal` refuses the same ones before".to_owned();
    assert!(warnings(loose).contains(&never), "{:?}", warnings(loose));
    let tight = "  per_principal: 10/s\n  rules: [{name: wide, key: principal, rate: 20/s, burst: 5}]";
    assert!(!warnings(tight).contains(&never), "its burst binds");
}

#[test]
fn printed_limits_read_back_as_they_were() {
    let written = text(
        "  per_principal: {rate: 10/m, burst: 3, match: {tools: 'crm.*'}, except: [{match: {roles: [a, b]}, until: 2026-12-31}]}\n  \
         concurrent: 4\n  loop: 5/m\n  rules: [{name: a, key: tenant, quota: 7/day, time_zone: Asia/Kolkata, mode: observe}]",
    );
    let before = loaded(&written);
    let printed = crate::effective(&before.bootstrap, &before.snapshot)["limits"].clone();
    let again = loaded(&text(&format!("  {printed}")));
    let without_places = |rules: &[Rule]| -> Vec<Rule> {
        rules.iter().map(|rule| Rule { place: "".into(), ..rule.clone() }).collect()
    };
    let [before, again] = [&before, &again].map(|loaded| loaded.snapshot.limits.clone().unwrap());
    assert_eq!(without_places(&before.rules), without_places(&again.rules));
    assert_eq!(before.max_keys, again.max_keys);
}

#[test]
fn reference_of_limits_follows_from_their_keys() {
    let page = include_str!("../../../../docs/configuration.md");
    let (begin, end) = ("<!-- keys of limits -->\n", "<!-- end of keys of limits -->");
    let written = page.split_once(begin).and_then(|(_, rest)| rest.split_once(end)).map(|(table, _)| table);
    let expected = limits_reference();
    assert!(written == Some(&expected), "docs/configuration.md: write between the two marks\n{expected}");
}
