//! One wait for everything that can happen to an answer in progress.

use super::{Expect, Respond};
use crate::context::Gateway;
use crate::drain::{Phase, reached};
use crate::errand::{self, Errand, Session};
use crate::forward::Exchange;
use crate::identify::ended;
use crate::offload::room_for;
use crate::peers::Member;
use crate::session::Client;
use crate::upstreams::fault::Fault;
use bytes::Bytes;
use portunus_config::{ServerId, Upstream};
use portunus_filters::Era;
use std::sync::Arc;
use tokio::time::Instant;

/// What happened first.
pub(super) enum Wait {
    /// There is room for so many bytes of it.
    Room(usize),
    /// More of the body.
    Chunk(Bytes),
    /// The body is complete.
    End,
    /// The answer ends here.
    Ended(Ending),
}

impl From<Result<Option<Bytes>, Fault>> for Wait {
    fn from(read: Result<Option<Bytes>, Fault>) -> Wait {
        match read {
            Ok(Some(chunk)) => Wait::Chunk(chunk),
            Ok(None) => Wait::End,
            Err(fault) => Wait::Ended(Ending::Fault(fault)),
        }
    }
}

/// Why an answer ends before its body does.
pub(super) enum Ending {
    ClientGone,
    Fault(Fault),
    /// Nothing came for the upstream's idle timeout.
    Idle,
    /// The call's total time is over.
    Deadline,
    /// The same, while large answers of the same server took all the room.
    Crowded,
    /// The replica that serves it answers nothing any more.
    HomeLost,
    /// The process ends.
    Expired,
    /// The virtual server is gone, or leads elsewhere.
    RouteRemoved,
    /// The caller may no longer listen.
    CallerLost,
}

impl Respond<'_> {
    /// Waits for the next piece of the answer, for the client to leave, for a limit in time, for a
    /// swap, and for the end of the process. Of the answer `held` bytes are held back, and at most `most` will be;
    /// what is not short waits for room first.
    pub(super) async fn next(
        &mut self,
        (held, most): (usize, usize),
        exchange: &mut Exchange,
        client: &mut Client,
    ) -> Wait {
        if let Some(bytes) = room_for(held, exchange.head.framing.length(), most, self.room.as_ref()) {
            return self.make_room(bytes, exchange, client).await;
        }
        let Some(connection) = exchange.checkout.connection() else {
            return Wait::Ended(Ending::Fault(Fault::Broken(std::io::ErrorKind::NotConnected.into())));
        };
        // One read brings a bounded number of bytes: the other ends are looked at after them.
        if let Some(read) = connection.arrived() {
            return read.into();
        }
        // On a stream without an end the upstream owes no message: its silence is not counted.
        if !self.expect.endless {
            self.record.begin_upstream_wait();
        }
        let idle = Instant::now() + self.upstream.timeouts.idle;
        let (until, late) = match exchange.deadline {
            Some(deadline) if deadline <= idle => (deadline, Ending::Deadline),
            _ => (idle, Ending::Idle),
        };
        let read = self.unless_ended(connection.read_body(), client, (until, late)).await;
        self.record.end_upstream_wait();
        read.map_or_else(Wait::Ended, Wait::from)
    }

    async fn make_room(&mut self, bytes: usize, exchange: &Exchange, client: &mut Client) -> Wait {
        let pool = self.pool;
        let room = pool.offload.room(exchange.checkout.owner(), bytes);
        let until = exchange.deadline.unwrap_or_else(|| Instant::now() + self.upstream.timeouts.idle);
        match self.unless_ended(room, client, (until, Ending::Crowded)).await {
            Ok(room) => {
                self.room = Some(room);
                Wait::Room(bytes)
            }
            Err(ending) => Wait::Ended(ending),
        }
    }

    /// Waits for `awaited`, unless the answer ends before.
    async fn unless_ended<T>(
        &mut self,
        awaited: impl Future<Output = T>,
        client: &mut Client,
        (until, late): (Instant, Ending),
    ) -> Result<T, Ending> {
        let stop_at = if self.expect.endless { Phase::Draining } else { Phase::Expired };
        // Not biased: an upstream that always has something to say must not hide the other ends.
        Err(tokio::select! {
            done = awaited => return Ok(done),
            () = client.gone() => Ending::ClientGone,
            () = unrouted(self.gateway, &self.expect, self.upstream) => Ending::RouteRemoved,
            () = unwelcome(self.gateway, &self.expect) => Ending::CallerLost,
            () = silence(self.gateway, self.home) => Ending::HomeLost,
            () = reached(&mut self.phase, stop_at) => Ending::Expired,
            () = tokio::time::sleep_until(until) => {
                self.cancel_upstream();
                late
            }
        })
    }

    /// A legacy server does not take a closed connection for a cancellation: it is told.
    pub(super) fn cancel_upstream(&self) {
        if self.expect.era != Era::Legacy || self.expect.founds_session || self.expect.elsewhere {
            return;
        }
        let session = Session::of(self.headers);
        if !session.exists() {
            return;
        }
        for id in &self.expect.open {
            let errand = Errand::Cancel { session: session.clone(), id: id.clone() };
            errand::run(self.gateway, errand, Arc::clone(self.upstream), Arc::clone(self.pool));
        }
    }
}

/// Returns when the replica that serves an answer falls silent; never without one.
async fn silence(gateway: &Arc<Gateway>, home: Option<&Arc<Member>>) {
    match home {
        // Boxed: no other answer needs the room.
        Some(home) => Box::pin(home.falls_silent(gateway)).await,
        None => std::future::pending().await,
    }
}

/// Returns when the configuration in force no longer leads this stream to this upstream; never for a
/// call, which finishes under the snapshot that judged it.
pub async fn unrouted(gateway: &Gateway, expect: &Expect, upstream: &Upstream) {
    if !expect.endless || expect.elsewhere {
        return std::future::pending().await;
    }
    // Before the first look: what is activated after it, is seen by the one or told by the other.
    let mut serials = gateway.serials();
    while still_routed(gateway, &expect.server, upstream) {
        if serials.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}

/// Returns when the caller of this stream may no longer listen; never for a call.
pub async fn unwelcome(gateway: &Arc<Gateway>, expect: &Expect) {
    let standing = expect.standing.as_ref().filter(|_| expect.endless);
    ended(standing, gateway).await;
}

/// The snapshot is looked at and let go: a stream holds none. Limits and credentials may have
/// changed; they are for what comes next.
fn still_routed(gateway: &Gateway, server: &ServerId, upstream: &Upstream) -> bool {
    let active = gateway.active();
    let server = active.snapshot.routes.server(server);
    let same = |one: &Upstream| one.name == upstream.name && one.url == upstream.url;
    // An endpoint that serves now serves its streams too: what goes over them is judged.
    server.is_some_and(|server| active.may_pass(server) && server.upstreams.iter().any(|one| same(one)))
}
