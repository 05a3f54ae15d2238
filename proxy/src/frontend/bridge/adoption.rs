//! Adopts sessions whose home is gone, or whose messages passed before: what their ids hold is taken over as it is.
//!
//! Legs are made again for no server but those whose sessions hold nothing; where a leg is needed
//! that the id does not have, the session is unknown, and its client begins a new one.

use super::desk::Desk;
use super::founding::{lifetime, replay};
use super::sessions::Session;
use crate::backend::upstream_call::Place;
use crate::backend::upstream_call::voice::MCP_PROTOCOL_VERSION;
use crate::backend::upstream_sessions::Leg;
use crate::sealing::{SealedLeg, SessionToken};
use http::HeaderValue;
use portunus_filters::Era;
use portunus_filters::mcp::Revision;
use portunus_filters::mcp::bridge::{Facts, Profile};
use std::sync::Arc;
use std::time::Duration;

/// Takes a session over for as long as it would have lasted; one that passed had no age here before.
pub(super) fn adopt(desk: &Desk<'_>, token: SessionToken) -> Arc<Session> {
    let age = desk.gateway.clock.now().wall.saturating_sub(Duration::from_secs(token.issued));
    let left = if token.passes { lifetime(desk) } else { lifetime(desk).saturating_sub(age) };
    let number = token.number;
    let make = || (taken_over(desk, &token), left);
    desk.gateway.estate.sessions.adopt(&desk.call.server, &number, desk.gateway, make)
}

fn taken_over(desk: &Desk<'_>, token: &SessionToken) -> Arc<Session> {
    let client = Some(&*token.client).filter(|client| !client.is_empty());
    let profile = Arc::new(Profile::of_bits(client, token.abilities));
    let server = desk.call.server.id.clone();
    let version = version(desk, token);
    let session = Session::new(token.number, server, version, Arc::clone(&profile), false);
    let session = session.keeping(replay(desk)).owned_by(desk.owner(), desk.call.upward.bytes());
    let mark = token.passes.then(|| desk.gateway.estate.sessions.adopted_mark());
    let session = Arc::new(match mark {
        Some(mark) => session.marked_as_passed(mark),
        None => session,
    });
    // In the name of a client that may not say this of itself, the gateway says nothing of it.
    let silent = |_| Arc::new(Profile::of_bits(None, token.abilities));
    let permitted = desk.permitted(profile).unwrap_or_else(silent);
    for (upstream, leg) in legs(desk, token, (&permitted, version)) {
        desk.gateway.estate.hub.own(&leg, &session);
        // One that has just begun is not over.
        drop(session.hold(upstream, leg));
    }
    tracing::info!(server = &*desk.call.server.name, home = &**token.home.replica(), "session adopted");
    session
}

/// The legs of a session at the servers that are still configured.
fn legs(
    desk: &Desk<'_>,
    token: &SessionToken,
    (profile, version): (&Arc<Profile>, Revision),
) -> Vec<(portunus_config::UpstreamKey, Arc<Leg>)> {
    let active = desk.active();
    let now = desk.gateway.clock.now().monotonic;
    let mut legs = Vec::new();
    for upstream in desk.upstreams() {
        let Ok(place) = desk.place(&active, upstream, profile) else { continue };
        for sealed in &token.legs {
            let is_its = |place: &Place| place.upstream.mark == sealed.upstream;
            let (place, _) = desk.gateway.backend.replicas.settle(place.clone(), now, is_its);
            if is_its(&place) {
                let agreed = if token.passes { version } else { sealed.version };
                legs.push((upstream.key, leg(desk, place, sealed, agreed)));
            }
        }
    }
    legs
}

/// The revision that was agreed on with the client. Nobody here read what the server of a session that passed agreed to,
/// but clients say it since 2025-06-18 (transports, "Protocol Version Header").
fn version(desk: &Desk<'_>, token: &SessionToken) -> Revision {
    if !token.passes {
        return token.version;
    }
    let said = desk.call.head.headers.get(MCP_PROTOCOL_VERSION).and_then(|version| version.to_str().ok());
    let said = said.and_then(Revision::parse).filter(|version| version.era() == Era::Legacy);
    said.unwrap_or(Revision::V2025_03_26)
}

fn leg(desk: &Desk<'_>, place: Place, sealed: &SealedLeg, agreed: Revision) -> Arc<Leg> {
    let id = HeaderValue::from_str(&sealed.id).ok().filter(|id| !id.is_empty());
    // What the server said of itself went with the home; nothing here depends on it.
    let facts = Facts { version: agreed, capabilities: "{}".into(), instructions: None, server_info: None };
    Leg::adopt(&desk.gateway.backend.legs, place, id, agreed, Arc::new(facts))
}
