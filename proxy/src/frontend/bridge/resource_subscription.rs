//! Subscribes the sessions of legacy clients to resources.

use super::responder::Responder;
use super::served_call::{ServedCall, at_once, params, shown};
use super::sessions::Session;
use super::{call, founding, lists};
use crate::authorize::{CallTerms, RoutedRequest};
use crate::backend::forward::Failure;
use crate::backend::gateway_requests::GatewayRequest;
use portunus_filters::mcp::bridge::MAX_URI_BYTES;
use portunus_filters::{Denial, Era, Message, Reason};
use std::sync::Arc;

/// `resources/subscribe` and `resources/unsubscribe` of a legacy client.
pub(super) async fn subscribe(
    served: &ServedCall<'_>,
    session: &Arc<Session>,
    message: &Message,
    out: &mut Responder<'_>,
) -> Result<(), Denial> {
    let fields = params(message)?;
    let missing = || Denial::new(Reason::InvalidParams, "`uri` must be text");
    let uri: Arc<str> = fields.text("uri").ok_or_else(missing)?.into();
    if uri.len() > MAX_URI_BYTES {
        let detail = format!("`uri` of a subscription may have at most {MAX_URI_BYTES} bytes");
        return Err(Denial::new(Reason::InvalidParams, detail));
    }
    let profile = served.profile_of(session)?;
    let owners = lists::owners(served, &profile, (Era::Legacy, std::slice::from_ref(&uri))).await?;
    let Some((place, uris)) = owners.into_iter().find(|(_, uris)| !uris.is_empty()) else {
        let catalog = served.catalog(&profile, call::URIS, served.context.origin.arrival.at).await?;
        let detail = format!("Resource not found: {}", shown(&uri));
        let unknown = || Denial::new(Reason::UnknownResource, detail);
        return Err(served.spelling(&catalog, &uri).unwrap_or_else(unknown));
    };
    let own = uris.into_iter().next().map(|own| (own.original, own.subject));
    let (original, subject) = own.unwrap_or_else(|| (Arc::clone(&uri), None));
    let request = RoutedRequest { message, upstream: &place.upstream, subject };
    let admission = served.admit_request(&request, &profile)?;
    let (admitted, CallTerms { place, .. }) = match at_once(admission) {
        Ok(admitted) => admitted,
        Err(waiting) => {
            let again = || served.judge_request_again(&request, &served.profile_of(session)?);
            Box::pin(served.in_turn(waiting, request.upstream, again, out)).await?
        }
    };
    let begins = call::method_name(message) == "resources/subscribe";
    // One that is founded for this knows all that is subscribed to before.
    let denial = |failure: Failure| failure.denial;
    let own = founding::upstream_session(served, session, &place).await.map_err(denial)?;
    let upstream = &place.upstream.name;
    let changed = match begins {
        true => {
            let crowded = "as many resources as the client may be subscribed to";
            let subscribed = session.subscribe(upstream, &original, &uri, &served.gateway.backend.texts);
            subscribed.ok_or_else(|| Denial::new(Reason::Crowded, crowded))?
        }
        false => session.unsubscribe(upstream, &original),
    };
    if changed {
        admitted.holds().commit();
    }
    let Some(own) = own.filter(|_| changed) else { return Ok(()) };
    let request = match begins {
        true => GatewayRequest::Subscribe { uri: Arc::clone(&original) },
        false => GatewayRequest::Unsubscribe { uri: Arc::clone(&original) },
    };
    match own.ask(&served.gateway.backend, request).await {
        // The one in its place is told what is subscribed to by now.
        Err(_) if own.is_dead() => {
            founding::upstream_session(served, session, &place).await.map(drop).map_err(denial)
        }
        Err(failure) => {
            if begins {
                session.unsubscribe(upstream, &original);
            }
            Err(failure.denial)
        }
        Ok(()) => Ok(()),
    }
}
