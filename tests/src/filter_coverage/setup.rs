//! Setups: a client, a server, and the gateway or gateways between them.

use super::client::{MarkingClient, Route};
use super::server::MarkingServer;
use super::server::Transport::{self, HttpSse, StreamableHttp};
use crate::harness::mcp::tool;
use crate::harness::{Era, Gateway, Mcp, Nature, run_binary};
use crate::peers::replicas;
use serde_json::Value;
use std::path::Path;

/// A client, a server, and the endpoint between them.
#[derive(Clone, Copy)]
pub(super) struct SetupSpec {
    pub(super) name: &'static str,
    client: Era,
    server: Era,
    /// The transports of client and server.
    transports: [Transport; 2],
    endpoint: EndpointKind,
    route: Route,
}

/// Servers behind an endpoint, and its rules.
#[derive(Clone, Copy)]
enum EndpointKind {
    One,
    OneWithPolicy,
    Two,
    OneWithReplay,
    /// It gets the credentials of clients.
    OneWithPassthrough,
}

/// Each pair of eras: alone, with a policy where both are the same, and beside another server.
pub(super) const ERAS: &[SetupSpec] = &[
    SetupSpec::new("mod-mod", Era::Modern, Era::Modern),
    SetupSpec::new("leg-leg", Era::Legacy, Era::Legacy),
    SetupSpec::new("mod-leg", Era::Modern, Era::Legacy),
    SetupSpec::new("leg-mod", Era::Legacy, Era::Modern),
    SetupSpec::new("mod-mod!", Era::Modern, Era::Modern).at(EndpointKind::OneWithPolicy),
    SetupSpec::new("leg-leg!", Era::Legacy, Era::Legacy).at(EndpointKind::OneWithPolicy),
    SetupSpec::new("mod-mod+", Era::Modern, Era::Modern).at(EndpointKind::Two),
    SetupSpec::new("leg-leg+", Era::Legacy, Era::Legacy).at(EndpointKind::Two),
    SetupSpec::new("mod-leg+", Era::Modern, Era::Legacy).at(EndpointKind::Two),
    SetupSpec::new("leg-mod+", Era::Legacy, Era::Modern).at(EndpointKind::Two),
];

/// Servers that get the credentials of clients, so that clients get their challenges.
pub(super) const PASSTHROUGH: &[SetupSpec] = &[
    SetupSpec::new("mod-mod^", Era::Modern, Era::Modern).at(EndpointKind::OneWithPassthrough),
    SetupSpec::new("leg-leg^", Era::Legacy, Era::Legacy).at(EndpointKind::OneWithPassthrough),
    SetupSpec::new("mod-leg^", Era::Modern, Era::Legacy).at(EndpointKind::OneWithPassthrough),
    SetupSpec::new("leg-mod^", Era::Legacy, Era::Modern).at(EndpointKind::OneWithPassthrough),
];

/// Two replicas, of which the client mostly talks to the one that does not own what it is about.
pub(super) const RELAYS: &[SetupSpec] = &[
    SetupSpec::new("mod-mod@", Era::Modern, Era::Modern).over(Route::Elsewhere),
    SetupSpec::new("leg-leg@", Era::Legacy, Era::Legacy).over(Route::Elsewhere),
    SetupSpec::new("mod-leg@", Era::Modern, Era::Legacy).over(Route::Elsewhere),
    SetupSpec::new("leg-mod@", Era::Legacy, Era::Modern).over(Route::Elsewhere),
    SetupSpec::new("leg-leg>", Era::Legacy, Era::Legacy).over(Route::AnswersElsewhere),
    SetupSpec::new("leg-mod>", Era::Legacy, Era::Modern).over(Route::AnswersElsewhere),
];

/// Clients that lose each stream and take it up again.
pub(super) const REPLAYS: &[SetupSpec] = &[
    SetupSpec::new("leg-leg~", Era::Legacy, Era::Legacy).at(EndpointKind::OneWithReplay),
    SetupSpec::new("leg-mod~", Era::Legacy, Era::Modern).at(EndpointKind::OneWithReplay),
    SetupSpec::new("leg-leg~@", Era::Legacy, Era::Legacy)
        .at(EndpointKind::OneWithReplay)
        .over(Route::Elsewhere),
    SetupSpec::new("leg-mod~@", Era::Legacy, Era::Modern)
        .at(EndpointKind::OneWithReplay)
        .over(Route::Elsewhere),
    SetupSpec::new("leg-leg~>", Era::Legacy, Era::Legacy)
        .at(EndpointKind::OneWithReplay)
        .over(Route::AnswersElsewhere),
    SetupSpec::new("leg-mod~>", Era::Legacy, Era::Modern)
        .at(EndpointKind::OneWithReplay)
        .over(Route::AnswersElsewhere),
];

/// The transport of 2024-11-05 on one side or both, `sse` in the name.
pub(super) const HTTP_SSE: &[SetupSpec] = &[
    SetupSpec::new("sse-leg", Era::Legacy, Era::Legacy).speaking(HttpSse, StreamableHttp),
    SetupSpec::new("sse-mod", Era::Legacy, Era::Modern).speaking(HttpSse, StreamableHttp),
    SetupSpec::new("mod-sse", Era::Modern, Era::Legacy).speaking(StreamableHttp, HttpSse),
    SetupSpec::new("leg-sse", Era::Legacy, Era::Legacy).speaking(StreamableHttp, HttpSse),
    SetupSpec::new("sse-sse", Era::Legacy, Era::Legacy).speaking(HttpSse, HttpSse),
    SetupSpec::new("sse-leg@", Era::Legacy, Era::Legacy)
        .speaking(HttpSse, StreamableHttp)
        .over(Route::Elsewhere),
    SetupSpec::new("sse-mod@", Era::Legacy, Era::Modern)
        .speaking(HttpSse, StreamableHttp)
        .over(Route::Elsewhere),
    SetupSpec::new("mod-sse@", Era::Modern, Era::Legacy)
        .speaking(StreamableHttp, HttpSse)
        .over(Route::Elsewhere),
];

impl SetupSpec {
    const fn new(name: &'static str, client: Era, server: Era) -> SetupSpec {
        SetupSpec {
            name,
            client,
            server,
            transports: [StreamableHttp; 2],
            endpoint: EndpointKind::One,
            route: Route::Direct,
        }
    }

    const fn speaking(self, client: Transport, server: Transport) -> SetupSpec {
        SetupSpec { transports: [client, server], ..self }
    }

    const fn at(self, endpoint: EndpointKind) -> SetupSpec {
        SetupSpec { endpoint, ..self }
    }

    const fn over(self, route: Route) -> SetupSpec {
        SetupSpec { route, ..self }
    }

    fn document(self, server: &MarkingServer, other: &Mcp) -> String {
        let (endpoint, policy) = match self.endpoint {
            EndpointKind::One if self.transports[0] == HttpSse => ("{ upstreams: up, http_sse: true }", ""),
            EndpointKind::One | EndpointKind::OneWithPassthrough => ("up", ""),
            EndpointKind::OneWithPolicy => ("up", "policy: policy.rego\n"),
            EndpointKind::Two => ("{ upstreams: [up, other], names: prefix }", ""),
            EndpointKind::OneWithReplay => ("{ upstreams: up, replay: { events: 256 } }", ""),
        };
        let credentials = match self.endpoint {
            EndpointKind::OneWithPassthrough => ", credentials: passthrough",
            _ => "",
        };
        format!(
            "upstreams:\n  up: {}\n  other: {}\nservers:\n  /mcp: {endpoint}\n{policy}",
            server.as_upstream(credentials),
            other.url()
        )
    }
}

/// A gateway between a server that writes everywhere and a client that does.
pub(super) struct Setup {
    pub(super) server: MarkingServer,
    pub(super) client: MarkingClient,
    gateways: Vec<Gateway>,
    _other: Mcp,
}

impl Setup {
    /// Asserts that the client's messages went the way that the setup is about.
    pub(super) async fn assert_route(&self) {
        assert_eq!(self.client.resumes, self.client.resumed > 0, "streams are taken up again");
        let [owner, others @ ..] = &*self.gateways else { unreachable!("a setup has a gateway") };
        if self.client.era() == Era::Legacy {
            let is_call = |record: &Value| record["action"] == "tools/call" && record["status"] == "ok";
            owner.recorded("a call at the owner of its session", is_call).await;
            let served = others.iter().flat_map(Gateway::records).find(is_call);
            assert_eq!(served, None, "no other replica serves a call of the session");
        }
    }

    pub(super) async fn start(spec: SetupSpec, binary: &Path) -> Setup {
        let server = MarkingServer::start(spec.server, spec.transports[1]).await;
        let fails = |_| async { Err((-32603, "no").into()) };
        let other = Mcp::start(Nature::of(spec.server), vec![tool("other")], fails).await;
        let document = spec.document(&server, &other);
        let gateways = match spec.route {
            Route::Direct => {
                let command = |folder: &Path| {
                    std::fs::write(folder.join("policy.rego"), "package mcp.authz\n\ndecision := true\n")
                        .unwrap();
                    run_binary(binary)
                };
                vec![Gateway::start_as(&document, command).await]
            }
            Route::Elsewhere | Route::AnswersElsewhere => replicas(binary, &document).await.into(),
        };
        let addresses: Vec<_> = gateways.iter().map(|gateway| gateway.address).collect();
        let mut client = MarkingClient::new(&addresses, "/mcp", spec.client, spec.route);
        if spec.transports[0] == HttpSse {
            client.use_http_sse();
        }
        client.resumes = matches!(spec.endpoint, EndpointKind::OneWithReplay);
        client.meets_refusals =
            spec.route == Route::Direct && spec.transports == [StreamableHttp; 2] && !client.resumes;
        Setup { server, client, gateways, _other: other }
    }
}
