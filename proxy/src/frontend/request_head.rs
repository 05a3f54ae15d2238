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
    /// Its sender and time, as filters see them.
    pub arrival: Arrival,
    /// Its sender, as upstreams are told of it.
    pub origin: Arc<RequestOrigin>,
}

impl RequestHead {
    /// The head with another sender, who was found out meanwhile.
    pub fn set_identity(&mut self, identity: Identity) {
        self.arrival.identity = identity;
        Arc::make_mut(&mut self.origin).owner = self.arrival.owner();
    }

    /// The place that it comes from.
    pub fn source(&self) -> Source {
        Source { client: self.origin.client, behind_proxy: self.origin.behind_proxy }
    }
}

impl Deref for RequestHead {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.parts
    }
}
