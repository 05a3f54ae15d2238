//! `cargo xtask compare`: what a call costs through Portunus and through other proxies.
//!
//! Rows that are read together are measured at one offered rate, below what the slowest of them can
//! do, so that CPU time a call is compared at equal work; the rounds take turns in which peer goes first,
//! so that a disturbance of the machine does not fall on one of them. The method, and what the
//! figures do not show, is in `docs/benchmarks.md`.

mod load;
mod options;
mod peer;
mod results;
mod site;
mod table;

pub(crate) use options::Options;

use crate::step::{Failure, say, seconds};
use load::{Load, Pace};
use peer::{Peer, Running, Table};
use results::{Results, Sample};
use site::Site;
use std::time::{Duration, Instant};

/// Bytes of a call's JSON, and of its answer's text.
const SIZES: [u32; 2] = [400, 4_096];

/// Idle connections that are held to see what one costs.
const IDLE: u32 = 5_000;

/// The fixed rate, in per cent of what the slowest peer can do.
const OFFERED: f64 = 60.0;

/// The rate at which latencies are compared, in per cent of the same.
const HALF: f64 = 50.0;

/// Turns that each row of what serving adds has in a round: rows that differ by microseconds have to be
/// measured within seconds of each other, since the machine does not stay the same for longer.
const SLICES: u32 = 5;

/// Measures, prints, and writes down where that is asked for.
///
/// # Errors
/// If something that is needed is neither there nor can be installed, or a peer does not serve.
pub(crate) fn run(options: &Options) -> Result<(), Failure> {
    let results = measure(options)?;
    say(&table::summary(&results));
    if options.write {
        table::write(&results)?;
    }
    Ok(())
}

/// Measures and holds the figures against what is promised.
///
/// # Errors
/// If one is not kept.
pub(crate) fn prove() -> Result<(), Failure> {
    let results = measure(&Options::default())?;
    say(&table::summary(&results));
    let (text, kept) = table::verdict(&results);
    say(&text);
    if kept {
        return Ok(());
    }
    Err(Failure {
        problem: "the price list is not kept".to_owned(),
        mend: "look first whether the machine was busy (the line on its load above), then what the last changes cost: `cargo bench`".to_owned(),
    })
}

fn measure(options: &Options) -> Result<Results, Failure> {
    let peers = options.peers()?;
    let site = Site::set_up(peers.iter().any(|peer| peer.is_envoy()))?;
    site.warn_if_busy();
    let measured = peers.iter().map(|peer| SIZES.iter().filter(|size| peer.takes(**size)).count()).sum();
    say(&format!("==> Compare\n    this takes about {}", seconds(estimate(options, measured))));
    let start = Instant::now();
    let mut results = Results::new(&site, options);
    for (size, table) in SIZES.into_iter().flat_map(|size| Table::ALL.map(|table| (size, table))) {
        let is_asked = |peer: &&Peer| peer.table == table && peer.takes(size);
        let asked: Vec<&Peer> = peers.iter().copied().filter(is_asked).collect();
        if asked.is_empty() {
            continue;
        }
        let slowest = match options.rate {
            Some(rate) => f64::from(rate) * 100.0 / OFFERED,
            None => slowest(&site, &asked, (size, options))?,
        };
        results.rates.insert((table, size), rates(slowest));
    }
    let mut staying = Vec::new();
    for round in 0..options.rounds {
        for (turn, peer) in turns(&peers, round) {
            for size in SIZES.into_iter().filter(|size| peer.takes(*size)) {
                let load = (size, results.rates[&(peer.table, size)], (turn, options.seconds));
                let sample = match peer.table == Table::Served {
                    // A slice is too short for a process to get warm.
                    true => sample(&site, stay(&mut staying, peer, &site)?, load)?,
                    false => sample(&site, &peer.start(&site)?, load)?,
                };
                say(&format!("    {}", sample.line(round + 1, peer.name, size)));
                results.add(peer, size, sample);
            }
        }
        say(&format!("round {} of {} after {}", round + 1, options.rounds, seconds(start.elapsed())));
    }
    drop(staying);
    for peer in peers.iter().filter(|peer| peer.table == Table::Quiet && peer.is_proxy()) {
        let held = hold(&site, peer)?;
        results.idle.insert(peer.name, held);
        say(&format!("    {:<14} {held:.1} KB an idle connection", peer.name));
    }
    results.finish(&site, start.elapsed());
    Ok(results)
}

/// Who is measured in a round, in order, and for which part of the time: another peer comes first in
/// each round, and in each turn of those that have several.
fn turns<'p>(peers: &[&'p Peer], round: u32) -> Vec<(Turn, &'p Peer)> {
    let (sliced, whole): (Vec<&Peer>, Vec<&Peer>) =
        peers.iter().partition(|peer| peer.table == Table::Served);
    let from = |peers: &[&'p Peer], first: u32, turn| {
        let order = (0..peers.len()).map(|place| peers[(place + first as usize) % peers.len()]);
        order.map(|peer| (turn, peer)).collect::<Vec<_>>()
    };
    let slices = (0..SLICES).flat_map(|slice| from(&sliced, round * SLICES + slice, Turn::SLICE));
    from(&whole, round, Turn::WHOLE).into_iter().chain(slices).collect()
}

/// How long a peer is measured at a time.
#[derive(Clone, Copy, Debug)]
struct Turn {
    /// The part of the time that is asked for.
    share: f64,
    /// Seconds of the same load before.
    warm_up: f64,
}

impl Turn {
    const WHOLE: Turn = Turn { share: 1.0, warm_up: 1.0 };
    const SLICE: Turn = Turn { share: 1.0 / SLICES as f64, warm_up: 0.3 };
}

/// The offered rate and half the load, in calls a second.
fn rates(slowest: f64) -> (u32, u32) {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "far below 2^32")]
    let rate = |percent: f64| ((slowest * percent / 100.0) as u32).max(1);
    (rate(OFFERED), rate(HALF))
}

/// What the slowest of the peers can do, in calls a second.
fn slowest(site: &Site, peers: &[&Peer], (size, options): (u32, &Options)) -> Result<f64, Failure> {
    let mut slowest = f64::INFINITY;
    for peer in peers {
        let running = peer.start(site)?;
        let report =
            Load::on(site, &running, size).seconds(f64::from(options.seconds), 1.0).run(Pace::Closed)?;
        say(&format!("    {:<14} {size:>5} B: at most {:.0} calls a second", peer.name, report.rate));
        slowest = slowest.min(report.rate);
    }
    Ok(slowest)
}

/// A peer that runs until the end of the comparison: it costs nothing while others have their turns.
fn stay<'r>(staying: &'r mut Vec<Running>, peer: &Peer, site: &Site) -> Result<&'r Running, Failure> {
    let place = match staying.iter().position(|running| running.peer == peer.name) {
        Some(place) => place,
        None => {
            staying.push(peer.start(site)?);
            staying.len() - 1
        }
    };
    Ok(&staying[place])
}

/// One turn of a peer: at the offered rate, at half load, and as fast as it can.
fn sample(
    site: &Site,
    running: &Running,
    (size, (offered, half), (turn, seconds)): (u32, (u32, u32), (Turn, u32)),
) -> Result<Sample, Failure> {
    let measured = f64::from(seconds) * turn.share;
    let load = || Load::on(site, running, size).seconds(measured, turn.warm_up);
    Ok(Sample {
        offered: load().run(Pace::Open(offered))?,
        half: load().run(Pace::Open(half))?,
        closed: load().run(Pace::Closed)?,
    })
}

/// KB (1,000 bytes) of resident memory that an idle connection costs.
fn hold(site: &Site, peer: &Peer) -> Result<f64, Failure> {
    let running = peer.start(site)?;
    let before = Load::on(site, &running, SIZES[0]).seconds(1.0, 1.0).run(Pace::Open(1_000))?;
    let held = Load::on(site, &running, SIZES[0]).hold(IDLE)?;
    let after = running.resident_kib()?;
    drop(held);
    #[expect(clippy::cast_precision_loss, reason = "KiB of memory are far below 2^52")]
    let bytes = after.saturating_sub(before.resident_kib) as f64 * 1_024.0;
    Ok(bytes / f64::from(IDLE) / 1_000.0)
}

/// How long a comparison takes, to be told before it begins.
fn estimate(options: &Options, turns: usize) -> Duration {
    // Warm-up, start and end of each of three measurements take about two seconds more.
    let turn = Duration::from_secs(u64::from(options.seconds + 2) * 3);
    turn * options.rounds * u32::try_from(turns).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_peer_has_its_turns_and_another_is_first_in_each() {
        let all: Vec<&Peer> = peer::PEERS.iter().collect();
        for round in 0..3 {
            let turns = turns(&all, round);
            for peer in &all {
                let own = turns.iter().filter(|(_, one)| one.name == peer.name);
                let share: f64 = own.clone().map(|(turn, _)| turn.share).sum();
                let expected = if peer.table == Table::Served { SLICES as usize } else { 1 };
                assert!((share - 1.0).abs() < 1e-9 && own.count() == expected, "{}", peer.name);
            }
        }
        let served: Vec<&Peer> = all.into_iter().filter(|peer| peer.table == Table::Served).collect();
        let first = |round| turns(&served, round)[0].1.name;
        assert!(first(0) != first(1), "the order changes");
    }
}
