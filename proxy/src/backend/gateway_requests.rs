//! What the gateway says to upstreams on its own.
//!
//! A closed list, built from typed fields and never from a client's bytes. Each gateway request has its own
//! deadline and is counted. [`run`] tells something in the background and holds up no call; [`ask`]
//! waits for an answer.

mod aside;
mod ask;
mod farewell;
mod listen;
mod passed;
mod words;

use crate::backend::Backend;
use crate::backend::forward::{Dispatch, RequestParts, RetryPolicy};
use crate::backend::headers::ClientHeaders;
use crate::backend::upstream_call::reading::Reading;
use crate::backend::upstream_call::upstream_headers::{self, UpstreamHeaders};
use crate::backend::upstreams::pool::Pool;
use crate::shares::Owner;
pub(crate) use aside::post;
pub use ask::ask;
pub(crate) use ask::{
    Addressed, GatewayRequestAnswer, answers_ping, exchange, is_modern_code, lives, send, send_on_session,
};
pub use farewell::Farewells;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
pub use listen::{Listening, listen};
pub use passed::{PassedRequest, session_id};
use portunus_config::Upstream;
use portunus_filters::Kind;
use portunus_filters::mcp::bridge::{Filter, LogLevel, Reply};
use portunus_filters::mcp::{Id, Revision};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::timeout;

/// Gateway requests under way in the background at once.
pub const MAX_BACKGROUND_REQUESTS: usize = 64;
/// Gateway requests that are waited for at once.
pub const MAX_AWAITED_REQUESTS: usize = 512;
/// Pings under way at once: servers that hang must not take the permits of lists.
const MAX_PINGS: usize = 64;

/// A request of a server that belongs to no call.
pub(crate) const UNRELATED: &str = "no request in flight that this could belong to";
/// A request of a server for which there is no room: it may ask again.
pub(crate) const CROWDED: &str = "too much that servers asked waits for its clients: ask again later";
/// A request of a server that its client has not declared to be able to answer.
pub(crate) const INCAPABLE: &str = "the client did not declare that it can be asked this";

const WITHIN: Duration = Duration::from_secs(5);

/// Everything that the gateway may say.
#[derive(Debug)]
pub enum GatewayRequest {
    /// `notifications/cancelled` for a legacy request that ended here.
    Cancel {
        /// The session and revision headers of the request.
        session: Session,
        /// The request.
        id: Id,
    },
    /// DELETE of a legacy session that nobody uses any more.
    Delete {
        /// The session.
        session: Session,
    },
    /// The answer to a legacy server's `ping`.
    Pong {
        /// The session that it came on.
        session: Session,
        /// The request.
        id: Id,
    },
    /// The refusal of a legacy server's request that no client is asked.
    Decline {
        /// The session that it came on.
        session: Session,
        /// The request.
        id: Id,
        /// Why: it belongs to no call, its client cannot be asked it, or there is no room.
        why: &'static str,
    },
    /// A client's answer to a legacy server's question outside of any call.
    Answer {
        /// The session that it came on.
        session: Session,
        /// The request.
        id: Id,
        /// The answer.
        reply: Reply,
    },
    /// `server/discover`; of a legacy upstream, what it said of itself when its session began.
    Discover,
    /// `initialize`, which founds a legacy session.
    Initialize {
        /// The revision that is asked for.
        version: Revision,
    },
    /// `notifications/initialized`.
    Initialized,
    /// GET: the stream of a legacy session.
    Stream,
    /// `subscriptions/listen`, of a modern upstream.
    Listen {
        /// What is to be told.
        filter: Filter,
    },
    /// One page of a list.
    List {
        /// `tools/list` and its kin.
        method: &'static str,
        /// Where the page begins; `None` for the first.
        cursor: Option<String>,
    },
    /// `resources/subscribe`, of a legacy upstream.
    Subscribe {
        /// The resource.
        uri: Arc<str>,
    },
    /// `resources/unsubscribe`, of a legacy upstream.
    Unsubscribe {
        /// The resource.
        uri: Arc<str>,
    },
    /// `logging/setLevel`, of a legacy upstream.
    SetLevel {
        /// The least level that is sent.
        level: LogLevel,
    },
    /// `ping`, of a legacy upstream.
    Ping,
}

/// Permits for gateway requests that are waited for.
#[derive(Clone)]
pub struct Asked {
    most: Arc<Semaphore>,
    pings: Arc<Semaphore>,
}

impl Default for Asked {
    fn default() -> Asked {
        let permits = |count| Arc::new(Semaphore::new(count));
        Asked { most: permits(MAX_AWAITED_REQUESTS), pings: permits(MAX_PINGS) }
    }
}

/// Headers that address a legacy session, and what its server was shown when it was made.
#[derive(Clone, Debug, Default)]
pub struct Session {
    headers: HeaderMap,
}

impl Session {
    /// What of `headers` addresses a session; `None` without one.
    pub fn of(headers: &HeaderMap) -> Session {
        let names = ["mcp-session-id", "mcp-protocol-version", "authorization", "cookie"];
        let headers = names.iter().filter_map(|name| {
            let value = headers.get(*name)?;
            Some((HeaderName::from_static(name), value.clone()))
        });
        Session { headers: headers.collect() }
    }

    /// A session by its id and revision, for a caller of whom its server is shown this.
    pub(crate) fn addressed(shown: &ClientHeaders, id: Option<&HeaderValue>, version: Revision) -> Session {
        let mut fields = Vec::new();
        upstream_headers::address(&mut fields, id, version);
        let mut session = Session { headers: HeaderMap::clone(shown) };
        session.headers.extend(fields);
        session
    }

    /// The same session under the id that the upstream gave it.
    #[must_use]
    pub fn named(mut self, id: &HeaderValue) -> Session {
        self.headers.insert("mcp-session-id", id.clone());
        self
    }

    /// How many bytes it keeps.
    fn bytes(&self) -> usize {
        self.headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum()
    }

    /// Whether it names a session at all.
    pub fn exists(&self) -> bool {
        self.headers.contains_key("mcp-session-id")
    }
}

/// Runs a gateway request in the background.
pub fn run(
    backend: &Arc<Backend>,
    gateway_request: GatewayRequest,
    upstream: Arc<Upstream>,
    pool: Arc<Pool>,
) {
    let kind = gateway_request.kind();
    // When an upstream hangs, every call to it wants a gateway request; they must not crowd out calls.
    let Ok(permit) = Arc::clone(&backend.gateway_requests).try_acquire_owned() else {
        backend.metrics.gateway_requests.with_label_values(&[kind, "dropped"]).inc();
        return;
    };
    let own = Arc::clone(backend);
    backend.spawn(async move {
        let _permit = permit;
        let status = timeout(WITHIN, deliver(&own, &gateway_request, &upstream, &pool)).await.ok().flatten();
        let done = status.is_some_and(|status| status.is_success());
        count(&own, &gateway_request, done);
        tracing::debug!(kind, upstream = &*upstream.name, done, "gateway request");
    });
}

/// Says a gateway request that has no answer but its status; none if there was no answer at all.
async fn deliver(
    backend: &Arc<Backend>,
    gateway_request: &GatewayRequest,
    upstream: &Arc<Upstream>,
    pool: &Arc<Pool>,
) -> Option<StatusCode> {
    let session = gateway_request.session().cloned().unwrap_or_default();
    let upstream_headers = UpstreamHeaders::own(backend, &Arc::new(session.headers.into()), Owner::Nobody);
    let method = gateway_request.http();
    let own = upstream_headers::posted();
    let request_parts = RequestParts {
        inbound: &upstream_headers.inbound(&method),
        own: &own,
        body: gateway_request.message("0"),
    };
    let retry_policy = RetryPolicy { repeatable: false, endless: false };
    let upstream_session = Dispatch::gateway_request(
        gateway_request,
        request_parts,
        Arc::clone(upstream),
        Arc::clone(pool),
        retry_policy,
    );
    let exchange =
        crate::backend::forward::send(upstream_session, Arc::clone(&backend.resolver)).await.ok()?;
    let status = exchange.head.status;
    if let Ok(reading) = Reading::begin(exchange, upstream, Kind::Notification) {
        reading.finish();
    }
    Some(status)
}

fn count(backend: &Backend, gateway_request: &GatewayRequest, done: bool) {
    let result = if done { "done" } else { "failed" };
    backend.metrics.gateway_requests.with_label_values(&[gateway_request.kind(), result]).inc();
}
