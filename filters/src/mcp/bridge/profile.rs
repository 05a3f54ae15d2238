//! What a client says of itself.

use super::level::LogLevel;
use super::meta::{META_CLIENT_CAPABILITIES, META_CLIENT_INFO, META_LOG_LEVEL, Members, TASKS, is_reserved};
use crate::mcp::Revision;
use crate::mcp::headers::META_VERSION;
use crate::mcp::object::{KnownKeys, Object, StrictObject, is_imitated, known_keys, unquoted};
use portunus_base::{Denial, Reason};
use ring::digest::{Context, SHA256};
use std::borrow::Cow;
use std::sync::{Arc, OnceLock};

/// Something that a server may ask of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ability {
    /// Ask its user by a form.
    Elicit,
    /// Send its user to a URL.
    ElicitUrl,
    /// Ask its model.
    Sample,
    /// Ask its model, which may use the server's tools.
    SampleTools,
    /// Tell its roots.
    Roots,
}

impl Ability {
    /// What a client must declare for it: `data.requiredCapabilities` of -32021, as JSON text.
    pub fn required(self) -> &'static str {
        match self {
            Ability::Elicit => r#"{"elicitation":{"form":{}}}"#,
            Ability::ElicitUrl => r#"{"elicitation":{"url":{}}}"#,
            Ability::Sample => r#"{"sampling":{}}"#,
            Ability::SampleTools => r#"{"sampling":{"tools":{}}}"#,
            Ability::Roots => r#"{"roots":{}}"#,
        }
    }
}

/// A place at which text of a client reaches servers beside its messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientPlace<'a> {
    /// The name and version of its software: a JSON object.
    ClientInfo,
    /// What it says that it can do: a JSON object.
    Capabilities,
    /// The name of a header that goes up, in lower case; it cannot be edited.
    HeaderName,
    /// The id that it gives its HTTP request, which goes up as `X-Request-Id`; it cannot be edited.
    RequestId,
    /// The value of a header that goes up, by the header's name in lower case, which the client has chosen too.
    Header(&'a str),
}

/// What a client says of itself in the words of one era, to be said again in the other's.
#[derive(Clone, Debug)]
pub struct Profile {
    /// Name and version of its software, a JSON object, where it tells.
    pub client_info: Option<Arc<str>>,
    /// What it can do, a JSON object as 2026-07-28 writes it.
    pub capabilities: Arc<str>,
    /// The severity from which on it wants log messages; a modern client that names none wants none,
    /// for a legacy one the server decides.
    pub log_level: Option<LogLevel>,
    abilities: Abilities,
    key: OnceLock<[u8; 32]>,
    /// Its envelope where it has no other `_meta`, a JSON object.
    spelt: OnceLock<(Revision, Arc<str>)>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Abilities {
    form: bool,
    url: bool,
    sample: bool,
    sample_tools: bool,
    roots: bool,
    tasks: bool,
}

/// A profile lives as long as a session, and is part of keys.
const MAX_BYTES: usize = 64 * 1024;

impl Profile {
    /// Reads the envelope of a modern request: its `params._meta`.
    ///
    /// # Errors
    /// [`Reason::InvalidEnvelope`] if capabilities are missing, or something in it is not what
    /// 2026-07-28 says (basic, "`_meta`"); [`Reason::BoundsExceeded`] above 64 KiB.
    pub fn of_envelope(meta: &Object<'_>) -> Result<Profile, Denial> {
        let claimed = Claim { object: meta, reason: Reason::InvalidEnvelope };
        let Some(declared) = claimed.member(META_CLIENT_CAPABILITIES)? else {
            return Err(claimed.refused(META_CLIENT_CAPABILITIES, "is missing"));
        };
        let log_level = match meta.get(META_LOG_LEVEL) {
            None | Some("null") => None,
            Some(_) => Some(
                meta.text(META_LOG_LEVEL)
                    .and_then(|name| LogLevel::parse(&name))
                    .ok_or_else(|| claimed.refused(META_LOG_LEVEL, "is no level of severity"))?,
            ),
        };
        let info = claimed.member(META_CLIENT_INFO)?;
        let info = info.as_ref().map(Object::as_text);
        Ok(Profile { log_level, ..Profile::of(info, declared.as_text().into(), &declared) })
    }

    /// Whether [`Profile::of_envelope`], which made this one, would make the same of `meta`.
    pub fn is_of_envelope(&self, meta: &Object<'_>) -> bool {
        let said = |key| meta.get(key).filter(|text| *text != "null");
        let level = match (said(META_LOG_LEVEL), self.log_level) {
            (None, None) => true,
            (Some(text), Some(level)) => unquoted(text).as_deref() == Some(level.as_str()),
            _ => false,
        };
        level
            && said(META_CLIENT_CAPABILITIES) == Some(&*self.capabilities)
            && said(META_CLIENT_INFO) == self.client_info.as_deref()
    }

    /// Reads the parameters of a legacy `initialize` request.
    ///
    /// # Errors
    /// [`Reason::InvalidRequest`] if something in it is not what the revisions say (lifecycle,
    /// "Initialization"); [`Reason::BoundsExceeded`] above 64 KiB.
    pub fn of_initialize(params: &Object<'_>) -> Result<Profile, Denial> {
        let claimed = Claim { object: params, reason: Reason::InvalidRequest };
        let declared = claimed.member("capabilities")?.unwrap_or_default();
        let modern = modernised(&claimed, &declared)?;
        let declared = claimed.taken_apart("capabilities", &modern)?;
        let info = claimed.member("clientInfo")?;
        Ok(Profile::of(info.as_ref().map(Object::as_text), modern.as_str().into(), &declared))
    }

    /// How many bytes of the client's text it keeps.
    pub fn bytes(&self) -> usize {
        let said = self.client_info.as_ref().map_or(0, |info| info.len()) + self.capabilities.len();
        // Once more as its envelope, where one was asked for.
        2 * said
    }

    /// What it can be asked, in a byte that [`Profile::of_bits`] reads: all of it that fits where the
    /// rest does not.
    pub fn bits(&self) -> u8 {
        let Abilities { form, url, sample, sample_tools, roots, .. } = self.abilities;
        let bits = [form, url, sample, sample_tools, roots];
        bits.into_iter().enumerate().fold(0, |all, (place, bit)| all | u8::from(bit) << place)
    }

    /// A client of which no more is known than its name (`info`, a JSON object) and what it can be
    /// asked.
    pub fn of_bits(info: Option<&str>, bits: u8) -> Profile {
        let has = |place: u8| bits & 1 << place != 0;
        let mut elicitation = Members::new();
        for (place, mode) in [(0, "form"), (1, "url")] {
            elicitation = elicitation.with_some(mode, has(place).then_some("{}"));
        }
        let elicitation = (has(0) || has(1)).then(|| elicitation.text());
        let sampling = has(2).then_some(if has(3) { "{\"tools\":{}}" } else { "{}" });
        let capabilities = Members::new()
            .with_some("elicitation", elicitation.as_deref())
            .with_some("sampling", sampling)
            .with_some("roots", has(4).then_some("{}"))
            .text();
        let declared = Object::read(&capabilities).unwrap_or_default();
        Profile::of(info, capabilities.as_str().into(), &declared)
    }

    /// A client that can nothing but call, such as the gateway when it asks for itself.
    pub fn silent(name: &str, version: &str) -> Profile {
        let info = Members::new().with_string("name", name).with_string("version", version).text();
        Profile::of(Some(&info), "{}".into(), &Object::default())
    }

    fn of(info: Option<&str>, capabilities: Arc<str>, declared: &Object<'_>) -> Profile {
        Profile {
            client_info: info.map(Arc::from),
            capabilities,
            log_level: None,
            abilities: Abilities::of(declared),
            key: OnceLock::new(),
            spelt: OnceLock::new(),
        }
    }

    /// The same client, if what it says of itself changes when it is `read`; `None` if it does not.
    ///
    /// # Errors
    /// What `read` refuses; [`Reason::InvalidRequest`] if it makes no JSON object of what it reads.
    pub fn changed_by(
        &self,
        read: impl for<'t> Fn(ClientPlace<'_>, &'t str) -> Result<Cow<'t, str>, Denial>,
    ) -> Result<Option<Profile>, Denial> {
        let info = self.client_info.as_deref().map(|info| read(ClientPlace::ClientInfo, info)).transpose()?;
        let capabilities = read(ClientPlace::Capabilities, &self.capabilities)?;
        if matches!((&info, &capabilities), (None | Some(Cow::Borrowed(_)), Cow::Borrowed(_))) {
            return Ok(None);
        }
        let broken =
            |_| Denial::new(Reason::InvalidRequest, "a rule makes no JSON object of a client's description");
        let declared = Object::read(&capabilities).map_err(broken)?;
        info.as_deref().map(Object::read).transpose().map_err(broken)?;
        let changed = Profile::of(info.as_deref(), capabilities.as_ref().into(), &declared);
        Ok(Some(Profile { log_level: self.log_level, ..changed }))
    }

    /// The same client with another log level.
    #[must_use]
    pub fn with_log_level(&self, level: Option<LogLevel>) -> Profile {
        Profile { log_level: level, spelt: OnceLock::new(), ..self.clone() }
    }

    /// Whether a server may ask this of it.
    pub fn can(&self, ability: Ability) -> bool {
        match ability {
            Ability::Elicit => self.abilities.form,
            Ability::ElicitUrl => self.abilities.url,
            Ability::Sample => self.abilities.sample,
            Ability::SampleTools => self.abilities.sample_tools,
            Ability::Roots => self.abilities.roots,
        }
    }

    /// Whether a server may ask it anything at all.
    pub fn answers(&self) -> bool {
        let Abilities { form, url, sample, roots, .. } = self.abilities;
        form || url || sample || roots
    }

    /// Whether a server may answer one of its calls by a task.
    pub fn takes_tasks(&self) -> bool {
        self.abilities.tasks
    }

    /// A digest that two profiles have in common only if a server could not tell them apart by what
    /// they say of themselves: part of the keys of session pools. Log levels are none of it.
    pub fn key(&self) -> &[u8; 32] {
        self.key.get_or_init(|| {
            let mut context = Context::new(&SHA256);
            // Neither text has a zero in it.
            for part in [self.client_info.as_deref().unwrap_or_default(), "\0", &*self.capabilities] {
                context.update(part.as_bytes());
            }
            let mut key = [0; 32];
            key.copy_from_slice(context.finish().as_ref());
            key
        })
    }

    /// `_meta` of a modern request of this client that has no other, a JSON object.
    pub fn envelope(&self, version: Revision) -> Cow<'_, str> {
        let (spelt_for, spelt) = self.spelt.get_or_init(|| (version, self.spelt(version).text().into()));
        match *spelt_for == version {
            true => Cow::Borrowed(spelt),
            false => Cow::Owned(self.spelt(version).text()),
        }
    }

    /// What is kept of a client's `_meta`, with this profile in it and another progress token, if it has
    /// one. What the protocol reserves means something to a modern server only if a modern client wrote
    /// it.
    pub(super) fn enveloped(
        &self,
        meta: Option<&Object<'_>>,
        token: Option<&str>,
        version: Revision,
    ) -> Cow<'_, str> {
        const NEW: [&str; 4] = [META_VERSION, META_CLIENT_INFO, META_CLIENT_CAPABILITIES, META_LOG_LEVEL];
        let modern = meta.is_some_and(|meta| meta.get(META_VERSION).is_some());
        let kept = |key: &str| match is_reserved(key) {
            true => modern && !NEW.contains(&key),
            false => key != "progressToken",
        };
        let envelope = self.envelope(version);
        let has_more = token.is_some() || meta.is_some_and(|meta| meta.members().any(|(key, _)| kept(key)));
        if !has_more {
            return envelope;
        }
        let own = envelope.strip_prefix('{').and_then(|own| own.strip_suffix('}')).unwrap_or_default();
        Cow::Owned(Members::of(meta, kept).with_members(own).with_some("progressToken", token).text())
    }

    fn spelt(&self, version: Revision) -> Members {
        Members::new()
            .with_string(META_VERSION, version.as_str())
            .with_some(META_CLIENT_INFO, self.client_info.as_deref())
            .with(META_CLIENT_CAPABILITIES, &self.capabilities)
            .with_some(META_LOG_LEVEL, self.log_level.map(LogLevel::json).as_deref())
    }

    /// Capabilities as a legacy `initialize` request says them, a JSON object.
    pub(super) fn legacy_capabilities(&self) -> String {
        // They were read when the profile was made.
        legacy(&Object::read(&self.capabilities).unwrap_or_default())
    }
}

impl Abilities {
    fn of(declared: &Object<'_>) -> Abilities {
        if declared.members().len() == 0 {
            return Abilities::default();
        }
        let part = |name| declared.object(name).ok().flatten();
        let (elicitation, sampling) = (part("elicitation"), part("sampling"));
        let mode = |name| elicitation.as_ref().is_some_and(|modes| says(modes, name));
        let url = mode("url");
        Abilities {
            // An empty declaration is older than the modes, and means forms.
            form: mode("form") || (elicitation.is_some() && !url),
            url,
            sample: sampling.is_some(),
            sample_tools: sampling.is_some_and(|details| says(&details, "tools")),
            roots: says(declared, "roots"),
            tasks: part("extensions").is_some_and(|extensions| says(&extensions, TASKS)),
        }
    }
}

/// Keys by which a client says what it is and what it can be asked.
const KNOWN: KnownKeys = known_keys![
    "elicitation",
    "sampling",
    "roots",
    "extensions",
    "form",
    "url",
    "tools",
    "context",
    "name",
    "version",
    TASKS,
];

/// Whether a key, here or so many levels below, differs from a known one only in case.
fn is_imitating(claims: &Object<'_>, levels: usize) -> bool {
    let below = |text: &str| {
        levels > 0
            && text.starts_with('{')
            && Object::read(text).is_ok_and(|inner| is_imitating(&inner, levels - 1))
    };
    claims.members().any(|(key, text)| is_imitated(key, &KNOWN) || below(text))
}

/// A capability is declared by an object, however empty.
fn says(declared: &Object<'_>, key: &str) -> bool {
    declared.get(key).is_some_and(|text| text.starts_with('{'))
}

/// Legacy servers know no extensions, and are never told of changed roots, since modern clients send
/// no notifications.
fn legacy(declared: &Object<'_>) -> String {
    let kept = Members::of(Some(declared), |key| !matches!(key, "extensions" | "roots"));
    if says(declared, "roots") { kept.with("roots", "{}").text() } else { kept.text() }
}

/// Legacy capabilities in modern words.
fn modernised(claimed: &Claim<'_, '_>, declared: &Object<'_>) -> Result<String, Denial> {
    let kept =
        Members::of(Some(declared), |key| !matches!(key, "tasks" | "extensions" | "roots" | "elicitation"));
    let kept = if says(declared, "roots") { kept.with("roots", "{}") } else { kept };
    let Some(text) = declared.get("elicitation").filter(|text| text.starts_with('{')) else {
        return Ok(kept.text());
    };
    let modes = claimed.taken_apart("capabilities", text)?;
    if says(&modes, "form") || says(&modes, "url") {
        return Ok(kept.with("elicitation", text).text());
    }
    let named = Members::of(Some(&modes), |key| !matches!(key, "form" | "url")).with("form", "{}").text();
    Ok(kept.with("elicitation", &named).text())
}

/// The object in which a client says something of itself.
struct Claim<'o, 'a> {
    object: &'o Object<'a>,
    reason: Reason,
}

impl<'a> Claim<'_, 'a> {
    /// A member that is an object, if there is one.
    fn member(&self, key: &str) -> Result<Option<Object<'a>>, Denial> {
        match self.object.get(key) {
            None | Some("null") => Ok(None),
            Some(text) if text.len() > MAX_BYTES => {
                Err(Denial::new(Reason::BoundsExceeded, format!("`{key}` is longer than {MAX_BYTES} bytes")))
            }
            Some(text) => self.taken_apart(key, text).map(Some),
        }
    }

    fn taken_apart<'t>(&self, key: &str, text: &'t str) -> Result<Object<'t>, Denial> {
        let read = StrictObject::read(text).map(StrictObject::into_object);
        let read =
            read.map_err(|_| self.refused(key, "must be an object that has no key twice, in whatever case"))?;
        // A server that ignores case would ask what the gateway takes the client for unable to answer.
        match is_imitating(&read, 1) {
            true => Err(self.refused(key, "has a key that differs from a known one only in case")),
            false => Ok(read),
        }
    }

    fn refused(&self, key: &str, why: &str) -> Denial {
        Denial::new(self.reason, format!("`{key}` {why}"))
    }
}

#[cfg(test)]
mod tests;
