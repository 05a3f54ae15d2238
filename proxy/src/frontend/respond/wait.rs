//! One wait for everything that can happen to an answer in progress.

use super::Respond;
use crate::backend::forward::{Exchange, Failure, Held, Patience, Piece};
use crate::peers::silence;
use crate::reply::replica_lost;
use portunus_filters::Denial;

/// How an answer ends, if not as a whole.
pub(super) enum Ending {
    ClientGone,
    /// Its client did not take a part of it.
    Unwritten,
    /// The gateway ends it.
    Withdrawn(Denial),
    /// Its server broke off, or the replica that serves it is gone.
    Broken(Failure),
    /// It took too long.
    Late(Failure),
    /// It is none that a client can be given.
    Malformed(Failure),
    /// Its server ended the stream.
    Complete,
}

impl Respond<'_> {
    /// Waits for the next piece of the answer, for the client to leave, for a limit in time, for a
    /// swap, and for the end of the process.
    pub(super) async fn next(&mut self, held: Held, exchange: &mut Exchange) -> Result<Piece, Ending> {
        // One read brings a bounded number of bytes: the other ends are looked at after them.
        let next = match exchange.ready(held, self.room.as_ref()) {
            Some(next) => next.map_err(Ending::Broken),
            None => self.wait(held, exchange).await,
        };
        match &next {
            // Another replica may not have recorded the message.
            Err(Ending::Broken(_)) => self.record.take_back(),
            Err(Ending::Late(_)) => self.request.cancel(self.expect.to_cancel()),
            _ => {}
        }
        next
    }

    async fn wait(&mut self, held: Held, exchange: &mut Exchange) -> Result<Piece, Ending> {
        let (gateway, upstream) = (self.gateway, self.request.upstream);
        // On a stream without an end the upstream owes no message: its silence is not counted.
        if !self.expect.endless && exchange.room_for(held, self.room.as_ref()).is_none() {
            self.record.begin_upstream_wait();
        }
        let patience = Patience { idle: Some(upstream.timeouts.idle), until: exchange.deadline };
        // Not biased: an upstream that always has something to say must not hide the other ends.
        let next = tokio::select! {
            next = exchange.next(held, &mut self.room, patience) => next.map_err(|failure| {
                if failure.pending { Ending::Late(failure) } else { Ending::Broken(failure) }
            }),
            () = self.client.gone() => Err(Ending::ClientGone),
            denial = self.expect.withdrawn(gateway, upstream, self.limits.phases) => {
                Err(Ending::Withdrawn(denial))
            }
            () = silence(self.home, gateway) => Err(Ending::Broken(replica_lost().into())),
        };
        self.record.end_upstream_wait();
        next
    }
}
