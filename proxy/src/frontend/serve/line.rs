//! Requests of clients that speak the transport of 2024-11-05, on the path of their virtual server.

use super::{IncomingRequest, RefusalContext};
use crate::backend::headers::Stamp;
use crate::frontend::bridge::http_sse;
use crate::frontend::bridge::lines::{self, Line};
use crate::frontend::bridge::responder::{Responder, Sink};
use crate::frontend::expected::Expect;
use crate::frontend::session::{Client, End};
use crate::reply;
use crate::sealing::{Binding, CallerKey, Home};
use http::header::ACCEPT;
use http::{Method, StatusCode};
use portunus_config::VirtualServer;
use portunus_filters::{Denial, Kind};
use std::sync::Arc;

/// What a request is to the old transport.
pub(super) enum Old {
    /// A GET that opens a stream.
    Opens,
    /// A POST about a stream.
    Posts(Arc<Line>),
    /// A POST about a stream that is not here, or not this caller's.
    Unknown,
}

impl IncomingRequest<'_> {
    /// What a request is to the old transport, where that is offered; `None` if it is of another.
    pub(super) fn old(&self, server: &VirtualServer) -> Option<Old> {
        if server.http_sse && self.parts.method == Method::GET && self.opens_line() {
            return Some(Old::Opens);
        }
        if !self.is_about_line(server) {
            return None;
        }
        let query = self.parts.uri.query();
        let line = lines::find(&self.connection.gateway.estate, &self.line_binding(server), query);
        Some(line.map_or(Old::Unknown, Old::Posts))
    }

    /// The stream that a POST is about, if it is here.
    pub(super) fn line(&self, server: &VirtualServer) -> Option<Arc<Line>> {
        match self.old(server)? {
            Old::Posts(line) => Some(line),
            Old::Opens | Old::Unknown => None,
        }
    }

    /// The replica that holds the stream that a POST is about.
    pub(super) fn line_home(&self, server: &VirtualServer) -> Option<Home> {
        let estate = &self.connection.gateway.estate;
        let query = self.parts.uri.query().filter(|_| self.is_about_line(server));
        lines::home(estate, &self.line_binding(server), query)
    }

    /// What is waited for on the connection of a POST about a stream: that it is taken.
    pub(super) fn taken(&self, server: &VirtualServer, expect: Expect) -> Expect {
        match self.is_about_line(server) {
            true => Expect { kind: Kind::Notification, open: Vec::new(), ..expect },
            false => expect,
        }
    }

    /// What is known of a message that is away. One about a stream must not seem to be taken if it is
    /// not: nobody would answer it.
    pub(super) fn known_elsewhere(&self, server: &VirtualServer, expect: &Expect) -> RefusalContext {
        let known = RefusalContext::of(expect, server.http_status);
        if self.is_about_line(server) { RefusalContext { kind: None, ..known } } else { known }
    }

    /// Such clients send nothing of the later transport when they open their stream.
    fn opens_line(&self) -> bool {
        let headers = &self.parts.headers;
        let later = ["mcp-session-id", "mcp-protocol-version", "last-event-id"];
        let events = headers.get(ACCEPT).is_some_and(|accept| {
            memchr::memmem::find(&accept.as_bytes().to_ascii_lowercase(), b"text/event-stream").is_some()
        });
        events && !later.iter().any(|name| headers.contains_key(*name))
    }

    fn is_about_line(&self, server: &VirtualServer) -> bool {
        server.http_sse && self.parts.method == Method::POST && lines::named(self.parts.uri.query()).is_some()
    }

    fn line_binding<'s>(&self, server: &'s VirtualServer) -> Binding<'s> {
        Binding { server: &server.id, caller: CallerKey::for_seals(&self.origin.arrival.identity) }
    }

    /// Refuses what could not be read: on the stream where a request waits for its answer there.
    pub(super) async fn refuse_unread(
        &mut self,
        denial: &Denial,
        known: &RefusalContext,
        client: &mut Client,
    ) -> End {
        let Some(line) = self.line.clone().filter(|_| !known.ids.is_empty()) else {
            return self.refuse(denial, known, client).await;
        };
        let answer = reply::refuse(denial, &known.refused(), &self.origin.arrival.request_id);
        if !http_sse::refuse(&line, String::from_utf8_lossy(&answer.body).into_owned()) {
            return self.refuse(denial, known, client).await;
        }
        let mut out = Responder {
            sink: Sink::Client(client),
            record: &mut self.record,
            stamp: Stamp { request_id: &self.origin.arrival.request_id, origin: self.cors_origin.as_ref() },
            write_timeout: self.connection.listener.limits.write_timeout,
            phases: &self.connection.connection_state.phases,
            version: self.parts.version,
            takes_events: true,
            begun: false,
        };
        let end = out.status(StatusCode::ACCEPTED).await;
        self.record.note_denial(denial);
        end
    }
}
