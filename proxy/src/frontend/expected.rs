//! Describes the answer that a client waits for, and the ends that its stream may have.

use crate::drain::{Phase, Phases};
use crate::frontend::context::Gateway;
use crate::identify::{StreamAuthorization, ended};
use crate::reply::{caller_lost, draining, route_removed};
use http::Version;
use portunus_config::{ServerId, Upstream, VirtualServer};
use portunus_filters::mcp::method::Rules;
use portunus_filters::mcp::{Id, Method};
use portunus_filters::message::Reading;
use portunus_filters::{Denial, Era, Kind};
use std::future::pending;
use std::sync::Arc;

/// The answer that the client waits for.
#[derive(Debug)]
pub struct Expect {
    /// The kind of its message; of a batch, a request if it has one.
    pub kind: Kind,
    /// Whose rules apply.
    pub era: Era,
    /// Requests that are not answered yet.
    pub open: Vec<Id>,
    /// The method of what it sent, if that is one message.
    pub method: Option<Method>,
    /// It sent a batch.
    pub batch: bool,
    /// `subscriptions/listen`, which ends with a result, or a GET stream, which just ends.
    pub endless: bool,
    /// `initialize`, whose answer may found a session.
    pub founds_session: bool,
    /// The virtual server, looked up again at each swap.
    pub server: ServerId,
    /// Another replica serves it, keeps its deadlines and watches its route.
    pub elsewhere: bool,
    /// The client speaks HTTP/1.0 and knows no chunks.
    pub http_1_0: bool,
    /// The right of its stream to stay open; `None` where nobody was asked who calls.
    pub authorization: Option<Arc<StreamAuthorization>>,
}

impl Expect {
    /// The answer to what a client sent.
    pub fn of(reading: &Reading, server: &VirtualServer, version: Version) -> Expect {
        let (messages, batch) = (reading.messages(), matches!(reading, Reading::Batch(_)));
        let requests = || messages.iter().filter(|message| message.kind == Kind::Request);
        let kind = match (requests().next(), messages.first()) {
            (Some(_), _) => Kind::Request,
            (None, Some(first)) => first.kind,
            (None, None) => Kind::Notification,
        };
        let rule = |test: fn(&Rules) -> bool| {
            messages.iter().filter_map(|message| message.method.as_ref()?.rules()).any(test)
        };
        Expect {
            kind,
            era: messages.first().map_or(Era::Legacy, |message| message.era),
            open: requests().filter_map(|message| message.id.clone()).collect(),
            method: messages.first().and_then(|message| message.method.clone()).filter(|_| !batch),
            batch,
            endless: kind == Kind::Stream || rule(|rules| rules.endless),
            founds_session: rule(|rules| rules.name == "initialize"),
            server: server.id.clone(),
            elsewhere: false,
            http_1_0: version == Version::HTTP_10,
            authorization: None,
        }
    }

    /// Requests of which a server has to be told that nobody waits for them any more: a legacy one does not take a closed
    /// connection for that.
    pub fn to_cancel(&self) -> &[Id] {
        let is_told = self.era == Era::Legacy && !self.founds_session && !self.elsewhere;
        if is_told { &self.open } else { &[] }
    }

    /// Waits until the gateway ends the answer: a stream when its route is gone, its caller may no longer listen or the
    /// process drains; a call, which finishes under the snapshot that judged it, when the process may wait no longer.
    pub async fn withdrawn(&self, gateway: &Arc<Gateway>, upstream: &Upstream, phases: &Phases) -> Denial {
        if !self.endless {
            phases.reached(Phase::Expired).await;
            return draining();
        }
        tokio::select! {
            biased;
            () = self.unrouted(gateway, upstream) => route_removed(),
            () = ended(self.authorization.as_ref(), gateway) => caller_lost(),
            () = phases.reached(Phase::Draining) => draining(),
        }
    }

    /// Returns when the configuration in force no longer leads this stream to this upstream.
    async fn unrouted(&self, gateway: &Gateway, upstream: &Upstream) {
        if self.elsewhere {
            return pending().await;
        }
        // Before the first look: what is activated after it, is seen by the one or told by the other.
        let mut serials = gateway.serials();
        while gateway.active().may_pass_to(&self.server, upstream) {
            if serials.changed().await.is_err() {
                return pending().await;
            }
        }
    }
}
