//! What it costs to say a call in the words of the other era, without sockets.
//!
//! A call of 0.4 KB, said in both directions together with its answer, should take well below 5 µs.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use portunus_benches::{SIZES, answer, modern_call};
use portunus_filters::mcp::bridge::{
    Answer, Facts, Parts, Profile, Put, answer as read_answer, legacy_request, modern_request,
    result_for_legacy, result_for_modern, wrap_result,
};
use portunus_filters::mcp::{Envelope, Revision};
use std::hint::black_box;

const PUT: Put<'_> = Put { id: "4711", progress_token: Some("4711"), target: Some("echo") };

/// A modern client's call for a legacy server and back.
fn modern_to_legacy(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("modern to legacy");
    let facts = Facts::merge(&[], r#"{"name":"bench","version":"1"}"#);
    for size in SIZES {
        let (call, answer) = (modern_call(size), answer(size));
        group.throughput(Throughput::Bytes((call.len() + answer.len()) as u64));
        group.bench_function(BenchmarkId::new("request", size), |bench| {
            bench.iter(|| Parts::read(black_box(&call)).and_then(|parts| legacy_request(&parts, &PUT)));
        });
        group.bench_function(BenchmarkId::new("answer", size), |bench| {
            bench.iter(|| {
                answered(black_box(&answer), |result| {
                    result_for_modern(result, "tools/call", &facts, None).unwrap_or_default()
                })
            });
        });
    }
    group.finish();
}

/// A legacy client's call for a modern server and back.
fn legacy_to_modern(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("legacy to modern");
    for size in SIZES {
        let (call, answer) = (modern_call(size), answer(size));
        let Some(profile) = profile(&call) else { continue };
        let Ok(call) = Parts::read(&call).and_then(|parts| legacy_request(&parts, &PUT)) else { continue };
        group.throughput(Throughput::Bytes((call.len() + answer.len()) as u64));
        group.bench_function(BenchmarkId::new("request", size), |bench| {
            bench.iter(|| {
                let parts = Parts::read(black_box(&call))?;
                modern_request(&parts, &PUT, &profile, Revision::V2026_07_28, None)
            });
        });
        group.bench_function(BenchmarkId::new("answer", size), |bench| {
            bench.iter(|| {
                answered(black_box(&answer), |result| {
                    result_for_legacy(result, "tools/call").unwrap_or_default()
                })
            });
        });
    }
    group.finish();
}

fn profile(call: &str) -> Option<Profile> {
    let envelope = Envelope::read(call).ok()?;
    Profile::of_envelope(&envelope.params.inside("_meta").ok()??).ok()
}

/// From the upstream's message to the client's.
fn answered(message: &str, say: impl Fn(&str) -> String) -> String {
    match read_answer(message) {
        Ok(Answer::Result(result)) => wrap_result("7", &say(result)),
        _ => String::new(),
    }
}

criterion_group!(benches, modern_to_legacy, legacy_to_modern);
criterion_main!(benches);
