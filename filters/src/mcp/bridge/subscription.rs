//! `subscriptions/listen` (2026-07-28 patterns/subscriptions), and what it stands for in the older
//! revisions: the GET stream and `resources/subscribe`.

use super::facts::Facts;
use super::meta::{META_SERVER_INFO, META_SUBSCRIPTION_ID, Members, array};
use super::profile::Profile;
use super::request::message;
use crate::mcp::object::elements;
use crate::mcp::object::{Object, unquoted};
use crate::mcp::rewrite::string;
use crate::mcp::{Fault, Revision};
use std::sync::Arc;

/// Resources that one subscription may name.
const MAX_URIS: usize = 1_000;

/// Bytes of a resource's URI.
pub const MAX_URI_BYTES: usize = 8 * 1024;

/// Which notifications a client wants, or a server agreed to send.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Changes of the list of tools.
    pub tools: bool,
    /// Changes of the list of prompts.
    pub prompts: bool,
    /// Changes of the list of resources.
    pub resources: bool,
    /// Updates of these resources, each once.
    pub uris: Vec<Arc<str>>,
}

impl Filter {
    /// Reads the parameters of `subscriptions/listen`, or of its acknowledgement.
    ///
    /// # Errors
    /// [`Fault::Shape`] if they are not what 2026-07-28 says; [`Fault::Bound`] above 1,000 URIs or
    /// for one above 8 KiB; else as [`Object::read`].
    pub fn of(params: &Object<'_>) -> Result<Filter, Fault> {
        let wanted =
            params.object("notifications")?.ok_or(Fault::Shape("`notifications` must be an object"))?;
        let flag = |key: &str| match wanted.get(key) {
            None | Some("false" | "null") => Ok(false),
            Some("true") => Ok(true),
            Some(_) => Err(Fault::Shape("what is to be told of must be true or false")),
        };
        Ok(Filter {
            tools: flag("toolsListChanged")?,
            prompts: flag("promptsListChanged")?,
            resources: flag("resourcesListChanged")?,
            uris: match wanted.get("resourceSubscriptions") {
                None | Some("null") => Vec::new(),
                Some(listed) => uris(listed)?,
            },
        })
    }

    /// The part of it that a server with these capabilities can serve.
    #[must_use]
    pub fn honoured(&self, facts: &Facts) -> Filter {
        let uris = if facts.has("resources.subscribe") { self.uris.clone() } else { Vec::new() };
        Filter {
            tools: self.tools && facts.has("tools.listChanged"),
            prompts: self.prompts && facts.has("prompts.listChanged"),
            resources: self.resources && facts.has("resources.listChanged"),
            uris,
        }
    }

    /// Whether nothing is wanted.
    pub fn is_empty(&self) -> bool {
        *self == Filter::default()
    }

    /// The filter as 2026-07-28 writes it, a JSON object.
    pub fn json(&self) -> String {
        let flag = |wanted: bool| wanted.then_some("true");
        let uris: Vec<String> = self.uris.iter().map(|uri| string(uri)).collect();
        let listed = (!uris.is_empty()).then(|| array(uris.iter().map(String::as_str)));
        Members::new()
            .with_some("toolsListChanged", flag(self.tools))
            .with_some("promptsListChanged", flag(self.prompts))
            .with_some("resourcesListChanged", flag(self.resources))
            .with_some("resourceSubscriptions", listed.as_deref())
            .text()
    }
}

fn uris(listed: &str) -> Result<Vec<Arc<str>>, Fault> {
    const BAD: Fault = Fault::Shape("`resourceSubscriptions` must be an array of strings");
    if !listed.starts_with('[') {
        return Err(BAD);
    }
    let listed = elements(listed)?;
    if listed.len() > MAX_URIS {
        return Err(Fault::Bound { what: "the number of resources of a subscription", limit: MAX_URIS });
    }
    let mut uris: Vec<Arc<str>> = Vec::with_capacity(listed.len());
    let mut seen = std::collections::HashSet::with_capacity(listed.len());
    for text in listed {
        if text.len() > MAX_URI_BYTES {
            return Err(Fault::Bound { what: "the length of a URI in bytes", limit: MAX_URI_BYTES });
        }
        let uri: Arc<str> = unquoted(text).ok_or(BAD)?.into();
        if seen.insert(Arc::clone(&uri)) {
            uris.push(uri);
        }
    }
    Ok(uris)
}

/// The first message of a subscription: what will be told of. `id` is that of the request, as JSON
/// text.
pub fn acknowledged(honoured: &Filter, id: &str) -> String {
    let meta = Members::new().with(META_SUBSCRIPTION_ID, id).text();
    let params = Members::new().with("_meta", &meta).with("notifications", &honoured.json()).text();
    message("notifications/subscriptions/acknowledged", None, &params)
}

/// The request by which a modern server is asked to tell; `id` is JSON text.
pub fn listen_request(wanted: &Filter, id: &str, profile: &Profile, version: Revision) -> String {
    let params =
        Members::new().with("_meta", &profile.envelope(version)).with("notifications", &wanted.json()).text();
    message("subscriptions/listen", Some(id), &params)
}

/// The result by which a subscription ends in good order; `id` is that of its request, as JSON
/// text.
pub fn listen_result(id: &str, facts: &Facts) -> String {
    let meta = Members::new()
        .with(META_SUBSCRIPTION_ID, id)
        .with_some(META_SERVER_INFO, facts.server_info.as_deref())
        .text();
    Members::new().with("resultType", "\"complete\"").with("_meta", &meta).text()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mcp::Envelope;

    fn filter(notifications: &str) -> Result<Filter, Fault> {
        Filter::of(&Object::read(&format!(r#"{{"notifications":{notifications}}}"#)).unwrap())
    }

    fn facts(capabilities: &str) -> Facts {
        let result = format!(r#"{{"protocolVersion":"2025-11-25","capabilities":{capabilities}}}"#);
        Facts::of_initialize(&result).unwrap()
    }

    #[test]
    fn a_filter_is_read_as_the_revision_writes_it() {
        let all = r#"{"toolsListChanged":true,"promptsListChanged":true,"resourcesListChanged":true,"resourceSubscriptions":["a","b\"c"]}"#;
        let read = filter(all).unwrap();
        assert_eq!(
            read,
            Filter { tools: true, prompts: true, resources: true, uris: vec!["a".into(), "b\"c".into()] }
        );
        assert_eq!(read.json(), all);
        assert!(filter("{}").unwrap().is_empty());
        assert_eq!(filter("{}").unwrap().json(), "{}");
        let twice = filter(r#"{"toolsListChanged":false,"resourceSubscriptions":["a","\u0061"]}"#).unwrap();
        assert_eq!(twice, Filter { uris: vec!["a".into()], ..Filter::default() });
    }

    #[test]
    fn a_filter_that_is_none_is_refused() {
        let strings = Fault::Shape("`resourceSubscriptions` must be an array of strings");
        for (notifications, fault) in [
            ("[]", Fault::Shape("`notifications` must be an object")),
            (r#"{"toolsListChanged":1}"#, Fault::Shape("what is to be told of must be true or false")),
            (r#"{"resourceSubscriptions":{}}"#, strings.clone()),
            (r#"{"resourceSubscriptions":[1]}"#, strings),
            (r#"{"toolsListChanged":true,"toolsListChanged":true}"#, Fault::DuplicateKey),
        ] {
            assert_eq!(filter(notifications), Err(fault), "{notifications}");
        }
        let uris = |count: usize| {
            let uris: Vec<String> = (0..count).map(|uri| format!("\"u:{uri}\"")).collect();
            filter(&format!(r#"{{"resourceSubscriptions":[{}]}}"#, uris.join(",")))
        };
        assert_eq!(uris(MAX_URIS).unwrap().uris.len(), MAX_URIS);
        assert!(matches!(uris(MAX_URIS + 1), Err(Fault::Bound { limit: MAX_URIS, .. })));
        let long = filter(&format!(r#"{{"resourceSubscriptions":["{}"]}}"#, "x".repeat(MAX_URI_BYTES)));
        assert!(matches!(long, Err(Fault::Bound { limit: MAX_URI_BYTES, .. })));
    }

    #[test]
    fn only_what_a_server_can_tell_is_honoured() {
        let all = Filter { tools: true, prompts: true, resources: true, uris: vec!["a".into()] };
        for (capabilities, expected) in [
            ("{}", "{}"),
            (r#"{"tools":{},"resources":{}}"#, "{}"),
            (r#"{"tools":{"listChanged":true}}"#, r#"{"toolsListChanged":true}"#),
            (r#"{"prompts":{"listChanged":true}}"#, r#"{"promptsListChanged":true}"#),
            (r#"{"resources":{"subscribe":true,"listChanged":false}}"#, r#"{"resourceSubscriptions":["a"]}"#),
            (r#"{"resources":{"listChanged":true}}"#, r#"{"resourcesListChanged":true}"#),
        ] {
            assert_eq!(all.honoured(&facts(capabilities)).json(), expected, "{capabilities}");
        }
        let none = facts(r#"{"tools":{"listChanged":true},"resources":{"subscribe":true}}"#);
        assert!(Filter::default().honoured(&none).is_empty());
    }

    #[test]
    fn a_subscription_begins_and_ends_with_its_id() {
        let filter = Filter { tools: true, ..Filter::default() };
        assert_eq!(
            acknowledged(&filter, "\"s\""),
            r#"{"jsonrpc":"2.0","method":"notifications/subscriptions/acknowledged","params":{"_meta":{"io.modelcontextprotocol/subscriptionId":"s"},"notifications":{"toolsListChanged":true}}}"#
        );
        assert_eq!(
            listen_result("7", &Facts::merge(&[], r#"{"name":"g"}"#)),
            r#"{"resultType":"complete","_meta":{"io.modelcontextprotocol/subscriptionId":7,"io.modelcontextprotocol/serverInfo":{"name":"g"}}}"#
        );
        let request = listen_request(&filter, "7", &Profile::silent("g", "1"), Revision::V2026_07_28);
        let request = Envelope::read(&request).unwrap();
        assert!(request.method.as_ref().is_some_and(|method| method.is("subscriptions/listen")));
        assert_eq!(Filter::of(&request.params), Ok(filter));
    }
}
