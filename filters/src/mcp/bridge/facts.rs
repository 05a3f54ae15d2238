//! What a server says of itself.

mod merge;

use super::answer::Caching;
use super::meta::{META_SERVER_INFO, Members, array};
use crate::mcp::object::elements;
use crate::mcp::object::{Object, unquoted};
use crate::mcp::{Fault, Revision};
use portunus_base::Era;
use std::sync::Arc;

/// Stands in where the older revisions ask for a name and nobody told one.
pub(super) const UNNAMED: &str = r#"{"name":"unnamed","version":"0"}"#;

/// Facts live as long as a session.
const MAX_BYTES: usize = 256 * 1024;

/// What a server says of itself, in whichever era.
#[derive(Clone, Debug)]
pub struct Facts {
    /// The revision to speak with it: the negotiated one, or the newest stateless one it lists.
    pub version: Revision,
    /// What it can do, a JSON object as it wrote it.
    pub capabilities: Arc<str>,
    /// How to use it, a JSON string.
    pub instructions: Option<Arc<str>>,
    /// Name and version of its software, a JSON object.
    pub server_info: Option<Arc<str>>,
}

impl Facts {
    /// Reads the result of `initialize`.
    ///
    /// # Errors
    /// [`Fault::Shape`] if it names no revision of the legacy era that is spoken here, or is not
    /// what the revisions say otherwise; [`Fault::DuplicateKey`] for a repeated key;
    /// [`Fault::Bound`] where it says more than 256 KiB of one thing.
    pub fn of_initialize(result: &str) -> Result<Facts, Fault> {
        let result = Object::read(result)?;
        let version = result
            .text("protocolVersion")
            .and_then(|version| Revision::parse(&version))
            .filter(|revision| revision.era() == Era::Legacy)
            .ok_or(Fault::Shape("the server chose a revision that is not spoken here"))?;
        Facts::of(&result, version, object_text(&result, "serverInfo")?)
    }

    /// Reads the result of `server/discover`.
    ///
    /// # Errors
    /// [`Fault::Shape`] if it lists no stateless revision that is spoken here, or is not what
    /// 2026-07-28 says otherwise; else as [`Facts::of_initialize`].
    pub fn of_discover(result: &str) -> Result<Facts, Fault> {
        let result = Object::read(result)?;
        let listed = result.get("supportedVersions").ok_or(Fault::Shape("`supportedVersions` is missing"))?;
        let version = elements(listed)?
            .into_iter()
            .filter_map(|version| Revision::parse(&unquoted(version)?))
            .filter(|revision| revision.era() == Era::Modern)
            .max()
            .ok_or(Fault::Shape("the server lists no stateless revision that is spoken here"))?;
        let info = match result.object("_meta")? {
            Some(meta) => object_text(&meta, META_SERVER_INFO)?,
            None => None,
        };
        Facts::of(&result, version, info)
    }

    fn of(result: &Object<'_>, version: Revision, server_info: Option<&str>) -> Result<Facts, Fault> {
        let capabilities =
            object_text(result, "capabilities")?.ok_or(Fault::Shape("`capabilities` is missing"))?;
        let instructions = match result.get("instructions") {
            None | Some("null") => None,
            Some(text) if text.starts_with('"') => Some(bounded(text)?),
            Some(_) => return Err(Fault::Shape("`instructions` must be a string")),
        };
        Ok(Facts {
            version,
            capabilities: capabilities.into(),
            instructions: instructions.map(Arc::from),
            server_info: server_info.map(Arc::from),
        })
    }

    /// Whether a capability is declared, by its path: `tools`, `resources.subscribe`.
    pub fn has(&self, path: &str) -> bool {
        let mut text = &*self.capabilities;
        for key in path.split('.') {
            match Object::read(text).ok().and_then(|object| object.get(key)) {
                Some(value) => text = value,
                None => return false,
            }
        }
        text == "true" || text.starts_with('{')
    }

    /// The result of `server/discover` for a modern client, a JSON object. Tasks of the older
    /// revisions are not what 2026-07-28 calls by that name.
    pub fn discover_result(&self, caching: Caching) -> String {
        let meta = self.server_info.as_deref().map(|info| Members::new().with(META_SERVER_INFO, info).text());
        let versions: Vec<String> =
            Revision::MODERN.iter().map(|revision| format!("\"{revision}\"")).collect();
        let members = Members::with_capacity(256 + self.capabilities.len())
            .with("resultType", "\"complete\"")
            .with("supportedVersions", &array(versions.iter().map(String::as_str)))
            .with("capabilities", &self.capabilities_without(&["tasks"]))
            .with_some("instructions", self.instructions.as_deref());
        caching.added_to(members).with_some("_meta", meta.as_deref()).text()
    }

    /// The result of `initialize` for a legacy client with which `version` was agreed, a JSON
    /// object. What it does not declare, nobody may use: extensions and tasks.
    pub fn initialize_result(&self, version: Revision) -> String {
        Members::with_capacity(256 + self.capabilities.len())
            .with_string("protocolVersion", version.as_str())
            .with("capabilities", &self.capabilities_without(&["tasks", "extensions"]))
            .with("serverInfo", self.server_info.as_deref().unwrap_or(UNNAMED))
            .with_some("instructions", self.instructions.as_deref())
            .text()
    }

    fn capabilities_without(&self, keys: &[&str]) -> String {
        match Object::read(&self.capabilities) {
            Ok(object) => Members::of(Some(&object), |key| !keys.contains(&key)).text(),
            Err(_) => "{}".to_owned(),
        }
    }
}

/// The text of a member that is an object, none of whose keys is there twice.
fn object_text<'a>(object: &Object<'a>, key: &str) -> Result<Option<&'a str>, Fault> {
    match object.get(key) {
        None | Some("null") => Ok(None),
        Some(text) if text.starts_with('{') => Object::read(bounded(text)?).map(|_| Some(text)),
        Some(_) => Err(Fault::Shape("a member that must be an object is something else")),
    }
}

fn bounded(text: &str) -> Result<&str, Fault> {
    match text.len() > MAX_BYTES {
        true => Err(Fault::Bound { what: "what a server says of itself, in bytes,", limit: MAX_BYTES }),
        false => Ok(text),
    }
}

#[cfg(test)]
mod tests;
