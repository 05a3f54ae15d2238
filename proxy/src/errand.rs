//! What the gateway says to upstreams on its own.
//!
//! A closed list, built from typed fields and never from a client's bytes. Each errand has its own
//! deadline and is counted; none holds up a call.

use crate::context::Gateway;
use crate::forward::{Failure, Inbound};
use crate::headers::write_request_head;
use crate::talk::Place;
use crate::upstreams::pool::{Pool, Wish};
use crate::upstreams::request::Outgoing;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use portunus_config::Upstream;
use portunus_filters::mcp::Id;
use portunus_filters::{Denial, Reason};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

/// Errands under way at once.
pub const MAX_ERRANDS: usize = 64;

const WITHIN: Duration = Duration::from_secs(5);

/// Everything that the gateway may say.
#[derive(Debug)]
pub enum Errand {
    /// `notifications/cancelled` for a legacy request that timed out here.
    Cancel {
        /// The session and revision headers of the request.
        session: Session,
        /// The request.
        id: Id,
    },
    /// DELETE of a legacy session whose client went away before it learned of it.
    Delete {
        /// The orphan.
        session: Session,
    },
    /// `server/discover`; of a legacy upstream, what it said of itself when its session began.
    Discover,
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
        level: Arc<str>,
    },
    /// `ping`, of a legacy upstream.
    Ping,
}

/// Asks an upstream in the words of its era, and gives the text of the result in the same words.
///
/// # Errors
/// [`Failure`], also for an error answer.
pub async fn ask(gateway: &Arc<Gateway>, place: &Place, errand: Errand) -> Result<Bytes, Failure> {
    tracing::debug!(upstream = &*place.upstream.name, ?errand, draining = ?gateway.drain.phase(), "errand");
    Err(Denial::new(Reason::UpstreamUnavailable, "the server cannot be reached").into())
}

/// Headers that address a legacy session, and the credential it was made with.
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

    /// The same session under the id that the upstream gave it.
    #[must_use]
    pub fn named(mut self, id: &HeaderValue) -> Session {
        self.headers.insert("mcp-session-id", id.clone());
        self
    }

    /// Whether it names a session at all.
    pub fn exists(&self) -> bool {
        self.headers.contains_key("mcp-session-id")
    }
}

/// Runs an errand in the background.
pub fn run(gateway: &Arc<Gateway>, errand: Errand, upstream: Arc<Upstream>, pool: Arc<Pool>) {
    let kind = match &errand {
        Errand::Cancel { .. } => "cancel",
        Errand::Delete { .. } => "delete",
        _ => return,
    };
    // When an upstream hangs, every call to it wants an errand; they must not crowd out calls.
    let Ok(permit) = Arc::clone(&gateway.errands).try_acquire_owned() else {
        gateway.metrics.errands.with_label_values(&[kind, "dropped"]).inc();
        return;
    };
    let gateway = Arc::clone(gateway);
    tokio::spawn(async move {
        let _permit = permit;
        let done = timeout(WITHIN, deliver(&gateway, &errand, &upstream, &pool)).await.unwrap_or(false);
        let result = if done { "done" } else { "failed" };
        gateway.metrics.errands.with_label_values(&[kind, result]).inc();
        tracing::debug!(kind, upstream = &*upstream.name, result, "errand");
    });
}

/// Ends the legacy session that an answer founded and nobody learned of.
pub fn delete_orphan(
    gateway: &Arc<Gateway>,
    id: &HeaderValue,
    session: Session,
    upstream: &Arc<Upstream>,
    pool: &Arc<Pool>,
) {
    let errand = Errand::Delete { session: session.named(id) };
    run(gateway, errand, Arc::clone(upstream), Arc::clone(pool));
}

async fn deliver(gateway: &Gateway, errand: &Errand, upstream: &Arc<Upstream>, pool: &Arc<Pool>) -> bool {
    let (method, session, body) = match errand {
        Errand::Cancel { session, id } => (Method::POST, session, cancelled(id)),
        Errand::Delete { session } => (Method::DELETE, session, Bytes::new()),
        _ => return false,
    };
    let mut headers = session.headers.clone();
    if method == Method::POST {
        headers.insert("content-type", HeaderValue::from_static("application/json"));
    }
    headers.insert("accept", HeaderValue::from_static("application/json, text/event-stream"));
    let request_id = gateway.identifier.request_id(&HeaderMap::new());
    let trace = gateway.identifier.trace(&HeaderMap::new());
    let inbound = Inbound {
        method: &method,
        headers: &headers,
        query: None,
        client: IpAddr::V4(Ipv4Addr::LOCALHOST),
        secure: false,
        behind_proxy: false,
        request_id: &request_id,
        trace: &trace,
    };
    let mut head = Outgoing::buffer(body.len());
    write_request_head(&mut head, &inbound, upstream, body.len());
    let Ok(mut checkout) = pool.checkout(upstream, &gateway.estate.resolver, Wish::default()).await else {
        return false;
    };
    let Some(connection) = checkout.connection() else { return false };
    connection.exchange(&Outgoing::new(head, body)).await.is_ok_and(|head| head.status.is_success())
}

fn cancelled(id: &Id) -> Bytes {
    let id = id.as_json();
    Bytes::from(format!(
        "{{\"jsonrpc\":\"2.0\",\"method\":\"notifications/cancelled\",\"params\":{{\"requestId\":{id},\"reason\":\"timed out at the gateway\"}}}}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use portunus_filters::mcp::Envelope;

    #[test]
    fn a_cancellation_names_the_request_as_it_was_written() {
        let id = Envelope::read(r#"{"jsonrpc":"2.0","id":"a\"b","result":0}"#).unwrap().id.unwrap();
        let body = cancelled(&id);
        let message: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(message["params"]["requestId"], "a\"b");
        assert_eq!(message["method"], "notifications/cancelled");
    }
}
