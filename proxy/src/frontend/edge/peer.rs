//! What other replicas send: clients' requests, and news.

use super::{ConnectionServer, ListenerRuntime, PeerInfo, PeerKind};
use crate::frontend::intake::{self, BodyRoom, EraOf};
use crate::frontend::serve::{Connection, serve};
use crate::frontend::session::in_time;
use crate::frontend::session::one::Rest;
use crate::frontend::session::{Client, ReleasedHead};
use crate::peers::{Relayed, Verdict, news};
use crate::shares::Owner;
use bytes::Bytes;
use http::request::Parts;
use pingora_http::ResponseHeader;
use portunus_filters::{Era, Released};
use std::pin::pin;

impl ConnectionServer {
    /// Serves a request of another replica; boxed, so that those of clients take no room for it.
    pub(super) async fn serve_replica(
        &self,
        runtime: &ListenerRuntime,
        peer: &PeerInfo,
        mut head: Parts,
        mut client: Client,
    ) -> Option<Rest> {
        if news::is_news(&head) {
            let heard = self.hear(runtime, &head, &mut client).await?;
            return self.reply(runtime, client, &head, heard).await;
        }
        let believed =
            self.gateway.peers.believe(&self.gateway.estate.seals, &head, self.gateway.clock.now());
        let believed = believed.and_then(|relayed| {
            let came_by = self.listeners.iter().filter(|runtime| runtime.peer_kind == PeerKind::Clients);
            let came_by = came_by.into_iter().find(|runtime| *runtime.listener.name == *relayed.listener);
            Ok((came_by.ok_or(Verdict::Elsewhere)?, relayed))
        });
        match believed {
            Ok((came_by, relayed)) => {
                // It has said what it had to, and is nobody else's business.
                head.headers.remove(Verdict::FIELD);
                relayed.restore(&mut head.headers);
                serve(head, client, self.onward(came_by, peer, &relayed)).await
            }
            Err(verdict) => {
                tracing::warn!(peer = %peer.address, verdict = verdict.as_str(), "a relayed request is not served");
                self.reply(runtime, client, &head, Err(verdict)).await
            }
        }
    }

    /// The request as if it had come in here.
    fn onward<'a>(
        &'a self,
        runtime: &'a ListenerRuntime,
        peer: &PeerInfo,
        relayed: &'a Relayed,
    ) -> Connection<'a> {
        let (peer, secure, connection_state) = (peer.address, relayed.secure, &self.nobody);
        let (gateway, listener, relayed) = (&self.gateway, &runtime.listener, Some(relayed));
        Connection { gateway, listener, peer, forwards: false, secure, connection_state, relayed }
    }

    /// Takes news in; `None` if the other replica has left.
    async fn hear(
        &self,
        runtime: &ListenerRuntime,
        head: &Parts,
        client: &mut Client,
    ) -> Option<Result<Bytes, Verdict>> {
        let envelope = match news::announced(&self.gateway, head) {
            Ok(envelope) => envelope,
            Err(verdict) => return Some(Err(verdict)),
        };
        let within = runtime.listener.limits.body_timeout;
        let mut room = BodyRoom::new(&self.gateway.estate.bodies, Owner::Nobody);
        let modern: EraOf = |_| Era::Modern;
        let reader = (modern, &mut room);
        let body = intake::body(client, &head.headers, news::MAX_BODY, within, reader).await;
        let body = match body {
            Ok(body) => body,
            Err(intake::BodyFault::Denied(..)) => return Some(Err(Verdict::Unknown)),
            Err(intake::BodyFault::Gone) => return None,
        };
        Some(news::hear(&self.gateway, &envelope, &body))
    }

    /// Answers the other replica itself.
    async fn reply(
        &self,
        runtime: &ListenerRuntime,
        mut client: Client,
        head: &Parts,
        said: Result<Bytes, Verdict>,
    ) -> Option<Rest> {
        if !client.is_body_done() && !intake::discard(&mut client, &head.headers).await {
            client.close_after();
        }
        let answer = || -> pingora_core::Result<(ResponseHeader, Bytes)> {
            let status = said.as_ref().map_or_else(|verdict| verdict.status(), |_| 200);
            let mut head = ResponseHeader::build(status, Some(2))?;
            if let Err(verdict) = &said {
                head.insert_header(Verdict::FIELD, verdict.as_str())?;
            }
            let body = said.unwrap_or_default();
            head.insert_header("Content-Length", body.len())?;
            Ok((head, body))
        };
        let (head, body) = answer().ok()?;
        in_time(
            runtime.listener.limits.write_timeout,
            pin!(client.answer(ReleasedHead::own(head), Released::own(body))),
        )
        .await
        .ok()?;
        client.finish().await
    }
}
