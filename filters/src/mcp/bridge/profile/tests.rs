use super::*;

fn of_envelope(meta: &str) -> Result<Profile, Reason> {
    Profile::of_envelope(&Object::read(meta).unwrap()).map_err(|denial| denial.reason)
}

fn of_initialize(params: &str) -> Result<Profile, Reason> {
    Profile::of_initialize(&Object::read(params).unwrap()).map_err(|denial| denial.reason)
}

fn capable(capabilities: &str) -> Profile {
    of_envelope(&format!(r#"{{"{META_CLIENT_CAPABILITIES}":{capabilities}}}"#)).unwrap()
}

#[test]
fn what_servers_may_read_otherwise_of_a_client_is_refused() {
    let cases = [
        (r#"{"elicitation":{"form":{}},"other":{"Own":1}}"#, true),
        (r#"{"Elicitation":{}}"#, false),
        (r#"{"elicitation":{"URL":{}}}"#, false),
        (r#"{"elicitation":{},"ELICITATION":{}}"#, false),
        (r#"{"sampling":{"Tools":{}}}"#, false),
    ];
    for (capabilities, agrees) in cases {
        let params = format!(r#"{{"capabilities":{capabilities},"clientInfo":{{"name":"n"}}}}"#);
        assert_eq!(of_initialize(&params).is_ok(), agrees, "{capabilities}");
    }
    assert!(of_initialize(r#"{"capabilities":{},"clientInfo":{"name":"n","Name":"m"}}"#).is_err());
}

#[test]
fn an_envelope_is_read_as_the_revision_says() {
    let cases = [
        ("whole", r#"{"C":{},"I":{"name":"a","version":"1"},"L":"error"}"#, Ok(Some(LogLevel::Error))),
        ("name not told", r#"{"C":{}}"#, Ok(None)),
        ("nothing declared", r#"{"I":{}}"#, Err(Reason::InvalidEnvelope)),
        ("capabilities are a list", r#"{"C":[]}"#, Err(Reason::InvalidEnvelope)),
        ("declared twice", r#"{"C":{"roots":{},"roots":{}}}"#, Err(Reason::InvalidEnvelope)),
        ("name is a text", r#"{"C":{},"I":"a"}"#, Err(Reason::InvalidEnvelope)),
        ("unknown level", r#"{"C":{},"L":"loud"}"#, Err(Reason::InvalidEnvelope)),
        ("level is a number", r#"{"C":{},"L":3}"#, Err(Reason::InvalidEnvelope)),
    ];
    for (name, meta, expected) in cases {
        let meta = meta
            .replace("\"C\"", &format!("\"{META_CLIENT_CAPABILITIES}\""))
            .replace("\"I\"", &format!("\"{META_CLIENT_INFO}\""))
            .replace("\"L\"", &format!("\"{META_LOG_LEVEL}\""));
        assert_eq!(of_envelope(&meta).map(|profile| profile.log_level), expected, "{name}");
    }
}

#[test]
fn an_envelope_is_known_again_by_what_it_says_of_its_client() {
    let spell = |meta: &str| {
        let meta = meta.replace("\"C\"", &format!("\"{META_CLIENT_CAPABILITIES}\""));
        let meta = meta.replace("\"I\"", &format!("\"{META_CLIENT_INFO}\""));
        meta.replace("\"L\"", &format!("\"{META_LOG_LEVEL}\""))
    };
    let cases = [
        ("the same", r#"{"C":{},"I":{"name":"a"},"L":"info"}"#, true),
        ("in another order, with more", r#"{"x":1,"L":"inf\u006f","I":{"name":"a"},"C":{}}"#, true),
        ("another name", r#"{"C":{},"I":{"name":"b"},"L":"info"}"#, false),
        ("no name", r#"{"C":{},"L":"info"}"#, false),
        ("can more", r#"{"C":{"roots":{}},"I":{"name":"a"},"L":"info"}"#, false),
        ("says nothing of that", r#"{"I":{"name":"a"},"L":"info"}"#, false),
        ("wants more logged", r#"{"C":{},"I":{"name":"a"},"L":"debug"}"#, false),
        ("wants nothing logged", r#"{"C":{},"I":{"name":"a"},"L":null}"#, false),
        ("a level that is none", r#"{"C":{},"I":{"name":"a"},"L":7}"#, false),
    ];
    let known = spell(cases[0].1);
    let known = Profile::of_envelope(&Object::read(&known).unwrap()).unwrap();
    for (name, meta, expected) in cases {
        let meta = spell(meta);
        let meta = Object::read(&meta).unwrap();
        assert_eq!(known.is_of_envelope(&meta), expected, "{name}");
    }
    let silent = capable("{}");
    let meta = spell(r#"{"C":{},"I":null}"#);
    assert!(silent.is_of_envelope(&Object::read(&meta).unwrap()));
}

#[test]
fn a_profile_is_bounded() {
    let long = "x".repeat(MAX_BYTES);
    let meta = format!(r#"{{"{META_CLIENT_CAPABILITIES}":{{"experimental":{{"a":"{long}"}}}}}}"#);
    assert_eq!(of_envelope(&meta).map(drop), Err(Reason::BoundsExceeded));
    let params = format!(r#"{{"capabilities":{{}},"clientInfo":{{"name":"{long}"}}}}"#);
    assert_eq!(of_initialize(&params).map(drop), Err(Reason::BoundsExceeded));
}

#[test]
fn capabilities_are_said_in_the_words_of_the_other_era() {
    let cases = [
        ("nothing", "{}", "{}"),
        ("bare elicitation is a form", r#"{"elicitation":{}}"#, r#"{"elicitation":{"form":{}}}"#),
        (
            "details stay",
            r#"{"elicitation":{"applyDefaults" : true}}"#,
            r#"{"elicitation":{"applyDefaults" : true,"form":{}}}"#,
        ),
        ("modes stay", r#"{"elicitation":{"url":{} }}"#, r#"{"elicitation":{"url":{} }}"#),
        ("roots lose their detail", r#"{"roots":{"listChanged":true}}"#, r#"{"roots":{}}"#),
        ("null is nothing", r#"{"roots":null,"elicitation":null}"#, "{}"),
        ("tasks and extensions go", r#"{"tasks":{"list":{}},"extensions":{"a/b":{}}}"#, "{}"),
        (
            "all else keeps its bytes",
            r#"{"sampling":{ "tools":{}},"experimental":{"x":{"n":1.50}}}"#,
            r#"{"sampling":{ "tools":{}},"experimental":{"x":{"n":1.50}}}"#,
        ),
    ];
    for (name, legacy, modern) in cases {
        let params = format!(r#"{{"protocolVersion":"2025-11-25","capabilities":{legacy}}}"#);
        assert_eq!(&*of_initialize(&params).unwrap().capabilities, modern, "{name}");
    }
    let modern = capable(r#"{"extensions":{"a/b":{}},"roots":{},"sampling":{ }}"#);
    assert_eq!(modern.legacy_capabilities(), r#"{"sampling":{ },"roots":{}}"#);
}

#[test]
fn what_a_client_can_is_what_it_declares() {
    use Ability::{Elicit, ElicitUrl, Roots, Sample, SampleTools};
    let cases: &[(&str, &[Ability])] = &[
        ("{}", &[]),
        (r#"{"elicitation":{}}"#, &[Elicit]),
        (r#"{"elicitation":{"form":{}}}"#, &[Elicit]),
        (r#"{"elicitation":{"url":{}}}"#, &[ElicitUrl]),
        (r#"{"elicitation":{"form":{},"url":{}}}"#, &[Elicit, ElicitUrl]),
        (r#"{"sampling":{}}"#, &[Sample]),
        (r#"{"sampling":{"tools":{}}}"#, &[Sample, SampleTools]),
        (r#"{"roots":{}}"#, &[Roots]),
        (r#"{"roots":true,"sampling":null,"elicitation":"yes"}"#, &[]),
    ];
    for (capabilities, abilities) in cases {
        let profile = capable(capabilities);
        for ability in [Elicit, ElicitUrl, Sample, SampleTools, Roots] {
            assert_eq!(profile.can(ability), abilities.contains(&ability), "{capabilities} {ability:?}");
            assert!(capable(ability.required()).can(ability), "{ability:?}");
        }
        assert_eq!(profile.answers(), !abilities.is_empty(), "{capabilities}");
    }
}

#[test]
fn profiles_share_a_key_only_if_they_say_the_same() {
    let one = capable(r#"{"roots":{}}"#);
    assert_eq!(one.key(), one.with_log_level(Some(LogLevel::Debug)).key());
    assert_ne!(one.key(), capable("{}").key());
    assert_ne!(Profile::silent("a", "1").key(), Profile::silent("a", "2").key());
}

#[test]
fn a_modern_envelope_takes_the_place_of_what_a_legacy_client_wrote() {
    let params = r#"{"capabilities":{"elicitation":{}},"clientInfo":{"name":"a" }}"#;
    let profile = of_initialize(params).unwrap().with_log_level(Some(LogLevel::Notice));
    let envelope = profile.envelope(Revision::V2026_07_28);
    assert_eq!(
        envelope,
        r#"{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientInfo":{"name":"a" },"io.modelcontextprotocol/clientCapabilities":{"elicitation":{"form":{}}},"io.modelcontextprotocol/logLevel":"notice"}"#
    );
    assert_eq!(of_envelope(&envelope).unwrap().key(), profile.key());
}
