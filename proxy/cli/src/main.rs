//! The binary `portunus`.

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    // The allocator would have 2 MiB of each thread that keeps a few objects: an idle gateway takes 54 MB with huge
    // pages and 17 MB without. A kernel that has none refuses.
    rustix::thread::disable_transparent_huge_pages(true).ok();
    portunus_cli::main()
}
