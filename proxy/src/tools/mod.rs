//! Commands for the first hour, which look at a server, write a configuration and connect a client,
//! and those about policy.
//!
//! None of them is on the data path. What reaches a server goes through the same configuration,
//! resolver, dialler and reader as a gateway's calls, so that what they find holds for a gateway.

pub mod connect;
pub mod explain;
pub mod init;
mod json;
mod link;
pub mod policy;
pub mod probe;
mod screen;
mod target;

use std::future::Future;

/// Runs one command to its end on this thread.
fn block_on<F: Future>(future: F) -> std::io::Result<F::Output> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let output = runtime.block_on(future);
    // A lookup that the system's resolver still works on must not hold up the end of the command.
    runtime.shutdown_background();
    Ok(output)
}
