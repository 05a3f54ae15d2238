//! Going on at another replica when one cannot be reached: nothing of the request was taken there.

use super::modern::Speech;
use super::{CallParts, CallRequest, CallState, SessionChoice, UpstreamCall, UpstreamTarget};
use crate::backend::Backend;
use crate::backend::forward::{Failure, FailureScope};
use crate::backend::upstreams::replicas::Seat;
use portunus_filters::Era;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

/// Replicas that are tried after the first.
const MAX_MOVES: usize = 3;

type Moved = (Box<CallParts>, CallState, Option<Seat>);
type Moving = Pin<Box<dyn Future<Output = Result<Moved, Failure>> + Send>>;

/// How an upstream call goes to another replica.
pub(super) struct Travel {
    /// The upstream with all its places.
    whole: UpstreamTarget,
    era: Era,
    speech: Speech,
    moves: usize,
    moving: Option<Moving>,
}

/// Puts an order where its call goes: to its session, or to one of the replicas.
pub(super) fn seated(backend: &Arc<Backend>, order: &mut CallRequest<'_>) -> Option<Seat> {
    if order.place.upstream.replicas.is_empty() {
        return None;
    }
    match order.upstream_session {
        SessionChoice::Own(upstream_session, _) => {
            order.place.upstream = Arc::clone(&upstream_session.place().upstream);
            order.place.pool = Arc::clone(&upstream_session.place().pool);
            backend.replicas.seat(order.place.upstream.key)
        }
        SessionChoice::Pooled => {
            let (place, seat) = backend.settle(order.place.clone());
            order.place = place;
            seat
        }
    }
}

impl Travel {
    /// That of a request which any replica may get.
    pub(super) fn of(order: &CallRequest<'_>, era: Era, speech: &Speech) -> Option<Box<Travel>> {
        let tied = matches!(order.upstream_session, SessionChoice::Own(..))
            || order.place.upstream.replicas.is_empty();
        let travel =
            || Travel { whole: order.place.clone(), era, speech: speech.clone(), moves: 0, moving: None };
        (!tied).then(|| Box::new(travel()))
    }

    /// Goes to another replica than that of `seat`, until one is reached.
    pub(super) async fn on(
        &mut self,
        common: Box<CallParts>,
        seat: Seat,
        failure: &Failure,
    ) -> Result<Moved, Failure> {
        let (whole, speech) = (self.whole.clone(), self.speech.clone());
        relocated(
            Trip { whole, speech, era: self.era, moves: &mut self.moves },
            common,
            seat,
            failure.clone(),
        )
        .await
    }
}

struct Trip<'a> {
    whole: UpstreamTarget,
    speech: Speech,
    era: Era,
    moves: &'a mut usize,
}

async fn relocated(
    trip: Trip<'_>,
    mut common: Box<CallParts>,
    mut seat: Seat,
    mut failure: Failure,
) -> Result<Moved, Failure> {
    let backend = Arc::clone(&common.backend);
    loop {
        let now = backend.clock.now().monotonic;
        seat.judge(Some(&failure), now);
        if *trip.moves >= MAX_MOVES || failure.reach != FailureScope::Unreached {
            return Err(failure);
        }
        *trip.moves += 1;
        let holds = |place: &UpstreamTarget| backend.session_pools.holds(place);
        let replicas = &backend.replicas;
        let (place, next) = replicas.settle_beside(trip.whole.clone(), now, holds, Some(&seat));
        let Some(next) = next else { return Err(failure) };
        tracing::debug!(upstream = &*place.upstream.name, "a request goes to another replica");
        common.place = place;
        match CallState::open((&common, &common.parts()?), trip.era, SessionChoice::Pooled, &trip.speech)
            .await
        {
            Ok(way) => return Ok((common, way, Some(next))),
            Err(again) => (seat, failure) = (next, again),
        }
    }
}

impl UpstreamCall {
    /// Sets out for another replica, if there is one to go to.
    pub(super) fn travels(&mut self, failure: &Failure) -> bool {
        let Some(travel) = &mut self.travel else { return false };
        let Some(seat) = self.seat.take_if(|_| travel.moves < MAX_MOVES) else { return false };
        let (whole, speech, era) = (travel.whole.clone(), travel.speech.clone(), travel.era);
        let (common, failure, mut moves) = (self.common.clone(), failure.clone(), travel.moves);
        travel.moves += 1;
        travel.moving = Some(Box::pin(async move {
            relocated(Trip { whole, speech, era, moves: &mut moves }, common, seat, failure).await
        }));
        true
    }

    /// Whether it has set out for another replica.
    pub(super) fn is_travelling(&self) -> bool {
        self.travel.as_ref().is_some_and(|travel| travel.moving.is_some())
    }

    /// Arrives where it has set out for; the failure if it did not get there. Safe to cancel.
    pub(super) async fn travelled(&mut self) -> Option<Failure> {
        let moving = self.travel.as_mut()?.moving.as_mut()?;
        let moved = moving.await;
        if let Some(travel) = &mut self.travel {
            travel.moving = None;
        }
        match moved {
            Ok((common, way, seat)) => {
                (self.common, self.way, self.seat) = (common, way, seat);
                None
            }
            Err(failure) => Some(failure),
        }
    }
}
