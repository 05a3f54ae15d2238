//! portunus-agent

fn main() {}
