//! Permits calls: judges and admits them, and waits for the turn of those that a limit has wait.

use super::call::RoutedCall;
use super::responder::Responder;
use super::served_call::ServedCall;
use crate::authorize::{CallTerms, RequestAdmission, RoutedRequest};
use crate::backend::forward::{AuthorizedCall, Dispatch};
use crate::drain::Phase;
use crate::identify::ended;
use crate::reply::{caller_lost, draining};
use portunus_config::Upstream;
use portunus_filters::mcp::bridge::Profile;
use portunus_filters::{Admitted, Cleared, Denial, Message, Reason, Turns};
use std::pin::pin;
use std::sync::Arc;
use tokio::time::{Instant, sleep_until};

impl ServedCall<'_> {
    /// The permission for a call once its turn has come, and what it goes on under.
    ///
    /// # Errors
    /// As [`ServedCall::admit_request`] and [`ServedCall::in_turn`].
    pub(super) async fn permit_call(
        &self,
        message: &Message,
        routed: &mut RoutedCall,
        profile: &Arc<Profile>,
        out: &mut Responder<'_>,
    ) -> Result<(Arc<AuthorizedCall>, CallTerms), Denial> {
        let request = RoutedRequest { message, upstream: &routed.upstream, subject: routed.subject.take() };
        let admission = self.admit_request(&request, profile)?;
        out.record.note_decision(admission.admitting.judged());
        let (admitted, terms) = match at_once(admission) {
            Ok(admitted) => admitted,
            Err(waiting) => {
                let again = || self.judge_request_again(&request, profile);
                Box::pin(self.in_turn(waiting, request.upstream, again, out)).await?
            }
        };
        Ok((Arc::new(Dispatch::permit(admitted, message)), terms))
    }

    /// Waits for the turn of a request at its limits: no longer than its client waits, its caller may call and the call may
    /// take. It holds no snapshot while it waits: each configuration that comes meanwhile judges it again.
    ///
    /// # Errors
    /// Why its turn does not come; as `again`.
    pub(super) async fn in_turn(
        &self,
        waiting: Box<WaitingRequest>,
        upstream: &Upstream,
        again: impl Fn() -> Result<(Cleared, CallTerms), Denial>,
        out: &mut Responder<'_>,
    ) -> Result<(Admitted, CallTerms), Denial> {
        let WaitingRequest { mut cleared, turns, mut terms, mut serial } = *waiting;
        let phases = out.phases;
        let mut serials = self.gateway.serials();
        let begun = Instant::now();
        let mut turned = pin!(turns.taken());
        loop {
            let in_force = *serials.borrow_and_update();
            if in_force != serial {
                (cleared, terms) = again()?;
                out.record.note_decision(cleared.judged());
                serial = in_force;
            }
            let timeouts = &upstream.timeouts;
            let own = cleared.judged().and_then(|judged| judged.facts.as_ref()?.timeout);
            let within = own.or(timeouts.total).unwrap_or(timeouts.first_byte);
            tokio::select! {
                biased;
                turned = &mut turned => {
                    let turned = turned?;
                    if *serials.borrow() != serial {
                        (cleared, terms) = again()?;
                        out.record.note_decision(cleared.judged());
                    }
                    return Ok((turned.admit(cleared), terms));
                }
                Ok(()) = serials.changed() => {}
                () = out.gone() => return Err(Denial::new(Reason::RequestTimeout, "the client has left")),
                () = phases.reached(Phase::Expired) => return Err(draining()),
                () = ended(self.context.authorization.as_ref(), self.gateway) => return Err(caller_lost()),
                () = sleep_until(begun + within) => {
                    return Err(Denial::new(Reason::Overloaded, "its turn did not come in time"));
                }
            }
        }
    }
}

/// The permission to open a request and the terms under which it goes on, where no turn is waited for.
///
/// # Errors
/// The request that has to wait.
pub(super) fn at_once(admission: RequestAdmission) -> Result<(Admitted, CallTerms), Box<WaitingRequest>> {
    let RequestAdmission { admitting, terms, serial } = admission;
    match admitting.at_once() {
        Ok(admitted) => Ok((admitted, terms)),
        Err((cleared, turns)) => Err(Box::new(WaitingRequest { cleared, turns, terms, serial })),
    }
}

/// A request that waits for its turn.
pub(super) struct WaitingRequest {
    cleared: Cleared,
    turns: Turns,
    terms: CallTerms,
    /// The configuration that judged it last.
    serial: u64,
}
