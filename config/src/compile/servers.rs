//! Virtual servers: upstreams found by name, ids and labels unique.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::diagnostic::Findings;
use crate::document::{ServerDocument, UpstreamDocument};
use crate::members::{Choice, Member, NamePolicy};
use crate::reader::suggestion;
use crate::serving::{CacheRules, ParkedRules, SessionRules};
use crate::snapshot::{ServerId, VirtualServer};
use crate::upstream::Upstream;

/// `documents` names every upstream that is written, `upstreams` those that compiled.
pub(super) fn compile(
    servers: &[ServerDocument],
    documents: &[UpstreamDocument],
    upstreams: &[Arc<Upstream>],
    findings: &Findings,
) -> Vec<VirtualServer> {
    check_names(servers, documents, findings);
    check_single_upstream(servers, findings);
    check_overlap(servers, findings);
    warn_about_unused(servers, documents, findings);
    let labels = labels(servers, findings);
    servers.iter().zip(labels).map(|(server, name)| virtual_server(server, name, upstreams)).collect()
}

fn virtual_server(document: &ServerDocument, name: String, upstreams: &[Arc<Upstream>]) -> VirtualServer {
    let chosen: Vec<_> = document.upstreams.iter().filter_map(|name| find(upstreams, &name.value)).collect();
    let member = |upstream: &Arc<Upstream>| Member {
        name: Arc::clone(&upstream.name),
        choice: Choice::Fixed(Arc::clone(upstream)),
    };
    VirtualServer {
        id: ServerId::of(&document.hosts, &document.path),
        name: name.into(),
        path: document.path.clone(),
        hosts: document.hosts.clone(),
        members: chosen.iter().map(member).collect(),
        upstreams: chosen,
        names: document.names.as_ref().map(|names| names.value).unwrap_or_default(),
        separator: VirtualServer::DEFAULT_SEPARATOR.into(),
        view: Arc::default(),
        bridge: true,
        sessions: SessionRules::default(),
        cache: CacheRules::default(),
        parked: ParkedRules::default(),
        replay: None,
        keepalive: VirtualServer::DEFAULT_KEEPALIVE,
        list_timeout: VirtualServer::DEFAULT_LIST_TIMEOUT,
        http_sse: false,
        bounds: document.bounds,
        max_body_bytes: document.max_body_bytes,
        http_status: document.http_status,
    }
}

fn find(upstreams: &[Arc<Upstream>], name: &str) -> Option<Arc<Upstream>> {
    upstreams.iter().find(|upstream| &*upstream.name == name).cloned()
}

fn check_names(servers: &[ServerDocument], documents: &[UpstreamDocument], findings: &Findings) {
    let known: Vec<&str> = documents.iter().map(|upstream| upstream.name.value.as_str()).collect();
    // With no upstream at all, that they are missing is the mistake, and it is reported already.
    if known.is_empty() {
        return;
    }
    for name in servers.iter().flat_map(|server| &server.upstreams) {
        if !known.contains(&name.value.as_str()) {
            let hint = suggestion(&name.value, &known, "known upstreams:");
            findings.error(&name.place, format!("no upstream is named `{}`", name.value), hint);
        }
    }
}

fn check_single_upstream(servers: &[ServerDocument], findings: &Findings) {
    for server in servers {
        if server.upstreams.len() > 1 {
            let problem =
                format!("this build cannot merge {} upstreams into one server", server.upstreams.len());
            let hint = "give each upstream a server of its own: `/crm/mcp: crm`";
            findings.error(&server.place, problem, hint);
        } else if let Some(names) = server.names.as_ref().filter(|names| names.value == NamePolicy::Prefix) {
            let problem = "this build cannot enforce `names: prefix`";
            findings.error(&names.place, problem, "remove the key: with one upstream no two names collide");
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
    let used: BTreeSet<&str> =
        servers.iter().flat_map(|server| &server.upstreams).map(|name| name.value.as_str()).collect();
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
