//! Words that every other crate uses, and that use none of ours.
//!
//! Nothing here opens a socket or a file, starts a task, logs, or reads the time by itself: time
//! comes in through [`Clock`].

mod clock;
mod denial;
mod era;
mod owner;

pub use clock::{Clock, ManualClock, Moment};
pub use denial::{Challenge, Denial, Reason};
pub use era::Era;
pub use owner::Owner;
