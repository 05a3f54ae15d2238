//! The head of a client's request, with what it says of its sender.

use crate::backend::forward::RequestOrigin;
use crate::identify::Source;
use http::request::Parts;
use portunus_filters::{Arrival, Identity};
use std::ops::Deref;
use std::sync::Arc;

/// The head of a client's request. Everything that comes of the request shares it.
#[derive(Clone, Debug)]
pub struct RequestHead {
    /// Method, target and headers, without those of the connection.
    pub parts: Parts,
    /// Its sender and time.
    pub origin: Arc<RequestOrigin>,
}

impl RequestHead {
    /// Its sender and time, as filters see them.
    pub fn arrival(&self) -> &Arrival {
        &self.origin.arrival
    }

    /// Takes note of the sender that was found meanwhile.
    pub fn set_identity(&mut self, identity: Identity) {
        Arc::make_mut(&mut self.origin).arrival.identity = identity;
    }

    /// The place that it comes from.
    pub fn source(&self) -> Source {
        Source { client: self.origin.arrival.source, behind_proxy: self.origin.behind_proxy }
    }
}

impl Deref for RequestHead {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.parts
    }
}
