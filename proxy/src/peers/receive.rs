//! The other side of a relay: whether to believe who says what about a client.

use super::Peers;
use super::assertion::{Assertion, CREDENTIALS, Relayed, VALID, head_digest};
use super::window::MessageKind;
use crate::sealing::{Seals, Token};
use http::request::Parts;
use portunus_filters::Moment;
use std::time::Duration;

/// The field that holds an assertion, and in an answer a [`Verdict`]. Clients' own are not passed on.
const RELAY: &str = "portunus-relay";

/// Why a replica does not serve what is relayed to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nobody who may has asserted anything, or not of this request.
    Unknown,
    /// The assertion is too old, or from the future.
    Expired,
    /// It was taken before.
    Repeated,
    /// It is for an earlier run.
    Gone,
    /// So many newer ones were taken that nobody knows whether it was.
    Busy,
    /// The listener that the request came in by is not configured here.
    Elsewhere,
}

impl Verdict {
    /// The field that says it, and in a request the assertion.
    pub const FIELD: &str = RELAY;

    /// All of them.
    pub const ALL: [Verdict; 6] = [
        Verdict::Unknown,
        Verdict::Expired,
        Verdict::Repeated,
        Verdict::Gone,
        Verdict::Busy,
        Verdict::Elsewhere,
    ];

    /// As it is said on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Verdict::Unknown => "unknown",
            Verdict::Expired => "expired",
            Verdict::Repeated => "repeated",
            Verdict::Gone => "gone",
            Verdict::Busy => "busy",
            Verdict::Elsewhere => "elsewhere",
        }
    }

    /// What an operator should read, and do.
    pub fn in_words(self) -> &'static str {
        match self {
            Verdict::Unknown => {
                "it does not open what is sealed here: give all replicas the same `sealing` keys"
            }
            Verdict::Expired => "its clock is more than 30 s from the one here: synchronise both",
            Verdict::Repeated => "it has taken the request already",
            Verdict::Gone => "it was started again",
            Verdict::Busy => "it has taken too many newer ones",
            Verdict::Elsewhere => "it has no listener of that name: give all replicas the same `listeners`",
        }
    }

    /// The HTTP status that goes with it.
    pub fn status(self) -> u16 {
        match self {
            Verdict::Unknown | Verdict::Expired | Verdict::Repeated => 403,
            Verdict::Gone | Verdict::Elsewhere => 421,
            Verdict::Busy => 503,
        }
    }
}

impl Peers {
    /// What is asserted of a request that came by the listener for peers, if it may be believed.
    ///
    /// # Errors
    /// [`Verdict`]. Nothing is remembered of an assertion that was refused.
    pub fn believe(&self, seals: &Seals, head: &Parts, now: Moment) -> Result<Relayed, Verdict> {
        // They come in the assertion, where they can be told from a stranger's.
        if CREDENTIALS.iter().any(|name| head.headers.contains_key(name)) {
            return Err(Verdict::Unknown);
        }
        let mut sealed = head.headers.get_all(RELAY).iter();
        let sealed = sealed.next().filter(|_| sealed.next().is_none()).and_then(|text| text.to_str().ok());
        let opened = sealed.and_then(|text| Assertion::open(seals, &self.address.binding(), text));
        let assertion =
            opened.filter(|assertion| assertion.head == head_digest(head)).ok_or(Verdict::Unknown)?;
        if assertion.boot != self.own.boot() {
            return Err(Verdict::Gone);
        }
        let whose = (&assertion.from, MessageKind::Relay);
        self.taken.take(whose, assertion.number, assertion.issued, now)?;
        Ok(assertion.relayed)
    }
}

/// Whether what was said at a time may be believed now.
pub(super) fn in_time(issued: u64, now: Moment) -> Result<(), Verdict> {
    match now.wall.abs_diff(Duration::from_secs(issued)) <= VALID {
        true => Ok(()),
        false => Err(Verdict::Expired),
    }
}
