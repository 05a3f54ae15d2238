//! JSON answers.
//!
//! An answer of ordinary size is held until it is complete: it then leaves in one write, and an
//! upstream that dies within it leaves the client with a clean error instead of half a body.

use super::Respond;
use super::wait::{Ending, Wait};
use crate::forward::Exchange;
use crate::offload::{FREE_BYTES, INLINE_BYTES};
use crate::pieces::Pieces;
use crate::session::{Client, End};
use crate::upstreams::answer_class::Otherwise;
use bytes::Bytes;
use portunus_filters::mcp::Envelope;
use portunus_filters::{Denial, Reason};

/// Bytes that are held back; a longer answer streams.
const HOLD_BYTES: usize = INLINE_BYTES;

impl Respond<'_> {
    pub(super) async fn json(
        &mut self,
        exchange: &mut Exchange,
        client: &mut Client,
        otherwise: Otherwise,
    ) -> End {
        let expected = exchange.head.framing.expected_bytes(FREE_BYTES);
        let mut held = Pieces::default();
        loop {
            match self.next((held.len(), HOLD_BYTES), exchange, client).await {
                Wait::Chunk(chunk) => held.push(chunk, expected),
                Wait::Room(bytes) => held.plan(bytes),
                Wait::End => break,
                Wait::Ended(Ending::ClientGone) => return End::Broken,
                Wait::Ended(ending) => return self.note(&ending).map_or(End::Broken, End::Refused),
            }
            if held.len() > HOLD_BYTES {
                return self.stream_json(exchange, client, held.into_bytes()).await;
            }
        }
        let body = held.into_bytes();
        let rpc_error = match self.judge(&body) {
            Ok(judged) => {
                self.record.note_proof(judged.proven);
                judged.rpc_error
            }
            Err(why) => match otherwise {
                Otherwise::Passes => None,
                Otherwise::Malformed => {
                    let detail = "the server's answer is no JSON-RPC answer";
                    let denial = Denial::new(Reason::UpstreamMalformed, detail);
                    return self.refused(denial, why.to_owned());
                }
                Otherwise::Denied(denial) => {
                    return self.refused(denial, format!("HTTP {}", exchange.head.status.as_u16()));
                }
            },
        };
        self.record.note_http_answer(exchange.head.status.as_u16(), rpc_error);
        self.write_whole(exchange, client, body).await
    }

    async fn stream_json(&mut self, exchange: &mut Exchange, client: &mut Client, first: Bytes) -> End {
        let length = exchange.head.framing.length();
        self.record.note_http_answer(exchange.head.status.as_u16(), None);
        if self.begin(exchange, length, client).await.is_err()
            || self.write(client, self.pass.release(first), 0).await.is_err()
        {
            return End::Broken;
        }
        self.room = None;
        self.stream_rest(exchange, client).await
    }

    /// Whether a body answers the request, and how.
    fn judge(&self, body: &[u8]) -> Result<Judged, &'static str> {
        let text = std::str::from_utf8(body).map_err(|_| "not UTF-8")?;
        if self.expect.batch && text.trim_ascii_start().starts_with('[') {
            let unproven = Judged { rpc_error: None, proven: false };
            return Envelope::read_batch(text).map(|_| unproven).map_err(|_| "no JSON-RPC batch");
        }
        let envelope = Envelope::read(text).map_err(|_| "no JSON-RPC message")?;
        let ours = envelope.id.as_ref().is_some_and(|id| self.expect.open.contains(id));
        if envelope.method.is_some() || !ours {
            return Err("not the answer to this request");
        }
        let rpc_error = envelope.error_code.or(envelope.result.is_none().then_some(0));
        Ok(Judged { rpc_error, proven: envelope.is_success() })
    }
}

/// How a body answers.
struct Judged {
    rpc_error: Option<i64>,
    /// By a result that is no tool error: what was asked for exists.
    proven: bool,
}
