//! Requests of clients in the words of the upstream's era.

use super::meta::{self, Members, is_reserved};
use super::methods::{Reference, target_key};
use super::profile::Profile;
use crate::mcp::headers::META_VERSION;
use crate::mcp::object::{MessageIndex, Object};
use crate::mcp::rewrite::{Copy, Rewrite, string};
use crate::mcp::{Fault, Revision};
use bytes::Bytes;
use std::borrow::Cow;

/// What of a request belongs to the connection that it goes out on.
#[derive(Clone, Copy, Debug)]
pub struct Put<'a> {
    /// Its id there, as JSON text.
    pub id: &'a str,
    /// The progress token in place of the client's, as JSON text; only if the client gave one.
    pub progress_token: Option<&'a str>,
    /// Name or URI that the upstream knows its target by.
    pub target: Option<&'a str>,
}

/// What a retry carries (2026-07-28 patterns/mrtr).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Retry {
    /// Answers by the keys of their questions, a JSON object.
    pub input_responses: Option<String>,
    /// The upstream's state exactly as it wrote it, a JSON string.
    pub request_state: Option<String>,
}

/// A client's request for a legacy server.
///
/// # Errors
/// [`Fault::Shape`] if it is no request with by-name parameters, [`Fault::Syntax`] and
/// [`Fault::DuplicateKey`] as [`Object::read`].
pub fn legacy_request(parts: &Parts<'_>, put: &Put<'_>) -> Result<String, Fault> {
    let request = parts.request()?;
    let token = request.token(put);
    let stays = |key: &str| !is_reserved(key) && key != "progressToken";
    let says_more = |meta: &Object<'_>| meta.members().any(|(key, _)| stays(key));
    let keeps = token.is_some() || request.meta.as_ref().is_some_and(says_more);
    if !keeps && request.is_plain(put) {
        return Ok(request.with_id(put.id, Meta::Left));
    }
    let kept = Members::of(request.meta.as_ref(), stays).with_some("progressToken", token);
    let params = request.params.rewrite();
    let params = match kept.is_empty() {
        true => params.remove("_meta"),
        false => params.set("_meta", kept.text()),
    };
    request.put(put, params.remove("inputResponses").remove("requestState"))
}

/// A client's request for a modern server; `retry` takes the place of what the client's own carries.
///
/// # Errors
/// As [`legacy_request`].
pub fn modern_request(
    parts: &Parts<'_>,
    put: &Put<'_>,
    profile: &Profile,
    version: Revision,
    retry: Option<&Retry>,
) -> Result<String, Fault> {
    let request = parts.request()?;
    let meta = profile.enveloped(request.meta.as_ref(), request.token(put), version);
    if retry.is_none() && request.params.position("_meta").is_none() && request.is_plain(put) {
        return Ok(request.with_id(put.id, Meta::Added(&meta)));
    }
    let responses = retry.and_then(|retry| retry.input_responses.as_deref());
    let state = retry.and_then(|retry| retry.request_state.as_deref());
    let params = request
        .params
        .rewrite()
        .set("_meta", meta)
        .remove("inputResponses")
        .remove("requestState")
        .set_some("inputResponses", responses)
        .set_some("requestState", state);
    request.put(put, params)
}

/// A modern client's request for a modern server under its own id; `None` if it can stay as it is. What
/// it carries of an earlier round is `retry`, or nothing.
///
/// # Errors
/// As [`legacy_request`].
pub fn passed_request(
    parts: &Parts<'_>,
    target: Option<&str>,
    version: Revision,
    retry: Option<&Retry>,
) -> Result<Option<String>, Fault> {
    let request = parts.request()?;
    let speaks = request.meta.as_ref().and_then(|meta| meta.text(META_VERSION));
    if speaks.as_deref() != Some(version.as_str()) {
        return Err(Fault::Shape("the request is not of the revision that it is passed in"));
    }
    let is_call = request.method == "tools/call";
    let changes = |key: &str| matches!(key, "inputResponses" | "requestState") || (key == "task" && is_call);
    let stays = retry.is_none() && !request.params.members().any(|(key, _)| changes(key));
    if stays && request.is_bare && request.is_aimed_at(target) {
        return Ok(None);
    }
    let responses = retry.and_then(|retry| retry.input_responses.as_deref());
    let state = retry.and_then(|retry| retry.request_state.as_deref());
    let params = request.params.rewrite().remove("inputResponses").remove("requestState");
    let params = params.set_some("inputResponses", responses).set_some("requestState", state);
    request.aimed_with(target, params).map(Some)
}

/// The `initialize` request that founds a session for a client; `id` is JSON text.
pub fn initialize(profile: &Profile, id: &str, version: Revision) -> Bytes {
    let info = profile.client_info.as_deref().unwrap_or(super::facts::UNNAMED);
    let params = Members::new()
        .with_string("protocolVersion", version.as_str())
        .with("capabilities", &profile.legacy_capabilities())
        .with("clientInfo", info);
    message("initialize", Some(id), &params.text()).into()
}

/// The notification that follows the answer to `initialize`.
pub fn initialized() -> Bytes {
    Bytes::from_static(br#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#)
}

/// A message of JSON-RPC; `id` and `params` are JSON text.
pub(super) fn message(method: &str, id: Option<&str>, params: &str) -> String {
    Members::with_capacity(64 + method.len() + params.len())
        .with("jsonrpc", "\"2.0\"")
        .with_some("id", id)
        .with_string("method", method)
        .with("params", params)
        .text()
}

/// A request taken apart.
#[derive(Debug)]
pub struct Parts<'a> {
    message: Object<'a>,
    params: Object<'a>,
}

/// What becomes of the `_meta` of a request.
#[derive(Clone, Copy)]
enum Meta<'m> {
    /// It is left out, if there is one.
    Left,
    /// There was none, and this is added.
    Added(&'m str),
}

impl Meta<'_> {
    /// Bytes by which it may make the request longer.
    fn added(self) -> usize {
        match self {
            Meta::Left => 0,
            Meta::Added(meta) => meta.len() + 10,
        }
    }
}

struct Request<'o, 'a> {
    message: &'o Object<'a>,
    params: &'o Object<'a>,
    meta: Option<Object<'o>>,
    method: Cow<'a, str>,
    /// It has no members but those of JSON-RPC.
    is_bare: bool,
}

impl<'a> Parts<'a> {
    /// Takes a request apart.
    ///
    /// # Errors
    /// As [`legacy_request`].
    pub fn read(body: &'a str) -> Result<Parts<'a>, Fault> {
        let mut message = Object::message(body)?;
        let params = match (message.take("params"), message.get("params")) {
            (Some(params), _) => params?,
            (None, None) => Object::default(),
            (None, Some(_)) => return Err(Fault::Shape("`params` must be an object")),
        };
        Ok(Parts { message, params })
    }

    /// The parts of a request that was taken apart before; `body` must be the one it was found in.
    pub fn of(message_index: &'a MessageIndex, body: &'a str) -> Parts<'a> {
        Parts { message: message_index.message(body), params: message_index.params(body) }
    }

    /// The parts of a request as [`Parts::of`] where that was taken apart before, else as
    /// [`Parts::read`].
    ///
    /// # Errors
    /// As [`legacy_request`]; [`Fault::Syntax`] if it is no text.
    pub fn known(message_index: Option<&'a MessageIndex>, body: &'a [u8]) -> Result<Parts<'a>, Fault> {
        let body = crate::mcp::text(body)?;
        match message_index {
            Some(message_index) => Ok(Parts::of(message_index, body)),
            None => Parts::read(body),
        }
    }

    /// Its parameters, empty if it has none.
    pub fn params(&self) -> &Object<'a> {
        &self.params
    }

    /// Its progress token, as JSON text.
    ///
    /// # Errors
    /// As [`legacy_request`].
    pub fn progress_token(&self) -> Result<Option<String>, Fault> {
        let meta = meta::of_params(&self.params)?;
        let token = meta.as_ref().and_then(|meta| meta.get("progressToken"));
        Ok(token.filter(|&token| token != "null").map(str::to_owned))
    }

    fn request(&self) -> Result<Request<'_, 'a>, Fault> {
        let method = self.message.text("method").ok_or(Fault::Shape("`method` must be a string"))?;
        if self.message.position("id").is_none() {
            return Err(Fault::Shape("a request must have an id"));
        }
        let meta = meta::of_params(&self.params)?;
        let is_bare = self.message.members().all(|(key, _)| is_of_json_rpc(key));
        Ok(Request { message: &self.message, params: &self.params, meta, method, is_bare })
    }
}

impl<'o, 'a> Request<'o, 'a> {
    /// The progress token that goes out, if the client gave one.
    fn token<'t>(&self, put: &Put<'t>) -> Option<&'t str>
    where
        'o: 't,
    {
        let given = self.meta.as_ref()?.get("progressToken").filter(|&token| token != "null")?;
        Some(put.progress_token.unwrap_or(given))
    }

    /// Whether it has parameters of which none but `_meta` has to change or go.
    fn is_plain(&self, put: &Put<'_>) -> bool {
        let stays = |(key, _): (&str, &str)| !matches!(key, "inputResponses" | "requestState" | "task");
        !self.params.as_text().is_empty()
            && self.params.members().all(stays)
            && self.is_bare
            && self.is_aimed_at(put.target)
    }

    /// The message without other members: no filter reads them.
    fn bared(&self) -> Rewrite<'o, 'a> {
        if self.is_bare {
            return self.message.rewrite();
        }
        let others = self.message.members().filter(|(key, _)| !is_of_json_rpc(key));
        others.fold(self.message.rewrite(), |message, (key, _)| message.remove(key.to_owned()))
    }

    /// The request under another id, and with or without `_meta` in its parameters: most requests need no
    /// more.
    fn with_id(&self, id: &str, meta: Meta<'_>) -> String {
        let text = self.message.as_text();
        let mut out = String::with_capacity(text.len() + id.len() + meta.added());
        let mut copy = Copy::of(text, &mut out);
        for (key, member) in self.message.placed_members() {
            match (key, meta) {
                ("id", _) => {
                    copy.up_to(member.value);
                    copy.out.push_str(id);
                    copy.done = member.end;
                }
                ("params", Meta::Added(meta)) => {
                    copy.up_to(member.end - 1);
                    let comma = if self.params.members().len() == 0 { "" } else { "," };
                    [comma, "\"_meta\":", meta].into_iter().for_each(|piece| copy.out.push_str(piece));
                }
                ("params", Meta::Left) => {
                    if let Some(place) = self.params.position("_meta") {
                        copy.leave_out(self.params, (place, member.value), place > 0);
                    }
                }
                _ => {}
            }
        }
        copy.finish();
        out
    }

    /// The request with new parameters, under its new id and target.
    fn put(&self, put: &Put<'_>, params: Rewrite<'o, 'a>) -> Result<String, Fault> {
        let params = self.aimed_params(put.target, params)?;
        Ok(self.bared().set("id", put.id).text_with("params", &params))
    }

    /// The request with new parameters and its new target.
    fn aimed_with(&self, target: Option<&str>, params: Rewrite<'o, 'a>) -> Result<String, Fault> {
        let params = self.aimed_params(target, params)?;
        Ok(self.bared().text_with("params", &params))
    }

    /// Nobody here declares tasks, so nobody may be asked for one.
    fn aimed_params(&self, target: Option<&str>, params: Rewrite<'o, 'a>) -> Result<Rewrite<'o, 'a>, Fault> {
        let params = match target {
            Some(target) if !self.is_aimed_at(Some(target)) => self.aimed(target, params)?,
            Some(_) | None => params,
        };
        Ok(if self.method == "tools/call" { params.remove("task") } else { params })
    }

    /// Whether the target is what the client calls it.
    fn is_aimed_at(&self, target: Option<&str>) -> bool {
        let named = || self.params.text(target_key(&self.method)?);
        target.is_none_or(|target| named().as_deref() == Some(target))
    }

    fn aimed(&self, target: &str, params: Rewrite<'o, 'a>) -> Result<Rewrite<'o, 'a>, Fault> {
        if let Some(key) = target_key(&self.method) {
            return Ok(params.set(key, string(target)));
        }
        match &*self.method {
            "completion/complete" => Ok(params.set("ref", Reference::of(self.params)?.aimed(target))),
            _ => Ok(params),
        }
    }
}

/// True if JSON-RPC knows a member of a request.
fn is_of_json_rpc(key: &str) -> bool {
    matches!(key, "jsonrpc" | "id" | "method" | "params")
}

#[cfg(test)]
mod tests;
