//! Documents with TLS: what is refused, what is warned about, and what stays hidden.

use std::path::Path;

use rcgen::date_time_ymd;

use crate::testing::brief;
use crate::tls::testing::{Authority, files, loaded};
use crate::{Attempt, MapEnvironment, Report, Severity};

const LISTENER: &str = "version: 1\n\
    listeners: [{bind: '127.0.0.1:1', tls: {certificates: {certificate: tls/c, key: tls/k}}}]\n\
    upstreams: {a: 'http://localhost:1/'}\nservers: {/mcp: a}\n";

const UPSTREAM: &str = "version: 1\n\
    upstreams: {a: {url: 'https://gw.example.com/', tls: {ca: ca, certificate: c, key: 'file:k'}}}\n\
    servers: {/mcp: a}\n";

/// Errors, or warnings of what loads, about TLS.
fn found(env: &MapEnvironment) -> Vec<String> {
    let (severity, found) = match Attempt::new(Path::new("gateway.yaml"), env).outcome {
        Ok(loaded) => (Severity::Warning, loaded.warnings),
        Err(Report(found)) => (Severity::Error, found),
    };
    let found = found.iter().filter(|one| one.severity == severity && brief(one).contains("tls"));
    let cut = |shown: String| {
        let rest = shown.split_once("tls").map_or("", |(_, rest)| rest);
        format!("tls{rest}")
    };
    found.map(brief).map(cut).collect()
}

fn with(text: &str, contents: &[(&str, &str)]) -> MapEnvironment {
    let mut env = files(contents);
    env.files.insert("gateway.yaml".into(), text.to_owned());
    env
}

#[test]
fn a_pair_that_no_client_would_accept_is_refused() {
    let authority = Authority::new("root");
    let [pair, other] = [(), ()].map(|()| authority.issue(&["gw.example.com"]));
    let below = authority.below("below");
    let signed = below.issue(&["gw.example.com"]);
    let good_chain = format!("{}{}", signed.chain, below.pem());
    let jumbled = format!("{}{}{}", signed.chain, authority.pem(), below.pem());
    let cut = &pair.chain[..pair.chain.len() / 2];
    let encrypted = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
    let text = |problem: &str| vec![format!("tls.certificates.{problem}")];
    let table: [(&str, &str, &str, Vec<String>); 9] = [
        ("good", &pair.chain, &pair.key, vec![]),
        ("with its chain", &good_chain, &signed.key, vec![]),
        (
            "another's key",
            &pair.chain,
            &other.key,
            text("key: `file:tls/k` is not the key of its certificate"),
        ),
        (
            "key and certificate in turn",
            &pair.key,
            &pair.chain,
            [text("certificate: `tls/c` has no certificate in it")].concat(),
        ),
        ("no PEM", "hunter2", &pair.key, text("certificate: `tls/c` has no certificate in it")),
        ("half a file", cut, &pair.key, text("certificate: `tls/c` has a section without its `-----END`")),
        ("no key in it", &pair.chain, "hunter2", text("key: `file:tls/k` has no private key in it")),
        ("an encrypted key", &pair.chain, encrypted, text("key: `file:tls/k` holds an encrypted key")),
        (
            "chain out of order",
            &jumbled,
            &signed.key,
            text(
                "certificate: `tls/c` has its chain out of order: certificate 1 is not signed by the next \
                 one, `CN=root`",
            ),
        ),
    ];
    for (name, chain, key, expected) in table {
        let env = with(LISTENER, &[("tls/c", chain), ("tls/k", key)]);
        let shown = found(&env);
        let shown: Vec<_> = shown.iter().map(|one| one.replace("CN=rcgen self signed cert, ", "")).collect();
        assert_eq!(shown, expected, "{name}");
    }
}

#[test]
fn missing_files_are_all_named_and_watched() {
    let env = with(LISTENER, &[]);
    let expected = [
        "tls.certificates.certificate: `tls/c` cannot be read: entity not found",
        "tls.certificates.key: `tls/k` cannot be read: entity not found",
    ];
    assert_eq!(found(&env), expected);
    let fingerprint = Attempt::new(Path::new("gateway.yaml"), &env).fingerprint;
    for path in ["tls/c", "tls/k"] {
        let mut came = env.clone();
        came.files.insert(path.into(), String::new());
        assert!(fingerprint.changed(&came), "{path}");
    }
}

#[test]
fn a_half_rotated_pair_is_refused_until_the_rest_is_there() {
    let authority = Authority::new("root");
    let [old, new] = [(), ()].map(|()| authority.issue(&["gw.example.com"]));
    let mut env = with(LISTENER, &[("tls/c", &new.chain), ("tls/k", &old.key)]);
    let attempt = Attempt::new(Path::new("gateway.yaml"), &env);
    assert!(attempt.outcome.is_err());
    env.files.insert("tls/k".into(), new.key.clone());
    assert!(attempt.fingerprint.changed(&env));
    assert_eq!(found(&env), Vec::<String>::new());
}

#[test]
fn dates_and_names_are_warned_about() {
    let authority = Authority::new("root");
    let issue = |names: &[&str], from, until| {
        authority.issue_with(names, |params| {
            params.not_before = date_time_ymd(from, 1, 1);
            params.not_after = date_time_ymd(until, 1, 1);
        })
    };
    let table = [
        ("current", issue(&["gw.example.com"], 2020, 2040), ""),
        ("only an address", issue(&["10.0.0.1"], 2020, 2040), ""),
        ("past", issue(&["gw.example.com"], 2020, 2021), "that expired Jan  1 00:00:00 2021 +00:00"),
        (
            "future",
            issue(&["gw.example.com"], 2040, 2041),
            "that is valid from Jan  1 00:00:00 2040 +00:00 only",
        ),
        ("nameless", issue(&[], 2020, 2040), "has a certificate that names no host"),
    ];
    for (name, pair, expected) in table {
        let shown = found(&with(LISTENER, &[("tls/c", &pair.chain), ("tls/k", &pair.key)]));
        assert_eq!(shown.len(), usize::from(!expected.is_empty()), "{name}: {shown:?}");
        assert!(shown.iter().all(|one| one.contains(expected)), "{name}: {shown:?}");
    }
}

#[test]
fn trust_and_lists_are_read_at_the_start() {
    let authority = Authority::new("root");
    let pair = authority.issue(&["gw.example.com"]);
    let text = LISTENER.replace("tls/k}", "tls/k}, client_certificates: {trust: ca, crls: [crl]}");
    let (ca, list) = (authority.pem(), authority.revoke(&[], 4000));
    let late = authority.revoke(&[], 2020);
    let broken = "-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n";
    let table = [
        ("good", &*ca, &*list, ""),
        ("key as trust", &pair.key, &list, "trust: `ca` has no certificate in it"),
        ("empty trust", "", &list, "trust: `ca` has no certificate in it"),
        ("certificate as list", &ca, &ca, "crls[0]: `crl` has no revocation list in it"),
        ("broken list", &ca, broken, "crls[0]: `crl` has a revocation list that cannot be read"),
        ("late list", &ca, &late, "crls[0]: `crl` has a revocation list that was to be renewed"),
    ];
    for (name, ca, list, expected) in table {
        let contents = [("tls/c", &*pair.chain), ("tls/k", &pair.key), ("ca", ca), ("crl", list)];
        let shown = found(&with(&text, &contents));
        assert_eq!(shown.len(), usize::from(!expected.is_empty()), "{name}: {shown:?}");
        let expected = format!("tls.client_certificates.{expected}");
        assert!(shown.iter().all(|one| one.starts_with(&expected)), "{name}: {shown:?}");
    }
}

#[test]
fn tls_stands_where_it_protects_something() {
    let authority = Authority::new("root");
    let pair = authority.issue(&["me"]);
    let contents = [("ca", &*authority.pem()), ("c", &pair.chain), ("k", &pair.key)];
    let table = [
        ("good", "", "", vec![]),
        ("plain URL", "https", "http", vec!["tls: the URL of this upstream is `http://`"]),
        (
            "bad name",
            "ca: ca",
            "ca: ca, server_name: 'a b'",
            vec!["tls.server_name: `a b`: not a name that a certificate has"],
        ),
        ("no key", ", key: 'file:k'", "", vec!["tls.certificate: a certificate is shown with its key"]),
        ("no certificate", ", certificate: c", "", vec!["tls.key: a key is used with its certificate"]),
        ("bad pin", "ca: ca", "ca: ca, pins: [abc]", vec!["tls.pins: `abc`: does not begin with `sha256/`"]),
        ("no pin", "ca: ca", "ca: ca, pins: []", vec!["tls.pins: the list is empty"]),
        ("bad version", "ca: ca", "ca: ca, min: 1.1", vec!["tls.min: `1.1` is not known here"]),
        ("unknown key", "ca: ca", "ca: ca, verify: false", vec!["tls.verify: unknown key `verify`"]),
    ];
    for (name, from, to, expected) in table {
        let shown = found(&with(&UPSTREAM.replace(from, to), &contents));
        let shown: Vec<_> = shown.iter().map(|one| one.replace("pins[0]", "pins")).collect();
        assert_eq!(shown, expected, "{name}");
    }
}

#[test]
fn a_host_that_no_certificate_can_have_is_refused_and_never_spoken_to_in_plain_text() {
    let ca = Authority::new("root").pem();
    let text = |tls: &str| {
        format!(
            "version: 1\nupstreams: {{a: {{url: 'https://tls-/', tls: {{ca: ca{tls}}}}}}}\nservers: {{/mcp: a}}\n"
        )
    };
    let refused = found(&with(&text(""), &[("ca", &ca)]));
    assert_eq!(refused, ["tls-`: not a name that a certificate has"]);
    let named = loaded(&with(&text(", server_name: gw.example.com"), &[("ca", &ca)]));
    assert!(named.snapshot.upstreams[0].tls.is_some());
}

#[test]
fn each_replica_is_verified_by_its_own_name() {
    let ca = Authority::new("root").pem();
    let upstream = |second: &str, tls: &str| {
        let text = format!(
            "version: 1\nupstreams: {{a: {{replicas: ['https://a.org/', '{second}'], tls: {{ca: ca{tls}}}}}}}\n\
             servers: {{/mcp: a}}\n"
        );
        with(&text, &[("ca", &ca)])
    };
    let names = |env: &MapEnvironment| -> Vec<String> {
        let upstream = std::sync::Arc::clone(&loaded(env).snapshot.upstreams[0]);
        let tls = upstream.urls().map(|url| upstream.at(url).tls.unwrap().server_name);
        tls.map(|name| name.to_str().into_owned()).collect()
    };
    assert_eq!(names(&upstream("https://b.org/", "")), ["a.org", "b.org"]);
    assert_eq!(names(&upstream("https://10.0.0.1/", "")), ["a.org", "10.0.0.1"]);
    assert_eq!(names(&upstream("https://b.org/", ", server_name: gw.org")), ["gw.org", "gw.org"]);
    let upstream_of_two =
        std::sync::Arc::clone(&loaded(&upstream("https://b.org/", "")).snapshot.upstreams[0]);
    let keys: Vec<_> = upstream_of_two.urls().map(|url| upstream_of_two.at(url).key).collect();
    assert!(keys[0] == upstream_of_two.key && keys[1] != keys[0]);
    let errors = |env: &MapEnvironment| Attempt::new(Path::new("gateway.yaml"), env).outcome.unwrap_err().0;
    let mixed = errors(&upstream("http://b.org/", ""));
    let problem = "upstreams.a.replicas[1]: this replica is `http://`, and the first is not";
    assert!(mixed.iter().map(brief).any(|found| found == problem), "{mixed:?}");
    let unnamed = errors(&upstream("https://tls-/", ""));
    assert!(
        unnamed.iter().any(|found| found.problem.contains("not a name that a certificate has")),
        "{unnamed:?}"
    );
}

#[test]
fn the_version_of_http_is_agreed_on_under_tls_only() {
    let plain = |http: &str| {
        let text = format!(
            "version: 1\nupstreams: {{a: {{url: 'http://localhost/', http: {http}}}}}\nservers: {{/mcp: a}}\n"
        );
        Attempt::new(Path::new("gateway.yaml"), &with(&text, &[])).outcome.err()
    };
    assert!(plain("1").is_none() && plain("2").is_none());
    for (http, problem) in [
        ("auto", "the version is agreed on in a TLS handshake, and there is none"),
        ("3", "`3` is not known here"),
    ] {
        let report = plain(http).unwrap();
        assert!(report.0.iter().any(|one| brief(one) == format!("upstreams.a.http: {problem}")), "{report}");
    }
}

#[test]
fn a_system_without_authorities_says_so() {
    let text = "version: 1\nupstreams: {a: 'https://tls.example.com/'}\nservers: {/mcp: a}\n";
    let report = |env: &MapEnvironment| {
        let outcome = Attempt::new(Path::new("gateway.yaml"), env).outcome;
        outcome.err().map(|report| report.to_string()).unwrap_or_default()
    };
    let mut env = with(text, &[]);
    assert!(report(&env).contains("upstreams.a: this system has no authorities"), "{}", report(&env));
    env.variables.insert("SSL_CERT_FILE".into(), "/own.pem".into());
    assert!(report(&env).contains("`/own.pem`, named by `SSL_CERT_FILE`, cannot be read"));
    env.files.insert("/own.pem".into(), "none".into());
    assert!(report(&env).contains("`/own.pem` has no authority in it"));
    env.files.insert("/own.pem".into(), Authority::new("root").pem());
    assert_eq!(report(&env), "");
}

#[test]
fn a_bundle_names_its_own_files_and_a_secret_for_the_key() {
    let authority = Authority::new("root");
    let pair = authority.issue(&["me"]);
    let bootstrap = "version: 1\nbundle: b\n\
        secrets: {me: {from: 'file:keys/me', hosts: [gw.example.com]}, x: {from: 'file:keys/me', hosts: [x.org]}}\n";
    let outcome = |text: &str| {
        let env = files(&[
            ("gateway.yaml", bootstrap),
            ("b/gateway.yaml", text),
            ("b/ca", &authority.pem()),
            ("ca", &authority.pem()),
            ("b/c", &pair.chain),
            ("keys/me", &pair.key),
            ("/etc/ca", &authority.pem()),
        ]);
        found(&env)
    };
    let named = UPSTREAM.replace("file:k", "secret:me");
    let own = "a bundle names files of its own folder only";
    let table = [
        ("its own", named.clone(), vec![]),
        ("absolute", named.replace("ca: ca", "ca: /etc/ca"), vec![format!("tls.ca: {own}")]),
        ("above", named.replace("ca: ca", "ca: ../ca"), vec![format!("tls.ca: {own}")]),
        (
            "key by path",
            UPSTREAM.to_owned(),
            vec!["tls.key: a bundle cannot reach for a secret by itself".to_owned()],
        ),
        (
            "key of another host",
            UPSTREAM.replace("file:k", "secret:x"),
            vec!["tls.key: the secret `x` may not be sent to `gw.example.com`".to_owned()],
        ),
    ];
    for (name, text, expected) in table {
        assert_eq!(outcome(&text), expected, "{name}");
    }
}

#[test]
fn keys_are_shown_nowhere() {
    let authority = Authority::new("root");
    let pair = authority.issue(&["gw.example.com"]);
    let text = format!("{LISTENER}secrets: {{me: {{from: 'env:KEY', hosts: [gw.example.com]}}}}\n").replace(
        "a: 'http://localhost:1/'",
        "a: {url: 'https://gw.example.com/', tls: {ca: ca, certificate: tls/c, key: 'secret:me'}}",
    );
    let mut env = with(&text, &[("tls/c", &pair.chain), ("tls/k", &pair.key), ("ca", &authority.pem())]);
    env.variables.insert("KEY".into(), pair.key.clone());
    let loaded = loaded(&env);
    let body = pair.key.lines().nth(1).unwrap();
    let shown = format!("{loaded:?} {}", crate::redacted(&loaded.bootstrap, &loaded.snapshot));
    assert!(!shown.contains(body) && shown.contains("env:KEY"), "{shown}");

    let pasted = text.replace("key: tls/k", &format!("key: \"{}\"", pair.key.replace('\n', "\\n")));
    let mut env = env.clone();
    env.files.insert("gateway.yaml".into(), pasted);
    let report = Attempt::new(Path::new("gateway.yaml"), &env).outcome.unwrap_err().to_string();
    assert!(
        report.contains("a reference to a secret should stand here") && !report.contains(body),
        "{report}"
    );
}

#[test]
fn several_authorities_of_clients_are_told_apart_by_trust_domain() {
    let [one, two] = ["one", "two"].map(Authority::new);
    let pair = one.issue(&["gw.example.com"]);
    let both = [one.pem(), two.pem()].concat();
    let (pem_one, pem_two) = (one.pem(), two.pem());
    let load = |first: &str, second: &str, domains: &str| {
        let listener = |port: u16, trust: &str| {
            format!(
                "{{bind: '127.0.0.1:{port}', tls: {{certificates: {{certificate: c, key: k}}, client_certificates: {trust}}}}}"
            )
        };
        let text = format!(
            "version: 1\nlisteners: [{}, {}]\nupstreams: {{a: 'http://localhost:1/'}}\nservers: {{/mcp: a}}\n\
             identity: {{mtls: {{trust_domains: {domains}}}}}\n",
            listener(1, first),
            listener(2, second)
        );
        let contents = [
            ("gateway.yaml", text.as_str()),
            ("c", &pair.chain),
            ("k", &pair.key),
            ("one", &pem_one),
            ("two", &pem_two),
            ("both", &both),
        ];
        let outcome = Attempt::new(Path::new("gateway.yaml"), &files(&contents)).outcome;
        outcome.map(drop).map_err(|report| report.to_string())
    };
    let refused =
        "listeners take certificates of 2 authorities, and each of them could sign `spiffe://corp.example/…`";
    let bound = "{corp.example: one, partner.example: two}";
    let table = [
        ("one authority", "one", "one", "[corp.example, partner.example]", true),
        ("two in one file", "both", "both", "corp.example", false),
        ("two at two listeners", "one", "two", "[corp.example]", false),
        ("bound", "both", "two", bound, true),
    ];
    for (name, first, second, domains, good) in table {
        let loaded = load(first, second, domains);
        assert_eq!(loaded.is_ok(), good, "{name}: {loaded:?}");
        if let Err(report) = loaded {
            assert!(report.contains(refused), "{name}: {report}");
        }
    }
    assert!(load("both", "both", "{corp.example: none}").is_err(), "a file that is not there");
    assert!(load("both", "both", "{corp.example: k}").is_err(), "a file without authorities");
}

#[test]
fn only_trusted_proxies_speak_for_others() {
    let text = |more: &str| {
        format!(
            "version: 1\nlisteners: [{{bind: '127.0.0.1:1', proxy_protocol: v2{more}}}]\n\
             upstreams: {{a: 'http://localhost:1/'}}\nservers: {{/mcp: a}}\n"
        )
    };
    let report = Attempt::new(Path::new("gateway.yaml"), &with(&text(""), &[])).outcome.unwrap_err();
    assert!(report.to_string().contains("listeners[0].proxy_protocol: anyone could claim any address"));
    let good = loaded(&with(&text(", trusted_proxies: 10.0.0.0/8"), &[]));
    let listener = &good.bootstrap.listeners[0];
    assert!(listener.proxy_protocol && !listener.http2 && listener.tls.is_none());
}
