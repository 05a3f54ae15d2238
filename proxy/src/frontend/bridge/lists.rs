//! What an endpoint says of itself and offers, composed of what its servers say and offer.

use super::call;
use super::responder::Responder;
use super::served_call::{ServedCall, params};
use crate::backend::upstream_call::UpstreamTarget;
use crate::frontend::session::End;
use bytes::Bytes;
use http::StatusCode;
use portunus_filters::call::Subject;
use portunus_filters::catalog::{Closing, INCOMPLETE, ListKind};
use portunus_filters::mcp::bridge::{self, Facts, Profile};
use portunus_filters::mcp::object::Object;
use portunus_filters::mcp::rewrite::string;
use portunus_filters::{Channel, Denial, Era, Message, Reason, Released};
use std::sync::Arc;

/// `tools/list` and its kin.
pub(super) async fn list(
    served: &ServedCall<'_>,
    message: &Message,
    profile: &Arc<Profile>,
    out: &mut Responder<'_>,
) -> Result<End, Denial> {
    let admitted = served.admit(message)?;
    let unknown = || Denial::new(Reason::UnknownMethod, "no server behind this endpoint has this method");
    let kind = ListKind::of_method(call::method_name(message)).ok_or_else(unknown)?;
    let fields = params(admitted.message(message))?;
    let cursor = fields.text("cursor");
    if cursor.is_none() && fields.get("cursor").is_some() {
        return Err(Denial::new(Reason::InvalidParams, "`cursor` must be text"));
    }
    let current = served.lists(profile, &[kind]).await?;
    let now = served.gateway.clock.now();
    let caching = current.caching(kind, now);
    let untold = served.untold(&current.catalog, kind);
    let closing = Closing { era: message.era, caching, server_info: Some(SERVER_INFO), now, untold: &untold };
    let result = served.listed(&current.catalog, (kind, cursor.as_deref()), &closing).await?;
    let mut pieces = Vec::with_capacity(result.len() + 2);
    let id = call::id_text(message);
    pieces.push(Released::own(format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"result\":")));
    pieces.extend(admitted.responses.inspectors().release_pieces(Channel::List, result)?);
    pieces.push(Released::own(Bytes::from_static(b"}")));
    out.record.note_answer(None);
    Ok(out.pieces(pieces).await)
}

/// What the gateway calls itself where it speaks for several servers.
pub(super) const SERVER_INFO: &str =
    concat!("{\"name\":\"portunus\",\"version\":\"", env!("CARGO_PKG_VERSION"), "\"}");

/// `server/discover`.
pub(super) async fn discover(
    served: &ServedCall<'_>,
    message: &Message,
    profile: &Arc<Profile>,
    out: &mut Responder<'_>,
) -> Result<End, Denial> {
    let admitted = served.admit(message)?;
    let current = served.lists(profile, &[]).await?;
    let told = |member| served.tells_of(member);
    let facts = merged(served, &current.known_facts(&told));
    let caching = served.told_for(current.description_caching(served.gateway.clock.now()));
    let result = with_missing(facts.discover_result(caching), &current.silent(&told));
    let told = admitted.responses.inspectors().release(Channel::ServerInfo, &result.into())?;
    out.record.note_answer(None);
    let answer = told.translated(bridge::wrap_result(call::id_text(message), told.text()));
    Ok(out.last(StatusCode::OK, answer).await)
}

/// What the servers of an endpoint that the caller is told of say of themselves, as one.
pub(super) async fn facts(served: &ServedCall<'_>, profile: &Arc<Profile>) -> Result<Arc<Facts>, Denial> {
    let current = served.lists(profile, &[]).await?;
    Ok(merged(served, &current.known_facts(&|member| served.tells_of(member))))
}

/// One server that stands alone is not renamed.
pub(super) fn merged(served: &ServedCall<'_>, facts: &[(Arc<str>, Arc<Facts>)]) -> Arc<Facts> {
    match (served.only(), facts) {
        (Some(_), [(_, facts)]) => Arc::clone(facts),
        (_, facts) => {
            let parts: Vec<(&str, &Facts)> = facts.iter().map(|(name, facts)| (&**name, &**facts)).collect();
            Arc::new(Facts::merge(&parts, SERVER_INFO))
        }
    }
}

/// Names servers that could not be reached in a result's `_meta`.
pub(super) fn with_missing(result: String, missing: &[(Arc<str>, Reason)]) -> String {
    if missing.is_empty() {
        return result;
    }
    let named = |(name, reason): &(Arc<str>, Reason)| {
        format!("{{\"upstream\":{},\"state\":\"missing\",\"reason\":\"{reason}\"}}", string(name))
    };
    let named: Vec<String> = missing.iter().map(named).collect();
    with_meta(result, format!("[{}]", named.join(",")))
}

fn with_meta(result: String, incomplete: String) -> String {
    let Ok(object) = Object::read(&result) else { return result };
    let meta = object.object("_meta").ok().flatten().unwrap_or_default();
    object.rewrite().set("_meta", meta.rewrite().set(INCOMPLETE, incomplete).text()).text()
}

/// A resource, as its server calls it and as the client does.
#[derive(Clone)]
pub(super) struct OwnUri {
    pub(super) original: Arc<str>,
    pub(super) served: Arc<str>,
    /// What rules are asked of, where there are some.
    pub(super) subject: Option<Subject>,
}

/// The places of all servers, each with those of `uris` that are its own, as it calls them.
pub(super) async fn owners(
    served: &ServedCall<'_>,
    profile: &Arc<Profile>,
    (era, uris): (Era, &[Arc<str>]),
) -> Result<Vec<(UpstreamTarget, Vec<OwnUri>)>, Denial> {
    // Who is not told of a server does not hear what it says either.
    let mut owners = served.places(profile)?;
    owners.retain(|(_, place)| served.is_told_of(&place.upstream.name));
    if let (Some(_), [(_, place)]) = (call::the_one(served), owners.as_mut_slice()) {
        let own =
            |uri: &Arc<str>| OwnUri { original: Arc::clone(uri), served: Arc::clone(uri), subject: None };
        return Ok(vec![(place.clone(), uris.iter().map(own).collect())]);
    }
    let mut shares: Vec<(UpstreamTarget, Vec<OwnUri>)> =
        owners.into_iter().map(|(_, place)| (place, Vec::new())).collect();
    if uris.is_empty() {
        return Ok(shares);
    }
    let kinds = [ListKind::Resources, ListKind::Templates];
    let catalog = served.catalog(profile, &kinds, served.context.origin.arrival.at).await?;
    let steps = catalog.steps();
    for uri in uris {
        let Some(located) = catalog.located(uri, &steps) else { continue };
        let Some(subject) = served.sees_uri(&located, era) else { continue };
        let upstream =
            served.context.server.members.get(located.member).and_then(|member| served.chosen(member));
        let owner = upstream
            .and_then(|upstream| shares.iter_mut().find(|(place, _)| place.upstream.name == upstream.name));
        if let Some((_, share)) = owner {
            let (original, served) = (Arc::from(&*located.original), Arc::clone(uri));
            share.push(OwnUri { original, served, subject });
        }
    }
    Ok(shares)
}
