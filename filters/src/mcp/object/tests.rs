use super::*;
use crate::mcp::Envelope;
use proptest::prelude::*;
use serde_json::{Map, Value};

#[test]
fn duplicates_are_found_in_small_and_large_objects() {
    for keys in [2, 16, 17, 5_000] {
        let members: Vec<String> = (0..keys).map(|key| format!("\"k{key}\":0")).collect();
        let clean = format!("{{{}}}", members.join(","));
        assert!(Object::read(&clean).is_ok(), "{keys}");
        let repeated = format!("{{{},\"k0\":1}}", members.join(","));
        assert_eq!(Object::read(&repeated).map(|_| ()), Err(Fault::DuplicateKey), "{keys}");
    }
}

#[test]
fn what_takes_memory_for_each_member_is_bounded() {
    let object = |keys: usize| {
        let members: Vec<String> = (0..keys).map(|key| format!("\"{key}\":0")).collect();
        format!("{{{}}}", members.join(","))
    };
    assert_eq!(Object::read(&object(MAX_MEMBERS)).map(|read| read.members().len()), Ok(MAX_MEMBERS));
    let many = object(MAX_MEMBERS + 1);
    let refused =
        |read: Result<Object<'_>, Fault>| matches!(read, Err(Fault::Bound { limit: MAX_MEMBERS, .. }));
    assert!(refused(Object::read(&many)));
    let result = format!(r#"{{"jsonrpc":"2.0","id":1,"result":{many}}}"#);
    assert!(refused(Object::message(&result)), "where a message is read for it");
    let nested = format!(r#"{{"result":{{"structuredContent":{many}}}}}"#);
    assert!(Object::message(&nested).is_ok(), "what nobody takes apart takes no memory");

    let array = |items: usize| format!("[{}]", vec!["0"; items].join(","));
    assert_eq!(elements(&array(MAX_ELEMENTS)).map(|elements| elements.len()), Ok(MAX_ELEMENTS));
    assert!(matches!(elements(&array(MAX_ELEMENTS + 1)), Err(Fault::Bound { limit: MAX_ELEMENTS, .. })));
    assert!(elements_up_to("[1,2]", 2).is_ok() && elements_up_to("[1,2,3]", 2).is_err());
}

#[test]
fn no_word_is_overlooked() {
    static IS_ERROR: Word = Word::new("isError");
    for (text, expected) in [
        (r#"{"isError":true}"#, true),
        (r#"{"is\u0045rror":true}"#, true),
        (r#"{"a":"\n","is\u0045rror":true}"#, true),
        (r#"{"a":"\n"}"#, false),
        ("{}", false),
    ] {
        assert_eq!(IS_ERROR.may_be_in(text.as_bytes()), expected, "{text}");
    }
}

#[test]
fn members_are_found_as_they_stand() {
    let text =
        " { \"a\" : 1 ,\n\"b\":{\"x\":[\"]}\",{}]} , \"\\u0063\" : \"\\\"}\" ,\"d\":[ ] , \"e\":null } ";
    let object = Object::read(text).unwrap();
    let found: Vec<(&str, &str)> = object.members().collect();
    let expected =
        [("a", "1"), ("b", "{\"x\":[\"]}\",{}]}"), ("c", "\"\\\"}\""), ("d", "[ ]"), ("e", "null")];
    assert_eq!(found, expected);
    assert_eq!(object.text("c").as_deref(), Some("\"}"));
    assert_eq!(object.object("b").unwrap().unwrap().get("x"), Some("[\"]}\",{}]"));
}

#[test]
fn a_message_is_taken_apart_with_what_it_is_read_for() {
    let text = r#"{"params": {"_meta" : {"a":1}, "x":{"_meta":{}}} ,"result":{"isError":true},"y":{"z":1}}"#;
    let mut message = Object::message(text).unwrap();
    assert_eq!(message.get("params"), Some(r#"{"_meta" : {"a":1}, "x":{"_meta":{}}}"#));
    assert!(message.take("y").is_none());
    assert_eq!(message.take("result").unwrap().unwrap().get("isError"), Some("true"));
    let params = message.take("params").unwrap().unwrap();
    assert_eq!(params.inside("_meta").unwrap().unwrap().get("a"), Some("1"));
    assert!(params.inside("x").unwrap().is_none());
    let repeated =
        Object::message(r#"{"params":{"_meta":{"a":1,"a":2}}}"#).unwrap().take("params").unwrap().unwrap();
    assert_eq!(repeated.inside("_meta").map(drop), Err(Fault::DuplicateKey));
}

#[test]
fn what_is_no_object_is_refused_and_never_walked_out_of() {
    for text in [
        "",
        "{",
        "}",
        "[]",
        "7",
        "\"a\"",
        "{\"a\"}",
        "{\"a\":}",
        "{\"a\":1",
        "{a:1}",
        "{\"a\":1}x",
        "{\"a\":\"\\\"}",
        "{\"a\":",
        "{\"a",
        "{\"a\":\"\\",
        "{\"a\":[",
        "{{",
        "{\"a\":,",
        "{\"a\":1,}",
        "{\"a\":1 \"b\":2}",
        "{\"\\ud800\":1}",
        "]",
        "{]",
    ] {
        assert!(matches!(Object::read(text), Err(Fault::Syntax(_))), "{text}");
    }
}

fn json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 40, 5, |inner| {
        let object = proptest::collection::btree_map(any::<String>(), inner.clone(), 0..5);
        prop_oneof![
            proptest::collection::vec(inner, 0..5).prop_map(Value::from),
            object.prop_map(|members| Value::Object(Map::from_iter(members))),
        ]
    })
}

proptest! {
    #[test]
    fn one_pass_finds_what_a_parser_finds(
        members in proptest::collection::btree_map(any::<String>(), json(), 0..20),
        pretty in any::<bool>(),
    ) {
        let whole = Value::Object(Map::from_iter(members.clone()));
        let text = if pretty { serde_json::to_string_pretty(&whole) } else { serde_json::to_string(&whole) };
        let text = text.unwrap();
        let object = Object::read(&text).unwrap();
        prop_assert_eq!(object.members().len(), members.len());
        for (key, value) in &members {
            let found: Value = serde_json::from_str(object.get(key).unwrap()).unwrap();
            prop_assert_eq!(&found, value);
            let text = object.text(key);
            prop_assert_eq!(text.as_deref(), value.as_str());
        }
    }
}

#[test]
fn a_message_is_found_again_in_its_body() {
    let body = " {\"jsonrpc\":\"2.0\", \"\\u0069d\" : 7 ,\"method\":\"tools/call\",\"params\": {\"name\":\"a\",\"_meta\":{\"k\":[1]}}}\n";
    let mut envelope = Envelope::read_bounded(body, &Bounds::default()).unwrap();
    let message_index = envelope.take_message_index(body.as_bytes()).unwrap();
    let (message, params) = (message_index.message(body), message_index.params(body));
    assert_eq!(message.get("id"), Some("7"));
    assert_eq!(message.rewrite().text(), body.trim());
    assert_eq!(params.text("name").as_deref(), Some("a"));
    assert_eq!(params.inside("_meta").unwrap().unwrap().get("k"), Some("[1]"));
    let elsewhere = body.to_owned();
    assert!(Envelope::read(body).unwrap().take_message_index(elsewhere.as_bytes()).is_none());
}
