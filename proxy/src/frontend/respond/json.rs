//! Passes JSON answers.
//!
//! An answer of ordinary size, up to [`INLINE_BYTES`], is held until it is complete: it then leaves in one write, and an
//! upstream that dies within it leaves the client with a clean error instead of half a body.

use super::Respond;
use crate::backend::forward::{Exchange, Failure, Held, Piece};
use crate::backend::upstreams::answer_class::Otherwise;
use crate::frontend::session::End;
use crate::offload::{FREE_BYTES, INLINE_BYTES};
use crate::pieces::Pieces;
use portunus_filters::mcp::Summary;
use portunus_filters::{Denial, Reason};

impl Respond<'_> {
    pub(super) async fn json(&mut self, exchange: &mut Exchange, otherwise: Otherwise) -> End {
        let expected = exchange.head.framing.expected_bytes(FREE_BYTES);
        let mut held = Pieces::default();
        loop {
            match self.next(Held { now: held.len(), most: INLINE_BYTES }, exchange).await {
                Ok(Piece::Chunk(chunk)) => held.push(chunk, expected),
                Ok(Piece::Room(bytes)) => held.plan(bytes),
                Ok(Piece::End) => break,
                Err(ending) => return self.cut(ending),
            }
            if held.len() > INLINE_BYTES {
                return self.stream(exchange, held.into_bytes()).await;
            }
        }
        let body = held.into_bytes();
        let rpc_error = match (self.judge(&body), otherwise) {
            (Ok(summary), _) => {
                let answer = summary.answer.unwrap_or_default();
                self.record.note_proof(answer.succeeds);
                answer.rpc_error
            }
            (Err(_), Otherwise::Passes) => None,
            (Err(cause), Otherwise::Malformed) => {
                let denial =
                    Denial::new(Reason::UpstreamMalformed, "the server's answer is no JSON-RPC answer");
                return self.refused(Failure { cause: cause.to_owned(), ..denial.into() });
            }
            (Err(_), Otherwise::Denied(denial)) => {
                let cause = format!("HTTP {}", exchange.head.status.as_u16());
                return self.refused(Failure { cause, ..denial.into() });
            }
        };
        self.write_whole(exchange, body, rpc_error).await
    }

    /// The summary of a body, if it answers the request. Each part of a batch may say something else.
    fn judge(&self, body: &[u8]) -> Result<Summary, &'static str> {
        let text = std::str::from_utf8(body).map_err(|_| "not UTF-8")?;
        let summary = Summary::read(text, self.expect.batch).ok_or("no JSON-RPC message")?;
        let is_ours = || summary.answered.iter().any(|id| self.expect.open.contains(id));
        match summary.is_batch {
            true => Ok(Summary::default()),
            false if is_ours() => Ok(summary),
            false => Err("not the answer to this request"),
        }
    }
}
