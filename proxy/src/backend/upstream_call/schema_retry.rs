//! Sends a call once more when its server missed a header: with those of the schema as it is now.

use super::modern::{Modern, ModernOptions};
use super::{Answer, CallState, Outcome, RawEvent, SchemaRefresh, UpstreamCall};
use crate::backend::forward::Failure;
use bytes::Bytes;
use portunus_filters::Era;
use portunus_filters::mcp::bridge::ParamHeader;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

/// The server found headers that do not fit the body (2026-07-28 streamable-http), and did nothing.
const HEADER_MISMATCH: i64 = -32020;

type Asking = Pin<Box<dyn Future<Output = Option<Arc<[ParamHeader]>>> + Send>>;

/// The one retry of a call whose first answer says so.
pub(super) enum SchemaRetry {
    /// No answer was such a one yet.
    Open(Box<(Box<dyn SchemaRefresh>, ModernOptions)>),
    /// The list is asked for again.
    Refreshing(Asking, Box<(ModernOptions, Answer<Bytes>)>),
}

impl SchemaRetry {
    pub(super) fn of(
        schema_refresh: Option<Box<dyn SchemaRefresh>>,
        era: Era,
        options: ModernOptions,
    ) -> Option<SchemaRetry> {
        let schema_refresh = schema_refresh.filter(|_| era == Era::Modern)?;
        Some(SchemaRetry::Open(Box::new((schema_refresh, options))))
    }
}

impl UpstreamCall {
    /// Asks for the list again if that may help; gives back what was heard if not.
    pub(super) fn refresh_schema_on_mismatch(&mut self, raw: RawEvent) -> Option<RawEvent> {
        let is_first = matches!(&self.state, CallState::Modern(modern) if modern.is_in_first_round());
        match (raw, self.schema_retry.take()) {
            (RawEvent::Done(answer), Some(SchemaRetry::Open(open))) if is_first && is_mismatch(&answer) => {
                let (schema_refresh, options) = *open;
                let asking = schema_refresh.params(Arc::clone(&self.call.backend), options.params());
                self.schema_retry = Some(SchemaRetry::Refreshing(asking, Box::new((options, answer))));
                None
            }
            (raw, schema_retry) => {
                self.schema_retry = schema_retry;
                Some(raw)
            }
        }
    }

    /// Whether the list is asked for again.
    pub(super) fn is_refreshing_schema(&self) -> bool {
        matches!(self.schema_retry, Some(SchemaRetry::Refreshing(..)))
    }

    /// Sends the call again if its schema is another one; else the answer stands. Safe to cancel.
    pub(super) async fn retry_with_fresh_schema(&mut self) -> Option<RawEvent> {
        let Some(SchemaRetry::Refreshing(asking, _)) = &mut self.schema_retry else { return None };
        let params = asking.await;
        let Some(SchemaRetry::Refreshing(_, known)) = self.schema_retry.take() else { return None };
        let (options, answer) = *known;
        let Some(params) = params else { return Some(RawEvent::Done(answer)) };
        tracing::debug!(upstream = &*self.upstream().name, "a call is said again by a newer list");
        match self.send_again(&options.with(params)) {
            Ok(()) => None,
            Err(failure) => Some(RawEvent::Failed(failure)),
        }
    }

    fn send_again(&mut self, options: &ModernOptions) -> Result<(), Failure> {
        self.state = CallState::Modern(Box::new(Modern::open((&self.call, &self.call.parts()?), options)?));
        Ok(())
    }
}

fn is_mismatch(answer: &Answer<Bytes>) -> bool {
    matches!(answer.outcome, Outcome::Error { code: HEADER_MISMATCH, .. })
}
