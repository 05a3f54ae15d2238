//! What the lists of a virtual server cost: to merge, to find a name in, and to answer from.

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use portunus_filters::mcp::bridge::Caching;
use portunus_filters::mcp::catalog::{
    Catalog, Closing, Known, ListKind, Listing, Lists, Names, Naming, Offer, Page, Policy, Source,
};
use portunus_filters::{Clock, Era, ManualClock};
use std::hint::black_box;
use std::sync::Arc;

/// Lists of all sizes that are served.
const TOOLS: [usize; 2] = [1_000, 5_000];

struct All;

impl Naming for All {
    fn admits(&self, _: &str, _: &str) -> bool {
        true
    }
    fn renamed(&self, _: &str, _: &str) -> Option<&str> {
        None
    }
    fn described(&self, _: &str, _: &str) -> Option<&str> {
        None
    }
}

/// A result of `tools/list`, each tool of about half a kilobyte.
fn result(tools: usize) -> Bytes {
    let tool = |number: usize| {
        format!(
            r#"{{"name":"tool_{number}","description":"{}","inputSchema":{{"type":"object","properties":{{"text":{{"type":"string"}},"limit":{{"type":"integer","default":10}}}},"required":["text"]}}}}"#,
            "What it does, and when to call it. ".repeat(9)
        )
    };
    let tools: Vec<String> = (0..tools).map(tool).collect();
    format!(r#"{{"tools":[{}]}}"#, tools.join(",")).into()
}

/// Two members that offer the same tools.
#[expect(clippy::panic, reason = "there is nothing to measure without one")]
fn sources(tools: usize) -> [Source; 2] {
    ["crm", "search"].map(|member| {
        let page = Page::read(&result(tools / 2), ListKind::Tools).unwrap_or_else(|fault| panic!("{fault}"));
        let mut lists = Lists::default();
        lists.0[ListKind::Tools.index()] = Known::fresh(Arc::new(Listing::join(vec![page])));
        Source { member: member.into(), offer: Offer::One(lists) }
    })
}

fn merged(sources: &[Source]) -> Catalog {
    let names = Names { policy: Policy::PrefixOnConflict, separator: "_".into(), rules: Arc::new(All) };
    Catalog::merge(sources, &names, None, None)
}

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
        let closing = Closing { era: Era::Modern, caching: Caching::NONE, server_info: None, now };
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
