//! What each stage of a message costs by itself, without sockets.
//!
//! The stages are those of the README's table, in its order. What they cost together, and what the
//! sockets cost, is what `cargo xtask compare` measures.

use bytes::{Bytes, BytesMut};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use http::{HeaderMap, Method};
use portunus::backend::forward::{Inbound, RequestOrigin};
use portunus::backend::headers::write_request_head;
use portunus::backend::upstreams::wire::{BodyReader, read_head};
use portunus::clock::SystemClock;
use portunus::drain::Phases;
use portunus::frontend::context::{Active, Gateway};
use portunus::frontend::intake;
use portunus::head::{HeadLimits, HeadScan};
use portunus::identify::ConnectionState;
use portunus::metrics::Stage;
use portunus::record::RecordGuard;
use portunus::reply::{Refused, refuse};
use portunus::shares::Owner;
use portunus_benches::{REQUEST_HEAD, SIZES, answer, event, modern_call, request_headers};
use portunus_config::{HttpStatus, MapEnvironment, NormalPath, Resolution, VirtualServer, load_text};
use portunus_filters::mcp::headers::Mirror;
use portunus_filters::mcp::sse::Splitter;
use portunus_filters::mcp::{Bounds, Envelope, Revision, check};
use portunus_filters::message::{Reading, read};
use portunus_filters::{Arrival, Denial, Era, Kind, Message, Reason};
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::Arc;

/// Bytes that one read of a socket brings.
const READ: usize = 16 * 1024;

const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

const LIMITS: HeadLimits = HeadLimits { bytes: 64 * 1024, fields: 128 };

/// Every check of a call before it is known where it goes: its head, its headers, its body.
fn intake_stage(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("intake");
    let mut headers = request_headers();
    group.bench_function("head", |bench| {
        bench.iter(|| HeadScan::default().look(black_box(REQUEST_HEAD), LIMITS).is_ok());
    });
    group.bench_function("headers", |bench| bench.iter(|| intake::declared(black_box(&mut headers)).is_ok()));
    for size in SIZES {
        let body = Bytes::from(modern_call(size));
        group.throughput(Throughput::Bytes(body.len() as u64));
        group.bench_function(BenchmarkId::new("all", size), |bench| {
            bench.iter(|| {
                let head = HeadScan::default().look(black_box(REQUEST_HEAD), LIMITS).is_ok();
                let declared = intake::declared(&mut headers).is_ok();
                let message = message(black_box(&body), &headers);
                (head, declared, message)
            });
        });
    }
    group.finish();
}

/// The body alone: its JSON, and then the message in it with its headers.
fn parse_stage(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("parse");
    for size in SIZES {
        let body = Bytes::from(modern_call(size));
        group.throughput(Throughput::Bytes(body.len() as u64));
        group.bench_function(BenchmarkId::new("check", size), |bench| {
            bench.iter(|| check(black_box(&body), &Bounds::default()).is_ok());
        });
        let mirror = Mirror { version: Some("2026-07-28"), method: Some("tools/call"), name: Some("echo") };
        group.bench_function(BenchmarkId::new("read", size), |bench| {
            bench.iter(|| read(black_box(&body), &Bounds::default(), &mirror, &Revision::ALL).is_ok());
        });
        let answer = answer(size);
        group.bench_function(BenchmarkId::new("envelope of an answer", size), |bench| {
            bench.iter(|| Envelope::read(black_box(&answer)).is_ok());
        });
    }
    group.finish();
}

/// From a path and a host to a virtual server, among few and among many.
fn route_stage(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("route");
    for servers in [1, 1_000] {
        let gateway = gateway(servers, "off");
        let active = gateway.active();
        group.bench_function(BenchmarkId::from_parameter(servers), |bench| {
            bench.iter(|| {
                let path = NormalPath::parse(black_box("/mcp"));
                path.is_ok_and(|path| {
                    let found = active.snapshot.routes.resolve(Some("127.0.0.1:8080"), &path);
                    matches!(found, Resolution::Server(_))
                })
            });
        });
    }
    group.finish();
}

/// The head for the upstream, and the answer that comes back.
fn forward_stage(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("forward");
    let gateway = gateway(1, "off");
    let server = server(&gateway.active());
    let headers = request_headers();
    let arrival = arrival(&gateway, &headers);
    let trace = gateway.backend.ids.trace(&headers);
    let origin = RequestOrigin { arrival, secure: false, behind_proxy: false, trace };
    group.bench_function("head of the request", |bench| {
        let inbound = Inbound {
            method: &Method::POST,
            headers: &headers,
            query: None,
            owner: Owner::at(CLIENT),
            origin: &origin,
        };
        bench.iter(|| {
            let mut head = Vec::with_capacity(1_024);
            write_request_head(&mut head, black_box(&inbound), &server.upstreams[0], 400);
            head
        });
    });
    for size in SIZES {
        let bytes = upstream_answer(size);
        group.throughput(Throughput::Bytes(bytes.len() as u64));
        group.bench_function(BenchmarkId::new("answer", size), |bench| {
            bench.iter(|| {
                let mut buffer = BytesMut::from(black_box(bytes.as_slice()));
                let Ok(Some(head)) = read_head(&mut buffer) else { return None };
                BodyReader::new(head.framing).next_part(&mut buffer).ok()
            });
        });
    }
    group.finish();
}

/// Event streams: 100 events, in pieces as a socket gives them.
fn sse_stage(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("sse");
    for size in SIZES {
        let stream = event(size).repeat(100);
        group.throughput(Throughput::Bytes(stream.len() as u64));
        group.bench_function(BenchmarkId::new("split 100 events", size), |bench| {
            bench.iter(|| split(black_box(stream.as_bytes())));
        });
    }
    group.finish();
}

fn split(stream: &[u8]) -> usize {
    let mut splitter = Splitter::new(1 << 20);
    let mut events = 0;
    for piece in stream.chunks(READ) {
        splitter.push(piece);
        while let Ok(Some(_)) = splitter.next_event() {
            events += 1;
        }
    }
    events
}

/// A refusal of our own.
fn reply_stage(criterion: &mut Criterion) {
    let body = Bytes::from(modern_call(400));
    let message = message(&body, &request_headers());
    let ids: Vec<_> = message.id.iter().cloned().collect();
    criterion.bench_function("reply", |bench| {
        bench.iter(|| {
            let denial = Denial::new(Reason::UpstreamUnavailable, "the server cannot be reached");
            let refused = Refused {
                kind: Some(Kind::Request),
                era: Some(Era::Modern),
                ids: &ids,
                batch: false,
                method: message.method.as_ref(),
                http_status: HttpStatus::InBand,
            };
            refuse(black_box(&denial), &refused, "0198c5f2-request")
        });
    });
}

/// Everything that is noted of a call and recorded at its end, without and with a line of the log.
fn record_stage(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("record");
    for (name, log) in [("metrics", "off"), ("metrics and a line", "{ file: /dev/null }")] {
        let gateway = gateway(1, log);
        let active = gateway.active();
        let server = server(&active);
        let Some(pool) = active.pool(&server.upstreams[0]) else { return };
        let headers = request_headers();
        let body = Bytes::from(modern_call(400));
        let message = message(&body, &headers);
        group.bench_function(name, |bench| {
            bench.iter(|| {
                let arrival = arrival(&gateway, &headers);
                let mut record = RecordGuard::new(&gateway.recorder, &arrival);
                record.note_client(Some("bench/1"), Some("0af7651916cd43dd8448eb211c80319c"));
                record.note_server(&server, &active.revision);
                record.end_stage(Stage::Resolve);
                record.note_message(black_box(&message), body.len());
                record.end_stage(Stage::Intake);
                record.begin_forwarding(&pool);
                record.end_stage(Stage::Forward);
                record.note_http_status(200);
                record.note_http_answer(200, None);
                record.note_proof(true);
                record.add_sent(400, 0);
            });
        });
        gateway.recorder.access_log.close();
    }
    group.finish();
}

#[expect(clippy::panic, reason = "a bench of a refusal would be another")]
fn message(body: &Bytes, headers: &HeaderMap) -> Message {
    match intake::message(body, headers, &Bounds::default(), &Revision::ALL) {
        Ok(Reading::One(message)) => message,
        Ok(Reading::Batch(_)) => panic!("the call is read as a batch"),
        Err(unreadable) => panic!("the call is refused: {:?}", unreadable.denial),
    }
}

fn arrival(gateway: &Gateway, headers: &HeaderMap) -> Arrival {
    Arrival {
        listener: "main".into(),
        source: CLIENT,
        identity: gateway.identifier.identity(headers, CLIENT, &ConnectionState::new(Phases::default())),
        request_id: gateway.backend.ids.request_id(headers),
        at: gateway.clock.now(),
    }
}

fn upstream_answer(size: usize) -> Vec<u8> {
    let body = answer(size);
    let head = format!("content-type: application/json\r\ncontent-length: {}\r\ndate: x", body.len());
    format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\n{body}").into_bytes()
}

/// A gateway with so many virtual servers, `/mcp` among them.
#[expect(clippy::panic, reason = "there is nothing to measure without one")]
fn gateway(servers: usize, access_log: &str) -> Arc<Gateway> {
    let more: String = (1..servers).map(|number| format!("  /team-{number}/mcp: echo\n")).collect();
    let text = format!(
        "version: 1\nlisten: 127.0.0.1:8080\naccess_log: {access_log}\nupstreams:\n  echo: \"http://127.0.0.1:9101/mcp\"\n\
         servers:\n  /mcp: echo\n{more}"
    );
    let loaded = load_text(&text, Path::new("bench.yaml"), &MapEnvironment::default());
    let loaded = loaded.unwrap_or_else(|report| panic!("{report}"));
    match Gateway::new(loaded, Arc::new(SystemClock::new())) {
        Ok(gateway) => Arc::new(gateway),
        Err(error) => panic!("{error}"),
    }
}

#[expect(clippy::panic, reason = "as above")]
fn server(active: &Active) -> Arc<VirtualServer> {
    match active.snapshot.routes.iter().next() {
        Some(server) => Arc::clone(server),
        None => panic!("the configuration of the benches has no server"),
    }
}

criterion_group!(
    benches,
    intake_stage,
    parse_stage,
    route_stage,
    forward_stage,
    sse_stage,
    reply_stage,
    record_stage
);
criterion_main!(benches);
