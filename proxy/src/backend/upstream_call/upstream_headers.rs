//! How the gateway writes requests for a caller: whose headers they carry, and which are its own.

use super::UpstreamTarget;
use crate::backend::Backend;
use crate::backend::forward::{Inbound, RequestOrigin};
use crate::backend::headers::{ClientHeaders, MCP_SESSION_ID};
use crate::shares::Owner;
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use portunus_filters::mcp::Revision;
use portunus_filters::{Arrival, Identity};
use std::borrow::Cow;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

pub(crate) const MCP_PROTOCOL_VERSION: HeaderName = HeaderName::from_static("mcp-protocol-version");
const MCP_METHOD: HeaderName = HeaderName::from_static("mcp-method");
const MCP_NAME: HeaderName = HeaderName::from_static("mcp-name");
const JSON: HeaderValue = HeaderValue::from_static("application/json");
const EVENTS: HeaderValue = HeaderValue::from_static("text/event-stream");
const EITHER: HeaderValue = HeaderValue::from_static("application/json, text/event-stream");

/// Fields of the gateway's own, for one request.
pub(crate) type Fields = Vec<(HeaderName, HeaderValue)>;

/// On whose behalf requests are written.
#[derive(Clone)]
pub(crate) struct UpstreamHeaders {
    headers: Arc<ClientHeaders>,
    owner: Owner,
    origin: Arc<RequestOrigin>,
}

impl UpstreamHeaders {
    /// That of a client's request.
    pub(crate) fn of(origin: &Arc<RequestOrigin>, place: &UpstreamTarget) -> UpstreamHeaders {
        UpstreamHeaders {
            headers: Arc::clone(&place.headers),
            owner: place.owner,
            origin: Arc::clone(origin),
        }
    }

    /// The gateway's own, with what `headers` hold of a client and in its share.
    pub(crate) fn own(backend: &Backend, headers: &Arc<ClientHeaders>, owner: Owner) -> UpstreamHeaders {
        let source = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let arrival = Arrival {
            listener: Arc::default(),
            source,
            identity: Identity::Anonymous { source },
            request_id: backend.ids.event_id(),
            at: backend.clock.now(),
        };
        let origin = RequestOrigin {
            arrival,
            secure: false,
            behind_proxy: false,
            trace: backend.ids.trace(&HeaderMap::new()),
        };
        UpstreamHeaders { headers: Arc::clone(headers), owner, origin: Arc::new(origin) }
    }

    /// What a request of that method takes over.
    pub(crate) fn inbound<'a>(&'a self, method: &'a Method) -> Inbound<'a> {
        Inbound { method, headers: &self.headers, query: None, owner: self.owner, origin: &self.origin }
    }
}

/// Fields of every POST.
pub(crate) fn posted() -> Fields {
    // With what addresses a session, or mirrors a body.
    let mut fields = Vec::with_capacity(5);
    fields.extend([(CONTENT_TYPE, JSON), (ACCEPT, EITHER)]);
    fields
}

/// Fields of a GET that opens a stream.
pub(crate) fn listening() -> Fields {
    vec![(ACCEPT, EVENTS)]
}

/// Adds what addresses a legacy session.
pub(crate) fn address(fields: &mut Fields, id: Option<&HeaderValue>, version: Revision) {
    if let Some(id) = id {
        fields.push((MCP_SESSION_ID, id.clone()));
    }
    // Servers of earlier revisions have never heard of the header.
    if version >= Revision::V2025_06_18 {
        fields.push((MCP_PROTOCOL_VERSION, HeaderValue::from_static(version.as_str())));
    }
}

/// Adds what a modern request mirrors of its body; `target` in the form of a header.
pub(crate) fn mirror(
    fields: &mut Fields,
    version: Revision,
    method: Cow<'static, str>,
    target: Option<Cow<'_, str>>,
) {
    fields.push((MCP_PROTOCOL_VERSION, HeaderValue::from_static(version.as_str())));
    let target = target.and_then(|target| HeaderValue::from_str(&target).ok());
    let named = target.map(|target| (MCP_NAME, target));
    let method = match method {
        Cow::Borrowed(name) => Some(HeaderValue::from_static(name)),
        Cow::Owned(name) => HeaderValue::from_str(&name).ok(),
    };
    fields.extend(method.map(|method| (MCP_METHOD, method)).into_iter().chain(named));
}
