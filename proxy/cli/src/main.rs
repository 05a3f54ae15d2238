//! The binary `portunus`.

use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The variable that says for how many milliseconds the allocator may keep freed pages.
const PURGE_DELAY: &str = "MIMALLOC_PURGE_DELAY";

fn main() -> ExitCode {
    give_memory_back_at_once();
    // The allocator would have 2 MiB of each thread that keeps a few objects: an idle gateway takes 54 MB with huge
    // pages and 17 MB without. A kernel that has none refuses.
    rustix::thread::disable_transparent_huge_pages(true).ok();
    portunus_cli::main()
}

/// Has the allocator of a gateway give freed pages back at once: under attack it keeps 60 MB of them otherwise, a fifth of
/// all. It reads its setting from the environment before `main`, so the process takes its own place once with that set.
/// Where it is set already nothing happens; where the process cannot be replaced, memory is given back later.
fn give_memory_back_at_once() {
    let mut arguments = std::env::args_os();
    let name = arguments.next().unwrap_or_default();
    let arguments: Vec<_> = arguments.collect();
    if std::env::var_os(PURGE_DELAY).is_some() || arguments.first().is_none_or(|command| command != "run") {
        return;
    }
    if let Ok(binary) = std::env::current_exe() {
        let _failed = Command::new(binary).arg0(name).args(arguments).env(PURGE_DELAY, "0").exec();
    }
}
