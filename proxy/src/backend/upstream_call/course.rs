//! One exchange of an upstream call: under way, then read.

use super::UpstreamTarget;
use super::reading::Reading;
use super::server_message::ServerMessage;
use crate::backend::forward::{self, Exchange, Failure, Patience, UpstreamRequest};
use crate::backend::upstreams::dns::Resolver;
use http::StatusCode;
use portunus_config::Upstream;
use portunus_filters::Kind;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

type Sending = Pin<Box<dyn Future<Output = Result<Exchange, Failure>> + Send>>;

/// An exchange under way.
pub(super) enum Course {
    /// The head of the answer is waited for.
    Sending(Sending, Kind),
    /// The answer is read.
    Reading(Box<Reading>),
    /// Nothing is under way.
    Idle,
}

impl Course {
    /// Sends `request`; nothing leaves before the first [`Course::next`].
    pub(super) fn begin(request: UpstreamRequest, resolver: &Arc<Resolver>, sent: Kind) -> Course {
        Course::Sending(Box::pin(forward::send(request, Arc::clone(resolver))), sent)
    }

    /// The next message of the answer; `None` at its end. Safe to cancel.
    pub(super) async fn next(
        &mut self,
        upstream: &Arc<Upstream>,
        patience: Patience,
    ) -> Result<Option<ServerMessage>, Failure> {
        if let Course::Sending(sending, sent) = self {
            let exchange = sending.as_mut().await?;
            *self = Course::Reading(Box::new(Reading::begin(exchange, upstream, *sent)?));
        }
        match self {
            Course::Reading(reading) => reading.next(patience).await,
            Course::Sending(..) | Course::Idle => Ok(None),
        }
    }

    /// The answer that is read.
    pub(super) fn reading(&self) -> Option<&Reading> {
        match self {
            Course::Reading(reading) => Some(reading),
            Course::Sending(..) | Course::Idle => None,
        }
    }

    /// The status of a 4xx answer.
    pub(super) fn refusal(&self) -> Option<StatusCode> {
        self.reading().map(Reading::status).filter(StatusCode::is_client_error)
    }

    /// Lets a connection go whose answer is complete.
    pub(super) fn finish(&mut self) {
        if let Course::Reading(reading) = std::mem::replace(self, Course::Idle) {
            reading.finish();
        }
    }
}

/// The time that an upstream call may take; while somebody is asked, none of it passes.
pub(super) struct Budget {
    idle: Duration,
    until: Option<Instant>,
    paused: Option<Instant>,
}

impl Budget {
    /// The upstream's, unless what is asked has a deadline of its own.
    pub(super) fn of(place: &UpstreamTarget, deadline: Option<Duration>) -> Budget {
        let timeouts = &place.upstream.timeouts;
        let until = deadline.or(timeouts.total).map(|total| Instant::now() + total);
        Budget { idle: timeouts.idle, until, paused: None }
    }

    pub(super) fn patience(&self) -> Patience {
        match self.paused {
            Some(_) => Patience::default(),
            None => Patience { idle: Some(self.idle), until: self.until },
        }
    }

    pub(super) fn pause(&mut self) {
        self.paused.get_or_insert_with(Instant::now);
    }

    pub(super) fn resume(&mut self) {
        if let Some(paused) = self.paused.take() {
            let thought = paused.elapsed();
            self.until = self.until.map(|until| until + thought);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_time_of_people_does_not_count() {
        let start = Instant::now();
        let (second, minute) = (Duration::from_secs(1), Duration::from_secs(60));
        let mut budget = Budget { idle: second, until: Some(start + minute), paused: None };
        budget.pause();
        tokio::time::advance(10 * minute).await;
        budget.pause();
        assert!(budget.patience().until.is_none() && budget.patience().idle.is_none());
        budget.resume();
        assert_eq!(budget.patience().until, Some(start + 11 * minute));
        assert_eq!(budget.patience().idle, Some(second));
    }
}
