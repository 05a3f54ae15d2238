//! The vocabulary of an MCP message and the pure code that judges one.
//!
//! A message travels as [`Arrival`] → [`Message`] → [`Call`]; filters read the call and write a
//! [`Verdict`]; only the [`pipeline`] can turn it into a [`Cleared`], without which nothing is
//! forwarded. What is refused is a [`Denial`] with a closed [`Reason`]. Text goes to a client as
//! [`Released`], and a [`Record`] is kept of each message.
//!
//! Nothing here opens a socket or a file, starts a task, logs, or reads the time by itself: time
//! comes in through [`Clock`]. That is what lets the control agent compile and test exactly the
//! code that a proxy enforces.

pub mod answer_bound;
pub mod authorization_filter;
pub mod authorize;
pub mod call;
pub mod catalog;
pub mod controls;
pub mod decision_record;
pub mod facts;
pub mod filter;
pub mod filters;
pub mod glob;
pub mod identity;
pub mod inspect;
pub mod limits;
pub mod mcp;
pub mod message;
pub mod pipeline;
pub mod record;
pub mod released;
#[cfg(feature = "text-marker")]
pub mod text_marker;

pub use answer_bound::{AnswerBound, Beyond, LongTextObserver, LongTexts};
pub use authorization_filter::AuthorizationFilter;
pub use call::{Call, Target, Verdict};
pub use controls::{Control, Controls, Demands, Profile};
pub use facts::{Class, Risk, ToolFacts, Unmet};
pub use filter::{Filter, Needs};
pub use filters::FILTERS;
pub use identity::Identity;
pub use inspect::{Inspector, Inspectors};
pub use message::{Arrival, Direction, Kind, Message};
pub use pipeline::{
    Admission, Admitted, Admitting, Cleared, Hold, Holds, Pipeline, QueueTicket, Turned, Turns,
};
pub use portunus_base::{Challenge, Clock, Denial, Era, ManualClock, Moment, Owner, Reason};
pub use record::{Record, Status};
pub use released::{Channel, RawPass, Released, ReleasedQuestion};
