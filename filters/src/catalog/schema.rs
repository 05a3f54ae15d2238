//! What a gateway has to know of a tool's schema: which arguments are mirrored into headers, and
//! that nobody who reads it is led elsewhere.
//!
//! One pass over the text visits every place where JSON Schema 2020-12 (and the older keywords in
//! use) has a schema; values such as `default`, `enum` and `const` are passed over. Nothing is
//! dereferenced.

use super::Broken;
use crate::mcp::Bounds;
use crate::mcp::bridge::ParamHeader;
use crate::mcp::object::unquoted;
use crate::mcp::scan::{Scan, Stop};
use std::borrow::Cow;
use std::sync::Arc;

/// Schemas within schemas.
const MAX_DEPTH: usize = 64;

/// Headers that one tool may ask for.
const MAX_HEADERS: usize = 64;

/// Reads an input schema.
///
/// # Errors
/// Why the tool cannot be served.
pub(super) fn param_headers(schema: &str) -> Result<Arc<[ParamHeader]>, Broken> {
    let mut walk = Walk::over(schema);
    walk.run()?;
    walk.stays_inside()?;
    Ok(walk.found.into())
}

/// Reads a schema that mirrors nothing.
///
/// # Errors
/// As [`param_headers`].
pub(super) fn check(schema: &str) -> Result<(), Broken> {
    let mut walk = Walk::over(schema);
    walk.mirrors = false;
    walk.run()?;
    walk.stays_inside()
}

struct Walk<'a> {
    scan: Scan<'a>,
    open: Vec<Level<'a>>,
    /// Property names that lead to the innermost open schema.
    path: Vec<Cow<'a, str>>,
    mirrors: bool,
    found: Vec<ParamHeader>,
    ids: Vec<Cow<'a, str>>,
    references: Vec<Cow<'a, str>>,
}

/// An object or array that is open.
struct Level<'a> {
    role: Role,
    /// Only `properties` lie between it and the root.
    reachable: bool,
    /// Its name is the last of the path.
    named: bool,
    more: bool,
    header: Option<&'a str>,
    kind: Option<&'a str>,
}

#[derive(Clone, Copy, PartialEq)]
enum Role {
    Schema,
    /// Names with schemas.
    Map,
    /// Schemas.
    List,
}

/// What a key of a schema leads to.
enum Below {
    /// A schema, or a list of them.
    Schemas,
    Properties,
    Map,
}

fn below(keyword: &str) -> Option<Below> {
    match keyword {
        "properties" => Some(Below::Properties),
        "patternProperties" | "dependentSchemas" | "dependencies" | "$defs" | "definitions" => {
            Some(Below::Map)
        }
        "items"
        | "prefixItems"
        | "additionalItems"
        | "contains"
        | "unevaluatedItems"
        | "additionalProperties"
        | "unevaluatedProperties"
        | "propertyNames"
        | "contentSchema"
        | "allOf"
        | "anyOf"
        | "oneOf"
        | "not"
        | "if"
        | "then"
        | "else" => Some(Below::Schemas),
        _ => None,
    }
}

impl From<Stop> for Broken {
    fn from(stop: Stop) -> Broken {
        Broken::Text(stop.fault(&Bounds::NONE))
    }
}

impl<'a> Walk<'a> {
    fn over(schema: &'a str) -> Walk<'a> {
        Walk {
            scan: Scan::free(schema),
            open: Vec::with_capacity(8),
            path: Vec::new(),
            mirrors: true,
            found: Vec::new(),
            ids: Vec::new(),
            references: Vec::new(),
        }
    }

    fn run(&mut self) -> Result<(), Broken> {
        self.enter(b'{', Role::Schema, true)?;
        while let Some(level) = self.open.last() {
            if level.more { self.item()? } else { self.leave()? }
        }
        Ok(())
    }

    fn enter(&mut self, bracket: u8, role: Role, reachable: bool) -> Result<(), Broken> {
        if self.open.len() >= MAX_DEPTH {
            return Err(Broken::SchemaDepth { limit: MAX_DEPTH });
        }
        let more = self.scan.enter(bracket)?;
        self.open.push(Level { role, reachable, named: false, more, header: None, kind: None });
        Ok(())
    }

    /// Goes out of what has no more items, and on in what is around it.
    fn leave(&mut self) -> Result<(), Broken> {
        let Some(level) = self.open.pop() else { return Ok(()) };
        if self.mirrors && level.header.is_some() {
            self.mirrored(&level)?;
        }
        if level.named {
            self.path.pop();
        }
        self.go_on()
    }

    fn go_on(&mut self) -> Result<(), Broken> {
        if let Some(level) = self.open.last_mut() {
            level.more = self.scan.next()?;
        }
        Ok(())
    }

    fn item(&mut self) -> Result<(), Broken> {
        let Some((role, reachable)) = self.open.last().map(|level| (level.role, level.reachable)) else {
            return Ok(());
        };
        match role {
            Role::Schema => self.member(reachable),
            Role::Map => self.named_schema(reachable),
            Role::List => self.schemas(false),
        }
    }

    /// A keyword and its value.
    fn member(&mut self, reachable: bool) -> Result<(), Broken> {
        let keyword = self.scan.key()?.meaning().ok_or(Stop::Grammar)?;
        match (below(&keyword), self.scan.look()) {
            (Some(Below::Schemas), _) => self.schemas(false),
            (Some(Below::Properties), Some(b'{')) => self.enter(b'{', Role::Map, reachable),
            (Some(Below::Map), Some(b'{')) => self.enter(b'{', Role::Map, false),
            _ => {
                let value = self.scan.value()?;
                self.note(&keyword, value)?;
                self.go_on()
            }
        }
    }

    fn named_schema(&mut self, reachable: bool) -> Result<(), Broken> {
        let name = self.scan.key()?.meaning().ok_or(Stop::Grammar)?;
        if self.scan.look() != Some(b'{') {
            self.scan.value()?;
            return self.go_on();
        }
        self.enter(b'{', Role::Schema, reachable)?;
        self.path.push(name);
        if let Some(level) = self.open.last_mut() {
            level.named = true;
        }
        Ok(())
    }

    /// A schema, a list of them, or what is neither.
    fn schemas(&mut self, reachable: bool) -> Result<(), Broken> {
        match self.scan.look() {
            Some(b'{') => self.enter(b'{', Role::Schema, reachable),
            Some(b'[') => self.enter(b'[', Role::List, reachable),
            _ => {
                self.scan.value()?;
                self.go_on()
            }
        }
    }

    fn note(&mut self, keyword: &str, value: &'a str) -> Result<(), Broken> {
        let Some(level) = self.open.last_mut() else { return Ok(()) };
        let place = match keyword {
            "x-mcp-header" => &mut level.header,
            "type" => &mut level.kind,
            "$ref" | "$dynamicRef" => {
                self.references.extend(unquoted(value));
                return Ok(());
            }
            "$id" => {
                self.ids.extend(unquoted(value));
                return Ok(());
            }
            _ => return Ok(()),
        };
        match place.replace(value) {
            Some(_) => Err(Broken::Text(crate::mcp::Fault::DuplicateKey)),
            None => Ok(()),
        }
    }

    /// The rules for an argument that goes into a header.
    fn mirrored(&mut self, level: &Level<'a>) -> Result<(), Broken> {
        let name = level.header.and_then(unquoted).filter(|name| is_token(name));
        let name = name.ok_or(Broken::Header("its name is no token of HTTP"))?;
        if !level.reachable || !level.named {
            return Err(Broken::Header("it is not on a property that only `properties` lead to"));
        }
        match level.kind.and_then(unquoted).as_deref() {
            Some("string" | "integer" | "boolean") => {}
            _ => return Err(Broken::Header("its property is no string, integer or boolean")),
        }
        let path: Vec<Arc<str>> = self.path.iter().map(|name| name.as_ref().into()).collect();
        if self.found.iter().any(|other| other.name.eq_ignore_ascii_case(&name)) {
            return Err(Broken::Header("two properties have the same one"));
        }
        if self.found.iter().any(|other| *other.path == *path) {
            return Err(Broken::Text(crate::mcp::Fault::DuplicateKey));
        }
        if self.found.len() >= MAX_HEADERS {
            return Err(Broken::Header("there are too many"));
        }
        self.found.push(ParamHeader { name: name.as_ref().into(), path: path.into() });
        Ok(())
    }

    /// Whoever resolves the references of this schema stays within it.
    fn stays_inside(&self) -> Result<(), Broken> {
        let based = self.ids.iter().any(|id| is_remote(id));
        let outside = |reference: &&Cow<'a, str>| {
            let base = reference.split('#').next().unwrap_or_default();
            let leads_away = is_remote(base) || (based && !base.is_empty());
            leads_away && !is_dialect(base) && !self.ids.iter().any(|id| names(id, base))
        };
        match self.references.iter().find(outside) {
            Some(_) => Err(Broken::RemoteReference),
            None => Ok(()),
        }
    }
}

fn is_remote(reference: &str) -> bool {
    reference.starts_with("//") || reference.contains("://")
}

/// The schemas of JSON Schema itself, which every validator has in it.
fn is_dialect(base: &str) -> bool {
    ["http://json-schema.org/", "https://json-schema.org/"].iter().any(|dialect| base.starts_with(dialect))
}

/// Whether an `$id` is what a reference, absolute or relative, leads to.
fn names(id: &str, base: &str) -> bool {
    let id = id.trim_end_matches('#');
    id == base || id.strip_suffix(base).is_some_and(|rest| rest.ends_with('/'))
}

/// A `token` of RFC 9110, section 5.6.2.
fn is_token(text: &str) -> bool {
    let tchar = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !text.is_empty() && text.len() <= 128 && text.bytes().all(tchar)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(schema: &str) -> Result<Vec<(String, String)>, String> {
        let found = param_headers(schema).map_err(|broken| broken.to_string())?;
        Ok(found.iter().map(|param| (param.name.to_string(), param.path.join("/"))).collect())
    }

    #[test]
    fn mirrored_arguments_are_found_at_any_depth_of_properties() {
        let schema = r#"{"type":"object","properties":{
            "region":{"type":"string","x-mcp-header":"Region"},
            "nested":{"type":"object","properties":{"n":{"x-mcp-header":"Depth","type":"integer"},"":{}}},
            "any":true,"none":{}},"required":["region"]}"#;
        let pair = |name: &str, path: &str| (name.to_owned(), path.to_owned());
        assert_eq!(headers(schema), Ok(vec![pair("Region", "region"), pair("Depth", "nested/n")]));
        assert_eq!(headers(r#"{"default":{"x-mcp-header":7},"enum":[{"x-mcp-header":7}]}"#), Ok(vec![]));
    }

    #[test]
    fn broken_schemas_say_why() {
        let deep = format!("{}{{}}{}", r#"{"items":"#.repeat(70), "}".repeat(70));
        let cases = [
            ("on the root", r#"{"x-mcp-header":"A","type":"string"}"#, "only `properties` lead to"),
            (
                "within items",
                r#"{"properties":{"a":{"items":{"type":"string","x-mcp-header":"A"}}}}"#,
                "only `properties`",
            ),
            (
                "within anyOf",
                r#"{"anyOf":[{"properties":{"a":{"type":"string","x-mcp-header":"A"}}}]}"#,
                "only `properties`",
            ),
            ("within $defs", r#"{"$defs":{"a":{"type":"string","x-mcp-header":"A"}}}"#, "only `properties`"),
            ("no text", r#"{"properties":{"a":{"type":"string","x-mcp-header":7}}}"#, "no token"),
            ("an object", r#"{"properties":{"a":{"type":"string","x-mcp-header":{"a":1}}}}"#, "no token"),
            ("empty", r#"{"properties":{"a":{"type":"string","x-mcp-header":""}}}"#, "no token"),
            ("a line end", r#"{"properties":{"a":{"type":"string","x-mcp-header":"A\r\nB"}}}"#, "no token"),
            (
                "a number",
                r#"{"properties":{"a":{"type":"number","x-mcp-header":"A"}}}"#,
                "no string, integer",
            ),
            ("types", r#"{"properties":{"a":{"type":["string"],"x-mcp-header":"A"}}}"#, "no string, integer"),
            ("no type", r#"{"properties":{"a":{"x-mcp-header":"A"}}}"#, "no string, integer"),
            (
                "twice",
                r#"{"properties":{"a":{"type":"string","x-mcp-header":"A"},"b":{"type":"string","x-mcp-header":"a"}}}"#,
                "two properties",
            ),
            (
                "one property twice",
                r#"{"properties":{"a":{"type":"string","x-mcp-header":"A"},"a":{"type":"string","x-mcp-header":"B"}}}"#,
                "a key occurs twice",
            ),
            (
                "a keyword twice",
                r#"{"properties":{"a":{"type":"string","type":"number"}}}"#,
                "a key occurs twice",
            ),
            ("no object", "[]", "not valid JSON"),
            ("deep", &deep, "64 levels"),
        ];
        for (name, schema, part) in cases {
            let said = headers(schema).expect_err(name);
            assert!(said.contains(part), "{name}: {said}");
        }
    }

    #[test]
    fn references_stay_within_the_schema() {
        let cases = [
            (r##"{"$ref":"#/$defs/a","$defs":{"a":{}}}"##, true),
            (r#"{"$ref":"https://evil.example/schema.json"}"#, false),
            (r#"{"properties":{"a":{"anyOf":[{"$ref":"//evil.example/x"}]}}}"#, false),
            (r#"{"$ref":"file:///etc/passwd"}"#, false),
            (r#"{"$dynamicRef":"http://evil.example/x#a"}"#, false),
            (r#"{"$ref":"https://a.example/x","$defs":{"x":{"$id":"https://a.example/x"}}}"#, true),
            (r#"{"$id":"https://a.example/","$ref":"y.json"}"#, false),
            (
                r#"{"$id":"https://a.example/","$ref":"y.json#/b","$defs":{"y":{"$id":"https://a.example/y.json"}}}"#,
                true,
            ),
            (r##"{"$ref":"http://json-schema.org/draft-07/schema#"}"##, true),
            (r#"{"$ref":"other"}"#, true),
            (r#"{"const":{"$ref":"https://evil.example/"}}"#, true),
        ];
        for (schema, fine) in cases {
            assert_eq!(check(schema).is_ok(), fine, "{schema}");
        }
    }
}
