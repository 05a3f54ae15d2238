//! The figures of a comparison, and what they come to.

use super::Options;
use super::load::Report;
use super::peer::{Peer, Table};
use super::site::Site;
use std::collections::BTreeMap;
use std::time::Duration;

/// One turn of a peer.
#[derive(Clone, Debug)]
pub(super) struct Sample {
    /// At the offered rate.
    pub(super) offered: Report,
    /// At half load.
    pub(super) half: Report,
    /// As fast as it can.
    pub(super) closed: Report,
}

impl Sample {
    /// For those who watch.
    pub(super) fn line(&self, round: u32, name: &str, size: u32) -> String {
        let Sample { offered, half, closed } = self;
        format!(
            "{round} {name:<14} {size:>5} B: {:6.2} us CPU a call at {:.0}/s; closed {:6.2} us at {:.0}/s; p50 {:.0} us, p99 {:.0} us; {} failed",
            offered.cpu_us,
            offered.rate,
            closed.cpu_us,
            closed.rate,
            half.p50_us,
            half.p99_us,
            self.failed(),
        )
    }

    fn failed(&self) -> u64 {
        self.offered.failed + self.half.failed + self.closed.failed
    }
}

/// All turns of one peer with calls of one size.
#[derive(Debug)]
pub(super) struct Row {
    /// Who.
    pub(super) peer: &'static Peer,
    /// Bytes of a call.
    pub(super) size: u32,
    samples: Vec<Sample>,
}

/// The middle of some figures, and the middles of their halves.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Spread {
    /// A quarter is below.
    pub(super) low: f64,
    /// The median.
    pub(super) middle: f64,
    /// A quarter is above.
    pub(super) high: f64,
}

impl Spread {
    /// Of some figures, interpolated between neighbours; zeros if there are none.
    pub(super) fn of(figures: impl IntoIterator<Item = f64>) -> Spread {
        let mut sorted: Vec<f64> = figures.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        let at = |share: f64| {
            #[expect(clippy::cast_precision_loss, reason = "a handful of rounds")]
            let place = share * sorted.len().saturating_sub(1) as f64;
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "a handful of rounds"
            )]
            let below = place as usize;
            let low = sorted.get(below).copied().unwrap_or(0.0);
            let high = sorted.get(below + 1).copied().unwrap_or(low);
            low + (high - low) * place.fract()
        };
        Spread { low: at(0.25), middle: at(0.5), high: at(0.75) }
    }
}

impl Row {
    /// Of one figure of each turn.
    pub(super) fn spread(&self, figure: impl Fn(&Sample) -> f64) -> Spread {
        Spread::of(self.samples.iter().map(figure))
    }

    /// CPU time a call at the offered rate, in microseconds.
    pub(super) fn cpu_us(&self) -> Spread {
        self.spread(|sample| sample.offered.cpu_us)
    }

    /// Resident memory under load, in MiB.
    pub(super) fn resident_mib(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "KiB of memory are far below 2^52")]
        let resident = |sample: &Sample| sample.closed.resident_kib as f64 / 1_024.0;
        self.spread(resident).middle
    }

    /// Calls without their proper answer, in all turns.
    pub(super) fn failed(&self) -> u64 {
        self.samples.iter().map(Sample::failed).sum()
    }
}

/// Everything that was measured.
#[derive(Debug, Default)]
pub(super) struct Results {
    /// What was asked for.
    pub(super) options: Options,
    /// By table and size: the offered rate and half the load, in calls a second.
    pub(super) rates: BTreeMap<(Table, u32), (u32, u32)>,
    /// KB of an idle connection.
    pub(super) idle: BTreeMap<&'static str, f64>,
    /// The machine and the programs, one line each.
    pub(super) circumstances: Vec<String>,
    rows: Vec<Row>,
}

impl Results {
    /// None yet.
    pub(super) fn new(site: &Site, options: &Options) -> Results {
        Results {
            options: options.clone(),
            rates: BTreeMap::new(),
            idle: BTreeMap::new(),
            circumstances: site.circumstances(),
            rows: Vec::new(),
        }
    }

    /// Adds a turn.
    pub(super) fn add(&mut self, peer: &'static Peer, size: u32, sample: Sample) {
        match self.rows.iter_mut().find(|row| row.peer == peer && row.size == size) {
            Some(row) => row.samples.push(sample),
            None => self.rows.push(Row { peer, size, samples: vec![sample] }),
        }
    }

    /// Notes how it went.
    pub(super) fn finish(&mut self, site: &Site, took: Duration) {
        self.circumstances.push(site.disturbance(took));
    }

    /// The rows of a size, in the order of the list of peers.
    pub(super) fn rows(&self, size: u32, table: Table) -> Vec<&Row> {
        let order = |row: &&Row| super::peer::PEERS.iter().position(|peer| peer == row.peer);
        let mut rows: Vec<&Row> =
            self.rows.iter().filter(|row| row.size == size && row.peer.table == table).collect();
        rows.sort_by_key(order);
        rows
    }

    /// One row.
    pub(super) fn row(&self, name: &str, size: u32) -> Option<&Row> {
        self.rows.iter().find(|row| row.peer.name == name && row.size == size)
    }

    /// CPU time that a call of one row costs more than one of another of its table, in microseconds:
    /// what they differ by within each round.
    pub(super) fn added(&self, name: &str, to: &str, size: u32) -> Option<Spread> {
        let offered = |name: &str| {
            let samples = self.row(name, size)?.samples.iter();
            Some(samples.map(|sample| sample.offered.cpu_us).collect::<Vec<f64>>())
        };
        let (dear, cheap) = (offered(name)?, offered(to)?);
        Some(Spread::of(dear.iter().zip(cheap).map(|(dear, cheap)| dear - cheap)))
    }

    /// The ratio of the medians of CPU time a call.
    pub(super) fn ratio(&self, name: &str, to: &str, size: u32) -> Option<f64> {
        let of = |name: &str| self.row(name, size).map(|row| row.cpu_us().middle).filter(|cpu| *cpu > 0.0);
        Some(of(name)? / of(to)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_has_quartiles() {
        let spread = |figures: &[f64]| {
            let Spread { low, middle, high } = Spread::of(figures.iter().copied());
            [low, middle, high]
        };
        assert_eq!(spread(&[7.0, 1.0, 3.0, 5.0, 9.0]), [3.0, 5.0, 7.0]);
        assert_eq!(spread(&[2.0, 1.0]), [1.25, 1.5, 1.75]);
        assert_eq!(spread(&[4.0]), [4.0, 4.0, 4.0]);
        assert_eq!(spread(&[]), [0.0, 0.0, 0.0]);
    }
}
