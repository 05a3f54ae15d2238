use super::*;
use crate::mcp::Envelope;
use proptest::prelude::*;

const INFO: &str = r#"{"name":"gate"}"#;

fn facts() -> Facts {
    let result = format!(
        r#"{{"supportedVersions":["2026-07-28"],"capabilities":{{}},"_meta":{{"{META_SERVER_INFO}":{INFO}}}}}"#
    );
    Facts::of_discover(&result).unwrap()
}

fn signature(more: &str) -> String {
    format!(r#""_meta":{{{more}"{META_SERVER_INFO}":{INFO}}}"#)
}

#[test]
fn answers_are_told_apart() {
    let read = |message: &str| match answer(message) {
        Ok(Answer::Result(result)) => Ok(result.to_owned()),
        Ok(Answer::Error(error)) => {
            Ok(format!("{} {} {} {}", error.code, error.message, error.data.unwrap_or("-"), error.whole))
        }
        Err(fault) => Err(fault),
    };
    let shape = |what| Err(Fault::Shape(what));
    let cases = [
        ("result", r#"{"id":1,"result":{ "a":1 }}"#, Ok(r#"{ "a":1 }"#.to_owned())),
        (
            "error",
            r#"{"id":1,"error":{"code":-32602,"message":"n\u006f","data":[1]}}"#,
            Ok(r#"-32602 "n\u006f" [1] {"code":-32602,"message":"n\u006f","data":[1]}"#.to_owned()),
        ),
        ("error without a text", r#"{"error":{"code":7}}"#, Ok(r#"7 "" - {"code":7}"#.to_owned())),
        ("neither", r#"{"id":1}"#, shape("an answer has either a result or an error")),
        ("both", r#"{"id":1,"result":{},"error":{}}"#, shape("an answer has either a result or an error")),
        ("request", r#"{"id":1,"method":"m","result":{}}"#, shape("an answer has no method")),
        ("result that is a list", r#"{"id":1,"result":[]}"#, shape("`result` must be an object")),
        ("error that is a text", r#"{"id":1,"error":"no"}"#, shape("`error` must be an object")),
        (
            "error without a code",
            r#"{"id":1,"error":{"message":"no"}}"#,
            shape("the `code` of an error must be an integer"),
        ),
        ("code twice", r#"{"id":1,"error":{"code":1,"code":2}}"#, Err(Fault::DuplicateKey)),
    ];
    for (name, message, expected) in cases {
        assert_eq!(read(message), expected, "{name}");
    }
}

#[test]
fn a_legacy_result_becomes_complete_signed_and_cacheable() {
    let day = Caching { ttl_ms: 9, scope: Scope::Public };
    let cases = [
        (
            "tool",
            "tools/call",
            r#"{"content":[ ],"isError":false}"#,
            Some(day),
            format!(r#"{{"content":[ ],"isError":false,"resultType":"complete",{}}}"#, signature("")),
        ),
        (
            "own keys of `_meta`",
            "tools/call",
            r#"{"_meta":{"a" : 1.0}}"#,
            None,
            format!(r#"{{{},"resultType":"complete"}}"#, signature(r#""a" : 1.0,"#)),
        ),
        (
            "list without a word on caching",
            "tools/list",
            r#"{"tools":[]}"#,
            None,
            format!(
                r#"{{"tools":[],"resultType":"complete",{},"ttlMs":0,"cacheScope":"private"}}"#,
                signature("")
            ),
        ),
        (
            "read with one",
            "resources/read",
            r#"{"ttlMs":77,"contents":[]}"#,
            Some(day),
            format!(
                r#"{{"ttlMs":9,"contents":[],"resultType":"complete",{},"cacheScope":"public"}}"#,
                signature("")
            ),
        ),
        (
            "an old server cannot ask in the new way",
            "tools/call",
            r#"{"resultType":"input_required","requestState":"s"}"#,
            None,
            format!(r#"{{"resultType":"complete","requestState":"s",{}}}"#, signature("")),
        ),
    ];
    for (name, method, result, caching, expected) in cases {
        assert_eq!(result_for_modern(result, method, &facts(), caching), Ok(expected), "{name}");
    }
}

fn value(json: &[u8]) -> serde_json::Value {
    serde_json::from_slice(json).unwrap()
}

#[test]
fn what_is_only_added_to_is_the_same_without_being_read() {
    let texts = [
        r#"{}"#,
        "{ \n }",
        r#"{"content":[{"type":"text","text":"_meta}"}],"isError":true}"#,
        r#"{ "structuredContent":{"_meta":{},"resultType":1} , "content":[] }"#,
    ];
    let nameless = Facts { server_info: None, ..facts() };
    for (text, facts) in texts.iter().flat_map(|text| [(text, facts()), (text, nameless.clone())]) {
        let message = format!(r#"{{"jsonrpc":"2.0","id":1,"result":{text}}}"#);
        let summary = Envelope::read(&message).unwrap().summary.unwrap();
        assert!(summary.is_bare(), "{text}");
        let read = wrap_result("\"a\"", &result_for_modern(text, "tools/call", &facts, None).unwrap());
        let added = answer_for_modern("\"a\"", text.as_bytes(), &facts).unwrap();
        assert_eq!(value(&added), value(read.as_bytes()), "{text}");
    }
    assert_eq!(answer_for_modern("1", b"7", &facts()), None);
}

#[test]
fn what_only_loses_its_type_is_the_same_without_being_read() {
    let texts = [
        (r#"{}"#, true),
        (r#"{"resultType":"complete"}"#, true),
        ("{ \"resultType\" : \"complete\" , \"content\":[ ]}", true),
        (r#"{"a":1 , "resultType":"complete" }"#, true),
        (r#"{"a":1, "resultType":"complete" , "b":{"resultType":1},"isError":true}"#, true),
        (r#"{"structuredContent":{"_meta":{}},"resultType":"complete"}"#, true),
        (r#"{"content":[],"structuredContent":7}"#, false),
        (r#"{"_meta":{"io.modelcontextprotocol/serverInfo":{}}}"#, false),
        (r#"{"resultType":"input_required"}"#, false),
    ];
    for (text, expected) in texts {
        let message = format!(r#"{{"jsonrpc":"2.0","id":1,"result":{text}}}"#);
        let summary = Envelope::read(&message).unwrap().summary.unwrap();
        let lost = answer_for_legacy("\"a\"", text.as_bytes(), summary);
        assert_eq!(lost.is_some(), expected, "{text}");
        if let Some(lost) = lost {
            let read = wrap_result("\"a\"", &result_for_legacy(text, "tools/call").unwrap());
            assert_eq!(value(&lost), value(read.as_bytes()), "{text}");
        }
    }
}

#[test]
fn a_modern_result_keeps_its_kind_for_a_modern_client() {
    let day = Some(Caching { ttl_ms: 9, scope: Scope::Private });
    let list = r#"{"resultType":"complete","ttlMs":5,"cacheScope":"public","tools":[]}"#;
    let between = |result, method, caching| result_between_modern(result, method, &facts(), caching).unwrap();
    assert_eq!(
        between(list, "tools/list", day),
        format!(
            r#"{{"resultType":"complete","ttlMs":9,"cacheScope":"private","tools":[],{}}}"#,
            signature("")
        )
    );
    assert_eq!(
        between(list, "tools/list", None),
        format!(
            r#"{{"resultType":"complete","ttlMs":5,"cacheScope":"public","tools":[],{}}}"#,
            signature("")
        )
    );
    assert_eq!(
        between(r#"{"resultType":"input_required","requestState":"s"}"#, "resources/read", day),
        format!(r#"{{"resultType":"input_required","requestState":"s",{}}}"#, signature(""))
    );
}

#[test]
fn a_modern_result_loses_what_a_legacy_client_does_not_know() {
    let cases = [
        (
            "tool",
            "tools/call",
            r#"{"resultType":"complete","content":[ ],"structuredContent":{"a":1.0}}"#,
            r#"{"content":[ ],"structuredContent":{"a":1.0}}"#,
        ),
        ("kind not told", "tools/call", r#"{"content":[]}"#, r#"{"content":[]}"#),
        (
            "list",
            "tools/list",
            r#"{"tools":[],"ttlMs":5,"cacheScope":"public","nextCursor":"c"}"#,
            r#"{"tools":[],"nextCursor":"c"}"#,
        ),
        ("a tool's own `ttlMs`", "tools/call", r#"{"ttlMs":5}"#, r#"{"ttlMs":5}"#),
        (
            "signature",
            "prompts/get",
            r#"{"_meta":{"io.modelcontextprotocol/serverInfo":{},"a":1},"messages":[]}"#,
            r#"{"_meta":{"a":1},"messages":[]}"#,
        ),
        (
            "nothing but a signature",
            "prompts/get",
            r#"{"_meta":{"io.modelcontextprotocol/serverInfo":{}},"messages":[]}"#,
            r#"{"messages":[]}"#,
        ),
    ];
    for (name, method, result, expected) in cases {
        assert_eq!(result_for_legacy(result, method).as_deref(), Ok(expected), "{name}");
    }
}

#[test]
fn structured_content_that_is_no_object_is_told_as_text() {
    let cases = [
        (
            "list",
            "tools/call",
            r#"{"content":[],"structuredContent":[1, "a"]}"#,
            r#"{"content":[{"type":"text","text":"[1, \"a\"]"}]}"#,
        ),
        (
            "number beside an image",
            "tools/call",
            r#"{"structuredContent":7,"content":[{"type":"image" }]}"#,
            r#"{"content":[{"type":"image" },{"type":"text","text":"7"}]}"#,
        ),
        (
            "list that is told already",
            "tools/call",
            r#"{"structuredContent":[1],"content":[ {"type":"text","text":"[1]"} ]}"#,
            r#"{"content":[ {"type":"text","text":"[1]"} ]}"#,
        ),
        (
            "list of another method",
            "prompts/get",
            r#"{"messages":[],"structuredContent":[1]}"#,
            r#"{"messages":[],"structuredContent":[1]}"#,
        ),
        (
            "null without content",
            "tools/call",
            r#"{"structuredContent":null}"#,
            r#"{"content":[{"type":"text","text":"null"}]}"#,
        ),
    ];
    for (name, method, result, expected) in cases {
        assert_eq!(result_for_legacy(result, method).as_deref(), Ok(expected), "{name}");
    }
}

#[test]
fn other_kinds_of_results_are_not_told_to_legacy_clients() {
    let untold = Err(Fault::Shape("this kind of result cannot be told to an older client"));
    for kind in [r#""input_required""#, r#""task""#, r#""input\u005frequired""#] {
        assert_eq!(result_for_legacy(&format!(r#"{{"resultType":{kind}}}"#), "tools/call"), untold, "{kind}");
    }
    let kind = |text: &str| result_type(&Object::read(text).unwrap());
    assert_eq!(kind(r#"{"resultType":"com\u0070lete"}"#), Ok(ResultType::Complete));
    assert_eq!(kind(r#"{"resultType":"input\u005frequired"}"#), Ok(ResultType::InputRequired));
    assert_eq!(kind(r#"{"resultType":"task"}"#), Ok(ResultType::Other));
    assert!(kind(r#"{"resultType":7}"#).is_err());
}

#[test]
fn caching_that_makes_no_sense_is_taken_carefully() {
    for (result, expected) in [
        (r#"{"ttlMs":5,"cacheScope":"public"}"#, Caching { ttl_ms: 5, scope: Scope::Public }),
        (r#"{"ttlMs":-5,"cacheScope":"all"}"#, Caching::NONE),
        (r#"{"ttlMs":"5","cacheScope":7}"#, Caching::NONE),
        ("{}", Caching::NONE),
    ] {
        assert_eq!(Caching::of(&Object::read(result).unwrap()), expected, "{result}");
    }
}

#[test]
fn answers_are_wrapped_under_the_id_that_was_asked_by() {
    assert_eq!(wrap_result("\"a\"", "{}"), r#"{"jsonrpc":"2.0","id":"a","result":{}}"#);
    assert_eq!(wrap_error_text("7", "{}"), r#"{"jsonrpc":"2.0","id":7,"error":{}}"#);
    assert_eq!(
        wrap_error("7", -32603, "a\"b", Some("[1]")),
        r#"{"jsonrpc":"2.0","id":7,"error":{"code":-32603,"message":"a\"b","data":[1]}}"#
    );
    assert_eq!(tool_error("no"), r#"{"content":[{"type":"text","text":"no"}],"isError":true}"#);
}

proptest! {
    #[test]
    fn a_result_comes_back_through_both_eras_as_it_was(
        text in any::<String>(), number in any::<f64>(), method in prop_oneof![Just("tools/call"), Just("tools/list")],
    ) {
        let result = format!(
            r#"{{"content":[{{"type":"text","text":{}}}],"structuredContent":{{"n": {number:e} }}}}"#,
            string(&text)
        );
        let there = result_for_modern(&result, method, &facts(), None).unwrap();
        prop_assert_eq!(result_for_legacy(&there, method).unwrap(), result);
    }
}
