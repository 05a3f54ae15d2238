//! Endpoints that speak for their servers: several of them as one, or one of another era.
//!
//! A message comes from a front, `modern` or `legacy`, which knows its client's rules; it goes to
//! a server by a [`crate::backend::upstream_call::UpstreamCall`], which knows the server's. What passes between them is the
//! same for all four pairs: notifications, questions, one answer. Lists and what servers say of
//! themselves are composed in `lists`, what happens outside of any call is in `streams`.

mod adoption;
mod batch;
mod call;
mod client_answers;
mod encoded_answer;
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
mod resource_subscription;
pub mod responder;
mod served_call;
pub mod sessions;
mod stream_holds;
mod streams;
mod tasks;

pub(crate) use founding::session_number;
pub use homes::home;
pub(crate) use hub::{CatalogNotices, announces};
pub use hub::{Hub, run as hear};
use portunus_filters::message::Reading;
use portunus_filters::{Era, Message};
pub use registry::Sessions;
use responder::Responder;
pub use served_call::ServedCall;
pub(crate) use served_call::shown;

use crate::frontend::session::End;

/// Serves what one POST holds, or a GET or DELETE.
pub async fn serve(served: &ServedCall<'_>, reading: &Reading, out: &mut Responder<'_>) -> End {
    match reading {
        Reading::One(message) => one(served, message, out).await,
        Reading::Batch(messages) => Box::pin(batch::serve(served, messages, out)).await,
    }
}

async fn one(served: &ServedCall<'_>, message: &Message, out: &mut Responder<'_>) -> End {
    match message.era {
        Era::Modern => modern::serve(served, message, out).await,
        Era::Legacy => legacy::serve(served, message, out).await,
    }
}

#[cfg(test)]
mod tests;
