//! What a client says of itself.

use super::level::LogLevel;
use super::meta::{META_CLIENT_CAPABILITIES, META_CLIENT_INFO, META_LOG_LEVEL, Members, is_reserved};
use crate::denial::{Denial, Reason};
use crate::mcp::Revision;
use crate::mcp::headers::META_VERSION;
use crate::mcp::object::Object;
use std::sync::Arc;

/// Something that a server may ask of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ability {
    /// Ask its user by a form.
    Elicit,
    /// Send its user to a URL.
    ElicitUrl,
    /// Ask its model.
    Sample,
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
            Ability::Roots => r#"{"roots":{}}"#,
        }
    }
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
    /// The same as `capabilities`, as revisions before write it.
    legacy: Arc<str>,
    abilities: Abilities,
}

#[derive(Clone, Copy, Debug, Default)]
struct Abilities {
    form: bool,
    url: bool,
    sample: bool,
    roots: bool,
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
        let Some(capabilities) = claimed.member(META_CLIENT_CAPABILITIES)? else {
            return Err(claimed.refused(META_CLIENT_CAPABILITIES, "is missing"));
        };
        let declared = claimed.taken_apart(META_CLIENT_CAPABILITIES, capabilities)?;
        let log_level = match meta.get(META_LOG_LEVEL) {
            None | Some("null") => None,
            Some(_) => Some(
                meta.text(META_LOG_LEVEL)
                    .and_then(|name| LogLevel::parse(&name))
                    .ok_or_else(|| claimed.refused(META_LOG_LEVEL, "is no level of severity"))?,
            ),
        };
        let info = claimed.member(META_CLIENT_INFO)?;
        Ok(Profile { log_level, ..Profile::of(info, capabilities.into(), &declared) })
    }

    /// Reads the parameters of a legacy `initialize` request.
    ///
    /// # Errors
    /// [`Reason::InvalidRequest`] if something in it is not what the revisions say (lifecycle,
    /// "Initialization"); [`Reason::BoundsExceeded`] above 64 KiB.
    pub fn of_initialize(params: &Object<'_>) -> Result<Profile, Denial> {
        let claimed = Claim { object: params, reason: Reason::InvalidRequest };
        let text = claimed.member("capabilities")?.unwrap_or("{}");
        let declared = claimed.taken_apart("capabilities", text)?;
        let modern = modernised(&claimed, &declared)?;
        let declared = claimed.taken_apart("capabilities", &modern)?;
        Ok(Profile::of(claimed.member("clientInfo")?, modern.as_str().into(), &declared))
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
            legacy: legacy(declared).into(),
            abilities: Abilities::of(declared),
        }
    }

    /// The same client with another log level.
    #[must_use]
    pub fn with_log_level(&self, level: Option<LogLevel>) -> Profile {
        Profile { log_level: level, ..self.clone() }
    }

    /// Whether a server may ask this of it.
    pub fn can(&self, ability: Ability) -> bool {
        match ability {
            Ability::Elicit => self.abilities.form,
            Ability::ElicitUrl => self.abilities.url,
            Ability::Sample => self.abilities.sample,
            Ability::Roots => self.abilities.roots,
        }
    }

    /// Whether a server may ask it anything at all.
    pub fn answers(&self) -> bool {
        let Abilities { form, url, sample, roots } = self.abilities;
        form || url || sample || roots
    }

    /// A text that two profiles have in common only if a server could not tell them apart by what
    /// they say of themselves: part of the keys of session pools. Log levels are none of it.
    pub fn key(&self) -> String {
        format!("{}\n{}", self.client_info.as_deref().unwrap_or_default(), self.capabilities)
    }

    /// `_meta` of a modern request of this client that has no other, a JSON object.
    pub fn envelope(&self, version: Revision) -> String {
        self.enveloped(None, version).text()
    }

    /// What is kept of a client's `_meta` but for its progress token, with this profile in it. What
    /// the protocol reserves means something to a modern server only if a modern client wrote it.
    pub(super) fn enveloped(&self, meta: Option<&Object<'_>>, version: Revision) -> Members {
        const NEW: [&str; 4] = [META_VERSION, META_CLIENT_INFO, META_CLIENT_CAPABILITIES, META_LOG_LEVEL];
        let modern = meta.is_some_and(|meta| meta.get(META_VERSION).is_some());
        let kept = |key: &str| match is_reserved(key) {
            true => modern && !NEW.contains(&key),
            false => key != "progressToken",
        };
        Members::of(meta, kept)
            .with_string(META_VERSION, version.as_str())
            .with_some(META_CLIENT_INFO, self.client_info.as_deref())
            .with(META_CLIENT_CAPABILITIES, &self.capabilities)
            .with_some(META_LOG_LEVEL, self.log_level.map(LogLevel::json).as_deref())
    }

    /// Capabilities as a legacy `initialize` request says them, a JSON object.
    pub(super) fn legacy_capabilities(&self) -> &str {
        &self.legacy
    }
}

impl Abilities {
    fn of(declared: &Object<'_>) -> Abilities {
        let elicitation = declared.object("elicitation").ok().flatten();
        let mode = |name| elicitation.as_ref().is_some_and(|modes| says(modes, name));
        let url = mode("url");
        Abilities {
            // An empty declaration is older than the modes, and means forms.
            form: mode("form") || (elicitation.is_some() && !url),
            url,
            sample: says(declared, "sampling"),
            roots: says(declared, "roots"),
        }
    }
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
    let named = says(&modes, "form") || says(&modes, "url");
    Ok(kept.with("elicitation", if named { text } else { r#"{"form":{}}"# }).text())
}

/// The object in which a client says something of itself.
struct Claim<'o, 'a> {
    object: &'o Object<'a>,
    reason: Reason,
}

impl<'a> Claim<'_, 'a> {
    /// The text of a member that is an object, if there is one.
    fn member(&self, key: &str) -> Result<Option<&'a str>, Denial> {
        match self.object.get(key) {
            None | Some("null") => Ok(None),
            Some(text) if text.len() > MAX_BYTES => {
                Err(Denial::new(Reason::BoundsExceeded, format!("`{key}` is longer than {MAX_BYTES} bytes")))
            }
            Some(text) => self.taken_apart(key, text).map(|_| Some(text)),
        }
    }

    fn taken_apart<'t>(&self, key: &str, text: &'t str) -> Result<Object<'t>, Denial> {
        Object::read(text).map_err(|_| self.refused(key, "must be an object that has no key twice"))
    }

    fn refused(&self, key: &str, why: &str) -> Denial {
        Denial::new(self.reason, format!("`{key}` {why}"))
    }
}
