//! What is known of a message for its answer, and for a refusal of it.

use crate::reply::Refused;
use crate::respond::Expect;
use http::Version;
use portunus_config::{HttpStatus, VirtualServer};
use portunus_filters::mcp::Id;
use portunus_filters::message::Reading;
use portunus_filters::{Era, Kind, Message};

/// What a refusal may use of a message.
#[derive(Default)]
pub(super) struct Knowledge {
    pub(super) kind: Option<Kind>,
    pub(super) era: Option<Era>,
    pub(super) ids: Vec<Id>,
    pub(super) batch: bool,
    pub(super) method: Option<portunus_filters::mcp::Method>,
    pub(super) http_status: HttpStatus,
}

impl Knowledge {
    /// What is known of a message before anything of its answer was passed on.
    pub(super) fn of(expect: &Expect, http_status: HttpStatus) -> Knowledge {
        Knowledge {
            kind: Some(expect.kind),
            era: Some(expect.era),
            ids: expect.open.clone(),
            batch: expect.batch,
            method: expect.method.clone(),
            http_status,
        }
    }

    /// The same as a refusal is made from it.
    pub(super) fn refused(&self) -> Refused<'_> {
        Refused {
            kind: self.kind,
            era: self.era,
            ids: &self.ids,
            batch: self.batch,
            method: self.method.as_ref(),
            http_status: self.http_status,
        }
    }
}

/// What the client waits for, from what it sent.
pub(super) fn expect(reading: &Reading, server: &VirtualServer, version: Version) -> Expect {
    let (messages, batch) = (reading.messages(), matches!(reading, Reading::Batch(_)));
    let requests = || messages.iter().filter(|message| message.kind == Kind::Request);
    let kind = match (requests().next(), messages.first()) {
        (Some(_), _) => Kind::Request,
        (None, Some(first)) => first.kind,
        (None, None) => Kind::Notification,
    };
    let rule = |test: fn(&portunus_filters::mcp::method::Rules) -> bool| {
        messages.iter().filter_map(|message| message.method.as_ref()?.rules()).any(test)
    };
    Expect {
        kind,
        era: messages.first().map_or(Era::Legacy, |message| message.era),
        open: requests().filter_map(|message| message.id.clone()).collect(),
        method: messages.first().and_then(|message| message.method.clone()).filter(|_| !batch),
        batch,
        endless: kind == Kind::Stream || rule(|rules| rules.endless),
        founds_session: rule(|rules| rules.name == "initialize"),
        server: server.id.clone(),
        elsewhere: false,
        http_1_0: version == Version::HTTP_10,
        standing: None,
    }
}

/// Whether a message may be sent again after its upstream may have read it.
pub(super) fn is_repeatable(message: &Message) -> bool {
    match message.kind {
        Kind::Stream | Kind::End => true,
        _ => message.method.as_ref().and_then(|method| method.rules()).is_some_and(|rules| rules.repeatable),
    }
}
