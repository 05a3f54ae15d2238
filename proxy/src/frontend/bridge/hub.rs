//! What servers say outside of any call, on its way to who listens.
//!
//! One task hears all legacy upstream sessions; modern servers are listened to for as long as somebody wants to
//! hear them. Changes of lists empty the caches on their way.

use super::served_call::ServedCall;
use super::sessions::{Session, Untold, Waiting, Word};
use crate::authorize::{self, ResponsePipeline};
use crate::backend::gateway_requests::GatewayRequest;
use crate::backend::upstream_call::Reply;
use crate::backend::upstream_sessions::{NoticeContent, Origin, ServerNotice, UpstreamSession};
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
    responses: ResponsePipeline,
    words: mpsc::Sender<Word>,
}

/// A place among the listeners, for as long as it lives.
pub struct HubSubscription {
    gateway: Arc<Gateway>,
    number: u64,
    /// What is heard.
    pub words: mpsc::Receiver<Word>,
    /// Where further tasks put what they hear.
    pub sender: mpsc::Sender<Word>,
}

impl Drop for HubSubscription {
    fn drop(&mut self) {
        locked(&self.gateway.estate.hub.listeners).remove(&self.number);
    }
}

fn locked<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

fn address(upstream_session: &Arc<UpstreamSession>) -> usize {
    Arc::as_ptr(upstream_session).addr()
}

impl Hub {
    /// Brings what comes on an upstream session to a session from now on.
    pub fn own(&self, upstream_session: &Arc<UpstreamSession>, session: &Arc<Session>) {
        locked(&self.owners).insert(address(upstream_session), Arc::downgrade(session));
    }

    /// Forgets an upstream session.
    pub fn disown(&self, upstream_session: &Arc<UpstreamSession>) {
        locked(&self.owners).remove(&address(upstream_session));
    }

    /// Listens on behalf of a caller.
    pub fn subscribe(served: &ServedCall<'_>, responses: ResponsePipeline) -> HubSubscription {
        Hub::subscribe_as(served.gateway, &served.context.server.id, served.context.caller, responses)
    }

    fn subscribe_as(
        gateway: &Arc<Gateway>,
        server: &ServerId,
        caller: CallerKey,
        responses: ResponsePipeline,
    ) -> HubSubscription {
        let (sender, words) = mpsc::channel(MAX_WORDS);
        let number = gateway.backend.number();
        let listener = Listener { server: server.clone(), caller, responses, words: sender.clone() };
        locked(&gateway.estate.hub.listeners).insert(number, Arc::new(listener));
        HubSubscription { gateway: Arc::clone(gateway), number, words, sender }
    }

    /// How many listen.
    pub fn len(&self) -> usize {
        locked(&self.listeners).len()
    }

    /// Whether nobody listens.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn owner(&self, upstream_session: &Arc<UpstreamSession>) -> Option<Arc<Session>> {
        locked(&self.owners).get(&address(upstream_session))?.upgrade()
    }

    /// Who listens there for this caller.
    fn listening(&self, server: &ServerId, caller: CallerKey) -> Vec<Arc<Listener>> {
        let listeners = locked(&self.listeners);
        let own = listeners.values().filter(|one| one.server == *server && one.caller == caller);
        own.map(Arc::clone).collect()
    }
}

/// Hears all upstream sessions until the process ends.
pub async fn run(gateway: Arc<Gateway>) {
    loop {
        let notice = gateway.backend.notices.next().await;
        let hearing = Arc::clone(&gateway);
        // Not in an upstream's turn: its long answers would delay notices of the others.
        offload::notice(notice.bytes(), move || hear(&hearing, notice)).await;
        // There may be as much to hear as servers wish.
        tokio::task::yield_now().await;
    }
}

fn hear(gateway: &Arc<Gateway>, notice: ServerNotice) {
    let ServerNotice { upstream, server, caller, upstream_session, content, share: _share } = notice;
    match content {
        NoticeContent::Notification { method, message } => {
            let Ok(text) = std::str::from_utf8(&message) else { return };
            for word in words(&upstream.name, &method, text) {
                outdate(gateway, &upstream, &word);
                match word.counted(&gateway.backend.unheard_bytes, upstream.key) {
                    Some(word) => pass(gateway, &server, caller, &upstream_session, word),
                    None => gateway.metrics.untold("queue", 1),
                }
            }
        }
        NoticeContent::Question { id, question } => ask(gateway, &upstream_session, id, question),
        NoticeContent::Gap => {
            for kind in LISTS {
                outdate(gateway, &upstream, &Word::Changed(kind));
                pass(gateway, &server, caller, &upstream_session, Word::Changed(kind));
            }
            // Without sessions, nothing tells whether it is the server that knew what was subscribed to.
            if upstream_session.id().is_none() {
                let session = gateway.estate.hub.owner(&upstream_session);
                let uris = session.map(|session| session.uris_at(&upstream.name));
                let uris = uris.unwrap_or_else(|| upstream_session.subscriptions());
                let gateway = Arc::clone(gateway);
                tokio::spawn(async move { subscribe_again(&gateway, &upstream_session, uris).await });
            }
        }
        NoticeContent::Gone => {
            // A server that has forgotten its sessions may have been replaced by another.
            LISTS.map(Word::Changed).iter().for_each(|word| outdate(gateway, &upstream, word));
            if let Some(session) = gateway.estate.hub.owner(&upstream_session) {
                session.lose(&upstream.key, &upstream_session);
            }
            gateway.estate.hub.disown(&upstream_session);
        }
    }
}

/// Subscribes to what a server may not know any more.
pub(super) async fn subscribe_again(
    gateway: &Arc<Gateway>,
    upstream_session: &Arc<UpstreamSession>,
    uris: Vec<Arc<str>>,
) {
    for uri in uris {
        if let Err(failure) = upstream_session.ask(&gateway.backend, GatewayRequest::Subscribe { uri }).await
        {
            let upstream = &*upstream_session.place().upstream.name;
            tracing::debug!(upstream, cause = failure.cause, "a subscription was not repeated");
        }
    }
}

/// Tells a session that all lists of a server may have changed.
pub(super) fn tell_changed(
    gateway: &Arc<Gateway>,
    session: &Session,
    upstream_session: &Arc<UpstreamSession>,
) {
    let upstream = &upstream_session.place().upstream;
    let whole = gateway.backend.instances.whole(upstream.key);
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
        let whole = backend.instances.whole(upstream.key);
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

fn pass(
    gateway: &Arc<Gateway>,
    server: &ServerId,
    caller: CallerKey,
    upstream_session: &Arc<UpstreamSession>,
    word: Word,
) {
    let upstream = &upstream_session.place().upstream.name;
    match (upstream_session.origin(), gateway.estate.hub.owner(upstream_session)) {
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
    let listens = |responses: ResponsePipeline| responses.is_told_of(gateway, upstream);
    // What nobody asked for takes no place in a queue.
    let is_wanted = match &word {
        Word::Updated { upstream, uri, .. } => session.served_uri(upstream, uri).is_some(),
        Word::Changed(_) | Word::Said(_) | Word::Asked(_) => true,
    };
    if is_wanted && session.responses().is_some_and(listens) {
        told(gateway, session.push(word));
    }
}

/// Tells those who may hear of the upstream; gives how many of them do not keep up.
fn tell(gateway: &Gateway, listening: &[Arc<Listener>], upstream: &str, word: &Word) -> u64 {
    let hear = listening.iter().filter(|listener| listener.responses.is_told_of(gateway, upstream));
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
fn ask(gateway: &Arc<Gateway>, upstream_session: &Arc<UpstreamSession>, id: Id, question: Question) {
    let refuse = |message: &str| {
        let error = format!("{{\"code\":-32603,\"message\":{}}}", string(message));
        upstream_session.answer(&gateway.backend, id.clone(), Reply::Error(error));
    };
    let Some(session) = gateway.estate.hub.owner(upstream_session).filter(|session| session.is_listening())
    else {
        return refuse("the client does not listen");
    };
    if !may_be_asked(gateway, &session, &question) {
        return refuse("the client did not declare that it can be asked this");
    }
    let responses = session.responses().ok_or_else(|| Denial::new(Reason::Forbidden, "nobody listens"));
    let released = responses.and_then(|responses| {
        responses.at(&upstream_session.place().upstream.name).released(gateway, question)
    });
    let question = match released {
        Ok(question) => question,
        Err(denial) => {
            return upstream_session.answer(
                &gateway.backend,
                id.clone(),
                Reply::Error(authorize::error(&denial)),
            );
        }
    };
    let waiting = Waiting::UpstreamSession { upstream_session: Arc::clone(upstream_session), id: id.clone() };
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
