//! Serves clients: their connections, requests, sessions and streams, and the way of each message through its stages.
//!
//! Nothing below it knows of clients: what calls servers is in [`backend`](crate::backend).

pub mod bridge;
pub mod call_context;
pub mod context;
pub mod edge;
pub mod estate;
pub mod expected;
pub mod intake;
pub mod respond;
pub mod serve;
pub mod session;
pub mod session_field;
