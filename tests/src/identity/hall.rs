//! A gateway under TLS, and callers that may show it certificates.

use super::call;
use crate::harness::{Authority, Client, Gateway, Mcp, Pair, dial_tls, run};
use std::path::Path;

/// The gateway, with who vouches for it.
pub(super) struct Hall<'a> {
    pub(super) gateway: Gateway,
    own: &'a Authority,
}

impl<'a> Hall<'a> {
    /// It trusts certificates of `clients`; `identity` is the inside of that section.
    pub(super) async fn start(
        authorities: (&Authority, &'a Authority),
        identity: &str,
        server: &Mcp,
    ) -> Hall<'a> {
        Hall::start_after(authorities, identity, server, |_| {}).await
    }

    /// The same after something was made in its folder.
    pub(super) async fn start_after(
        (clients, own): (&Authority, &'a Authority),
        identity: &str,
        server: &Mcp,
        make: impl FnOnce(&Path),
    ) -> Hall<'a> {
        let pair = own.issue(&["gw.test"]);
        let files = [("gw.pem", pair.chain), ("gw.key", pair.key), ("clients.pem", clients.pem())];
        let place = |folder: &Path| {
            for (name, text) in &files {
                std::fs::write(folder.join(name), text).unwrap();
            }
            make(folder);
            run()
        };
        let gateway = Gateway::start_as(&document(identity, server), place).await;
        Hall { gateway, own }
    }

    /// Puts another `identity` in force, the second of this gateway.
    pub(super) async fn swap(&self, identity: &str, server: &Mcp) {
        self.gateway.configure(&document(identity, server));
        self.gateway.reaches("the swap", |status| status["serial"] == 2).await;
    }

    pub(super) async fn connect(&self, shows: Option<&Pair>) -> Client {
        let stream = dial_tls(self.gateway.address, &self.own.client(&["http/1.1"], shows), "gw.test").await;
        Client::over(stream.unwrap(), self.gateway.address)
    }

    /// Status and reason of a call on a connection of its own.
    pub(super) async fn call(&self, shows: Option<&Pair>, token: Option<&str>) -> (u16, String) {
        let answer = call(&mut self.connect(shows).await, "/mcp", token).await;
        (answer.status, answer.json()["error"]["data"]["reason"].as_str().unwrap_or_default().to_owned())
    }
}

fn document(identity: &str, server: &Mcp) -> String {
    format!(
        "listeners:\n  - bind: 127.0.0.1:0\n    tls:\n      certificates: {{certificate: gw.pem, key: gw.key}}\n      \
         client_certificates: {{trust: clients.pem, mode: optional}}\n\
         upstreams:\n  up: {}\nservers:\n  /mcp: up\nidentity:\n  url: https://gw.example\n{identity}",
        server.url()
    )
}
