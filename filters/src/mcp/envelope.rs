//! Reading a JSON-RPC envelope in place.
//!
//! Only the top level, `params` and `params._meta` are taken apart, by borrowed slices; everything
//! else stays text. The same key twice in one of these objects is refused, however it is escaped:
//! two parsers that disagree on which one counts are how a gateway is bypassed.

use super::object::{KnownKeys, MessageIndex, Object, elements_up_to, is_imitated, known_keys, unquoted};
use super::scan::Scan;
use super::{Bounds, Fault, Method, Span};
use std::borrow::Cow;
use std::sync::Arc;

/// What a message is, from its envelope alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Has a method and an id: wants an answer.
    Request,
    /// Has a method and no id.
    Notification,
    /// Has an id, and a result.
    Result,
    /// Has an error, and the id it answers if that could be read.
    Error,
}

/// A JSON-RPC id: a string or an integer, kept as it was written.
///
/// Two ids are equal if they mean the same: `"a"` is `"\u0061"`, and `1` is never `"1"`
/// (JSON-RPC 2.0 §4).
#[derive(Clone, Debug)]
pub struct Id {
    text: Arc<str>,
    /// The same string without its escapes, in quotes, if it has any.
    plain: Option<Arc<str>>,
}

impl PartialEq for Id {
    fn eq(&self, other: &Id) -> bool {
        self.meaning() == other.meaning()
    }
}

impl From<u64> for Id {
    fn from(number: u64) -> Id {
        Id { text: number.to_string().into(), plain: None }
    }
}

impl Id {
    /// The id as JSON text, ready to be written into an answer.
    pub fn as_json(&self) -> &str {
        &self.text
    }

    /// What it means, with quotes if it is a string: the same text for equal ids.
    pub fn meaning(&self) -> &str {
        self.plain.as_ref().unwrap_or(&self.text)
    }

    /// True if it is a number and no text.
    pub fn is_number(&self) -> bool {
        !self.text.starts_with('"')
    }

    /// Reads an id from its JSON text, where a message carries one elsewhere than in its envelope.
    ///
    /// # Errors
    /// [`Fault::Shape`] if it is neither a string nor an integer.
    pub fn of(text: &str) -> Result<Id, Fault> {
        Id::read(text)
    }

    fn read(text: &str) -> Result<Id, Fault> {
        const BAD: Fault = Fault::Shape("the id must be a string or an integer");
        if text.starts_with('"') {
            let plain = match unquoted(text).ok_or(BAD)? {
                Cow::Borrowed(_) => None,
                Cow::Owned(plain) => Some(format!("\"{plain}\"").into()),
            };
            return Ok(Id { text: text.into(), plain });
        }
        let digits = text.strip_prefix('-').unwrap_or(text);
        if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(BAD);
        }
        Ok(Id { text: text.into(), plain: None })
    }
}

/// Messages of one batch: each may be a call under way, and takes memory beside its text.
pub const MAX_BATCH: usize = 256;

/// One JSON-RPC message, borrowed from its text.
#[derive(Debug)]
pub struct Envelope<'a> {
    /// Request, notification or answer.
    pub shape: Shape,
    /// The id, where the shape has one.
    pub id: Option<Id>,
    /// The method of a request or notification.
    pub method: Option<Method>,
    /// The members of `params`, in order; empty for answers.
    pub params: Object<'a>,
    /// The text of `params`.
    pub params_text: Option<&'a str>,
    /// The `code` of an error answer, if it is an integer.
    pub error_code: Option<i64>,
    /// The text of `result`.
    pub result: Option<&'a str>,
    /// What a result says that decides how it is passed on; `None` for all else, and for a result that
    /// has a key twice.
    pub summary: Option<ResultSummary>,
    /// All of it, without what was taken out for the other fields.
    message: Object<'a>,
}

impl<'a> Envelope<'a> {
    /// Reads one message of an upstream, or one that [`super::check`] accepted.
    ///
    /// # Errors
    /// [`Fault::Syntax`] if it is no JSON, [`Fault::Shape`] if it is no JSON-RPC 2.0 message with
    /// by-name parameters, [`Fault::DuplicateKey`] for a repeated key.
    pub fn read(text: &'a str) -> Result<Envelope<'a>, Fault> {
        if !starts_object(text) {
            return Err(not_an_object(Scan::free(text), &Bounds::NONE));
        }
        Envelope::of(Object::message(text)?)
    }

    /// Reads one message of a client.
    ///
    /// # Errors
    /// As [`Envelope::read`]; also [`Fault::Bound`] where `bounds` are exceeded, and
    /// [`Fault::Syntax`] for half of a surrogate pair.
    pub fn read_bounded(text: &'a str, bounds: &Bounds) -> Result<Envelope<'a>, Fault> {
        if !starts_object(text) {
            return Err(not_an_object(Scan::bounded(text, bounds), bounds));
        }
        Envelope::of(Object::bounded_message(text, bounds)?)
    }

    fn of(members: Object<'a>) -> Result<Envelope<'a>, Fault> {
        let heads = Heads::of(&members);
        if heads.version.and_then(unquoted).as_deref() != Some("2.0") {
            return Err(Fault::Shape("`jsonrpc` must be \"2.0\""));
        }
        match heads.method {
            Some(_) => Envelope::of_call(members, &heads),
            None => Envelope::of_answer(members, &heads),
        }
    }

    /// Reads the messages of a batch (2025-03-26, JSON-RPC 2.0 §6).
    ///
    /// # Errors
    /// As [`Envelope::read`]; also for an empty batch, and [`Fault::Bound`] for one of more than
    /// [`MAX_BATCH`] messages.
    pub fn read_batch(text: &'a str) -> Result<Vec<Envelope<'a>>, Fault> {
        let elements = elements_up_to(text, MAX_BATCH).map_err(|fault| match fault {
            Fault::Bound { limit, .. } => Fault::Bound { what: "the number of messages of a batch", limit },
            fault => fault,
        })?;
        if elements.is_empty() {
            return Err(Fault::Shape("a batch must not be empty"));
        }
        elements.into_iter().map(Envelope::read).collect()
    }

    /// Whether it is a result that does not say `isError`.
    pub fn is_success(&self) -> bool {
        self.shape == Shape::Result && !self.summary.is_some_and(|summary| summary.failed)
    }

    /// Where its parts lie in `body`, which must hold its text; `None` if it does not. Nothing is left
    /// of its `params` here.
    pub fn take_message_index(&mut self, body: &[u8]) -> Option<MessageIndex> {
        let params = std::mem::take(&mut self.params);
        MessageIndex::of(body, std::mem::take(&mut self.message), self.params_text.map(|_| params))
    }

    fn of_call(mut members: Object<'a>, heads: &Heads<'a>) -> Result<Envelope<'a>, Fault> {
        let name = heads.method.and_then(unquoted).ok_or(Fault::Shape("`method` must be a string"))?;
        if heads.result.is_some() || heads.error.is_some() {
            return Err(Fault::Shape("a message has either a method or an answer"));
        }
        let id = heads.id.map(Id::read).transpose()?;
        let params_text = heads.params;
        let params = match (members.take("params"), params_text) {
            (Some(params), _) => params?,
            (None, Some(_)) => return Err(Fault::Shape("`params` must be an object")),
            (None, None) => Object::default(),
        };
        Ok(Envelope {
            shape: if id.is_some() { Shape::Request } else { Shape::Notification },
            id,
            method: Some(Method::of(&name)),
            params,
            params_text,
            error_code: None,
            result: None,
            summary: None,
            message: members,
        })
    }

    fn of_answer(mut members: Object<'a>, heads: &Heads<'a>) -> Result<Envelope<'a>, Fault> {
        let shape = match (heads.result, heads.error) {
            (Some(_), None) => Shape::Result,
            (None, Some(_)) => Shape::Error,
            (None, None) => return Err(Fault::Shape("neither a method nor a result nor an error")),
            (Some(_), Some(_)) => return Err(Fault::Shape("both a result and an error")),
        };
        let id = match heads.id {
            // An error about a request whose id could not be read (JSON-RPC 2.0 §5).
            Some("null") if shape == Shape::Error => None,
            None if shape == Shape::Error => None,
            Some(raw) => Some(Id::read(raw)?),
            None => return Err(Fault::Shape("a result must carry an id")),
        };
        let error_code = match heads.error.and_then(|_| members.take("error")) {
            Some(error) => error?.get("code").and_then(|code| code.parse().ok()),
            None => None,
        };
        let result = members.take("result").and_then(Result::ok);
        Ok(Envelope {
            shape,
            id,
            method: None,
            params: Object::default(),
            params_text: None,
            error_code,
            result: heads.result,
            summary: result.as_ref().map(ResultSummary::of),
            message: members,
        })
    }
}

/// What a result says at its top that decides how it is passed on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ResultSummary {
    /// It says `isError`: its tool failed.
    pub failed: bool,
    /// Where its `resultType` stands in it, key and value.
    pub typed: Option<Span>,
    /// That is another than `complete`, or spelt in another way.
    pub unusual: bool,
    /// It has a `_meta`.
    pub meta: bool,
    /// It has a `taskId`.
    pub task: bool,
    /// Its `structuredContent` is no object.
    pub unstructured: bool,
    /// It has `inputRequests`.
    pub asks: bool,
    /// A key differs only in case from one by which a server asks something: some clients read it so.
    pub folded: bool,
}

/// The keys by which a result asks its client something, which policy is asked about.
const KNOWN: KnownKeys = known_keys!["resultType", "inputRequests"];

impl ResultSummary {
    /// What the text of a result says; nothing where it is no object.
    ///
    /// # Errors
    /// As [`Object::read`].
    pub fn read(result: &str) -> Result<ResultSummary, Fault> {
        if starts_object(result) { Ok(Self::of(&Object::read(result)?)) } else { Ok(Self::default()) }
    }

    fn of(result: &Object<'_>) -> ResultSummary {
        let mut summary = ResultSummary::default();
        for (key, text) in result.members() {
            match key {
                "isError" => summary.failed = text == "true",
                "resultType" => summary.unusual = text != "\"complete\"",
                "_meta" => summary.meta = true,
                "taskId" => summary.task = true,
                "structuredContent" => summary.unstructured = !text.starts_with('{'),
                "inputRequests" => summary.asks = true,
                key => summary.folded |= is_imitated(key, &KNOWN),
            }
        }
        let typed = result.wholes().find(|(key, _)| *key == "resultType");
        let located = |whole: &str| Span::locate(result.as_text().as_bytes(), whole.as_bytes());
        summary.typed = typed.and_then(|(_, whole)| located(whole));
        summary
    }

    /// Whether a modern client can have it of a modern server as it is: it asks nothing, and names
    /// nothing that is known by another name here.
    pub fn is_final(self) -> bool {
        !self.unusual && !self.task
    }

    /// Whether nothing in a legacy server's has to change for a modern client: it is only added to.
    pub fn is_bare(self) -> bool {
        self.typed.is_none() && !self.meta
    }
}

/// What JSON-RPC gives a meaning at the top of a message, as text.
#[derive(Default)]
struct Heads<'a> {
    version: Option<&'a str>,
    id: Option<&'a str>,
    method: Option<&'a str>,
    params: Option<&'a str>,
    result: Option<&'a str>,
    error: Option<&'a str>,
}

impl<'a> Heads<'a> {
    fn of(message: &Object<'a>) -> Heads<'a> {
        let mut heads = Heads::default();
        for (key, text) in message.members() {
            let place = match key {
                "jsonrpc" => &mut heads.version,
                "id" => &mut heads.id,
                "method" => &mut heads.method,
                "params" => &mut heads.params,
                "result" => &mut heads.result,
                "error" => &mut heads.error,
                _ => continue,
            };
            *place = Some(text);
        }
        heads
    }
}

fn starts_object(text: &str) -> bool {
    text.bytes().find(|byte| !matches!(byte, b' ' | b'\t' | b'\r' | b'\n')) == Some(b'{')
}

fn not_an_object(mut scan: Scan<'_>, bounds: &Bounds) -> Fault {
    match scan.value().and_then(|_| scan.end()) {
        Ok(()) => Fault::Shape("a message must be a JSON object"),
        Err(stop) => stop.fault(bounds),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_decides_how_a_result_is_passed_on_is_told_of_it() {
        let summary = |result: &str| {
            Envelope::read(&format!(r#"{{"jsonrpc":"2.0","id":1,"result":{result}}}"#)).unwrap().summary
        };
        let none = ResultSummary::default();
        let typed = |start, end| ResultSummary { typed: Some(Span { start, end }), ..none };
        let unusual = |end| ResultSummary { unusual: true, ..typed(1, end) };
        let cases = [
            (r#"{"content":[{"isError":true,"_meta":{},"taskId":"t"}]}"#, Some(none)),
            (r#"{"isError":true}"#, Some(ResultSummary { failed: true, ..none })),
            (r#"{"isError":false}"#, Some(none)),
            (r#"{"resultType" : "complete"}"#, Some(typed(1, 26))),
            (r#"{"a":1, "resultType":"complete" ,"b":2}"#, Some(typed(8, 31))),
            (r#"{"structuredContent":[]}"#, Some(ResultSummary { unstructured: true, ..none })),
            (r#"{"structuredContent":{}}"#, Some(none)),
            (r#"{"resultType":"input_required"}"#, Some(unusual(30))),
            (r#"{"resultType":"input\u005frequired"}"#, Some(unusual(35))),
            (r#"{"result\u0054ype":"input_required"}"#, Some(unusual(35))),
            (r#"{"resultType":7}"#, Some(unusual(15))),
            (r#"{"_meta":null}"#, Some(ResultSummary { meta: true, ..none })),
            (r#"{"\u005fmeta":{}}"#, Some(ResultSummary { meta: true, ..none })),
            (r#"{"taskId":"t"}"#, Some(ResultSummary { task: true, ..none })),
            (r#"{"inputRequests":{}}"#, Some(ResultSummary { asks: true, ..none })),
            (r#"{"input\u0052equests":{}}"#, Some(ResultSummary { asks: true, ..none })),
            (r#"{"InputRequests":{}}"#, Some(ResultSummary { folded: true, ..none })),
            (r#"{"re\u017fultType":"input_required"}"#, Some(ResultSummary { folded: true, ..none })),
            (r#"{"content":[],"Content":1,"IsError":true}"#, Some(none)),
            (r#"{"other":1,"Other":2}"#, Some(none)),
            (r#"{"a":1,"a":2}"#, None),
            ("[]", None),
        ];
        for (result, expected) in cases {
            assert_eq!(summary(result), expected, "{result}");
        }
        assert!(typed(1, 2).is_final() && none.is_final() && !unusual(2).is_final() && none.is_bare());
        assert!(!typed(1, 2).is_bare() && !ResultSummary { task: true, ..none }.is_final());
        assert!(!ResultSummary { meta: true, ..none }.is_bare());
        let error = r#"{"jsonrpc":"2.0","id":1,"error":{"code":1}}"#;
        assert_eq!(Envelope::read(error).unwrap().summary, None);
    }

    #[test]
    #[expect(clippy::too_many_lines, reason = "a table of named cases")]
    fn envelopes_are_told_apart() {
        let shape = Fault::Shape;
        let cases: &[(&str, &str, Result<Shape, Fault>)] = &[
            ("request", r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#, Ok(Shape::Request)),
            ("leading space", " \n{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"ping\"}", Ok(Shape::Request)),
            ("string id", r#"{"jsonrpc":"2.0","id":"a","method":"ping"}"#, Ok(Shape::Request)),
            ("negative id", r#"{"jsonrpc":"2.0","id":-7,"method":"ping"}"#, Ok(Shape::Request)),
            ("notification", r#"{"jsonrpc":"2.0","method":"notifications/x"}"#, Ok(Shape::Notification)),
            ("result", r#"{"jsonrpc":"2.0","id":1,"result":{}}"#, Ok(Shape::Result)),
            ("error", r#"{"jsonrpc":"2.0","id":1,"error":{"code":-1}}"#, Ok(Shape::Error)),
            ("error without id", r#"{"jsonrpc":"2.0","error":{"code":-1}}"#, Ok(Shape::Error)),
            ("unknown keys stay", r#"{"jsonrpc":"2.0","id":1,"method":"ping","x":[1]}"#, Ok(Shape::Request)),
            (
                "null id",
                r#"{"jsonrpc":"2.0","id":null,"method":"ping"}"#,
                Err(shape("the id must be a string or an integer")),
            ),
            (
                "fractional id",
                r#"{"jsonrpc":"2.0","id":1.5,"method":"ping"}"#,
                Err(shape("the id must be a string or an integer")),
            ),
            (
                "exponent id",
                r#"{"jsonrpc":"2.0","id":1e3,"method":"ping"}"#,
                Err(shape("the id must be a string or an integer")),
            ),
            (
                "version 1",
                r#"{"jsonrpc":"1.0","id":1,"method":"ping"}"#,
                Err(shape("`jsonrpc` must be \"2.0\"")),
            ),
            (
                "numeric method",
                r#"{"jsonrpc":"2.0","id":1,"method":7}"#,
                Err(shape("`method` must be a string")),
            ),
            (
                "positional params",
                r#"{"jsonrpc":"2.0","id":1,"method":"ping","params":[]}"#,
                Err(shape("`params` must be an object")),
            ),
            (
                "method and result",
                r#"{"jsonrpc":"2.0","id":1,"method":"ping","result":{}}"#,
                Err(shape("a message has either a method or an answer")),
            ),
            (
                "result and error",
                r#"{"jsonrpc":"2.0","id":1,"result":{},"error":{}}"#,
                Err(shape("both a result and an error")),
            ),
            (
                "result without id",
                r#"{"jsonrpc":"2.0","result":{}}"#,
                Err(shape("a result must carry an id")),
            ),
            ("array", "[]", Err(shape("a message must be a JSON object"))),
            ("text", "hello", Err(Fault::Syntax("the body is not valid JSON"))),
            ("empty", "", Err(Fault::Syntax("the body is not valid JSON"))),
            (
                "trailing bytes",
                r#"{"jsonrpc":"2.0","id":1,"method":"ping"}x"#,
                Err(Fault::Syntax("the body is not valid JSON")),
            ),
            (
                "duplicate method",
                r#"{"jsonrpc":"2.0","id":1,"method":"a","method":"b"}"#,
                Err(Fault::DuplicateKey),
            ),
            (
                "duplicate by escape",
                r#"{"jsonrpc":"2.0","id":1,"method":"a","\u006dethod":"b"}"#,
                Err(Fault::DuplicateKey),
            ),
            (
                "duplicate name",
                r#"{"jsonrpc":"2.0","id":1,"method":"a","params":{"name":"x","name":"y"}}"#,
                Err(Fault::DuplicateKey),
            ),
        ];
        for (name, text, expected) in cases {
            assert_eq!(&Envelope::read(text).map(|envelope| envelope.shape), expected, "{name}");
        }
    }

    #[test]
    fn ids_are_equal_by_meaning_and_never_across_types() {
        let id = |text: &str| {
            let message = format!(r#"{{"jsonrpc":"2.0","id":{text},"result":{{}}}}"#);
            Envelope::read(&message).unwrap().id.unwrap()
        };
        assert_eq!(id(r#""a""#), id(r#""\u0061""#));
        assert_ne!(id("1"), id(r#""1""#));
        assert_eq!(id("9007199254740993").as_json(), "9007199254740993");
    }

    #[test]
    fn a_batch_is_read_element_by_element() {
        let text = r#"[{"jsonrpc":"2.0","id":1,"method":"ping"},{"jsonrpc":"2.0","method":"n"}]"#;
        let shapes: Vec<Shape> = Envelope::read_batch(text).unwrap().iter().map(|e| e.shape).collect();
        assert_eq!(shapes, [Shape::Request, Shape::Notification]);
        assert!(Envelope::read_batch("[]").is_err());
        assert!(Envelope::read_batch(r#"[{"jsonrpc":"2.0","id":1,"method":"ping"},7]"#).is_err());
    }
}
