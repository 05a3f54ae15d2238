//! What clients stumble over in a list of tools.

use crate::json::Json;
use portunus_base::text;
use portunus_filters::catalog::is_tool_name;
use portunus_filters::mcp::Bounds;
use std::collections::HashSet;

/// Longest name of a tool (2025-11-25 server/tools, "Tool Names").
const MAX_NAME_BYTES: usize = 128;

/// What is wrong with listed tools: the name as it came, and the problem in safe words.
pub(super) fn broken(tools: &[Json]) -> Vec<(String, String)> {
    let mut names = HashSet::new();
    let mut found = Vec::new();
    for (index, tool) in tools.iter().enumerate() {
        let Some(name) = tool.get("name").and_then(Json::text) else {
            found.push((format!("number {}", index + 1), "it has no name".to_owned()));
            continue;
        };
        let mut problems = Vec::new();
        if !names.insert(name) {
            problems.push("another tool has the same name".to_owned());
        }
        problems.extend(name_problem(name));
        problems.extend(input_problems(tool.get("inputSchema")));
        if let Some(schema) = tool.get("outputSchema") {
            let in_output = |problem| format!("outputSchema: {problem}");
            problems.extend(schema_problems(schema).into_iter().map(in_output));
        }
        found.extend(problems.into_iter().map(|problem| (name.to_owned(), problem)));
    }
    found
}

fn name_problem(name: &str) -> Option<String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte);
    match name.len() {
        0 => Some("the name is empty".to_owned()),
        1..=MAX_NAME_BYTES if name.bytes().all(plain) => None,
        1..=MAX_NAME_BYTES => {
            let left_out = match is_tool_name(name) {
                true => "",
                false => "; lists that the gateway serves itself leave the tool out: rename it at its server",
            };
            Some(format!("the name has characters beside letters, digits, `_`, `-`, `.`{left_out}"))
        }
        _ => Some(format!("the name is longer than {MAX_NAME_BYTES} characters")),
    }
}

fn input_problems(schema: Option<&Json>) -> Vec<String> {
    let Some(schema) = schema else { return vec!["it has no inputSchema".to_owned()] };
    let mut problems: Vec<String> =
        schema_problems(schema).into_iter().map(|problem| format!("inputSchema: {problem}")).collect();
    if schema.is_object() && schema.get("type").and_then(Json::text) != Some("object") {
        problems.push("inputSchema: its `type` is not \"object\"".to_owned());
    }
    problems
}

fn schema_problems(schema: &Json) -> Vec<String> {
    if !schema.is_object() {
        return vec!["it is not an object".to_owned()];
    }
    let mut problems = Vec::new();
    let limit = Bounds::default().depth;
    let depth = schema.depth();
    if depth > limit {
        problems.push(format!("it is nested {depth} deep, and {limit} is the most that a message may be"));
    }
    let mut references = Vec::new();
    let mut anchors = HashSet::new();
    collect(schema, &mut references, &mut anchors);
    references.sort_unstable();
    references.dedup();
    problems.extend(references.into_iter().filter_map(|to| reference_problem(schema, to, &anchors)));
    problems
}

/// All `$ref`s, and all that names a part: `$anchor`, `$id`.
fn collect<'a>(part: &'a Json, references: &mut Vec<&'a str>, anchors: &mut HashSet<&'a str>) {
    for (key, value) in part.members() {
        match (key.as_str(), value.text()) {
            ("$ref" | "$dynamicRef", Some(to)) => references.push(to),
            ("$anchor" | "$dynamicAnchor" | "$id", Some(name)) => {
                anchors.insert(name);
            }
            _ => {}
        }
    }
    part.children().for_each(|child| collect(child, references, anchors));
}

fn reference_problem(schema: &Json, to: &str, anchors: &HashSet<&str>) -> Option<String> {
    let Some(fragment) = to.strip_prefix('#') else {
        let base = to.split('#').next().unwrap_or_default();
        let problem = format!("`$ref` {} is elsewhere, and nobody should fetch it", text::json(to));
        return (!anchors.contains(base)).then_some(problem);
    };
    let found = match fragment.strip_prefix('/') {
        Some(pointer) => leads(schema, pointer),
        None => fragment.is_empty() || anchors.contains(fragment),
    };
    (!found).then(|| format!("`$ref` {} leads nowhere", text::json(to)))
}

/// Whether a JSON pointer (RFC 6901), without its first slash, leads to something.
fn leads(schema: &Json, pointer: &str) -> bool {
    let decoded = percent_decoded(pointer);
    let mut at = schema;
    for token in decoded.split('/') {
        let token = token.replace("~1", "/").replace("~0", "~");
        let next = match at {
            Json::List(items) => token.parse::<usize>().ok().and_then(|index| items.get(index)),
            other => other.get(&token),
        };
        let Some(next) = next else { return false };
        at = next;
    }
    true
}

/// A fragment is a part of a URI (RFC 6901 §6).
fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        let escape = tail.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        match escape.and_then(|digits| u8::from_str_radix(digits, 16).ok()).filter(|_| byte == b'%') {
            Some(value) => {
                bytes.push(value);
                rest = &tail[2..];
            }
            None => {
                bytes.push(byte);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(tools: &str) -> Vec<String> {
        let tools = Json::read(tools.as_bytes()).unwrap();
        broken(tools.items()).into_iter().map(|(tool, problem)| format!("{tool}: {problem}")).collect()
    }

    #[test]
    fn sound_tools_are_not_complained_about() {
        let tools = r##"[
            {"name":"a.B_c-1","inputSchema":{"type":"object"}},
            {"name":"tree","inputSchema":{"type":"object","$id":"https://x/tree","$defs":{"a b":{"type":"object"},"x/y":{}},
              "properties":{"n":{"$ref":"#/$defs/a%20b"},"m":{"$ref":"#/$defs/x~1y"},"s":{"$ref":"#"},
              "k":{"$ref":"https://x/tree#/$defs/z"},"l":{"$anchor":"leaf"},"o":{"$ref":"#leaf"},
              "i":{"anyOf":[{},{}]},"j":{"$ref":"#/properties/i/anyOf/1"}}},
             "outputSchema":{"type":"array"}}
        ]"##;
        assert!(problems(tools).is_empty(), "{:?}", problems(tools));
    }

    #[test]
    fn each_fault_is_named_with_its_tool() {
        let deep = format!("{}{}", r#"{"a":"#.repeat(70), "1") + &"}".repeat(70);
        let cases = [
            (r#"{"inputSchema":{"type":"object"}}"#, "number 1: it has no name"),
            (r#"{"name":"a"}"#, "a: it has no inputSchema"),
            (r#"{"name":"a","inputSchema":[]}"#, "a: inputSchema: it is not an object"),
            (r#"{"name":"a","inputSchema":{}}"#, "a: inputSchema: its `type` is not \"object\""),
            (
                r#"{"name":"a b","inputSchema":{"type":"object"}}"#,
                "a b: the name has characters beside letters, digits, `_`, `-`, `.`; lists that the gateway \
                 serves itself leave the tool out: rename it at its server",
            ),
            (
                r#"{"name":"a/b","inputSchema":{"type":"object"}}"#,
                "a/b: the name has characters beside letters, digits, `_`, `-`, `.`",
            ),
            (r#"{"name":"","inputSchema":{"type":"object"}}"#, ": the name is empty"),
            (
                r##"{"name":"a","inputSchema":{"type":"object","x":{"$ref":"#/$defs/b"}}}"##,
                "a: inputSchema: `$ref` \"#/$defs/b\" leads nowhere",
            ),
            (
                r#"{"name":"a","inputSchema":{"type":"object","x":{"$ref":"https://e/s.json"}}}"#,
                "a: inputSchema: `$ref` \"https://e/s.json\" is elsewhere, and nobody should fetch it",
            ),
            (
                r#"{"name":"a","inputSchema":{"type":"object"},"outputSchema":3}"#,
                "a: outputSchema: it is not an object",
            ),
        ];
        for (tool, expected) in cases {
            assert_eq!(problems(&format!("[{tool}]")), [expected], "{tool}");
        }
        let deep = problems(&format!(r#"[{{"name":"a","inputSchema":{{"type":"object","d":{deep}}}}}]"#));
        assert!(deep.len() == 1 && deep[0].contains("nested 71 deep"), "{deep:?}");
        let long =
            problems(&format!(r#"[{{"name":"{}","inputSchema":{{"type":"object"}}}}]"#, "a".repeat(129)));
        assert!(long[0].contains("longer than 128"), "{long:?}");
        let twice = r#"{"name":"a","inputSchema":{"type":"object"}}"#;
        assert_eq!(problems(&format!("[{twice},{twice}]")), ["a: another tool has the same name"]);
    }
}
