//! Counts the instructions that a call costs the optimised gateway, and holds them to `benches/instructions.txt`.
//!
//! Two runs differ in the number of calls alone, so that their difference is free of the start. Times vary with the
//! machine and its other work, instructions hardly do.

use super::profiled::Setup;
use crate::harness::{Era, release_binary, root};

/// The committed numbers.
const BOUNDS: &str = "benches/instructions.txt";

/// A row may cost this many percent more than is committed.
const TOLERANCE: u64 = 3;

/// Calls of the two runs.
const CALLS: [u64; 2] = [300, 900];

/// A committed row.
struct Row {
    name: String,
    measured: u64,
}

pub(super) async fn run() {
    let rows = rows(&std::fs::read_to_string(root().join(BOUNDS)).unwrap());
    let binary = release_binary();
    let mut exceeded = Vec::new();
    println!("{:<15} {:>12} {:>9} {:>8}", "row", "instructions", "committed", "bound");
    for (name, is_served, is_judged, is_limited) in [
        ("passed", false, false, false),
        ("served", true, false, false),
        ("judged", false, true, false),
        ("limited", true, false, true),
    ] {
        for (era_name, era) in [("modern", Era::Modern), ("legacy", Era::Legacy)] {
            let name = format!("{name} | {era_name}");
            let committed = rows.iter().find(|row| row.name == name);
            let committed = committed.unwrap_or_else(|| panic!("{BOUNDS} has no row `{name}`"));
            let setup = Setup { client: era, server: era, is_served, is_judged, is_limited };
            let few = setup.profile(&binary, CALLS[0], &[]).await.instructions;
            let many = setup.profile(&binary, CALLS[1], &[]).await.instructions;
            let counted = many.saturating_sub(few) / (CALLS[1] - CALLS[0]);
            println!("{name:<15} {counted:>12} {:>9} {:>8}", committed.measured, committed.bound());
            exceeded.extend(committed.excess(counted));
        }
    }
    assert!(
        exceeded.is_empty(),
        "{}\nIf that is worth its price, put the counted number and the reason into {BOUNDS}.",
        exceeded.join("\n")
    );
}

impl Row {
    fn bound(&self) -> u64 {
        self.measured * (100 + TOLERANCE) / 100
    }

    /// The complaint about a call that costs so much, if there is one.
    fn excess(&self, counted: u64) -> Option<String> {
        let (name, bound) = (&self.name, self.bound());
        // A call costs something: less than nothing would be a run that did not count.
        let is_held = counted > 0 && counted <= bound;
        (!is_held)
            .then(|| format!("`{name}` costs {counted} instructions a call, and at most {bound} are allowed"))
    }
}

/// The rows of the table: lines of `row | eras | measured | reason`.
fn rows(text: &str) -> Vec<Row> {
    let lines = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    let row = |line: &str| {
        let fields: Vec<&str> = line.split(" | ").collect();
        let [name, eras, measured, reason] = fields[..] else { panic!("{BOUNDS}: not four fields: {line}") };
        assert!(!reason.trim().is_empty(), "{BOUNDS}: no reason: {line}");
        Row { name: format!("{name} | {eras}"), measured: measured.trim().parse().expect("a number") }
    };
    lines.map(row).collect()
}

#[test]
fn row_is_held_to_its_number_and_three_percent() {
    let rows = rows("# a comment\npassed | modern | 1000 | since it is a test\n");
    assert_eq!((rows[0].name.as_str(), rows[0].bound()), ("passed | modern", 1030));
    assert_eq!(rows[0].excess(1030), None);
    assert_eq!(rows[0].excess(900), None);
    let excess = rows[0].excess(1031).unwrap();
    assert!(
        excess.contains("passed | modern") && excess.contains("1031") && excess.contains("1030"),
        "{excess}"
    );
    assert!(rows[0].excess(0).is_some(), "a run that counted nothing proves nothing");
}

#[test]
fn every_committed_row_has_a_number_and_a_reason() {
    let rows = rows(&std::fs::read_to_string(root().join(BOUNDS)).unwrap());
    assert_eq!(rows.len(), 8);
}
