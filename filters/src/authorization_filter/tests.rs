//! The authorization filter as a whole: what is asked, what stands in the way, and what is seen.

mod guards;

use super::*;
use crate::authorize::tests::kit::lenient_settings;
use crate::authorize::{Document, Module};
use crate::call::{Subject, Target};
use crate::controls::Profile;
use crate::facts::Risk;
use crate::identity::{AuthMethod, names};
use crate::mcp::headers::Mirror;
use crate::mcp::{Bounds, Revision};
use crate::message::{Message, Reading, read};
use crate::pipeline::Pipeline;
use bytes::Bytes;
use portunus_base::Moment;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

const NOW: Duration = Duration::from_secs(1_000_000);

fn rules(rego: &str, data: &str, lists: Lists) -> Rules {
    let module =
        Module { path: "p.rego".to_owned(), text: format!("package mcp.authz\nimport rego.v1\n{rego}") };
    let data = Document { path: "data".to_owned(), mount: String::new(), text: data.to_owned() };
    let policy = Policy::compile(&[module], &[data], &lenient_settings()).unwrap();
    let decisions = Arc::new(DecisionCache::new(100_000, 64 << 20));
    Rules { policy: Arc::new(policy), decisions, budgets: Arc::default(), lists, reasons_to_client: true }
}

fn filter(rego: &str, lists: Lists) -> AuthorizationFilter {
    AuthorizationFilter::new(Some(rules(rego, "{}", lists)), None, false)
}

fn arrival(principal: Option<Principal>) -> Arrival {
    let source = IpAddr::V4(Ipv4Addr::new(10, 1, 2, 3));
    Arrival {
        listener: "main".into(),
        source,
        identity: principal
            .map_or(Identity::Anonymous { source }, |principal| Identity::Principal(Arc::new(principal))),
        request_id: "r".into(),
        at: Moment { monotonic: Duration::ZERO, wall: NOW },
    }
}

fn person(roles: &[&str]) -> Principal {
    let known = Principal {
        roles: names(roles.iter().copied()),
        auth: AuthMethod::Jwt,
        ..Principal::named("t", "s")
    };
    known.with_digest()
}

fn message(method: &str, params: &str) -> Message {
    let body = Bytes::from(format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{method}","params":{params}}}"#));
    match read(&body, &Bounds::default(), &Mirror::default(), &Revision::ALL).unwrap() {
        Reading::One(message) => message,
        Reading::Batch(_) => panic!("a batch"),
    }
}

fn tool(original: &str, facts: ToolFacts) -> Subject {
    let facts = Arc::new(facts);
    Subject::Tool(Arc::new(KnownTool { original: original.into(), facts, claimed: None, task: None }))
}

fn a_tool() -> Option<Subject> {
    Some(tool("a", ToolFacts::default()))
}

fn judge(
    filter: AuthorizationFilter,
    arrival: &Arrival,
    message: &Message,
    subject: Option<Subject>,
) -> Result<Bytes, Denial> {
    let target = Target { subject, ..Target::new(&"s".into(), &"up".into()) };
    let pipeline = Pipeline::new(vec![Box::new(filter)]);
    let decision_record = pipeline.judge(arrival, std::slice::from_ref(message), &target, |_| {});
    decision_record.map(crate::pipeline::Cleared::into_body)
}

#[test]
fn a_message_is_asked_about_by_what_its_upstream_calls_it() {
    let prompt = || Some(Subject::Prompt("a".into()));
    let resource = || Some(Subject::Resource("u:a".into()));
    let template = || Some(Subject::Template("u:{a}".into()));
    let table = [
        (
            "tools/call",
            r#"{"name":"served","arguments":{"x":1}}"#,
            a_tool(),
            r#"input.mcp.kind == "tool"; input.mcp.name == "a"; input.mcp.arguments.x == 1"#,
        ),
        ("tools/call", r#"{"name":"a"}"#, a_tool(), r#"input.tool.original == "a"; not input.mcp.uri"#),
        (
            "prompts/get",
            r#"{"name":"served"}"#,
            prompt(),
            r#"input.mcp.kind == "prompt"; input.mcp.name == "a""#,
        ),
        (
            "resources/read",
            r#"{"uri":"portunus:up/u:a"}"#,
            resource(),
            r#"input.mcp.kind == "resource"; input.mcp.uri == "u:a"; not input.mcp.name"#,
        ),
        (
            "resources/subscribe",
            r#"{"uri":"u:a"}"#,
            resource(),
            r#"input.mcp.kind == "resource"; input.mcp.uri == "u:a""#,
        ),
        ("resources/unsubscribe", "{}", resource(), r#"input.mcp.uri == "u:a""#),
        (
            "completion/complete",
            r#"{"ref":{"type":"ref/prompt","name":"served"},"argument":{"name":"q"}}"#,
            prompt(),
            r#"input.mcp.kind == "prompt"; input.mcp.name == "a"; input.mcp.arguments.name == "q""#,
        ),
        (
            "completion/complete",
            r#"{"ref":{"type":"ref/resource","uri":"u:{a}"}}"#,
            template(),
            r#"input.mcp.kind == "template"; input.mcp.uri == "u:{a}""#,
        ),
        ("completion/complete", "{}", resource(), r#"input.mcp.kind == "resource"; input.mcp.uri == "u:a""#),
    ];
    for (method, params, subject, asked) in table {
        let rego = format!("decision if {{ {asked} }}");
        let result = judge(filter(&rego, Lists::Show), &arrival(None), &message(method, params), subject);
        assert!(result.is_ok(), "{method} {params}: {result:?}");
    }
}

#[test]
fn a_message_that_names_nothing_is_asked_about_by_its_method() {
    let table = [
        ("subscriptions/listen", r#"{}"#, None, r#"input.mcp.kind == "stream""#),
        ("acme/report", "{}", None, r#"input.mcp.kind == "other"; input.mcp.method == "acme/report""#),
        ("tools/list", "{}", None, r#"input.mcp.kind == "server"; input.mcp.method == "tools/list""#),
        (
            "tools/call",
            r#"{"name":"a","_meta":{"io.portunus\u002fjustification":"why"}}"#,
            a_tool(),
            r#"input.context.justification == "why"; input.context.listener == "main""#,
        ),
        (
            "ping",
            "{}",
            None,
            r#"input.mcp.upstream == "up"; input.mcp.server == "s"; input.context.source_ip == "10.1.2.3""#,
        ),
    ];
    for (method, params, subject, asked) in table {
        let rego = format!("decision if {{ {asked} }}");
        let result = judge(filter(&rego, Lists::Show), &arrival(None), &message(method, params), subject);
        assert!(result.is_ok(), "{method} {params}: {result:?}");
    }
}

#[test]
fn what_is_aimed_at_something_unknown_is_not_judged_by_the_words_of_its_client() {
    let methods = [
        "tools/call",
        "prompts/get",
        "resources/read",
        "resources/subscribe",
        "resources/unsubscribe",
        "completion/complete",
    ];
    for method in methods {
        let asked = message(method, r#"{"name":"a","uri":"u:a","ref":{"type":"ref/prompt","name":"a"}}"#);
        let result = judge(filter("decision := true", Lists::Show), &arrival(None), &asked, None);
        assert_eq!(result.map_err(|denial| denial.reason), Err(Reason::PolicyError), "{method}");
        let open = AuthorizationFilter::new(None, None, true);
        assert!(judge(open, &arrival(None), &asked, None).is_ok(), "{method}");
    }
}

#[test]
fn what_stands_in_the_way_is_told_in_order() {
    let scopes = ToolFacts { scopes: names(["a"]), ..ToolFacts::default() };
    let withdrawn = ToolFacts { not_after: Some(NOW), ..scopes.clone() };
    let recent = ToolFacts { max_auth_age: Some(Duration::from_secs(60)), ..ToolFacts::default() };
    let rated = |risk| ToolFacts { risk, ..ToolFacts::default() };
    let controls = || Some(Controls { profile: Profile::Strict, without: Vec::new() });
    let strong = Principal { mfa: true, auth_time: Some(NOW.as_secs() - 30), ..person(&[]) };
    let stranger = Principal { auth: AuthMethod::Anonymous, ..Principal::named("", "") };
    let table = [
        ("nothing", None, ToolFacts::default(), person(&[]), None),
        ("scopes", None, scopes, person(&[]), Some(Reason::InsufficientScope)),
        ("withdrawn", None, withdrawn, person(&[]), Some(Reason::Forbidden)),
        ("too long ago", None, recent.clone(), person(&[]), Some(Reason::StepUpRequired)),
        ("recent", None, recent, strong.clone(), None),
        ("a stranger", controls(), rated(Risk::Low), stranger, Some(Reason::Unauthenticated)),
        ("low", controls(), rated(Risk::Low), person(&[]), None),
        ("one factor", controls(), rated(Risk::High), person(&[]), Some(Reason::StepUpRequired)),
        ("two factors", controls(), rated(Risk::High), strong.clone(), Some(Reason::ApprovalRequired)),
        ("no reason", controls(), rated(Risk::Critical), strong, Some(Reason::Forbidden)),
    ];
    for (name, controls, facts, caller, expected) in table {
        let filter =
            AuthorizationFilter::new(Some(rules("decision := true", "{}", Lists::Show)), controls, true);
        let call = message("tools/call", r#"{"name":"a"}"#);
        let result = judge(filter, &arrival(Some(caller)), &call, Some(tool("a", facts)));
        assert_eq!(result.err().map(|denial| denial.reason), expected, "{name}");
    }
    let filter = AuthorizationFilter::new(None, controls(), false);
    let result = judge(
        filter,
        &arrival(Some(person(&[]))),
        &message("tools/call", "{}"),
        Some(tool("a", rated(Risk::Low))),
    );
    assert_eq!(result.unwrap_err().reason, Reason::Forbidden, "controls ask for a policy");
}

#[test]
fn refusals_carry_what_decided_them_and_no_payload() {
    let rego = "default decision := {\"allow\": false, \"reason\": \"no\"}";
    let call = message("tools/call", r#"{"name":"a","arguments":{"x":"s3cret"}}"#);
    let denial = judge(filter(rego, Lists::Show), &arrival(None), &call, a_tool()).unwrap_err();
    assert_eq!((denial.reason, &*denial.detail), (Reason::Forbidden, "no"));
    let decision_record = DecisionRecord::of_refusal(&denial).unwrap();
    assert_eq!(
        (decision_record.rule(), decision_record.reason().map(|reason| &**reason)),
        (Some("decision"), Some("no"))
    );
    let question = decision_record.question.take().unwrap();
    assert!(
        question.contains("s3cret") && decision_record.question.take().is_none(),
        "payload is taken once"
    );
}

#[test]
fn lists_show_what_calls_may_do() {
    const TOOLS: usize = 60;
    const ROLES: usize = 15;
    let may = |role: usize, tool: usize| (role * 3 + tool * 7).is_multiple_of(5);
    let of_role = |role: usize| {
        let tools: Vec<String> =
            (0..TOOLS).filter(|tool| may(role, *tool)).map(|tool| format!("\"t{tool}\":true")).collect();
        format!("\"r{role}\":{{{}}}", tools.join(","))
    };
    let data = format!("{{\"may\":{{{}}}}}", (0..ROLES).map(of_role).collect::<Vec<_>>().join(","));
    let rego = "default decision := false\ndecision if {\n\tsome role in input.principal.roles\n\tdata.may[role][input.tool.original]\n}";
    let filter = Arc::new(AuthorizationFilter::new(Some(rules(rego, &data, Lists::Decision)), None, false));
    let pipeline = Pipeline::new(vec![Box::new(Arc::clone(&filter))]);
    for role in 0..ROLES {
        let arrival = arrival(Some(person(&[&format!("r{role}")])));
        for number in 0..TOOLS {
            let name = format!("t{number}");
            let known = tool(&name, ToolFacts::default());
            let target = Target { subject: Some(known.clone()), ..Target::new(&"s".into(), &"up".into()) };
            let viewer = Viewer { arrival: &arrival, target: &target, era: "legacy" };
            let item = Item { list_item: ListItem::Offered(&known), upstream: "up" };
            let seen = filter.visibility(&viewer, &item).is_shown();
            let call = message("tools/call", &format!(r#"{{"name":"{name}"}}"#));
            let allowed = pipeline.judge(&arrival, std::slice::from_ref(&call), &target, |_| {}).is_ok();
            assert_eq!((seen, allowed), (may(role, number), may(role, number)), "{role} {number}");
        }
    }
}

#[test]
fn a_server_is_seen_by_whom_the_policy_lets_greet_it() {
    let rego = "default decision := false\ndecision if {\n\tinput.mcp.kind == \"server\"\n\t\
        [input.mcp.era, input.mcp.method] in [[\"legacy\", \"initialize\"], [\"modern\", \"server/discover\"]]\n\t\
        input.mcp.upstream in input.principal.roles\n}";
    let target = Target::new(&"s".into(), &"".into());
    let arrival = arrival(Some(person(&["crm"])));
    for lists in [Lists::Visible, Lists::Decision, Lists::Show, Lists::WithoutArguments] {
        let filter = filter(rego, lists);
        for era in ["legacy", "modern"] {
            let viewer = Viewer { arrival: &arrival, target: &target, era };
            let sees = |upstream| {
                filter.visibility(&viewer, &Item { list_item: ListItem::Server, upstream }).is_shown()
            };
            assert_eq!((sees("crm"), sees("hr")), (true, false), "{lists:?} {era}");
            assert!(filter.servers_seen_until(&viewer).is_some_and(|until| until > arrival.at.wall));
        }
    }
    let viewer = Viewer { arrival: &arrival, target: &target, era: "legacy" };
    let open = AuthorizationFilter::new(None, None, true);
    assert!(open.visibility(&viewer, &Item { list_item: ListItem::Server, upstream: "hr" }).is_shown());
    assert_eq!(open.servers_seen_until(&viewer), None);
}

#[test]
fn callers_share_a_view_where_the_policy_cannot_tell_them_apart() {
    let rego = "default decision := false\ndecision if \"a\" in input.principal.roles";
    let filter = filter(rego, Lists::Decision);
    let target = Target::new(&"s".into(), &"".into());
    let view = |principal: Principal| {
        let arrival = arrival(Some(principal));
        filter.view(&Viewer { arrival: &arrival, target: &target, era: "legacy" }).unwrap().0
    };
    let other = Principal { subject: "other".into(), ..person(&["a"]) };
    assert_eq!(view(person(&["a"])), view(other.with_digest()));
    assert_ne!(view(person(&["a"])), view(person(&["b"])));
}

#[test]
fn what_lists_hide_for_its_arguments_is_found_with_the_right_ones() {
    let rego = "default decision := false\ndecision if input.mcp.arguments.x == 1";
    let known = tool("a", ToolFacts::default());
    let target = Target { subject: Some(known.clone()), ..Target::new(&"s".into(), &"up".into()) };
    let arrival = arrival(None);
    let item = Item { list_item: ListItem::Offered(&known), upstream: "up" };
    for (lists, with, without) in [(Lists::WithoutArguments, true, false), (Lists::Show, true, true)] {
        let filter = filter(rego, lists);
        for (params, expected) in
            [(r#"{"name":"a","arguments":{"x":1}}"#, with), (r#"{"name":"a"}"#, without)]
        {
            let call = message("tools/call", params);
            let call = Call::new(&arrival, &call, &target);
            assert_eq!(filter.look_up(&call, &item).is_found, expected, "{lists:?} {params}");
        }
    }
}

#[test]
fn absent_name_is_asked_about_as_often_as_hidden_one() {
    let rego = "default decision := false\ndefault visible := false\n\
        decision if input.mcp.name == [\"seen\", input.mcp.arguments.x][_]\nvisible if input.mcp.name == \"seen\"";
    let arrival = arrival(None);
    for lists in [Lists::Visible, Lists::Decision, Lists::Show, Lists::WithoutArguments] {
        let asked = |name: &str, is_absent: bool| {
            let filter = filter(rego, lists);
            let is_withdrawn = name == "seen" || lists == Lists::Show;
            let facts = ToolFacts { not_after: is_withdrawn.then_some(NOW), ..ToolFacts::default() };
            let known = tool(name, facts);
            let target = Target { subject: Some(known.clone()), ..Target::new(&"s".into(), &"up".into()) };
            let item = Item { list_item: ListItem::Offered(&known), upstream: "up" };
            let message = message("tools/call", &format!(r#"{{"name":"{name}","arguments":{{"x":1}}}}"#));
            let call = Call::new(&arrival, &message, &target);
            let look_up =
                || if is_absent { filter.look_up_absent(&call, &item) } else { filter.look_up(&call, &item) };
            let lookups = [look_up(), look_up()];
            assert!(lookups.iter().all(|lookup| !lookup.is_found), "{lists:?} {name}");
            let decision_record = filter.failed_lookup(&call, &item, &lookups[0]);
            let has_input = decision_record.map(|decision_record| decision_record.question.take().is_some());
            (filter.rules.as_ref().unwrap().decisions.len(), has_input)
        };
        let expected = match lists {
            Lists::Show => (0, None),
            Lists::Visible | Lists::Decision => (1, Some(true)),
            Lists::WithoutArguments => (2, Some(true)),
        };
        for name in ["seen", "unseen"] {
            assert_eq!((asked(name, false), asked(name, true)), (expected, expected), "{lists:?} {name}");
        }
    }
}
