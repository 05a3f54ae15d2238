//! The text of a new `gateway.yaml`, with what was found as comments.

use super::names::names;
use crate::probe::{Report, Verdict};
use crate::target::{Target, quoted};
use portunus_config::{EraMode, Upstream};
use std::net::{Ipv4Addr, SocketAddr};

/// Where a comment is broken.
const MAX_COLUMNS: usize = 100;

/// What is written besides the servers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Settings<'a> {
    /// Where MCP clients connect.
    pub(super) listen: SocketAddr,
    /// How the file is named in the commands of its comments.
    pub(super) file: &'a str,
}

/// A server that was looked at.
pub(super) struct Looked<'a> {
    pub(super) target: &'a Target,
    pub(super) upstream: &'a Upstream,
    pub(super) report: &'a Report,
}

/// The whole document; servers that cannot be served are commented out.
pub(super) fn document(looked: &[Looked<'_>], settings: Settings<'_>) -> String {
    let known = looked.iter().map(|one| (one.report.server.name.as_deref(), &one.upstream.url));
    let names = names(known);
    let paths: Vec<String> = names.iter().map(|name| path(name, looked.len())).collect();
    let mut text = head(settings, looked.len(), paths.first().map_or("/mcp", String::as_str));
    text += "\nupstreams:\n";
    for (one, name) in looked.iter().zip(&names) {
        text += &upstream(one, name);
    }
    if looked.len() > 1 {
        text += "\n# One upstream behind each server: clients connect to each path by itself.";
    }
    text += "\nservers:\n";
    for ((one, name), path) in looked.iter().zip(&names).zip(&paths) {
        let out = if one.report.served() { "" } else { "# " };
        text += &format!("  {out}{path}: {name}\n");
    }
    text
}

fn path(name: &str, servers: usize) -> String {
    if servers == 1 { "/mcp".to_owned() } else { format!("/mcp/{name}") }
}

fn head(settings: Settings<'_>, servers: usize, path: &str) -> String {
    let Settings { listen, file } = settings;
    let server = if servers == 1 { String::new() } else { format!(" --server {path}") };
    let [telemetry, admin] = surfaces(listen);
    let mut text = format!(
        "# yaml-language-server: $schema=gateway.schema.json\n\
         # A gateway in front of the MCP servers below, as `portunus init` found them.\n#\n\
         #   portunus check {file}\n\
         #   portunus run --config {file}\n\
         #   portunus connect CLIENT --config {file}{server}\n\
         #   portunus schema > gateway.schema.json      for editors: they then know every key\n\n\
         version: 1\n"
    );
    if listen.ip().is_loopback() {
        text += &format!("listen: {}\n", address(listen));
    } else {
        text += "# Nobody is asked who they are: whoever reaches this address may call every tool.\n";
        text += &format!("listeners: [{{ bind: {}, anonymous: allow }}]\n", address(listen));
    }
    text += &format!("{:<42}# /livez /readyz /metrics\n", format!("telemetry: {}", address(telemetry)));
    text += &format!("{:<42}# /status /config /refusals\n", format!("admin: {}", address(admin)));
    text
}

/// An address as a YAML scalar: brackets would begin a list.
fn address(address: SocketAddr) -> String {
    if address.is_ipv6() { format!("\"{address}\"") } else { address.to_string() }
}

/// Two more addresses, on loopback: none where the system is to choose, else ports that are free of
/// the listener's.
fn surfaces(listen: SocketAddr) -> [SocketAddr; 2] {
    let ports = match listen.port() {
        0 => [0, 0],
        9900 => [9902, 9901],
        9901 => [9900, 9902],
        _ => [9900, 9901],
    };
    ports.map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
}

fn upstream(one: &Looked<'_>, name: &str) -> String {
    let Looked { target, report, .. } = one;
    let mut lines = match report.failure() {
        None => comment(&format!("{}.", report.summary())),
        Some(step) => {
            let mut lines = comment(&format!("Not served: {}: {}.", step.stage.name(), step.detail));
            lines += &comment(&format!("To mend it: {}.", step.hints.join("; ")));
            lines
        }
    };
    let doubts = report.steps.iter().filter(|step| step.verdict == Verdict::Doubt);
    for hint in doubts.flat_map(|step| &step.hints).filter(|hint| !is_done(hint)) {
        lines += &comment(&format!("Note: {hint}."));
    }
    let mut settings = vec![format!("url: {}", quoted(&target.url))];
    if let Some((era, why)) = report.server.pin.as_ref().filter(|(era, _)| *era != EraMode::Auto) {
        lines += &comment(&format!("Its era is pinned, because clients of the other one are misled: {why}."));
        settings.push(format!("era: {}", era.as_str()));
    }
    settings.push("timeouts: { first_byte: 60s, total: 10m }".to_owned());
    if let Some(bearer) = &target.bearer {
        settings.push(format!("credentials: {{ bearer: {} }}", quoted(bearer)));
    }
    if let Some(ca) = &target.ca {
        settings.push(format!("tls: {{ ca: {} }}", quoted(&ca.to_string_lossy())));
    }
    if !report.grants.is_empty() {
        settings.push(format!("addresses: [{}]", report.grants.join(", ")));
    }
    let out = if report.served() { "" } else { "# " };
    let settings: String = settings.iter().map(|setting| format!("  {out}  {setting}\n")).collect();
    format!("{lines}  {out}{name}:\n{settings}")
}

/// What a hint asks for and the document has.
fn is_done(hint: &str) -> bool {
    hint.starts_with("the upstream needs `addresses") || hint.starts_with("write `era: ")
}

/// Lines of a comment; the text has no line ends, or they were ours.
fn comment(text: &str) -> String {
    let mut lines = String::new();
    let mut line = "  #".to_owned();
    for word in text.split_whitespace() {
        if line.len() + 1 + word.len() > MAX_COLUMNS && line.len() > 3 {
            lines += &format!("{line}\n");
            line = "  #  ".to_owned();
        }
        line += &format!(" {word}");
    }
    lines + &line + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::{Server, Stage, Step};
    use portunus_config::{MapEnvironment, Severity, load_text};
    use std::path::Path;
    use std::time::Duration;

    fn report(server: Server, steps: Vec<Step>) -> Report {
        let grants = vec!["private"];
        Report { url: String::new(), steps, addresses: Vec::new(), grants, server }
    }

    fn step(verdict: Verdict, detail: &str, hint: &str) -> Step {
        let took = Duration::ZERO;
        Step { stage: Stage::Tools, verdict, took, detail: detail.to_owned(), hints: vec![hint.to_owned()] }
    }

    fn target(url: &str, bearer: Option<&str>) -> Target {
        let bearer = bearer.map(str::to_owned);
        Target { url: url.to_owned(), bearer, ca: None, timeout: Duration::from_secs(1) }
    }

    /// The document for these servers, and its errors and warnings.
    fn written(servers: &[(Target, Report)], listen: &str) -> (String, Vec<String>) {
        let plain = |one: &Target| Target { bearer: None, ..one.clone() }.compile().unwrap();
        let upstreams: Vec<_> = servers.iter().map(|(target, _)| plain(target)).collect();
        let looked = servers.iter().zip(&upstreams);
        let looked: Vec<Looked<'_>> =
            looked.map(|((target, report), upstream)| Looked { target, upstream, report }).collect();
        let text = document(&looked, Settings { listen: listen.parse().unwrap(), file: "gateway.yaml" });
        let environment = MapEnvironment {
            variables: [("TOKEN".to_owned(), "t0k".to_owned())].into(),
            ..MapEnvironment::default()
        };
        let findings = match load_text(&text, Path::new("gateway.yaml"), &environment) {
            Ok(loaded) => loaded.warnings,
            Err(report) => report.0,
        };
        let shown = findings.iter().map(|found| format!("{:?} {}", found.severity, found.problem));
        (text.clone(), shown.collect())
    }

    /// What stands in every build without policies.
    const UNAVOIDABLE: &str = "without `policy`";

    #[test]
    fn what_is_written_is_good_and_has_no_warning_that_could_be_avoided() {
        let named = Server { name: Some("x\n  evil: 1 #\u{202e}".to_owned()), ..Server::default() };
        let pinned = Server { pin: Some((EraMode::Legacy, "HTTP 500".to_owned())), ..Server::default() };
        let doubt = step(Verdict::Doubt, "3 tools", &"a long hint ".repeat(30));
        let servers = [
            (target("http://a.internal/mcp?a='b", Some("env:TOKEN")), report(named, vec![doubt])),
            (target("http://127.0.0.1:9/mcp", None), report(pinned, Vec::new())),
        ];
        for listen in ["127.0.0.1:8080", "127.0.0.1:9900", "127.0.0.1:9901", "127.0.0.1:0", "[::1]:8080"] {
            let (text, findings) = written(&servers, listen);
            assert!(findings.iter().all(|found| found.contains(UNAVOIDABLE)), "{findings:?}\n{text}");
            assert!(text.lines().all(|line| line.len() <= 110), "{text}");
            assert!(
                text.contains("\n    era: legacy\n") && text.contains("\n    addresses: [private]\n"),
                "{text}"
            );
            assert!(text.contains("/mcp/x-evil-1: x-evil-1\n") == text.contains("  x-evil-1:\n"), "{text}");
            assert!(text.is_ascii(), "{text}");
        }
    }

    #[test]
    fn beyond_loopback_the_document_says_what_that_means() {
        let servers = [(target("http://a/mcp", None), report(Server::default(), Vec::new()))];
        let (text, findings) = written(&servers, "0.0.0.0:8080");
        assert!(
            findings.iter().all(|found| found.starts_with(&format!("{:?}", Severity::Warning))),
            "{findings:?}"
        );
        assert!(text.contains("anonymous: allow") && text.contains("may call every tool"), "{text}");
    }

    #[test]
    fn a_server_that_failed_is_a_comment() {
        let failed = step(Verdict::Failed, "no connection", "start it");
        let servers = [
            (target("http://a/mcp", None), report(Server::default(), Vec::new())),
            (target("http://b/mcp", None), report(Server::default(), vec![failed])),
        ];
        let (text, findings) = written(&servers, "127.0.0.1:8080");
        assert!(findings.iter().all(|found| found.contains(UNAVOIDABLE)), "{findings:?}\n{text}");
        assert!(text.contains("  # Not served: tools: no connection.\n"), "{text}");
        assert!(text.contains("\n  # b:\n  #   url: \"http://b/mcp\"\n"), "{text}");
        assert!(text.contains("\n  # /mcp/b: b\n"), "{text}");
        assert!(text.contains("\n  /mcp/a: a\n"), "{text}");
    }
}
