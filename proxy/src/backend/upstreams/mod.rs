//! What runs on the far side: names, connections and their pools.

pub(crate) mod answer_class;
pub mod dial;
pub mod dns;
pub mod era;
pub mod fault;
pub mod h1;
pub mod h2;
pub mod instances;
pub mod monitor;
pub mod pool;
pub mod request;
mod retry_after;
pub mod stream;
pub mod tls;
pub mod voucher;
pub mod wire;
