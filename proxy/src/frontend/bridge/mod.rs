//! Endpoints that speak for their servers: several of them as one, or one of another era.
//!
//! A message comes from a front, `modern` or `legacy`, which knows its client's rules; it goes to
//! a server by a [`crate::backend::upstream_call::Talk`], which knows the server's. What passes between them is the
//! same for all four pairs: notifications, questions, one answer. Lists and what servers say of
//! themselves are composed in `lists`, what happens outside of any call is in `streams`.

mod admit;
mod adoption;
pub mod answering;
mod batch;
mod call;
mod desk;
mod following;
mod founding;
mod homes;
pub mod http_sse;
mod hub;
mod lasting;
mod legacy;
pub mod lines;
mod lists;
mod modern;
pub mod parked;
mod registry;
mod replay;
mod request_state;
mod said;
pub mod sessions;
mod stream_holds;
mod streams;
mod tasks;
mod uris;

use answering::Answering;
pub use desk::Desk;
pub(crate) use desk::shown;
pub(crate) use founding::session_number;
pub use homes::home;
pub(crate) use hub::{CatalogNotices, announces};
pub use hub::{Hub, run as hear};
use portunus_filters::message::Reading;
use portunus_filters::{Era, Message};
pub use registry::Sessions;

use crate::frontend::session::End;

/// Serves what one POST holds, or a GET or DELETE.
pub async fn serve(desk: &Desk<'_>, reading: &Reading, out: &mut Answering<'_>) -> End {
    match reading {
        Reading::One(message) => one(desk, message, out).await,
        Reading::Batch(messages) => Box::pin(batch::serve(desk, messages, out)).await,
    }
}

async fn one(desk: &Desk<'_>, message: &Message, out: &mut Answering<'_>) -> End {
    match message.era {
        Era::Modern => modern::serve(desk, message, out).await,
        Era::Legacy => legacy::serve(desk, message, out).await,
    }
}

#[cfg(test)]
mod tests;
