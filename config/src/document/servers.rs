//! `servers`.

use portunus_filters::mcp::Bounds;

use super::listeners::label;
use super::secrets::hosts;
use super::{Unenforced, unenforced};
use crate::diagnostic::{Located, Place};
use crate::hosts::HostPattern;
use crate::limits::MAX_BODY_BYTES;
use crate::members::NamePolicy;
use crate::reader::{Section, Value};
use crate::routes::NormalPath;
use crate::snapshot::HttpStatus;

/// One virtual server.
#[derive(Clone, Debug)]
pub struct ServerDocument {
    /// Where it is written.
    pub place: Place,
    /// Normal form of its path, without a trailing slash.
    pub path: String,
    /// `hosts`, or the host before the path in its key; empty for any.
    pub hosts: Vec<HostPattern>,
    /// `name`.
    pub name: Option<Located<String>>,
    /// `upstreams`, names in the order in which they own tools.
    pub upstreams: Vec<Located<String>>,
    /// `names`.
    pub names: Option<Located<NamePolicy>>,
    /// `bounds`.
    pub bounds: Bounds,
    /// `max_body_bytes`.
    pub max_body_bytes: Option<usize>,
    /// `http_status`.
    pub http_status: HttpStatus,
    /// What is written and not enforced.
    pub unenforced: Vec<Unenforced>,
}

pub(super) fn read(section: &mut Section<'_>) -> Vec<ServerDocument> {
    let hint = "say where clients connect: `servers: {/mcp: NAME_OF_AN_UPSTREAM}`";
    let Some(value) = section.required("servers", hint) else { return vec![] };
    if value.is_list() {
        let items = value.items();
        if items.is_empty() {
            value.error("no server is named", hint);
        }
        return items.iter().filter_map(listed).collect();
    }
    if !value.is_mapping() {
        return value.expected("a mapping from paths to upstreams").unwrap_or_default();
    }
    let entries = value.entries();
    if entries.is_empty() {
        value.error("no server is named", hint);
    }
    entries.into_iter().filter_map(|(key, value)| keyed(&key, &value, section)).collect()
}

/// `/path: …` or `host/path: …`.
fn keyed(key: &Located<String>, value: &Value<'_>, section: &Section<'_>) -> Option<ServerDocument> {
    let (host, path) = key.value.split_at(key.value.find('/').unwrap_or(key.value.len()));
    let path = match NormalPath::parse(path) {
        Ok(path) => path,
        Err(problem) => {
            section.error(&key.place, format!("the path {problem}"), PATH_FORMS);
            return None;
        }
    };
    let host = match host {
        "" => None,
        host => match HostPattern::parse(host) {
            Ok(host) => Some(host),
            Err(problem) => {
                section.error(&key.place, format!("`{host}`: {problem}"), PATH_FORMS);
                return None;
            }
        },
    };
    let blank = blank(key.place.clone(), &path);
    let mut server = match value.is_mapping() {
        true => value.section(|section| long(section, blank))?,
        false => ServerDocument { upstreams: names(value), ..blank },
    };
    if let Some(host) = host {
        if !server.hosts.is_empty() {
            section.error(&key.place, "hosts are written in the key and under `hosts`", "keep one of them");
        }
        server.hosts = vec![host];
    }
    Some(server)
}

/// `- {path: …, upstreams: …}`.
fn listed(value: &Value<'_>) -> Option<ServerDocument> {
    value.section(|section| {
        let path = section.required("path", "write `path: /mcp`");
        let path = path.and_then(|path| path.parsed(PATH_FORMS, NormalPath::parse));
        let root = NormalPath::parse("/").ok();
        // Read under a path that stands in, so that the rest of a server is checked as well.
        let server = long(
            section,
            blank(section.place().clone(), path.as_ref().map(|path| &path.value).or(root.as_ref())?),
        );
        path.map(|_| server)
    })?
}

const PATH_FORMS: &str =
    "write a path such as `/mcp`, with a host before it if it matters: `api.example.com/mcp`";

fn blank(place: Place, path: &NormalPath) -> ServerDocument {
    ServerDocument {
        place,
        path: path.without_trailing_slash().to_owned(),
        hosts: vec![],
        name: None,
        upstreams: vec![],
        names: None,
        bounds: Bounds::default(),
        max_body_bytes: None,
        http_status: HttpStatus::default(),
        unenforced: vec![],
    }
}

fn long(section: &mut Section<'_>, blank: ServerDocument) -> ServerDocument {
    const STATUSES: [(&str, HttpStatus); 2] =
        [("in_band", HttpStatus::InBand), ("mirror", HttpStatus::Mirror)];
    let policy = |value: Value<'_>| {
        value.one_of(&NamePolicy::NAMES).map(|policy| Located { value: policy, place: value.place() })
    };
    let upstreams = section.required("upstreams", "name the upstream that this server offers");
    ServerDocument {
        hosts: section.value("hosts").map(|value| hosts(&value)).unwrap_or_default(),
        name: section.value("name").and_then(|value| label(&value)),
        upstreams: upstreams.map(|value| names(&value)).unwrap_or_default(),
        names: section.value("names").and_then(policy),
        bounds: section.value("bounds").and_then(|value| bounds(&value)).unwrap_or_default(),
        max_body_bytes: section.value("max_body_bytes").and_then(|value| value.size(1..=MAX_BODY_BYTES)),
        http_status: section
            .value("http_status")
            .and_then(|value| value.one_of(&STATUSES))
            .unwrap_or_default(),
        unenforced: unenforced(
            section,
            &["tools", "allow", "deny", "rename", "sessions", "cache", "keepalive"],
        ),
        ..blank
    }
}

fn names(value: &Value<'_>) -> Vec<Located<String>> {
    let items = value.items_or_one();
    if items.is_empty() {
        value.error("no upstream is named", "name the upstream that this server offers");
    }
    items.iter().filter_map(Value::text).collect()
}

fn bounds(value: &Value<'_>) -> Option<Bounds> {
    if !value.is_mapping() {
        return value.one_of(&[("strict", Bounds::STRICT), ("default", Bounds::default())]);
    }
    let default = Bounds::default();
    value.section(|section| {
        let mut count = |key, most| section.value(key).and_then(|value| value.count(1..=most));
        let depth = count("depth", Bounds::MAX_DEPTH);
        let array_items = count("array", 100_000_000);
        let object_keys = count("keys", 10_000_000);
        let string_bytes = section.value("string").and_then(|value| value.size(1..=MAX_BODY_BYTES));
        Bounds {
            depth: depth.unwrap_or(default.depth),
            string_bytes: string_bytes.unwrap_or(default.string_bytes),
            array_items: array_items.unwrap_or(default.array_items),
            object_keys: object_keys.unwrap_or(default.object_keys),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::VirtualServer;
    use crate::testing::{loaded, problems};

    const UPSTREAMS: &str = "version: 1\nupstreams: {a: 'http://localhost:1/'}\n";

    fn server(servers: &str) -> VirtualServer {
        let loaded = loaded(&format!("{UPSTREAMS}servers: {servers}\n"));
        let server = loaded.snapshot.routes.iter().next().unwrap();
        VirtualServer::clone(server)
    }

    #[test]
    fn every_form_ends_in_the_same_server() {
        for form in [
            "{/team/mcp: a}",
            "{/team/mcp: [a]}",
            "{/team/mcp/: a}",
            "{/team/mcp: {upstreams: a}}",
            "{/team/mcp: {upstreams: [a], names: prefix_on_conflict}}",
            "[{path: /team/mcp, upstreams: a}]",
        ] {
            let server = server(form);
            assert_eq!((&*server.name, server.path.as_str()), ("team/mcp", "/team/mcp"), "{form}");
            assert_eq!((server.id.to_string().as_str(), server.hosts.len()), ("*|/team/mcp", 0), "{form}");
            assert_eq!(
                (server.bounds, server.http_status),
                (Bounds::default(), HttpStatus::InBand),
                "{form}"
            );
            assert_eq!(server.max_body_bytes, None, "{form}");
            assert_eq!(&*server.upstreams[0].name, "a", "{form}");
        }
    }

    #[test]
    fn hosts_stand_in_the_key_or_under_hosts() {
        for form in [
            "{api.example.com/mcp: a}",
            "{/mcp: {hosts: api.example.com, upstreams: a}}",
            "[{path: /mcp, hosts: [api.example.com], upstreams: a}]",
        ] {
            let server = server(form);
            assert_eq!(server.id.to_string(), "api.example.com|/mcp", "{form}");
            assert!(server.hosts[0].matches("api.example.com"), "{form}");
        }
    }

    #[test]
    fn the_long_form_says_everything() {
        let long = server(
            "{/mcp: {upstreams: a, name: crm, bounds: {depth: 5, string: 1KiB, array: 7, keys: 8},\n  \
             max_body_bytes: 2MiB, http_status: mirror}}",
        );
        assert_eq!(long.bounds, Bounds { depth: 5, string_bytes: 1024, array_items: 7, object_keys: 8 });
        assert_eq!((&*long.name, long.max_body_bytes), ("crm", Some(2 << 20)));
        assert_eq!(long.http_status, HttpStatus::Mirror);
        assert_eq!(server("{/mcp: {upstreams: a, bounds: strict}}").bounds, Bounds::STRICT);
    }

    #[test]
    fn wrong_servers_are_named() {
        let table = [
            ("a", "servers: text where a mapping from paths to upstreams should be"),
            ("[]", "servers: no server is named"),
            ("{}", "servers: no server is named"),
            ("{mcp: a}", "servers.mcp: the path does not begin with `/`"),
            ("{/a//b: a}", "servers./a//b: the path has an empty segment (`//`)"),
            ("{/a%2fb: a}", "servers./a%2fb: the path has an encoded separator"),
            ("{'a b/mcp': a}", "servers.a b/mcp: `a b`: not a host name, `*.` pattern or address"),
            (
                "{a.org/mcp: {hosts: b.org, upstreams: a}}",
                "servers.a.org/mcp: hosts are written in the key and under `hosts`",
            ),
            ("{/mcp: []}", "servers./mcp: no upstream is named"),
            ("{/mcp: 5}", "servers./mcp: a number where text should be"),
            ("{/mcp: {}}", "servers./mcp: `upstreams` is missing"),
            ("[{upstreams: a}]", "servers[0]: `path` is missing"),
            ("[{path: mcp, upstreams: a}]", "servers[0].path: `mcp`: does not begin with `/`"),
            (
                "{/mcp: {upstreams: a, names: prefix}}",
                "servers./mcp.names: this build cannot enforce `names: prefix`",
            ),
            ("{/mcp: {upstreams: a, names: suffix}}", "servers./mcp.names: `suffix` is not known here"),
            (
                "{/mcp: {upstreams: a, name: 'a b'}}",
                "servers./mcp.name: `a b`: no name that can stand in a metric label",
            ),
            ("{/mcp: {upstreams: a, bounds: lax}}", "servers./mcp.bounds: `lax` is not known here"),
            (
                "{/mcp: {upstreams: a, bounds: {depth: 121}}}",
                "servers./mcp.bounds.depth: `121` is out of range",
            ),
            (
                "{/mcp: {upstreams: a, http_status: loud}}",
                "servers./mcp.http_status: `loud` is not known here",
            ),
            ("{/mcp: {upstreams: a, rename: {}}}", "servers./mcp.rename: this build cannot enforce `rename`"),
            ("{/mcp: b}", "servers./mcp: no upstream is named `b`"),
            ("{/mcp: [a, a]}", "servers./mcp: this build cannot merge 2 upstreams into one server"),
            ("{/mcp: a, /mcp/: a}", "servers./mcp/: `servers./mcp` answers at the same path and host"),
        ];
        for (servers, problem) in table {
            assert_eq!(problems(&format!("{UPSTREAMS}servers: {servers}\n")), [problem], "{servers}");
        }
    }
}
