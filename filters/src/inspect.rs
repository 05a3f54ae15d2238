//! Inspectors read, change or refuse the texts of servers before the client of a message has them.

use crate::answer_bound::{AnswerBound, Beyond, LongTexts};
use crate::filters::{place_of, read_in_turn};
use crate::mcp::bridge::Question;
use crate::released::{Channel, Released, ReleasedQuestion};
use bytes::Bytes;
use portunus_base::{Denial, Reason};
use std::any::Any;
use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

/// Reads texts of servers before the client of one message has them: those of calls and streams in the server's words,
/// lists and descriptions as the gateway composed them.
pub trait Inspector: fmt::Debug + Any + Send + Sync {
    /// True if it reads texts on a channel.
    fn reads(&self, _channel: Channel) -> bool {
        true
    }

    /// Reads a text, and gives it as the client may have it. What a text is, its channel says:
    ///
    /// - [`Channel::Result`]: the value of `result`;
    /// - [`Channel::Error`]: the value of `error`;
    /// - [`Channel::CallNotification`] and [`Channel::StreamNotification`]: the whole message;
    /// - [`Channel::Question`]: the value of `params`, of a question that is a request, with `elicitationId` if its server
    ///   gave it one. A result that asks is a [`Channel::Result`];
    /// - [`Channel::List`]: the value of `result`;
    /// - [`Channel::ServerInfo`]: the value of `result` of `initialize`, `server/discover` and the end of a subscription,
    ///   or the `serverInfo` object that goes into an answer.
    ///
    /// [`Cow::Borrowed`] means that nothing is changed; a changed text is JSON again, of the same kind.
    ///
    /// # Errors
    /// The [`Denial`] of a text that the client may not have.
    fn inspect<'t>(&self, channel: Channel, text: &'t str) -> Result<Cow<'t, str>, Denial>;

    /// Judges a text by its length, which is too long to be read.
    ///
    /// # Errors
    /// The [`Denial`] of a text that the client may not have.
    fn check_length(&self, _length: usize) -> Result<(), Denial> {
        Ok(())
    }

    /// The inspector of the call from here on, where a later message goes on with it for which the filter made `later`;
    /// `None` if that takes the place of this one.
    fn joined(&self, _later: &dyn Inspector) -> Option<Arc<dyn Inspector>> {
        None
    }
}

/// The inspectors of one message, in the order of their filters.
#[derive(Clone, Debug, Default)]
pub struct Inspectors {
    all: Option<Arc<Vec<FilterInspector>>>,
    /// `None` reads texts within the default bound, and counts none.
    long: Option<Arc<LongTexts>>,
}

/// The inspector of one filter.
#[derive(Clone, Debug)]
struct FilterInspector {
    filter: &'static str,
    inspector: Arc<dyn Inspector>,
}

impl Inspectors {
    /// Inspectors with the names of their filters, in the order of these.
    pub(crate) fn new(all: Vec<(&'static str, Arc<dyn Inspector>)>) -> Inspectors {
        let named = |(filter, inspector)| FilterInspector { filter, inspector };
        let all: Vec<_> = all.into_iter().map(named).collect();
        Inspectors { all: (!all.is_empty()).then(|| Arc::new(all)), long: None }
    }

    /// The same, which read texts within the bound of `long`.
    pub(crate) fn bounded(self, long: Option<Arc<LongTexts>>) -> Inspectors {
        Inspectors { long, ..self }
    }

    fn all(&self) -> &[FilterInspector] {
        self.all.as_ref().map_or(&[], |all| all)
    }

    fn bound(&self) -> AnswerBound {
        self.long.as_ref().map(|long| long.bound()).unwrap_or_default()
    }

    /// True if texts pass as they are, unread.
    pub fn is_empty(&self) -> bool {
        self.all.is_none()
    }

    /// True if texts on a channel are read.
    pub fn reads(&self, channel: Channel) -> bool {
        self.all().iter().any(|one| one.inspector.reads(channel))
    }

    /// The inspector of a type, if there is one.
    pub fn find<I: Inspector>(&self) -> Option<&I> {
        self.all().iter().find_map(|one| (&*one.inspector as &dyn Any).downcast_ref())
    }

    /// Adds the inspectors of a message that goes on with this one: each filter makes one of both of its own. Its bound, if
    /// it has one, takes the place of this one's.
    pub fn add(&mut self, later: &Inspectors) {
        if later.long.is_some() {
            self.long.clone_from(&later.long);
        }
        if later.is_empty() {
            return;
        }
        let mut all = self.all().to_vec();
        for new in later.all() {
            match all.iter_mut().find(|old| old.filter == new.filter) {
                Some(old) => {
                    let joined = old.inspector.joined(&*new.inspector);
                    old.inspector = joined.unwrap_or_else(|| Arc::clone(&new.inspector));
                }
                None => all.push(new.clone()),
            }
        }
        all.sort_by_key(|one| place_of(one.filter));
        self.all = Some(Arc::new(all));
    }

    /// Releases a text of a server, as the client may have it and in the words of the server.
    ///
    /// # Errors
    /// The [`Denial`] of the first that refuses it; [`Reason::UpstreamMalformed`] if it has to be read and is no text;
    /// [`Reason::ResultTooLarge`] if it has to be read and is longer than what is held for that.
    pub fn release(&self, channel: Channel, text: &Bytes) -> Result<Released, Denial> {
        if !self.reads(channel) {
            return Ok(Released::inspected(channel, text.clone()));
        }
        if text.len() > self.bound().hold {
            self.admit_long(channel, text.len())?;
            return Ok(Released::inspected(channel, text.clone()));
        }
        let read = std::str::from_utf8(text)
            .map_err(|_| Denial::new(Reason::UpstreamMalformed, "the server's text is not UTF-8"))?;
        let reading = self.all().iter().filter(|one| one.inspector.reads(channel));
        let permitted = read_in_turn(reading, read, |one, text| one.inspector.inspect(channel, text))?;
        let permitted = match permitted {
            Cow::Borrowed(_) => text.clone(),
            Cow::Owned(changed) => changed.into(),
        };
        Ok(Released::inspected(channel, permitted))
    }

    /// Lets a text pass unread that is longer than what is held, where that is the rule.
    fn admit_long(&self, channel: Channel, length: usize) -> Result<(), Denial> {
        for one in self.all().iter().filter(|one| one.inspector.reads(channel)) {
            one.inspector.check_length(length)?;
        }
        let AnswerBound { hold, beyond } = self.bound();
        if let Some(long) = &self.long {
            long.count();
        }
        match beyond {
            Beyond::Pass => Ok(()),
            Beyond::Block => {
                let detail = format!(
                    "the answer has to be read, and is longer than the {hold} bytes that are held for that"
                );
                Err(Denial::new(Reason::ResultTooLarge, detail).with("maxResultBytes", hold.to_string()))
            }
        }
    }

    /// Releases a text that was written in pieces: as it is, or in one piece if it is read.
    ///
    /// # Errors
    /// As [`Inspectors::release`].
    pub fn release_pieces(&self, channel: Channel, pieces: Vec<Bytes>) -> Result<Vec<Released>, Denial> {
        let length = pieces.iter().map(Bytes::len).sum();
        if self.reads(channel) && length <= self.bound().hold {
            return Ok(vec![self.release(channel, &pieces.concat().into())?]);
        }
        if self.reads(channel) {
            self.admit_long(channel, length)?;
        }
        Ok(pieces.into_iter().map(|piece| Released::inspected(channel, piece)).collect())
    }

    /// Releases a question, as the client may have it.
    ///
    /// # Errors
    /// As [`Inspectors::release`].
    pub fn release_question(&self, question: Question) -> Result<ReleasedQuestion, Denial> {
        if !self.reads(Channel::Question) {
            return Ok(ReleasedQuestion::inspected(question));
        }
        let whole = Bytes::copy_from_slice(question.params_with_id().as_bytes());
        let released = self.release(Channel::Question, &whole)?;
        let broken =
            |_| Denial::new(Reason::UpstreamMalformed, "a rule makes no JSON object of a server's question");
        question.with_inspected(released.text()).map(ReleasedQuestion::inspected).map_err(broken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::answer_bound::LongTextObserver;
    use crate::call::AnswerRules;
    use std::sync::Mutex;

    #[derive(Debug)]
    struct Shouts;

    impl Inspector for Shouts {
        fn inspect<'t>(&self, channel: Channel, text: &'t str) -> Result<Cow<'t, str>, Denial> {
            match channel {
                Channel::Result => Ok(Cow::Owned(text.to_uppercase())),
                Channel::Question => Err(Denial::new(Reason::Forbidden, "no questions")),
                _ => Ok(Cow::Borrowed(text)),
            }
        }
    }

    #[derive(Debug)]
    struct Appends(&'static str);

    impl Inspector for Appends {
        fn inspect<'t>(&self, _: Channel, text: &'t str) -> Result<Cow<'t, str>, Denial> {
            Ok(Cow::Owned(format!("{text}{}", self.0)))
        }
    }

    fn inspectors(others: Vec<Arc<dyn Inspector>>) -> Inspectors {
        Inspectors::new(others.into_iter().map(|one| ("test", one)).collect())
    }

    /// The policy's inspector for these rules.
    fn ruled(rules: AnswerRules) -> (&'static str, Arc<dyn Inspector>) {
        ("authorize", Arc::new(rules))
    }

    #[test]
    fn each_sees_what_those_before_it_left() {
        let text = Bytes::from_static(b"a");
        let both = inspectors(vec![Arc::new(Appends("b")), Arc::new(Shouts), Arc::new(Appends("c"))]);
        assert_eq!(both.release(Channel::Result, &text).unwrap().text(), "ABc");
        assert_eq!(both.release(Channel::Error, &text).unwrap().text(), "abc");
        assert_eq!(both.release(Channel::Question, &text).unwrap_err().reason, Reason::Forbidden);
    }

    #[test]
    fn without_inspectors_texts_are_not_even_read() {
        let text = Bytes::from_static(b"\xff");
        let passed = Inspectors::default().release(Channel::Result, &text).unwrap();
        assert_eq!(passed.bytes().as_ptr(), text.as_ptr());
        let refused = inspectors(vec![Arc::new(Shouts)]).release(Channel::Result, &text);
        assert_eq!(refused.unwrap_err().reason, Reason::UpstreamMalformed);
    }

    #[test]
    fn a_later_message_adds_its_rules_and_brings_its_filters() {
        let appends: Arc<dyn Inspector> = Arc::new(Appends("b"));
        let mut call = Inspectors::new(vec![ruled(AnswerRules::new(Vec::new(), Some(9))), ("test", appends)]);
        call.add(&Inspectors::new(vec![ruled(AnswerRules::new(Vec::new(), Some(4)))]));
        assert_eq!(call.release(Channel::Result, &Bytes::from_static(b"{}")).unwrap().text(), "{}b");
        call.add(&inspectors(vec![Arc::new(Appends("c"))]));
        assert_eq!(call.release(Channel::Result, &Bytes::from_static(b"{}")).unwrap().text(), "{}c");
        let refused = call.release(Channel::Result, &Bytes::from_static(b"{    }")).unwrap_err();
        assert_eq!(refused.reason, Reason::ResultTooLarge);
    }

    #[test]
    fn rules_for_answers_say_nothing_of_lists_and_descriptions() {
        let rules = Inspectors::new(vec![ruled(AnswerRules::new(Vec::new(), Some(4)))]);
        let text = Bytes::from_static(b"{    }");
        for channel in [Channel::Error, Channel::StreamNotification, Channel::Question] {
            let refused = rules.release(channel, &text).unwrap_err();
            assert_eq!(refused.reason, Reason::ResultTooLarge, "{channel:?}");
        }
        for channel in [Channel::List, Channel::ServerInfo] {
            assert_eq!(rules.release(channel, &text).unwrap().text(), "{    }", "{channel:?}");
        }
    }

    #[derive(Clone, Debug, Default)]
    struct Observed(Arc<Mutex<Vec<Beyond>>>);

    impl LongTextObserver for Observed {
        fn observe(&self, beyond: Beyond) {
            self.0.lock().unwrap().push(beyond);
        }
    }

    fn bound_to(hold: usize, beyond: Beyond, observed: &Observed) -> Option<Arc<LongTexts>> {
        Some(Arc::new(LongTexts::new(AnswerBound { hold, beyond }, Box::new(observed.clone()))))
    }

    #[test]
    fn text_beyond_the_bound_is_blocked_or_passed_unread_and_observed() {
        let (short, long) = (Bytes::from_static(b"abcd"), Bytes::from_static(b"abcde"));
        for (beyond, expected) in [(Beyond::Block, Err(Reason::ResultTooLarge)), (Beyond::Pass, Ok("abcde"))]
        {
            let observed = Observed::default();
            let long_texts = bound_to(4, beyond, &observed);
            let reading = inspectors(vec![Arc::new(Appends("f"))]).bounded(long_texts.clone());
            for channel in [Channel::Result, Channel::Error, Channel::StreamNotification, Channel::List] {
                assert_eq!(reading.release(channel, &short).unwrap().text(), "abcdf", "{channel:?}");
                let released = reading.release(channel, &long);
                let released = released.as_ref().map(Released::text).map_err(|denial| denial.reason);
                assert_eq!(released, expected, "{beyond:?} {channel:?}");
            }
            let pieces = vec![short.clone(), short.clone()];
            let pieces = reading.release_pieces(Channel::List, pieces).map(|pieces| pieces.len());
            assert_eq!(pieces.ok(), (beyond == Beyond::Pass).then_some(2));
            assert_eq!(*observed.0.lock().unwrap(), vec![beyond; 5], "the short ones are not counted");
            let counts = if beyond == Beyond::Block { (5, 0) } else { (0, 5) };
            assert_eq!(long_texts.unwrap().counts(), counts);
        }
    }

    #[test]
    fn text_that_nobody_reads_has_no_bound() {
        let observed = Observed::default();
        let text = Bytes::from_static(b"abcde");
        let released =
            inspectors(vec![]).bounded(bound_to(1, Beyond::Block, &observed)).release(Channel::Result, &text);
        assert_eq!(released.unwrap().text(), "abcde");
        assert!(observed.0.lock().unwrap().is_empty());
    }

    #[test]
    fn length_that_policy_allows_holds_for_text_that_passes_unread() {
        let rules = Inspectors::new(vec![ruled(AnswerRules::new(Vec::new(), Some(8)))]);
        let rules = rules.bounded(bound_to(4, Beyond::Pass, &Observed::default()));
        assert_eq!(rules.release(Channel::Result, &Bytes::from_static(b"12345678")).unwrap().len(), 8);
        let refused = rules.release(Channel::Result, &Bytes::from_static(b"123456789")).unwrap_err();
        assert_eq!(refused.reason, Reason::ResultTooLarge);
        assert!(refused.detail.contains("8 bytes that this caller"), "{}", refused.detail);
    }

    #[test]
    fn call_that_is_taken_up_is_observed_under_its_present_request() {
        let (first, second) = (Observed::default(), Observed::default());
        let appending = || inspectors(vec![Arc::new(Appends("f"))]);
        let mut call = appending().bounded(bound_to(4, Beyond::Pass, &first));
        call.add(&appending());
        call.release(Channel::Result, &Bytes::from_static(b"abcde")).unwrap();
        call.add(&appending().bounded(bound_to(4, Beyond::Pass, &second)));
        call.release(Channel::Result, &Bytes::from_static(b"abcde")).unwrap();
        assert_eq!([first, second].map(|observed| observed.0.lock().unwrap().len()), [1, 1]);
    }

    #[test]
    fn pieces_are_one_text_to_who_reads_them() {
        let pieces = || vec![Bytes::from_static(b"a"), Bytes::from_static(b"b")];
        let texts = |inspectors: &Inspectors| -> Vec<String> {
            let released = inspectors.release_pieces(Channel::List, pieces()).unwrap();
            released.iter().map(|piece| piece.text().to_owned()).collect()
        };
        assert_eq!(texts(&inspectors(vec![Arc::new(Appends("c"))])), ["abc"]);
        assert_eq!(texts(&Inspectors::default()), ["a", "b"]);
    }
}
