//! Answers of upstreams in the words of the client's era.

use super::error::RpcError;
use super::facts::Facts;
use super::meta::{META_SERVER_INFO, Members, array, is_reserved};
use super::methods::is_cacheable;
use crate::mcp::object::{Object, Word, elements};
use crate::mcp::rewrite::string;
use crate::mcp::{Fault, ResultSummary, Span, rewrite::Rewrite};

/// An answer to a request.
#[derive(Clone, Debug)]
pub enum Answer<'a> {
    /// The text of its result.
    Result(&'a str),
    /// Its error.
    Error(RpcError<'a>),
}

/// Reads an answer of an upstream.
///
/// # Errors
/// [`Fault::Shape`] if it is no answer, [`Fault::Syntax`] and [`Fault::DuplicateKey`] as
/// [`Object::read`].
pub fn answer(message: &str) -> Result<Answer<'_>, Fault> {
    let mut message = Object::message(message)?;
    if message.get("method").is_some() {
        return Err(Fault::Shape("an answer has no method"));
    }
    match (message.get("result"), message.get("error")) {
        (Some(result), None) if result.starts_with('{') => Ok(Answer::Result(result)),
        (Some(_), None) => Err(Fault::Shape("`result` must be an object")),
        (None, Some(whole)) => {
            let error = message.take("error").ok_or(Fault::Shape("`error` must be an object"))??;
            RpcError::of(whole, &error).map(Answer::Error)
        }
        _ => Err(Fault::Shape("an answer has either a result or an error")),
    }
}

/// Who may be served a result from a cache (2026-07-28 utilities/caching).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Anybody.
    Public,
    /// Only the authorization context that asked.
    Private,
}

impl Scope {
    /// Reads the value of `cacheScope`.
    pub fn parse(text: &str) -> Option<Scope> {
        match text {
            "public" => Some(Scope::Public),
            "private" => Some(Scope::Private),
            _ => None,
        }
    }

    /// The value of `cacheScope`.
    pub fn as_str(self) -> &'static str {
        match self {
            Scope::Public => "public",
            Scope::Private => "private",
        }
    }
}

/// How long and for whom a client may keep a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caching {
    /// Milliseconds from now on.
    pub ttl_ms: u64,
    /// For whom.
    pub scope: Scope,
}

impl Caching {
    /// Not at all: what is true of a result that says nothing.
    pub const NONE: Caching = Caching { ttl_ms: 0, scope: Scope::Private };

    /// Reads `ttlMs` and `cacheScope` of a result. What is missing or makes no sense is taken for
    /// the careful value.
    pub fn of(result: &Object<'_>) -> Caching {
        let scope = result.text("cacheScope").and_then(|scope| Scope::parse(&scope));
        Caching {
            ttl_ms: result.get("ttlMs").and_then(|ttl| ttl.parse().ok()).unwrap_or(Caching::NONE.ttl_ms),
            scope: scope.unwrap_or(Caching::NONE.scope),
        }
    }

    pub(super) fn added_to(self, members: Members) -> Members {
        members.with("ttlMs", &self.ttl_ms.to_string()).with_string("cacheScope", self.scope.as_str())
    }

    fn set<'o, 'a>(self, rewrite: Rewrite<'o, 'a>) -> Rewrite<'o, 'a> {
        rewrite.set("ttlMs", self.ttl_ms.to_string()).set("cacheScope", string(self.scope.as_str()))
    }
}

/// What a result is, by its `resultType`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResultType {
    /// What was asked for; also where nothing is said, as before 2026-07-28.
    Complete,
    /// Questions that have to be answered first.
    InputRequired,
    /// Something of an extension.
    Other,
}

/// Reads the `resultType` of a modern result.
///
/// # Errors
/// [`Fault::Shape`] if it is no string.
pub fn result_type(result: &Object<'_>) -> Result<ResultType, Fault> {
    let Some(text) = result.get("resultType") else { return Ok(ResultType::Complete) };
    Ok(match text {
        "\"complete\"" => ResultType::Complete,
        "\"input_required\"" => ResultType::InputRequired,
        _ => match result.text("resultType").ok_or(Fault::Shape("`resultType` must be a string"))?.as_ref() {
            "complete" => ResultType::Complete,
            "input_required" => ResultType::InputRequired,
            _ => ResultType::Other,
        },
    })
}

/// Whether a modern result, which is JSON text, asks its client something before there is one.
pub fn asks(result: &[u8]) -> bool {
    static INPUT_REQUIRED: Word = Word::new("input_required");
    let asks = |result: Object<'_>| result_type(&result) == Ok(ResultType::InputRequired);
    INPUT_REQUIRED.may_be_in(result) && read(result).is_some_and(asks)
}

/// Whether a result, which is JSON text, says `isError`: its tool failed.
pub fn is_tool_error(result: &[u8]) -> bool {
    static IS_ERROR: Word = Word::new("isError");
    let fails = |result: Object<'_>| result.get("isError") == Some("true");
    IS_ERROR.may_be_in(result) && read(result).is_some_and(fails)
}

fn read(json: &[u8]) -> Option<Object<'_>> {
    Object::read(std::str::from_utf8(json).ok()?).ok()
}

/// A legacy server's result for a modern client: complete, signed with `facts.server_info`, and on
/// cacheable methods with `caching`, or none.
///
/// # Errors
/// As [`Object::read`].
pub fn result_for_modern(
    result: &str,
    method: &str,
    facts: &Facts,
    caching: Option<Caching>,
) -> Result<String, Fault> {
    let result = Object::read(result)?;
    let rewrite = result.rewrite().set("resultType", "\"complete\"");
    let rewrite = match facts.server_info.as_deref() {
        Some(info) => rewrite.set("_meta", signed(&result, info)?),
        None => rewrite,
    };
    let caching = is_cacheable(method).then(|| caching.unwrap_or(Caching::NONE));
    Ok(cached(rewrite, caching).text())
}

/// The message that answers request `id` of a modern client by what a legacy server says, as
/// [`result_for_modern`] of a method that is not cacheable: without reading the result once more. Only
/// for one that is known to have neither `resultType` nor `_meta`; `None` if it is no object.
pub fn answer_for_modern(id: &str, result: &[u8], facts: &Facts) -> Option<Vec<u8>> {
    let members = result.strip_prefix(b"{")?.strip_suffix(b"}")?;
    let comma = if members.trim_ascii().is_empty() { "" } else { "," };
    let info = facts.server_info.as_deref();
    let mut message = Vec::with_capacity(id.len() + result.len() + info.map_or(0, str::len) + 144);
    answer_begun(&mut message, id);
    message.push(b'{');
    message.extend_from_slice(members);
    let signed = info.map(|info| [",\"_meta\":{\"", META_SERVER_INFO, "\":", info, "}"]);
    let added = [comma, "\"resultType\":\"complete\""].into_iter().chain(signed.into_iter().flatten());
    added.chain(["}}"]).for_each(|part| message.extend_from_slice(part.as_bytes()));
    Some(message)
}

/// The message that answers request `id` of a legacy client by what a legacy server says.
pub fn answer_between_legacy(id: &str, result: &[u8]) -> Vec<u8> {
    let mut message = Vec::with_capacity(id.len() + result.len() + 40);
    answer_begun(&mut message, id);
    message.extend_from_slice(result);
    message.push(b'}');
    message
}

fn answer_begun(message: &mut Vec<u8>, id: &str) {
    let head = ["{\"jsonrpc\":\"2.0\",\"id\":", id, ",\"result\":"];
    head.into_iter().for_each(|part| message.extend_from_slice(part.as_bytes()));
}

/// The message that answers request `id` of a legacy client by what a modern server says of a call, as
/// [`result_for_legacy`] of a method that is not cacheable: without reading the result once more.
/// `summary` must be those of the result; `None` where more of it has to change than that its
/// `resultType` goes.
pub fn answer_for_legacy(id: &str, result: &[u8], summary: ResultSummary) -> Option<Vec<u8>> {
    if summary.unusual || summary.meta || summary.unstructured {
        return None;
    }
    let members = result.strip_prefix(b"{")?.strip_suffix(b"}")?;
    let (before, after) = match summary.typed {
        // Counted from the brace before them.
        Some(Span { start, end }) => {
            let (start, end) = ((start as usize).checked_sub(1)?, (end as usize).checked_sub(1)?);
            let (before, after) = (members.get(..start)?, members.get(end..)?);
            match after.trim_ascii_start().strip_prefix(b",") {
                Some(after) => (before, after),
                None => (before.trim_ascii_end().strip_suffix(b",").unwrap_or(before), after),
            }
        }
        None => (members, &[][..]),
    };
    let mut message = Vec::with_capacity(id.len() + result.len() + 40);
    answer_begun(&mut message, id);
    message.push(b'{');
    [before, after, b"}}"].into_iter().for_each(|part| message.extend_from_slice(part));
    Some(message)
}

/// A modern server's result for a modern client, signed anew where `facts` name a server, and on
/// cacheable methods with `caching` if it is not the upstream's own.
///
/// # Errors
/// As [`Object::read`].
pub fn result_between_modern(
    result: &str,
    method: &str,
    facts: &Facts,
    caching: Option<Caching>,
) -> Result<String, Fault> {
    let result = Object::read(result)?;
    let rewrite = result.rewrite();
    let rewrite = match facts.server_info.as_deref() {
        Some(info) => rewrite.set("_meta", signed(&result, info)?),
        None => rewrite,
    };
    let complete = result_type(&result)? == ResultType::Complete;
    Ok(cached(rewrite, caching.filter(|_| complete && is_cacheable(method))).text())
}

fn cached<'o, 'a>(rewrite: Rewrite<'o, 'a>, caching: Option<Caching>) -> Rewrite<'o, 'a> {
    match caching {
        Some(caching) => caching.set(rewrite),
        None => rewrite,
    }
}

fn signed(result: &Object<'_>, server_info: &str) -> Result<String, Fault> {
    let meta = result.object("_meta")?;
    Ok(Members::of(meta.as_ref(), |key| key != META_SERVER_INFO).with(META_SERVER_INFO, server_info).text())
}

/// A modern server's result for a legacy client.
///
/// # Errors
/// [`Fault::Shape`] for a result that is not complete: an older client knows no other kind. Else as
/// [`Object::read`].
pub fn result_for_legacy(result: &str, method: &str) -> Result<String, Fault> {
    let result = Object::read(result)?;
    if result_type(&result)? != ResultType::Complete {
        return Err(Fault::Shape("this kind of result cannot be told to an older client"));
    }
    let rewrite = match result.object("_meta")? {
        Some(meta) => {
            let kept = Members::of(Some(&meta), |key| !is_reserved(key));
            match kept.is_empty() {
                true => result.rewrite().remove("_meta"),
                false => result.rewrite().set("_meta", kept.text()),
            }
        }
        None => result.rewrite(),
    };
    let rewrite = rewrite.remove("resultType");
    let rewrite = if is_cacheable(method) { rewrite.remove("ttlMs").remove("cacheScope") } else { rewrite };
    let rewrite = match result.get("structuredContent") {
        Some(value) if method == "tools/call" && !value.starts_with('{') => {
            rewrite.remove("structuredContent").set("content", with_text(&result, value)?)
        }
        _ => rewrite,
    };
    Ok(rewrite.text())
}

/// The content of a tool's result, in which a value is told as text: older clients take only
/// objects as structured content.
fn with_text(result: &Object<'_>, value: &str) -> Result<String, Fault> {
    let content = result.get("content").filter(|content| *content != "null").unwrap_or("[]");
    let blocks = elements(content)?;
    let told = |block: &&str| {
        Object::read(block).is_ok_and(|block| block.text("text").is_some_and(|text| text == value))
    };
    if blocks.iter().any(told) {
        return Ok(content.to_owned());
    }
    let block = text_block(value);
    Ok(array(blocks.into_iter().chain([block.as_str()])))
}

fn text_block(text: &str) -> String {
    Members::new().with("type", "\"text\"").with_string("text", text).text()
}

/// The result of a tool call that failed for a reason its caller's model should read; a modern
/// client's lacks `resultType`, see [`result_for_modern`].
pub fn tool_error(text: &str) -> String {
    Members::new().with("content", &array([text_block(text).as_str()])).with("isError", "true").text()
}

/// A message that answers request `id` by `result`, both JSON text.
pub fn wrap_result(id: &str, result: &str) -> String {
    wrap(id, "result", result)
}

/// A message that answers request `id` by an error that was translated; `id` is JSON text.
pub fn wrap_error_text(id: &str, error: &str) -> String {
    wrap(id, "error", error)
}

/// A message that answers request `id` by an error; `id` and `data` are JSON text.
pub fn wrap_error(id: &str, code: i64, message: &str, data: Option<&str>) -> String {
    let error = Members::new()
        .with("code", &code.to_string())
        .with_string("message", message)
        .with_some("data", data);
    wrap(id, "error", &error.text())
}

fn wrap(id: &str, key: &str, json: &str) -> String {
    Members::with_capacity(48 + id.len() + json.len())
        .with("jsonrpc", "\"2.0\"")
        .with("id", id)
        .with(key, json)
        .text()
}

#[cfg(test)]
mod tests;
