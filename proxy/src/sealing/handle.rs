//! Handles that servers mint, and ids of the requests that they make, as clients see them.

use super::{Purpose, Reader, Token, Writer};
use portunus_config::UpstreamMark;
use portunus_filters::authorize::Place;
use portunus_filters::call::TaskCall;
use std::sync::Arc;

/// The id of a task: only who was given it may use it, and what it brings is held to the rules of the
/// call that made it, at every replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HandleToken {
    /// The server.
    pub upstream: UpstreamMark,
    /// Its own id of the task.
    pub text: Box<str>,
    /// Its own name of the tool that was called.
    pub tool: Box<str>,
    /// The call.
    pub call: TaskCall,
}

impl Token for HandleToken {
    const PURPOSE: Purpose = Purpose::Handle;
    const FORM: u8 = 2;

    fn write(&self, out: &mut Writer) {
        out.bytes(self.upstream.as_bytes());
        out.text(&self.text);
        out.text(&self.tool);
        out.some(self.call.arguments.as_deref(), Writer::text);
        out.some(self.call.max_result_bytes, Writer::number);
        out.list(&self.call.redact, |out, place| out.list(&place.0, |out, step| out.text(step)));
    }

    fn read(from: &mut Reader<'_>) -> Option<HandleToken> {
        Some(HandleToken {
            upstream: UpstreamMark::of_bytes(from.array()?),
            text: from.text()?.into(),
            tool: from.text()?.into(),
            call: TaskCall {
                arguments: from.some(|from| from.text().map(Arc::from))?,
                max_result_bytes: from.some(Reader::number)?,
                redact: from.list(|from| from.list(|from| from.text().map(str::to_owned)).map(Place))?,
            },
        })
    }
}
