//! Handles that servers mint, and ids of the requests that they make, as clients see them.

use super::{Purpose, Reader, Token, Writer};
use portunus_config::UpstreamUrl;
use portunus_filters::authorize::Place;
use portunus_filters::call::TaskCall;
use ring::digest::{Context, SHA256};
use std::sync::Arc;

/// Which server something belongs to, in eight bytes that are the same on every replica.
///
/// Credentials are no part of it, so that rotating one keeps what was sealed before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct UpstreamMark([u8; 8]);

impl UpstreamMark {
    pub(super) const LEN: usize = 8;

    /// The mark of the server called `name` at `url`; each replica of a server has its own.
    pub fn of(name: &str, url: &UpstreamUrl) -> UpstreamMark {
        let mut context = Context::new(&SHA256);
        for part in [name, url.scheme.default_port().to_string().as_str(), &url.authority, &url.path] {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part.as_bytes());
        }
        let mut mark = [0; 8];
        mark.copy_from_slice(&context.finish().as_ref()[..8]);
        UpstreamMark(mark)
    }

    /// The mark as text: 16 hexadecimal digits.
    pub fn hex(&self) -> String {
        format!("{:016x}", u64::from_be_bytes(self.0))
    }

    /// The mark that is written so; `None` for another text.
    pub fn of_hex(text: &str) -> Option<UpstreamMark> {
        let is_one = text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let number = is_one.then(|| u64::from_str_radix(text, 16).ok())?;
        number.map(|number| UpstreamMark(number.to_be_bytes()))
    }

    pub(super) fn as_bytes(&self) -> &[u8; 8] {
        &self.0
    }

    pub(super) fn read(from: &mut Reader<'_>) -> Option<UpstreamMark> {
        from.array().map(UpstreamMark)
    }
}

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
            upstream: UpstreamMark::read(from)?,
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
