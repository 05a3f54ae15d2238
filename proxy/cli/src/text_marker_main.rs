//! The binary `portunus-text-marker`: the gateway with the filter of tests in it.

fn main() -> std::process::ExitCode {
    portunus_cli::main()
}
