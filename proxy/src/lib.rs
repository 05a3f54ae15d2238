//! The data plane: Pingora around the filters and the configuration.
//!
//! Read a request downward: [`edge`] (connections, raw checks) → [`serve`] (the stages in order) →
//! [`intake`] → `filters` → [`forward`] → [`respond`]; refusals become answers in [`reply`], records
//! in [`record`]. A message for several servers, or for one of another era, goes from intake to
//! [`bridge`], which speaks with servers by [`talk`]; one about what another replica keeps, by
//! [`peers`]. What outlives a message is in [`context`] and [`estate`].
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
mod kept_key;
pub mod listeners;
pub mod log;
pub mod metrics;
pub mod notify;
pub mod offload;
pub mod patience;
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
pub mod silence;
pub mod state_file;
pub mod surface;
pub mod telemetry;
#[cfg(test)]
pub(crate) mod testing;
pub mod tombstones;
pub mod watch;
