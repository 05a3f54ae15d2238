//! Adopts sessions whose home is gone, or whose messages passed before: what their ids hold is taken over as it is.
//!
//! Upstream sessions are made again for no server but those whose sessions hold nothing; where one is needed that the
//! id does not have, the session is unknown, and its client begins a new one.

use super::founding::{lifetime, replay};
use super::served_call::ServedCall;
use super::sessions::Session;
use crate::backend::upstream_call::UpstreamTarget;
use crate::backend::upstream_call::upstream_headers::MCP_PROTOCOL_VERSION;
use crate::backend::upstream_sessions::UpstreamSession;
use crate::sealing::{SealedUpstreamSession, SessionToken};
use http::HeaderValue;
use portunus_filters::Era;
use portunus_filters::mcp::Revision;
use portunus_filters::mcp::bridge::{Facts, Profile};
use std::sync::Arc;
use std::time::Duration;

/// Takes a session over for as long as it would have lasted; one that passed had no age here before.
pub(super) fn adopt(served: &ServedCall<'_>, token: SessionToken) -> Arc<Session> {
    let age = served.gateway.clock.now().wall.saturating_sub(Duration::from_secs(token.issued));
    let left = if token.passes { lifetime(served) } else { lifetime(served).saturating_sub(age) };
    let number = token.number;
    let make = || (taken_over(served, &token), left);
    served.gateway.estate.sessions.adopt(&served.context.server, &number, served.gateway, make)
}

fn taken_over(served: &ServedCall<'_>, token: &SessionToken) -> Arc<Session> {
    let client = Some(&*token.client).filter(|client| !client.is_empty());
    let profile = Arc::new(Profile::of_bits(client, token.abilities));
    let server = served.context.server.id.clone();
    let version = version(served, token);
    let session = Session::new(token.number, server, version, Arc::clone(&profile), false);
    let session =
        session.keeping(replay(served)).owned_by(served.owner(), served.context.client_headers.bytes());
    let mark = token.passes.then(|| served.gateway.estate.sessions.adopted_mark());
    let session = Arc::new(match mark {
        Some(mark) => session.marked_as_passed(mark),
        None => session,
    });
    // In the name of a client that may not say this of itself, the gateway says nothing of it.
    let silent = |_| Arc::new(Profile::of_bits(None, token.abilities));
    let permitted = served.permitted(profile).unwrap_or_else(silent);
    for (upstream, upstream_session) in restore_upstream_sessions(served, token, (&permitted, version)) {
        served.gateway.estate.hub.own(&upstream_session, &session);
        // One that has just begun is not over.
        drop(session.hold(upstream, upstream_session));
    }
    tracing::info!(server = &*served.context.server.name, home = &**token.home.replica(), "session adopted");
    session
}

/// The upstream sessions of a session at the servers that are still configured.
fn restore_upstream_sessions(
    served: &ServedCall<'_>,
    token: &SessionToken,
    (profile, version): (&Arc<Profile>, Revision),
) -> Vec<(portunus_config::UpstreamKey, Arc<UpstreamSession>)> {
    let active = served.active();
    let now = served.gateway.clock.now().monotonic;
    let mut restored = Vec::new();
    for upstream in served.upstreams() {
        let Ok(place) = served.place(&active, upstream, profile) else { continue };
        for sealed in &token.upstream_sessions {
            let is_its = |place: &UpstreamTarget| place.upstream.mark == sealed.upstream;
            let (place, _) = served.gateway.backend.instances.settle(place.clone(), now, is_its);
            if is_its(&place) {
                let agreed = if token.passes { version } else { sealed.version };
                restored.push((upstream.key, upstream_session(served, place, sealed, agreed)));
            }
        }
    }
    restored
}

/// The revision that was agreed on with the client. Nobody here read what the server of a session that passed agreed to,
/// but clients say it since 2025-06-18 (transports, "Protocol Version Header").
fn version(served: &ServedCall<'_>, token: &SessionToken) -> Revision {
    if !token.passes {
        return token.version;
    }
    let said =
        served.context.parts.headers.get(MCP_PROTOCOL_VERSION).and_then(|version| version.to_str().ok());
    let said = said.and_then(Revision::parse).filter(|version| version.era() == Era::Legacy);
    said.unwrap_or(Revision::V2025_03_26)
}

fn upstream_session(
    served: &ServedCall<'_>,
    place: UpstreamTarget,
    sealed: &SealedUpstreamSession,
    agreed: Revision,
) -> Arc<UpstreamSession> {
    let id = HeaderValue::from_str(&sealed.id).ok().filter(|id| !id.is_empty());
    // What the server said of itself went with the home; nothing here depends on it.
    let facts = Facts { version: agreed, capabilities: "{}".into(), instructions: None, server_info: None };
    UpstreamSession::adopt(&served.gateway.backend.session_pools, place, id, agreed, Arc::new(facts))
}
