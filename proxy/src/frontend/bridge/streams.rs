//! Streams without an end of their own: a legacy client's GET (2025-11-25 transports, "Listening for
//! Messages from the Server"), a modern one's `subscriptions/listen` (2026-07-28
//! patterns/subscriptions).

use super::following::{self, Client, Following, ListenError, PooledSubscription, follow};
use super::hub::{Hub, HubSubscription};
use super::lists::OwnUri;
use super::responder::{Part, Responder};
use super::served_call::{ServedCall, params};
use super::sessions::{Session, Word};
use super::stream_holds::StreamHolds;
use super::{call, lasting, lines, lists};
use crate::authorize::ResponsePipeline;
use crate::drain::Phase;
use crate::frontend::session::End;
use crate::identify::ended;
use crate::metrics::Counted;
use crate::offload;
use bytes::Bytes;
use portunus_filters::catalog::ListKind;
use portunus_filters::mcp::bridge::{self, Filter, Listener, Profile};
use portunus_filters::{Channel, Denial, Era, Kind, Message, Reason, Released};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

/// A legacy client's GET: what its servers say outside of its calls.
pub(super) async fn get(
    served: &ServedCall<'_>,
    session: &Arc<Session>,
    responses: ResponsePipeline,
    out: &mut Responder<'_>,
) -> Result<End, Denial> {
    if !served.context.takes_events {
        return Err(Denial::new(Reason::NotAcceptable, "accept text/event-stream"));
    }
    let _open = Counted::one(&served.gateway.metrics.streams);
    match &session.replay {
        Some(replay) => lasting::get(served, session, (replay, responses), out).await,
        None => {
            let listening = (session.listen(responses.clone()), responses);
            Ok(flow(served, session, listening, None, out).await)
        }
    }
}

/// What is pushed on a stream, and what stands over it.
pub(super) type Listening = (mpsc::Receiver<Word>, ResponsePipeline);

/// Carries the stream of a session; with an open stream, of a client whose calls are answered on it too.
pub(super) async fn flow(
    served: &ServedCall<'_>,
    session: &Arc<Session>,
    (mut words, responses): Listening,
    mut open_stream: Option<&mut lines::OpenStream>,
    out: &mut Responder<'_>,
) -> End {
    if !session.native {
        session
            .upstream_sessions()
            .iter()
            .for_each(|upstream_session| upstream_session.hear(&served.gateway.backend));
    }
    if out.begin().await.is_err() {
        return End::Broken;
    }
    let line = open_stream.as_ref().map(|open_stream| Arc::clone(&open_stream.line));
    let phases = &served.context.connection_state.phases;
    let mut stream = Stream::new(served, responses.clone(), None, Some(session));
    if line.is_some() {
        stream.ends_at = Phase::Expired;
    }
    let (sender, mut followed) = mpsc::channel(64);
    let mut following = Following::of(served, session, Arc::new(responses), sender);
    loop {
        let told = tokio::select! {
            word = words.recv() => match word {
                Some(word) => stream.say(served, word, out).await,
                // Another stream of the session has taken its place, or the session has ended.
                None => return stream.over(out).await,
            },
            Some(word) = followed.recv() => stream.say(served, word, out).await,
            Some(part) = lines::part(&mut open_stream) => stream.pass(part, out).await,
            () = session.changed.notified() => {
                following.renew(served, session);
                continue;
            }
            () = lines::drained(line.as_ref(), phases) => {
                while let Some(part) = lines::waiting(&mut open_stream) {
                    drop(stream.pass(part, out).await);
                }
                return stream.over(out).await;
            }
            end = stream.wait(served, out) => match end {
                Some(end) => return end,
                None if line.is_some() => {
                    // Who holds the stream open is not idle.
                    served.gateway.estate.sessions.find(&session.server, &session.number, served.gateway);
                    continue;
                }
                None => continue,
            },
        };
        if told.is_err() {
            out.record.note_answer(None);
            return End::Left;
        }
    }
}

/// A modern client's `subscriptions/listen`.
pub(super) async fn listen(
    served: &ServedCall<'_>,
    message: &Message,
    profile: &Arc<Profile>,
    out: &mut Responder<'_>,
) -> Result<End, Denial> {
    if !served.context.takes_events {
        return Err(Denial::new(Reason::NotAcceptable, "accept text/event-stream"));
    }
    let admitted = served.admit(message)?;
    let message = admitted.message(message);
    let wanted = Filter::of(&params(message)?);
    let wanted = wanted.map_err(|fault| Denial::new(Reason::InvalidParams, fault.to_string()))?;
    let id = call::id_text(message).to_owned();
    // Kept as long as the stream is open: as asked for, as served, and as servers call them.
    let bytes = id.len() + 3 * wanted.uris.iter().map(|uri| uri.len()).sum::<usize>();
    let crowded = || Denial::new(Reason::Crowded, "as many resources as the client may be subscribed to");
    let _share = served.gateway.backend.texts.take(served.owner(), bytes).ok_or_else(crowded)?;
    let mut hub_subscription = Hub::subscribe(served, admitted.responses.clone());
    let facts = lists::facts(served, profile).await?;
    let honoured = wanted.honoured(&facts);
    served.context.snapshot.release();
    let mut subscribed =
        subscribe_all(served, profile, (message, &wanted), (&hub_subscription.sender, &admitted.responses))
            .await?;
    let uris = std::mem::take(&mut subscribed.served);
    served.context.snapshot.forget();
    let subscription = Subscription { id, honoured, facts, served: uris };
    let stream = Stream::new(served, admitted.responses.clone(), Some(subscription), None);
    let stream = Stream { opening: message.clone(), ..stream };
    let _open = Counted::one(&served.gateway.metrics.streams);
    Ok(tell(served, stream, &mut hub_subscription, out).await)
}

/// Acknowledges a subscription and tells what it is for, until it ends.
async fn tell(
    served: &ServedCall<'_>,
    mut stream: Stream,
    hub_subscription: &mut HubSubscription,
    out: &mut Responder<'_>,
) -> End {
    if let Some(Subscription { id, honoured, .. }) = &stream.subscription
        && out.event(Released::own(bridge::acknowledged(honoured, id)), None).await.is_err()
    {
        return End::Broken;
    }
    loop {
        tokio::select! {
            Some(word) = hub_subscription.words.recv() => {
                if stream.say(served, word, out).await.is_err() {
                    out.record.note_answer(None);
                    return End::Left;
                }
            }
            end = stream.wait(served, out) => if let Some(end) = end { return end },
        }
    }
}

/// What a subscription holds at servers while it lasts.
struct Subscribed {
    /// Resources by their upstream and what that calls them.
    served: HashMap<(Arc<str>, Arc<str>), OwnUri>,
    _following: JoinSet<()>,
}

async fn subscribe_all(
    served: &ServedCall<'_>,
    profile: &Arc<Profile>,
    (message, wanted): (&Message, &Filter),
    (words, responses): (&mpsc::Sender<Word>, &ResponsePipeline),
) -> Result<Subscribed, Denial> {
    let mut subscribed = Subscribed { served: HashMap::new(), _following: JoinSet::new() };
    let (serial, backend) = (served.active().snapshot.serial, &served.gateway.backend);
    for (place, mut uris) in lists::owners(served, profile, (Era::Modern, &wanted.uris)).await? {
        uris.retain(|uri| served.may_hear(message, &place.upstream.name, &uri.original));
        let named =
            |uri: &OwnUri| ((Arc::clone(&place.upstream.name), Arc::clone(&uri.original)), uri.clone());
        subscribed.served.extend(uris.iter().map(named));
        let uris = uris.iter().map(|uri| Arc::clone(&uri.original)).collect();
        let filter = Filter { uris, ..wanted.clone() };
        let holds = StreamHolds::new(served.admit_stream(message, &place.upstream.name)?);
        let subscription = match backend.eras.choose(backend, &place, Era::Modern).await {
            Ok(era) if !served.may_serve(era) => continue,
            Ok(Era::Legacy) => match PooledSubscription::begin(served.gateway, &place, &filter.uris).await {
                Ok(subscription) => {
                    holds.commit();
                    Some(subscription)
                }
                Err(ListenError::Refused(failure)) => return Err(failure.denial),
                Err(ListenError::Unreached(_)) => None,
            },
            Ok(Era::Modern) | Err(_) => None,
        };
        let listener = following::Listener {
            gateway: Arc::clone(served.gateway),
            place,
            words: words.clone(),
            responses: Arc::new(responses.clone()),
            acknowledged: Box::new(|| {}),
            client: Client::Subscriber,
            translates: served.context.server.bridge,
            holds,
            serial,
            sent: (Arc::clone(profile), Arc::clone(&served.context.sent_headers)),
        };
        subscribed._following.spawn(follow(listener, filter, subscription));
    }
    Ok(subscribed)
}

/// What a modern client was promised.
pub(super) struct Subscription {
    id: String,
    honoured: Filter,
    facts: Arc<bridge::Facts>,
    served: HashMap<(Arc<str>, Arc<str>), OwnUri>,
}

/// A stream that has begun.
pub(super) struct Stream {
    subscription: Option<Subscription>,
    session: Option<Arc<Session>>,
    /// Lists that changed a moment ago: several changes are told as one.
    changed: Vec<ListKind>,
    tell_at: Option<Instant>,
    silent_until: Instant,
    coalesce: Duration,
    keepalive: Duration,
    /// What asked for it: judged again with each configuration, and from time to time.
    opening: Message,
    /// What stands over what is said on it.
    responses: ResponsePipeline,
    /// When the process leaves, how far it gets with this stream.
    pub(super) ends_at: Phase,
}

impl Stream {
    pub(super) fn new(
        served: &ServedCall<'_>,
        responses: ResponsePipeline,
        subscription: Option<Subscription>,
        session: Option<&Arc<Session>>,
    ) -> Stream {
        let keepalive = served.context.server.keepalive;
        let revision = session.map(|session| session.version);
        Stream {
            opening: Message::bodiless(Kind::Stream, revision),
            responses,
            subscription,
            session: session.map(Arc::clone),
            changed: Vec::new(),
            tell_at: None,
            silent_until: Instant::now() + keepalive,
            coalesce: served.context.server.cache.coalesce,
            keepalive,
            ends_at: Phase::Draining,
        }
    }

    /// Waits for whatever else can happen to a stream; its end, if that was it.
    pub(super) async fn wait(&mut self, served: &ServedCall<'_>, out: &mut Responder<'_>) -> Option<End> {
        let phases = &served.context.connection_state.phases;
        let wake = self.tell_at.map_or(self.silent_until, |tell_at| tell_at.min(self.silent_until));
        tokio::select! {
            () = out.gone() => {
                out.record.note_answer(None);
                return Some(End::Left);
            }
            () = phases.reached(self.ends_at) => return Some(self.over(out).await),
            () = unserved(served, &self.opening) => return Some(self.over(out).await),
            () = ended(served.context.authorization.as_ref(), served.gateway) => return Some(self.over(out).await),
            () = sleep_until(wake) => {}
        }
        if let Some(session) = &self.session {
            served.gateway.estate.sessions.touch(session, served.gateway);
        }
        let told = match self.tell_at.take_if(|tell_at| *tell_at <= Instant::now()) {
            Some(_) => self.tell(out).await,
            None => out.comment().await,
        };
        self.silent_until = Instant::now() + self.keepalive;
        if told.is_err() {
            out.record.note_answer(None);
            return Some(End::Left);
        }
        None
    }

    /// Ends the stream by its rules: a subscription ends with a result.
    pub(super) async fn over(&mut self, out: &mut Responder<'_>) -> End {
        out.record.note_answer(None);
        if let Some(Subscription { id, facts, .. }) = &self.subscription {
            let result = bridge::listen_result(id, facts);
            let ended = match self.responses.inspectors().release(Channel::ServerInfo, &result.into()) {
                Ok(result) => result.translated(bridge::wrap_result(id, result.text())),
                Err(denial) => {
                    out.record.note_denial(&denial);
                    return End::Broken;
                }
            };
            if out.event(ended, None).await.is_err() {
                return End::Left;
            }
        }
        out.end().await
    }

    /// Sends a message of a call whose answer comes on this stream.
    async fn pass(&mut self, part: Part, out: &mut Responder<'_>) -> std::io::Result<()> {
        let (message, _room) = part.into_message();
        out.event(message, None).await?;
        self.silent_until = Instant::now() + self.keepalive;
        Ok(())
    }

    async fn say(
        &mut self,
        served: &ServedCall<'_>,
        word: Word,
        out: &mut Responder<'_>,
    ) -> std::io::Result<()> {
        match (word, &self.subscription) {
            (Word::Changed(kind), _) => {
                let kind = if kind == ListKind::Templates { ListKind::Resources } else { kind };
                if !self.changed.contains(&kind) {
                    self.changed.push(kind);
                }
                self.tell_at.get_or_insert(Instant::now() + self.coalesce);
                return Ok(());
            }
            (Word::Updated { upstream, uri, message }, _) => {
                let Some(own) = self.updated(served, (&upstream, &uri)) else { return Ok(()) };
                let Some(note) = self.inspected(&message).await else { return Ok(()) };
                let Some(text) = self.in_words_of_client(&note, &own) else { return Ok(()) };
                out.event(note.translated(text), None).await?;
            }
            // A modern client hears nothing that it did not ask for.
            (Word::Said(_) | Word::Asked(_), Some(_)) => return Ok(()),
            (Word::Said(note), None) => {
                let Some(note) = self.inspected(&note).await else { return Ok(()) };
                out.event(note, None).await?;
            }
            (Word::Asked(question), None) => {
                out.event((*question).clone(), None).await?;
            }
        }
        self.silent_until = Instant::now() + self.keepalive;
        Ok(())
    }

    /// What the client calls a resource that has changed, if it asked for it and may still hear of it.
    fn updated(&self, served: &ServedCall<'_>, (upstream, uri): (&Arc<str>, &Arc<str>)) -> Option<Arc<str>> {
        let subscription = self.subscription.as_ref();
        let own = match (subscription, &self.session) {
            (Some(Subscription { honoured, served, .. }), _) => {
                let own = served.get(&(Arc::clone(upstream), Arc::clone(uri)));
                Arc::clone(&own.filter(|own| honoured.uris.contains(&own.served))?.served)
            }
            (None, session) => session.as_ref()?.served_uri(upstream, uri)?,
        };
        served.may_hear(&self.opening, upstream, uri).then_some(own)
    }

    /// That a resource has changed, in the words of who listens.
    fn in_words_of_client(&self, note: &Released, own: &str) -> Option<String> {
        let subscription = self.subscription.as_ref().map(|subscription| subscription.id.as_str());
        let era = if subscription.is_some() { Era::Modern } else { Era::Legacy };
        let listener = Listener { era, token: None, log_level: None, subscription };
        bridge::resource_updated(note.text(), own, &listener).ok()
    }

    /// What a server said outside of calls, as the client may have it; `None` if it may not.
    async fn inspected(&self, message: &str) -> Option<Released> {
        let message = Bytes::copy_from_slice(message.as_bytes());
        if !self.responses.inspectors().reads(Channel::StreamNotification) {
            return self.responses.note(Channel::StreamNotification, &message);
        }
        let (bytes, responses) = (message.len(), self.responses.clone());
        offload::notice(bytes, move || responses.note(Channel::StreamNotification, &message)).await
    }

    async fn tell(&mut self, out: &mut Responder<'_>) -> std::io::Result<()> {
        for kind in std::mem::take(&mut self.changed) {
            let honoured = self.subscription.as_ref().map(|subscription| &subscription.honoured);
            let (method, wanted) = match kind {
                ListKind::Tools => ("notifications/tools/list_changed", honoured.is_none_or(|all| all.tools)),
                ListKind::Prompts => {
                    ("notifications/prompts/list_changed", honoured.is_none_or(|all| all.prompts))
                }
                ListKind::Resources | ListKind::Templates => {
                    ("notifications/resources/list_changed", honoured.is_none_or(|all| all.resources))
                }
            };
            let note = format!("{{\"jsonrpc\":\"2.0\",\"method\":\"{method}\"}}");
            let subscription = self.subscription.as_ref();
            if wanted {
                said(&note, subscription.map(|subscription| subscription.id.as_str()), out).await?;
            }
        }
        Ok(())
    }
}

/// Sends a notification in the words of who listens.
async fn said(message: &str, subscription: Option<&str>, out: &mut Responder<'_>) -> std::io::Result<()> {
    let era = if subscription.is_some() { Era::Modern } else { Era::Legacy };
    let listener = Listener { era, token: None, log_level: None, subscription };
    match bridge::notification(message, &listener) {
        Ok(Some(text)) => out.event(Released::own(text), None).await,
        _ => Ok(()),
    }
}

/// Returns when the configuration in force no longer has this virtual server, or no longer lets its
/// caller hold the stream that `opening` asked for.
async fn unserved(served: &ServedCall<'_>, opening: &Message) {
    let mut serials = served.gateway.serials();
    let is_served = || {
        let active = served.gateway.active();
        let is_there = active.snapshot.routes.server(&served.context.server.id).is_some();
        is_there && (!active.pipeline.is_on() || served.admit_again(opening).is_ok())
    };
    while is_served() {
        if serials.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}
