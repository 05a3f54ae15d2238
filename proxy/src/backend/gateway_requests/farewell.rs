//! The ends of sessions at upstreams, told one after the other.
//!
//! Sessions expire by the thousand, and a server keeps each until it is told: what cannot be told at
//! once waits its turn. A server that takes none for a while is told of no more.

use super::{GatewayRequest, Session, WITHIN, count, deliver};
use crate::backend::Backend;
use crate::backend::upstreams::pool::Pool;
use portunus_config::{Upstream, UpstreamKey};
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::time::timeout;

/// Ends that wait; a process that holds more sessions has lost count anyway.
const MAX_WAITING: usize = 65_536;
/// What the headers of all of them may take: they are what a client sent.
const MAX_BYTES: usize = 32 << 20;
/// Ends that are told at once.
const TELLERS: usize = 16;
/// Failures in a row after which what waits for a server is dropped.
const PATIENCE: u32 = 3;

/// Sessions whose servers are to be told that they have ended.
#[derive(Default)]
pub struct Farewells {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Farewell>,
    /// What the headers of those who wait take.
    bytes: usize,
    tellers: usize,
    failures: HashMap<UpstreamKey, u32>,
}

struct Farewell {
    session: Session,
    upstream: Arc<Upstream>,
    pool: Arc<Pool>,
}

impl Farewells {
    /// Tells a server, as soon as it is its turn, that a session has ended.
    pub fn tell(backend: &Arc<Backend>, session: Session, upstream: &Arc<Upstream>, pool: &Arc<Pool>) {
        let begins = {
            let mut state = backend.farewells.lock();
            let bytes = session.bytes();
            if state.waiting.len() >= MAX_WAITING || state.bytes + bytes > MAX_BYTES {
                drop(state);
                return dropped(backend, 1);
            }
            let (upstream, pool) = (Arc::clone(upstream), Arc::clone(pool));
            state.bytes += bytes;
            state.waiting.push_back(Farewell { session, upstream, pool });
            let begins = state.tellers < TELLERS;
            state.tellers += usize::from(begins);
            begins
        };
        if begins {
            backend.spawn(work(Arc::clone(backend)));
        }
    }

    /// Ends that wait.
    pub fn len(&self) -> usize {
        self.lock().waiting.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The next end to tell; without one, the teller that asks is gone.
    fn next(&self) -> Option<Farewell> {
        let mut state = self.lock();
        let next = state.waiting.pop_front();
        match &next {
            Some(next) => state.bytes -= next.session.bytes(),
            None => state.tellers -= 1,
        }
        next
    }

    /// Notes how it went; gives how many others were dropped.
    fn told(&self, upstream: UpstreamKey, done: bool) -> usize {
        let mut state = self.lock();
        if done {
            state.failures.remove(&upstream);
            return 0;
        }
        let failures = state.failures.entry(upstream).or_insert(0);
        *failures += 1;
        if *failures < PATIENCE {
            return 0;
        }
        state.failures.remove(&upstream);
        let before = state.waiting.len();
        state.waiting.retain(|farewell| farewell.upstream.key != upstream);
        state.bytes = state.waiting.iter().map(|farewell| farewell.session.bytes()).sum();
        before - state.waiting.len()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn work(backend: Arc<Backend>) {
    while let Some(Farewell { session, upstream, pool }) = backend.farewells.next() {
        let gateway_request = GatewayRequest::Delete { session };
        let status =
            timeout(WITHIN, deliver(&backend, &gateway_request, &upstream, &pool)).await.ok().flatten();
        count(&backend, &gateway_request, status.is_some_and(|status| status.is_success()));
        // Whatever it answers, it answers: 405 is its right (2025-11-25 transports).
        let answered = status.is_some_and(|status| !status.is_server_error());
        let others = backend.farewells.told(upstream.key, answered);
        if others > 0 {
            tracing::warn!(
                upstream = &*upstream.name,
                others,
                "a server is not told which sessions have ended"
            );
            dropped(&backend, others);
        }
    }
}

fn dropped(backend: &Backend, number: usize) {
    let number = u64::try_from(number).unwrap_or(u64::MAX);
    backend.metrics.gateway_requests.with_label_values(&["delete", "dropped"]).inc_by(number);
}
