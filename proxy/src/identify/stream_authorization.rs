//! Whether who opened a stream may go on listening.
//!
//! A stream outlives the moment at which its caller was judged. It is judged again when the
//! configuration or the keys of an issuer change, and when what was shown ends, by what was shown then.

use super::connection_state::ConnectionState;
use super::credential::kept;
use super::inspect::Trouble;
use super::stage::{Shown, authenticate};
use crate::frontend::context::Gateway;
use http::HeaderMap;
use portunus_config::{Profile, ServerId};
use portunus_filters::identity::Principal;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::sleep;

/// Between two looks, where nobody can tell.
const AGAIN: Duration = Duration::from_secs(1);

/// What a caller has shown, kept for as long as its stream is open.
#[derive(Clone)]
pub struct StreamAuthorization {
    server: ServerId,
    headers: HeaderMap,
    connection_state: Arc<ConnectionState>,
    source: IpAddr,
    principal: Arc<Principal>,
    /// Another replica has judged it, and goes on doing so.
    vouched: bool,
}

impl StreamAuthorization {
    /// The standing of a caller that was let in at `server` with what its headers show; `vouched` if by
    /// another replica.
    pub fn new(
        (server, profile): (ServerId, &Profile),
        shown: Shown<'_>,
        connection_state: &Arc<ConnectionState>,
        principal: &Arc<Principal>,
        vouched: bool,
    ) -> StreamAuthorization {
        StreamAuthorization {
            server,
            headers: kept(shown.headers, profile),
            connection_state: Arc::clone(connection_state),
            source: shown.source,
            principal: Arc::clone(principal),
            vouched,
        }
    }

    /// Puts back into headers what the caller was found by, as far as it was taken out of them.
    pub fn restore(&self, headers: &mut HeaderMap) {
        for name in
            self.headers.keys().filter(|name| !headers.contains_key(*name)).cloned().collect::<Vec<_>>()
        {
            for value in self.headers.get_all(&name) {
                headers.append(name.clone(), value.clone());
            }
        }
    }

    /// Returns when the caller may no longer listen.
    pub async fn ended(&self, gateway: &Arc<Gateway>) {
        // Before the first look: what changes after it, is seen by the one or told by the other.
        let (mut serials, mut keys) = (gateway.serials(), gateway.estate.callers.keys.changes());
        let mut until = self.principal.not_after;
        loop {
            let now = gateway.clock.now().wall;
            let look = async {
                match until {
                    Some(until) => sleep(until.saturating_sub(now)).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                changed = serials.changed() => if changed.is_err() { return std::future::pending().await },
                changed = keys.changed() => if changed.is_err() { return std::future::pending().await },
                () = look => {}
            }
            match self.judge(gateway).await {
                Ok(next) => until = next,
                Err(Trouble::Fault(_)) => return,
                Err(Trouble::Unavailable(_)) => until = Some(gateway.clock.now().wall + AGAIN),
            }
        }
    }

    /// Whether the caller would be let in now, and until when.
    async fn judge(&self, gateway: &Arc<Gateway>) -> Result<Option<Duration>, Trouble> {
        let active = gateway.active();
        let profile = active.snapshot.routes.server(&self.server).and_then(|server| server.identity.clone());
        drop(active);
        // Without the server the stream ends anyway; where nobody is asked, anybody may listen.
        let Some(profile) = profile else { return Ok(None) };
        if self.vouched {
            let ended = self.principal.has_ended(gateway.clock.now().wall);
            let revoked = profile.revoked.names(&self.principal);
            let fault = portunus_filters::identity::Fault::Revoked;
            return if ended || revoked { Err(fault.into()) } else { Ok(self.principal.not_after) };
        }
        let shown =
            Shown { headers: &self.headers, connection_state: &self.connection_state, source: self.source };
        let principal = authenticate(gateway, &profile, shown, gateway.clock.now()).await?;
        let same = principal.tenant == self.principal.tenant && principal.subject == self.principal.subject;
        if same { Ok(principal.not_after) } else { Err(portunus_filters::identity::Fault::Unnamed.into()) }
    }
}

/// Returns when the caller of a stream may no longer listen; never where nobody was asked.
pub async fn ended(authorization: Option<&Arc<StreamAuthorization>>, gateway: &Arc<Gateway>) {
    match authorization {
        Some(authorization) => authorization.ended(gateway).await,
        None => std::future::pending().await,
    }
}

impl fmt::Debug for StreamAuthorization {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamAuthorization").field("server", &self.server).finish_non_exhaustive()
    }
}
