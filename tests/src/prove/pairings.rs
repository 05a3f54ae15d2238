//! The official suite of one era through the gateway to a server of the other.
//!
//! The server behind the gateway speaks only the other era; what passes is compared with what passes
//! directly at the same server in the client's own era.

use crate::harness::{Gateway, Runtime, Server, url};

/// Clients of one era before a server of the other.
struct Pairing {
    versions: &'static [&'static str],
    /// What the server behind the gateway speaks.
    upstream: &'static str,
    /// Scenarios that pass directly.
    scenarios: usize,
    /// Scenarios that the rule forbids or cannot express in the other era: `VERSION:SCENARIO`, rule.
    exceptions: &'static [(&'static str, &'static str)],
}

const PAIRINGS: [Pairing; 2] = [
    Pairing {
        versions: &["2026-07-28"],
        upstream: "legacy",
        scenarios: 40,
        exceptions: &[
            (
                "2026-07-28:input-required-result-basic-elicitation",
                "it wants the question under a key that the server chose, and a legacy request has an id and no key \
                 (2026-07-28 basic/patterns/mrtr: keys are assigned by the server)",
            ),
            (
                "2026-07-28:input-required-result-ignore-extra-params",
                "it answers before it was asked, and a legacy server takes answers to its own requests only \
                 (2025-11-25 basic/transports, sending messages)",
            ),
        ],
    },
    Pairing {
        versions: &["2025-03-26", "2025-06-18", "2025-11-25"],
        upstream: "modern",
        scenarios: 61,
        exceptions: &[
            (
                "2025-11-25:server-sse-polling",
                "the server has to close its stream and be polled, and a modern stream that ends has lost its request \
                 (2026-07-28 basic/transports, streamable HTTP: no resumption)",
            ),
            (
                "2025-11-25:server-sse-multiple-streams",
                "one of its two checks is made of servers that answer `tools/list` by a stream, and a server may answer \
                 by JSON (2025-11-25 basic/transports, sending messages)",
            ),
        ],
    },
];

/// Both pairings.
pub(super) async fn run() {
    for pairing in &PAIRINGS {
        pairing.prove().await;
    }
}

impl Pairing {
    async fn prove(&self) {
        let direct = Server::start(Runtime::Node, "fixture.mjs").await;
        let behind = Server::start_with(Runtime::Node, "fixture.mjs", &["--era", self.upstream]).await;
        let gateway = Gateway::start(&format!(
            "level: info\nupstreams:\n  up: {{ url: {}, era: {} }}\nservers:\n  /mcp: {{ upstreams: [up], replay: {{ events: 64 }} }}\n",
            behind.url(),
            self.upstream
        ))
        .await;
        let (direct, through, least) = (direct.url(), url(gateway.address), self.scenarios.to_string());
        let mut arguments = vec!["--upstream", &direct, "--gateway", &through, "--require", &least];
        arguments.extend(self.versions.iter().flat_map(|version| ["--spec-version", version]));
        arguments.extend(self.exceptions.iter().flat_map(|(name, _)| ["--allow", name]));
        let output = Runtime::Python2.attempt(&[], 900, "through.py", &arguments).await;
        let told = String::from_utf8_lossy(&output.stdout);
        println!("{} through to a {} server:\n{told}", self.versions.join(", "), self.upstream);
        for (name, rule) in self.exceptions {
            println!("excepted: {name}: {rule}");
        }
        let (excepted, passed) = (self.exceptions.len(), self.scenarios - self.exceptions.len());
        let expected = format!("\n{passed} passed, 0 failed, {excepted} skipped\n");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(told.ends_with(&expected), "not {expected:?}:\n{told}\n{errors}");
    }
}
