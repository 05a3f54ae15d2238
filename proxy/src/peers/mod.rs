//! The other replicas of this gateway.
//!
//! A token names the replica, and the run of it, that keeps the state behind it: its [`Home`]. A
//! message about such state that lands elsewhere is relayed there, once: the client's own head and
//! bytes, with a sealed [`Assertion`] of who the client is, on a listener that only replicas reach.
//! What a replica is at is looked up in the configuration, never taken from a token.
//!
//! Replicas also tell each other which sessions have ended ([`news`]), since their ids would go on
//! opening everywhere.

mod assertion;
mod caller;
pub mod news;
mod pulse;
mod receive;
mod relay;
mod window;

pub use assertion::{Assertion, Relayed};
pub use pulse::silence;
pub use receive::Verdict;
pub use relay::{Passenger, PeerFailure, relay};

use crate::backend::upstreams::pool::Pool;
use crate::frontend::edge::LiveTls;
use crate::sealing::Home;
use arc_swap::ArcSwap;
use assertion::Address;
use portunus_config::{Bootstrap, Upstream};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;
use window::{Numbers, Windows};

/// This replica and the others.
pub struct Peers {
    own: Home,
    /// What is sealed for this replica is bound to this.
    address: Address,
    members: BTreeMap<Arc<str>, Arc<Member>>,
    /// What was taken of the others.
    taken: Windows,
    /// TLS of the listener for peers; it swaps without a restart.
    pub tls: Option<Arc<LiveTls>>,
}

/// Another replica.
pub struct Member {
    name: Arc<str>,
    line: ArcSwap<Line>,
    /// What is sealed for it is bound to this.
    address: Address,
    /// Of what was sent to it.
    numbers: Numbers,
    news: news::Outbox,
    pulse: pulse::Pulse,
    /// The last message for it did not reach it.
    silent: AtomicBool,
}

/// How a replica is spoken to.
pub struct Line {
    /// Where it is.
    pub upstream: Arc<Upstream>,
    /// The connections to it.
    pub pool: Arc<Pool>,
}

/// Where the state behind a token is.
pub enum Where {
    /// Here.
    Here,
    /// At another replica, as far as can be known without asking it.
    Peer(Arc<Member>),
    /// Nowhere: an earlier run of this replica kept it, or one that is none of ours.
    Gone,
}

impl Peers {
    /// This replica, which is at home in `own`, and the others that `bootstrap` names.
    pub fn new(bootstrap: &Bootstrap, own: Home) -> Peers {
        let configured = bootstrap.peers.as_ref();
        let members = configured.into_iter().flat_map(|peers| &peers.members).map(|(name, upstream)| {
            let name: Arc<str> = name.as_str().into();
            (Arc::clone(&name), Arc::new(Member::new(name, Arc::clone(upstream))))
        });
        let tls = configured.and_then(|peers| peers.listener.tls.clone());
        Peers {
            address: Address::of(own.replica()),
            own,
            members: members.collect(),
            taken: Windows::default(),
            tls: tls.map(|tls| Arc::new(LiveTls::new(tls))),
        }
    }

    /// The home of what is kept here.
    pub fn own(&self) -> &Home {
        &self.own
    }

    /// Where to find what `home` keeps.
    pub fn home(&self, home: &Home) -> Where {
        if home.replica() == self.own.replica() {
            return if home.boot() == self.own.boot() { Where::Here } else { Where::Gone };
        }
        self.members.get(home.replica()).map_or(Where::Gone, |member| Where::Peer(Arc::clone(member)))
    }

    /// The other replicas.
    pub fn members(&self) -> impl Iterator<Item = &Arc<Member>> {
        self.members.values()
    }

    /// Takes over new certificates; where replicas are needs a restart.
    pub fn renew(&self, bootstrap: &Bootstrap) {
        let Some(peers) = &bootstrap.peers else { return };
        if let (Some(live), Some(tls)) = (&self.tls, &peers.listener.tls) {
            live.replace(tls);
        }
        for (name, upstream) in &peers.members {
            if let Some(member) = self.members.get(name.as_str()) {
                member.renew(upstream);
            }
        }
    }

    /// Closes what has been idle for too long, and forgets assertions that are no longer valid.
    pub fn sweep(&self, now: Instant, moment: portunus_filters::Moment) {
        self.members().for_each(|member| member.line.load().pool.sweep(now));
        self.taken.sweep(moment);
    }
}

impl Member {
    fn new(name: Arc<str>, upstream: Arc<Upstream>) -> Member {
        let pool = Arc::new(Pool::new(&upstream));
        let address = Address::of(&name);
        Member {
            name,
            line: ArcSwap::from_pointee(Line { upstream, pool }),
            address,
            numbers: Numbers::default(),
            news: Default::default(),
            pulse: Default::default(),
            silent: AtomicBool::new(false),
        }
    }

    /// A message reached it.
    pub fn answers(&self) {
        self.thaws();
        if self.silent.swap(false, Ordering::Relaxed) {
            tracing::info!(peer = &*self.name, "the replica answers again");
        }
    }

    /// A message could not be brought to it; the log hears of the first of them.
    pub fn fails(&self, failure: &PeerFailure) {
        let known = match failure {
            // It answers.
            PeerFailure::Restarted => true,
            PeerFailure::Gone(_) | PeerFailure::Ended(_) | PeerFailure::Lost(_) | PeerFailure::Refused(_) => {
                self.silent.swap(true, Ordering::Relaxed)
            }
        };
        if known {
            tracing::debug!(peer = &*self.name, %failure, "a message cannot be brought to its home");
        } else {
            tracing::warn!(peer = &*self.name, %failure, "a message cannot be brought to its home");
        }
    }

    /// Its name among the replicas.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// How to speak to it now.
    pub fn line(&self) -> Arc<Line> {
        self.line.load_full()
    }

    fn renew(&self, upstream: &Arc<Upstream>) {
        if self.line.load().upstream.key != upstream.key {
            let pool = Arc::new(Pool::new(upstream));
            self.line.store(Arc::new(Line { upstream: Arc::clone(upstream), pool }));
        }
    }
}

#[cfg(test)]
mod tests;
