//! Any message said in the words of the other era is a message, or is refused; nothing that only one
//! era knows comes through, and nothing that both know is changed.
//!
//! An input is one message: a request is said to servers of both eras, an answer, a question or a
//! notification to clients of both. What comes out is read by a reader that is not ours.

#![no_main]

use libfuzzer_sys::fuzz_target;
use portunus_filters::Era;
use portunus_filters::mcp::bridge::{
    Answer, Facts, Filter, ForModern, Listener, LogLevel, ParamHeader, Parts, Profile, Put, Retry, Token,
    aim, answer, answer_for_legacy, answer_for_modern, check_param_headers, error_for_legacy,
    error_for_modern, input_required, input_responses, is_cacheable, legacy_question, legacy_reply,
    legacy_request, modern_request, notification, param_headers, question_of_server_request, questions_of,
    result_for_legacy, result_for_modern, wrap_error_text, wrap_result,
};
use portunus_filters::mcp::{Bounds, Envelope, ResultSummary, Revision, check};
use serde_json::Value;
use serde_json::value::RawValue;

const PUT: Put<'_> = Put { id: "\"gate-1\"", progress_token: Some("7"), target: Some("its \"name\"") };

const METHODS: [&str; 3] = ["tools/call", "tools/list", "resources/read"];

const RESERVED: &str = "io.modelcontextprotocol/";

fuzz_target!(|input: &[u8]| {
    let Ok(text) = check(input, &Bounds::default()) else { return };
    say_of_themselves(text);
    requests(text);
    answers(text);
    questions(text);
    notifications(text);
});

/// Whatever is made is JSON; what another reader takes it for, if numbers let it.
fn json(text: &str) -> Option<Value> {
    assert!(serde_json::from_str::<&RawValue>(text).is_ok(), "what is said is no JSON: {text}");
    serde_json::from_str(text).ok()
}

fn profile() -> Option<Profile> {
    let text = r#"{"params":{"_meta":{"io.modelcontextprotocol/clientCapabilities":{"elicitation":{"url":{}}}}},"jsonrpc":"2.0","method":"m"}"#;
    let envelope = Envelope::read(text).ok()?;
    Profile::of_envelope(&envelope.params.inside("_meta").ok()??).ok()
}

fn say_of_themselves(text: &str) {
    let Ok(envelope) = Envelope::read(text) else { return };
    let claimed = envelope.params.inside("_meta").ok().flatten();
    let modern = claimed.and_then(|meta| Profile::of_envelope(&meta).ok());
    for profile in Profile::of_initialize(&envelope.params).ok().into_iter().chain(modern) {
        let again = json(&profile.envelope(Revision::V2026_07_28));
        assert!(again.is_none_or(|again| again[format!("{RESERVED}clientCapabilities")].is_object()));
        let request = portunus_filters::mcp::bridge::initialize(&profile, "1", Revision::V2025_11_25);
        std::str::from_utf8(&request).ok().map(json);
    }
    if let Ok(filter) = Filter::of(&envelope.params) {
        json(&filter.json());
    }
    if let Some(Ok(method)) = envelope.method.as_ref().map(|method| aim(method.name(), &envelope.params)) {
        assert!(method.is_none_or(|aim| text.len() >= aim.name().len()), "a name out of nothing");
    }
    mirrored(&envelope);
}

/// What is put into headers passes the check of those headers.
fn mirrored(envelope: &Envelope<'_>) {
    let header = |path: &[&str]| ParamHeader {
        name: path.join("-").into(),
        path: path.iter().map(|&key| key.into()).collect(),
    };
    let declared = [header(&["a"]), header(&["a", "b"])];
    let Ok(headers) = param_headers(&envelope.params, &declared) else { return };
    let printable = |value: &str| value.bytes().all(|byte| matches!(byte, b' '..=b'~'));
    assert!(headers.iter().all(|(_, value)| printable(value)), "{headers:?}");
    let sent: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (&**name, &**value)).collect();
    assert_eq!(check_param_headers(&sent, &envelope.params, &declared), Ok(()));
}

fn requests(text: &str) {
    let Some(profile) = profile() else { return };
    let retry = Retry { input_responses: Some("{}".into()), request_state: Some("\"s\"".into()) };
    let Ok(parts) = Parts::read(text) else { return };
    let modern = modern_request(&parts, &PUT, &profile, Revision::V2026_07_28, Some(&retry));
    let legacy = legacy_request(&parts, &PUT);
    assert_eq!(modern.is_ok(), legacy.is_ok(), "a request is one in both eras");
    let (Ok(modern), Ok(legacy)) = (modern, legacy) else { return };
    if let Some(value) = json(&modern) {
        assert_eq!(value["id"], "gate-1");
        assert_eq!(value["params"]["_meta"][format!("{RESERVED}protocolVersion")], "2026-07-28");
        assert_eq!(value["params"]["requestState"], "s");
    }
    if let Some(value) = json(&legacy) {
        let meta = value["params"]["_meta"].as_object();
        assert!(meta.is_none_or(|meta| meta.keys().all(|key| !key.starts_with(RESERVED))));
        assert!(value["params"]["requestState"].is_null());
    }
    if let Ok(sent) = Envelope::read(text) {
        for said in [&modern, &legacy] {
            let Ok(said) = Envelope::read(said) else { panic!("a request became none: {said}") };
            assert_eq!(said.params.get("arguments"), sent.params.get("arguments"), "arguments");
        }
    }
}

fn answers(text: &str) {
    let Some(profile) = profile() else { return };
    match answer(text) {
        Ok(Answer::Result(result)) => results(result),
        Ok(Answer::Error(error)) => {
            let modern = error_for_modern(&error, &profile).ok();
            if let Some(ForModern::Ask(questions)) = &modern {
                json(&input_required(questions, "s"));
            }
            let modern = modern.and_then(|said| match said {
                ForModern::Error(said) => Some(said),
                ForModern::Ask(_) => None,
            });
            for said in
                modern.into_iter().chain(METHODS.iter().flat_map(|method| error_for_legacy(&error, method)))
            {
                json(&wrap_error_text("1", &said.error));
            }
        }
        Err(_) => assert!(legacy_reply(text).is_err()),
    }
}

fn results(result: &str) {
    let facts = Facts::merge(&[], r#"{"name":"g"}"#);
    let message = wrap_result("1", result);
    let summary = Envelope::read(&message).ok().and_then(|read| read.summary);
    for method in METHODS {
        if let Some(summary) = summary.filter(|_| !is_cacheable(method)) {
            unread(result, method, summary, &facts);
        }
        let Ok(modern) = result_for_modern(result, method, &facts, None) else { continue };
        json(&wrap_result("1", &modern));
        let Ok(back) = result_for_legacy(&modern, method) else { continue };
        let value = json(&back);
        assert!(value.is_none_or(|value| value["resultType"].is_null()), "{back}");
    }
    for facts in [Facts::of_discover(result), Facts::of_initialize(result)].into_iter().flatten() {
        let merged = Facts::merge(&[("a", &facts), ("b", &facts)], r#"{"name":"g"}"#);
        for facts in [facts, merged] {
            let discovered = facts.discover_result(portunus_filters::mcp::bridge::Caching::NONE);
            json(&discovered);
            assert!(Facts::of_discover(&discovered).is_ok(), "{discovered}");
            let initialized = facts.initialize_result(Revision::V2025_11_25);
            json(&initialized);
            assert!(Facts::of_initialize(&initialized).is_ok(), "{initialized}");
        }
    }
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("what was text before is text")
}

/// What is passed on without being read once more is what reading it gives.
fn unread(result: &str, method: &str, summary: ResultSummary, facts: &Facts) {
    let answer = |result: &str| json(&wrap_result("1", result));
    if summary.is_bare() {
        let added = answer_for_modern("1", result.as_bytes(), facts).and_then(|added| json(text(&added)));
        let read = result_for_modern(result, method, facts, None).ok();
        assert_eq!(added, read.and_then(|read| answer(&read)), "{result}");
    }
    if let Some(lost) = answer_for_legacy("1", result.as_bytes(), summary) {
        let read = result_for_legacy(result, method);
        assert!(read.is_ok(), "{result}");
        assert_eq!(json(text(&lost)), read.ok().and_then(|read| answer(&read)), "{result}");
    }
}

fn questions(text: &str) {
    let asked = question_of_server_request(text, "k").ok().flatten().into_iter().collect::<Vec<_>>();
    let of_modern = match answer(text) {
        Ok(Answer::Result(result)) => {
            questions_of(result).map(|(questions, _)| questions).unwrap_or_default()
        }
        _ => Vec::new(),
    };
    for questions in [asked, of_modern] {
        if questions.is_empty() {
            continue;
        }
        let said = input_required(&questions, "s");
        json(&said);
        let read = questions_of(&said).map(|(questions, _)| questions).unwrap_or_default();
        assert_eq!(read.len(), questions.len(), "{said}");
        for (read, asked) in read.iter().zip(&questions) {
            assert_eq!((&read.key, &read.params), (&asked.key, &asked.params));
            json(&legacy_question(asked, "1", "e"));
        }
    }
    if let Ok(envelope) = Envelope::read(text)
        && let Ok(Some(carried)) = input_responses(&envelope.params)
    {
        carried.responses.iter().for_each(|(_, response)| drop(json(response)));
    }
}

fn notifications(text: &str) {
    let token = Some(Token { upstream: "7", client: "\"c\"" });
    for era in [Era::Modern, Era::Legacy] {
        let listener =
            Listener { era, token, log_level: Some(LogLevel::Warning), subscription: Some("\"s\"") };
        let Ok(Some(said)) = notification(text, &listener) else { continue };
        let Some(value) = json(&said) else { continue };
        let mark = &value["params"]["_meta"][format!("{RESERVED}subscriptionId")];
        assert_eq!(mark.as_str(), (era == Era::Modern).then_some("s"));
    }
}
