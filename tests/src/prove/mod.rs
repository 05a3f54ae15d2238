//! The shows: what the other tests touch briefly, at full length, with what was measured.
//!
//! Each is run by `cargo xtask prove NAME`.

mod authorize;
mod bytes;
mod clients;
mod counts;
mod day;
mod drain;
mod endless;
mod federation;
mod first_hour;
mod first_tools;
mod h2;
mod hostile;
mod identity;
mod instructions;
mod isolation;
mod limits;
mod lists;
pub(crate) mod load;
pub(crate) mod matrix;
mod names;
mod neighbours;
mod operators;
mod pair;
mod pairings;
pub(crate) mod policy;
mod profiled;
mod readers;
mod records;
mod replicas;
mod restart;
mod revisions;
mod spare_threads;
mod swap;
mod tls;
mod upgrade;
mod walk;

#[tokio::test]
#[ignore = "a show: cargo xtask prove first-hour"]
async fn first_hour() {
    first_hour::run().await;
}

#[tokio::test]
#[ignore = "a show: cargo xtask prove first-tools"]
async fn first_tools() {
    first_tools::run().await;
}

#[tokio::test]
#[ignore = "a show: cargo xtask prove conformance"]
async fn conformance() {
    clients::conformance().await;
}

#[tokio::test]
#[ignore = "a show: cargo xtask prove clients"]
async fn clients() {
    clients::clients().await;
}

#[tokio::test]
#[ignore = "a show: cargo xtask prove authorize"]
async fn authorize() {
    authorize::run().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a show: cargo xtask prove limits"]
async fn limits() {
    limits::run().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a show: cargo xtask prove lists"]
async fn lists() {
    lists::run().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a show: cargo xtask prove operators"]
async fn operators() {
    operators::run().await;
}

#[tokio::test]
#[ignore = "a show: cargo xtask prove matrix"]
async fn matrix() {
    matrix::run().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a show: cargo xtask prove names"]
async fn names() {
    names::run().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a show: cargo xtask prove neighbours"]
async fn neighbours() {
    neighbours::run().await;
}

#[tokio::test]
#[ignore = "a show: cargo xtask prove pairings"]
async fn pairings() {
    pairings::run().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a show: cargo xtask prove federation"]
async fn federation() {
    federation::run().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a show: cargo xtask prove restart"]
async fn restart() {
    restart::run().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a show: cargo xtask prove counts"]
async fn counts() {
    counts::run().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a show: cargo xtask prove isolation"]
async fn isolation() {
    isolation::run().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a show: cargo xtask prove records"]
async fn records() {
    records::run().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a show: cargo xtask prove replicas"]
async fn replicas() {
    replicas::run().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a show: cargo xtask prove day"]
async fn day() {
    day::run().await;
}

#[tokio::test]
#[ignore = "a show: cargo xtask prove bytes"]
async fn bytes() {
    bytes::run().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a show: cargo xtask prove swap"]
async fn swap() {
    swap::run().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a show: cargo xtask prove revisions"]
async fn revisions() {
    revisions::run().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a show: cargo xtask prove hostile"]
async fn hostile() {
    hostile::run().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a show: cargo xtask prove identity"]
async fn identity() {
    identity::run().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a show: cargo xtask prove drain"]
async fn drain() {
    drain::run().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a show: cargo xtask prove upgrade"]
async fn upgrade() {
    upgrade::run().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a show: cargo xtask prove tls"]
async fn tls() {
    tls::run().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a show: cargo xtask prove h2"]
async fn h2() {
    h2::run().await;
}

#[test]
#[ignore = "a show: cargo xtask prove policy"]
fn policy() {
    policy::run();
}

#[test]
#[ignore = "a show: cargo xtask prove roles"]
fn roles() {
    crate::roles::differ(100_000);
}

#[test]
#[ignore = "a show: cargo xtask prove readers"]
fn readers() {
    readers::run();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a show: cargo xtask prove instructions"]
async fn instructions() {
    instructions::run().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a show: cargo xtask prove walk"]
async fn walk() {
    walk::run().await;
}
