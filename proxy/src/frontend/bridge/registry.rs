//! All sessions of legacy clients that this replica keeps, by virtual server.

use super::sessions::Session;
use crate::frontend::context::Gateway;
use crate::sealing::SessionToken;
use crate::tombstones::{SessionNumber, Tombstones};
use portunus_base::table::{Table, Term};
use portunus_config::{ServerId, VirtualServer};
use std::collections::HashMap;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

type Of = Table<SessionNumber, Arc<Session>>;

/// Sessions and the marks that ended ones leave.
#[derive(Default)]
pub struct Sessions {
    tables: Mutex<HashMap<ServerId, Arc<Of>>>,
    tombstones: Tombstones,
    /// Held while one is adopted.
    adopting: Mutex<()>,
    kept: Arc<AtomicUsize>,
    /// Each session that passed before holds it.
    adopted: Arc<()>,
}

impl Sessions {
    fn tables(&self) -> MutexGuard<'_, HashMap<ServerId, Arc<Of>>> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn of(&self, server: &ServerId) -> Option<Arc<Of>> {
        self.tables().get(server).cloned()
    }

    /// Takes a session in that lives for at most `lifetime`; the idlest of the caller that has most makes
    /// room for it.
    pub fn insert(
        &self,
        server: &VirtualServer,
        session: &Arc<Session>,
        lifetime: Duration,
        gateway: &Arc<Gateway>,
    ) {
        let now = gateway.clock.now();
        let table = {
            let mut tables = self.tables();
            let new = || Arc::new(Table::new(server.sessions.max));
            Arc::clone(tables.entry(server.id.clone()).or_insert_with(new))
        };
        table.set_capacity(server.sessions.max);
        let term = Term { idle: server.sessions.idle, until: now.monotonic + lifetime };
        let inserted = table.insert(session.number, Arc::clone(session), session.holding(), (term, now));
        for idlest in &inserted.displaced {
            self.expired(idlest, gateway);
        }
    }

    /// The session of a number, or the one that `make` takes over from another replica, with the rest of
    /// its time. Two messages of one session may come at once: they get the same.
    pub fn adopt(
        &self,
        server: &VirtualServer,
        number: &SessionNumber,
        gateway: &Arc<Gateway>,
        make: impl FnOnce() -> (Arc<Session>, Duration),
    ) -> Arc<Session> {
        let _turn = self.adopting.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(session) = self.find(&server.id, number, gateway) {
            return session;
        }
        let (session, left) = make();
        self.insert(server, &session, left, gateway);
        // It may have been ended while it was taken over: who ended it did not find it.
        if self.is_ended(number) {
            self.close(&session, gateway);
        }
        session
    }

    /// The session of a number; it is no longer idle.
    pub fn find(&self, server: &ServerId, number: &SessionNumber, gateway: &Gateway) -> Option<Arc<Session>> {
        self.of(server)?.get(number, gateway.clock.now())
    }

    /// True if sessions that passed before may be here.
    pub fn has_adopted(&self) -> bool {
        Arc::strong_count(&self.adopted) > 1
    }

    /// The mark of a session that passed before.
    pub fn adopted_mark(&self) -> Arc<()> {
        Arc::clone(&self.adopted)
    }

    /// Notes that a session is in use.
    pub fn touch(&self, session: &Session, gateway: &Gateway) {
        drop(self.find(&session.server, &session.number, gateway));
    }

    /// Whether a session was ended, here or as a peer told.
    pub fn is_ended(&self, number: &SessionNumber) -> bool {
        self.tombstones.is_set(number)
    }

    /// Every ended session, and when its id expires on the wall clock.
    pub fn ended(&self) -> Vec<(SessionNumber, Duration)> {
        self.tombstones.all()
    }

    /// Notes that a session has ended, for as long as its id could be shown again; here and at all
    /// replicas.
    pub fn bury(&self, number: SessionNumber, lifetime: Duration, gateway: &Gateway) {
        let until = gateway.clock.now().wall + lifetime;
        self.tombstones.set(number, until);
        gateway.metrics.untold("replica", gateway.peers.tell((number, until)));
    }

    /// Takes in that a session has ended at another replica; what is left of it here ends too.
    pub fn ended_elsewhere(&self, number: SessionNumber, until: Duration, gateway: &Arc<Gateway>) {
        self.tombstones.set(number, until);
        let tables: Vec<Arc<Of>> = self.tables().values().cloned().collect();
        for session in tables.iter().filter_map(|table| table.remove(&number)) {
            Sessions::over(&session, gateway);
        }
    }

    /// Ends a session.
    pub fn end(&self, session: &Arc<Session>, lifetime: Duration, gateway: &Arc<Gateway>) {
        // Of one that its server knows nothing of, there is nothing to bring back.
        if !session.passed()
            || session.upstream_sessions().iter().any(|upstream_session| upstream_session.id().is_some())
        {
            let lifetime = if session.passed() { SessionToken::PASSED_FOR } else { lifetime };
            self.bury(session.number, lifetime, gateway);
        }
        self.close(session, gateway);
    }

    /// Takes a session out of its table, and ends it.
    fn close(&self, session: &Arc<Session>, gateway: &Arc<Gateway>) {
        if let Some(table) = self.of(&session.server) {
            table.remove(&session.number);
        }
        Sessions::over(session, gateway);
    }

    /// Ends a session with its upstream sessions.
    fn over(session: &Session, gateway: &Arc<Gateway>) {
        for upstream_session in session.end() {
            gateway.estate.hub.disown(&upstream_session);
            upstream_session.end(&gateway.backend);
        }
    }

    /// Ends a session that nobody asked to end. The session at the server of one that passed is its client's, who may go on
    /// with it.
    fn expired(&self, session: &Session, gateway: &Arc<Gateway>) {
        if !session.passed() {
            return Sessions::over(session, gateway);
        }
        for upstream_session in session.end() {
            gateway.estate.hub.disown(&upstream_session);
            upstream_session.let_go();
        }
    }

    /// Ends what has been idle for too long, is too old, or belongs to no virtual server any more.
    pub fn sweep(&self, gateway: &Arc<Gateway>) {
        let now = gateway.clock.now();
        self.tombstones.sweep(now);
        let active = gateway.active();
        let gone: Vec<Arc<Of>> = {
            let served = |server: &ServerId| active.snapshot.routes.server(server).is_some();
            self.tables().extract_if(|server, _| !served(server)).map(|(_, table)| table).collect()
        };
        drop(active);
        let kept: Vec<Arc<Of>> = self.tables().values().cloned().collect();
        let ended = kept.iter().flat_map(|table| table.sweep(now));
        let ended = ended.chain(gone.iter().flat_map(|table| table.remove_where(|_, _| true)));
        for session in ended.collect::<Vec<_>>() {
            self.expired(&session, gateway);
        }
    }

    /// Counts the events that all sessions keep for clients that come back.
    pub fn kept(&self) -> Arc<AtomicUsize> {
        Arc::clone(&self.kept)
    }

    /// How many there are, and how many ended ones are remembered.
    pub fn len(&self) -> (usize, usize) {
        (self.tables().values().map(|table| table.len()).sum(), self.tombstones.len())
    }
}
