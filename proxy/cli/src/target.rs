//! A server that a command was told of, compiled as an upstream: what the command finds then holds
//! for a gateway with the same settings.

use portunus_base::UpstreamUrl;
use portunus_config::units::show_duration;
use portunus_config::{ProcessEnvironment, Severity, Upstream, load_text};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// What the command line says of a server.
#[derive(Clone, Debug)]
pub(super) struct Target {
    /// As it was typed.
    pub(super) url: String,
    /// `env:NAME` or `file:PATH` of a bearer token.
    pub(super) bearer: Option<String>,
    /// Certificates to trust instead of the system's.
    pub(super) ca: Option<PathBuf>,
    /// For each answer.
    pub(super) timeout: Duration,
}

impl Target {
    /// The server as an upstream that may be dialled at any address that can be granted.
    ///
    /// # Errors
    /// What is wrong with the URL, the credential or the certificates, in words for the terminal.
    pub(super) fn compile(&self) -> Result<Arc<Upstream>, String> {
        // Parsed first, so that nothing but a URL gets into the document.
        UpstreamUrl::parse(&self.url).map_err(|problem| format!("the URL {problem}"))?;
        let loaded = load_text(&self.document(), Path::new("upstream.yaml"), &ProcessEnvironment);
        let loaded = loaded.map_err(|report| {
            let errors = report.0.iter().filter(|found| found.severity == Severity::Error);
            let lines = errors
                .map(|found| format!("{}: {}\n  hint: {}", about(&found.path), found.problem, found.hint));
            lines.collect::<Vec<_>>().join("\n")
        })?;
        loaded.snapshot.upstreams.first().cloned().ok_or_else(|| "the URL names no server".to_owned())
    }

    fn document(&self) -> String {
        let timeout = show_duration(self.timeout);
        let mut settings = format!(
            "url: {}, addresses: [loopback, private], timeouts: {{ connect: {timeout}, first_byte: {timeout} }}",
            quoted(&self.url)
        );
        if let Some(bearer) = &self.bearer {
            settings += &format!(", credentials: {{ bearer: {} }}", quoted(bearer));
        }
        if let Some(ca) = &self.ca {
            settings += &format!(", tls: {{ ca: {} }}", quoted(&ca.to_string_lossy()));
        }
        format!("version: 1\nupstreams:\n  server: {{ {settings} }}\nservers:\n  /mcp: server\n")
    }
}

/// A text as YAML that reads back as itself.
pub(super) fn quoted(text: &str) -> String {
    // A JSON string is a double-quoted scalar of YAML 1.2 (§5.7); a string always has one.
    serde_json::to_string(text).unwrap_or_default()
}

/// The argument of the command line that a key of the document came from.
fn about(path: &str) -> &'static str {
    match path {
        path if path.contains("credentials") => "--bearer",
        path if path.contains("tls") => "--ca",
        path if path.contains("timeouts") => "--timeout",
        _ => "the URL",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(url: &str, bearer: Option<&str>) -> Target {
        let bearer = bearer.map(str::to_owned);
        Target { url: url.to_owned(), bearer, ca: None, timeout: Duration::from_secs(3) }
    }

    #[test]
    fn a_target_is_an_upstream_with_its_timeouts_and_grants() {
        let upstream = target("http://crm.internal:81/mcp?a='b", None).compile().unwrap();
        assert_eq!(upstream.url.path, "/mcp?a='b");
        assert_eq!(upstream.timeouts.first_byte, Duration::from_secs(3));
        assert!(upstream.addresses.loopback && upstream.addresses.private);
    }

    #[test]
    fn a_mistake_names_the_argument_that_it_is_in() {
        let cases = [
            (target("crm", None), "the URL does not begin with"),
            (target("http://a:b@crm/", None), "the URL holds a user name or password"),
            (target("http://169.254.169.254/", None), "the URL: `169.254.169.254` is never dialled"),
            (target("http://crm/", Some("hunter2")), "--bearer: "),
            (target("http://crm/", Some("env:PORTUNUS_TEST_UNSET")), "--bearer: "),
        ];
        for (target, expected) in cases {
            let told = target.compile().unwrap_err();
            assert!(told.starts_with(expected), "{expected}: {told}");
            assert!(!told.contains("hunter2"), "{told}");
        }
    }
}
