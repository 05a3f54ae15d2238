//! Listening at the servers of somebody who listens here, for as long as somebody does: one that is lost
//! or restarts is found again.
//!
//! A legacy server is heard on the stream of a session with it; if that is lost, another session takes its
//! place. A modern one is listened to.
//!
//! What is wanted of a server changes when a client subscribes to a resource or leaves one: then it is
//! listened to anew, and the former stream goes on until the server has acknowledged the new one and a
//! moment longer, for what is still on its way. A change may be told twice then, and is never lost.

use super::founding;
use super::hub::{self, LISTS};
use super::served_call::ServedCall;
use super::sessions::{Session, Word};
use super::stream_holds::StreamHolds;
use crate::authorize::ResponsePipeline;
use crate::backend::forward::Failure;
use crate::backend::gateway_requests::{self, Listening};
use crate::backend::headers::ClientHeaders;
use crate::backend::upstream_call::UpstreamTarget;
use crate::backend::upstream_sessions::{LeaseOptions, SessionLease};
use crate::frontend::context::{Active, Gateway};
use portunus_config::{Upstream, UpstreamKey};
use portunus_filters::mcp::Envelope;
use portunus_filters::mcp::bridge::{Filter, Profile};
use portunus_filters::{Denial, Era, Kind, Message, Reason};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, sleep_until};

/// Between attempts to listen again, doubled each time.
const BACK_OFF: Duration = Duration::from_millis(500);
const MAX_BACK_OFF: Duration = Duration::from_secs(30);

/// A server that has begun to tell is taken to have acknowledged after this.
const ACKNOWLEDGED_WITHIN: Duration = Duration::from_secs(5);

/// How long a stream goes on after the one that takes its place was acknowledged.
const LINGERS: Duration = Duration::from_millis(250);

/// What a session hears of the modern servers behind it.
pub(super) struct Following {
    words: mpsc::Sender<Word>,
    responses: Arc<ResponsePipeline>,
    followed: HashMap<UpstreamKey, Followed>,
}

/// One server that is listened to.
struct Followed {
    filter: Filter,
    newest: Task,
    handoff: Arc<StreamHandoff>,
    /// The holds of the stream at the server, whichever of its tasks carries it, until none does.
    holds: StreamHolds,
}

/// The handoff from one stream of a server to the next, until the newest is acknowledged.
#[derive(Default)]
struct StreamHandoff(Mutex<HandoffState>);

#[derive(Default)]
struct HandoffState {
    /// Number of the newest stream.
    newest: u64,
    acknowledged: bool,
    former: Option<Task>,
}

/// A task that ends when nobody wants it.
struct Task(AbortHandle);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Following {
    /// Listens to the modern servers of a session, for what its client wants to hear.
    pub(super) fn of(
        served: &ServedCall<'_>,
        session: &Arc<Session>,
        responses: Arc<ResponsePipeline>,
        words: mpsc::Sender<Word>,
    ) -> Following {
        let mut following = Following { words, responses, followed: HashMap::new() };
        following.renew(served, session);
        following
    }

    /// Listens to what the session's client wants to hear by now. Must be called within a runtime.
    pub(super) fn renew(&mut self, served: &ServedCall<'_>, session: &Arc<Session>) {
        let active = served.gateway.active();
        let mut former = std::mem::take(&mut self.followed);
        // Nobody listens in the name of a client that may not say what it said of itself.
        let Ok(profile) = served.profile_of(session) else { return };
        for upstream in served.upstreams() {
            let Ok(place) = served.place(&active, upstream, &profile) else { continue };
            let has_upstream_session = session.upstream_session(&upstream.key).is_some();
            if has_upstream_session || !self.responses.is_told_of(served.gateway, &upstream.name) {
                continue;
            }
            let mut uris = session.uris_at(&upstream.name);
            uris.sort_unstable();
            let filter = Filter { tools: true, prompts: true, resources: true, uris };
            let followed = match former.remove(&upstream.key) {
                Some(followed) if followed.filter == filter && !followed.is_over() => followed,
                followed => match self.begin((served, session, &active), place, filter, followed) {
                    Ok(followed) => followed,
                    Err(denial) => {
                        let reason = denial.reason.as_str();
                        tracing::debug!(upstream = &*upstream.name, reason, "not listened to");
                        continue;
                    }
                },
            };
            self.followed.insert(upstream.key, followed);
        }
    }

    fn begin(
        &self,
        (served, session, active): (&ServedCall<'_>, &Arc<Session>, &Active),
        place: UpstreamTarget,
        filter: Filter,
        former: Option<Followed>,
    ) -> Result<Followed, Denial> {
        let (handoff, number, holds) = match former {
            Some(former) => former.give_way(),
            None => {
                let opening = Message::bodiless(Kind::Stream, Some(session.version));
                let holds = served.admit_stream(&opening, &place.upstream.name)?;
                (Arc::default(), 0, StreamHolds::new(holds))
            }
        };
        let relieved = {
            let handoff = Arc::clone(&handoff);
            move || handoff.acknowledged(number)
        };
        let listener = Listener {
            gateway: Arc::clone(served.gateway),
            place,
            words: self.words.clone(),
            responses: Arc::clone(&self.responses),
            acknowledged: Box::new(relieved),
            client: Client::Session(Arc::clone(session)),
            translates: served.context.server.bridge,
            holds: holds.clone(),
            serial: active.snapshot.serial,
            sent: (Arc::clone(&session.profile), Arc::clone(&served.context.sent_headers)),
        };
        let newest = Task(tokio::spawn(follow(listener, filter.clone(), None)).abort_handle());
        Ok(Followed { filter, newest, handoff, holds })
    }
}

impl Followed {
    /// Whether it has ended: its server is heard otherwise, or was.
    fn is_over(&self) -> bool {
        self.newest.0.is_finished()
    }

    /// Stays in the place of the next, whose number and holds this gives; at most one stays.
    fn give_way(self) -> (Arc<StreamHandoff>, u64, StreamHolds) {
        let Followed { newest, handoff, holds, .. } = self;
        let mut state = handoff.lock();
        // One that is not acknowledged goes: what is heard is what stood in for it.
        if state.acknowledged || state.former.is_none() {
            state.former = Some(newest);
        }
        state.acknowledged = false;
        state.newest += 1;
        let number = state.newest;
        drop(state);
        (handoff, number, holds)
    }
}

impl StreamHandoff {
    fn lock(&self) -> MutexGuard<'_, HandoffState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that the server tells the stream of this number what it wants.
    fn acknowledged(&self, number: u64) {
        let mut state = self.lock();
        if state.newest != number {
            return;
        }
        state.acknowledged = true;
        if let Some(former) = state.former.take() {
            tokio::spawn(async move {
                sleep(LINGERS).await;
                drop(former);
            });
        }
    }
}

/// Somebody who listens at a server.
pub(super) struct Listener {
    pub(super) gateway: Arc<Gateway>,
    /// For whom and where.
    pub(super) place: UpstreamTarget,
    /// Where goes what is heard.
    pub(super) words: mpsc::Sender<Word>,
    /// What the client may be told.
    pub(super) responses: Arc<ResponsePipeline>,
    /// Called when the server has begun to tell.
    pub(super) acknowledged: Box<dyn Fn() + Send + Sync>,
    /// Who listens.
    pub(super) client: Client,
    /// Whether a server of the other era than the client's may be listened to.
    pub(super) translates: bool,
    /// The holds of the stream at the server.
    pub(super) holds: StreamHolds,
    /// The configuration that the place was made by.
    pub(super) serial: u64,
    /// The description that its client gave of itself, and its headers.
    pub(super) sent: (Arc<Profile>, Arc<ClientHeaders>),
}

/// Who listens at a server.
pub(super) enum Client {
    /// A legacy client, which has a session of its own with each legacy server.
    Session(Arc<Session>),
    /// A modern one, for which a pooled session will do.
    Subscriber,
}

/// A pooled session with a legacy server that somebody listens on, and is subscribed on.
pub(super) struct PooledSubscription {
    upstream_session: SessionLease,
    gateway: Arc<Gateway>,
    uris: Vec<Arc<str>>,
}

impl PooledSubscription {
    /// Begins to listen on one that nobody has lost.
    ///
    /// # Errors
    /// [`Failure`] if there is none; [`Refused`](ListenError::Refused) if the server takes a subscription not.
    pub(super) async fn begin(
        gateway: &Arc<Gateway>,
        place: &UpstreamTarget,
        uris: &[Arc<str>],
    ) -> Result<PooledSubscription, ListenError> {
        let pools = &gateway.backend.session_pools;
        let upstream_session = pools
            .lease(&gateway.backend, place, LeaseOptions::any())
            .await
            .map_err(ListenError::Unreached)?;
        let mut pooled =
            PooledSubscription { upstream_session, gateway: Arc::clone(gateway), uris: Vec::new() };
        for uri in uris {
            pooled.upstream_session.subscribe(&gateway.backend, uri).await.map_err(ListenError::Refused)?;
            pooled.uris.push(Arc::clone(uri));
        }
        Ok(pooled)
    }
}

impl Drop for PooledSubscription {
    fn drop(&mut self) {
        for uri in &self.uris {
            self.upstream_session.unsubscribe(&self.gateway.backend, uri);
        }
    }
}

/// Why nobody listens at a server.
pub(super) enum ListenError {
    /// There is no session with it.
    Unreached(Failure),
    /// It does not take a subscription.
    Refused(Failure),
}

/// How an attempt to listen ended.
enum Attempt {
    /// It was heard, and may be at once again.
    Heard,
    /// It was listened to, and said nothing; or not listened to.
    Silent,
    /// It is heard otherwise, or nobody wants to hear it any more.
    Over,
}

/// Listens at a server, on `subscription` to begin with; when it is lost, again, for what was said in between is
/// unknown.
///
/// Where a server speaks both eras, it is spoken to in that of the client.
pub(super) async fn follow(mut listener: Listener, filter: Filter, subscription: Option<PooledSubscription>) {
    let mut back_off = BACK_OFF;
    let mut first = subscription.is_none();
    if let Some(subscription) = subscription {
        subscription.upstream_session.lost().await;
    }
    loop {
        // What is waited for meanwhile is most of what a listener needs room for.
        let attempt = match listener.renew_place() {
            Ok(()) => Box::pin(listener.attempt(&filter, first)).await,
            Err(denial) if denial.reason == Reason::RouteRemoved => Attempt::Over,
            // Nobody listens in the name of a client that may not say what it said.
            Err(_) => Attempt::Silent,
        };
        match attempt {
            Attempt::Heard => back_off = BACK_OFF,
            Attempt::Silent => {}
            Attempt::Over => {
                listener.holds.release();
                return;
            }
        }
        first = false;
        sleep(back_off).await;
        back_off = (back_off * 2).min(MAX_BACK_OFF);
    }
}

impl Listener {
    /// Has the filters in force read again what servers are told of the client.
    fn renew_place(&mut self) -> Result<(), Denial> {
        let active = self.gateway.active();
        if self.serial == active.snapshot.serial {
            return Ok(());
        }
        if active.pool(&self.place.upstream).is_none() {
            return Err(Denial::new(Reason::RouteRemoved, "the configuration has this server no longer"));
        }
        let (profile, headers) = &self.sent;
        let pipeline = &active.pipeline;
        let (mut new_profile, mut new_headers) = (None, None);
        if pipeline.reads_client_texts() {
            new_profile = profile.changed_by(|place, text| pipeline.client_text(place, text))?;
            new_headers = headers.changed_by(pipeline)?;
        }
        self.place.profile = new_profile.map_or_else(|| Arc::clone(profile), Arc::new);
        self.place.headers = new_headers.map_or_else(|| Arc::clone(headers), Arc::new);
        self.serial = active.snapshot.serial;
        Ok(())
    }

    /// Listens once; unless for the `first` time, all that was told before may be out of date.
    async fn attempt(&self, filter: &Filter, first: bool) -> Attempt {
        let Listener { gateway, place, .. } = self;
        let era = match self.client {
            Client::Session(_) => Era::Legacy,
            Client::Subscriber => Era::Modern,
        };
        let attempt = match gateway.backend.eras.choose(&gateway.backend, place, era).await {
            Ok(spoken) if spoken != era && !self.translates => Ok(Attempt::Over),
            Ok(Era::Modern) => self.listen(filter, first).await,
            Ok(Era::Legacy) => match &self.client {
                Client::Session(session) => Ok(self.restore(session).await),
                Client::Subscriber => self.lease(filter, first).await,
            },
            Err(_) => Ok(Attempt::Silent),
        };
        attempt.unwrap_or(Attempt::Over)
    }

    /// Listens at a modern server until that is lost. Fails when nobody wants to hear it any more.
    async fn listen(&self, filter: &Filter, first: bool) -> Result<Attempt, ()> {
        let Ok(listening) = gateway_requests::listen(&self.gateway.backend, &self.place, filter).await else {
            return Ok(Attempt::Silent);
        };
        self.holds.commit();
        if !first {
            self.pass_changes().await?;
        }
        let heard = self.hear(listening).await?;
        Ok(if heard { Attempt::Heard } else { Attempt::Silent })
    }

    /// Listens on a pooled session with a legacy server until that is lost. Fails when nobody wants to
    /// hear it any more.
    async fn lease(&self, filter: &Filter, first: bool) -> Result<Attempt, ()> {
        let subscription = match PooledSubscription::begin(&self.gateway, &self.place, &filter.uris).await {
            Ok(subscription) => subscription,
            Err(ListenError::Unreached(failure) | ListenError::Refused(failure)) => {
                let upstream = &*self.place.upstream.name;
                tracing::debug!(upstream, cause = failure.cause, "not listened to");
                return Ok(Attempt::Silent);
            }
        };
        self.holds.commit();
        (self.acknowledged)();
        if !first {
            self.pass_changes().await?;
        }
        subscription.upstream_session.lost().await;
        Ok(Attempt::Heard)
    }

    /// Gives a client's session its own session with a legacy server again, which is heard by itself.
    async fn restore(&self, session: &Arc<Session>) -> Attempt {
        let is_wanted = session.expects_upstream_session(&self.place.upstream.key);
        if is_wanted && founding::restore(&self.gateway, session, &self.place).await.is_err() {
            return if session.is_over() { Attempt::Over } else { Attempt::Silent };
        }
        (self.acknowledged)();
        Attempt::Over
    }

    /// Tells that all lists of the server may have changed. Fails when nobody wants to hear it.
    async fn pass_changes(&self) -> Result<(), ()> {
        for word in LISTS.map(Word::Changed) {
            hub::outdate(&self.gateway, &self.place.upstream, &word);
            self.pass(word).await?;
        }
        Ok(())
    }

    /// Passes on what a server tells until it ends; whether it told anything. Fails when nobody wants
    /// to hear it any more.
    async fn hear(&self, mut listening: Listening) -> Result<bool, ()> {
        let acknowledged_by = Instant::now() + ACKNOWLEDGED_WITHIN;
        let mut waits = true;
        let mut told = false;
        loop {
            let message = tokio::select! {
                message = listening.next() => message,
                () = sleep_until(acknowledged_by), if waits => {
                    waits = false;
                    (self.acknowledged)();
                    continue;
                }
            };
            let Some(message) = message else { return Ok(told) };
            told = true;
            if std::mem::take(&mut waits) {
                (self.acknowledged)();
            }
            for word in words(&self.place.upstream, &message) {
                hub::outdate(&self.gateway, &self.place.upstream, &word);
                self.pass(word).await?;
            }
        }
    }

    /// Brings a word to the client, if it may hear of the server. Fails when nobody wants to hear it.
    async fn pass(&self, word: Word) -> Result<(), ()> {
        if !self.responses.is_told_of(&self.gateway, &self.place.upstream.name) {
            return Ok(());
        }
        match word.counted(&self.gateway.backend.unheard_bytes, self.place.upstream.key) {
            Some(word) => self.words.send(word).await.map_err(drop),
            None => {
                self.gateway.metrics.untold("queue", 1);
                Ok(())
            }
        }
    }
}

/// What a message on the stream of a server means for who listens here.
fn words(upstream: &Upstream, message: &[u8]) -> Vec<Word> {
    let Ok(text) = std::str::from_utf8(message) else { return Vec::new() };
    let method = Envelope::read(text).ok().and_then(|envelope| envelope.method);
    match method.filter(|method| !method.is("notifications/subscriptions/acknowledged")) {
        Some(method) => hub::words(&upstream.name, &method, text),
        None => Vec::new(),
    }
}

#[cfg(test)]
mod tests;
