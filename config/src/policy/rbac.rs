//! `builtin: rbac`: a file of roles as data for rules that come with the gateway.
//!
//! The rules are ordinary Rego over `data.rbac`, which the gateway answers from an index. Those about time, reasons and arguments are there
//! only where some grant needs them, so that other decisions are remembered without regard to them.

use std::path::Path;

use portunus_filters::authorize::Module;
use portunus_filters::{Class, Risk};
use serde_json::{Map, Value as Json, json};

use super::source::PolicySource;
use crate::diagnostic::{Findings, Located};
use crate::reader::{Section, Source, Value, suggestion};
use crate::view::{respelt, split_upstream};
use crate::yaml;

/// Most roles of a file, and most grants of a role.
const MAX_ENTRIES: usize = 1000;

/// Longest pattern.
const MAX_PATTERN_BYTES: usize = 1024;

/// Most names of one list.
const MAX_NAMES: usize = 1000;

/// What a client who holds any role may send: the methods of MCP that are about no item of a list, and
/// what stands for messages without a method. Calls of tasks are among them, as a task is its caller's.
const GENERAL: &[&str] = &[
    "initialize",
    "server/discover",
    "ping",
    "logging/setLevel",
    "tools/list",
    "prompts/list",
    "resources/list",
    "resources/templates/list",
    "subscriptions/listen",
    "tasks/get",
    "tasks/update",
    "tasks/cancel",
    "notifications/initialized",
    "notifications/cancelled",
    "notifications/progress",
    "notifications/roots/list_changed",
    "stream",
    "end",
    "response",
];

/// What a server may ask a client whose caller holds any role.
const ASKED_OF_CLIENTS: &[&str] = &["ping", "roots/list", "sampling/createMessage", "elicitation/create"];

/// Methods that name an item of a list, and the key of a grant that is about it.
const NAMING: &[(&str, &str)] = &[
    ("tools/call", "tools"),
    ("prompts/get", "prompts"),
    ("resources/read", "resources"),
    ("resources/subscribe", "resources"),
    ("resources/unsubscribe", "resources"),
    ("completion/complete", "prompts` or `resources"),
];

/// Longest name of a method.
const MAX_METHOD_BYTES: usize = 128;

/// Names that a file of roles may speak of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Known<'a> {
    /// Upstreams of the document.
    pub(crate) upstreams: &'a [&'a str],
    /// Virtual servers, by their labels.
    pub(crate) servers: &'a [&'a str],
}

/// Rules and data of a file of roles. What is wrong with it is reported.
pub(crate) fn read(text: &str, file: &Path, known: Known<'_>, findings: &Findings) -> Option<PolicySource> {
    let root = yaml::parse(text, file, findings)?;
    let mut reader = Reader { known, needs: Needs::default() };
    let roles = Value::root(&root, Source { file, findings }).section(|section| {
        let hint = "write `roles: {NAME: {allow: [\"crm.get_*\"]}}`";
        section.required("roles", hint).map(|value| reader.roles(&value))
    })??;
    let general = json!({ "to_server": GENERAL, "to_client": ASKED_OF_CLIENTS });
    let data = Map::from_iter([("rbac".to_owned(), json!({ "general": general, "roles": roles }))]);
    Some(PolicySource { modules: modules(reader.needs), data })
}

/// Which rules a file needs beside those that all need.
#[derive(Clone, Copy, Debug, Default)]
struct Needs {
    time: bool,
    justification: bool,
    arguments: bool,
}

fn modules(needs: Needs) -> Vec<Module> {
    let time = match needs.time {
        true => ("time.rego", include_str!("rbac/time.rego")),
        false => ("time_open.rego", include_str!("rbac/time_open.rego")),
    };
    let justification = match needs.justification {
        true => ("justification.rego", include_str!("rbac/justification.rego")),
        false => ("justification_open.rego", include_str!("rbac/justification_open.rego")),
    };
    let arguments = match needs.arguments {
        true => ("arguments.rego", include_str!("rbac/arguments.rego")),
        false => ("arguments_open.rego", include_str!("rbac/arguments_open.rego")),
    };
    let files = [("rbac.rego", include_str!("rbac/rbac.rego")), time, justification, arguments];
    files.map(|(name, text)| Module { path: format!("builtin/{name}"), text: text.to_owned() }).into()
}

struct Reader<'a> {
    known: Known<'a>,
    needs: Needs,
}

impl Reader<'_> {
    fn roles(&mut self, value: &Value<'_>) -> Map<String, Json> {
        let entries = value.entries();
        if entries.is_empty() && value.is_mapping() {
            value.error("no role is named, so nobody may do anything", "name a role");
        }
        refuse_too_many(entries.len(), MAX_ENTRIES, value);
        let role = |(name, value): (Located<String>, Value<'_>)| {
            let role = value.section(|section| self.role(&name.value, section))?;
            Some((name.value, role))
        };
        entries.into_iter().filter_map(role).collect()
    }

    fn role(&mut self, name: &str, section: &mut Section<'_>) -> Json {
        let mut marks = ["roles", "groups", "subjects"].map(|key| (key, names(section, key)));
        if marks.iter().all(|(_, names)| names.is_none()) {
            marks[0].1 = Some(vec![name.to_owned()]);
        }
        let tenants = names(section, "tenants").unwrap_or_default();
        let [allow, deny] = ["allow", "deny"].map(|key| section.value(key));
        let methods = section.value("methods");
        if allow.is_none() && deny.is_none() && methods.is_none() {
            let hint = "write what it may do: `allow: [\"crm.get_*\"]`";
            section.error(section.place(), "the role says nothing", hint);
        }
        let mut role = json!({ "tenants": tenants });
        for (key, names) in marks {
            role[key] = json!(names.unwrap_or_default());
        }
        role["methods"] = methods.map(|value| self::methods(&value)).into_iter().flatten().collect();
        role["allow"] = allow.map(|value| self.grants(&value)).into_iter().flatten().collect();
        role["deny"] = deny.map(|value| self.grants(&value)).into_iter().flatten().collect();
        role
    }

    fn grants(&mut self, value: &Value<'_>) -> Vec<Json> {
        let items = value.items_or_one();
        refuse_too_many(items.len(), MAX_ENTRIES, value);
        items.iter().filter_map(|item| self.grant(item)).collect()
    }

    /// A pattern over tools, or a mapping.
    fn grant(&mut self, value: &Value<'_>) -> Option<Json> {
        if value.is_mapping() {
            return value.section(|section| self.long(section))?;
        }
        let tools = vec![self.pattern(value, false)?];
        Some(grant([tools, vec![], vec![]], vec![], Map::new()))
    }

    fn long(&mut self, section: &mut Section<'_>) -> Option<Json> {
        let patterns = ["tools", "prompts", "resources"].map(|key| {
            let values = section.value(key).map(|value| value.items_or_one()).unwrap_or_default();
            values.iter().filter_map(|value| self.pattern(value, key == "resources")).collect::<Vec<_>>()
        });
        if ["tools", "prompts", "resources"].iter().all(|key| section.key_place(key).is_none()) {
            let hint = "write `tools: \"crm.get_*\"`, or `prompts`, or `resources`";
            section.error(section.place(), "the grant is about nothing", hint);
        }
        let servers = section.value("servers").map(|value| self.servers(&value)).unwrap_or_default();
        let when = section.value("when").map(|value| value.section(|section| self.conditions(section)));
        Some(grant(patterns, servers, when.unwrap_or_else(|| Some(Map::new()))?))
    }

    fn servers(&self, value: &Value<'_>) -> Vec<String> {
        let server = |value: &Value<'_>| {
            let name = value.text()?;
            if !self.known.servers.contains(&name.value.as_str()) {
                let hint = suggestion(&name.value, self.known.servers, "known servers, by `name`:");
                value.error(format!("no server is named `{}`", name.value), hint);
            }
            Some(name.value)
        };
        value.items_or_one().iter().filter_map(server).collect()
    }

    /// `UPSTREAM.NAME`, lowered to what rules compare quickly.
    fn pattern(&self, value: &Value<'_>, is_uri: bool) -> Option<Json> {
        let hint = "write `UPSTREAM.NAME`, with `*` for any run of characters: `crm.get_*`, `*.get_*`";
        let halves = |text: &str| match text.len() <= MAX_PATTERN_BYTES {
            true => {
                let (upstream, name) = split_upstream(text, self.known.upstreams)?;
                Ok((upstream.to_owned(), name.to_owned()))
            }
            false => Err("is too long"),
        };
        let (upstream, name) = value.parsed(hint, halves)?.value;
        if !upstream.contains('*') && !self.known.upstreams.contains(&upstream.as_str()) {
            let hint = suggestion(&upstream, self.known.upstreams, "known upstreams:");
            value.error(format!("no upstream is named `{upstream}`"), hint);
        }
        if let Some(form) = respelt(&name).filter(|_| is_uri) {
            let hint = format!("write `{upstream}.{form}`");
            value.error(format!("`{name}` matches no URI: rules are asked of the normal form"), hint);
        }
        Some(json!({ "upstream": lowered(&upstream), "name": lowered(&name) }))
    }

    fn conditions(&mut self, section: &mut Section<'_>) -> Map<String, Json> {
        let mut when = Map::new();
        let mut set = |key: &str, value: Option<Json>| {
            if let Some(value) = value {
                when.insert(key.to_owned(), value);
            }
        };
        set("zones", names(section, "zones").map(Json::from));
        set(
            "classes",
            section.value("classes").map(|value| words(&value, &Class::NAMES.map(|(name, _)| name))),
        );
        let risks = Risk::NAMES.map(|(name, _)| (name, name));
        set("max_risk", section.value("max_risk").and_then(|value| value.one_of(&risks)).map(Json::from));
        set("mfa", section.value("mfa").and_then(|value| value.flag()).map(Json::from));
        let weekdays = section.value("weekdays").map(|value| words(&value, &WEEKDAYS));
        let hours = section.value("hours").and_then(|value| value.section(hours)?);
        self.needs.time |= weekdays.is_some() || hours.is_some();
        set("weekdays", weekdays);
        set("hours", hours);
        let justification = section.value("justification").and_then(|value| value.flag());
        self.needs.justification |= justification == Some(true);
        set("justification", justification.map(Json::from));
        let arguments = section.value("arguments").map(|value| arguments(&value));
        self.needs.arguments |= arguments.is_some();
        set("arguments", arguments);
        when
    }
}

const WEEKDAYS: [&str; 7] = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];

/// A grant with every key that rules read, so that none of them is undefined unnoticed.
fn grant([tools, prompts, resources]: [Vec<Json>; 3], servers: Vec<String>, when: Map<String, Json>) -> Json {
    let mut grant = json!({
        "tool": tools,
        "prompt": prompts,
        "resource": resources,
        "template": resources,
        "servers": servers,
        "zones": [],
        "classes": [],
        "weekdays": [],
        "arguments": {},
        "conditional": !when.is_empty(),
    });
    if let Some(grant) = grant.as_object_mut() {
        grant.extend(when);
    }
    grant
}

/// A pattern with at most one `*` is compared by its ends, another by a regular expression.
fn lowered(pattern: &str) -> Json {
    let Some((prefix, rest)) = pattern.split_once('*') else { return json!({ "exact": pattern }) };
    if !rest.contains('*') {
        let least = prefix.chars().count() + rest.chars().count();
        return json!({ "prefix": prefix, "suffix": rest, "least": least });
    }
    let mut expression = String::from("^");
    for character in pattern.chars() {
        match character {
            '*' => expression.push_str("(?s:.*)"),
            plain if plain.is_ascii_alphanumeric() || !plain.is_ascii() => expression.push(plain),
            special => expression.extend(['\\', special]),
        }
    }
    json!({ "glob": pattern, "regex": expression + "$" })
}

/// `{from: 8, to: 18}`: whole hours, the last one not among them.
fn hours(section: &mut Section<'_>) -> Option<Json> {
    let hint = "write `hours: {from: 8, to: 18}`";
    let [from, to] =
        ["from", "to"].map(|key| section.required(key, hint).and_then(|value| value.count(0..=24)));
    let (from, to) = (from?, to?);
    if from >= to {
        section.error(section.place(), "these hours end before they begin", "write two grants for a night");
        return None;
    }
    Some(json!({ "from": from, "to": to }))
}

/// By argument: the value that it must have, a list of such values, or `{claim: NAME}`.
fn arguments(value: &Value<'_>) -> Json {
    let wanted = |value: &Value<'_>| {
        if !value.is_mapping() {
            return Some(
                json!({ "values": value.items_or_one().iter().map(Value::json).collect::<Vec<_>>() }),
            );
        }
        value.section(|section| {
            let claim = section.required("claim", "write a value, a list of values, or `{claim: NAME}`")?;
            Some(json!({ "values": [], "claim": claim.text()?.value }))
        })?
    };
    let entries = value.entries().into_iter();
    Json::Object(entries.filter_map(|(name, value)| Some((name.value, wanted(&value)?))).collect())
}

/// Methods that a role may call beside those that all may.
fn methods(value: &Value<'_>) -> Vec<Json> {
    let items = value.items_or_one();
    refuse_too_many(items.len(), MAX_NAMES, value);
    let hint = "write the names of methods that MCP does not know, such as `acme/report`";
    let name = |item: &Value<'_>| Some(Json::from(item.parsed(hint, method)?.value));
    items.iter().filter_map(name).collect()
}

fn method(text: &str) -> Result<String, String> {
    if let Some((_, key)) = NAMING.iter().find(|(method, _)| *method == text) {
        return Err(format!("is granted by what it names: write `{key}` in `allow`"));
    }
    if GENERAL.contains(&text) {
        return Err("is open to every role: leave it out".to_owned());
    }
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"_-./$".contains(&byte);
    match !text.is_empty() && text.len() <= MAX_METHOD_BYTES && text.bytes().all(legal) {
        true => Ok(text.to_owned()),
        false => Err("is no name of a method; patterns are not known here".to_owned()),
    }
}

/// A list of words of a closed list.
fn words(value: &Value<'_>, known: &[&'static str]) -> Json {
    let known: Vec<(&str, &str)> = known.iter().map(|word| (*word, *word)).collect();
    value.items_or_one().iter().filter_map(|value| value.one_of(&known)).collect()
}

/// A list of names; `None` if the key is not written.
fn names(section: &mut Section<'_>, key: &'static str) -> Option<Vec<String>> {
    let value = section.value(key)?;
    let items = value.items_or_one();
    refuse_too_many(items.len(), MAX_NAMES, &value);
    Some(items.iter().filter_map(|item| item.text()).map(|name| name.value).collect())
}

fn refuse_too_many(count: usize, most: usize, value: &Value<'_>) {
    if count > most {
        value.error(format!("{count} entries are written"), format!("write at most {most}"));
    }
}

#[cfg(test)]
mod tests;
