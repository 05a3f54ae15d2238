//! URIs of resources in what servers answer: as clients can use them.

use super::call::{URIS, method_name};
use super::served_call::ServedCall;
use crate::backend::upstream_call::{Answer, Outcome};
use bytes::Bytes;
use portunus_config::Upstream;
use portunus_filters::catalog::names_resources;
use portunus_filters::mcp::bridge::Profile;
use portunus_filters::{Message, Released};
use std::sync::Arc;

/// An answer in which each resource has the URI that leads back to its server. Costs nothing where one
/// server stands alone, and a look at the text where none is named.
pub(super) async fn outward(
    served: &ServedCall<'_>,
    message: &Message,
    profile: &Arc<Profile>,
    upstream: &Upstream,
    answer: Answer<Released>,
) -> Answer<Released> {
    if served.context.server.members.len() < 2 {
        return answer;
    }
    let method = method_name(message);
    let renamed = match &answer.outcome {
        Outcome::Result(result) if names_resources(method, result.bytes()) => {
            let renamed = renamed(served, profile, (method, upstream), result.bytes()).await;
            renamed.map(|text| result.translated(text))
        }
        _ => None,
    };
    match renamed {
        Some(result) => answer.with(Outcome::Result(result)),
        None => answer,
    }
}

async fn renamed(
    served: &ServedCall<'_>,
    profile: &Arc<Profile>,
    (method, upstream): (&str, &Upstream),
    result: &Bytes,
) -> Option<String> {
    let member = served.context.server.member_of(&upstream.name)?;
    // Without any list nothing leads anywhere, and the server's own words are as good as others.
    let catalog = served.catalog(profile, URIS, served.gateway.clock.now()).await.ok()?;
    let queue = served.active().pool(upstream).map(|pool| pool.offload.clone()).unwrap_or_default();
    let (bytes, method, result) = (result.len(), method.to_owned(), result.clone());
    let written = move || catalog.with_served_uris(member, &method, std::str::from_utf8(&result).ok()?);
    queue.run(bytes, written).await
}
