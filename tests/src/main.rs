//! portunus-tests

fn main() {}
