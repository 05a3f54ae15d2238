//! Real clients and the official suite, directly and through the gateway.

use crate::harness::{Gateway, Runtime, Server, url};

/// Scenarios that the fixture server passes, over all four revisions.
const SCENARIOS: &str = "101";

async fn before(server: &Server, settings: &str) -> Gateway {
    Gateway::start(&format!(
        "level: info\nupstreams:\n  up: {{ url: {}{settings} }}\nservers:\n  /mcp: up\n",
        server.url()
    ))
    .await
}

/// Every revision of the suite, with both ways to treat Host.
pub(super) async fn conformance() {
    for settings in ["", ", host: preserve"] {
        let server = Server::start(Runtime::Node, "fixture.mjs").await;
        let gateway = before(&server, settings).await;
        let (direct, through) = (server.url(), url(gateway.address));
        let arguments = ["--upstream", &direct, "--gateway", &through, "--require", SCENARIOS];
        let told = Runtime::Python2.run(900, "through.py", &arguments).await;
        println!("upstream settings {settings:?}:\n{told}");
        assert!(told.ends_with(&format!("\n{SCENARIOS} passed, 0 failed, 0 skipped\n")), "{told}");
    }
}

/// All eight clients, and those that speak its era before a server of one era.
pub(super) async fn clients() {
    let all = ["py1", "py2-legacy", "py2-auto", "py2-modern", "ts1", "ts2-legacy", "ts2-auto", "ts2-modern"];
    let of_era = |era: &str| -> Vec<&str> {
        let old = ["py1", "ts1"];
        let speaks = |name: &&str| name.ends_with(era) || name.ends_with("auto");
        all.into_iter().filter(|name| speaks(name) || (era == "legacy" && old.contains(name))).collect()
    };
    let cases = [
        ("upstream.py", Runtime::Python2, all.to_vec()),
        ("upstream_legacy.py", Runtime::Python1, of_era("legacy")),
        ("upstream_modern.mjs", Runtime::Node, of_era("modern")),
    ];
    for (program, runtime, names) in cases {
        let server = Server::start(runtime, program).await;
        let gateway = before(&server, "").await;
        let (direct, through) = (server.url(), url(gateway.address));
        let mut arguments = vec![through.as_str(), "--direct", &direct];
        arguments.extend(names.iter().flat_map(|name| ["--client", name]));
        println!("{program}:\n{}", Runtime::Python2.run(1800, "clients.py", &arguments).await);
    }
    let server = Server::start(Runtime::Node, "fixture.mjs").await;
    let gateway = before(&server, "").await;
    println!("fixture.mjs:\n{}", Runtime::Node.run(300, "extra.mjs", &[&url(gateway.address)]).await);
}
