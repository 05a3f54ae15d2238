//! The data plane: Pingora around the filters and the configuration.
//!
//! [`frontend`] serves clients: read a request downward from `frontend::edge` (connections, raw checks) → `frontend::serve`
//! (the stages in order) → `frontend::intake` → `filters`; refusals become answers in [`reply`], records in [`record`]. Where
//! nothing reads a message, `frontend::respond` passes its answer; every other is served by `frontend::bridge`. [`backend`]
//! calls servers and knows nothing of clients. A message about what another replica keeps goes by [`peers`].
//!
//! Deliberately absent: decisions. What may pass is the filters' business, what is configured is
//! the configuration crate's; this crate moves bytes.

// The state of one request holds that of all its stages, boxes or not: more levels than the default.
#![recursion_limit = "256"]

pub mod access_log;
pub mod admin;
pub mod authorize;
pub mod backend;
pub mod catalog;
pub mod clipped;
pub mod clock;
pub mod complaint;
pub mod control;
pub mod descriptors;
pub mod drain;
pub mod entropy;
pub mod frontend;
pub mod handover;
pub mod head;
pub mod helm;
pub mod identify;
pub mod keepalive_timer;
mod kept_key;
pub mod listeners;
pub mod log;
pub mod metrics;
pub mod notify;
pub mod offload;
pub mod peers;
pub mod pieces;
pub mod readiness;
pub mod reaper;
pub mod record;
pub mod refusals;
pub mod reply;
pub mod request_ids;
pub mod run;
pub mod sealing;
pub mod shares;
pub mod state_file;
pub mod surface;
pub mod telemetry;
#[cfg(test)]
pub(crate) mod testing;
pub mod time_limit;
pub mod tombstones;
pub mod watch;
