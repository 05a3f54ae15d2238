//! Secrets: read when an upstream uses them, and only for the hosts that they are confined to.

use std::cell::RefCell;

use crate::diagnostic::{Findings, Located, Place};
use crate::digest::sha256;
use crate::document::SecretDocument;
use crate::files::Files;
use crate::reader::suggestion;
use crate::reference::Reference;
use crate::tls::Problem;
use portunus_base::Secret;
use portunus_base::UpstreamUrl;

/// The secrets that one load may use.
pub(crate) struct Keyring<'a> {
    secrets: &'a [SecretDocument],
    /// A bundle may use named secrets only.
    bundle: bool,
    /// Those of the process: a bundle's secrets are named there.
    files: &'a Files<'a>,
    findings: &'a Findings,
    used: RefCell<Vec<String>>,
    /// Digest of every value handed out, in the order of their use.
    digests: RefCell<Vec<[u8; 32]>>,
}

impl<'a> Keyring<'a> {
    pub(crate) fn new(secrets: &'a [SecretDocument], bundle: bool, files: &'a Files<'a>) -> Keyring<'a> {
        let findings = files.findings();
        Keyring { secrets, bundle, files, findings, used: RefCell::default(), digests: RefCell::default() }
    }

    /// The secret for an upstream at `urls`; `None` if it was refused or could not be read.
    ///
    /// Without a URL it is read all the same, so that what is wrong with it is reported too.
    pub(crate) fn secret(&self, reference: &Located<Reference>, urls: &[&UpstreamUrl]) -> Option<Secret> {
        let (source, place) = self.source(reference, urls)?;
        match Secret::new(self.value(source, place)?, source) {
            Ok(secret) => {
                self.digests.borrow_mut().push(sha256(secret.expose().as_bytes()));
                Some(secret)
            }
            Err(problem) => {
                let hint = "it goes into a header: one line of printable ASCII";
                self.findings.error(place, format!("the secret in `{source}` {problem}"), hint);
                None
            }
        }
    }

    /// What `parse` makes of a secret of several lines, such as a private key, for an upstream at `urls`.
    pub(crate) fn parsed<T>(
        &self,
        reference: &Located<Reference>,
        urls: &[&UpstreamUrl],
        parse: impl FnOnce(&str) -> Result<T, Problem>,
    ) -> Option<T> {
        let (source, place) = self.source(reference, urls)?;
        let text = self.value(source, place)?;
        self.digests.borrow_mut().push(sha256(text.as_bytes()));
        let problem = match parse(&text) {
            Ok(parsed) => return Some(parsed),
            Err(problem) => problem,
        };
        self.findings.error(place, format!("`{source}` {}", problem.problem), problem.hint);
        None
    }

    /// Where a reference leads: a named secret to its source.
    pub(crate) fn followed(&self, reference: &Reference) -> Reference {
        let Reference::Named(name) = reference else { return reference.clone() };
        let named = self.secrets.iter().find(|secret| secret.name.value == *name);
        named.and_then(|secret| secret.from.as_ref()).map_or(reference, |from| &from.value).clone()
    }

    /// Digest of every secret in use, in the order of their use.
    pub(crate) fn digests(&self) -> Vec<[u8; 32]> {
        self.digests.borrow().clone()
    }

    /// Refuses named secrets that this build cannot read, whether or not something uses them.
    pub(crate) fn refuse_unreadable(&self) {
        let sources = self.secrets.iter().filter_map(|secret| secret.from.as_ref());
        for source in sources.filter(|source| source.value == Reference::Vault) {
            self.refuse_vault(&source.place);
        }
    }

    /// Warns about secrets that nothing uses. A bootstrap may serve bundles that differ in that.
    pub(crate) fn warn_about_unused(&self) {
        if self.bundle {
            return;
        }
        let used = self.used.borrow();
        for secret in self.secrets.iter().filter(|secret| !used.contains(&secret.name.value)) {
            let problem = "no upstream uses this secret, so it was not read";
            self.findings.warn(
                &secret.name.place,
                problem,
                "remove it, or write `secret:NAME` where it belongs",
            );
        }
    }

    /// Where a secret for an upstream at `urls` is read from; `None` if it was refused.
    fn source<'b>(
        &'b self,
        reference: &'b Located<Reference>,
        urls: &[&UpstreamUrl],
    ) -> Option<(&'b Reference, &'b Place)> {
        match &reference.value {
            Reference::Named(name) => self.named(name, &reference.place, urls),
            _ if self.bundle => {
                let hint =
                    "name the secret in the bootstrap's `secrets`, with its hosts, and write `secret:NAME`";
                self.findings.error(&reference.place, "a bundle cannot reach for a secret by itself", hint);
                None
            }
            in_place => Some((in_place, &reference.place)),
        }
    }

    fn named(&self, name: &str, place: &Place, urls: &[&UpstreamUrl]) -> Option<(&Reference, &Place)> {
        let Some(secret) = self.secrets.iter().find(|secret| secret.name.value == name) else {
            let known: Vec<&str> = self.secrets.iter().map(|secret| secret.name.value.as_str()).collect();
            let hint = match known.is_empty() {
                true => "name it in `secrets`: `{NAME: {from: \"env:VARIABLE\", hosts: [HOST]}}`".to_owned(),
                false => suggestion(name, &known, "known secrets:"),
            };
            self.findings.error(place, format!("no secret is named `{name}`"), hint);
            return None;
        };
        self.used.borrow_mut().push(name.to_owned());
        if let Some(url) = urls.iter().find(|url| !secret.hosts.iter().any(|host| host.covers(url))) {
            let problem = format!("the secret `{name}` may not be sent to `{}`", url.authority);
            if secret.hosts.iter().any(|host| host.names(url)) {
                let problem = format!("{problem} without TLS");
                let hint = format!(
                    "write `https://` in the upstream's URL, or `http://{}` in `hosts` of the secret if it \
                     may be read on the way",
                    url.authority
                );
                self.findings.error(place, problem, hint);
                return None;
            }
            let hosts: Vec<String> = secret.hosts.iter().map(|host| format!("`{host}`")).collect();
            let hint = format!("it is confined to {}; extend its `hosts` if that is meant", hosts.join(", "));
            self.findings.error(place, problem, hint);
            return None;
        }
        secret.from.as_ref().map(|from| (&from.value, &from.place))
    }

    /// A named secret never reads from another one: the document's reader refuses it.
    fn value(&self, reference: &Reference, place: &Place) -> Option<String> {
        if *reference == Reference::Vault {
            self.refuse_vault(place);
        }
        self.files.secret(reference, place)
    }

    fn refuse_vault(&self, place: &Place) {
        let hint = "use `env:NAME` or `file:/path`, which a vault's agent can write";
        self.findings.error(place, "this build cannot read from `vault:`", hint);
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::diagnostic::Severity;
    use crate::environment::MapEnvironment;
    use crate::testing::{brief, environment, loaded_with, problems, problems_with};
    use crate::{Credentials, Loaded, load_text};

    fn document(credentials: &str, rest: &str) -> String {
        format!(
            "version: 1\nupstreams: {{a: {{url: 'http://api.example.com/', credentials: {credentials}}}}}\n\
             servers: {{/mcp: a}}\n{rest}"
        )
    }

    fn credential(loaded: &Loaded) -> String {
        match &loaded.snapshot.upstreams[0].credentials {
            Credentials::Header { name, value } => format!("{name}: {}", value.expose()),
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn credentials_come_from_references() {
        let named = "secrets: {s: {from: 'env:TOKEN', hosts: ['http://api.example.com']}}\n";
        let table = [
            ("bearer in place", "{bearer: 'env:TOKEN'}", "", "authorization: Bearer t0k"),
            ("header in place", "{header: {name: X-Key, value: 'env:TOKEN'}}", "", "x-key: t0k"),
            ("named", "{bearer: 'secret:s'}", named, "authorization: Bearer t0k"),
            ("named header", "{header: {name: X-Key, value: 'secret:s'}}", named, "x-key: t0k"),
            ("none", "none", "", "None"),
            ("passthrough", "passthrough", "", "Passthrough"),
        ];
        for (name, credentials, rest, expected) in table {
            let loaded = loaded_with(&document(credentials, rest), &[("TOKEN", "t0k")]);
            assert_eq!(credential(&loaded), expected, "{name}");
        }
    }

    #[test]
    fn a_secret_goes_to_its_hosts_only() {
        let table = [
            ("exact", "api.example.com", true),
            ("pattern", "*.example.com", true),
            ("port", "api.example.com:80", true),
            ("another port", "api.example.com:81", false),
            ("another host", "example.com", false),
            ("a longer host", "api.example.com.evil.org", false),
        ];
        for (name, host, allowed) in table {
            let text = document(
                "{bearer: 'secret:s'}",
                &format!("secrets: {{s: {{from: 'env:T', hosts: ['http://{host}']}}}}\n"),
            );
            let outcome = load_text(&text, Path::new("g.yaml"), &environment(&[("T", "x")]));
            let refusals: Vec<_> = outcome.err().map(|r| r.0.iter().map(brief).collect()).unwrap_or_default();
            let expected =
                "upstreams.a.credentials.bearer: the secret `s` may not be sent to `api.example.com`";
            assert_eq!(refusals.iter().any(|shown| shown == expected), !allowed, "{name}: {refusals:?}");
        }
    }

    #[test]
    fn a_secret_goes_in_plain_text_only_where_its_hosts_say_so() {
        let table = [
            ("by default", "http://api.example.com/", "api.example.com", false),
            ("its port, by default", "http://api.example.com/", "'api.example.com:80'", false),
            ("for TLS only", "http://api.example.com/", "'https://api.example.com'", false),
            ("said so", "http://api.example.com/", "'http://api.example.com'", true),
            (
                "said so of another name",
                "http://api.example.com/",
                "['http://x.org', '*.example.com']",
                false,
            ),
            ("a private address", "http://10.0.0.1/", "10.0.0.1", false),
            ("this machine", "http://127.0.0.1:9101/", "127.0.0.1", true),
            ("this machine by name", "http://localhost:9101/", "localhost", true),
            ("TLS", "https://api.example.com/", "api.example.com", true),
            ("TLS, said so", "https://api.example.com/", "'https://api.example.com:443'", true),
            ("TLS where plain text may be", "https://api.example.com/", "'http://api.example.com'", true),
        ];
        for (name, url, hosts, allowed) in table {
            let text = format!(
                "version: 1\nupstreams: {{a: {{url: '{url}', credentials: {{bearer: 'secret:s'}}}}}}\n\
                 servers: {{/mcp: a}}\nsecrets: {{s: {{from: 'env:T', hosts: {hosts}}}}}\n"
            );
            let outcome = load_text(&text, Path::new("g.yaml"), &environment(&[("T", "x")]));
            let refusals: Vec<_> = outcome.err().map(|r| r.0.iter().map(brief).collect()).unwrap_or_default();
            let refused = refusals.iter().any(|shown| shown.ends_with("without TLS"));
            assert_eq!(refused, !allowed, "{name}: {refusals:?}");
        }
    }

    #[test]
    fn header_values_are_confined_like_credentials() {
        let text = "version: 1\n\
                    upstreams: {a: {url: 'http://evil.org/', headers: {set: {X-Key: 'secret:s'}}}}\n\
                    servers: {/mcp: a}\nsecrets: {s: {from: 'env:T', hosts: [api.example.com]}}\n";
        let found = problems_with(text, &[("T", "x")]);
        assert_eq!(found, ["upstreams.a.headers.set.X-Key: the secret `s` may not be sent to `evil.org`"]);
    }

    #[test]
    fn references_that_give_nothing_are_named() {
        let table = [
            ("unset", "env:NOPE", "the environment variable `NOPE` is not set"),
            ("no file", "file:/nope", "`/nope` cannot be read: entity not found"),
            ("unknown name", "secret:s", "no secret is named `s`"),
            ("vault", "vault:kv/x", "this build cannot read from `vault:`"),
            ("empty", "env:EMPTY", "the secret in `env:EMPTY` is empty"),
            ("two lines", "env:LINES", "the secret in `env:LINES` has more than one line"),
            ("scheme inside", "env:SCHEME", "the secret has a space in it, so it is no bearer token"),
        ];
        let variables = [("EMPTY", ""), ("LINES", "a\r\nx: y"), ("SCHEME", "Bearer x")];
        for (name, reference, problem) in table {
            let text = document(&format!("{{bearer: '{reference}'}}"), "");
            let expected = format!("upstreams.a.credentials.bearer: {problem}");
            assert_eq!(problems_with(&text, &variables), [expected], "{name}");
        }
    }

    #[test]
    fn secrets_that_cannot_be_had_are_named() {
        let bearer = "{bearer: 'secret:s'}";
        let table = [
            (
                "unset",
                bearer,
                "from: 'env:NOPE', hosts: 'http://api.example.com'",
                ".from: the environment variable `NOPE` is not set",
            ),
            ("vault", bearer, "from: 'vault:x', hosts: a.org", ".from: this build cannot read from `vault:`"),
            (
                "unused vault",
                "none",
                "from: 'vault:x', hosts: a.org",
                ".from: this build cannot read from `vault:`",
            ),
            (
                "of a secret",
                bearer,
                "from: 'secret:t', hosts: a.org",
                ".from: a secret cannot refer to another",
            ),
            ("no hosts", "none", "from: 'env:NOPE'", ": `hosts` is missing"),
            ("no source", "none", "hosts: a.org", ": `from` is missing"),
        ];
        for (name, credentials, secret, problem) in table {
            let found = problems(&document(credentials, &format!("secrets: {{s: {{{secret}}}}}\n")));
            let expected = format!("secrets.s{problem}");
            assert!(found.contains(&expected), "{name}: {found:?}");
        }
    }

    #[test]
    fn a_value_written_in_the_document_is_refused_and_not_shown() {
        for credentials in [
            "hunter2",
            "{bearer: hunter2}",
            "{bearer: 'hunter2:x'}",
            "{bearer: [hunter2]}",
            "{header: {name: X-Key, value: hunter2}}",
            "[hunter2]",
        ] {
            let text = document(credentials, "secrets: {s: {from: hunter2, hosts: [a.org]}}\n");
            let report = crate::testing::refused(&text, &MapEnvironment::default());
            assert!(
                report.0.iter().filter(|found| found.severity == Severity::Error).count() >= 2,
                "{credentials}"
            );
            assert!(!report.to_string().contains("hunter2"), "{report}");
        }
    }

    #[test]
    fn a_file_begins_at_the_document_and_loses_its_newline() {
        for content in ["t0k", "t0k\n", "t0k\r\n"] {
            let mut environment = MapEnvironment::default();
            environment.files.insert("/etc/portunus/token".into(), content.into());
            let text = document("{bearer: 'file:token'}", "");
            let loaded = load_text(&text, Path::new("/etc/portunus/gateway.yaml"), &environment).unwrap();
            assert_eq!(credential(&loaded), "authorization: Bearer t0k");
            assert_eq!(loaded.sources, [Path::new("/etc/portunus/token")]);
        }
    }

    #[test]
    fn an_unused_secret_is_not_read() {
        let loaded =
            loaded_with(&document("none", "secrets: {s: {from: 'env:NOPE', hosts: [a.org]}}\n"), &[]);
        assert!(loaded.warnings.iter().any(|warning| warning.path == "secrets.s"));
    }

    #[test]
    fn one_unset_variable_is_reported_once() {
        let text = "version: 1\nupstreams:\n  a: {url: 'http://a.org', credentials: {bearer: 'secret:s'}}\n  \
                    b: {url: 'http://a.org', credentials: {bearer: 'secret:s'}}\nservers: {/a: a, /b: b}\n\
                    secrets: {s: {from: 'env:NOPE', hosts: ['http://a.org']}}\n";
        assert_eq!(problems(text), ["secrets.s.from: the environment variable `NOPE` is not set"]);
    }
}
