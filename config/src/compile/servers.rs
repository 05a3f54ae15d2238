//! Virtual servers: upstreams found by name, ids and labels unique.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{members, views};
use crate::diagnostic::{Findings, Located};
use crate::document::{ChoiceDocument, RulesDocument, ServerDocument, UpstreamDocument};
use crate::reader::suggestion;
use crate::snapshot::{ServerId, VirtualServer};
use crate::upstream::{Credentials, EraMode, Upstream};

/// The virtual servers of a document, of the upstreams that compiled.
pub(super) fn compile(
    rules: &RulesDocument,
    upstreams: &[Arc<Upstream>],
    findings: &Findings,
) -> Vec<VirtualServer> {
    let servers = &rules.servers;
    check_names(servers, &rules.upstreams, findings);
    check_overlap(servers, findings);
    check_tenants(rules, findings);
    warn_about_unused(servers, &rules.upstreams, findings);
    let labels = labels(servers, findings);
    let compile = |(document, name): (&ServerDocument, String)| {
        members::check(document, findings);
        let server = virtual_server(document, name, upstreams, findings);
        check_upstreams(document, &server, findings);
        server
    };
    servers.iter().zip(labels).map(compile).collect()
}

fn virtual_server(
    document: &ServerDocument,
    name: String,
    upstreams: &[Arc<Upstream>],
    findings: &Findings,
) -> VirtualServer {
    let members = members::compile(&document.members, upstreams);
    VirtualServer {
        id: ServerId::of(&document.hosts, &document.path),
        name: name.into(),
        path: document.path.clone(),
        hosts: document.hosts.clone(),
        upstreams: members::chosen(&members),
        members,
        names: document.names,
        separator: document.separator().into(),
        view: Arc::new(views::compile(document, findings)),
        bridge: document.unbridged.is_none(),
        sessions: document.sessions,
        cache: document.cache,
        parked: document.parked,
        replay: document.replay,
        keepalive: document.keepalive,
        list_timeout: document.list_timeout,
        http_sse: document.http_sse,
        bounds: document.bounds,
        max_body_bytes: document.max_body_bytes,
        answers: document.answers,
        http_status: document.http_status,
        identity: None,
    }
}

/// What upstreams cannot be to each other in one server.
fn check_upstreams(document: &ServerDocument, server: &VirtualServer, findings: &Findings) {
    let own = |upstream: &&Arc<Upstream>| upstream.credentials == Credentials::Passthrough;
    if let Some(upstream) = server.upstreams.iter().find(own).filter(|_| server.upstreams.len() > 1) {
        let problem =
            format!("clients' own credentials for `{}` would go to other upstreams as well", upstream.name);
        let hint = "give the upstream a credential of its own, or a server of its own";
        findings.error(&document.place, problem, hint);
    }
    let pinned = |era: EraMode| server.upstreams.iter().any(|upstream| upstream.era == era);
    if let Some(place) =
        document.unbridged.as_ref().filter(|_| pinned(EraMode::Legacy) && pinned(EraMode::Modern))
    {
        let problem = "no client can use both the legacy and the modern upstreams of this server";
        findings.error(place, problem, "remove `bridge: false`, or give each era a server of its own");
    }
}

/// Only an identified caller has a tenant.
fn check_tenants(rules: &RulesDocument, findings: &Findings) {
    if rules.identity.is_some() {
        return;
    }
    for member in rules.servers.iter().flat_map(|server| &server.members) {
        if let ChoiceDocument::ByTenant { otherwise, .. } = &member.choice {
            let problem = match otherwise {
                Some(otherwise) => format!("without `identity`, every caller goes to `{}`", otherwise.value),
                None => "without `identity`, no caller has a tenant, and nobody sees this".to_owned(),
            };
            findings.warn(&member.name.place, problem, "name the one upstream, until callers are identified");
        }
    }
}

/// Every name of an upstream that servers use.
fn references(servers: &[ServerDocument]) -> impl Iterator<Item = &Located<String>> {
    servers.iter().flat_map(|server| &server.members).flat_map(|member| member.choice.names())
}

fn check_names(servers: &[ServerDocument], documents: &[UpstreamDocument], findings: &Findings) {
    let known: Vec<&str> = documents.iter().map(|upstream| upstream.name.value.as_str()).collect();
    // With no upstream at all, that they are missing is the mistake, and it is reported already.
    if known.is_empty() {
        return;
    }
    for name in references(servers) {
        if !known.contains(&name.value.as_str()) {
            let hint = suggestion(&name.value, &known, "known upstreams:");
            findings.error(&name.place, format!("no upstream is named `{}`", name.value), hint);
        }
    }
}

/// Two servers of one path for one host: requests could go to either.
fn check_overlap(servers: &[ServerDocument], findings: &Findings) {
    for (index, server) in servers.iter().enumerate() {
        let same_host = |earlier: &&ServerDocument| {
            earlier.path == server.path
                && (earlier.hosts.is_empty() && server.hosts.is_empty()
                    || earlier.hosts.iter().any(|host| server.hosts.contains(host)))
        };
        if let Some(earlier) = servers[..index].iter().find(same_host) {
            let problem = format!("`{}` answers at the same path and host", earlier.place.path);
            findings.error(&server.place, problem, "give them different paths or different `hosts`");
        }
    }
}

fn warn_about_unused(servers: &[ServerDocument], documents: &[UpstreamDocument], findings: &Findings) {
    let used: BTreeSet<&str> = references(servers).map(|name| name.value.as_str()).collect();
    for upstream in documents.iter().filter(|upstream| !used.contains(upstream.name.value.as_str())) {
        findings.warn(
            &upstream.name.place,
            "no server offers this upstream",
            "name it under `servers`, or remove it",
        );
    }
}

/// A unique label for each server: its own, else its path, else host and path, else its id.
fn labels(servers: &[ServerDocument], findings: &Findings) -> Vec<String> {
    let mut taken = BTreeSet::new();
    for name in servers.iter().filter_map(|server| server.name.as_ref()) {
        if !taken.insert(name.value.clone()) {
            findings.error(
                &name.place,
                format!("another server is named `{}`", name.value),
                "choose another name",
            );
        }
    }
    let mut label = |server: &ServerDocument| {
        if let Some(name) = &server.name {
            return name.value.clone();
        }
        let path = match server.path.trim_start_matches('/') {
            "" => "root",
            path => path,
        };
        let id = ServerId::of(&server.hosts, &server.path).to_string();
        let with_host = server.hosts.first().map(|host| format!("{host}/{path}"));
        let candidates = [Some(path.to_owned()), with_host, Some(id.clone())];
        candidates.into_iter().flatten().find(|candidate| taken.insert(candidate.clone())).unwrap_or(id)
    };
    servers.iter().map(&mut label).collect()
}

#[cfg(test)]
mod tests {
    use crate::testing::{loaded, problems, refused};
    use crate::{MapEnvironment, Severity};

    const UPSTREAMS: &str =
        "version: 1\nupstreams: {crm: 'http://localhost:1/', search: 'http://localhost:2/'}\n";

    #[test]
    fn the_nearest_upstream_is_named() {
        let report = refused(&format!("{UPSTREAMS}servers: {{/mcp: serach}}\n"), &MapEnvironment::default());
        let error = report.0.iter().find(|found| found.severity == Severity::Error).unwrap();
        assert_eq!(error.hint, "did you mean `search`? known upstreams: `crm`, `search`");
    }

    #[test]
    fn an_upstream_that_is_wrong_is_not_unknown_as_well() {
        let found =
            problems("version: 1\nupstreams: {a: 'nonsense', b: {url: 5}}\nservers: {/a: a, /b: b}\n");
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found.iter().all(|shown| shown.starts_with("upstreams.")), "{found:?}");
    }

    #[test]
    fn an_unused_upstream_is_a_warning() {
        let loaded = loaded(&format!("{UPSTREAMS}servers: {{/mcp: crm}}\n"));
        let warned: Vec<_> = loaded
            .warnings
            .iter()
            .filter(|w| w.problem.contains("offers"))
            .map(|w| w.path.as_str())
            .collect();
        assert_eq!(warned, ["upstreams.search"]);
    }

    #[test]
    fn without_policy_it_is_said_that_anyone_may_call_anything() {
        let loaded = loaded(&format!("{UPSTREAMS}servers: {{/a: crm, /b: search}}\n"));
        let warned: Vec<_> = loaded.warnings.iter().map(|warning| warning.problem.as_str()).collect();
        assert_eq!(warned, ["without `policy`, every caller may call every tool"]);
    }

    #[test]
    fn one_path_and_host_has_one_server() {
        let list = |first: &str, second: &str| {
            format!(
                "{UPSTREAMS}servers:\n- {{path: /mcp, upstreams: crm{first}}}\n\
                 - {{path: /mcp, upstreams: search{second}}}\n"
            )
        };
        let table = [
            ("any and any", "", "", false),
            ("one host in common", ", hosts: [a.org, b.org]", ", hosts: [B.org.]", false),
            ("any and one", "", ", hosts: [a.org]", true),
            ("two hosts", ", hosts: [a.org]", ", hosts: [b.org]", true),
            ("pattern and host", ", hosts: ['*.a.org']", ", hosts: [x.a.org]", true),
        ];
        for (name, first, second, accepted) in table {
            let text = list(first, second);
            match accepted {
                true => assert_eq!(loaded(&text).snapshot.routes.iter().len(), 2, "{name}"),
                false => assert_eq!(
                    problems(&text),
                    ["servers[1]: `servers[0]` answers at the same path and host"],
                    "{name}"
                ),
            }
        }
    }

    #[test]
    fn credentials_of_clients_go_to_one_upstream() {
        let text = |servers: &str| {
            format!(
                "version: 1\nupstreams: {{own: {{url: 'http://h/', credentials: passthrough}}, b: 'http://h/b'}}\n\
                 servers: {servers}\n"
            )
        };
        let problem = "clients' own credentials for `own` would go to other upstreams as well";
        assert_eq!(loaded(&text("{/a: own, /b: b}")).snapshot.routes.iter().count(), 2);
        for upstreams in ["[own, b]", "[{name: x, by_tenant: {acme: own}, otherwise: b}]"] {
            let text = text(&format!("{{/mcp: {{upstreams: {upstreams}}}}}"));
            assert_eq!(problems(&text), [format!("servers./mcp: {problem}")], "{upstreams}");
        }
    }

    #[test]
    fn eras_that_no_client_speaks_both_of_need_the_bridge() {
        let text = |second: &str, server: &str| {
            format!(
                "version: 1\nupstreams: {{a: {{url: 'http://h/', era: legacy}}, \
                 b: {{url: 'http://h/b', era: {second}}}}}\n\
                 servers: {{/mcp: {{upstreams: [a, b], {server}}}}}\n"
            )
        };
        let problem = "no client can use both the legacy and the modern upstreams of this server";
        for (second, server) in
            [("modern", "bridge: true"), ("auto", "bridge: false"), ("legacy", "bridge: false")]
        {
            assert_eq!(loaded(&text(second, server)).snapshot.upstreams.len(), 2, "{second} {server}");
        }
        assert_eq!(problems(&text("modern", "bridge: false")), [format!("servers./mcp.bridge: {problem}")]);
    }

    #[test]
    fn tenants_of_nobody_are_warned_about() {
        let warned = |member: &str| -> Vec<String> {
            let loaded =
                loaded(&format!("{UPSTREAMS}servers: {{/mcp: {{upstreams: [{member}, crm, search]}}}}\n"));
            loaded.warnings.into_iter().filter(|w| w.path.contains("mcp")).map(|w| w.problem).collect()
        };
        assert_eq!(
            warned("{name: x, by_tenant: {acme: crm}, otherwise: search}"),
            ["without `identity`, every caller goes to `search`"]
        );
        assert_eq!(
            warned("{name: x, by_tenant: {acme: crm}}"),
            ["without `identity`, no caller has a tenant, and nobody sees this"]
        );
        assert!(warned("{name: x, upstream: crm}").is_empty());
    }

    #[test]
    fn one_upstream_as_it_is_makes_a_plain_server() {
        let plain = |upstream: &str, server: &str| {
            let text = format!(
                "version: 1\nupstreams: {{a: {{url: 'http://h/a'{upstream}}}, b: 'http://h/b'}}\n\
                 servers: {{/mcp: {{{server}}}, /b: b, /a: a}}\n"
            );
            loaded(&text).snapshot.routes.iter().next().unwrap().is_plain()
        };
        let table = [
            ("alone", "", "upstreams: a", true),
            ("unbridged", "", "upstreams: a, bridge: false, names: none", true),
            ("two", "", "upstreams: [a, b]", false),
            ("prefixed", "", "upstreams: a, names: prefix", false),
            ("hidden", "", "upstreams: a, deny: 'a.x'", false),
            ("renamed", "", "upstreams: a, rename: {a.x: y}", false),
            ("by tenant", "", "upstreams: {name: x, by_tenant: {t: a}}", false),
            ("an older transport", ", transport: sse", "upstreams: a", false),
            ("probed", ", health: 1s", "upstreams: a", true),
        ];
        for (name, upstream, server, expected) in table {
            assert_eq!(plain(upstream, server), expected, "{name}");
        }
    }

    #[test]
    fn labels_are_unique() {
        let names = |servers: &str| -> Vec<String> {
            let loaded = loaded(&format!("{UPSTREAMS}servers: {servers}\n"));
            loaded.snapshot.routes.iter().map(|server| server.name.to_string()).collect()
        };
        assert_eq!(names("{/: crm, /team/mcp: search}"), ["root", "team/mcp"]);
        assert_eq!(names("{/mcp: crm, a.org/mcp: search}"), ["mcp", "a.org/mcp"]);
        assert_eq!(names("{/x: {upstreams: crm, name: mcp}, /mcp: search}"), ["mcp", "*|/mcp"]);
        let twice = format!(
            "{UPSTREAMS}servers: {{/a: {{upstreams: crm, name: x}}, /b: {{upstreams: search, name: x}}}}\n"
        );
        assert_eq!(problems(&twice), ["servers./b.name: another server is named `x`"]);
    }
}
