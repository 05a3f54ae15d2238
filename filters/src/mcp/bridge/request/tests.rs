use super::*;
use crate::mcp::Envelope;
use proptest::prelude::*;
use serde_json::Value;

const PUT: Put<'_> = Put { id: "77", progress_token: None, target: None };

const ENVELOPE: &str = r#""io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientInfo":{"name":"a"},"io.modelcontextprotocol/clientCapabilities":{}"#;

fn call(params: &str) -> String {
    format!(r#"{{ "jsonrpc":"2.0" ,"id":"x","method":"tools/call","params":{params}}}"#)
}

fn profile() -> Profile {
    Profile::of_envelope(&Object::read(&format!("{{{ENVELOPE}}}")).unwrap()).unwrap()
}

fn params_of(message: &str) -> String {
    Envelope::read(message).unwrap().params_text.unwrap().to_owned()
}

fn legacy_request(body: &str, put: &Put<'_>) -> Result<String, Fault> {
    super::legacy_request(&Parts::read(body)?, put)
}

fn modern_request(body: &str, put: &Put<'_>, retry: Option<&Retry>) -> Result<String, Fault> {
    super::modern_request(&Parts::read(body)?, put, &profile(), Revision::V2026_07_28, retry)
}

fn legacy(params: &str, put: &Put<'_>) -> String {
    params_of(&legacy_request(&call(params), put).unwrap())
}

fn modern(params: &str, put: &Put<'_>, retry: Option<&Retry>) -> String {
    params_of(&modern_request(&call(params), put, retry).unwrap())
}

#[test]
fn a_legacy_server_gets_nothing_that_only_modern_ones_know() {
    let cases = [
        ("plain", r#"{"name":"t"}"#, r#"{"name":"t"}"#),
        ("envelope", &format!(r#"{{"_meta":{{{ENVELOPE}}},"name":"t"}}"#), r#"{"name":"t"}"#),
        (
            "other keys stay",
            &format!(r#"{{"name":"t","_meta":{{"traceparent":"00","a.b/c" : 1.0,{ENVELOPE}}}}}"#),
            r#"{"name":"t","_meta":{"traceparent":"00","a.b/c" : 1.0}}"#,
        ),
        ("reserved by escape", r#"{"_meta":{"io.model\u0063ontextprotocol/logLevel":"info"}}"#, "{}"),
        ("retry", r#"{"name":"t","inputResponses":{},"requestState":"s"}"#, r#"{"name":"t"}"#),
        ("task", r#"{"name":"t","task":{"ttl":1}}"#, r#"{"name":"t"}"#),
        ("`_meta` is null", r#"{"name":"t","_meta":null}"#, r#"{"name":"t"}"#),
        (
            "arguments keep their bytes",
            r#"{"name":"t","arguments": { "n":1.50, "_meta":{"io.modelcontextprotocol/x":1} } }"#,
            r#"{"name":"t","arguments": { "n":1.50, "_meta":{"io.modelcontextprotocol/x":1} } }"#,
        ),
    ];
    for (name, params, expected) in cases {
        assert_eq!(legacy(params, &PUT), expected, "{name}");
    }
}

#[test]
fn a_request_goes_out_under_the_id_of_its_connection() {
    let message = legacy_request(&call("{}"), &PUT).unwrap();
    assert_eq!(message, r#"{ "jsonrpc":"2.0" ,"id":77,"method":"tools/call","params":{}}"#);
    let bare = r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;
    let message = modern_request(bare, &PUT, None).unwrap();
    assert_eq!(params_of(&message), format!(r#"{{"_meta":{{{ENVELOPE}}}}}"#));
}

#[test]
fn members_that_json_rpc_does_not_know_are_left_out() {
    let params = format!(r#"{{"name":"t","_meta":{{{ENVELOPE}}}}}"#);
    let with =
        |more: &str| format!(r#"{{"jsonrpc":"2.0","id":77,"method":"tools/call","params":{params}{more}}}"#);
    for more in [r#","vendor":[1.0]"#, r#","result":{},"":1"#] {
        assert_eq!(params_of(&legacy_request(&with(more), &PUT).unwrap()), r#"{"name":"t"}"#);
        assert!(!legacy_request(&with(more), &PUT).unwrap().contains(more));
        assert_eq!(modern_request(&with(more), &PUT, None).unwrap(), with(""));
        let call = with(more);
        let passed = passed_request(&Parts::read(&call).unwrap(), None, Revision::V2026_07_28, None);
        assert_eq!(passed, Ok(Some(with(""))), "{more}");
    }
    let call = with("");
    let passed = passed_request(&Parts::read(&call).unwrap(), None, Revision::V2026_07_28, None);
    assert_eq!(passed, Ok(None));
}

#[test]
fn what_is_only_added_to_keeps_its_order_and_its_spaces() {
    let body = r#"{ "params" : { "name":"t" } , "\u0069d" : "a", "method":"tools/call" ,"jsonrpc":"2.0"}"#;
    assert_eq!(legacy_request(body, &PUT).unwrap(), body.replace("\"a\"", "77"));
    let expected =
        body.replace("\"a\"", "77").replace("\"t\" }", &format!("\"t\" ,\"_meta\":{{{ENVELOPE}}}}}"));
    assert_eq!(modern_request(body, &PUT, None).unwrap(), expected);
    let cases = [
        (r#"{ "_meta":{} , "name":"t" }"#, r#"{ "name":"t" }"#),
        (r#"{ "name":"t", "\u005fmeta":null , "a":1 }"#, r#"{ "name":"t" , "a":1 }"#),
        (r#"{ "name":"t" , "_meta": {"progressToken":null} }"#, r#"{ "name":"t" }"#),
    ];
    for (params, left) in cases {
        let given = body.replace(r#"{ "name":"t" }"#, params);
        let expected = body.replace(r#"{ "name":"t" }"#, left).replace(": \"a\"", ": 77");
        assert_eq!(legacy_request(&given, &PUT).unwrap(), expected, "{params}");
    }
    let empty = r#"{"jsonrpc":"2.0","id":1,"method":"ping","params":{ }}"#;
    assert_eq!(
        params_of(&modern_request(empty, &PUT, None).unwrap()),
        format!(r#"{{ "_meta":{{{ENVELOPE}}}}}"#)
    );
}

#[test]
fn a_progress_token_is_replaced_where_there_is_one() {
    let put = Put { progress_token: Some("9"), ..PUT };
    for (given, told, expected) in [
        (r#"{"progressToken":"p"}"#, put, r#"{"_meta":{"progressToken":9}}"#),
        (r#"{"progressToken":"p"}"#, PUT, r#"{"_meta":{"progressToken":"p"}}"#),
        (r#"{"progressToken":null}"#, put, "{}"),
        (r#"{"a":1}"#, put, r#"{"_meta":{"a":1}}"#),
    ] {
        assert_eq!(legacy(&format!(r#"{{"_meta":{given}}}"#), &told), expected, "{given}");
    }
    let found = modern(r#"{"_meta":{"progressToken":"p"}}"#, &put, None);
    assert_eq!(found, format!(r#"{{"_meta":{{{ENVELOPE},"progressToken":9}}}}"#));
}

#[test]
fn a_target_gets_the_name_that_the_upstream_knows() {
    let put = Put { target: Some("a\"b"), ..PUT };
    let cases = [
        ("tools/call", r#"{"name":"x_a"}"#, r#"{"name":"a\"b"}"#),
        ("prompts/get", r#"{"name":"x_a"}"#, r#"{"name":"a\"b"}"#),
        ("resources/read", r#"{"uri":"x"}"#, r#"{"uri":"a\"b"}"#),
        ("resources/subscribe", r#"{"uri":"x"}"#, r#"{"uri":"a\"b"}"#),
        ("tasks/get", r#"{"taskId":"x"}"#, r#"{"taskId":"a\"b"}"#),
        (
            "completion/complete",
            r#"{"ref":{"type":"ref/prompt","name":"x"},"argument":{"name":"n"}}"#,
            r#"{"ref":{"type":"ref/prompt","name":"a\"b"},"argument":{"name":"n"}}"#,
        ),
        (
            "completion/complete",
            r#"{"ref":{"type":"ref/resource","uri":"x"}}"#,
            r#"{"ref":{"type":"ref/resource","uri":"a\"b"}}"#,
        ),
        ("tools/list", r#"{"cursor":"c"}"#, r#"{"cursor":"c"}"#),
    ];
    for (method, params, expected) in cases {
        let body = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{method}","params":{params}}}"#);
        assert_eq!(params_of(&legacy_request(&body, &put).unwrap()), expected, "{method}");
    }
}

#[test]
fn a_modern_server_gets_the_envelope_and_nothing_that_was_reserved_for_others() {
    let cases = [
        ("none yet", r#"{"name":"t"}"#, format!(r#"{{"name":"t","_meta":{{{ENVELOPE}}}}}"#)),
        (
            "a legacy client's own keys stay",
            r#"{"_meta":{"a":1,"io.modelcontextprotocol/related-task":{"taskId":"t"}}}"#,
            format!(r#"{{"_meta":{{"a":1,{ENVELOPE}}}}}"#),
        ),
        (
            "a legacy client cannot claim to be another",
            r#"{"_meta":{"io.modelcontextprotocol/clientCapabilities":{"roots":{}}}}"#,
            format!(r#"{{"_meta":{{{ENVELOPE}}}}}"#),
        ),
        (
            "a modern client's reserved keys stay",
            &format!(r#"{{"_meta":{{{ENVELOPE},"io.modelcontextprotocol/x":2}}}}"#),
            format!(r#"{{"_meta":{{"io.modelcontextprotocol/x":2,{ENVELOPE}}}}}"#),
        ),
    ];
    for (name, params, expected) in cases {
        assert_eq!(modern(params, &PUT, None), expected, "{name}");
    }
}

#[test]
fn a_retry_carries_what_the_gateway_says_and_never_what_the_client_sent() {
    let sent = r#"{"name":"t","requestState":"sealed","inputResponses":{"k":{}}}"#;
    let retry = Retry { input_responses: Some(r#"{"a":{"action":"accept"}}"#.into()), request_state: None };
    assert_eq!(modern(sent, &PUT, None), format!(r#"{{"name":"t","_meta":{{{ENVELOPE}}}}}"#));
    assert_eq!(
        modern(sent, &PUT, Some(&retry)),
        format!(r#"{{"name":"t","inputResponses":{{"a":{{"action":"accept"}}}},"_meta":{{{ENVELOPE}}}}}"#)
    );
    let state = Retry { input_responses: None, request_state: Some(r#""\u0041=""#.into()) };
    assert_eq!(
        modern(r#"{"name":"t"}"#, &PUT, Some(&state)),
        format!(r#"{{"name":"t","_meta":{{{ENVELOPE}}},"requestState":"\u0041="}}"#)
    );
}

#[test]
fn what_is_no_request_is_refused() {
    let cases = [
        (r#"{"jsonrpc":"2.0","method":"n"}"#, Fault::Shape("a request must have an id")),
        (r#"{"jsonrpc":"2.0","id":1}"#, Fault::Shape("`method` must be a string")),
        (r#"{"id":1,"method":"m","params":[]}"#, Fault::Shape("`params` must be an object")),
        (r#"{"id":1,"method":"m","params":{"_meta":7}}"#, Fault::Shape("`_meta` must be an object")),
        (r#"{"id":1,"method":"m","params":{"a":1,"a":2}}"#, Fault::DuplicateKey),
        (r#"{"id":1,"method":"m","params":{"_meta":{"a":1,"a":2}}}"#, Fault::DuplicateKey),
        ("{", Fault::Syntax("the body ends inside an object or array")),
    ];
    for (body, fault) in cases {
        assert_eq!(legacy_request(body, &PUT), Err(fault.clone()), "{body}");
        let modern = modern_request(body, &PUT, None);
        assert_eq!(modern, Err(fault), "{body}");
    }
}

#[test]
fn a_session_is_founded_in_the_words_of_its_revision() {
    let meta = r#"{"io.modelcontextprotocol/clientCapabilities":{"roots":{},"elicitation":{"url":{}},"extensions":{}}}"#;
    let profile = Profile::of_envelope(&Object::read(meta).unwrap()).unwrap();
    let message = initialize(&profile, "\"i\"", Revision::V2025_11_25);
    assert_eq!(
        std::str::from_utf8(&message).unwrap(),
        r#"{"jsonrpc":"2.0","id":"i","method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{"elicitation":{"url":{}},"roots":{}},"clientInfo":{"name":"unnamed","version":"0"}}}"#
    );
    let notification = Envelope::read(std::str::from_utf8(&initialized()).unwrap()).map(|said| said.shape);
    assert_eq!(notification, Ok(crate::mcp::Shape::Notification));
}

/// A hostile `_meta` must not cost more than its length.
#[test]
fn many_reserved_keys_are_taken_out_in_one_pass() {
    let keys: Vec<String> = (0..50_000).map(|key| format!("\"io.modelcontextprotocol/{key}\":0")).collect();
    assert_eq!(legacy(&format!("{{\"_meta\":{{{}}}}}", keys.join(",")), &PUT), "{}");
}

fn json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 20, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::btree_map(any::<String>(), inner, 0..4)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn arguments_go_through_both_eras_byte_for_byte(
        arguments in json(), vendor in json(), key in any::<String>(), pretty in any::<bool>(),
    ) {
        let text = |value: &Value| match pretty {
            true => serde_json::to_string_pretty(value).unwrap(),
            false => value.to_string(),
        };
        let (arguments, vendor) = (text(&arguments), text(&vendor));
        let key = string(&format!("v{key}"));
        let params = format!(r#"{{"name":"t","arguments": {arguments} ,"_meta":{{{key}: {vendor} }}}}"#);
        let up = modern_request(&call(&params), &PUT, None).unwrap();
        let back = legacy_request(&up, &Put { id: "\"x\"", ..PUT }).unwrap();
        let there = Envelope::read(&up).unwrap();
        prop_assert_eq!(there.params.get("arguments"), Some(arguments.as_str()));
        let there = Envelope::read(&back).unwrap();
        prop_assert_eq!(there.params.get("arguments"), Some(arguments.as_str()));
        prop_assert_eq!(there.params.get("_meta").unwrap(), format!("{{{key}: {vendor}}}"));
    }
}

#[test]
fn a_modern_request_stays_as_it_is_where_its_server_can_read_it() {
    let passed = |params: &str, target: Option<&str>, retry: Option<&Retry>| {
        let call = call(params);
        passed_request(&Parts::read(&call).unwrap(), target, Revision::V2026_07_28, retry)
            .map(|changed| changed.map(|text| params_of(&text)))
    };
    let retry = Retry { request_state: Some("\"own\"".into()), ..Retry::default() };
    let meta = format!(r#""_meta" : {{{ENVELOPE},"a.b/c":1.0}}"#);
    let cases = [
        ("nothing changes", r#""name":"t""#, None, None, None),
        ("the same target", r#""name":"t""#, Some("t"), None, None),
        ("the same target by escape", r#""name":"\u0074""#, Some("t"), None, None),
        ("another target", r#""name":"t""#, Some("u"), None, Some(r#""name":"u""#)),
        ("a client's own state", r#""name":"t","requestState":"s""#, None, None, Some(r#""name":"t""#)),
        ("a client's own answers", r#""name":"t","inputResponses":{}"#, None, None, Some(r#""name":"t""#)),
        ("task", r#""name":"t","task":{}"#, None, None, Some(r#""name":"t""#)),
    ];
    for (name, params, target, retry, expected) in cases {
        let expected = expected.map(|params| format!("{{{meta},{params}}}"));
        assert_eq!(passed(&format!("{{{meta},{params}}}"), target, retry), Ok(expected), "{name}");
    }
    let params = format!(r#"{{{meta},"requestState":"s"}}"#);
    let expected = format!(r#"{{{meta},"requestState":"own"}}"#);
    assert_eq!(passed(&params, None, Some(&retry)), Ok(Some(expected)));
    let of_another_revision = passed(r#"{"name":"t"}"#, None, None);
    assert!(matches!(of_another_revision, Err(Fault::Shape(_))), "{of_another_revision:?}");
}
