//! What runs on the far side: names, connections and their pools.

pub mod dial;
pub mod dns;
pub mod h1;
pub mod pool;
pub mod wire;
