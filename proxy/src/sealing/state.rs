//! `requestState` of a call that waits for its client's input.

use super::{Home, Purpose, Reader, Token, Writer};
use std::time::Duration;

/// Which parked call a retry belongs to, and what it must be a retry of.
///
/// Consuming it once is the business of the table that holds the call under `serial`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateToken {
    /// Who holds the call.
    pub home: Home,
    /// Which of its parked calls.
    pub serial: u64,
    /// Digest of what a retry must have in common with the call that was parked.
    pub digest: [u8; 16],
    /// When it ends, in seconds since the Unix epoch.
    pub expires: u64,
    /// The server's own `requestState`, which no other caller may use.
    pub inner: Option<Box<str>>,
}

impl StateToken {
    /// Whether the call has waited long enough at `wall`, the time since the Unix epoch.
    pub fn is_over(&self, wall: Duration) -> bool {
        wall.as_secs() >= self.expires
    }
}

impl Token for StateToken {
    const PURPOSE: Purpose = Purpose::State;
    const FORM: u8 = 1;

    fn write(&self, out: &mut Writer) {
        self.home.write(out);
        out.number(self.serial);
        out.bytes(&self.digest);
        out.number(self.expires);
        out.flag(self.inner.is_some());
        if let Some(inner) = &self.inner {
            out.text(inner);
        }
    }

    fn read(from: &mut Reader<'_>) -> Option<StateToken> {
        Some(StateToken {
            home: Home::read(from)?,
            serial: from.number()?,
            digest: from.array()?,
            expires: from.number()?,
            inner: match from.flag()? {
                true => Some(from.text()?.into()),
                false => None,
            },
        })
    }
}
