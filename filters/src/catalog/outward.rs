//! Results of members in which resources have the URIs under which clients can have them.

use super::Catalog;
use super::template::Steps;
use crate::mcp::object::{Object, Word, elements};
use crate::mcp::rewrite::string;

/// The results that resources are named in, and their lists of them.
const NAMING: [(&str, &str); 3] =
    [("tools/call", "content"), ("prompts/get", "messages"), ("resources/read", "contents")];

static URI: Word = Word::new("uri");

/// Where a result comes from, and the work that may be done for the URIs in it.
struct From {
    member: usize,
    steps: Steps,
}

/// Whether a result may name a resource, by its method and a look at its text.
pub fn names_resources(method: &str, result: &[u8]) -> bool {
    NAMING.iter().any(|(naming, _)| *naming == method) && URI.may_be_in(result)
}

impl Catalog {
    /// What a member answered, with each resource under the URI that leads back to it; `None` if that
    /// is no other text.
    ///
    /// Resources are the contents of `resources/read`, and links and embedded resources among the
    /// content of `tools/call` and `prompts/get`.
    pub fn with_served_uris(&self, member: usize, method: &str, result: &str) -> Option<String> {
        let (_, key) = NAMING.iter().find(|(naming, _)| *naming == method)?;
        if self.members.len() < 2 || member >= self.members.len() {
            return None;
        }
        let object = Object::read(result).ok()?;
        let from = From { member, steps: self.steps() };
        let changed = each(object.get(key)?, |item| match *key {
            "contents" => self.with_uri(&from, item),
            "messages" => self.in_member(item, "content", |content| self.content(&from, content)),
            _ => self.content(&from, item),
        });
        Some(object.rewrite().set(*key, changed?).text())
    }

    /// One piece of content.
    fn content(&self, from: &From, content: &str) -> Option<String> {
        match Object::read(content).ok()?.text("type")?.as_ref() {
            "resource_link" => self.with_uri(from, content),
            "resource" => self.in_member(content, "resource", |resource| self.with_uri(from, resource)),
            _ => None,
        }
    }

    fn with_uri(&self, from: &From, resource: &str) -> Option<String> {
        let object = Object::read(resource).ok()?;
        let own = object.text("uri")?;
        let served = self.served_uri(from.member, &own, &from.steps);
        (*served != *own).then(|| object.rewrite().set("uri", string(&served)).text())
    }

    fn in_member(
        &self,
        object: &str,
        key: &'static str,
        change: impl Fn(&str) -> Option<String>,
    ) -> Option<String> {
        let object = Object::read(object).ok()?;
        let changed = change(object.get(key)?)?;
        Some(object.rewrite().set(key, changed).text())
    }
}

/// An array in which some elements are others; `None` if none is.
fn each(array: &str, change: impl Fn(&str) -> Option<String>) -> Option<String> {
    let elements = elements(array).ok()?;
    let changed: Vec<Option<String>> = elements.iter().map(|element| change(element)).collect();
    if changed.iter().all(Option::is_none) {
        return None;
    }
    let texts = elements.iter().zip(&changed).map(|(element, changed)| changed.as_deref().unwrap_or(element));
    Some(format!("[{}]", texts.collect::<Vec<_>>().join(",")))
}
