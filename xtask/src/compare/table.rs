//! The comparison as people read it, on the terminal and in `benches/RESULTS.md`.

use super::load::CONNECTIONS;
use super::peer::{PEERS, Table};
use super::results::{Results, Row, Sample, Spread};
use super::site::{GATEWAY_CORE, LOAD_CORE};
use super::{IDLE, SIZES};
use crate::root;
use crate::step::{Failure, say};
use std::fs;

/// Whom the others are compared with.
const BASE: &str = "nginx";

/// A promise on CPU time a call at the offered rate.
struct Promise {
    size: u32,
    to: &'static str,
    at_most: f64,
}

/// What parse and route may cost.
const PROMISES: [Promise; 3] = [
    Promise { size: SIZES[0], to: BASE, at_most: 1.25 },
    Promise { size: SIZES[1], to: BASE, at_most: 1.4 },
    Promise { size: SIZES[0], to: "envoy", at_most: 0.65 },
];

/// What an idle connection may cost, in KB.
const IDLE_KB: f64 = 70.0;

/// A promise on CPU time that one row costs more than another, with small calls.
struct Added {
    what: &'static str,
    row: &'static str,
    to: &'static str,
    at_most_us: f64,
}

/// What the gateway's own work beyond parse and route may cost.
const ADDED: [Added; 6] = [
    Added { what: "serving", row: "served", to: "passed", at_most_us: 5.0 },
    Added { what: "serving several", row: "served-several", to: "passed", at_most_us: 5.0 },
    Added { what: "the other era", row: "served-other-era", to: "passed", at_most_us: 5.0 },
    Added { what: "a session", row: "served-legacy", to: "passed-legacy", at_most_us: 5.0 },
    Added {
        what: "the other era of a session",
        row: "legacy-other-era",
        to: "passed-legacy",
        at_most_us: 5.0,
    },
    Added { what: "token and policy", row: "served-judged", to: "served", at_most_us: 2.0 },
];

/// What these figures cannot tell, for whoever takes them elsewhere.
const NOT_SHOWN: &str = "\
- One machine, loopback, HTTP/1.1 without TLS, one worker each: no network, no second core, no handshakes.
- Load, server and proxy share a memory bus, and a small virtual machine shares it with others. Ratios hold better
  than microseconds; quartiles that overlap show no difference.
- One tool, one size at a time, answers as large as the calls and sent in one piece: no event streams, no slow or
  failing servers, no mix of sessions. All calls come on a few warm connections.
- CPU time is what the kernel charges to a process: what it does for loopback delivery is charged to who sends.
- Each peer is configured plainly, not tuned; nginx, HAProxy and plain Envoy neither read nor check JSON, and the rows
  with more filters differ in what they check.
- Latencies come from a generator on the server's core: they compare peers, and are none of a network. Where the
  99th percentile of the row `direct` is high, the machine was busy.
- Resident memory sums the processes of a peer, so what they share counts for each; what a proxy sets aside for
  connections at its start is not in the price of an idle one.
";

/// The tables.
pub(super) fn summary(results: &Results) -> String {
    let mut text = format!("\n{}\n", results.circumstances.join("\n"));
    for (title, rows) in tables(results) {
        text.push_str(&format!("\n{title}\n\n"));
        text.push_str(&table(results, &rows));
    }
    text
}

/// The tables that have rows, with their titles.
fn tables(results: &Results) -> Vec<(String, Vec<&Row>)> {
    let tables = [
        (Table::Quiet, SIZES[0], "Calls"),
        (Table::Quiet, SIZES[1], "Calls"),
        (Table::Served, SIZES[0], "What serving a call adds to passing it on: calls"),
        (Table::Logging, SIZES[0], "The same with access logs: calls"),
    ];
    let titled = |(table, size, what)| {
        let (offered, half) = results.rates.get(&(table, size)).copied().unwrap_or_default();
        let title = format!("{what} of {size} bytes: {offered} a second offered, latency at {half} a second");
        (title, results.rows(size, table))
    };
    tables.map(titled).into_iter().filter(|(_, rows)| !rows.is_empty()).collect()
}

fn table(results: &Results, rows: &[&Row]) -> String {
    let mut lines = vec![
        [
            "row",
            "CPU us a call",
            "quartiles",
            "to nginx",
            "closed loop: calls/s",
            "CPU us a call",
            "p50 us",
            "p99 us",
            "p99 added",
            "MiB",
            "KB idle",
            "failed",
        ]
        .map(str::to_owned)
        .to_vec(),
    ];
    lines.extend(rows.iter().map(|row| cells(results, row)));
    aligned(&lines)
}

fn cells(results: &Results, row: &Row) -> Vec<String> {
    let (name, size) = (row.peer.name, row.size);
    let Spread { low, middle, high } = row.cpu_us();
    let proxy = |text: String| if row.peer.is_proxy() { text } else { "-".to_owned() };
    let or_none = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let closed = |figure: fn(&Sample) -> f64| row.spread(figure).middle;
    let p99 = |row: &Row| row.spread(|sample| sample.half.p99_us).middle;
    let direct = results.row("direct", size).filter(|_| row.peer.is_proxy());
    vec![
        name.to_owned(),
        proxy(format!("{middle:.1}")),
        proxy(format!("{low:.1} to {high:.1}")),
        or_none(results.ratio(name, BASE, size).map(|ratio| format!("{ratio:.2}"))),
        format!("{:.0}", closed(|sample| sample.closed.rate)),
        proxy(format!("{:.1}", closed(|sample| sample.closed.cpu_us))),
        format!("{:.0}", closed(|sample| sample.half.p50_us)),
        format!("{:.0}", p99(row)),
        or_none(direct.map(|direct| format!("{:+.0}", p99(row) - p99(direct)))),
        proxy(format!("{:.1}", row.resident_mib())),
        or_none(results.idle.get(name).map(|kb| format!("{kb:.1}"))),
        row.failed().to_string(),
    ]
}

/// A Markdown table whose columns also line up on a terminal.
fn aligned(lines: &[Vec<String>]) -> String {
    let columns = lines.first().map_or(0, Vec::len);
    let widths: Vec<usize> = (0..columns)
        .map(|column| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0).max(3))
        .collect();
    let row = |line: &Vec<String>| {
        let cells = line.iter().zip(&widths).enumerate().map(|(column, (cell, width))| match column {
            0 => format!("{cell:<width$}"),
            _ => format!("{cell:>width$}"),
        });
        format!("| {} |\n", cells.collect::<Vec<_>>().join(" | "))
    };
    let rule: Vec<String> = widths
        .iter()
        .enumerate()
        .map(
            |(column, width)| {
                if column == 0 { "-".repeat(*width) } else { format!("{}:", "-".repeat(width - 1)) }
            },
        )
        .collect();
    let mut text = String::new();
    for (number, line) in lines.iter().enumerate() {
        text.push_str(&row(line));
        if number == 0 {
            text.push_str(&format!("| {} |\n", rule.join(" | ")));
        }
    }
    text
}

/// The promises with what was measured, and whether all are kept.
pub(super) fn verdict(results: &Results) -> (String, bool) {
    let mut lines = Vec::new();
    let mut kept = true;
    let mut hold = |what: String, measured: Option<f64>, at_most: f64| {
        let holds = measured.is_some_and(|measured| measured <= at_most);
        kept &= holds;
        let measured = measured.map_or("not measured".to_owned(), |measured| format!("{measured:.2}"));
        let word = if holds { "kept" } else { "NOT KEPT" };
        lines.push(format!("{what}: {measured}, at most {at_most}: {word}"));
    };
    for Promise { size, to, at_most } in PROMISES {
        let what = format!("CPU a call of {size} bytes, to {to}");
        hold(what, results.ratio("portunus", to, size), at_most);
    }
    for Added { what, row, to, at_most_us } in ADDED {
        let what = format!("us of CPU that {what} adds to a call of {} bytes", SIZES[0]);
        hold(what, results.added(row, to, SIZES[0]).map(|added| added.middle), at_most_us);
    }
    hold("KB an idle connection".to_owned(), results.idle.get("portunus").copied(), IDLE_KB);
    #[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
    let failed = |size| results.row("portunus", size).map(|row| row.failed() as f64);
    for size in SIZES {
        hold(format!("failed calls of {size} bytes"), failed(size), 0.0);
    }
    (lines.join("\n"), kept)
}

/// Writes `benches/RESULTS.md`.
///
/// # Errors
/// If it cannot be written.
pub(super) fn write(results: &Results) -> Result<(), Failure> {
    let path = root().join("benches/RESULTS.md");
    fs::write(&path, document(results)).map_err(|error| Failure {
        problem: format!("{}: {error}", path.display()),
        mend: "look at the owner of the checkout and the space on its disk".to_owned(),
    })?;
    say("benches/RESULTS.md is written.");
    Ok(())
}

fn document(results: &Results) -> String {
    let circumstances: String = results.circumstances.iter().map(|line| format!("- {line}\n")).collect();
    let mut text = format!(
        "# What a call costs\n\nWritten by `{} --write`; [docs/benchmarks.md](../docs/benchmarks.md) has the method.\n\n\
         ## Where and what\n\n{circumstances}\n## Who\n\n| row | what it does |\n|---|---|\n",
        results.options.line()
    );
    for peer in &PEERS {
        text.push_str(&format!("| {} | {} |\n", peer.name, peer.about));
    }
    text.push_str(&format!(
        "\nEach runs with one worker on core {GATEWAY_CORE} and the configuration in `benches/peers`; load and server share core \
         {LOAD_CORE}. {CONNECTIONS} connections, {} rounds of {} s a measurement. The columns: CPU time a call at the offered rate, \
         median and quartiles over the rounds; its ratio to nginx; what a closed loop reaches and costs; latency from the \
         intended start at half load, and what p99 has over calls without a proxy; resident memory after the closed loop; \
         resident memory of one of {IDLE} idle connections; calls without their proper answer.\n",
        results.options.rounds, results.options.seconds
    ));
    for (title, rows) in tables(results) {
        text.push_str(&format!("\n## {title}\n\n"));
        text.push_str(&table(results, &rows));
    }
    text.push_str("\n## Commands\n\n```sh\n");
    text.push_str(&commands(results));
    text.push_str(&format!("```\n\n## What they do not show\n\n{NOT_SHOWN}"));
    text
}

/// What `compare` runs for one turn, to be repeated by hand.
fn commands(results: &Results) -> String {
    let size = SIZES[0];
    let rates = Table::ALL.into_iter().find_map(|table| results.rates.get(&(table, size)));
    let (offered, half) = rates.copied().unwrap_or_default();
    let seconds = results.options.seconds;
    let run = format!(
        "taskset --cpu-list {LOAD_CORE} portunus-load run http://$GATEWAY/mcp --seconds {seconds} --size {size} \
         --connections {CONNECTIONS} --pid peer=$PID"
    );
    format!(
        "{}\n\n# One turn by hand:\ntaskset --cpu-list {LOAD_CORE} portunus-load upstream\n\
         taskset --cpu-list {GATEWAY_CORE} portunus run --config portunus.yaml\n\
         {run} --rate {offered}\n{run} --rate {half}\n{run} --closed\n\
         taskset --cpu-list {LOAD_CORE} portunus-load hold http://$GATEWAY/mcp --connections {IDLE}\n",
        results.options.line()
    )
}

#[cfg(test)]
mod tests {
    use super::super::load::Report;
    use super::*;

    #[test]
    fn a_table_lines_up() {
        let lines = [["row", "n"], ["long name", "12345"]].map(|line| line.map(str::to_owned).to_vec());
        let expected = "| row       |     n |\n| --------- | ----: |\n| long name | 12345 |\n";
        assert_eq!(aligned(&lines), expected);
    }

    fn measured(portunus_us: f64, serving_us: f64, failed: u64) -> Results {
        let mut results = Results::default();
        for size in SIZES {
            let rows = [("nginx", 14.0), ("envoy", 33.0), ("portunus", portunus_us)];
            let served =
                ["served", "served-several", "served-other-era", "served-legacy", "legacy-other-era"]
                    .map(|name| (name, 18.0 + serving_us));
            let judged = [("passed", 18.0), ("passed-legacy", 18.0), ("served-judged", 20.0 + serving_us)];
            for (name, cpu_us) in rows.into_iter().chain(served).chain(judged) {
                let peer = PEERS.iter().find(|peer| peer.name == name).unwrap();
                let report = Report { cpu_us, failed, ..Report::default() };
                let sample = Sample { offered: report, half: Report::default(), closed: Report::default() };
                results.add(peer, size, sample);
            }
        }
        results.idle.insert("portunus", 50.0);
        results
    }

    #[test]
    fn promises_are_kept_or_not() {
        for (name, results, expected) in [
            ("all", measured(17.0, 5.0, 0), true),
            ("too dear", measured(18.0, 5.0, 0), false),
            ("too dear to be served", measured(17.0, 5.1, 0), false),
            ("too good to be true", measured(17.0, 5.0, 1), false),
        ] {
            let (text, kept) = verdict(&results);
            assert_eq!(kept, expected, "{name}:\n{text}");
        }
    }

    #[test]
    fn the_document_has_its_rows_and_what_they_do_not_show() {
        let text = document(&measured(17.0, 5.0, 0));
        let row = text.lines().find(|line| line.starts_with("| portunus ") && line.contains("17.0")).unwrap();
        assert!(row.contains("1.21") && row.contains("50.0"), "{row}");
        assert!(text.ends_with(NOT_SHOWN));
    }

    #[test]
    fn what_was_not_measured_is_not_kept() {
        let (text, kept) = verdict(&Results::default());
        assert!(!kept && text.contains("not measured"), "{text}");
    }
}
