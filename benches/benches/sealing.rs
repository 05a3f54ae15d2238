//! What it costs to give out a sealed token and to take one back.

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use portunus::sealing::{
    Binding, CallerKey, Home, SealedUpstreamSession, Seals, SessionName, SessionToken, StateToken, Token,
};
use portunus_base::UpstreamUrl;
use portunus_config::{ServerId, UpstreamMark};
use portunus_filters::Identity;
use portunus_filters::identity::Principal;
use portunus_filters::mcp::Revision;
use std::hint::black_box;
use std::sync::Arc;

/// A session id, with no upstream session and with as many as fit: what every call of a legacy client opens.
fn session(criterion: &mut Criterion) {
    let (seals, server, identity) = (seals(), server(), identity());
    let binding = Binding { server: &server, caller: CallerKey::for_seals(&identity) };
    let mut group = criterion.benchmark_group("session id");
    for upstream_sessions in [0, 1, 6] {
        let token = session_token(upstream_sessions);
        group.bench_function(BenchmarkId::new("seal", upstream_sessions), |bench| {
            bench.iter(|| black_box(&token).seal(&seals, &binding));
        });
        let sealed = token.seal(&seals, &binding).text;
        group.bench_function(BenchmarkId::new("open", upstream_sessions), |bench| {
            bench.iter(|| SessionName::open(&seals, &binding, black_box(&sealed)));
        });
    }
    group.finish();
    criterion.bench_function("caller key", |bench| bench.iter(|| CallerKey::for_seals(black_box(&identity))));
}

/// The state of a parked call.
fn state(criterion: &mut Criterion) {
    let (seals, server) = (seals(), server());
    let binding = Binding { server: &server, caller: CallerKey::for_seals(&identity()) };
    let token = StateToken { home: home(), serial: 7, digest: [7; 16], expires: 1_800_000_000, inner: None };
    criterion.bench_function("request state/seal", |bench| {
        bench.iter(|| black_box(&token).seal(&seals, &binding).is_ok());
    });
    let Ok(text) = token.seal(&seals, &binding) else { return };
    criterion.bench_function("request state/open", |bench| {
        bench.iter(|| StateToken::open(&seals, &binding, black_box(&text)));
    });
}

#[expect(clippy::panic, reason = "there is nothing to measure without them")]
fn seals() -> Seals {
    Seals::of([&b"the key of the benches"[..]]).unwrap_or_else(|error| panic!("{error}"))
}

fn server() -> ServerId {
    ServerId("*|/mcp".into())
}

fn identity() -> Identity {
    Identity::Principal(Arc::new(Principal::named("acme", "anna@acme.example")))
}

#[expect(clippy::panic, reason = "as above")]
fn home() -> Home {
    Home::new("replica-a".into(), 1).unwrap_or_else(|| panic!("the name fits"))
}

#[expect(clippy::panic, reason = "as above")]
fn session_token(upstream_sessions: usize) -> SessionToken {
    let url = UpstreamUrl::parse("http://127.0.0.1:9101/mcp").unwrap_or_else(|problem| panic!("{problem}"));
    let upstream_session = SealedUpstreamSession {
        upstream: UpstreamMark::of("crm", &url),
        id: "5f1c0a52-7b2f-4a9e-8f43-7a6f6a1f8a11".into(),
        version: Revision::V2025_11_25,
    };
    let upstream_sessions = vec![upstream_session; upstream_sessions];
    SessionToken {
        issued: 1_700_000_000,
        version: Revision::V2025_11_25,
        number: [7; 16],
        home: home(),
        passes: false,
        abilities: 21,
        client: r#"{"name":"agent","version":"1.0.0"}"#.into(),
        upstream_sessions,
    }
}

criterion_group!(benches, session, state);
criterion_main!(benches);
