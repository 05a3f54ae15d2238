//! portunus-load

fn main() {}
