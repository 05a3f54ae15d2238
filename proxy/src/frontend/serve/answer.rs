//! Answers of our own on a session: refusals and preflights.

use super::{Connection, Halt, IncomingRequest, RefusalContext};
use crate::backend::headers::Stamp;
use crate::drain::Phase;
use crate::frontend::intake;
use crate::frontend::session::{Client, End, ReleasedHead, WriteLimits, in_time};
use crate::identify::for_more;
use crate::reply;
use bytes::Bytes;
use http::HeaderValue;
use http::header::{ALLOW, CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER, VARY, WWW_AUTHENTICATE};
use pingora_http::ResponseHeader;
use portunus_filters::{Challenge, Channel, Denial, Released};
use std::pin::pin;

impl IncomingRequest<'_> {
    /// Answers a request that a stage has ended.
    pub(super) async fn halted(&mut self, halt: Halt, client: &mut Client) -> End {
        match halt {
            Halt::Refused(denial, known) => self.refuse_unread(&denial, &known, client).await,
            Halt::Preflight => self.preflight(client).await,
            Halt::Told(status, document) => self.tell(status, document, client).await,
            Halt::Gone => End::Broken,
        }
    }

    /// Writes a refusal and keeps the connection where that is possible.
    pub(super) async fn refuse(
        &mut self,
        denial: &Denial,
        known: &RefusalContext,
        client: &mut Client,
    ) -> End {
        self.record.note_denial(denial);
        let answer = reply::refuse(denial, &known.refused(), &self.origin.arrival.request_id);
        self.record.note_http_status(answer.status.as_u16());
        let leaving = self.connection.connection_state.phases.is_reached(Phase::Draining);
        let whole = intake::discard(client, &self.parts.headers).await;
        if leaving || answer.close || !whole {
            client.close_after();
        }
        let Ok(head) = self.refusal_head(denial, &answer) else { return End::Broken };
        let mut head = ReleasedHead::own(head);
        if let Some(challenge) = &denial.challenge
            && challenge.status == answer.status.as_u16()
        {
            self.pass_challenge(challenge, &mut head);
        }
        let end = self.write(head, Released::own(answer.body), client).await;
        if !whole {
            // Closing with unread bytes resets the connection, and the reset can overtake the answer.
            intake::discard(client, &self.parts.headers).await;
        }
        end
    }

    fn refusal_head(&self, denial: &Denial, answer: &reply::Answer) -> pingora_core::Result<ResponseHeader> {
        let mut head = ResponseHeader::build_no_case(answer.status, Some(10))?;
        head.insert_header(CONTENT_LENGTH, answer.body.len())?;
        if !answer.body.is_empty() {
            head.insert_header(CONTENT_TYPE, "application/json")?;
        }
        if let Some(allow) = answer.allow {
            head.insert_header(ALLOW, allow)?;
        }
        if let Some(seconds) = answer.retry_after {
            head.insert_header(RETRY_AFTER, seconds)?;
        }
        let own = self.challenge.clone().or_else(|| for_more(denial, self.profile.as_deref()));
        if let Some(own) = own {
            head.insert_header(WWW_AUTHENTICATE, own)?;
        }
        head.insert_header("Portunus-Outcome", denial.reason.as_str())?;
        self.stamp().put(&mut head)?;
        Ok(head)
    }

    /// Adds the challenge of a server that its client's own credentials go to. A field that a filter refuses, or that is no
    /// field any more when they have read it, is left out.
    fn pass_challenge(&self, challenge: &Challenge, head: &mut ReleasedHead) {
        let active = self.connection.gateway.active();
        for field in &challenge.fields {
            let released = active.pipeline.release(Channel::Challenge, field);
            let left_out = match &released {
                Ok(released) => head.append(WWW_AUTHENTICATE, released).err().map(|error| error.to_string()),
                Err(denial) => Some(denial.reason.to_string()),
            };
            if let Some(cause) = left_out {
                tracing::debug!(cause, "a challenge of a server was left out of a refusal");
            }
        }
    }

    fn stamp(&self) -> Stamp<'_> {
        Stamp { request_id: &self.origin.arrival.request_id, origin: self.cors_origin.as_ref() }
    }

    /// Answers a CORS preflight (Fetch standard §3.2) of a listed origin.
    pub(super) async fn preflight(&mut self, client: &mut Client) -> End {
        self.record.note_answer(None);
        self.record.note_http_status(204);
        if !intake::discard(client, &self.parts.headers).await {
            client.close_after();
        }
        match self.preflight_head() {
            Ok(head) => self.write(ReleasedHead::own(head), Released::own(Bytes::new()), client).await,
            Err(_) => End::Broken,
        }
    }

    fn preflight_head(&self) -> pingora_core::Result<ResponseHeader> {
        let mut head = ResponseHeader::build_no_case(204, Some(8))?;
        self.stamp().put(&mut head)?;
        head.insert_header("Access-Control-Allow-Methods", "GET, POST, DELETE, OPTIONS")?;
        let asked = self.parts.headers.get("access-control-request-headers");
        let headers = asked.cloned().unwrap_or(HeaderValue::from_static("content-type"));
        head.insert_header("Access-Control-Allow-Headers", headers)?;
        head.insert_header("Access-Control-Max-Age", "600")?;
        head.append_header(VARY, "Access-Control-Request-Headers")?;
        Ok(head)
    }

    pub(super) async fn write(&mut self, head: ReleasedHead, body: Released, client: &mut Client) -> End {
        self.record.add_sent(body.len(), 0);
        let written = client.answer(head, body);
        match in_time(self.connection.listener.limits.write_timeout, pin!(written)).await {
            Ok(()) => End::Done,
            Err(_) => End::Broken,
        }
    }
}

/// How long the client of a request may take for its answer.
pub(super) fn write_limits(connection: Connection<'_>) -> WriteLimits<'_> {
    let timeout = connection.listener.limits.write_timeout;
    WriteLimits { timeout, phases: &connection.connection_state.phases, deadline: None }
}
