//! The trait of filters.

use crate::call::{Call, Verdict};
use crate::mcp::bridge::ClientPlace;
use crate::message::Kind;
use crate::pipeline::Admission;
use crate::released::Channel;
use portunus_base::Denial;
use std::borrow::Cow;
use std::sync::Arc;

/// Knowledge that a filter needs of the tool, prompt or resource that a message names, from little to much.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Needs {
    /// Its name.
    #[default]
    Name,
    /// The facts that the configuration has of it by its name.
    Facts,
    /// Its entry in lists: that it is offered, and how. They are fetched for it.
    Definition,
}

/// One stage that may refuse or change a message. Does no I/O.
pub trait Filter: Send + Sync {
    /// The name in configuration, metrics and the log.
    fn name(&self) -> &'static str;

    /// True if messages have to be served for it, so that it meets all that they and their answers say. One that is off may
    /// still take away what a message says to the gateway alone.
    fn is_on(&self) -> bool {
        true
    }

    /// The knowledge that it needs of the item that a message names.
    fn needs(&self) -> Needs {
        Needs::Name
    }

    /// True if it looks at messages of this kind.
    fn applies(&self, kind: Kind) -> bool;

    /// Judges one message as the filters before it left it.
    ///
    /// # Errors
    /// The [`Denial`] that ends the message.
    fn judge(&self, call: &Call<'_>, verdict: &mut Verdict) -> Result<(), Denial>;

    /// Takes permits and charges for the one request at an upstream that a cleared message opens; called once for each such
    /// request. Permits are taken before charges, and charges never wait. A stream that listens at a server does not wait
    /// either: one that is queued is refused.
    ///
    /// # Errors
    /// The [`Denial`] of a limit that is reached.
    fn admit(&self, _call: &Call<'_>) -> Result<Admission, Denial> {
        Ok(Admission::Free)
    }

    /// True if it wants [`Filter::client_text`] to be asked.
    fn reads_client_texts(&self) -> bool {
        false
    }

    /// Reads a text of a client that reaches servers beside its messages, and gives it as they may have it.
    ///
    /// The result is remembered with the connection, so the answer must follow from the text and the configuration
    /// alone. [`Cow::Borrowed`] means that nothing is changed.
    ///
    /// # Errors
    /// The [`Denial`] of a client that says this.
    fn client_text<'t>(&self, _place: ClientPlace<'_>, text: &'t str) -> Result<Cow<'t, str>, Denial> {
        Ok(Cow::Borrowed(text))
    }

    /// Reads a text of a server that reaches clients beside the answers to their messages, and so without an inspector of
    /// one: a challenge, or metadata of an authorization server. Gives it as they may have it.
    ///
    /// # Errors
    /// The [`Denial`] of a text that no client may have.
    fn server_text<'t>(&self, _channel: Channel, text: &'t str) -> Result<Cow<'t, str>, Denial> {
        Ok(Cow::Borrowed(text))
    }
}

impl<F: Filter + ?Sized> Filter for Arc<F> {
    fn name(&self) -> &'static str {
        (**self).name()
    }

    fn is_on(&self) -> bool {
        (**self).is_on()
    }

    fn needs(&self) -> Needs {
        (**self).needs()
    }

    fn applies(&self, kind: Kind) -> bool {
        (**self).applies(kind)
    }

    fn judge(&self, call: &Call<'_>, verdict: &mut Verdict) -> Result<(), Denial> {
        (**self).judge(call, verdict)
    }

    fn admit(&self, call: &Call<'_>) -> Result<Admission, Denial> {
        (**self).admit(call)
    }

    fn reads_client_texts(&self) -> bool {
        (**self).reads_client_texts()
    }

    fn client_text<'t>(&self, place: ClientPlace<'_>, text: &'t str) -> Result<Cow<'t, str>, Denial> {
        (**self).client_text(place, text)
    }

    fn server_text<'t>(&self, channel: Channel, text: &'t str) -> Result<Cow<'t, str>, Denial> {
        (**self).server_text(channel, text)
    }
}
