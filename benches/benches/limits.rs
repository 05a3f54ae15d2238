//! Measures the cost of limits for a call: one caller again and again, callers at random among a million, two threads on one key, and the
//! memory of a key.

use bytes::Bytes;
use criterion::{Criterion, criterion_group, criterion_main};
use portunus::clock::SystemClock;
use portunus_filters::call::{Call, KnownTool, Subject, Target};
use portunus_filters::filter::Filter;
use portunus_filters::identity::Principal;
use portunus_filters::limits::{Counters, Gcra, KeyPart, Limits, Match, Meter, Mode, Rule, Unit};
use portunus_filters::mcp::headers::Mirror;
use portunus_filters::mcp::{Bounds, Revision};
use portunus_filters::message::{Reading, read};
use portunus_filters::{Admission, Arrival, Identity, Message, Moment};
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const PRINCIPALS: usize = 1_000_000;

fn limits(rules: usize) -> Limits {
    let rate = Meter::Rate(Gcra::new(1_000_000_000, Duration::from_secs(3_600), 1_000_000_000));
    let rule = |number: usize| Rule {
        name: format!("rule_{number}").into(),
        key: Box::new([KeyPart::Principal, KeyPart::Tool]),
        unit: Unit::Calls,
        matches: Match::default(),
        except: Box::default(),
        mode: Mode::Enforce,
        meter: rate,
        shown: "1000000000/hour".into(),
        place: "gateway.yaml:1".into(),
    };
    let rules: Vec<Rule> = (0..rules).map(rule).collect();
    Limits::new(&rules, PRINCIPALS * 2, &Counters::new([1, 2]), Arc::new(SystemClock::default()))
}

fn arrival(number: usize) -> Arrival {
    let source = IpAddr::from(Ipv4Addr::LOCALHOST);
    let principal = Arc::new(Principal::named("acme", number.to_string()));
    let at = Moment { monotonic: Duration::ZERO, wall: Duration::ZERO };
    Arrival {
        listener: "main".into(),
        source,
        identity: Identity::Principal(principal),
        request_id: "r".into(),
        at,
    }
}

#[expect(clippy::panic, reason = "there is nothing to measure without one")]
fn message() -> Message {
    let call = br#"{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"echo","arguments":{}}}"#;
    match read(&Bytes::from_static(call), &Bounds::default(), &Mirror::default(), &Revision::ALL) {
        Ok(Reading::One(message)) => message,
        _ => panic!("it cannot be read"),
    }
}

fn target() -> Target {
    let subject = Some(Subject::Tool(Arc::new(KnownTool::unrated("echo".into()))));
    Target { subject, ..Target::new(&"mcp".into(), &"up".into()) }
}

/// A call that is admitted and sent.
fn send(limits: &Limits, call: &Call<'_>) {
    if let Ok(Admission::Granted(hold)) = limits.admit(black_box(call)) {
        hold.commit();
    }
}

#[expect(clippy::print_stdout, reason = "memory is a result of its own")]
fn benches(criterion: &mut Criterion) {
    let (message, target, ann) = (message(), target(), arrival(0));
    let call = |arrival| Call::new(arrival, &message, &target);
    for rules in [1, 4, 16] {
        let limits = limits(rules);
        criterion.bench_function(&format!("limits/one caller, {rules} rules"), |bench| {
            bench.iter(|| send(&limits, &call(&ann)));
        });
    }
    let limits_of_many = limits(1);
    let before = resident_kib();
    let callers: Vec<Arrival> = (0..PRINCIPALS).map(arrival).collect();
    let held = resident_kib();
    callers.iter().for_each(|caller| send(&limits_of_many, &call(caller)));
    let table = resident_kib();
    println!(
        "a million callers: {} MiB of callers, {} MiB of counts",
        held.saturating_sub(before) / 1024,
        table.saturating_sub(held) / 1024
    );
    let mut state = 0_u64;
    criterion.bench_function("limits/callers at random among a million", |bench| {
        bench.iter(|| {
            // A linear congruential generator; its high bits are the good ones.
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let at = usize::try_from(state >> 32).unwrap_or_default() % PRINCIPALS;
            send(&limits_of_many, &call(&callers[at]));
        });
    });
    let limits = limits(1);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                send(&limits, &call(&ann));
            }
        });
        criterion.bench_function("limits/one caller, another thread on its key", |bench| {
            bench.iter(|| send(&limits, &call(&ann)));
        });
        stop.store(true, Ordering::Relaxed);
    });
}

/// Resident memory of this process; 0 where the system does not tell.
fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok()).unwrap_or_default()
}

criterion_group!(all, benches);
criterion_main!(all);
