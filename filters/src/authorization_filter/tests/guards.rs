//! Each thing that the authorization filter does to a message, by itself: without it one of these is red.

use super::*;
use crate::call::AnswerRules;
use crate::decision_record::Sampler;
use crate::inspect::Inspector;
use crate::pipeline::Cleared;
use crate::released::Channel;

/// A call that `filter` judged, with what is known of its tool.
fn cleared(
    filter: AuthorizationFilter,
    caller: Principal,
    message: &Message,
    subject: Option<Subject>,
) -> Result<Cleared, Denial> {
    let target = Target { subject, ..Target::new(&"s".into(), &"up".into()) };
    let pipeline = Pipeline::new(vec![Box::new(filter)]);
    pipeline.judge(&arrival(Some(caller)), std::slice::from_ref(message), &target, |_| {})
}

fn call(params: &str) -> Message {
    message("tools/call", params)
}

/// Allows everything, with these obligations.
fn obliging(obligations: &str) -> AuthorizationFilter {
    filter(&format!("decision := {{\"allow\": true, \"obligations\": {obligations}}}"), Lists::Show)
}

#[test]
fn what_a_call_says_is_read_strictly() {
    let none = "decision if { not input.mcp.arguments; not input.context.justification }";
    let long = format!(r#"{{"name":"a","_meta":{{"io.portunus/justification":"{}"}}}}"#, "x".repeat(501));
    let table = [
        (r#"{"name":"a","arguments":null}"#, None),
        (r#"{"name":"a","_meta":{"io.portunus/justification":"  "}}"#, None),
        (r#"{"name":"a","_meta":{"io.portunus/justification":null}}"#, None),
        (r#"{"name":"a","_meta":{"io.portunus/justification":7}}"#, Some(Reason::InvalidParams)),
        (r#"{"name":"a","arguments":[1]}"#, Some(Reason::InvalidParams)),
        (long.as_str(), Some(Reason::InvalidParams)),
    ];
    for (params, expected) in table {
        let result = judge(filter(none, Lists::Show), &arrival(None), &call(params), a_tool());
        assert_eq!(result.err().map(|denial| denial.reason), expected, "{params}");
    }
}

#[test]
fn what_is_for_the_gateway_goes_no_further_whoever_governs() {
    for key in [JUSTIFICATION, RUN] {
        let call = call(&format!(r#"{{"name":"a","_meta":{{"{key}":"r"}}}}"#));
        for filter in [AuthorizationFilter::default(), filter("decision := true", Lists::Show)] {
            let body = judge(filter, &arrival(None), &call, a_tool()).unwrap();
            assert!(!String::from_utf8_lossy(&body).contains("portunus"), "{body:?}");
        }
    }
}

#[test]
fn what_servers_ask_and_what_streams_are_is_asked_about() {
    let asked =
        Message { kind: Kind::ServerRequest, ..message("elicitation/create", r#"{"message":"your name?"}"#) };
    let stream = Message::bodiless(Kind::Stream, None);
    let table = [
        (&asked, r#"input.mcp.direction == "to_client"; input.mcp.arguments.message == "your name?""#),
        (&asked, r#"input.mcp.method == "elicitation/create""#),
        (&stream, r#"input.mcp.kind == "stream"; input.mcp.direction == "to_server""#),
    ];
    for (message, rule) in table {
        for (rego, is_allowed) in
            [(format!("decision if {{ {rule} }}"), true), ("decision := false".into(), false)]
        {
            let result = judge(filter(&rego, Lists::Show), &arrival(None), message, None);
            assert_eq!(result.is_ok(), is_allowed, "{rego}: {result:?}");
        }
    }
}

#[test]
fn callers_are_told_no_more_than_they_should_be() {
    let long = format!("decision := {{\"allow\": false, \"reason\": \"{}\"}}", "x".repeat(600));
    let denial = |filter: AuthorizationFilter, params: &str| {
        judge(filter, &arrival(None), &call(params), a_tool()).unwrap_err()
    };
    assert_eq!(denial(filter(&long, Lists::Show), "{}").detail.chars().count(), 500);
    let silent = Rules { reasons_to_client: false, ..rules(&long, "{}", Lists::Show) };
    assert_eq!(
        denial(AuthorizationFilter::new(Some(silent), None, false), "{}").detail,
        "the policy does not allow this"
    );
    let faulty = denial(filter("decision := input.mcp.method", Lists::Show), "{}");
    assert_eq!(faulty.reason, Reason::PolicyError);
    assert_eq!(
        DecisionRecord::of_refusal(&faulty)
            .unwrap()
            .fault()
            .map(|fault| matches!(fault, Fault::Misshapen(_))),
        Some(true)
    );
    let twice = r#"{"name":"a","arguments":{"x":{"y":1,"y":2}}}"#;
    let unreadable = denial(filter("decision := input.mcp.arguments.x.y == 1", Lists::Show), twice);
    assert_eq!(unreadable.reason, Reason::InvalidParams);
}

#[test]
fn obligations_go_with_a_call() {
    let facts = ToolFacts { cost_micros: Some(7), ..ToolFacts::default() };
    let known = || Some(tool("a", facts.clone()));
    let filter = obliging(
        r#"{"inject": {"x": 1}, "redact": ["y"], "max_result_bytes": 9, "alert": true, "cost": 0.5}"#,
    );
    let done = cleared(filter, person(&[]), &call(r#"{"name":"a"}"#), known()).unwrap();
    let decision_record = Arc::clone(done.decision_record().unwrap());
    assert_eq!((decision_record.alert, decision_record.cost_micros), (true, Some(500_000)));
    assert_eq!(decision_record.obligations(), ["redact", "inject", "alert", "cost", "max_result_bytes"]);
    let rules: &AnswerRules = done.inspectors().find().unwrap();
    assert_eq!((rules.redact().len(), rules.max_result_bytes()), (1, Some(9)));
    assert!(String::from_utf8_lossy(&done.into_body()).contains(r#""arguments":{"x":1}"#));
    let plain = cleared(obliging("{}"), person(&[]), &call(r#"{"name":"a"}"#), known()).unwrap();
    let decision_record = plain.decision_record().unwrap();
    assert_eq!((decision_record.alert, decision_record.cost_micros), (false, Some(7)));
    assert!(plain.inspectors().is_empty());
}

#[test]
fn what_is_critical_alerts_whether_or_not_it_passes() {
    let controls = Controls { profile: Profile::Balanced, without: Vec::new() };
    let critical = ToolFacts { risk: Risk::Critical, ..ToolFacts::default() };
    let filter =
        AuthorizationFilter::new(Some(rules("decision := true", "{}", Lists::Show)), Some(controls), false);
    let denial =
        cleared(filter, person(&[]), &call(r#"{"name":"a"}"#), Some(tool("a", critical))).unwrap_err();
    let decision_record = DecisionRecord::of_refusal(&denial).unwrap();
    assert_eq!(
        (denial.reason, decision_record.rule(), decision_record.alert),
        (Reason::StepUpRequired, Some("step_up"), true)
    );
}

#[test]
fn a_policy_asks_for_better_authentication_until_it_is_shown() {
    let shown = |acr: Option<&str>, mfa: bool, age: Option<u64>| Principal {
        acr: acr.map(Into::into),
        mfa,
        auth_time: age.map(|age| NOW.as_secs() - age),
        ..person(&[])
    };
    let both = r#"{"acr": "gold", "max_age": 60}"#;
    let table = [
        ("true", shown(None, false, Some(0)), false),
        ("true", shown(None, true, None), true),
        ("false", shown(None, false, None), true),
        (both, shown(Some("gold"), false, Some(60)), true),
        (both, shown(Some("gold"), false, Some(61)), false),
        (both, shown(Some("gold"), true, None), false),
        (both, shown(Some("silver"), true, Some(0)), false),
        (both, shown(None, true, Some(0)), false),
    ];
    for (wanted, caller, is_enough) in table {
        let filter = obliging(&format!("{{\"step_up\": {wanted}}}"));
        let result = cleared(filter, caller.clone(), &call(r#"{"name":"a"}"#), a_tool());
        assert_eq!(result.is_ok(), is_enough, "{wanted} {caller:?}");
        let Err(denial) = result else { continue };
        let named = [("acrValues", "\"gold\"".to_owned()), ("maxAge", "60".to_owned())];
        let expected = if wanted == both { named.to_vec() } else { Vec::new() };
        assert_eq!((denial.reason, denial.data), (Reason::StepUpRequired, expected), "{wanted}");
    }
}

#[test]
fn a_policy_asks_others_to_agree_without_any_controls() {
    let filter = obliging(r#"{"approve": {"count": 2}}"#);
    let denial = cleared(filter, person(&[]), &call(r#"{"name":"a"}"#), a_tool()).unwrap_err();
    assert_eq!((denial.reason, denial.data), (Reason::ApprovalRequired, vec![("approvals", "2".to_owned())]));
}

#[test]
fn what_is_looked_up_for_a_policy_is_what_it_reads() {
    let place = "input.tool.claimed";
    let table = [
        ("decision if input.tool.claimed.readOnlyHint", true),
        ("decision if input.tool.claimed == {}", true),
        ("decision if count(input.tool) > 1", true),
        ("decision if input.tool.original == \"a\"", false),
        ("default decision := false\nvisible if input.tool.claimed.x", true),
    ];
    for (rego, is_read) in table {
        assert_eq!(filter(rego, Lists::Show).reads(place), is_read, "{rego}");
    }
    assert!(!AuthorizationFilter::default().reads(place));
}

#[test]
fn a_watch_chooses_one_of_so_many() {
    let chosen = |every: u32| {
        let sampler = Sampler::one_of(every);
        (0..12).filter(|_| sampler.chooses()).count()
    };
    assert_eq!([chosen(0), chosen(1), chosen(3)], [0, 12, 4]);
    let sampler = Sampler::default();
    sampler.set(1);
    assert!(sampler.chooses());
}

#[test]
fn what_is_withdrawn_is_hidden_and_what_is_hidden_is_opened_by_no_arguments() {
    let withdrawn = tool("a", ToolFacts { not_after: Some(NOW), ..ToolFacts::default() });
    let good =
        tool("a", ToolFacts { not_after: Some(NOW + Duration::from_nanos(1)), ..ToolFacts::default() });
    let (arrival, target) = (arrival(None), Target::new(&"s".into(), &"up".into()));
    let viewer = Viewer { arrival: &arrival, target: &target, era: "modern" };
    for (known, is_shown) in [(&withdrawn, false), (&good, true)] {
        let item = Item { list_item: ListItem::Offered(known), upstream: "up" };
        assert_eq!(
            AuthorizationFilter::new(None, None, true).visibility(&viewer, &item).is_shown(),
            is_shown
        );
    }
    let filter = filter("decision := true\nvisible := false", Lists::Visible);
    let item = Item { list_item: ListItem::Offered(&good), upstream: "up" };
    let call = call(r#"{"name":"a","arguments":{"x":1}}"#);
    assert!(!filter.look_up(&Call::new(&arrival, &call, &target), &item).is_found);
}

#[test]
fn a_view_without_policy_is_looked_at_again_within_a_minute() {
    let (arrival, target) = (arrival(None), Target::new(&"s".into(), &"up".into()));
    let viewer = Viewer { arrival: &arrival, target: &target, era: "modern" };
    let shows_all = filter("decision := true", Lists::Show);
    for filter in [AuthorizationFilter::new(None, None, true), shows_all] {
        assert_eq!(filter.view(&viewer), Some((Vec::new(), NOW + Duration::from_secs(60))));
    }
}

#[test]
fn an_answer_is_measured_as_its_caller_gets_it() {
    let permitted = |result: &str, rules: &AnswerRules| {
        rules.inspect(Channel::Result, result).map(|text| text.into_owned())
    };
    let rules = |redact: &str, most: u64| {
        let filter = obliging(&format!("{{\"redact\": [\"{redact}\"], \"max_result_bytes\": {most}}}"));
        let done = cleared(filter, person(&[]), &call(r#"{"name":"a"}"#), a_tool()).unwrap();
        done.inspectors().find::<AnswerRules>().unwrap().clone()
    };
    let long = format!(r#"{{"structuredContent":{{"note":"{}"}}}}"#, "x".repeat(1_000));
    let blanked = r#"{"structuredContent":{"note":"[redacted]"}}"#;
    assert_eq!(permitted(&long, &rules("note", 100)).unwrap(), blanked);
    let own = r#"{"_meta":{"x":1},"structuredContent":{"_meta":{"x":1}}}"#;
    let expected = r#"{"_meta":{"x":0},"structuredContent":{"_meta":{"x":1}}}"#;
    assert_eq!(permitted(own, &rules("/_meta/x", 100)).unwrap(), expected);
    let no_text = r#"{"content":[{"type":"text","text":{"salary":7}}]}"#;
    let expected = r#"{"content":[{"type":"text","text":{}}]}"#;
    assert_eq!(permitted(no_text, &rules("salary", 100)).unwrap(), expected);
}
