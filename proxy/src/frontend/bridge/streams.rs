//! Streams without an end of their own: a legacy client's GET (2025-11-25 transports, "Listening for
//! Messages from the Server"), a modern one's `subscriptions/listen` (2026-07-28
//! patterns/subscriptions).

use super::answering::{Answering, Part};
use super::desk::{Desk, params, shown};
use super::following::{self, Client, Following, Heard, Unheard, follow};
use super::hub::{Hub, Seat};
use super::lists::OwnUri;
use super::sessions::{Session, Word};
use super::stream_holds::StreamHolds;
use super::{admit, call, founding, lasting, lines, lists};
use crate::authorize::{CallTerms, Overseer, RoutedRequest};
use crate::backend::gateway_requests::Errand;
use crate::drain::{Phase, reached};
use crate::frontend::session::End;
use crate::identify::ended;
use crate::metrics::Counted;
use crate::offload;
use bytes::Bytes;
use portunus_filters::catalog::ListKind;
use portunus_filters::mcp::bridge::{self, Filter, Listener, MAX_URI_BYTES, Profile};
use portunus_filters::{Channel, Denial, Era, Kind, Message, Reason, Released};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

/// A legacy client's GET: what its servers say outside of its calls.
pub(super) async fn get(
    desk: &Desk<'_>,
    session: &Arc<Session>,
    overseer: Overseer,
    out: &mut Answering<'_>,
) -> Result<End, Denial> {
    if !desk.call.takes_events {
        return Err(Denial::new(Reason::NotAcceptable, "accept text/event-stream"));
    }
    let _open = Counted::one(&desk.gateway.metrics.streams);
    match &session.replay {
        Some(replay) => lasting::get(desk, session, (replay, overseer), out).await,
        None => {
            let listening = (session.listen(overseer.clone()), overseer);
            Ok(flow(desk, session, listening, None, out).await)
        }
    }
}

/// What is pushed on a stream, and what stands over it.
pub(super) type Listening = (mpsc::Receiver<Word>, Overseer);

/// Carries the stream of a session; with a seat, of a client whose calls are answered on it too.
pub(super) async fn flow(
    desk: &Desk<'_>,
    session: &Arc<Session>,
    (mut words, overseer): Listening,
    mut seat: Option<&mut lines::Seat>,
    out: &mut Answering<'_>,
) -> End {
    if !session.native {
        session.legs().iter().for_each(|leg| leg.hear(&desk.gateway.backend));
    }
    if out.begin().await.is_err() {
        return End::Broken;
    }
    let line = seat.as_ref().map(|seat| Arc::clone(&seat.line));
    let mut phase = desk.gateway.drain.watch();
    let mut stream = Stream::new(desk, overseer.clone(), None, Some(session));
    if line.is_some() {
        stream.ends_at = Phase::Expired;
    }
    let (sender, mut followed) = mpsc::channel(64);
    let mut following = Following::of(desk, session, Arc::new(overseer), sender);
    loop {
        let told = tokio::select! {
            word = words.recv() => match word {
                Some(word) => stream.say(desk, word, out).await,
                // Another stream of the session has taken its place, or the session has ended.
                None => return stream.over(out).await,
            },
            Some(word) = followed.recv() => stream.say(desk, word, out).await,
            Some(part) = lines::part(&mut seat) => stream.pass(part, out).await,
            () = session.changed.notified() => {
                following.renew(desk, session);
                continue;
            }
            () = lines::drained(line.as_ref(), &mut phase) => {
                while let Some(part) = lines::waiting(&mut seat) {
                    drop(stream.pass(part, out).await);
                }
                return stream.over(out).await;
            }
            end = stream.wait(desk, out) => match end {
                Some(end) => return end,
                None if line.is_some() => {
                    // Who holds the stream open is not idle.
                    desk.gateway.estate.sessions.find(&session.server, &session.number, desk.gateway);
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
    desk: &Desk<'_>,
    message: &Message,
    profile: &Arc<Profile>,
    out: &mut Answering<'_>,
) -> Result<End, Denial> {
    if !desk.call.takes_events {
        return Err(Denial::new(Reason::NotAcceptable, "accept text/event-stream"));
    }
    let admitted = desk.admit(message)?;
    let message = admitted.message(message);
    let wanted = Filter::of(&params(message)?);
    let wanted = wanted.map_err(|fault| Denial::new(Reason::InvalidParams, fault.to_string()))?;
    let id = call::id_text(message).to_owned();
    // Kept as long as the stream is open: as asked for, as served, and as servers call them.
    let bytes = id.len() + 3 * wanted.uris.iter().map(|uri| uri.len()).sum::<usize>();
    let crowded = || Denial::new(Reason::Crowded, "as many resources as the client may be subscribed to");
    let _share = desk.gateway.backend.texts.take(desk.owner(), bytes).ok_or_else(crowded)?;
    let mut seat = Hub::sit(desk, admitted.overseer.clone());
    let facts = lists::facts(desk, profile).await?;
    let honoured = wanted.honoured(&facts);
    desk.call.snapshot.release();
    let mut subscribed =
        subscribe_all(desk, profile, (message, &wanted), (&seat.sender, &admitted.overseer)).await?;
    let served = std::mem::take(&mut subscribed.served);
    desk.call.snapshot.forget();
    let subscription = Subscription { id, honoured, facts, served };
    let stream = Stream::new(desk, admitted.overseer.clone(), Some(subscription), None);
    let stream = Stream { opening: message.clone(), ..stream };
    let _open = Counted::one(&desk.gateway.metrics.streams);
    Ok(tell(desk, stream, &mut seat, out).await)
}

/// Acknowledges a subscription and tells what it is for, until it ends.
async fn tell(desk: &Desk<'_>, mut stream: Stream, seat: &mut Seat, out: &mut Answering<'_>) -> End {
    if let Some(Subscription { id, honoured, .. }) = &stream.subscription
        && out.event(Released::own(bridge::acknowledged(honoured, id)), None).await.is_err()
    {
        return End::Broken;
    }
    loop {
        tokio::select! {
            Some(word) = seat.words.recv() => {
                if stream.say(desk, word, out).await.is_err() {
                    out.record.note_answer(None);
                    return End::Left;
                }
            }
            end = stream.wait(desk, out) => if let Some(end) = end { return end },
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
    desk: &Desk<'_>,
    profile: &Arc<Profile>,
    (message, wanted): (&Message, &Filter),
    (words, overseer): (&mpsc::Sender<Word>, &Overseer),
) -> Result<Subscribed, Denial> {
    let mut subscribed = Subscribed { served: HashMap::new(), _following: JoinSet::new() };
    let serial = desk.active().snapshot.serial;
    for (place, mut uris) in lists::owners(desk, profile, (Era::Modern, &wanted.uris)).await? {
        uris.retain(|uri| desk.may_hear(message, &place.upstream.name, &uri.original));
        let named =
            |uri: &OwnUri| ((Arc::clone(&place.upstream.name), Arc::clone(&uri.original)), uri.clone());
        subscribed.served.extend(uris.iter().map(named));
        let uris = uris.iter().map(|uri| Arc::clone(&uri.original)).collect();
        let filter = Filter { uris, ..wanted.clone() };
        let holds = StreamHolds::new(desk.admit_stream(message, &place.upstream.name)?);
        let heard = match desk.gateway.backend.eras.choose(&desk.gateway.backend, &place, Era::Modern).await {
            Ok(era) if !desk.may_serve(era) => continue,
            Ok(Era::Legacy) => match Heard::begin(desk.gateway, &place, &filter.uris).await {
                Ok(heard) => {
                    holds.commit();
                    Some(heard)
                }
                Err(Unheard::Refused(failure)) => return Err(failure.denial),
                Err(Unheard::Unreached(_)) => None,
            },
            Ok(Era::Modern) | Err(_) => None,
        };
        let listener = following::Listener {
            gateway: Arc::clone(desk.gateway),
            place,
            words: words.clone(),
            overseer: Arc::new(overseer.clone()),
            acknowledged: Box::new(|| {}),
            client: Client::Subscriber,
            translates: desk.call.server.bridge,
            holds,
            serial,
            said: (Arc::clone(profile), Arc::clone(&desk.call.said)),
        };
        subscribed._following.spawn(follow(listener, filter, heard));
    }
    Ok(subscribed)
}

/// `resources/subscribe` and `resources/unsubscribe` of a legacy client.
pub(super) async fn subscribe(
    desk: &Desk<'_>,
    session: &Arc<Session>,
    message: &Message,
    out: &mut Answering<'_>,
) -> Result<(), Denial> {
    let fields = params(message)?;
    let missing = || Denial::new(Reason::InvalidParams, "`uri` must be text");
    let uri: Arc<str> = fields.text("uri").ok_or_else(missing)?.into();
    if uri.len() > MAX_URI_BYTES {
        let detail = format!("`uri` of a subscription may have at most {MAX_URI_BYTES} bytes");
        return Err(Denial::new(Reason::InvalidParams, detail));
    }
    let profile = desk.profile_of(session)?;
    let owners = lists::owners(desk, &profile, (Era::Legacy, std::slice::from_ref(&uri))).await?;
    let Some((place, uris)) = owners.into_iter().find(|(_, uris)| !uris.is_empty()) else {
        let catalog = desk.catalog(&profile, call::URIS, desk.call.arrival().at).await?;
        let detail = format!("Resource not found: {}", shown(&uri));
        let unknown = || Denial::new(Reason::UnknownResource, detail);
        return Err(desk.spelling(&catalog, &uri).unwrap_or_else(unknown));
    };
    let own = uris.into_iter().next().map(|own| (own.original, own.subject));
    let (original, subject) = own.unwrap_or_else(|| (Arc::clone(&uri), None));
    let request = RoutedRequest { message, upstream: &place.upstream, subject };
    let admission = desk.admit_request(&request, &profile)?;
    let (admitted, CallTerms { place, .. }) = match admit::at_once(admission) {
        Ok(admitted) => admitted,
        Err(waiting) => {
            let again = || desk.judge_request_again(&request, &desk.profile_of(session)?);
            Box::pin(desk.in_turn(waiting, request.upstream, again, out)).await?
        }
    };
    let begins = call::method_name(message) == "resources/subscribe";
    // One that is founded for this knows all that is subscribed to before.
    let leg = founding::leg(desk, session, &place).await.map_err(|failure| failure.denial)?;
    let upstream = &place.upstream.name;
    let changed = match begins {
        true => {
            let subscribed = session.subscribe(upstream, &original, &uri, &desk.gateway.backend.texts);
            subscribed.ok_or_else(|| {
                Denial::new(Reason::Crowded, "as many resources as the client may be subscribed to")
            })?
        }
        false => session.unsubscribe(upstream, &original),
    };
    if changed {
        admitted.holds().commit();
    }
    let Some(leg) = leg.filter(|_| changed) else { return Ok(()) };
    let errand = match begins {
        true => Errand::Subscribe { uri: Arc::clone(&original) },
        false => Errand::Unsubscribe { uri: Arc::clone(&original) },
    };
    match leg.ask(&desk.gateway.backend, errand).await {
        // The one in its place is told what is subscribed to by now.
        Err(_) if leg.is_dead() => {
            founding::leg(desk, session, &place).await.map(drop).map_err(|failure| failure.denial)
        }
        Err(failure) => {
            if begins {
                session.unsubscribe(upstream, &original);
            }
            Err(failure.denial)
        }
        Ok(()) => Ok(()),
    }
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
    overseer: Overseer,
    phase: tokio::sync::watch::Receiver<Phase>,
    /// When the process leaves, how far it gets with this stream.
    pub(super) ends_at: Phase,
}

impl Stream {
    pub(super) fn new(
        desk: &Desk<'_>,
        overseer: Overseer,
        subscription: Option<Subscription>,
        session: Option<&Arc<Session>>,
    ) -> Stream {
        let keepalive = desk.call.server.keepalive;
        let revision = session.map(|session| session.version);
        Stream {
            opening: Message::bodiless(Kind::Stream, revision),
            overseer,
            subscription,
            session: session.map(Arc::clone),
            changed: Vec::new(),
            tell_at: None,
            silent_until: Instant::now() + keepalive,
            coalesce: desk.call.server.cache.coalesce,
            keepalive,
            phase: desk.gateway.drain.watch(),
            ends_at: Phase::Draining,
        }
    }

    /// Waits for whatever else can happen to a stream; its end, if that was it.
    pub(super) async fn wait(&mut self, desk: &Desk<'_>, out: &mut Answering<'_>) -> Option<End> {
        let wake = self.tell_at.map_or(self.silent_until, |tell_at| tell_at.min(self.silent_until));
        tokio::select! {
            () = out.gone() => {
                out.record.note_answer(None);
                return Some(End::Left);
            }
            () = reached(&mut self.phase, self.ends_at) => return Some(self.over(out).await),
            () = unserved(desk, &self.opening) => return Some(self.over(out).await),
            () = ended(desk.call.standing.as_ref(), desk.gateway) => return Some(self.over(out).await),
            () = sleep_until(wake) => {}
        }
        if let Some(session) = &self.session {
            desk.gateway.estate.sessions.touch(session, desk.gateway);
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
    pub(super) async fn over(&mut self, out: &mut Answering<'_>) -> End {
        out.record.note_answer(None);
        if let Some(Subscription { id, facts, .. }) = &self.subscription {
            let result = bridge::listen_result(id, facts);
            let ended = match self.overseer.inspectors().release(Channel::ServerInfo, &result.into()) {
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
    async fn pass(&mut self, part: Part, out: &mut Answering<'_>) -> std::io::Result<()> {
        let (message, _room) = part.into_message();
        out.event(message, None).await?;
        self.silent_until = Instant::now() + self.keepalive;
        Ok(())
    }

    async fn say(&mut self, desk: &Desk<'_>, word: Word, out: &mut Answering<'_>) -> std::io::Result<()> {
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
                let Some(own) = self.updated(desk, (&upstream, &uri)) else { return Ok(()) };
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
    fn updated(&self, desk: &Desk<'_>, (upstream, uri): (&Arc<str>, &Arc<str>)) -> Option<Arc<str>> {
        let subscription = self.subscription.as_ref();
        let own = match (subscription, &self.session) {
            (Some(Subscription { honoured, served, .. }), _) => {
                let own = served.get(&(Arc::clone(upstream), Arc::clone(uri)));
                Arc::clone(&own.filter(|own| honoured.uris.contains(&own.served))?.served)
            }
            (None, session) => session.as_ref()?.served_uri(upstream, uri)?,
        };
        desk.may_hear(&self.opening, upstream, uri).then_some(own)
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
        if !self.overseer.inspectors().reads(Channel::StreamNotification) {
            return self.overseer.note(Channel::StreamNotification, &message);
        }
        let (bytes, overseer) = (message.len(), self.overseer.clone());
        offload::notice(bytes, move || overseer.note(Channel::StreamNotification, &message)).await
    }

    async fn tell(&mut self, out: &mut Answering<'_>) -> std::io::Result<()> {
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
async fn said(message: &str, subscription: Option<&str>, out: &mut Answering<'_>) -> std::io::Result<()> {
    let era = if subscription.is_some() { Era::Modern } else { Era::Legacy };
    let listener = Listener { era, token: None, log_level: None, subscription };
    match bridge::notification(message, &listener) {
        Ok(Some(text)) => out.event(Released::own(text), None).await,
        _ => Ok(()),
    }
}

/// Returns when the configuration in force no longer has this virtual server, or no longer lets its
/// caller hold the stream that `opening` asked for.
async fn unserved(desk: &Desk<'_>, opening: &Message) {
    let mut serials = desk.gateway.serials();
    let is_served = || {
        let active = desk.gateway.active();
        let is_there = active.snapshot.routes.server(&desk.call.server.id).is_some();
        is_there && (!active.pipeline.is_on() || desk.admit_again(opening).is_ok())
    };
    while is_served() {
        if serials.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}
