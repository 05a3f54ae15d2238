//! `servers`.

use std::time::Duration;

use portunus_filters::mcp::Bounds;
use portunus_filters::{AnswerBound, Beyond};

use super::identity::{self, ServerIdentityDocument};
use super::listeners::label;
use super::members::{self, MemberDocument};
use super::secrets::hosts;
use super::serving::{self, ServingDefaults};
use super::unenforced;
use super::views::{self, ViewDocument};
use crate::diagnostic::{Located, Place};
use crate::limits::{MAX_BODY_BYTES, is_tool_name};
use crate::members::NamePolicy;
use crate::reader::Unenforced;
use crate::reader::{Section, Value};
use crate::routes::NormalPath;
use crate::serving::{CacheRules, ParkedRules, ReplayRules, SessionRules};
use crate::snapshot::{HttpStatus, VirtualServer};
use portunus_base::HostPattern;

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
    /// `upstreams`, in the order in which they own names.
    pub members: Vec<MemberDocument>,
    /// `names`.
    pub names: NamePolicy,
    /// `separator`.
    pub separator: Option<Located<String>>,
    /// `allow`, `deny`, `rename` and `describe`.
    pub view: ViewDocument,
    /// `bridge: false`, where it is written.
    pub unbridged: Option<Place>,
    /// `sessions`.
    pub sessions: SessionRules,
    /// `cache`.
    pub cache: CacheRules,
    /// `parked`.
    pub parked: ParkedRules,
    /// `replay`.
    pub replay: Option<ReplayRules>,
    /// `keepalive`.
    pub keepalive: Duration,
    /// `list_timeout`.
    pub list_timeout: Duration,
    /// `http_sse`.
    pub http_sse: bool,
    /// `bounds`.
    pub bounds: Bounds,
    /// `max_body_bytes`.
    pub max_body_bytes: Option<usize>,
    /// `answers`.
    pub answers: AnswerBound,
    /// `http_status`.
    pub http_status: HttpStatus,
    /// `identity`.
    pub identity: Option<ServerIdentityDocument>,
    /// What is written and not enforced.
    pub unenforced: Vec<Unenforced>,
}

impl ServerDocument {
    /// What stands between the name of a member and that of its tool.
    pub(crate) fn separator(&self) -> &str {
        self.separator.as_ref().map_or(VirtualServer::DEFAULT_SEPARATOR, |separator| &separator.value)
    }
}

pub(super) fn read(section: &mut Section<'_>, defaults: &ServingDefaults) -> Vec<ServerDocument> {
    let hint = "say where clients connect: `servers: {/mcp: NAME_OF_AN_UPSTREAM}`";
    let Some(value) = section.required("servers", hint) else { return vec![] };
    if value.is_list() {
        let items = value.items();
        if items.is_empty() {
            value.error("no server is named", hint);
        }
        return items.iter().filter_map(|item| listed(item, defaults)).collect();
    }
    if !value.is_mapping() {
        return value.expected("a mapping from paths to upstreams").unwrap_or_default();
    }
    let entries = value.entries();
    if entries.is_empty() {
        value.error("no server is named", hint);
    }
    entries.iter().filter_map(|(key, value)| keyed(key, value, section, defaults)).collect()
}

/// `/path` or `host/path`.
fn place_of(key: &Located<String>, section: &Section<'_>) -> Option<(NormalPath, Option<HostPattern>)> {
    let (host, path) = key.value.split_at(key.value.find('/').unwrap_or(key.value.len()));
    let path = NormalPath::parse(path)
        .map_err(|problem| section.error(&key.place, format!("the path {problem}"), PATH_FORMS));
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
    Some((path.ok()?, host))
}

/// `/path: …` or `host/path: …`.
fn keyed(
    key: &Located<String>,
    value: &Value<'_>,
    section: &Section<'_>,
    defaults: &ServingDefaults,
) -> Option<ServerDocument> {
    let (path, host) = place_of(key, section)?;
    let blank = blank(key.place.clone(), &path, defaults);
    let mut server = match value.is_mapping() {
        true => value.section(|section| long(section, blank))?,
        false => ServerDocument { members: members::read(value), ..blank },
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
fn listed(value: &Value<'_>, defaults: &ServingDefaults) -> Option<ServerDocument> {
    value.section(|section| {
        let path = section.required("path", "write `path: /mcp`");
        let path = path.and_then(|path| path.parsed(PATH_FORMS, NormalPath::parse));
        let root = NormalPath::parse("/").ok();
        // Read under a path that stands in, so that the rest of a server is checked as well.
        let under = path.as_ref().map(|path| &path.value).or(root.as_ref())?;
        let server = long(section, blank(section.place().clone(), under, defaults));
        path.map(|_| server)
    })?
}

const PATH_FORMS: &str =
    "write a path such as `/mcp`, with a host before it if it matters: `api.example.com/mcp`";

fn blank(place: Place, path: &NormalPath, defaults: &ServingDefaults) -> ServerDocument {
    ServerDocument {
        place,
        path: path.without_trailing_slash().to_owned(),
        hosts: vec![],
        name: None,
        members: vec![],
        names: NamePolicy::default(),
        separator: None,
        view: ViewDocument::default(),
        unbridged: None,
        sessions: defaults.sessions,
        cache: defaults.cache,
        parked: ParkedRules::default(),
        replay: None,
        keepalive: VirtualServer::DEFAULT_KEEPALIVE,
        list_timeout: VirtualServer::DEFAULT_LIST_TIMEOUT,
        http_sse: false,
        bounds: Bounds::default(),
        max_body_bytes: None,
        answers: AnswerBound::default(),
        http_status: HttpStatus::default(),
        identity: None,
        unenforced: vec![],
    }
}

fn long(section: &mut Section<'_>, blank: ServerDocument) -> ServerDocument {
    const STATUSES: [(&str, HttpStatus); 2] =
        [("in_band", HttpStatus::InBand), ("mirror", HttpStatus::Mirror)];
    let upstreams = section.required("upstreams", "name the upstream that this server offers");
    let status = section.value("http_status").and_then(|value| value.one_of(&STATUSES));
    let bridge = section.value("bridge");
    ServerDocument {
        hosts: section.value("hosts").map(|value| hosts(&value)).unwrap_or_default(),
        name: section.value("name").and_then(|value| label(&value)),
        members: upstreams.map(|value| members::read(&value)).unwrap_or_default(),
        names: section.value("names").and_then(|value| value.one_of(&NamePolicy::NAMES)).unwrap_or_default(),
        separator: section.value("separator").and_then(|value| separator(&value)),
        view: views::read(section),
        unbridged: bridge.and_then(|value| (!value.flag()?).then(|| value.place())),
        sessions: serving::sessions(section, blank.sessions),
        cache: serving::cache(section, blank.cache),
        parked: serving::parked(section),
        replay: serving::replay(section),
        keepalive: serving::duration(section, "keepalive", blank.keepalive),
        list_timeout: serving::duration(section, "list_timeout", blank.list_timeout),
        http_sse: section.value("http_sse").and_then(|value| value.flag()).unwrap_or_default(),
        bounds: section.value("bounds").and_then(|value| bounds(&value)).unwrap_or_default(),
        max_body_bytes: section.value("max_body_bytes").and_then(|value| value.size(1..=MAX_BODY_BYTES)),
        answers: section.value("answers").and_then(|value| answers(&value)).unwrap_or_default(),
        http_status: status.unwrap_or_default(),
        identity: identity::of_server(section),
        unenforced: unenforced(section, &["tools"]),
        ..blank
    }
}

/// What may stand between a member's name and a tool's: what may stand in a tool's name.
fn separator(value: &Value<'_>) -> Option<Located<String>> {
    let hint = "write 1 to 8 letters, digits, `_`, `-` or `.`, such as `__`";
    value.parsed(hint, |text| match is_tool_name(text) && text.len() <= 8 {
        true => Ok(text.to_owned()),
        false => Err("cannot stand in the name of a tool"),
    })
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

fn answers(value: &Value<'_>) -> Option<AnswerBound> {
    let default = AnswerBound::default();
    value.section(|section| {
        let hold = section.value("hold").and_then(|value| value.size(1..=AnswerBound::MAX_HOLD));
        let beyond = section.value("beyond").and_then(|value| value.one_of(&Beyond::NAMES));
        AnswerBound { hold: hold.unwrap_or(default.hold), beyond: beyond.unwrap_or(default.beyond) }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
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
             max_body_bytes: 2MiB, answers: {hold: 1MiB, beyond: pass}, http_status: mirror}}",
        );
        assert_eq!(long.answers, AnswerBound { hold: 1 << 20, beyond: Beyond::Pass });
        let held = server("{/mcp: {upstreams: a, answers: {hold: 2KiB}}}").answers;
        assert_eq!(held, AnswerBound { hold: 2 << 10, beyond: Beyond::Block });
        assert_eq!(server("{/mcp: a}").answers, AnswerBound::default());
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
                "{/mcp: {upstreams: a, answers: {hold: 33MiB}}}",
                "servers./mcp.answers.hold: `33MiB` is out of range",
            ),
            (
                "{/mcp: {upstreams: a, answers: {beyond: cut}}}",
                "servers./mcp.answers.beyond: `cut` is not known here",
            ),
            (
                "{/mcp: {upstreams: a, http_status: loud}}",
                "servers./mcp.http_status: `loud` is not known here",
            ),
            ("{/mcp: {upstreams: a, tools: {}}}", "servers./mcp.tools: this build cannot enforce `tools`"),
            (
                "{/mcp: {upstreams: a, separator: '/'}}",
                "servers./mcp.separator: `/`: cannot stand in the name of a tool",
            ),
            ("{/mcp: b}", "servers./mcp: no upstream is named `b`"),
            ("{/mcp: a, /mcp/: a}", "servers./mcp/: `servers./mcp` answers at the same path and host"),
        ];
        for (servers, problem) in table {
            assert_eq!(problems(&format!("{UPSTREAMS}servers: {servers}\n")), [problem], "{servers}");
        }
    }
}
