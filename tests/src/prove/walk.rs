//! Follows one bridged call through the source, and holds how far a reader has to go to committed bounds.
//!
//! A binary without optimisation, where no function is inlined, runs under callgrind twice; the functions of ours that
//! are called more often with more calls are those on the way of a call.

mod bounds;
mod locks;
mod path;

use super::profiled::Setup;
use crate::harness::{Era, binary};
use bounds::{Bound, Figures};
use locks::Locks;
use path::Path;
use std::collections::BTreeSet;

/// Calls of the two runs.
const CALLS: [u64; 2] = [40, 140];

/// How many callers of a lock callgrind keeps apart, and the symbols of locks: of the standard library and `lock_api`,
/// on which parking_lot, prometheus and quick_cache stand, and of tokio.
const CALLERS: &str = "--separate-callers16=";
const LOCKS: [&str; 5] = [
    "_ZN3std4sync6poison5mutex*",
    "_ZN3std4sync6poison6rwlock*",
    "_ZN8lock_api5mutex*",
    "_ZN8lock_api6rwlock*",
    "_ZN5tokio4sync5mutex*",
];

pub(super) async fn run() {
    let (mut exceeded, mut narrow) = (Vec::new(), BTreeSet::new());
    for (name, client, server, bounds) in [
        ("a modern client and a legacy server", Era::Modern, Era::Legacy, &bounds::MODERN_TO_LEGACY),
        ("a legacy client and a modern server", Era::Legacy, Era::Modern, &bounds::LEGACY_TO_MODERN),
    ] {
        let setup = Setup { client, server, is_served: true, is_judged: true, is_limited: false };
        println!("\n==> {name}");
        let (figures, taken) = measure(setup).await;
        narrow.extend(taken);
        exceeded.extend(bounds.iter().filter_map(|bound| hold(name, bound, &figures)));
    }
    let unknown = locks::unknown(&narrow);
    assert!(
        unknown.is_empty(),
        "no call takes {unknown:?}: tests/src/prove/walk/locks.rs names them wrongly"
    );
    assert!(
        exceeded.is_empty(),
        "{}\nA bound may fall and does not rise: tests/src/prove/walk/bounds.rs",
        exceeded.join("\n")
    );
}

/// Prints the way of a call; gives its figures, and the locks that few calls share.
async fn measure(setup: Setup) -> (Figures, BTreeSet<&'static str>) {
    let options = LOCKS.map(|lock| format!("{CALLERS}{lock}"));
    let options = options.each_ref().map(String::as_str);
    let few = setup.profile(&binary(), CALLS[0], &options).await;
    let many = setup.profile(&binary(), CALLS[1], &options).await;
    let path = Path::between(&few, &many, CALLS[1] - CALLS[0]);
    let locks = Locks::between(&few, &many, CALLS[1] - CALLS[0]);
    path.print();
    locks.print();
    let figures = Figures {
        files: path.files().len(),
        spine: path.spine().len(),
        returns: path.returns(),
        shared_locks: locks.shared(),
    };
    (figures, locks.narrow())
}

/// Prints a figure beside its bound; gives what is wrong with it.
fn hold(name: &str, bound: &Bound, figures: &Figures) -> Option<String> {
    let figure = (bound.figure)(figures);
    println!("{:<20} {figure:>5}   bound {:>5}   wanted {:>3}", bound.name, bound.most, bound.wanted);
    let is_held = figure > 0 && figure <= bound.most;
    (!is_held).then(|| format!("{name}: {figure} {}, and the bound is {}", bound.name, bound.most))
}
