//! What a virtual server is made of: upstreams found by name, and names that stay with their owner.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::diagnostic::{Findings, Located};
use crate::document::{ChoiceDocument, MemberDocument, ServerDocument};
use crate::limits::is_tool_name;
use crate::members::{Choice, MAX_MEMBERS, MAX_TWINS, Member, NamePolicy};
use crate::upstream::Upstream;

/// The members whose upstreams compiled.
pub(super) fn compile(documents: &[MemberDocument], upstreams: &[Arc<Upstream>]) -> Vec<Member> {
    let member = |document: &MemberDocument| {
        let choice = choice(&document.choice, upstreams)?;
        Some(Member { name: document.name.value.as_str().into(), choice })
    };
    documents.iter().filter_map(member).collect()
}

/// Every upstream that may be chosen, each once, in the order of the members.
pub(super) fn chosen(members: &[Member]) -> Vec<Arc<Upstream>> {
    let mut seen = BTreeSet::new();
    let all = members.iter().flat_map(|member| member.choice.upstreams());
    all.filter(|upstream| seen.insert(&upstream.name)).cloned().collect()
}

/// Reports what is wrong with the members of a server, whatever upstreams they name.
pub(super) fn check(server: &ServerDocument, findings: &Findings) {
    if server.members.len() > MAX_MEMBERS {
        let problem = format!("{} upstreams are merged into one server", server.members.len());
        findings.error(&server.place, problem, format!("merge at most {MAX_MEMBERS}"));
    }
    check_unique(server, findings);
    if server.members.len() > 1 || server.names == NamePolicy::Prefix || !server.view.is_empty() {
        server.members.iter().for_each(|member| check_prefix(&member.name, findings));
    }
    check_separator(server, findings);
    server.members.iter().for_each(|member| check_twins(member, findings));
}

fn choice(document: &ChoiceDocument, upstreams: &[Arc<Upstream>]) -> Option<Choice> {
    let find =
        |name: &Located<String>| upstreams.iter().find(|upstream| *upstream.name == *name.value).cloned();
    let map = |map: &[(Located<String>, Located<String>)]| {
        map.iter().filter_map(|(key, name)| Some((key.value.as_str().into(), find(name)?))).collect()
    };
    Some(match document {
        ChoiceDocument::Fixed(name) => Choice::Fixed(find(name)?),
        ChoiceDocument::ByTenant { map: tenants, otherwise } => {
            Choice::ByTenant { map: map(tenants), otherwise: otherwise.as_ref().and_then(find) }
        }
        ChoiceDocument::Twins { selector, map: regions, default, .. } => Choice::Twins {
            selector: selector.value.as_str().into(),
            map: map(regions),
            default: default.value.as_str().into(),
        },
    })
}

fn check_unique(server: &ServerDocument, findings: &Findings) {
    let mut taken = BTreeSet::new();
    for member in &server.members {
        if !taken.insert(member.name.value.as_str()) {
            let problem = format!("another member is named `{}`", member.name.value);
            let hint = "give one another name: `{name: OTHER, upstream: NAME}`";
            findings.error(&member.name.place, problem, hint);
        }
    }
}

/// A name that stands before others, and before the dot of a rule.
fn check_prefix(name: &Located<String>, findings: &Findings) {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-".contains(&byte);
    if name.value.len() > 64 || !name.value.bytes().all(plain) {
        let problem = format!("`{}` cannot stand before the names of tools", name.value);
        let hint = "use letters, digits, `_` and `-`, at most 64: `{name: team-crm, upstream: team/crm}`";
        findings.error(&name.place, problem, hint);
    }
}

/// No name with the separator may begin another with it, else `a` + `b_x` and `a_b` + `x` would be
/// one name, and whose it is would depend on which tools there are.
fn check_separator(server: &ServerDocument, findings: &Findings) {
    let separator = server.separator();
    if let Some(written) = server.separator.as_ref().filter(|text| text.value.contains('.')) {
        let problem = "interfaces of language models take no dot in the name of a tool";
        findings.warn(&written.place, problem, "write `_`, `__` or `-`");
    }
    if server.names == NamePolicy::None {
        return;
    }
    let names = || server.members.iter().map(|member| &member.name);
    for name in names() {
        let begins = |other: &&Located<String>| {
            other.value != name.value
                && format!("{}{separator}", name.value).starts_with(&format!("{}{separator}", other.value))
        };
        if let Some(other) = names().find(begins) {
            let problem = format!(
                "with the separator `{separator}`, names of `{}` and `{}` could be the same",
                other.value, name.value
            );
            let hint = "give the member another name, or write another separator: `separator: \"__\"`";
            findings.error(&name.place, problem, hint);
        }
    }
}

fn check_twins(member: &MemberDocument, findings: &Findings) {
    let ChoiceDocument::Twins { selector, map, default, place } = &member.choice else { return };
    if !is_tool_name(&selector.value) || selector.value.len() > 64 {
        let hint = "use letters, digits, `_` and `-`, at most 64, such as `region`";
        findings.error(&selector.place, format!("`{}`: no name of an argument", selector.value), hint);
    }
    if map.len() > MAX_TWINS {
        findings.error(
            place,
            format!("{} regions are named", map.len()),
            format!("name at most {MAX_TWINS}"),
        );
    }
    if !map.iter().any(|(region, _)| region.value == default.value) {
        let known: Vec<&str> = map.iter().map(|(region, _)| region.value.as_str()).collect();
        let hint = crate::reader::suggestion(&default.value, &known, "regions:");
        findings.error(&default.place, format!("`{}` is none of the regions", default.value), hint);
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{loaded, problems};

    fn text(server: &str) -> String {
        let names = ["a", "a_b", "a_", "team/a", "x.y"].map(|name| format!("{name}: 'http://localhost:1/'"));
        format!("version: 1\nupstreams: {{{}}}\nservers: {{/mcp: {{{server}}}, /all: a}}\n", names.join(", "))
    }

    #[test]
    fn a_prefixed_name_belongs_to_one_member_only() {
        let clash = |first, second, separator| {
            format!("with the separator `{separator}`, names of `{first}` and `{second}` could be the same")
        };
        let table = [
            ("one begins the other", "upstreams: [a, a_b]", Some(("[1]", clash("a", "a_b", "_")))),
            ("in any order", "upstreams: [a_b, a]", Some(("[0]", clash("a", "a_b", "_")))),
            ("a longer separator", "upstreams: [a, a_b], separator: '__'", None),
            (
                "but not this one",
                "upstreams: [a, a_], separator: '__'",
                Some(("[1]", clash("a", "a_", "__"))),
            ),
            ("another separator", "upstreams: [a, a_b], separator: '-'", None),
            ("no prefixes", "upstreams: [a, a_b], names: none", None),
            ("another name", "upstreams: [a, {name: b, upstream: a_b}]", None),
        ];
        for (name, server, clash) in table {
            match clash {
                None => drop(loaded(&text(server))),
                Some((at, clash)) => {
                    assert_eq!(
                        problems(&text(server)),
                        [format!("servers./mcp.upstreams{at}: {clash}")],
                        "{name}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_name_that_stands_before_others_is_plain() {
        let wrong = |at: &str, name: &str| {
            Some(format!("servers./mcp.upstreams{at}: `{name}` cannot stand before the names of tools"))
        };
        let table = [
            ("upstreams: team/a", None),
            ("upstreams: team/a, names: prefix", wrong("", "team/a")),
            ("upstreams: x.y, deny: ['*.delete_*']", wrong("", "x.y")),
            ("upstreams: [a, team/a]", wrong("[1]", "team/a")),
            ("upstreams: [a, {name: team-a, upstream: team/a}]", None),
        ];
        for (server, problem) in table {
            match problem {
                None => drop(loaded(&text(server))),
                Some(problem) => assert_eq!(problems(&text(server)), [problem], "{server}"),
            }
        }
    }

    #[test]
    fn a_dot_in_the_separator_is_warned_about() {
        let warned = |separator: &str| {
            let loaded = loaded(&text(&format!("upstreams: [a, a_b], separator: '{separator}'")));
            loaded.warnings.iter().any(|warning| warning.path == "servers./mcp.separator")
        };
        assert_eq!((warned("."), warned("-")), (true, false));
    }

    #[test]
    fn a_server_has_a_hundred_members_at_most() {
        let merged = |count: usize| {
            let names =
                (0..count).map(|index| format!("{{name: m{index}-, upstream: a}}")).collect::<Vec<_>>();
            text(&format!("upstreams: [{}]", names.join(", ")))
        };
        assert_eq!(loaded(&merged(100)).snapshot.routes.iter().count(), 2);
        assert_eq!(problems(&merged(101)), ["servers./mcp: 101 upstreams are merged into one server"]);
    }
}
