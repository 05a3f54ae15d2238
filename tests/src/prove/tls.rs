//! `openssl` and `curl` at the door, rotation under load, upstreams that do not prove themselves.

use super::load::{Load, Way};
use crate::harness::{Authority, Feed, Gateway, Pair, Upstream, rpc};
use std::net::SocketAddr;
use std::process::Stdio;
use std::time::{Duration, Instant};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio_rustls::rustls::ClientConfig;

const CALL: &str = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo"}}"#;
const ROTATING: Duration = Duration::from_secs(30);
/// Between the two halves of a pair, and between two rotations.
const PERIOD: Duration = Duration::from_millis(150);

/// Files that both sides share, beside a gateway's document.
struct Papers {
    gateways: Authority,
    clients: Authority,
    files: Vec<(&'static str, String)>,
}

impl Papers {
    fn new() -> Papers {
        let (gateways, clients) = (Authority::new("of gateways"), Authority::new("of clients"));
        let strangers = Authority::new("of strangers");
        let revoked = clients.issue(&["revoked"]);
        let list = clients.revoke(&[&revoked]);
        let mut files =
            vec![("ca.pem", gateways.pem()), ("clients.pem", clients.pem()), ("clients.crl", list)];
        let mut put = |chain, key, pair: Pair| files.extend([(chain, pair.chain), (key, pair.key)]);
        put("a.pem", "a.key", gateways.issue(&["a.test", "127.0.0.1"]));
        put("b.pem", "b.key", gateways.issue(&["b.test", "*.b.test"]));
        put("good.pem", "good.key", clients.issue(&["good"]));
        put("revoked.pem", "revoked.key", revoked);
        put("expired.pem", "expired.key", clients.issue_until(&["expired"], 2020));
        put("wrong.pem", "wrong.key", strangers.issue(&["wrong"]));
        Papers { gateways, clients, files }
    }

    /// A gateway whose listener's `tls` holds both certificates and `more`.
    async fn gateway(&self, upstream: SocketAddr, more: &str) -> Gateway {
        let files: Vec<_> = self.files.iter().map(|(name, text)| (*name, text.as_str())).collect();
        let document = format!(
            "level: info\nlisteners:\n  - bind: 127.0.0.1:0\n    hosts: any\n    tls:\n      certificates: \
             [{{ certificate: a.pem, key: a.key }}, {{ certificate: b.pem, key: b.key }}]\n{more}\
             upstreams:\n  up: http://{upstream}/mcp\nservers:\n  /mcp: up\n"
        );
        Gateway::start_beside(&files, &document).await
    }
}

/// Runs a program in the gateway's folder; what it printed, on both outputs.
async fn told_by(gateway: &Gateway, program: &str, arguments: &[&str], input: &str) -> String {
    let mut command = Command::new(program);
    command.args(arguments).current_dir(gateway.folder()).kill_on_drop(true);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    // A program that ends early takes no input.
    stdin.write_all(input.as_bytes()).await.ok();
    let output = crate::harness::within(20, program, child.wait_with_output()).await.unwrap();
    drop(stdin);
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

/// One row of the matrix: how a client comes, and what both programs shall say.
struct Row {
    what: &'static str,
    name: &'static str,
    /// `1.2` or `1.3`, nothing for either.
    only: &'static str,
    alpn: &'static str,
    shows: &'static str,
    expected: Expected,
}

/// How a client fares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expected {
    /// In, by a version and a protocol, before the certificate of this name.
    In(&'static str, &'static str, &'static str),
    /// Refused, under this label.
    Out(&'static str),
}

const ANY: &str = "h2,http/1.1";

/// Rows for the gateway that wants no certificates.
const OPEN: [Row; 9] = {
    const fn row(
        what: &'static str,
        name: &'static str,
        only: &'static str,
        alpn: &'static str,
        expected: Expected,
    ) -> Row {
        Row { what, name, only, alpn, shows: "", expected }
    }
    [
        row("any version", "a.test", "", ANY, Expected::In("TLSv1.3", "h2", "a.test")),
        row("only 1.3", "a.test", "1.3", ANY, Expected::In("TLSv1.3", "h2", "a.test")),
        row("only 1.2", "a.test", "1.2", ANY, Expected::In("TLSv1.2", "h2", "a.test")),
        row("only 1.1", "a.test", "1.1", ANY, Expected::Out("nothing_in_common")),
        row("HTTP/1.1", "a.test", "", "http/1.1", Expected::In("TLSv1.3", "http/1.1", "a.test")),
        row("an unknown protocol", "a.test", "", "spdy/3", Expected::Out("nothing_in_common")),
        row("the other name", "b.test", "", ANY, Expected::In("TLSv1.3", "h2", "b.test")),
        row("a wildcard", "x.b.test", "", ANY, Expected::In("TLSv1.3", "h2", "b.test")),
        row("an unknown name", "c.test", "", ANY, Expected::In("TLSv1.3", "h2", "a.test")),
    ]
};

/// Rows for gateways that want certificates: what is shown, and what becomes of it when one is
/// required and when it is optional.
const SHOWN: [(&str, &str, &str); 5] = [
    ("", "no_certificate", "ok"),
    ("good", "ok", "ok"),
    ("wrong", "unknown_issuer", "unknown_issuer"),
    ("expired", "expired", "expired"),
    ("revoked", "revoked", "revoked"),
];

/// What `openssl s_client` says of one row.
async fn openssl(gateway: &Gateway, row: &Row) -> Expected {
    let address = gateway.address.to_string();
    let (certificate, key) = (format!("{}.pem", row.shows), format!("{}.key", row.shows));
    let mut arguments = vec!["s_client", "-connect", &address, "-servername", row.name, "-CAfile", "ca.pem"];
    arguments.extend(["-alpn", row.alpn, "-ign_eof"]);
    match row.only {
        "1.1" => arguments.extend(["-tls1_1", "-cipher", "DEFAULT:@SECLEVEL=0"]),
        "1.2" => arguments.push("-tls1_2"),
        "1.3" => arguments.push("-tls1_3"),
        _ => {}
    }
    if !row.shows.is_empty() {
        arguments.extend(["-cert", &certificate, "-key", &key]);
    }
    // Read after the handshake: a refused certificate shows only then in TLS 1.3.
    let request = "GET / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n";
    let told = told_by(gateway, "openssl", &arguments, request).await;
    let after = |mark: &str| told.split_once(mark).map(|(_, rest)| rest.lines().next().unwrap_or_default());
    let shown = after("subject=").map(|subject| subject.contains("b.test"));
    let version = after("New, ").filter(|rest| !rest.starts_with("(NONE)"));
    if told.contains("alert number") || told.contains("SSL alert") || version.is_none() {
        return Expected::Out("");
    }
    let version =
        if version.is_some_and(|version| version.starts_with("TLSv1.3")) { "TLSv1.3" } else { "TLSv1.2" };
    let alpn = if after("ALPN protocol: ") == Some("h2") { "h2" } else { "http/1.1" };
    Expected::In(version, alpn, if shown == Some(true) { "b.test" } else { "a.test" })
}

/// What `curl` says of one row: HTTP version and status, or why not.
async fn curl(gateway: &Gateway, row: &Row) -> String {
    if row.alpn == "spdy/3" {
        return "knows none of these".to_owned();
    }
    let port = gateway.address.port();
    let (resolve, url) =
        (format!("{}:{port}:127.0.0.1", row.name), format!("https://{}:{port}/mcp", row.name));
    let (certificate, key) = (format!("{}.pem", row.shows), format!("{}.key", row.shows));
    let mut arguments = vec!["--silent", "--show-error", "--cacert", "ca.pem", "--resolve", &resolve, &url];
    arguments.extend(["--header", "content-type: application/json", "--data", CALL, "--output", "curl.out"]);
    arguments.extend(["--write-out", "HTTP/%{http_version} %{http_code}\n"]);
    match row.only {
        "1.1" => arguments.extend(["--tlsv1.1", "--tls-max", "1.1", "--ciphers", "DEFAULT:@SECLEVEL=0"]),
        "1.2" => arguments.extend(["--tlsv1.2", "--tls-max", "1.2"]),
        "1.3" => arguments.push("--tlsv1.3"),
        _ => {}
    }
    if row.alpn == "http/1.1" {
        arguments.push("--http1.1");
    }
    if !row.shows.is_empty() {
        arguments.extend(["--cert", &certificate, "--key", &key]);
    }
    let told = told_by(gateway, "curl", &arguments, "").await;
    let failure = told.lines().find(|line| line.starts_with("curl: ("));
    failure.or(told.lines().next()).unwrap_or_default().to_owned()
}

const COUNTER: &str = "portunus_tls_handshakes_total";

/// Both programs, one row; prints it.
async fn check(gateway: &Gateway, row: &Row) {
    let (openssl, curl) = (openssl(gateway, row).await, curl(gateway, row).await);
    let shown = match openssl {
        Expected::In(version, alpn, certificate) => format!("{version} {alpn} {certificate}"),
        Expected::Out(_) => "refused".to_owned(),
    };
    let of_curl = curl.strip_prefix("curl: ").unwrap_or(&curl);
    println!("  {:<34} openssl: {shown:<26} curl: {of_curl}", row.what);
    match row.expected {
        Expected::In(_, alpn, _) => {
            assert_eq!(openssl, row.expected, "{}", row.what);
            let told = if row.name == "c.test" {
                // It is shown the certificate of another name, and says so itself.
                "curl: (60) SSL: no alternative certificate subject name matches target host name 'c.test'"
            } else if alpn == "h2" {
                "HTTP/2 200"
            } else {
                "HTTP/1.1 200"
            };
            assert_eq!(curl, told, "{}", row.what);
        }
        Expected::Out(_) => {
            assert_eq!(openssl, Expected::Out(""), "{}", row.what);
            assert!(curl.starts_with("curl: (") || row.alpn == "spdy/3", "{}: {curl}", row.what);
        }
    }
}

async fn matrix(papers: &Papers) {
    let upstream = Upstream::answering().await;
    println!("without client certificates:");
    let open = papers.gateway(upstream.address, "").await;
    for row in OPEN {
        check(&open, &row).await;
    }
    println!("unknown_sni: refuse");
    let strict = papers.gateway(upstream.address, "      unknown_sni: refuse\n      min: \"1.3\"\n").await;
    for (what, name, only) in [("an unknown name", "c.test", ""), ("too old", "a.test", "1.2")] {
        let expected = Expected::Out("nothing_in_common");
        check(&strict, &Row { what, name, only, alpn: ANY, shows: "", expected }).await;
        strict
            .counts(COUNTER, "result=\"nothing_in_common\"", if name == "c.test" { 2.0 } else { 4.0 })
            .await;
    }
    for (mode, required) in [("required", true), ("optional", false)] {
        println!("client certificates: {mode}");
        let more = format!(
            "      client_certificates: {{ trust: clients.pem, crls: [clients.crl], mode: {mode} }}\n"
        );
        let gateway = papers.gateway(upstream.address, &more).await;
        for (shows, when_required, when_optional) in SHOWN {
            let result = if required { when_required } else { when_optional };
            for only in ["1.2", "1.3"] {
                let expected = match (result, only) {
                    ("ok", "1.2") => Expected::In("TLSv1.2", "h2", "a.test"),
                    ("ok", _) => Expected::In("TLSv1.3", "h2", "a.test"),
                    (label, _) => Expected::Out(label),
                };
                let label = if shows.is_empty() { "none" } else { shows };
                let what = format!("{label}, TLS {only}: {result}").leak();
                check(&gateway, &Row { what, name: "a.test", only, alpn: ANY, shows, expected }).await;
            }
            // Both programs, both versions.
            if result != "ok" {
                gateway.counts(COUNTER, &format!("result=\"{result}\""), 4.0).await;
            }
        }
    }
}

/// Certificates, trust and revocation lists change three times a second while 24 callers call.
async fn rotation(papers: &Papers) {
    let feed = Feed::answering().await;
    let more = "      client_certificates: { trust: clients.pem, crls: [clients.crl] }\n";
    let gateway = papers.gateway(feed.address(), more).await;
    let client = papers.clients.issue(&["caller"]);
    let config = papers.gateways.client(&["http/1.1"], Some(&client));
    let way = |fresh| Way { address: gateway.address, tls: Some((config.clone(), "a.test")), fresh };
    let (kept, fresh) = (Load::by(&way(false), 16), Load::by(&way(true), 8));
    let (start, mut rotations) = (Instant::now(), 0);
    let mut tick = tokio::time::interval(PERIOD);
    let old = papers.clients.pem();
    while start.elapsed() < ROTATING {
        tick.tick().await;
        let next = papers.gateways.issue(&["a.test"]);
        gateway.place("a.key", &next.key);
        // For a while the key is not that of the certificate.
        tick.tick().await;
        gateway.place("a.pem", &next.chain);
        // A stranger joins and leaves; a fresh list is fetched.
        let joined = if rotations % 2 == 0 { Authority::new("new").pem() } else { String::new() };
        gateway.place("clients.pem", &format!("{old}{joined}"));
        gateway.place("clients.crl", &papers.clients.revoke(&[&papers.clients.issue(&["gone"])]));
        rotations += 1;
    }
    let took = start.elapsed();
    let (kept, fresh) = (kept.stop().await, fresh.stop().await);
    let loads = gateway.counted("portunus_activations_total", "result=\"accepted\"").await - 1.0;
    let halves = gateway.counted("portunus_activations_total", "result=\"refused\"").await;
    let handshakes = gateway.counted(COUNTER, "result=\"ok\"").await;
    println!(
        "{rotations} rotations of certificate, key, trust and list in {took:.1?}: {loads} taken, {halves} met half \
         a pair and changed nothing",
        halves = halves.abs()
    );
    println!(
        "{} calls on 16 kept connections and {} on as many fresh ones, {handshakes} handshakes; failed: {}",
        kept.answers.len(),
        fresh.answers.len(),
        kept.unanswered.len() + kept.wrong.len() + fresh.unanswered.len() + fresh.wrong.len()
    );
    for tally in [&kept, &fresh] {
        assert!(
            tally.unanswered.is_empty() && tally.wrong.is_empty(),
            "{:?} {:?}",
            tally.unanswered,
            tally.wrong
        );
        assert_eq!((tally.refused, tally.closed), (0, 0));
    }
    assert_eq!(gateway.counted(COUNTER, "").await, handshakes, "every handshake went well");
    assert!(loads * 2.0 > f64::from(rotations), "{loads} of {rotations}");
    last_in_force(papers, &gateway, &config).await;
}

/// A last certificate is put down and shown.
async fn last_in_force(papers: &Papers, gateway: &Gateway, config: &ClientConfig) {
    let last = papers.gateways.issue(&["a.test"]);
    gateway.place("a.key", &last.key);
    gateway.place("a.pem", &last.chain);
    crate::harness::within(5, "the last certificate", async {
        loop {
            let stream = crate::harness::dial_tls(gateway.address, config, "a.test").await.unwrap();
            if last.is(&stream.get_ref().1.peer_certificates().unwrap()[0]) {
                return;
            }
        }
    })
    .await;
}

/// Upstreams that do not prove themselves: what the client gets, and what the operator reads.
async fn upstreams(papers: &Papers) {
    let strangers = Authority::new("of strangers");
    let good = papers.gateways.issue(&["localhost"]);
    let pin = "sha256/AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    let cases = [
        ("wrong authority", strangers.issue(&["localhost"]), String::new(), "(`tls.ca`)"),
        ("wrong name", papers.gateways.issue(&["other.test"]), String::new(), "(`tls.server_name`)"),
        ("wrong pin", good, format!(", pins: [\"{pin}\"]"), "(`tls.pins`)"),
        ("expired", papers.gateways.issue_until(&["localhost"], 2020), String::new(), "it has expired"),
    ];
    let ca = papers.gateways.pem();
    for (name, pair, more, cause) in cases {
        let upstream = Upstream::answering_secured(pair.server(&["http/1.1"])).await;
        let url = format!("https://localhost:{}/mcp", upstream.address.port());
        let document = format!(
            "upstreams:\n  up: {{ url: {url}, tls: {{ ca: ca.pem{more} }} }}\nservers:\n  /mcp: up\n"
        );
        let gateway = Gateway::start_beside(&[("ca.pem", &ca)], &document).await;
        let response = gateway.post("/mcp", &[], &rpc(1, "tools/call", r#"{"name":"echo"}"#)).await;
        gateway.tells(cause).await;
        let refusals = gateway.get(gateway.admin, "/refusals").await.json();
        println!(
            "upstream with {name}: {} to the client; in /refusals: {}",
            response.reason(),
            refusals[0]["detail"]
        );
        assert_eq!((response.reason().as_str(), upstream.requests()), ("upstream_untrusted", 0), "{name}");
    }
}

pub(super) async fn run() {
    let papers = Papers::new();
    matrix(&papers).await;
    rotation(&papers).await;
    upstreams(&papers).await;
}
