//! Words that every other crate of ours uses: time, eras, refusals, owners of shares, bounded tables, escaped text.
//!
//! Nothing here opens a socket or a file, starts a task, logs, or reads the time by itself: time
//! comes in through [`Clock`].

mod clock;
mod denial;
mod era;
mod owner;
pub mod table;
pub mod text;

pub use clock::{Clock, ManualClock, Moment};
pub use denial::{Challenge, Denial, Reason};
pub use era::Era;
pub use owner::Owner;
