use super::*;
use crate::backend::upstream_call::{CallEvent, Outcome, Rounds, UpstreamCall};
use crate::testing::{Asked, Bed, Choice, Server, Wire, within};
use portunus_filters::Reason;
use std::net::SocketAddr;
use std::sync::atomic::AtomicBool;

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn a_place_that_fails_in_a_row_is_left_alone_longer_each_time_and_comes_back() {
    let ejection = Ejection { after: 3, base: 10 * SECOND };
    let mut health = InstanceHealth::default();
    let fit = |health: &InstanceHealth, at: u32| health.is_fit(at * SECOND, None);
    let twice = |health: &mut InstanceHealth| [(); 2].map(|()| health.failed(SECOND, &ejection));
    assert_eq!(twice(&mut health), [None; 2]);
    assert!(!health.answered());
    assert_eq!(twice(&mut health), [None; 2]);
    assert_eq!(health.failed(SECOND, &ejection), Some(10 * SECOND), "the third in a row");
    assert!(!fit(&health, 10) && fit(&health, 11));
    assert_eq!(health.failed(20 * SECOND, &ejection), Some(20 * SECOND), "once it is back, one is enough");
    assert!(!fit(&health, 39) && fit(&health, 40));
    assert!(health.answered());
    assert_eq!(health, InstanceHealth::default());
}

#[test]
fn a_place_that_fails_its_probes_is_out_until_it_answers_one() {
    let health = Health { unhealthy_after: 2, ..Health::default() };
    let mut state = InstanceHealth::default();
    assert!(!state.probed(false, &health) && state.probed(false, &health));
    assert!(!state.is_fit(SECOND, Some(&health)));
    assert!(!state.probed(false, &health) && state.probed(true, &health));
    assert!(state.is_fit(SECOND, Some(&health)));
}

/// A server that names itself, under either era, and is down while `down` says so.
async fn named(name: &'static str, down: &'static AtomicBool) -> Server {
    Server::start(move |asked: Asked, mut wire: Wire| async move {
        match asked.method() {
            _ if down.load(Ordering::SeqCst) => wire.status("503 Down", "", "").await,
            "initialize" => {
                let body = format!(
                    r#"{{"jsonrpc":"2.0","id":{},"result":{{"protocolVersion":"2025-11-25","capabilities":{{}},"serverInfo":{{"name":"s","version":"1"}}}}}}"#,
                    asked.id()
                );
                let fields = "content-type: application/json\r\nmcp-session-id: s\r\n";
                wire.status("200 OK", fields, &body).await;
            }
            "notifications/initialized" => wire.accepted().await,
            "GET" => wire.status("405 No", "", "").await,
            _ => wire.result(&asked, &format!(r#"{{"at":"{name}"}}"#)).await,
        }
        Some(wire)
    })
    .await
}

static UP: AtomicBool = AtomicBool::new(false);

fn bed(places: &[SocketAddr], more: &str) -> Bed {
    let urls: Vec<_> = places.iter().map(|address| format!("\"http://{address}/mcp\"")).collect();
    Bed::with(&format!("replicas: [{}]{more}", urls.join(", ")))
}

const CALL: &str =
    r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo","arguments":{}}}"#;

async fn outcome(upstream_call: &mut UpstreamCall) -> Result<String, Failure> {
    match within("the answer", upstream_call.next()).await {
        CallEvent::Done(answer) => match answer.outcome {
            Outcome::Result(result) => {
                let result: serde_json::Value = serde_json::from_str(result.text()).unwrap();
                Ok(result["at"].as_str().unwrap().to_owned())
            }
            Outcome::Error { error, .. } => panic!("{error:?}"),
        },
        CallEvent::Failed(failure) => Err(failure),
        other => panic!("{other:?}"),
    }
}

async fn call(bed: &Bed, caller: &str) -> Result<String, Failure> {
    let place = bed.place(caller, "{}");
    let mut upstream_call = bed.open_with(&place, CALL, Choice::of(Rounds::Never)).await?;
    outcome(&mut upstream_call).await
}

/// Where nobody listens.
async fn nowhere() -> SocketAddr {
    let server = named("gone", &UP).await;
    server.address
}

#[tokio::test]
async fn calls_go_where_the_fewest_are_under_way() {
    let (a, b) = (named("a", &UP).await, named("b", &UP).await);
    let bed = bed(&[a.address, b.address], ", era: modern");
    let place = bed.place("anna", "{}");
    let mut one = bed.open(&place, CALL, Rounds::Never).await;
    let mut two = bed.open(&place, CALL, Rounds::Never).await;
    let mut at = [outcome(&mut one).await.unwrap(), outcome(&mut two).await.unwrap()];
    at.sort();
    assert_eq!(at, ["a", "b"]);
    let status = bed.gateway.backend.instances.status(Duration::ZERO);
    assert!(status.iter().all(|one| one.state == "healthy" && one.in_flight == 0), "{status:?}");
}

#[tokio::test]
async fn a_callers_calls_stay_where_its_session_is() {
    let (a, b) = (named("a", &UP).await, named("b", &UP).await);
    let bed = bed(&[a.address, b.address], ", era: legacy");
    let first = call(&bed, "anna").await.unwrap();
    for _ in 0..5 {
        assert_eq!(call(&bed, "anna").await.unwrap(), first);
    }
    assert_eq!(a.heard("initialize").len() + b.heard("initialize").len(), 1);
}

#[tokio::test]
async fn a_place_that_cannot_be_reached_costs_no_call() {
    for era in ["modern", "legacy"] {
        let server = named("a", &UP).await;
        let bed = bed(&[nowhere().await, server.address], &format!(", era: {era}, ejection: {{ after: 2 }}"));
        for caller in ["anna", "bert", "carl", "dora", "emil", "fred"] {
            assert_eq!(call(&bed, caller).await.unwrap(), "a", "{era}");
        }
        let status = bed.gateway.backend.instances.status(Duration::ZERO);
        assert!(status.iter().any(|one| one.state == "ejected"), "{era}: {status:?}");
    }
}

#[tokio::test]
async fn where_no_place_is_reached_the_call_fails_and_is_over() {
    let bed = bed(&[nowhere().await, nowhere().await], ", era: modern");
    let failure = call(&bed, "anna").await.unwrap_err();
    assert_eq!(failure.denial.reason, Reason::UpstreamUnavailable);
}

#[tokio::test]
async fn probes_take_a_place_out_before_a_call_finds_it_down() {
    static DOWN: AtomicBool = AtomicBool::new(true);
    let (a, b) = (named("a", &UP).await, named("b", &DOWN).await);
    let health = ", era: modern, health: { interval: 30s, timeout: 5s, unhealthy_after: 1 }";
    let bed = bed(&[a.address, b.address], health);
    let instances = &bed.gateway.backend.instances;
    let state = |at: SocketAddr| {
        let status = instances.status(Duration::ZERO);
        status.into_iter().find(|one| one.url.contains(&at.to_string())).unwrap().state
    };
    let becomes = |expected: &'static str| {
        let address = b.address;
        async move {
            while state(address) != expected {
                tokio::task::yield_now().await;
            }
        }
    };
    instances.probe(&bed.gateway.backend);
    within("the probe", becomes("unhealthy")).await;
    for _ in 0..4 {
        assert_eq!(call(&bed, "anna").await.unwrap(), "a");
    }
    DOWN.store(false, Ordering::SeqCst);
    bed.clock.advance(29 * SECOND);
    instances.probe(&bed.gateway.backend);
    assert_eq!(b.heard("server/discover").len(), 1, "not due yet");
    bed.clock.advance(SECOND);
    instances.probe(&bed.gateway.backend);
    within("the next probe", becomes("healthy")).await;
}

/// A probe is for nobody: it says nothing of a caller, and is not let in where that is asked for.
#[tokio::test]
async fn a_server_that_lets_nobody_in_unnamed_is_well() {
    static DOWN: AtomicBool = AtomicBool::new(true);
    for refusal in ["401 Who", "403 No"] {
        DOWN.store(true, Ordering::SeqCst);
        let server = Server::start(move |_: Asked, mut wire: Wire| async move {
            let status = if DOWN.load(Ordering::SeqCst) { "503 Down" } else { refusal };
            wire.status(status, "", "").await;
            Some(wire)
        })
        .await;
        let health = ", era: modern, caller: headers, health: { interval: 30s, unhealthy_after: 1 }";
        let bed = bed(&[server.address], health);
        let instances = &bed.gateway.backend.instances;
        let becomes = async |expected: &str| {
            while instances.status(Duration::ZERO)[0].state != expected {
                tokio::task::yield_now().await;
            }
        };
        instances.probe(&bed.gateway.backend);
        within("the first probe", becomes("unhealthy")).await;
        DOWN.store(false, Ordering::SeqCst);
        bed.clock.advance(30 * SECOND);
        instances.probe(&bed.gateway.backend);
        within(refusal, becomes("healthy")).await;
        let probes = server.heard("server/discover");
        assert!(probes.len() == 2 && probes.iter().all(|probe| probe.header("x-portunus-subject").is_none()));
    }
}

#[tokio::test]
async fn what_is_known_of_a_place_outlives_a_swap() {
    let server = named("a", &UP).await;
    let bed = bed(&[nowhere().await, server.address], ", era: modern, ejection: { after: 1 }");
    for _ in 0..2 {
        call(&bed, "anna").await.unwrap();
    }
    let before = bed.gateway.backend.instances.status(Duration::ZERO);
    assert!(before.iter().any(|one| one.state == "ejected"));
    bed.gateway
        .backend
        .instances
        .reconcile(&bed.gateway.active().snapshot, &bed.gateway.backend.metrics.upstreams);
    assert_eq!(bed.gateway.backend.instances.status(Duration::ZERO), before);
}
