//! Tells which requests a text of a server answers, without keeping it.

use super::{Envelope, Id, Method, Shape};

/// Sums up a message of a server, or a batch of them.
#[derive(Debug, Default)]
pub struct Summary {
    /// It is a batch.
    pub is_batch: bool,
    /// Requests that it answers.
    pub answered: Vec<Id>,
    /// The last answer in it.
    pub answer: Option<Answer>,
    /// It asks the client something.
    pub asks: bool,
    /// Methods of its notifications.
    pub notifications: Vec<Method>,
}

/// How a request is answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// By a result that is no tool error: what was asked for exists.
    pub succeeds: bool,
    /// The code of an error; 0 if it has none.
    pub rpc_error: Option<i64>,
}

impl Summary {
    /// Reads a text, which may be a batch where `batches` can be; `None` if it is no message.
    pub fn read(text: &str, batches: bool) -> Option<Summary> {
        let is_batch = batches && text.trim_ascii_start().starts_with('[');
        let envelopes = match is_batch {
            true => Envelope::read_batch(text).ok()?,
            false => vec![Envelope::read(text).ok()?],
        };
        let mut summary = Summary { is_batch, ..Summary::default() };
        for envelope in envelopes {
            match envelope.shape {
                Shape::Request => summary.asks = true,
                Shape::Notification => summary.notifications.extend(envelope.method),
                shape @ (Shape::Result | Shape::Error) => {
                    let rpc_error = (shape == Shape::Error).then(|| envelope.error_code.unwrap_or_default());
                    summary.answer = Some(Answer { succeeds: envelope.is_success(), rpc_error });
                    summary.answered.extend(envelope.id);
                }
            }
        }
        Some(summary)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_summed_up_by_what_it_answers() {
        let error = |code| Some(Answer { succeeds: false, rpc_error: Some(code) });
        let result = |succeeds| Some(Answer { succeeds, rpc_error: None });
        let cases = [
            ("result", r#"{"jsonrpc":"2.0","id":1,"result":{}}"#, 1, result(true)),
            ("tool error", r#"{"jsonrpc":"2.0","id":1,"result":{"isError":true}}"#, 1, result(false)),
            ("error", r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32601,"message":""}}"#, 1, error(-32601)),
            ("error without code", r#"{"jsonrpc":"2.0","id":1,"error":{}}"#, 1, error(0)),
            ("error without id", r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32700}}"#, 0, error(-32700)),
            ("question", r#"{"jsonrpc":"2.0","id":1,"method":"roots/list"}"#, 0, None),
        ];
        for (case, text, answered, answer) in cases {
            let summary = Summary::read(text, true).unwrap();
            assert_eq!((summary.answered.len(), summary.answer), (answered, answer), "{case}");
            assert_eq!(summary.asks, case == "question", "{case}");
        }
    }

    #[test]
    fn batch_is_read_where_there_are_batches() {
        let batch = r#" [{"jsonrpc":"2.0","method":"notifications/a"},{"jsonrpc":"2.0","id":7,"result":{}}]"#;
        let summary = Summary::read(batch, true).unwrap();
        assert_eq!((summary.is_batch, summary.answered.len(), summary.notifications.len()), (true, 1, 1));
        assert!(Summary::read(batch, false).is_none());
        assert!(Summary::read("<html>", true).is_none());
    }
}
