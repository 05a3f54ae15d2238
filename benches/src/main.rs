//! portunus-benches

fn main() {}
