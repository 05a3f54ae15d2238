//! The context of one message that is served.

use crate::authorize::FailedLookups;
use crate::backend::forward::RequestOrigin;
use crate::backend::headers::ClientHeaders;
use crate::catalog::Audience;
use crate::frontend::context::MessageSnapshot;
use crate::identify::{ConnectionState, StreamAuthorization};
use crate::metrics::Metrics;
use crate::record::long_texts;
use crate::sealing::CallerKey;
use http::request::Parts;
use portunus_config::VirtualServer;
use portunus_filters::{Era, LongTexts};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// The context of one message: data, and no services. Everything that outlives the HTTP request of the message keeps it.
pub struct CallContext {
    /// Method, target and headers of the HTTP request that it came with, without those of the connection.
    pub parts: Arc<Parts>,
    /// Its sender and time.
    pub origin: Arc<RequestOrigin>,
    /// The snapshot by which it is judged until its request is sent.
    pub snapshot: MessageSnapshot,
    /// The virtual server in that snapshot.
    pub server: Arc<VirtualServer>,
    /// The era that the client speaks.
    pub era: Era,
    /// The other end of its connection.
    pub connection_state: Arc<ConnectionState>,
    /// The caller, as pools and caches tell it from others.
    pub caller: CallerKey,
    /// The caller, as sealed handles are bound to it.
    pub bearer: CallerKey,
    /// The right of its streams to stay open; `None` where nobody was asked who calls.
    pub authorization: Option<Arc<StreamAuthorization>>,
    /// The client's headers that go up, as it sent them: it is told from others by them.
    pub sent_headers: Arc<ClientHeaders>,
    /// The same as servers may have them by the snapshot of the message.
    pub client_headers: Arc<ClientHeaders>,
    /// The serial number of that.
    pub serial: u64,
    /// The time that the client may take for one piece of an answer.
    pub write_timeout: Duration,
    /// Another replica sent the message here.
    pub relayed: bool,
    /// The client can be answered by an event stream.
    pub takes_events: bool,
    /// The name that the client's software gives itself, where policy asks for it.
    pub software: OnceLock<Arc<str>>,
    /// The names that the message looked up in vain.
    pub failed_lookups: FailedLookups,
    /// Texts for its client that are too long to be read; `None` where no filter is on.
    pub long_texts: Option<Arc<LongTexts>>,
    /// The audience of lists, once some were looked up.
    pub audience: OnceLock<Arc<Audience>>,
}

impl CallContext {
    /// The context of a part of the message, which lets the snapshot go by itself.
    pub fn of_part(&self, metrics: &Arc<Metrics>) -> CallContext {
        CallContext {
            long_texts: self.long_texts.as_ref().map(|_| long_texts(metrics, &self.server)),
            takes_events: self.takes_events,
            audience: self.audience.clone(),
            ..self.with(self.snapshot.share(), Arc::clone(&self.connection_state))
        }
    }

    /// The context of what outlives the HTTP request. It takes over the snapshot, and does not keep what is remembered of
    /// the connection.
    pub fn of_stream(&self) -> CallContext {
        let forgotten = ConnectionState::new(self.connection_state.phases.clone());
        self.with(self.snapshot.hand_over(), Arc::new(forgotten))
    }

    fn with(&self, snapshot: MessageSnapshot, connection_state: Arc<ConnectionState>) -> CallContext {
        CallContext {
            parts: Arc::clone(&self.parts),
            origin: Arc::clone(&self.origin),
            snapshot,
            server: Arc::clone(&self.server),
            era: self.era,
            connection_state,
            caller: self.caller,
            bearer: self.bearer,
            authorization: self.authorization.clone(),
            sent_headers: Arc::clone(&self.sent_headers),
            client_headers: Arc::clone(&self.client_headers),
            serial: self.serial,
            write_timeout: self.write_timeout,
            relayed: self.relayed,
            takes_events: true,
            software: self.software.clone(),
            failed_lookups: FailedLookups::default(),
            long_texts: self.long_texts.clone(),
            audience: OnceLock::new(),
        }
    }
}
