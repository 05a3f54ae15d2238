//! `Mcp-Session-Id` as we give it out: what never changes about a legacy client's session.
//!
//! Any replica can serve from it. What changes later (log level, subscriptions, upstream sessions made since) is
//! kept by the session's home.

use super::{Binding, CallerKey, Purpose, Reader, Seals, Token, Writer};
use portunus_config::UpstreamMark;
use portunus_filters::Identity;
use portunus_filters::mcp::Revision;
use ring::digest::{Context, SHA256};
use std::sync::Arc;
use std::time::Duration;

/// One run of one replica: where the state behind a token is, or was.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Home {
    replica: Arc<str>,
    boot: u32,
}

impl Home {
    /// Longest name of a replica, in bytes.
    pub const MAX_NAME: usize = 16;

    /// The run `boot` of `replica`; `None` unless the name has 1 to 16 bytes of visible ASCII.
    pub fn new(replica: Arc<str>, boot: u32) -> Option<Home> {
        let fits = (1..=Home::MAX_NAME).contains(&replica.len()) && is_visible(&replica);
        fits.then_some(Home { replica, boot })
    }

    /// Name of the replica among its peers.
    pub fn replica(&self) -> &Arc<str> {
        &self.replica
    }

    /// Which of its runs: a replica that was started again has another.
    pub fn boot(&self) -> u32 {
        self.boot
    }

    pub(crate) fn write(&self, out: &mut Writer) {
        out.short(&self.replica);
        out.bytes(&self.boot.to_be_bytes());
    }

    pub(crate) fn read(from: &mut Reader<'_>) -> Option<Home> {
        let replica = from.short()?;
        Home::new(replica.into(), from.array().map(u32::from_be_bytes)?)
    }
}

/// What is sealed into a session id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionToken {
    /// When the session began, in seconds since the Unix epoch.
    pub issued: u64,
    /// The revision that was agreed on with the client.
    pub version: Revision,
    /// What this session is called in tables and tombstones.
    pub number: [u8; 16],
    /// Who keeps what changes.
    pub home: Home,
    /// Its messages passed as they came when it began: it is the session of its one server, and nobody keeps anything of
    /// it here.
    pub passes: bool,
    /// What its client can be asked, see [`portunus_filters::mcp::bridge::Profile::bits`]: less than 128.
    pub abilities: u8,
    /// What its client calls itself, a JSON object of at most 96 bytes; empty if that is longer.
    pub client: Box<str>,
    /// Sessions with servers that were opened for it.
    pub upstream_sessions: Vec<SealedUpstreamSession>,
}

/// Bit beside the abilities, of a session whose messages pass.
const PASSES: u8 = 1 << 7;

/// The part of a session's id that a replica which knows the session needs: nothing of its client and upstream sessions
/// is read, but of a session that passes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionName {
    /// As [`SessionToken::issued`].
    pub issued: u64,
    /// As [`SessionToken::number`].
    pub number: [u8; 16],
    /// As [`SessionToken::home`].
    pub home: Home,
    /// What is known of it if its messages passed when it began.
    pub passed: Option<PassedSession>,
}

/// A session that is its server's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PassedSession {
    /// The server.
    pub upstream: UpstreamMark,
    /// The id that the server gave it; empty if that has no sessions.
    pub own_id: Box<str>,
    /// It was sealed for nobody, and the caller is none of those: whoever bears it may use it, but nobody whom the gateway
    /// has verified.
    pub is_borne: bool,
}

impl SessionName {
    /// What `text` names, if it was sealed here or by a replica for this server and caller.
    pub fn open(seals: &Seals, binding: &Binding<'_>, text: &str) -> Option<SessionName> {
        opened(seals, binding, text, SessionName::decode, |mut name| {
            name.passed.as_mut()?.is_borne = true;
            Some(name)
        })
    }

    fn decode(plain: &[u8]) -> Option<SessionName> {
        let mut from = Reader::new(plain, SessionToken::FORM)?;
        let (issued, _version, number) = (from.number()?, from.revision()?, from.array()?);
        let home = Home::read(&mut from)?;
        let passed = match from.byte()? & PASSES != 0 {
            true => {
                let SealedUpstreamSession { upstream, id, .. } =
                    SessionToken::decode(plain)?.upstream_sessions.into_iter().next()?;
                Some(PassedSession { upstream, own_id: id, is_borne: false })
            }
            false => None,
        };
        Some(SessionName { issued, number, home, passed })
    }

    /// The session, unless its id is borne by a caller who has to have one of its own.
    pub fn for_caller(self: Arc<Self>, identity: &Identity) -> Option<Arc<SessionName>> {
        let is_refused =
            self.passed.as_ref().is_some_and(|passed| passed.is_borne) && identity.principal().is_some();
        (!is_refused).then_some(self)
    }

    /// What the session is called in tables. One that passed is adopted for each credential by itself, since each reaches
    /// the server with what its caller shows.
    pub fn number_for(&self, caller: CallerKey) -> [u8; 16] {
        if self.passed.is_none() {
            return self.number;
        }
        let mut context = Context::new(&SHA256);
        context.update(&self.number);
        context.update(caller.as_bytes());
        let mut number = [0; 16];
        number.copy_from_slice(&context.finish().as_ref()[..16]);
        number
    }

    /// Whether the session is older than `lifetime` at `wall`, the time since the Unix epoch. One that passed had no age
    /// here before: it lasts for as long as its id does.
    pub fn is_over(&self, wall: Duration, lifetime: Duration) -> bool {
        let lifetime = if self.passed.is_some() { SessionToken::PASSED_FOR } else { lifetime };
        wall.saturating_sub(Duration::from_secs(self.issued)) >= lifetime
    }
}

/// What is read of a token by `read`, if it was sealed for this server and caller. A session that passed was sealed for
/// nobody unless its caller was verified: whoever bears its id may use it, as while it passed, and `borne` says so.
fn opened<T>(
    seals: &Seals,
    binding: &Binding<'_>,
    text: &str,
    read: impl Fn(&[u8]) -> Option<T>,
    borne: impl FnOnce(T) -> Option<T>,
) -> Option<T> {
    if let Some(plain) = seals.open(SessionToken::PURPOSE, binding, text) {
        return read(&plain);
    }
    let bearer = Binding { caller: CallerKey::for_bearers(), ..*binding };
    read(&seals.open(SessionToken::PURPOSE, &bearer, text)?).and_then(borne)
}

/// A session with one server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealedUpstreamSession {
    /// The server.
    pub upstream: UpstreamMark,
    /// The server's own session id; empty if it gave none.
    pub id: Box<str>,
    /// The revision that was agreed on with the server.
    pub version: Revision,
}

/// A sealed session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealedSession {
    /// The session id, at most 512 bytes.
    pub text: String,
    /// The upstream sessions that did not fit and are known only to the home.
    pub left_out: Vec<usize>,
}

impl SessionToken {
    /// Longest of [`SessionToken::client`], in bytes.
    pub const MAX_CLIENT: usize = 96;

    /// For how long the id of a session that passed opens where its endpoint serves.
    pub const PASSED_FOR: Duration = Duration::from_secs(7 * 24 * 60 * 60);

    /// What `text` says, as [`SessionName::open`].
    pub fn open_session(seals: &Seals, binding: &Binding<'_>, text: &str) -> Option<SessionToken> {
        opened(seals, binding, text, SessionToken::decode, |token| token.passes.then_some(token))
    }

    /// The session id, with as many upstream sessions as fit, in their order.
    pub fn seal(&self, seals: &Seals, binding: &Binding<'_>) -> SealedSession {
        let mut out = Writer::new(Self::FORM);
        self.write_root(&mut out);
        let mut left_out = Vec::new();
        for (index, upstream_session) in self.upstream_sessions.iter().enumerate() {
            match upstream_session.fits()
                && out.len() + upstream_session.len() <= Purpose::Session.max_plain()
            {
                true => upstream_session.write(&mut out),
                false => left_out.push(index),
            }
        }
        let plain = out.finish().unwrap_or_default();
        SealedSession { text: seals.seal(Purpose::Session, binding, &plain), left_out }
    }

    fn write_root(&self, out: &mut Writer) {
        out.number(self.issued);
        out.revision(self.version);
        out.bytes(&self.number);
        self.home.write(out);
        out.byte(self.abilities & !PASSES | if self.passes { PASSES } else { 0 });
        out.short(if self.client.len() <= SessionToken::MAX_CLIENT { &self.client } else { "" });
    }
}

impl Token for SessionToken {
    const PURPOSE: Purpose = Purpose::Session;
    const FORM: u8 = 1;

    fn write(&self, out: &mut Writer) {
        self.write_root(out);
        self.upstream_sessions.iter().for_each(|upstream_session| upstream_session.write(out));
    }

    fn read(from: &mut Reader<'_>) -> Option<SessionToken> {
        let (issued, version, number) = (from.number()?, from.revision()?, from.array()?);
        let home = Home::read(from)?;
        let (bits, client) = (from.byte()?, from.short()?);
        let (passes, abilities) = (bits & PASSES != 0, bits & !PASSES);
        // A longer one is never written.
        let client = (client.len() <= SessionToken::MAX_CLIENT).then(|| client.into())?;
        let mut upstream_sessions = Vec::new();
        while !from.is_empty() {
            upstream_sessions.push(SealedUpstreamSession::read(from)?);
        }
        Some(SessionToken { issued, version, number, home, passes, abilities, client, upstream_sessions })
    }
}

impl SealedUpstreamSession {
    fn len(&self) -> usize {
        UpstreamMark::LEN + 1 + 1 + self.id.len()
    }

    fn fits(&self) -> bool {
        self.id.len() <= usize::from(u8::MAX) && is_visible(&self.id)
    }

    fn write(&self, out: &mut Writer) {
        out.bytes(self.upstream.as_bytes());
        out.revision(self.version);
        out.short(&self.id);
    }

    fn read(from: &mut Reader<'_>) -> Option<SealedUpstreamSession> {
        let (upstream, version, id) =
            (UpstreamMark::of_bytes(from.array()?), from.revision()?, from.short()?);
        is_visible(id).then(|| SealedUpstreamSession { upstream, id: id.into(), version })
    }
}

/// What the specification lets a session id be made of (2025-11-25, transports §Session Management).
fn is_visible(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_graphic())
}
