//! Serves one message at an endpoint that speaks for its servers: what it is served with, and the permission for its call,
//! once the turn of that has come.

use super::call::RoutedCall;
use super::responder::Responder;
use super::sessions::Session;
use crate::authorize::{CallTerms, RequestAdmission, RoutedRequest};
use crate::backend::forward::{AuthorizedCall, Dispatch, Failure};
use crate::backend::upstream_call::UpstreamTarget;
use crate::catalog::{Audience, MergedCatalog, Shows};
use crate::drain::Phase;
use crate::frontend::call_context::CallContext;
use crate::frontend::context::{Active, Gateway};
use crate::frontend::session::End;
use crate::identify::ended;
use crate::reply::{self, Refused, caller_lost, draining};
use crate::shares::Owner;
use portunus_config::{Choice, Member, NamePolicy, Upstream};
use portunus_filters::catalog::{Catalog, ListKind};
use portunus_filters::mcp::bridge::{Parts, Profile};
use portunus_filters::mcp::object::Object;
use portunus_filters::{Admitted, Cleared, Denial, Era, Identity, Message, Moment, Reason, Released, Turns};
use std::pin::pin;
use std::sync::Arc;
use tokio::time::{Instant, sleep_until};

/// One message that is served here, with the services that serve it.
#[derive(Clone, Copy)]
pub struct ServedCall<'a> {
    /// The services of the process.
    pub gateway: &'a Arc<Gateway>,
    /// The context of the message.
    pub context: &'a CallContext,
}

/// A request that waits for its turn.
pub(super) struct WaitingRequest {
    cleared: Cleared,
    turns: Turns,
    terms: CallTerms,
    /// The configuration that judged it last.
    serial: u64,
}

impl ServedCall<'_> {
    /// The snapshot that decides on this message, or on what comes of it.
    pub fn active(&self) -> Arc<Active> {
        self.context.snapshot.active(self.gateway)
    }

    /// The place of an upstream for this caller.
    ///
    /// # Errors
    /// [`Reason::RouteRemoved`] if a new configuration no longer has it; what a filter refuses of the client's headers.
    pub fn place(
        &self,
        active: &Active,
        upstream: &Arc<Upstream>,
        profile: &Arc<Profile>,
    ) -> Result<UpstreamTarget, Denial> {
        let pool = active.pool(upstream);
        let pool =
            pool.ok_or_else(|| Denial::new(Reason::RouteRemoved, "this server is no longer served"))?;
        Ok(UpstreamTarget {
            upstream: Arc::clone(upstream),
            pool,
            server: self.context.server.id.clone(),
            caller: self.context.caller,
            owner: self.owner(),
            profile: Arc::clone(profile),
            // A stream outlives the snapshot that it was opened by.
            headers: match active.snapshot.serial == self.context.serial {
                true => Arc::clone(&self.context.client_headers),
                false => {
                    self.context.connection_state.permitted_headers(&self.context.sent_headers, active)?
                }
            },
        })
    }

    /// Whose share the message takes of what callers hold together.
    pub fn owner(&self) -> Owner {
        self.context.origin.arrival.owner()
    }

    /// The caller's tenant, if it is known.
    pub fn tenant(&self) -> Option<&str> {
        match &self.context.origin.arrival.identity {
            Identity::Principal(principal) => Some(&principal.tenant),
            Identity::Anonymous { .. } | Identity::Presented { .. } => None,
        }
    }

    /// The upstream of a member for this caller, where no argument selects another.
    pub fn chosen<'m>(&self, member: &'m Member) -> Option<&'m Arc<Upstream>> {
        member.choice.for_tenant(self.tenant())
    }

    /// Every upstream that may serve this caller; of twins all.
    pub fn upstreams(&self) -> Vec<&Arc<Upstream>> {
        let mut all = Vec::new();
        for member in &self.context.server.members {
            match &member.choice {
                Choice::Twins { map, .. } => all.extend(map.values()),
                Choice::Fixed(_) | Choice::ByTenant { .. } => all.extend(self.chosen(member)),
            }
        }
        all
    }

    /// The description of its client in a modern request with these parameters, as servers may have it.
    ///
    /// # Errors
    /// As [`Profile::of_envelope`]; what a filter refuses.
    pub(super) fn introduced(&self, fields: &Object<'_>) -> Result<Arc<Profile>, Denial> {
        self.permitted(self.context.connection_state.introduced(fields)?)
    }

    /// A client's description of itself, as servers may have it.
    ///
    /// # Errors
    /// What a filter refuses.
    pub(super) fn permitted(&self, profile: Arc<Profile>) -> Result<Arc<Profile>, Denial> {
        self.context.connection_state.permitted_profile(&profile, &self.active())
    }

    /// The description that the client of a session gave of itself, as servers may have it now: the session may be older than
    /// the filters in force.
    ///
    /// # Errors
    /// What a filter refuses.
    pub fn profile_of(&self, session: &Session) -> Result<Arc<Profile>, Denial> {
        self.permitted(Arc::clone(&session.profile))
    }

    /// The places of all upstreams, with the names of their members.
    ///
    /// # Errors
    /// As [`ServedCall::place`].
    pub fn places(&self, profile: &Arc<Profile>) -> Result<Vec<(Arc<str>, UpstreamTarget)>, Denial> {
        let active = self.active();
        let mut places = Vec::new();
        for member in &self.context.server.members {
            for upstream in member.choice.upstreams() {
                if self.upstreams().iter().any(|own| own.name == upstream.name) {
                    places.push((Arc::clone(&member.name), self.place(&active, upstream, profile)?));
                }
            }
        }
        Ok(places)
    }

    /// What the servers offer of these kinds, good enough to be shown; without any, what they say of
    /// themselves.
    ///
    /// # Errors
    /// Why none of them could be asked.
    pub async fn lists(
        &self,
        profile: &Arc<Profile>,
        kinds: &[ListKind],
    ) -> Result<Arc<MergedCatalog>, Denial> {
        let catalogs = &self.gateway.estate.catalogs;
        let merged =
            catalogs.show(&self.gateway.backend, &self.context.server, &self.audience(profile), kinds).await;
        self.known(&merged, kinds)?;
        Ok(merged)
    }

    /// What the servers offer of these kinds, good enough to find the way of what came `at` a time.
    ///
    /// # Errors
    /// As [`ServedCall::lists`].
    pub async fn catalog(
        &self,
        profile: &Arc<Profile>,
        kinds: &[ListKind],
        at: Moment,
    ) -> Result<Arc<Catalog>, Denial> {
        let catalogs = &self.gateway.estate.catalogs;
        let wanted = (&*self.audience(profile), at);
        let merged = catalogs.route(&self.gateway.backend, &self.context.server, wanted, kinds).await;
        self.known(&merged, kinds)?;
        Ok(Arc::clone(&merged.catalog))
    }

    /// Refuses an offering of which nothing is known.
    fn known(&self, merged: &MergedCatalog, kinds: &[ListKind]) -> Result<(), Denial> {
        let told = |member| self.tells_of(member);
        let unknown = kinds.iter().find_map(|kind| merged.failure(*kind, &told));
        match unknown.or_else(|| merged.silence(&told)) {
            Some(failure) => Err(self.of_no_server(failure.denial.clone())),
            None => Ok(()),
        }
    }

    /// Why nothing is known of any server. Where none of them speaks the client's era, a client that
    /// speaks both has to be told so that it goes on in the other.
    fn of_no_server(&self, denial: Denial) -> Denial {
        let detail = "no server behind this endpoint speaks this era, and it does not translate";
        match (denial.reason, self.context.era) {
            (Reason::EraMismatch, Era::Modern) => Denial::new(Reason::UnknownMethod, detail),
            (Reason::EraMismatch, Era::Legacy) => Denial::new(Reason::UnsupportedVersion, detail),
            _ => denial,
        }
    }

    /// Whether a server that speaks `era` may serve the client.
    pub fn may_serve(&self, era: Era) -> bool {
        self.context.server.bridge || era == self.context.era
    }

    /// Refuses a server of another era than the client's where the endpoint does not translate.
    ///
    /// # Errors
    /// [`Reason::EraMismatch`]; why the server's era is not known.
    pub async fn check_era(&self, place: &UpstreamTarget) -> Result<(), Failure> {
        if self.context.server.bridge {
            return Ok(());
        }
        let era = self.gateway.backend.eras.choose(&self.gateway.backend, place, self.context.era).await?;
        match self.may_serve(era) {
            true => Ok(()),
            false => {
                let detail = "the server does not speak this era, and this endpoint does not translate";
                Err(Denial::new(Reason::EraMismatch, detail).into())
            }
        }
    }

    /// What lists are looked up by.
    pub(super) fn audience(&self, profile: &Arc<Profile>) -> Arc<Audience> {
        let audience = self.context.audience.get_or_init(|| Arc::new(self.audience_of(profile)));
        match Arc::ptr_eq(&audience.profile, profile) {
            true => Arc::clone(audience),
            // The messages of one client need not be of one mind about it.
            false => Arc::new(self.audience_of(profile)),
        }
    }

    fn audience_of(&self, profile: &Arc<Profile>) -> Audience {
        Audience {
            caller: self.context.caller,
            owner: self.owner(),
            tenant: self.tenant().map(Arc::from),
            profile: Arc::clone(profile),
            headers: Arc::clone(&self.context.client_headers),
            shows: match self.context.origin.arrival.identity {
                _ if !self.context.sent_headers.caller_marks().is_empty() => Shows::Upstreams,
                Identity::Anonymous { .. } => Shows::Nothing,
                Identity::Presented { .. } | Identity::Principal(_) => Shows::Gateway,
            },
            only: (!self.context.server.bridge).then_some(self.context.era),
        }
    }

    /// The one upstream of an endpoint that renames nothing.
    pub fn only(&self) -> Option<&Arc<Upstream>> {
        let [Member { choice: Choice::Fixed(upstream), .. }] = self.context.server.members.as_slice() else {
            return None;
        };
        let renames = !self.context.server.view.is_empty() || self.context.server.names == NamePolicy::Prefix;
        (!renames).then_some(upstream)
    }

    /// Refuses a request: before anything was sent as an answer of its own, after that as the last
    /// event of the stream.
    pub async fn refuse(&self, denial: Denial, message: &Message, out: &mut Responder<'_>) -> End {
        if !out.begun {
            return End::Refused(denial);
        }
        out.record.note_denial(&denial);
        if let Some(id) = &message.id {
            let event = reply::last_event(&denial, id, message.era, &self.context.origin.arrival.request_id);
            if out.write_event(Released::own(event)).await.is_err() {
                return End::Broken;
            }
        }
        out.end().await
    }

    /// The answer to a request that is refused, where no status can be told; `None` to what is none.
    pub fn refusal(&self, denial: &Denial, message: &Message) -> Option<String> {
        let id = message.id.as_ref()?;
        let refused = Refused {
            kind: Some(message.kind),
            era: Some(message.era),
            ids: std::slice::from_ref(id),
            method: message.method.as_ref(),
            ..Refused::default()
        };
        let answer = reply::refuse(denial, &refused, &self.context.origin.arrival.request_id);
        Some(String::from_utf8_lossy(&answer.body).into_owned())
    }
}

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
        out.record.note_decision(admission.admitting.decision_record());
        let (admitted, terms) = match at_once(admission) {
            Ok(admitted) => admitted,
            Err(waiting) => {
                let again = || self.judge_request_again(&request, profile);
                Box::pin(self.in_turn(waiting, request.upstream, again, out)).await?
            }
        };
        out.record.note_holds(admitted.holds());
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
                out.record.note_decision(cleared.decision_record());
                serial = in_force;
            }
            let timeouts = &upstream.timeouts;
            let own =
                cleared.decision_record().and_then(|decision_record| decision_record.facts.as_ref()?.timeout);
            let within = own.or(timeouts.total).unwrap_or(timeouts.first_byte);
            tokio::select! {
                biased;
                turned = &mut turned => {
                    let turned = turned?;
                    if *serials.borrow() != serial {
                        (cleared, terms) = again()?;
                        out.record.note_decision(cleared.decision_record());
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

/// The parameters of a message.
///
/// # Errors
/// [`Reason::InvalidParams`] if it has none, or they cannot be read.
pub(super) fn params(message: &Message) -> Result<Object<'_>, Denial> {
    let unreadable = || Denial::new(Reason::InvalidParams, "`params` must be an object");
    let Some(message_index) = &message.message_index else { return Ok(Object::default()) };
    Ok(message_index.params(std::str::from_utf8(&message.body).map_err(|_| unreadable())?))
}

/// A request taken apart.
///
/// # Errors
/// [`Reason::InvalidParams`] if it cannot be read.
pub(super) fn parts(message: &Message) -> Result<Parts<'_>, Denial> {
    Parts::known(message.message_index.as_deref(), &message.body)
        .map_err(|_| Denial::new(Reason::InvalidParams, "`params` must be an object"))
}

/// How a name that a client sent stands in an error: bounded.
pub(crate) fn shown(name: &str) -> &str {
    name.char_indices().nth(128).map_or(name, |(end, _)| &name[..end])
}
