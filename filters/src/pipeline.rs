//! The one way from a message to the permission to open its request.
//!
//! The order of the filters is that of [`FILTERS`](crate::FILTERS); a bundle turns them on and fills them. Only
//! [`Pipeline::judge`] makes a [`Cleared`], only what [`Pipeline::admit`], [`Pipeline::reserve`] and [`Pipeline::pass`] give
//! makes an [`Admitted`] of it, and forwarding takes nothing else, so a path that skips the filters does not compile.

use crate::admission::{Admitted, Admitting, Turns};
use crate::answer_bound::LongTexts;
use crate::call::{Call, Edit, Target, Verdict, splice};
use crate::filter::{Filter, Needs};
use crate::filters::{place_of, read_in_turn};
use crate::inspect::Inspectors;
use crate::judged::Judged;
use crate::mcp::bridge::ClientPlace;
use crate::message::{Arrival, Message};
use crate::released::{Channel, Released};
use bytes::Bytes;
use portunus_base::{Denial, Reason};
use std::borrow::Cow;
use std::sync::Arc;

/// The filters of one configuration, in order; all its virtual servers share them.
#[derive(Default)]
pub struct Pipeline {
    filters: Vec<Box<dyn Filter>>,
}

/// Proof that every filter agreed; consumed once, to open the requests of the message.
#[must_use = "the message may leave only as the filters left it"]
#[derive(Debug)]
pub struct Cleared {
    body: Bytes,
    /// The message as it may leave, if a filter changed it and it is not one of a batch.
    changed: Option<Box<Message>>,
    judged: Option<Arc<Judged>>,
    inspectors: Inspectors,
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

    /// The same, whose inspectors read texts within the bound of `long`.
    pub fn bounded(self, long: Option<Arc<LongTexts>>) -> Cleared {
        Cleared { inspectors: self.inspectors.bounded(long), ..self }
    }

    /// The message as it may leave, if a filter changed it.
    pub fn changed(&self) -> Option<&Message> {
        self.changed.as_deref()
    }

    /// Gives up the permission for the body that may leave.
    pub fn into_body(self) -> Bytes {
        self.body
    }

    /// As [`Cleared::into_body`], with the message in it if a filter changed that.
    pub fn into_parts(self) -> (Bytes, Option<Box<Message>>) {
        (self.body, self.changed)
    }
}

impl Pipeline {
    /// A pipeline of these filters, in the order of [`FILTERS`](crate::FILTERS).
    pub fn new(mut filters: Vec<Box<dyn Filter>>) -> Pipeline {
        filters.sort_by_key(|filter| place_of(filter.name()));
        Pipeline { filters }
    }

    /// True if a filter may refuse, read or change something.
    pub fn is_on(&self) -> bool {
        self.filters.iter().any(|filter| filter.is_on())
    }

    /// The most that a filter needs to know of what a message names.
    pub fn needs(&self) -> Needs {
        self.filters.iter().map(|filter| filter.needs()).max().unwrap_or_default()
    }

    /// True if a filter reads texts of clients that reach servers beside their messages.
    pub fn reads_client_texts(&self) -> bool {
        self.filters.iter().any(|filter| filter.reads_client_texts())
    }

    /// Runs the filters over a text of a client that reaches servers beside its messages.
    ///
    /// # Errors
    /// The first [`Denial`].
    pub fn client_text<'t>(&self, place: ClientPlace<'_>, text: &'t str) -> Result<Cow<'t, str>, Denial> {
        read_in_turn(&self.filters, text, |filter, text| filter.client_text(place, text))
    }

    /// Releases a text of a server that is no part of the answer to a message, as the filters leave it.
    ///
    /// # Errors
    /// The first [`Denial`]; [`Reason::UpstreamMalformed`] if a filter is on and it is not UTF-8.
    pub fn release(&self, channel: Channel, text: &[u8]) -> Result<Released, Denial> {
        if !self.is_on() {
            return Ok(Released::inspected(channel, Bytes::copy_from_slice(text)));
        }
        let text = std::str::from_utf8(text)
            .map_err(|_| Denial::new(Reason::UpstreamMalformed, "the server's text is not UTF-8"))?;
        let permitted = read_in_turn(&self.filters, text, |filter, text| filter.server_text(channel, text))?;
        Ok(Released::inspected(channel, Bytes::copy_from_slice(permitted.as_bytes())))
    }

    /// Runs the filters over the messages of one body, each on what those before it left.
    ///
    /// `done` is told the name of each filter after it ran or refused: the runner measures, not the filter.
    /// One refused element refuses a batch: half a batch is not what the client asked for.
    ///
    /// # Errors
    /// The first [`Denial`]; [`Reason::InvalidRequest`] if a filter makes a message of it that cannot be read, or that is
    /// aimed at something else than was judged.
    pub fn judge(
        &self,
        arrival: &Arrival,
        messages: &[Message],
        target: &Target,
        mut done: impl FnMut(&'static str),
    ) -> Result<Cleared, Denial> {
        let mut verdict = Verdict::default();
        let mut inspectors = Vec::new();
        let mut changed: Option<Vec<Message>> = None;
        for filter in &self.filters {
            let current = changed.as_deref().unwrap_or(messages);
            let mut applying = current.iter().filter(|message| filter.applies(message.kind));
            let judged = applying
                .try_for_each(|message| filter.judge(&Call { arrival, message, target }, &mut verdict));
            if judged.is_err() {
                done(filter.name());
            }
            judged?;
            if !verdict.edits.is_empty() {
                changed = Some(edited(current, std::mem::take(&mut verdict.edits))?);
            }
            inspectors.extend(verdict.inspectors.drain(..).map(|inspector| (filter.name(), inspector)));
            done(filter.name());
        }
        let current = changed.as_deref().unwrap_or(messages);
        let body = current.first().map(|message| message.body.clone()).unwrap_or_default();
        let inspectors = Inspectors::new(inspectors);
        let changed = changed.filter(|all| all.len() == 1).and_then(|mut all| all.pop()).map(Box::new);
        Ok(Cleared { body, changed, judged: verdict.judged, inspectors })
    }
}

impl Pipeline {
    /// The permission to pass a message as it came; `None` if a filter is on, which has to be asked.
    pub fn pass(&self, cleared: Cleared) -> Option<Admitted> {
        if self.is_on() { None } else { Admitting::new(cleared, Turns::none()).at_once().ok() }
    }

    /// Has the filters take permits and charges for the request that a cleared message opens, in their order.
    ///
    /// # Errors
    /// The first [`Denial`]; what earlier filters took is given back.
    pub fn admit(
        &self,
        cleared: Cleared,
        arrival: &Arrival,
        message: &Message,
        target: &Target,
    ) -> Result<Admitting, Denial> {
        let message = cleared.changed().unwrap_or(message);
        let turns = self.reserve(arrival, message, target)?;
        Ok(Admitting::new(cleared, turns))
    }

    /// As [`Pipeline::admit`], for one of several requests that a message opens which is answered by the gateway.
    ///
    /// # Errors
    /// As there.
    pub fn reserve(&self, arrival: &Arrival, message: &Message, target: &Target) -> Result<Turns, Denial> {
        let mut turns = Turns::none();
        for filter in &self.filters {
            turns.add(filter.admit(&Call { arrival, message, target })?);
        }
        Ok(turns)
    }
}

/// The messages of one body after a filter has changed it.
fn edited(messages: &[Message], edits: Vec<Edit>) -> Result<Vec<Message>, Denial> {
    let refused = |detail: &'static str| Denial::new(Reason::InvalidRequest, detail);
    let body = messages.first().map(|message| &message.body).cloned().unwrap_or_default();
    let body = splice(&body, edits).map_err(|_| refused("a rule changes one part of the message twice"))?;
    let changed = Message::all_with_body(messages, &body)
        .map_err(|_| refused("a rule makes a message of it that cannot be read"))?;
    // What was looked up and judged is what leaves. A request that is aimed at nothing readable stays as it is.
    if messages.iter().zip(&changed).any(|(before, after)| before.aim().ok() != after.aim().ok()) {
        return Err(refused("a rule changes what the message is aimed at"));
    }
    Ok(changed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::Identity;
    use crate::mcp::headers::Mirror;
    use crate::mcp::{Bounds, Revision, Span};
    use crate::message::Kind;
    use crate::message::read;
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
            Err(Denial::new(Reason::Forbidden, "no"))
        }
    }

    /// Replaces each occurrence of a text in a message, or in another text of a client.
    struct Replaces(&'static str, &'static str);

    impl Filter for Replaces {
        fn name(&self) -> &'static str {
            "replaces"
        }
        fn applies(&self, _: Kind) -> bool {
            true
        }
        fn judge(&self, call: &Call<'_>, verdict: &mut Verdict) -> Result<(), Denial> {
            let body = &call.message.body;
            let params = call.message.params.map(|span| span.of(body)).unwrap_or_default();
            for at in memchr::memmem::find_iter(params, self.0) {
                let span = Span::locate(body, &params[at..at + self.0.len()]).unwrap();
                verdict.edits.push(Edit { owner: self.name(), span, with: self.1.into() });
            }
            Ok(())
        }
        fn reads_client_texts(&self) -> bool {
            true
        }
        fn client_text<'t>(&self, _: ClientPlace<'_>, text: &'t str) -> Result<Cow<'t, str>, Denial> {
            Ok(if text.contains(self.0) {
                Cow::Owned(text.replace(self.0, self.1))
            } else {
                Cow::Borrowed(text)
            })
        }
    }

    const CALL: &str =
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo","arguments":{"a":"one"}}}"#;

    fn judge(filters: Vec<Box<dyn Filter>>, body: &str) -> (Result<Cleared, Denial>, Vec<&'static str>) {
        let source = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let arrival = Arrival {
            listener: "test".into(),
            source,
            identity: Identity::Anonymous { source },
            request_id: "r".into(),
            at: Moment { monotonic: Duration::ZERO, wall: Duration::ZERO },
        };
        let target = Target::new(&"s".into(), &"u".into());
        let body = Bytes::copy_from_slice(body.as_bytes());
        let reading = read(&body, &Bounds::default(), &Mirror::default(), &Revision::ALL).unwrap();
        let mut ran = Vec::new();
        let result =
            Pipeline::new(filters).judge(&arrival, reading.messages(), &target, |name| ran.push(name));
        (result, ran)
    }

    fn left(filters: Vec<Box<dyn Filter>>, body: &str) -> Result<String, Reason> {
        let cleared = judge(filters, body).0.map_err(|denial| denial.reason)?;
        if let Some(changed) = cleared.changed() {
            let params = changed.params.unwrap().of(&changed.body);
            assert!(params.starts_with(b"{") && changed.outline.is_some() && changed.body == cleared.body);
        }
        Ok(String::from_utf8(cleared.into_body().to_vec()).unwrap())
    }

    #[test]
    fn message_leaves_as_it_came_where_no_filter_changes_it() {
        assert_eq!(left(vec![], CALL), Ok(CALL.to_owned()));
        let unmatched = judge(vec![Box::new(Replaces("two", "three"))], CALL).0.unwrap();
        assert!(unmatched.changed().is_none());
    }

    #[test]
    fn refusal_ends_the_message_before_later_filters() {
        let changes = || Box::new(Replaces("one", "two"));
        let (result, ran) = judge(vec![changes(), Box::new(Refuses(Kind::Request)), changes()], CALL);
        assert_eq!((result.unwrap_err().reason, ran), (Reason::Forbidden, vec!["replaces", "refuses"]));
    }

    #[test]
    fn filters_run_in_the_order_of_the_list_whatever_order_they_are_given_in() {
        struct Named(&'static str);
        impl Filter for Named {
            fn name(&self) -> &'static str {
                self.0
            }
            fn applies(&self, _: Kind) -> bool {
                true
            }
            fn judge(&self, _: &Call<'_>, _: &mut Verdict) -> Result<(), Denial> {
                Ok(())
            }
        }
        let given = ["unlisted"].into_iter().chain(crate::FILTERS.iter().rev().copied());
        let filters = given.map(|name| Box::new(Named(name)) as Box<dyn Filter>).collect();
        let expected: Vec<&str> = crate::FILTERS.iter().copied().chain(["unlisted"]).collect();
        assert_eq!(judge(filters, CALL).1, expected);
    }

    #[test]
    fn filter_sees_only_the_kinds_it_asked_for() {
        assert!(judge(vec![Box::new(Refuses(Kind::End))], CALL).0.is_ok());
    }

    #[test]
    fn each_filter_changes_what_those_before_it_left() {
        let filters: [fn() -> Box<dyn Filter>; 2] =
            [|| Box::new(Replaces("one", "two and one")), || Box::new(Replaces("two", "three"))];
        let both = CALL.replace("one", "three and one");
        assert_eq!(left(vec![filters[0](), filters[1]()], CALL), Ok(both));
        let first_alone = CALL.replace("one", "two and one");
        assert_eq!(left(vec![filters[1](), filters[0]()], CALL), Ok(first_alone));
        let batch = format!("[{CALL},{}]", CALL.replace("\"id\":1", "\"id\":2"));
        assert_eq!(left(vec![filters[0](), filters[1]()], &batch), Ok(batch.replace("one", "three and one")));
    }

    #[test]
    fn edit_that_breaks_a_message_or_its_aim_refuses_it() {
        let complete = r#"{"jsonrpc":"2.0","id":1,"method":"completion/complete","params":{"ref":{"type":"ref/prompt","name":"echo"},"argument":{"name":"a","value":"one"}}}"#;
        let subscribe =
            r#"{"jsonrpc":"2.0","id":1,"method":"resources/subscribe","params":{"uri":"echo:1"}}"#;
        for (body, what, with) in [
            (CALL, "\"one\"", "\"one"),
            (CALL, "echo", "other"),
            (CALL, "{\"name\"", "[\"name\""),
            (CALL, "{\"a\":\"one\"}}", "{}},\"id\":2"),
            (complete, "echo", "other"),
            (complete, "ref/prompt\",\"name", "ref/resource\",\"uri"),
            (subscribe, "echo", "other"),
        ] {
            let refused = left(vec![Box::new(Replaces(what, with))], body);
            assert_eq!(refused, Err(Reason::InvalidRequest), "{body} {what}");
        }
        assert!(left(vec![Box::new(Replaces("one", "two"))], complete).is_ok(), "positive control");
        struct Twice;
        impl Filter for Twice {
            fn name(&self) -> &'static str {
                "twice"
            }
            fn applies(&self, _: Kind) -> bool {
                true
            }
            fn judge(&self, call: &Call<'_>, verdict: &mut Verdict) -> Result<(), Denial> {
                Replaces("one", "two").judge(call, verdict)?;
                Replaces("one", "three").judge(call, verdict)
            }
        }
        assert_eq!(left(vec![Box::new(Twice)], CALL), Err(Reason::InvalidRequest));
    }

    #[test]
    fn other_texts_of_clients_are_read_by_each_filter_in_turn() {
        let pipeline = Pipeline::new(vec![
            Box::new(Replaces("one", "two")),
            Box::new(Refuses(Kind::End)),
            Box::new(Replaces("two", "three")),
        ]);
        assert!(pipeline.reads_client_texts());
        let place = ClientPlace::Header("x-note");
        assert_eq!(pipeline.client_text(place, "one").unwrap(), "three");
        assert!(matches!(pipeline.client_text(place, "four").unwrap(), Cow::Borrowed("four")));
    }
}
