//! Sends a call to another instance when one cannot be reached: nothing of the request was taken there.

use super::modern::ModernOptions;
use super::{CallParts, CallRequest, CallState, SessionChoice, UpstreamCall, UpstreamTarget};
use crate::backend::Backend;
use crate::backend::forward::{Failure, FailureScope};
use crate::backend::upstreams::instances::InstanceLease;
use portunus_filters::Era;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

/// Instances that are tried after the first.
const MAX_FAILOVERS: usize = 3;

type Reopened = (Box<CallParts>, CallState, Option<InstanceLease>);
type Reopening = Pin<Box<dyn Future<Output = Result<Reopened, Failure>> + Send>>;

/// The state of failovers of an upstream call to other instances.
pub(super) struct Failover {
    /// The upstream with all its places.
    whole: UpstreamTarget,
    era: Era,
    options: ModernOptions,
    attempts: usize,
    reopening: Option<Reopening>,
}

/// Assigns a request to an instance: that of its session, or one that is chosen.
pub(super) fn assign_instance(
    backend: &Arc<Backend>,
    request: &mut CallRequest<'_>,
) -> Option<InstanceLease> {
    if request.place.upstream.replicas.is_empty() {
        return None;
    }
    match request.upstream_session {
        SessionChoice::Own(upstream_session, _) => {
            request.place.upstream = Arc::clone(&upstream_session.place().upstream);
            request.place.pool = Arc::clone(&upstream_session.place().pool);
            backend.instances.lease(request.place.upstream.key)
        }
        SessionChoice::Pooled => {
            let (place, instance) = backend.settle(request.place.clone());
            request.place = place;
            instance
        }
    }
}

impl Failover {
    /// That of a request which any instance may get.
    pub(super) fn of(request: &CallRequest<'_>, era: Era, options: &ModernOptions) -> Option<Box<Failover>> {
        let tied = matches!(request.upstream_session, SessionChoice::Own(..))
            || request.place.upstream.replicas.is_empty();
        let failover = || Failover {
            whole: request.place.clone(),
            era,
            options: options.clone(),
            attempts: 0,
            reopening: None,
        };
        (!tied).then(|| Box::new(failover()))
    }

    /// Opens the call at other instances than that of `instance`, until one is reached.
    pub(super) async fn reopen(
        &mut self,
        call: Box<CallParts>,
        instance: InstanceLease,
        failure: &Failure,
    ) -> Result<Reopened, Failure> {
        let (whole, options) = (self.whole.clone(), self.options.clone());
        reopen_elsewhere(
            FailoverAttempt { whole, options, era: self.era, attempts: &mut self.attempts },
            call,
            instance,
            failure.clone(),
        )
        .await
    }
}

struct FailoverAttempt<'a> {
    whole: UpstreamTarget,
    options: ModernOptions,
    era: Era,
    attempts: &'a mut usize,
}

async fn reopen_elsewhere(
    attempt: FailoverAttempt<'_>,
    mut call: Box<CallParts>,
    mut instance: InstanceLease,
    mut failure: Failure,
) -> Result<Reopened, Failure> {
    let backend = Arc::clone(&call.backend);
    loop {
        let now = backend.clock.now().monotonic;
        instance.judge(Some(&failure), now);
        if *attempt.attempts >= MAX_FAILOVERS || failure.scope != FailureScope::Unreached {
            return Err(failure);
        }
        *attempt.attempts += 1;
        let holds = |place: &UpstreamTarget| backend.session_pools.holds(place);
        let instances = &backend.instances;
        let (place, next) = instances.settle_beside(attempt.whole.clone(), now, holds, Some(&instance));
        let Some(next) = next else { return Err(failure) };
        tracing::debug!(upstream = &*place.upstream.name, "a request goes to another replica");
        call.place = place;
        match CallState::open((&call, &call.parts()?), attempt.era, SessionChoice::Pooled, &attempt.options)
            .await
        {
            Ok(state) => return Ok((call, state, Some(next))),
            Err(again) => (instance, failure) = (next, again),
        }
    }
}

impl UpstreamCall {
    /// Begins a failover, if there is an instance left.
    pub(super) fn start_failover(&mut self, failure: &Failure) -> bool {
        let Some(failover) = &mut self.failover else { return false };
        let Some(instance) = self.instance.take_if(|_| failover.attempts < MAX_FAILOVERS) else {
            return false;
        };
        let (whole, options, era) = (failover.whole.clone(), failover.options.clone(), failover.era);
        let (call, failure, mut attempts) = (self.call.clone(), failure.clone(), failover.attempts);
        failover.attempts += 1;
        failover.reopening = Some(Box::pin(async move {
            reopen_elsewhere(
                FailoverAttempt { whole, options, era, attempts: &mut attempts },
                call,
                instance,
                failure,
            )
            .await
        }));
        true
    }

    /// Whether a failover is under way.
    pub(super) fn is_failing_over(&self) -> bool {
        self.failover.as_ref().is_some_and(|failover| failover.reopening.is_some())
    }

    /// Waits for the failover under way; gives the failure if it failed. Safe to cancel.
    pub(super) async fn finish_failover(&mut self) -> Option<Failure> {
        let reopening = self.failover.as_mut()?.reopening.as_mut()?;
        let reopened = reopening.await;
        if let Some(failover) = &mut self.failover {
            failover.reopening = None;
        }
        match reopened {
            Ok((call, state, instance)) => {
                (self.call, self.state, self.instance) = (call, state, instance);
                None
            }
            Err(failure) => Some(failure),
        }
    }
}
