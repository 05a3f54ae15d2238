use super::*;
use crate::mcp::bridge::Scope;

const LEGACY: &str = r#"{"protocolVersion":"2025-06-18","capabilities":{"tools":{"listChanged":true},"tasks":{},"extensions":{"a/b":{}},"experimental":{"n": 1.0}},"serverInfo":{"name":"old" },"instructions":"Ask \u0061way"}"#;

const MODERN: &str = r#"{"resultType":"complete","supportedVersions":["2025-11-25","2026-07-28","2031-01-01"],"capabilities":{"resources":{"subscribe":true}},"_meta":{"io.modelcontextprotocol/serverInfo":{"name":"new"}},"ttlMs":5,"cacheScope":"public"}"#;

fn old() -> Facts {
    Facts::of_initialize(LEGACY).unwrap()
}

fn new() -> Facts {
    Facts::of_discover(MODERN).unwrap()
}

fn able(capabilities: &str, instructions: &str) -> Facts {
    let result = format!(
        r#"{{"supportedVersions":["2026-07-28"],"capabilities":{capabilities},"instructions":{instructions}}}"#
    );
    Facts::of_discover(&result).unwrap()
}

#[test]
fn both_eras_are_read_alike() {
    let facts = old();
    assert_eq!(facts.version, Revision::V2025_06_18);
    assert_eq!(facts.server_info.as_deref(), Some(r#"{"name":"old" }"#));
    assert_eq!(facts.instructions.as_deref(), Some(r#""Ask \u0061way""#));
    let facts = new();
    assert_eq!(facts.version, Revision::V2026_07_28);
    assert_eq!(facts.server_info.as_deref(), Some(r#"{"name":"new"}"#));
    assert_eq!(facts.instructions, None);
}

#[test]
fn a_capability_is_found_by_its_path() {
    let facts = able(
        r#"{"tools":{"listChanged":true},"resources":{"subscribe":false},"logging":{},"prompts":null}"#,
        "null",
    );
    for (path, declared) in [
        ("tools", true),
        ("tools.listChanged", true),
        ("tools.listChanged.more", false),
        ("resources", true),
        ("resources.subscribe", false),
        ("resources.listChanged", false),
        ("logging", true),
        ("prompts", false),
        ("completions", false),
    ] {
        assert_eq!(facts.has(path), declared, "{path}");
    }
}

#[test]
fn what_no_server_of_the_era_says_is_refused() {
    let spoken = Fault::Shape("the server chose a revision that is not spoken here");
    let object = Fault::Shape("a member that must be an object is something else");
    let legacy = [
        (r#"{"capabilities":{}}"#, spoken.clone()),
        (r#"{"protocolVersion":"2026-07-28","capabilities":{}}"#, spoken.clone()),
        (r#"{"protocolVersion":"1999-01-01","capabilities":{}}"#, spoken),
        (r#"{"protocolVersion":"2025-06-18"}"#, Fault::Shape("`capabilities` is missing")),
        (r#"{"protocolVersion":"2025-06-18","capabilities":[]}"#, object.clone()),
        (r#"{"protocolVersion":"2025-06-18","capabilities":{},"serverInfo":"x"}"#, object),
        (
            r#"{"protocolVersion":"2025-06-18","capabilities":{},"instructions":[]}"#,
            Fault::Shape("`instructions` must be a string"),
        ),
        (r#"{"protocolVersion":"2025-06-18","capabilities":{"a":1,"a":2}}"#, Fault::DuplicateKey),
    ];
    for (result, fault) in legacy {
        assert_eq!(Facts::of_initialize(result).map(drop), Err(fault), "{result}");
    }
    let listed = Fault::Shape("the server lists no stateless revision that is spoken here");
    let modern = [
        (r#"{"capabilities":{}}"#, Fault::Shape("`supportedVersions` is missing")),
        (r#"{"supportedVersions":["2025-11-25"],"capabilities":{}}"#, listed.clone()),
        (r#"{"supportedVersions":[7],"capabilities":{}}"#, listed),
        (r#"{"supportedVersions":["2026-07-28"]}"#, Fault::Shape("`capabilities` is missing")),
    ];
    for (result, fault) in modern {
        assert_eq!(Facts::of_discover(result).map(drop), Err(fault), "{result}");
    }
    let long = "x".repeat(MAX_BYTES);
    for member in [r#""instructions":"X""#, r#""serverInfo":{"name":"X"}"#] {
        let member = member.replace('X', &long);
        let result = format!(r#"{{"protocolVersion":"2025-06-18","capabilities":{{}},{member}}}"#);
        assert!(matches!(Facts::of_initialize(&result), Err(Fault::Bound { limit: MAX_BYTES, .. })));
    }
}

#[test]
fn a_legacy_server_is_discovered_in_modern_words() {
    assert_eq!(
        old().discover_result(Caching::NONE),
        r#"{"resultType":"complete","supportedVersions":["2026-07-28"],"capabilities":{"tools":{"listChanged":true},"extensions":{"a/b":{}},"experimental":{"n": 1.0}},"instructions":"Ask \u0061way","ttlMs":0,"cacheScope":"private","_meta":{"io.modelcontextprotocol/serverInfo":{"name":"old" }}}"#
    );
    let again =
        Facts::of_discover(&old().discover_result(Caching { ttl_ms: 5, scope: Scope::Public })).unwrap();
    assert_eq!((again.instructions, again.server_info), (old().instructions, old().server_info));
}

#[test]
fn a_modern_server_is_initialized_in_legacy_words() {
    assert_eq!(
        new().initialize_result(Revision::V2025_03_26),
        r#"{"protocolVersion":"2025-03-26","capabilities":{"resources":{"subscribe":true}},"serverInfo":{"name":"new"}}"#
    );
    assert_eq!(
        able(r#"{"extensions":{"a/b":{}},"tools":{}}"#, "\"i\"").initialize_result(Revision::V2025_11_25),
        r#"{"protocolVersion":"2025-11-25","capabilities":{"tools":{}},"serverInfo":{"name":"unnamed","version":"0"},"instructions":"i"}"#
    );
}

#[test]
fn several_servers_can_together_what_any_of_them_can() {
    let one = able(
        r#"{"tools":{},"resources":{"subscribe":true},"extensions":{"a/b":{"n":1.0}},"vendor":{}}"#,
        "null",
    );
    let other = able(
        r#"{"tools":{"listChanged":true},"logging":{},"extensions":{"a/b":{"n":2},"c/d":{}},"completions":{}}"#,
        "null",
    );
    let merged = Facts::merge(&[("one", &one), ("other", &other)], r#"{"name":"g"}"#);
    assert_eq!(
        &*merged.capabilities,
        r#"{"tools":{"listChanged":true},"resources":{"subscribe":true},"completions":{},"logging":{}}"#
    );
    assert_eq!(merged.server_info.as_deref(), Some(r#"{"name":"g"}"#));
    assert_eq!(&*Facts::merge(&[], "{}").capabilities, "{}");
}

#[test]
fn instructions_of_several_servers_stand_under_their_names() {
    let silent = able("{}", "null");
    let blank = able("{}", r#"" \n""#);
    let one = able("{}", r#""Use \"a\"""#);
    let other = able("{}", r#""Use b""#);
    let merged = |parts: &[(&str, &Facts)]| Facts::merge(parts, "{}").instructions;
    assert_eq!(merged(&[("x", &silent), ("y", &blank)]), None);
    assert_eq!(merged(&[("x", &one)]).as_deref(), Some(r#""Use \"a\"""#));
    assert_eq!(merged(&[("x", &one), ("y", &silent)]).as_deref(), Some(r##""# x\n\nUse \"a\"""##));
    assert_eq!(
        merged(&[("x", &one), ("y", &other)]).as_deref(),
        Some(r##""# x\n\nUse \"a\"\n\n# y\n\nUse b""##)
    );
}

#[test]
fn what_is_merged_is_bounded() {
    let long = able("{}", &format!("\"{}\"", "ż".repeat(60_000)));
    let parts: Vec<(&str, &Facts)> = (0..100).map(|_| ("member", &long)).collect();
    let instructions = Facts::merge(&parts, "{}").instructions.unwrap();
    assert!((60_000..70_000).contains(&instructions.len()), "{}", instructions.len());
    assert_eq!(instructions.matches("# member").count(), 100);
}

#[test]
fn of_extensions_several_servers_have_only_those_whose_messages_find_their_way() {
    const TASKS: &str = r#"{"extensions":{"a/b":{},"io.modelcontextprotocol/tasks":{"n":1}}}"#;
    let initialized = format!(r#"{{"protocolVersion":"2025-11-25","capabilities":{TASKS}}}"#);
    for (name, member, merged) in [
        ("modern", able(TASKS, "null"), r#"{"extensions":{"io.modelcontextprotocol/tasks":{}}}"#),
        ("legacy", Facts::of_initialize(&initialized).unwrap(), "{}"),
        ("without", able(r#"{"extensions":{"a/b":{}},"experimental":{"n":{}}}"#, "null"), "{}"),
    ] {
        assert_eq!(
            &*Facts::merge(&[("x", &able("{}", "null")), ("y", &member)], "{}").capabilities,
            merged,
            "{name}"
        );
    }
}
