//! Errands that are posted, and answered on the stream of their session.

use super::ask::send_as;
use super::{Addressed, Errand, Said};
use crate::backend::Backend;
use crate::backend::forward::{Failure, Patience};
use crate::backend::upstream_call::Place;
use crate::backend::upstream_call::reading::Reading;
use crate::backend::upstream_sessions::Leg;
use bytes::Bytes;
use portunus_filters::Kind;
use std::sync::Arc;

/// Posts an errand; gives what is said to that: nothing, or a refusal.
///
/// # Errors
/// [`Failure`] if it cannot be posted.
pub(crate) async fn post(
    backend: &Arc<Backend>,
    place: &Place,
    errand: &Errand,
    addressed: &Addressed<'_>,
    body: Bytes,
) -> Result<Said, Failure> {
    let sent = send_as(backend, place, errand, addressed, body).await?;
    let mut reading = Reading::begin(sent, &place.upstream, Kind::Notification)?;
    let (status, headers) = (reading.status(), reading.headers().clone());
    let refusal = if status.is_client_error() { reading.next(Patience::default()).await? } else { None };
    reading.finish();
    Ok(Said { status, headers, outcome: None, refusal })
}

/// Asks on a leg, and waits for the answer.
///
/// # Errors
/// [`Failure`] if the question cannot be posted, or the stream breaks off before the answer.
pub(super) async fn ask(backend: &Arc<Backend>, leg: &Arc<Leg>, errand: &Errand) -> Result<Said, Failure> {
    let number = leg.number();
    let mut ear = leg.attach(number, false);
    let number = number.to_string();
    let addressed = Addressed { fields: leg.posted().clone(), leg: Some(leg) };
    let mut said = post(backend, leg.place(), errand, &addressed, errand.message(&number)).await?;
    if said.status.is_client_error() {
        said.outcome = said.refusal.as_ref().and_then(|refusal| refusal.answer(&number, true));
        return Ok(said);
    }
    while said.outcome.is_none() {
        said.outcome = ear.answer(Patience::default()).await?.answer(&number, false);
    }
    Ok(said)
}
