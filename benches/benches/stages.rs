//! What each stage of a message costs by itself.

use bytes::{Bytes, BytesMut};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use portunus::head::{HeadLimits, HeadScan};
use portunus::upstreams::wire::{BodyReader, Framing, read_head};
use portunus_benches::modern_call;
use portunus_filters::mcp::headers::Mirror;
use portunus_filters::mcp::sse::Splitter;
use portunus_filters::mcp::{Bounds, Revision, check};
use portunus_filters::message::read;
use std::hint::black_box;

const REQUEST: &[u8] = b"POST /mcp HTTP/1.1\r\nHost: 127.0.0.1:8080\r\nAccept: application/json, text/event-stream\r\n\
Content-Type: application/json\r\nMCP-Protocol-Version: 2026-07-28\r\nMcp-Method: tools/call\r\nMcp-Name: echo\r\n\
User-Agent: bench/1\r\nContent-Length: 400\r\n\r\n";

fn parsing(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("parse");
    for padding in [100, 3_800] {
        let body = Bytes::from(modern_call(padding));
        group.throughput(Throughput::Bytes(body.len() as u64));
        group.bench_function(format!("check {}", body.len()), |bench| {
            bench.iter(|| check(black_box(&body), &Bounds::default()).is_ok());
        });
        let mirror = Mirror { version: Some("2026-07-28"), method: Some("tools/call"), name: Some("echo") };
        group.bench_function(format!("read {}", body.len()), |bench| {
            bench.iter(|| read(black_box(&body), &Bounds::default(), &mirror, &Revision::ALL).is_ok());
        });
    }
    group.finish();
}

fn framing(criterion: &mut Criterion) {
    let limits = HeadLimits { bytes: 64 * 1024, fields: 128 };
    criterion.bench_function("head check", |bench| {
        bench.iter(|| HeadScan::default().look(black_box(REQUEST), limits).is_ok());
    });
    let answer =
        b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\ndate: x\r\n\r\n{}";
    criterion.bench_function("answer head and body", |bench| {
        bench.iter(|| {
            let mut buffer = BytesMut::from(&answer[..]);
            let head = read_head(&mut buffer);
            let framing = head.ok().flatten().map_or(Framing::Close, |head| head.framing);
            BodyReader::new(framing).next_part(&mut buffer).is_ok()
        });
    });
}

fn events(criterion: &mut Criterion) {
    let event = "event: message\ndata: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/progress\",\"params\":{\"progressToken\":1,\"progress\":5}}\n\n";
    let stream = event.repeat(100);
    let mut group = criterion.benchmark_group("sse");
    group.throughput(Throughput::Bytes(stream.len() as u64));
    group.bench_function("split 100 events", |bench| {
        bench.iter(|| {
            let mut splitter = Splitter::new(1 << 20);
            splitter.push(black_box(stream.as_bytes()));
            let mut events = 0;
            while let Ok(Some(_)) = splitter.next_event() {
                events += 1;
            }
            events
        });
    });
    group.finish();
}

criterion_group!(benches, parsing, framing, events);
criterion_main!(benches);
