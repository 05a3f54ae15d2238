//! What of a client's headers goes to upstreams with messages that are said anew for it, and what of
//! that its servers could tell it from others by.
//!
//! A key in a header of its own is a credential that only its server knows for one. So callers who
//! differ in what goes up are different callers wherever something is kept for one of them.

use super::{caller, claims_route, goes_up, hop_tokens, is_hop, is_replaced};
use http::header::{AUTHORIZATION, COOKIE, HOST};
use http::{HeaderMap, HeaderName, HeaderValue};
use portunus_config::{Credentials, HostPolicy, Upstream, VirtualServer};
use ring::digest::{Context, SHA256};
use std::ops::Deref;

/// Fields of one client that go up: nothing of the protocol itself, no credentials but where they pass
/// through, and nothing that no upstream of its virtual server gets.
///
/// What the configuration says of one upstream's headers is applied when they are written for it.
#[derive(Clone, Debug, Default)]
pub struct Upward {
    fields: HeaderMap,
    /// The client's own `Host` is what an upstream is addressed by.
    by_host: bool,
}

impl Deref for Upward {
    type Target = HeaderMap;

    fn deref(&self) -> &HeaderMap {
        &self.fields
    }
}

impl Upward {
    /// Those of a request to `server`. Credentials pass only to one that stands alone.
    pub fn of(headers: &HeaderMap, server: &VirtualServer) -> Upward {
        let hop = hop_tokens(headers);
        let passes = |upstream: &Upstream| matches!(upstream.credentials, Credentials::Passthrough);
        let credentials = server.upstreams.iter().all(|upstream| passes(upstream));
        let is_got_by = |name: &HeaderName, one: &Upstream| {
            goes_up(name, one, &hop) || caller::is_told(name, &one.caller)
        };
        let is_got = |name: &HeaderName| server.upstreams.iter().any(|one| is_got_by(name, one));
        let goes = |name: &HeaderName| {
            let text = name.as_str();
            let credential = *name == AUTHORIZATION || *name == COOKIE;
            *name == HOST
                || !(is_said_anew(text)
                    || (credential && !credentials)
                    || is_replaced(text)
                    || claims_route(text)
                    || is_hop(text))
                    && is_got(name)
        };
        // Of what most clients send, no more goes up.
        let mut fields = HeaderMap::with_capacity(3);
        for (name, value) in headers.iter().filter(|(name, _)| goes(name)) {
            fields.append(name, value.clone());
        }
        Upward {
            fields,
            by_host: server.upstreams.iter().any(|upstream| upstream.host == HostPolicy::Preserve),
        }
    }

    /// What a server could answer one client otherwise than another by, by name; the values of one
    /// name in their order.
    ///
    /// Left out is what says nothing of the caller and may differ from request to request.
    pub fn telling(&self) -> Vec<(&str, &[u8])> {
        let fields = self.fields.iter().filter(|(name, value)| !is_passing(name.as_str(), value));
        let mut fields: Vec<_> = fields.map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
        fields.sort_by_key(|(name, _)| *name);
        fields
    }

    /// Digest of [`Upward::telling`].
    pub fn digest(&self) -> [u8; 32] {
        let mut context = Context::new(&SHA256);
        for (name, value) in self.telling() {
            for part in [name.as_bytes(), value] {
                context.update(&(part.len() as u64).to_be_bytes());
                context.update(part);
            }
        }
        let mut digest = [0; 32];
        digest.copy_from_slice(context.finish().as_ref());
        digest
    }

    /// As [`Upward::telling`], of what keeps callers apart: empty, and so at no cost, where there is
    /// but the name that the gateway itself is addressed by.
    pub fn marks(&self) -> Vec<(&str, &[u8])> {
        let is_one = |(name, value): (&HeaderName, &HeaderValue)| {
            (self.by_host || *name != HOST) && !is_passing(name.as_str(), value)
        };
        if self.fields.iter().any(is_one) { self.telling() } else { Vec::new() }
    }
}

/// Fields that were chosen before.
impl From<HeaderMap> for Upward {
    fn from(fields: HeaderMap) -> Upward {
        Upward { fields, by_host: false }
    }
}

/// What the gateway writes itself where it words a message.
fn is_said_anew(name: &str) -> bool {
    name.starts_with("mcp-") || matches!(name, "accept" | "content-type" | "last-event-id")
}

/// What belongs to one request, or to the program that sends it, and to no caller.
fn is_passing(name: &str, value: &HeaderValue) -> bool {
    const PREFIXES: [&str; 3] = ["sec-fetch-", "x-b3-", "x-datadog-"];
    matches!(
        name,
        "user-agent"
            | "cache-control"
            | "pragma"
            | "priority"
            | "date"
            | "b3"
            | "baggage"
            | "tracestate"
            | "sentry-trace"
            | "uber-trace-id"
            | "x-amzn-trace-id"
            | "x-cloud-trace-context"
            | "x-correlation-id"
            | "x-request-start"
    ) || (name == "accept-language" && value == "*")
        || PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;
    use portunus_config::{MapEnvironment, load_text};
    use std::path::Path;
    use std::sync::Arc;

    fn server(upstreams: &str, members: &str) -> Arc<VirtualServer> {
        let text = format!(
            "version: 1\nlisten: 127.0.0.1:0\nupstreams: {{{upstreams}}}\nservers: {{/mcp: {members}}}\n"
        );
        let loaded = load_text(&text, Path::new("gateway.yaml"), &MapEnvironment::default()).unwrap();
        Arc::clone(loaded.snapshot.routes.iter().next().unwrap())
    }

    fn names(fields: &[(&str, &[u8])]) -> String {
        fields.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn what_an_upstream_gets_of_a_caller_tells_it_from_others() {
        let plain = "a: {url: \"http://127.0.0.1:1/\"}";
        let removing = "a: {url: \"http://127.0.0.1:1/\", headers: {remove: [x-key]}}";
        let setting = "a: {url: \"http://127.0.0.1:1/\", headers: {set: {x-key: ours}}}";
        let preserving = "a: {url: \"http://127.0.0.1:1/\", host: preserve}";
        let passing = "a: {url: \"http://127.0.0.1:1/\", credentials: passthrough}";
        let two = format!("{removing}, b: {{url: \"http://127.0.0.1:2/\"}}");
        let cases = [
            ("nothing of its own", plain, "a", "user-agent accept mcp-session-id", ""),
            ("a key", plain, "a", "user-agent x-key", "host x-key"),
            ("one that no upstream gets", removing, "a", "x-key", ""),
            ("one that is replaced", setting, "a", "x-key", ""),
            ("one that only the second gets", two.as_str(), "[a, b]", "x-key", "host x-key"),
            ("the name that it calls", preserving, "a", "user-agent", "host"),
            ("a credential that goes nowhere", plain, "a", "authorization cookie", ""),
            ("one that goes through", passing, "a", "cookie", "cookie host"),
            ("traces", plain, "a", "traceparent tracestate baggage x-b3-spanid x-amzn-trace-id", ""),
            ("a language", plain, "a", "accept-language", "accept-language host"),
            ("hops", plain, "a", "keep-alive x-forwarded-for x-real-ip", ""),
            ("an origin that was judged here", plain, "a", "origin", ""),
        ];
        for (name, upstreams, members, fields, expected) in cases {
            let fields = fields.split(' ').chain(["host"]);
            let headers: HeaderMap =
                fields.map(|field| (HeaderName::from_static(field), HeaderValue::from_static("v"))).collect();
            let upward = Upward::of(&headers, &server(upstreams, members));
            assert_eq!(names(&upward.marks()), expected, "{name}");
        }
    }

    #[test]
    fn the_order_of_names_tells_nothing_and_that_of_values_does() {
        let upward = |fields: &[(&'static str, &'static str)]| {
            let fields = fields
                .iter()
                .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
            Upward::from(fields.collect::<HeaderMap>())
        };
        let one = upward(&[("x-b", "1"), ("x-a", "1"), ("x-a", "2")]);
        assert_eq!(one.marks(), upward(&[("x-a", "1"), ("x-b", "1"), ("x-a", "2")]).marks());
        assert_ne!(one.marks(), upward(&[("x-a", "2"), ("x-b", "1"), ("x-a", "1")]).marks());
    }
}
