//! One message at an endpoint that speaks for its servers, and what every answer to it needs.

use super::answering::Answering;
use super::sessions::Session;
use crate::authorize::FailedLookups;
use crate::backend::forward::{Failure, Inbound};
use crate::backend::headers::Upward;
use crate::backend::upstream_call::Place;
use crate::catalog::{Offering, Seeker, Shows};
use crate::frontend::context::{Active, Gateway, MessageSnapshot};
use crate::frontend::session::End;
use crate::identify::{Guest, Standing};
use crate::record::long_texts;
use crate::reply::{self, Refused};
use crate::sealing::CallerKey;
use crate::shares::Owner;
use portunus_config::{Choice, Member, NamePolicy, Upstream, VirtualServer};
use portunus_filters::catalog::{Catalog, ListKind};
use portunus_filters::mcp::bridge::{Parts, Profile};
use portunus_filters::mcp::object::Object;
use portunus_filters::{Arrival, Denial, Era, Identity, LongTexts, Message, Moment, Reason, Released};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// One message, where it came from, and the virtual server it is for.
pub struct Desk<'a> {
    /// The process.
    pub gateway: &'a Arc<Gateway>,
    /// The snapshot by which it is judged until its request is sent.
    pub snapshot: MessageSnapshot,
    /// The virtual server in that snapshot.
    pub server: Arc<VirtualServer>,
    /// Who sent it, and when.
    pub arrival: &'a Arrival,
    /// The HTTP request that it came with.
    pub inbound: Inbound<'a>,
    /// Who is at the other end of its connection.
    pub guest: &'a Guest,
    /// The caller, as pools and caches tell it from others.
    pub caller: CallerKey,
    /// The caller, as sealed handles are bound to it.
    pub bearer: CallerKey,
    /// What its streams depend on; `None` where nobody was asked who calls.
    pub standing: Option<Arc<Standing>>,
    /// The client's headers that go up, as it sent them: what it is told from others by.
    pub said: Arc<Upward>,
    /// The same as servers may have them by the snapshot of the message.
    pub upward: Arc<Upward>,
    /// The serial number of that.
    pub serial: u64,
    /// How long the client may take for one piece of an answer.
    pub write_timeout: Duration,
    /// Another replica sent the message here.
    pub relayed: bool,
    /// The client can be answered by an event stream.
    pub takes_events: bool,
    /// What the client's software calls itself, where policy asks for it.
    pub software: OnceLock<Arc<str>>,
    /// The names that the message looked up in vain.
    pub failed_lookups: FailedLookups,
    /// Texts for its client that are too long to be read; `None` where no filter is on.
    pub long_texts: Option<Arc<LongTexts>>,
    /// What lists are looked up by, once some were.
    pub seeker: OnceLock<Arc<Seeker>>,
    /// The era that the client speaks.
    pub era: Era,
}

impl<'a> Desk<'a> {
    /// The snapshot that decides on this message, or on what comes of it.
    pub fn active(&self) -> Arc<Active> {
        self.snapshot.active(self.gateway)
    }

    /// The desk of a part of the message, which lets the snapshot go by itself.
    pub(super) fn of_part(&self) -> Desk<'a> {
        Desk {
            gateway: self.gateway,
            snapshot: self.snapshot.share(),
            server: Arc::clone(&self.server),
            arrival: self.arrival,
            inbound: self.inbound.clone(),
            guest: self.guest,
            caller: self.caller,
            bearer: self.bearer,
            standing: self.standing.clone(),
            said: Arc::clone(&self.said),
            upward: Arc::clone(&self.upward),
            serial: self.serial,
            write_timeout: self.write_timeout,
            relayed: self.relayed,
            takes_events: self.takes_events,
            software: self.software.clone(),
            failed_lookups: FailedLookups::default(),
            long_texts: self.long_texts.as_ref().map(|_| long_texts(&self.gateway.metrics, &self.server)),
            seeker: self.seeker.clone(),
            era: self.era,
        }
    }
}

impl Desk<'_> {
    /// The place of an upstream for this caller.
    ///
    /// # Errors
    /// [`Reason::RouteRemoved`] if a new configuration no longer has it; what a filter refuses of the client's headers.
    pub fn place(
        &self,
        active: &Active,
        upstream: &Arc<Upstream>,
        profile: &Arc<Profile>,
    ) -> Result<Place, Denial> {
        let pool = active.pool(upstream);
        let pool =
            pool.ok_or_else(|| Denial::new(Reason::RouteRemoved, "this server is no longer served"))?;
        Ok(Place {
            upstream: Arc::clone(upstream),
            pool,
            server: self.server.id.clone(),
            caller: self.caller,
            owner: self.owner(),
            profile: Arc::clone(profile),
            // A stream outlives the snapshot that it was opened by.
            headers: match active.snapshot.serial == self.serial {
                true => Arc::clone(&self.upward),
                false => self.guest.permitted_headers(&self.said, active)?,
            },
        })
    }

    /// Whose share the message takes of what callers hold together.
    pub fn owner(&self) -> Owner {
        self.arrival.owner()
    }

    /// The caller's tenant, if it is known.
    pub fn tenant(&self) -> Option<&str> {
        match &self.arrival.identity {
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
        for member in &self.server.members {
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
        self.permitted(self.guest.introduced(fields)?)
    }

    /// A client's description of itself, as servers may have it.
    ///
    /// # Errors
    /// What a filter refuses.
    pub(super) fn permitted(&self, profile: Arc<Profile>) -> Result<Arc<Profile>, Denial> {
        self.guest.permitted_profile(&profile, &self.active())
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
    /// As [`Desk::place`].
    pub fn places(&self, profile: &Arc<Profile>) -> Result<Vec<(Arc<str>, Place)>, Denial> {
        let active = self.active();
        let mut places = Vec::new();
        for member in &self.server.members {
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
    pub async fn lists(&self, profile: &Arc<Profile>, kinds: &[ListKind]) -> Result<Arc<Offering>, Denial> {
        let catalogs = &self.gateway.estate.catalogs;
        let offering = catalogs.show(&self.gateway.backend, &self.server, &self.seeker(profile), kinds).await;
        self.known(&offering, kinds)?;
        Ok(offering)
    }

    /// What the servers offer of these kinds, good enough to find the way of what came `at` a time.
    ///
    /// # Errors
    /// As [`Desk::lists`].
    pub async fn catalog(
        &self,
        profile: &Arc<Profile>,
        kinds: &[ListKind],
        at: Moment,
    ) -> Result<Arc<Catalog>, Denial> {
        let catalogs = &self.gateway.estate.catalogs;
        let wanted = (&*self.seeker(profile), at);
        let offering = catalogs.route(&self.gateway.backend, &self.server, wanted, kinds).await;
        self.known(&offering, kinds)?;
        Ok(Arc::clone(&offering.catalog))
    }

    /// Refuses an offering of which nothing is known.
    fn known(&self, offering: &Offering, kinds: &[ListKind]) -> Result<(), Denial> {
        let told = |member| self.tells_of(member);
        let unknown = kinds.iter().find_map(|kind| offering.failure(*kind, &told));
        match unknown.or_else(|| offering.silence(&told)) {
            Some(failure) => Err(self.of_no_server(failure.denial.clone())),
            None => Ok(()),
        }
    }

    /// Why nothing is known of any server. Where none of them speaks the client's era, a client that
    /// speaks both has to be told so that it goes on in the other.
    fn of_no_server(&self, denial: Denial) -> Denial {
        let detail = "no server behind this endpoint speaks this era, and it does not translate";
        match (denial.reason, self.era) {
            (Reason::EraMismatch, Era::Modern) => Denial::new(Reason::UnknownMethod, detail),
            (Reason::EraMismatch, Era::Legacy) => Denial::new(Reason::UnsupportedVersion, detail),
            _ => denial,
        }
    }

    /// Whether a server that speaks `era` may serve the client.
    pub fn may_serve(&self, era: Era) -> bool {
        self.server.bridge || era == self.era
    }

    /// Refuses a server of another era than the client's where the endpoint does not translate.
    ///
    /// # Errors
    /// [`Reason::EraMismatch`]; why the server's era is not known.
    pub async fn check_era(&self, place: &Place) -> Result<(), Failure> {
        if self.server.bridge {
            return Ok(());
        }
        let era = self.gateway.backend.eras.choose(&self.gateway.backend, place, self.era).await?;
        match self.may_serve(era) {
            true => Ok(()),
            false => {
                let detail = "the server does not speak this era, and this endpoint does not translate";
                Err(Denial::new(Reason::EraMismatch, detail).into())
            }
        }
    }

    /// What lists are looked up by.
    pub(super) fn seeker(&self, profile: &Arc<Profile>) -> Arc<Seeker> {
        let seeker = self.seeker.get_or_init(|| Arc::new(self.seeker_of(profile)));
        match Arc::ptr_eq(&seeker.profile, profile) {
            true => Arc::clone(seeker),
            // The messages of one client need not be of one mind about it.
            false => Arc::new(self.seeker_of(profile)),
        }
    }

    fn seeker_of(&self, profile: &Arc<Profile>) -> Seeker {
        Seeker {
            caller: self.caller,
            owner: self.owner(),
            tenant: self.tenant().map(Arc::from),
            profile: Arc::clone(profile),
            headers: Arc::clone(&self.upward),
            shows: match self.arrival.identity {
                _ if !self.said.marks().is_empty() => Shows::Upstreams,
                Identity::Anonymous { .. } => Shows::Nothing,
                Identity::Presented { .. } | Identity::Principal(_) => Shows::Gateway,
            },
            only: (!self.server.bridge).then_some(self.era),
        }
    }

    /// The one upstream of an endpoint that renames nothing.
    pub fn only(&self) -> Option<&Arc<Upstream>> {
        let [Member { choice: Choice::Fixed(upstream), .. }] = self.server.members.as_slice() else {
            return None;
        };
        let renames = !self.server.view.is_empty() || self.server.names == NamePolicy::Prefix;
        (!renames).then_some(upstream)
    }

    /// Refuses a request: before anything was sent as an answer of its own, after that as the last
    /// event of the stream.
    pub async fn refuse(&self, denial: Denial, message: &Message, out: &mut Answering<'_>) -> End {
        if !out.begun {
            return End::Refused(denial);
        }
        out.record.note_denial(&denial);
        if let Some(id) = &message.id {
            let event = reply::last_event(&denial, id, message.era, self.inbound.request_id);
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
        let answer = reply::refuse(denial, &refused, self.inbound.request_id);
        Some(String::from_utf8_lossy(&answer.body).into_owned())
    }
}

/// The parameters of a message.
///
/// # Errors
/// [`Reason::InvalidParams`] if it has none, or they cannot be read.
pub(super) fn params(message: &Message) -> Result<Object<'_>, Denial> {
    let unreadable = || Denial::new(Reason::InvalidParams, "`params` must be an object");
    let Some(outline) = &message.outline else { return Ok(Object::default()) };
    Ok(outline.params(std::str::from_utf8(&message.body).map_err(|_| unreadable())?))
}

/// A request taken apart.
///
/// # Errors
/// [`Reason::InvalidParams`] if it cannot be read.
pub(super) fn parts(message: &Message) -> Result<Parts<'_>, Denial> {
    Parts::known(message.outline.as_deref(), &message.body)
        .map_err(|_| Denial::new(Reason::InvalidParams, "`params` must be an object"))
}

/// How a name that a client sent stands in an error: bounded.
pub(crate) fn shown(name: &str) -> &str {
    name.char_indices().nth(128).map_or(name, |(end, _)| &name[..end])
}
