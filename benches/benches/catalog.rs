//! What the lists of a virtual server cost: to merge, to find a name in, and to answer from.

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use portunus_benches::catalogue::{merged, result, sources};
use portunus_filters::catalog::{Closing, ListKind, Page};
use portunus_filters::mcp::bridge::Caching;
use portunus_filters::{Clock, Era, ManualClock};
use std::hint::black_box;

/// Lists of all sizes that are served.
const TOOLS: [usize; 2] = [1_000, 5_000];

fn catalogs(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("catalog");
    for tools in TOOLS {
        let page = result(tools);
        group.bench_function(BenchmarkId::new("read a list", tools), |bench| {
            bench.iter(|| Page::read(black_box(&page), ListKind::Tools).is_ok());
        });
        let sources = sources(tools);
        group.bench_function(BenchmarkId::new("merge two", tools), |bench| {
            bench.iter(|| merged(black_box(&sources)));
        });
        let catalog = merged(&sources);
        let now = ManualClock::default().now();
        let closing =
            Closing { era: Era::Modern, caching: Caching::NONE, server_info: None, now, untold: &[] };
        group.bench_function(BenchmarkId::new("answer a list", tools), |bench| {
            bench.iter(|| black_box(&catalog).result(ListKind::Tools, None, &closing).is_ok());
        });
        group.bench_function(BenchmarkId::new("find a name", tools), |bench| {
            bench.iter(|| catalog.tool(black_box("search_tool_400")).is_some());
        });
    }
    group.finish();
}

criterion_group!(benches, catalogs);
criterion_main!(benches);
