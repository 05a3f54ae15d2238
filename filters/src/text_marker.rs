//! A filter for tests alone: it marks every text that it sees, so that text which no filter sees can be told apart.
//!
//! It sees requests and what else clients say in the pipeline, and what servers say to clients as an inspector. A request
//! that is aimed at a marker, or whose method is one, is refused, since neither is changed on the way.

#[cfg(not(debug_assertions))]
compile_error!(
    "the feature `text-marker` is for tests: a release changes no text that nobody asked to be changed"
);

use crate::call::{Call, Edit, Verdict};
use crate::filter::Filter;
use crate::inspect::Inspector;
use crate::mcp::Span;
use crate::mcp::bridge::ClientPlace;
use crate::message::Kind;
use crate::released::Channel;
use bytes::Bytes;
use memchr::memmem;
use portunus_base::{Denial, Reason};
use std::borrow::Cow;
use std::sync::Arc;

/// Marker that tests write; they have it in writing, since they do not build with this feature.
const BEFORE: &str = "rawMARKER-";
/// The same after the filter, as long, so that no length changes.
const AFTER: &str = "clrMARKER-";

/// The filter of requests.
#[derive(Debug)]
pub struct TextMarker;

impl Filter for TextMarker {
    fn name(&self) -> &'static str {
        "text-marker"
    }

    fn applies(&self, _: Kind) -> bool {
        true
    }

    fn judge(&self, call: &Call<'_>, verdict: &mut Verdict) -> Result<(), Denial> {
        if call.message.target.as_ref().is_some_and(|target| target.contains(BEFORE)) {
            return Err(Denial::new(Reason::Forbidden, "aimed at a marker"));
        }
        if call.message.method.as_ref().is_some_and(|method| method.name().contains(BEFORE)) {
            return Err(Denial::new(Reason::Forbidden, "a marker for a method"));
        }
        let body = &call.message.body;
        let text = match (call.message.params, &call.message.method) {
            (Some(params), _) => params.of(body),
            // An answer has its text elsewhere.
            (None, None) => body,
            (None, Some(_)) => &[],
        };
        let found =
            memmem::find_iter(text, BEFORE).filter_map(|at| Span::locate(body, &text[at..at + BEFORE.len()]));
        let with = Bytes::from_static(AFTER.as_bytes());
        verdict.edits.extend(found.map(|span| Edit { owner: self.name(), span, with: with.clone() }));
        verdict.inspectors.push(Arc::new(TextMarker));
        Ok(())
    }

    fn reads_client_texts(&self) -> bool {
        true
    }

    fn client_text<'t>(&self, place: ClientPlace<'_>, text: &'t str) -> Result<Cow<'t, str>, Denial> {
        // Names of headers have lost their case.
        let is_name = matches!(place, ClientPlace::HeaderName);
        match is_name && text.contains(&BEFORE.to_lowercase()) {
            true => Ok(Cow::Owned(text.replace(&BEFORE.to_lowercase(), AFTER))),
            false => Ok(marked(text)),
        }
    }

    fn server_text<'t>(&self, _: Channel, text: &'t str) -> Result<Cow<'t, str>, Denial> {
        Ok(marked(text))
    }
}

fn marked(text: &str) -> Cow<'_, str> {
    match text.contains(BEFORE) {
        true => Cow::Owned(text.replace(BEFORE, AFTER)),
        false => Cow::Borrowed(text),
    }
}

impl Inspector for TextMarker {
    fn inspect<'t>(&self, _: Channel, text: &'t str) -> Result<Cow<'t, str>, Denial> {
        Ok(Cow::Owned(text.replace(BEFORE, AFTER)))
    }
}
