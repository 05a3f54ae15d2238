//! Messages about state that another replica keeps.

use super::{Brokered, Connection, IncomingRequest, is_repeatable, write_limits};
use crate::backend::gateway_requests::PassedRequest;
use crate::backend::headers::{Stamp, is_stamped};
use crate::frontend::bridge;
use crate::frontend::context::Active;
use crate::frontend::expected::Expect;
use crate::frontend::respond::Respond;
use crate::frontend::session::{Client, End};
use crate::frontend::session_field::SessionField;
use crate::identify::Source;
use crate::metrics::Stage;
use crate::peers::{Line, Member, Passenger, PeerFailure, Relayed, Where, relay};
use crate::reply::replica_lost;
use crate::sealing::{Binding, CallerKey, Home};
use bytes::Bytes;
use portunus_config::VirtualServer;
use portunus_filters::message::Reading;
use portunus_filters::{Kind, RawPass};
use std::sync::{Arc, Weak};
use std::time::Duration;

/// A replica that is there answers all but calls at once.
const AT_ONCE: Duration = Duration::from_secs(5);
/// What a call may take beyond its time at the servers, until the replica answers for them.
const BEYOND: Duration = Duration::from_secs(60);

/// A message that another replica has to serve.
pub(super) struct Away {
    server: Arc<VirtualServer>,
    reading: Reading,
    /// The snapshot that would judge it here. It is not held, since what another replica serves may take
    /// hours.
    active: Weak<Active>,
    body: Bytes,
    member: Arc<Member>,
    home: Home,
}

impl IncomingRequest<'_> {
    /// Where a message has to go, if what it is about is kept by another replica; one that has come
    /// from there is served here, whatever it says. It `passes` if it would go to its server from here as it came.
    pub(super) fn away(
        &self,
        (active, passes): (&Arc<Active>, bool),
        server: &Arc<VirtualServer>,
        reading: &Reading,
        body: &Bytes,
    ) -> Option<Away> {
        let gateway = self.connection.gateway;
        if self.connection.relayed.is_some() || gateway.peers.members().next().is_none() {
            return None;
        }
        let caller = CallerKey::for_seals(&self.origin.arrival.identity);
        let binding = Binding { server: &server.id, caller };
        let home = bridge::home(&gateway.estate, &binding, passes, &self.parts.headers, reading);
        let home = home.or_else(|| self.line_home(server))?;
        let Where::Peer(member) = gateway.peers.home(&home) else { return None };
        let (server, reading, active) = (Arc::clone(server), reading.clone(), Arc::downgrade(active));
        Some(Away { server, reading, active, body: body.clone(), member, home })
    }

    /// Brings a message to its home, and the answer back; if that is gone, it is served here as far as
    /// what it carries allows and the configuration is still the one that its caller was found by.
    pub(super) async fn send_on(&mut self, away: Away, client: &mut Client) -> End {
        let Away { server, reading, active, body, member, home } = away;
        let gateway = Arc::clone(self.connection.gateway);
        let expect = self.awaiting(Expect::of(&reading, &server, self.parts.version));
        let expect = Expect { elsewhere: true, ..expect };
        let expect = self.taken(&server, expect);
        let known = self.known_elsewhere(&server, &expect);
        let line = member.line();
        if let Some(first) = reading.messages().first() {
            self.record.note_message(first, body.len());
        }
        let passenger = Passenger {
            head: &self.parts,
            relayed: self.asserted(&server, &body),
            body,
            trace: &self.origin.trace,
            endless: expect.endless,
            within: patience(&server, &expect),
        };
        let sent = tokio::select! {
            biased;
            sent = relay(&gateway, &member, &home, passenger) => sent,
            () = Box::pin(member.falls_silent(&gateway)) => {
                Err(PeerFailure::Lost("it answers nothing any more".to_owned()))
            }
            () = client.gone() => return End::Broken,
        };
        self.record.end_stage(Stage::Forward);
        let failure = match sent {
            Ok(exchange) => {
                member.answers();
                // What refuses it before its message is read does not know it, and has a record of something else.
                if is_stamped(&exchange.head.headers, &self.origin.arrival.request_id) {
                    self.record.leave_to_replica();
                }
                let end = self.respond((&member, &line), expect, client).run(exchange).await;
                return match end {
                    End::Refused(denial) => self.refuse(&denial, &known, client).await,
                    end => end,
                };
            }
            Err(failure) => failure,
        };
        member.fails(&failure);
        let served_here = match failure {
            PeerFailure::Gone(_) | PeerFailure::Restarted => true,
            PeerFailure::Ended(_) => reading.messages().iter().all(is_repeatable),
            PeerFailure::Lost(_) | PeerFailure::Refused(_) => false,
        };
        let kept = active.upgrade().filter(|active| gateway.keeps(active));
        if let Some(active) = kept.filter(|_| served_here) {
            return Box::pin(self.broker(Brokered { active, server, reading }, client)).await;
        }
        self.record.note_cause(&failure.to_string());
        self.refuse(&replica_lost(), &known, client).await
    }

    /// What the other replica is to believe of the request.
    fn asserted(&self, server: &VirtualServer, body: &[u8]) -> Relayed {
        Relayed {
            listener: Arc::clone(&self.connection.listener.name),
            server: server.id.clone(),
            source: Source { client: self.origin.arrival.source, behind_proxy: self.origin.behind_proxy },
            secure: self.connection.secure,
            identity: self.origin.arrival.identity.clone(),
            request_id: Arc::clone(&self.origin.arrival.request_id),
            body: Relayed::digest(body),
            credentials: Relayed::credentials_for(server, &self.parts.headers),
        }
    }

    fn respond<'r>(
        &'r mut self,
        (home, line): (&'r Arc<Member>, &'r Line),
        expect: Expect,
        client: &'r mut Client,
    ) -> Respond<'r> {
        let Connection { gateway, .. } = self.connection;
        let (headers, upstream, pool) = (&self.parts.headers, &line.upstream, &line.pool);
        Respond {
            gateway,
            request: PassedRequest { backend: &gateway.backend, headers, upstream, pool },
            client,
            record: &mut self.record,
            stamp: Stamp { request_id: &self.origin.arrival.request_id, origin: self.cors_origin.as_ref() },
            expect,
            limits: write_limits(self.connection),
            home: Some(home),
            session: SessionField::AsItCame,
            room: None,
            pass: RawPass::of_owner(),
        }
    }
}

/// How long the head of the answer may take. The home keeps the deadlines of calls itself.
fn patience(server: &VirtualServer, expect: &Expect) -> Duration {
    if expect.kind != Kind::Request {
        return AT_ONCE;
    }
    let longest = server.upstreams.iter().map(|upstream| upstream.timeouts.total.unwrap_or(BEYOND)).max();
    longest.unwrap_or_default() + BEYOND
}
