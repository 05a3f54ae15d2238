//! What callers see of a virtual server: rules that concern some member, names that are given once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::diagnostic::{Findings, Located};
use crate::document::{Change, ServerDocument};
use crate::limits::is_tool_name;
use crate::members::NamePolicy;
use crate::reader::suggestion;
use crate::view::{Changes, Pattern, View};

/// The rules of a server; what is wrong with them is reported.
pub(super) fn compile(server: &ServerDocument, findings: &Findings) -> View {
    let document = &server.view;
    let members: Vec<&str> = server.members.iter().map(|member| member.name.value.as_str()).collect();
    let patterns = document.allow.iter().flatten().chain(&document.deny);
    patterns.for_each(|pattern| check_pattern(pattern, &members, findings));
    for change in document.rename.iter().chain(&document.describe) {
        check_member(&change.member, &members, findings);
    }
    check_names(server, findings);
    let rules = |patterns: &[Located<Pattern>]| patterns.iter().map(|one| one.value.clone()).collect();
    View {
        allow: document.allow.as_deref().map(rules),
        deny: rules(&document.deny),
        rename: changes(&document.rename),
        describe: changes(&document.describe),
    }
}

fn changes(written: &[Change]) -> Changes {
    let mut changes: Changes = BTreeMap::new();
    for change in written {
        let of_member = changes.entry(change.member.value.as_str().into()).or_default();
        of_member.insert(change.original.as_str().into(), Arc::from(change.to.value.as_str()));
    }
    changes
}

/// A rule about no member does nothing: a member that is misspelt is an error, since what it was to
/// hide would be shown, a pattern that has nothing to match yet a warning.
fn check_pattern(pattern: &Located<Pattern>, members: &[&str], findings: &Findings) {
    let of = &pattern.value.member;
    if of.is_literal() {
        check_member(&Located { value: of.to_string(), place: pattern.place.clone() }, members, findings);
    } else if !members.iter().any(|member| of.matches(member)) {
        let problem = format!("`{of}` matches no member of this server");
        findings.warn(&pattern.place, problem, suggestion(&of.to_string(), members, "members:"));
    }
}

fn check_member(name: &Located<String>, members: &[&str], findings: &Findings) {
    if !members.contains(&name.value.as_str()) {
        let problem = format!("this server has no member `{}`", name.value);
        findings.error(&name.place, problem, suggestion(&name.value, members, "members:"));
    }
}

/// New names can be called, and are given once.
fn check_names(server: &ServerDocument, findings: &Findings) {
    let mut taken = BTreeSet::new();
    for change in &server.view.rename {
        let to = &change.to;
        if !is_tool_name(&to.value) {
            let hint = "use letters, digits, `_`, `-` and `.`, at most 128; language models take no dot";
            findings.error(&to.place, format!("`{}`: no name of a tool", to.value), hint);
        } else if !taken.insert(to.value.as_str()) {
            let problem = format!("another name is changed to `{}`", to.value);
            findings.error(&to.place, problem, "give each a name of its own");
        }
        warn_about_prefix(change, server, findings);
    }
}

/// A new name that looks like another member's can meet one of its names.
fn warn_about_prefix(change: &Change, server: &ServerDocument, findings: &Findings) {
    let begins = |name: &&str| {
        *name != change.member.value && change.to.value.starts_with(&format!("{name}{}", server.separator()))
    };
    let mut names = server.members.iter().map(|member| member.name.value.as_str());
    if let Some(name) = names.find(begins).filter(|_| server.names != NamePolicy::None) {
        let problem = format!("this name begins like the prefixed names of `{name}`");
        let hint = "choose another: should the two meet, the name belongs to the earlier member";
        findings.warn(&change.to.place, problem, hint);
    }
}

#[cfg(test)]
mod tests {
    use crate::VirtualServer;
    use crate::testing::{loaded, problems};

    fn text(rules: &str) -> String {
        format!(
            "version: 1\nupstreams: {{crm: 'http://localhost:1/', search: 'http://localhost:2/'}}\n\
             servers: {{/mcp: {{upstreams: [crm, search], {rules}}}}}\n"
        )
    }

    fn server(rules: &str) -> VirtualServer {
        let loaded = loaded(&text(rules));
        VirtualServer::clone(loaded.snapshot.routes.iter().next().unwrap())
    }

    #[test]
    fn every_rule_is_in_the_view() {
        let view = server(
            "allow: ['crm.*', 'search.find'], deny: 'crm.delete_*',\n  \
             rename: {crm.find_customer: find}, describe: {search.find: 'Looks.'}",
        )
        .view;
        assert!(view.admits("crm", "find_customer") && view.admits("search", "find"));
        assert!(!view.admits("crm", "delete_all") && !view.admits("search", "other"));
        assert_eq!(view.renamed("crm", "find_customer"), Some("find"));
        assert_eq!(view.described("search", "find"), Some("Looks."));
        assert!(server("names: prefix").view.is_empty());
    }

    #[test]
    fn a_pattern_that_matches_no_member_is_a_warning() {
        let warned = |rules: &str| -> Vec<String> {
            let warnings = loaded(&text(rules)).warnings;
            warnings
                .into_iter()
                .filter(|found| found.path.contains("mcp"))
                .map(|found| found.problem)
                .collect()
        };
        assert_eq!(warned("deny: ['files*.x']"), ["`files*` matches no member of this server"]);
        let misspelt = "`MAILTO:*` matches no URI: rules are asked of the normal form";
        assert_eq!(warned("deny: ['crm.MAILTO:*', 'crm.mailto:*']"), [misspelt]);
        assert!(warned("deny: ['*.x', 'c*.x', 'crm.x']").is_empty());
    }

    #[test]
    fn a_new_name_that_looks_like_another_member_s_is_a_warning() {
        let warned = |rules: &str| {
            loaded(&text(rules)).warnings.iter().any(|found| found.path == "servers./mcp.rename.crm.a")
        };
        let table = [
            ("rename: {crm.a: search_a}", true),
            ("rename: {crm.a: crm_a}", false),
            ("rename: {crm.a: searches}", false),
            ("rename: {crm.a: search_a}, separator: '__'", false),
            ("rename: {crm.a: search_a}, names: none", false),
        ];
        for (rules, expected) in table {
            assert_eq!(warned(rules), expected, "{rules}");
        }
    }

    #[test]
    fn wrong_rules_are_named() {
        let table = [
            ("deny: ['cmr.*']", ".deny[0]: this server has no member `cmr`"),
            ("allow: 'files.*'", ".allow: this server has no member `files`"),
            ("deny: []", ".deny: the list is empty"),
            ("deny: 'delete_*'", ".deny: `delete_*`: does not say whose name it is"),
            (
                "deny: 'crm.FILE:///etc/*'",
                ".deny: `FILE:///etc/*` matches no URI: rules are asked of the normal form",
            ),
            ("rename: {crm.a: b, search.c: b}", ".rename.search.c: another name is changed to `b`"),
            ("rename: {crm.a: 'b c'}", ".rename.crm.a: `b c`: no name of a tool"),
            ("rename: {'crm.*': b}", ".rename.crm.*: `crm.*`: is a pattern"),
            ("rename: {files.a: b}", ".rename.files.a: this server has no member `files`"),
            ("describe: {files.a: b}", ".describe.files.a: this server has no member `files`"),
            ("describe: {crm.a: ''}", ".describe.crm.a: text where text that is not empty should be"),
        ];
        for (rules, problem) in table {
            assert_eq!(problems(&text(rules)), [format!("servers./mcp{problem}")], "{rules}");
        }
    }
}
