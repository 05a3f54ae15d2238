//! The one way from a message to the permission to forward it.
//!
//! The order of the filters is fixed here; a bundle turns them on and fills them. Only
//! [`Pipeline::judge`] makes a [`Cleared`], and forwarding takes nothing else, so a path that skips
//! the filters does not compile.

use crate::call::{Call, Target, Verdict, splice};
use crate::gate::Judged;
use crate::inspect::Inspectors;
use crate::mcp::object::Outline;
use crate::message::{Arrival, Kind, Message};
use bytes::Bytes;
use portunus_base::{Denial, Reason};
use std::sync::Arc;

/// One stage that may refuse or change a message. Does no I/O.
pub trait Filter: Send + Sync {
    /// The name in configuration, metrics and the log.
    fn name(&self) -> &'static str;

    /// Whether it looks at messages of this kind.
    fn applies(&self, kind: Kind) -> bool;

    /// Judges one message.
    ///
    /// # Errors
    /// The [`Denial`] that ends the message.
    fn judge(&self, call: &Call<'_>, verdict: &mut Verdict) -> Result<(), Denial>;
}

impl<F: Filter> Filter for Arc<F> {
    fn name(&self) -> &'static str {
        (**self).name()
    }

    fn applies(&self, kind: Kind) -> bool {
        (**self).applies(kind)
    }

    fn judge(&self, call: &Call<'_>, verdict: &mut Verdict) -> Result<(), Denial> {
        (**self).judge(call, verdict)
    }
}

/// The filters of one virtual server, in order.
#[derive(Default)]
pub struct Pipeline {
    filters: Vec<Box<dyn Filter>>,
}

/// Proof that every filter agreed; consumed once, to open the legs of the message.
#[derive(Debug)]
pub struct Cleared {
    body: Bytes,
    judged: Option<Arc<Judged>>,
    inspectors: Inspectors,
    outline: Option<Arc<Outline>>,
}

impl Cleared {
    /// What was decided of the message; of a batch, of its last.
    pub fn judged(&self) -> Option<&Arc<Judged>> {
        self.judged.as_ref()
    }

    /// The inspectors of texts of servers that are for its sender.
    pub fn inspectors(&self) -> &Inspectors {
        &self.inspectors
    }

    /// Whether the message leaves as `message` came.
    pub fn is_unchanged(&self, message: &Message) -> bool {
        self.body.as_ptr() == message.body.as_ptr() && self.body.len() == message.body.len()
    }

    /// Gives up the permission for the body that may leave.
    pub fn into_body(self) -> Bytes {
        self.body
    }

    /// As [`Cleared::into_body`], with where the parts of the one message in it lie, as long as no
    /// filter has changed it.
    pub fn into_parts(self) -> (Bytes, Option<Arc<Outline>>) {
        (self.body, self.outline)
    }
}

impl Pipeline {
    /// A pipeline of these filters, in this order.
    pub fn new(filters: Vec<Box<dyn Filter>>) -> Pipeline {
        Pipeline { filters }
    }

    /// Runs the filters over the messages of one body.
    ///
    /// `done` is told the name of each filter after it ran: the runner measures, not the filter.
    /// One refused element refuses a batch: half a batch is not what the client asked for.
    ///
    /// # Errors
    /// The first [`Denial`].
    pub fn judge(
        &self,
        arrival: &Arrival,
        messages: &[Message],
        target: &Target,
        mut done: impl FnMut(&'static str),
    ) -> Result<Cleared, Denial> {
        let mut verdict = Verdict::default();
        for filter in &self.filters {
            for message in messages.iter().filter(|message| filter.applies(message.kind)) {
                filter.judge(&Call { arrival, message, target }, &mut verdict)?;
            }
            done(filter.name());
        }
        let body = messages.first().map(|message| message.body.clone()).unwrap_or_default();
        let outline = match messages {
            [message] if verdict.edits.is_empty() => message.outline.clone(),
            _ => None,
        };
        let inspectors = Inspectors::new(verdict.answer, verdict.inspectors);
        match splice(&body, verdict.edits) {
            Ok(body) => Ok(Cleared { body, outline, judged: verdict.judged, inspectors }),
            Err(_) => Err(Denial::new(
                Reason::InvalidRequest,
                "two rules want to change the same part of the message",
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::call::Edit;
    use crate::identity::Identity;
    use crate::mcp::Span;
    use portunus_base::Moment;
    use std::net::{IpAddr, Ipv4Addr};
    use std::time::Duration;

    struct Refuses(Kind);

    impl Filter for Refuses {
        fn name(&self) -> &'static str {
            "refuses"
        }
        fn applies(&self, kind: Kind) -> bool {
            kind == self.0
        }
        fn judge(&self, _: &Call<'_>, _: &mut Verdict) -> Result<(), Denial> {
            Err(Denial::new(Reason::InvalidRequest, "no"))
        }
    }

    struct Edits;

    impl Filter for Edits {
        fn name(&self) -> &'static str {
            "edits"
        }
        fn applies(&self, _: Kind) -> bool {
            true
        }
        fn judge(&self, _: &Call<'_>, verdict: &mut Verdict) -> Result<(), Denial> {
            let span = Span { start: 0, end: 1 };
            verdict.edits.push(Edit { owner: "edits", span, with: Bytes::from_static(b"[") });
            Ok(())
        }
    }

    fn judge(filters: Vec<Box<dyn Filter>>) -> (Result<Bytes, Reason>, Vec<&'static str>) {
        let source = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let arrival = Arrival {
            listener: "test".into(),
            source,
            identity: Identity::Anonymous { source },
            request_id: "r".into(),
            at: Moment { monotonic: Duration::ZERO, wall: Duration::ZERO },
        };
        let target = Target::new(&"s".into(), &"u".into());
        let message = Message { body: Bytes::from_static(b"{}"), ..Message::bodiless(Kind::Stream, None) };
        let mut ran = Vec::new();
        let result = Pipeline::new(filters).judge(&arrival, &[message], &target, |name| ran.push(name));
        (result.map(Cleared::into_body).map_err(|denial| denial.reason), ran)
    }

    #[test]
    fn without_filters_a_message_leaves_as_it_came() {
        assert_eq!(judge(vec![]), (Ok(Bytes::from_static(b"{}")), vec![]));
    }

    #[test]
    fn a_refusal_ends_the_message_before_later_filters() {
        let (result, ran) = judge(vec![Box::new(Edits), Box::new(Refuses(Kind::Stream)), Box::new(Edits)]);
        assert_eq!((result, ran), (Err(Reason::InvalidRequest), vec!["edits"]));
    }

    #[test]
    fn a_filter_sees_only_the_kinds_it_asked_for() {
        assert!(judge(vec![Box::new(Refuses(Kind::End))]).0.is_ok());
    }

    #[test]
    fn edits_are_applied_once_and_conflicts_refuse() {
        assert_eq!(judge(vec![Box::new(Edits)]).0, Ok(Bytes::from_static(b"[}")));
        assert_eq!(judge(vec![Box::new(Edits), Box::new(Edits)]).0, Err(Reason::InvalidRequest));
    }
}
