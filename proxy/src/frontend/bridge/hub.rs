//! What servers say outside of any call, on its way to who listens.
//!
//! One task hears all legacy legs; modern servers are listened to for as long as somebody wants to
//! hear them. Changes of lists empty the caches on their way.

use super::desk::Desk;
use super::sessions::{Session, Untold, Waiting, Word};
use crate::authorize::{self, Overseer};
use crate::backend::gateway_requests::Errand;
use crate::backend::upstream_call::Reply;
use crate::backend::upstream_sessions::{Heard, Leg, Origin, What};
use crate::backend::{Backend, NoticeListener};
use crate::catalog::Catalogs;
use crate::frontend::context::Gateway;
use crate::offload;
use crate::sealing::CallerKey;
use portunus_config::{ServerId, Upstream};
use portunus_filters::catalog::ListKind;
use portunus_filters::mcp::Envelope;
use portunus_filters::mcp::bridge::{self, Question};
use portunus_filters::mcp::rewrite::string;
use portunus_filters::mcp::{Id, Method};
use portunus_filters::{Denial, Reason};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

/// Lists whose changes are announced.
pub(super) const LISTS: [ListKind; 3] = [ListKind::Tools, ListKind::Prompts, ListKind::Resources];

/// Words that wait for one listener; when there are more, the rest is lost, and counted.
const MAX_WORDS: usize = 256;

/// Who listens to what.
#[derive(Default)]
pub struct Hub {
    owners: Mutex<HashMap<usize, Weak<Session>>>,
    listeners: Mutex<HashMap<u64, Arc<Listener>>>,
}

/// A modern client's subscription.
struct Listener {
    server: ServerId,
    caller: CallerKey,
    /// What its client may be told.
    overseer: Overseer,
    words: mpsc::Sender<Word>,
}

/// A place among the listeners, for as long as it lives.
pub struct Seat {
    gateway: Arc<Gateway>,
    number: u64,
    /// What is heard.
    pub words: mpsc::Receiver<Word>,
    /// Where further tasks put what they hear.
    pub sender: mpsc::Sender<Word>,
}

impl Drop for Seat {
    fn drop(&mut self) {
        locked(&self.gateway.estate.hub.listeners).remove(&self.number);
    }
}

fn locked<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

fn address(leg: &Arc<Leg>) -> usize {
    Arc::as_ptr(leg).addr()
}

impl Hub {
    /// Brings what comes on a leg to a session from now on.
    pub fn own(&self, leg: &Arc<Leg>, session: &Arc<Session>) {
        locked(&self.owners).insert(address(leg), Arc::downgrade(session));
    }

    /// Forgets a leg.
    pub fn disown(&self, leg: &Arc<Leg>) {
        locked(&self.owners).remove(&address(leg));
    }

    /// Listens on behalf of a caller.
    pub fn sit(desk: &Desk<'_>, overseer: Overseer) -> Seat {
        Hub::seat(desk.gateway, &desk.call.server.id, desk.call.caller, overseer)
    }

    fn seat(gateway: &Arc<Gateway>, server: &ServerId, caller: CallerKey, overseer: Overseer) -> Seat {
        let (sender, words) = mpsc::channel(MAX_WORDS);
        let number = gateway.backend.number();
        let listener = Listener { server: server.clone(), caller, overseer, words: sender.clone() };
        locked(&gateway.estate.hub.listeners).insert(number, Arc::new(listener));
        Seat { gateway: Arc::clone(gateway), number, words, sender }
    }

    /// How many listen.
    pub fn len(&self) -> usize {
        locked(&self.listeners).len()
    }

    /// Whether nobody listens.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn owner(&self, leg: &Arc<Leg>) -> Option<Arc<Session>> {
        locked(&self.owners).get(&address(leg))?.upgrade()
    }

    /// Who listens there for this caller.
    fn listening(&self, server: &ServerId, caller: CallerKey) -> Vec<Arc<Listener>> {
        let listeners = locked(&self.listeners);
        let own = listeners.values().filter(|one| one.server == *server && one.caller == caller);
        own.map(Arc::clone).collect()
    }
}

/// Hears all legs until the process ends.
pub async fn run(gateway: Arc<Gateway>) {
    loop {
        let heard = gateway.backend.heard.next().await;
        let hearing = Arc::clone(&gateway);
        // Not in an upstream's turn: its long answers would delay notices of the others.
        offload::notice(heard.bytes(), move || hear(&hearing, heard)).await;
        // There may be as much to hear as servers wish.
        tokio::task::yield_now().await;
    }
}

fn hear(gateway: &Arc<Gateway>, heard: Heard) {
    let Heard { upstream, server, caller, leg, what, share: _share } = heard;
    match what {
        What::Notice { method, message } => {
            let Ok(text) = std::str::from_utf8(&message) else { return };
            for word in words(&upstream.name, &method, text) {
                outdate(gateway, &upstream, &word);
                match word.counted(&gateway.backend.spoken, upstream.key) {
                    Some(word) => pass(gateway, &server, caller, &leg, word),
                    None => gateway.metrics.untold("queue", 1),
                }
            }
        }
        What::Question { id, question } => ask(gateway, &leg, id, question),
        What::Gap => {
            for kind in LISTS {
                outdate(gateway, &upstream, &Word::Changed(kind));
                pass(gateway, &server, caller, &leg, Word::Changed(kind));
            }
            // Without sessions, nothing tells whether it is the server that knew what was subscribed to.
            if leg.id().is_none() {
                let session = gateway.estate.hub.owner(&leg);
                let uris = session.map(|session| session.uris_at(&upstream.name));
                let uris = uris.unwrap_or_else(|| leg.subscriptions());
                let gateway = Arc::clone(gateway);
                tokio::spawn(async move { subscribe_again(&gateway, &leg, uris).await });
            }
        }
        What::Gone => {
            // A server that has forgotten its sessions may have been replaced by another.
            LISTS.map(Word::Changed).iter().for_each(|word| outdate(gateway, &upstream, word));
            if let Some(session) = gateway.estate.hub.owner(&leg) {
                session.lose(&upstream.key, &leg);
            }
            gateway.estate.hub.disown(&leg);
        }
    }
}

/// Subscribes to what a server may not know any more.
pub(super) async fn subscribe_again(gateway: &Arc<Gateway>, leg: &Arc<Leg>, uris: Vec<Arc<str>>) {
    for uri in uris {
        if let Err(failure) = leg.ask(&gateway.backend, Errand::Subscribe { uri }).await {
            let upstream = &*leg.place().upstream.name;
            tracing::debug!(upstream, cause = failure.cause, "a subscription was not repeated");
        }
    }
}

/// Tells a session that all lists of a server may have changed.
pub(super) fn tell_changed(gateway: &Arc<Gateway>, session: &Session, leg: &Arc<Leg>) {
    let upstream = &leg.place().upstream;
    let whole = gateway.backend.replicas.whole(upstream.key);
    for word in LISTS.map(Word::Changed) {
        outdate(gateway, whole.as_ref().unwrap_or(upstream), &word);
        tell_session(gateway, session, &upstream.name, word);
    }
}

/// What a notification means for those who listen.
pub(super) fn words(upstream: &Arc<str>, method: &Method, text: &str) -> Vec<Word> {
    match method.name() {
        "notifications/tools/list_changed" => vec![Word::Changed(ListKind::Tools)],
        "notifications/prompts/list_changed" => vec![Word::Changed(ListKind::Prompts)],
        "notifications/resources/list_changed" => vec![Word::Changed(ListKind::Resources)],
        bridge::RESOURCE_UPDATED => {
            let uri =
                Envelope::read(text).ok().and_then(|envelope| envelope.params.text("uri").map(Arc::from));
            let updated = |uri| Word::Updated { upstream: Arc::clone(upstream), uri, message: text.into() };
            uri.map(updated).into_iter().collect()
        }
        // A task is its caller's, and is asked about by the id that its caller was given; progress is that of a call, under
        // a number that its client does not know.
        method if bridge::is_of_task(method) || method == "notifications/progress" => Vec::new(),
        _ => vec![Word::Said(text.into())],
    }
}

/// What a word makes outdated of what is kept.
pub(super) fn outdate(gateway: &Gateway, upstream: &Upstream, word: &Word) {
    outdate_in(&gateway.estate.catalogs, &gateway.backend, upstream, word);
}

fn outdate_in(catalogs: &Catalogs, backend: &Backend, upstream: &Upstream, word: &Word) {
    let now = backend.clock.now();
    match word {
        Word::Changed(kind) => {
            catalogs.changed(upstream, *kind);
            if *kind == ListKind::Resources {
                backend.reads.changed(upstream, now);
            }
        }
        Word::Updated { uri, .. } => backend.reads.updated(upstream, uri, now),
        Word::Said(_) | Word::Asked(_) => {}
    }
}

/// Whether a notification tells of a change of what is kept here.
pub(crate) fn announces(method: &Method) -> bool {
    method.name().ends_with("/list_changed") || method.is(bridge::RESOURCE_UPDATED)
}

/// Outdates what is kept of servers by what they say of changes.
pub(crate) struct CatalogNotices(pub(crate) Arc<Catalogs>);

impl NoticeListener for CatalogNotices {
    /// That a list or a resource has changed counts on whatever stream it is said.
    fn overheard(&self, backend: &Backend, upstream: &Upstream, method: &Method, text: &str) {
        if !announces(method) {
            return;
        }
        let whole = backend.replicas.whole(upstream.key);
        let upstream = whole.as_deref().unwrap_or(upstream);
        for word in words(&upstream.name, method, text) {
            outdate_in(&self.0, backend, upstream, &word);
        }
    }

    /// It may have been a change of any list.
    fn missed(&self, backend: &Backend, upstream: &Upstream) {
        backend.metrics.untold("queue", 1);
        LISTS.map(Word::Changed).iter().for_each(|word| outdate_in(&self.0, backend, upstream, word));
    }
}

/// Counts what a client with a stream did not take. One without a stream does not want to hear.
pub(super) fn told(gateway: &Gateway, pushed: Result<(), Untold>) {
    gateway.metrics.untold("session", u64::from(pushed == Err(Untold::Full)));
}

fn pass(gateway: &Arc<Gateway>, server: &ServerId, caller: CallerKey, leg: &Arc<Leg>, word: Word) {
    let upstream = &leg.place().upstream.name;
    match (leg.origin(), gateway.estate.hub.owner(leg)) {
        (Origin::Pooled, _) => {
            let lost = tell(gateway, &gateway.estate.hub.listening(server, caller), upstream, &word);
            gateway.metrics.untold("subscription", lost);
        }
        (_, Some(session)) => tell_session(gateway, &session, upstream, word),
        (_, None) => {}
    }
}

/// Tells a session what a server said, if its client listens and may hear of the server.
fn tell_session(gateway: &Gateway, session: &Session, upstream: &str, word: Word) {
    let listens = |overseer: Overseer| overseer.is_told_of(gateway, upstream);
    // What nobody asked for takes no place in a queue.
    let is_wanted = match &word {
        Word::Updated { upstream, uri, .. } => session.served_uri(upstream, uri).is_some(),
        Word::Changed(_) | Word::Said(_) | Word::Asked(_) => true,
    };
    if is_wanted && session.overseer().is_some_and(listens) {
        told(gateway, session.push(word));
    }
}

/// Tells those who may hear of the upstream; gives how many of them do not keep up.
fn tell(gateway: &Gateway, listening: &[Arc<Listener>], upstream: &str, word: &Word) -> u64 {
    let hear = listening.iter().filter(|listener| listener.overseer.is_told_of(gateway, upstream));
    let full =
        hear.filter(|listener| matches!(listener.words.try_send(word.clone()), Err(TrySendError::Full(_))));
    full.count() as u64
}

/// True if the filters in force leave a client the ability to answer a question.
fn may_be_asked(gateway: &Gateway, session: &Session, question: &Question) -> bool {
    let active = gateway.active();
    let changed = match active.pipeline.reads_client_texts() {
        true => session.profile.changed_by(|place, text| active.pipeline.client_text(place, text)),
        false => Ok(None),
    };
    changed.is_ok_and(|changed| changed.as_ref().unwrap_or(&session.profile).can(question.ability()))
}

/// A question outside of any call goes to a client that listens; nobody else can answer it.
fn ask(gateway: &Arc<Gateway>, leg: &Arc<Leg>, id: Id, question: Question) {
    let refuse = |message: &str| {
        let error = format!("{{\"code\":-32603,\"message\":{}}}", string(message));
        leg.answer(&gateway.backend, id.clone(), Reply::Error(error));
    };
    let Some(session) = gateway.estate.hub.owner(leg).filter(|session| session.is_listening()) else {
        return refuse("the client does not listen");
    };
    if !may_be_asked(gateway, &session, &question) {
        return refuse("the client did not declare that it can be asked this");
    }
    let overseer = session.overseer().ok_or_else(|| Denial::new(Reason::Forbidden, "nobody listens"));
    let released =
        overseer.and_then(|overseer| overseer.at(&leg.place().upstream.name).released(gateway, question));
    let question = match released {
        Ok(question) => question,
        Err(denial) => {
            return leg.answer(&gateway.backend, id.clone(), Reply::Error(authorize::error(&denial)));
        }
    };
    let waiting = Waiting::Leg { leg: Arc::clone(leg), id: id.clone() };
    match session.ask(&gateway.estate.home, waiting) {
        Some(ours) => {
            let asked = question.request(&ours, ours.trim_matches('"'));
            told(gateway, session.push(Word::Asked(asked.into())));
        }
        None => refuse("too many questions wait for the client"),
    }
}

#[cfg(test)]
mod tests;
