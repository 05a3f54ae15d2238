//! What of a client's headers goes to upstreams with messages that are said anew for it, and what of
//! that its servers could tell it from others by.
//!
//! A key in a header of its own is a credential that only its server knows for one. So callers who
//! differ in what goes up are different callers wherever something is kept for one of them.

use super::claims::claims_route;
use super::{caller, detached, goes_up, hop_tokens, is_hop, is_replaced};
use crate::sealing::CallerKey;
use http::header::{AUTHORIZATION, CONNECTION, COOKIE, HOST};
use http::{HeaderMap, HeaderName, HeaderValue};
use portunus_config::{Credentials, HostPolicy, Upstream, VirtualServer};
use portunus_filters::identity::Digest;
use portunus_filters::mcp::bridge::ClientPlace;
use portunus_filters::{Denial, Identity, Pipeline, Reason};
use ring::digest::{Context, SHA256};
use std::borrow::Cow;
use std::net::IpAddr;
use std::ops::Deref;
use std::sync::{Arc, Weak};

/// Fields of one client that go up: nothing of the protocol itself, no credentials but where they pass
/// through, and nothing that no upstream of its virtual server gets.
///
/// What the configuration says of one upstream's headers is applied when they are written for it.
#[derive(Clone, Debug, Default)]
pub struct ClientHeaders {
    fields: HeaderMap,
    /// The client mirrors arguments of a call in headers.
    mirrors: bool,
    /// The client's own `Host` is what an upstream is addressed by.
    by_host: bool,
}

/// What went up with the last request of a connection, and of what it was chosen.
pub struct HeaderCache {
    server: Weak<VirtualServer>,
    /// Every field of the request in order, and the values of those that were chosen or decide of others.
    fields: Vec<(HeaderName, Option<HeaderValue>)>,
    client_headers: Arc<ClientHeaders>,
    /// The last caller, and its key.
    caller: Option<(Caller, CallerKey)>,
}

/// The part of an identity that keys are made of: a principal may hold much more, for longer than it is known.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Caller {
    Address(IpAddr),
    Presented(Digest),
    Principal(Digest),
}

impl Caller {
    fn of(identity: &Identity) -> Caller {
        match identity {
            Identity::Anonymous { source } => Caller::Address(*source),
            Identity::Presented { digest } => Caller::Presented(*digest),
            Identity::Principal(principal) => Caller::Principal(principal.holder),
        }
    }
}

impl HeaderCache {
    /// What goes up of a request to `server`: as it was the last time where that chose among the same.
    /// Of longer values than `max_bytes` in all nothing is kept.
    pub fn choose(
        memory: &mut Option<HeaderCache>,
        headers: &HeaderMap,
        server: &Arc<VirtualServer>,
        max_bytes: usize,
    ) -> Arc<ClientHeaders> {
        if let Some(known) = memory.as_ref().filter(|known| known.is_of(headers, server)) {
            return Arc::clone(&known.client_headers);
        }
        let mut client_headers = ClientHeaders::of(headers, server);
        client_headers.fields.values_mut().for_each(|value| *value = detached(value));
        let client_headers = Arc::new(client_headers);
        let decides = |name: &HeaderName| *name == CONNECTION || client_headers.contains_key(name);
        let fields: Vec<_> = headers
            .iter()
            .map(|(name, value)| (name.clone(), decides(name).then(|| detached(value))))
            .collect();
        let bytes: usize = fields
            .iter()
            .map(|(name, value)| name.as_str().len() + value.as_ref().map_or(0, HeaderValue::len))
            .sum();
        let known = || HeaderCache {
            server: Arc::downgrade(server),
            fields,
            client_headers: Arc::clone(&client_headers),
            caller: None,
        };
        *memory = (bytes <= max_bytes).then(known);
        client_headers
    }

    /// The key of a caller, if it was the last one and the same went up.
    pub fn caller_key(&self, identity: &Identity, client_headers: &Arc<ClientHeaders>) -> Option<CallerKey> {
        let (known, key) =
            self.caller.as_ref().filter(|_| Arc::ptr_eq(&self.client_headers, client_headers))?;
        (*known == Caller::of(identity)).then_some(*key)
    }

    /// Keeps the key of a caller for the next request, if this is what went up.
    pub fn keep_caller_key(
        &mut self,
        identity: &Identity,
        client_headers: &Arc<ClientHeaders>,
        key: CallerKey,
    ) {
        if Arc::ptr_eq(&self.client_headers, client_headers) {
            self.caller = Some((Caller::of(identity), key));
        }
    }

    fn is_of(&self, headers: &HeaderMap, server: &Arc<VirtualServer>) -> bool {
        let mut both = headers.iter().zip(&self.fields);
        self.server.as_ptr() == Arc::as_ptr(server)
            && headers.len() == self.fields.len()
            && both.all(|((name, value), (own_name, own))| {
                name == own_name && own.as_ref().is_none_or(|own| own == value)
            })
    }
}

impl Deref for ClientHeaders {
    type Target = HeaderMap;

    fn deref(&self) -> &HeaderMap {
        &self.fields
    }
}

impl ClientHeaders {
    /// Those of a request to `server`. Credentials pass only to one that stands alone.
    pub fn of(headers: &HeaderMap, server: &VirtualServer) -> ClientHeaders {
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
        let mut mirrors = false;
        for (name, value) in headers {
            mirrors |= name.as_str().starts_with("mcp-param-");
            if goes(name) {
                fields.append(name, value.clone());
            }
        }
        ClientHeaders {
            fields,
            mirrors,
            by_host: server.upstreams.iter().any(|upstream| upstream.host == HostPolicy::Preserve),
        }
    }

    /// The same, if its values change when the filters of `pipeline` read them; `None` if they do not. `Authorization` and
    /// `Cookie` are not read: they go where the configuration sends them.
    ///
    /// # Errors
    /// The [`Denial`] of a filter; [`Reason::InvalidRequest`] for a value that is not UTF-8, if a filter makes no header value of
    /// what it reads, and if it changes a name or `Host`, which say what the request is aimed at.
    pub fn changed_by(&self, pipeline: &Pipeline) -> Result<Option<ClientHeaders>, Denial> {
        let mut fields = self.fields.clone();
        let mut is_changed = false;
        for (name, value) in &mut fields {
            if matches!(*name, AUTHORIZATION | COOKIE) {
                continue;
            }
            unchanged(pipeline, ClientPlace::HeaderName, name.as_str())?;
            let text = std::str::from_utf8(value.as_bytes())
                .map_err(|_| refused("a header that rules have to read is not UTF-8"))?;
            if *name == HOST {
                unchanged(pipeline, ClientPlace::Header(name.as_str()), text)?;
            } else if let Cow::Owned(permitted) =
                pipeline.client_text(ClientPlace::Header(name.as_str()), text)?
            {
                *value = HeaderValue::from_bytes(permitted.as_bytes())
                    .map_err(|_| refused("a rule makes no header value of what a client says"))?;
                is_changed = true;
            }
        }
        Ok(is_changed.then(|| ClientHeaders { fields, ..*self }))
    }

    /// How many bytes of the client's it holds.
    pub fn bytes(&self) -> usize {
        self.fields.iter().map(|(name, value)| name.as_str().len() + value.len()).sum()
    }

    /// Whether the client mirrors arguments of a call in headers (2026-07-28 streamable-http).
    pub fn mirrors(&self) -> bool {
        self.mirrors
    }

    /// What a server could answer one client otherwise than another by, by name; the values of one
    /// name in their order.
    ///
    /// Left out is what says nothing of the caller and may differ from request to request.
    pub fn distinguishing_fields(&self) -> Vec<(&str, &[u8])> {
        let fields = self.fields.iter().filter(|(name, value)| !is_passing(name.as_str(), value));
        let mut fields: Vec<_> = fields.map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
        fields.sort_by_key(|(name, _)| *name);
        fields
    }

    /// Digest of [`ClientHeaders::distinguishing_fields`].
    pub fn digest(&self) -> [u8; 32] {
        let mut context = Context::new(&SHA256);
        for (name, value) in self.distinguishing_fields() {
            for part in [name.as_bytes(), value] {
                context.update(&(part.len() as u64).to_be_bytes());
                context.update(part);
            }
        }
        let mut digest = [0; 32];
        digest.copy_from_slice(context.finish().as_ref());
        digest
    }

    /// As [`ClientHeaders::distinguishing_fields`], of what keeps callers apart: empty, and so at no cost, where there
    /// is but the name that the gateway itself is addressed by.
    pub fn caller_marks(&self) -> Vec<(&str, &[u8])> {
        let is_one = |(name, value): (&HeaderName, &HeaderValue)| {
            (self.by_host || *name != HOST) && !is_passing(name.as_str(), value)
        };
        if self.fields.iter().any(is_one) { self.distinguishing_fields() } else { Vec::new() }
    }
}

/// Holds a text of a client that cannot be edited on its way to servers to the filters of `pipeline`.
///
/// # Errors
/// The [`Denial`] of a filter; [`Reason::InvalidRequest`] if one changes it.
pub fn unchanged(pipeline: &Pipeline, place: ClientPlace<'_>, text: &str) -> Result<(), Denial> {
    match pipeline.client_text(place, text)? {
        Cow::Borrowed(_) => Ok(()),
        Cow::Owned(_) => Err(refused("a rule changes what a header of the request is aimed by")),
    }
}

fn refused(detail: &'static str) -> Denial {
    Denial::new(Reason::InvalidRequest, detail)
}

/// Fields that were chosen before.
impl From<HeaderMap> for ClientHeaders {
    fn from(fields: HeaderMap) -> ClientHeaders {
        ClientHeaders { fields, mirrors: false, by_host: false }
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
    use crate::drain::Phases;
    use crate::identify::ConnectionState;
    use portunus_config::{MapEnvironment, load_text};
    use std::cell::Cell;
    use std::path::Path;

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
            let client_headers = ClientHeaders::of(&headers, &server(upstreams, members));
            assert_eq!(names(&client_headers.caller_marks()), expected, "{name}");
        }
    }

    #[test]
    fn caller_is_digested_once_while_nothing_differs_that_counts() {
        let connection_state = ConnectionState::new(Phases::default());
        let servers = [(); 2].map(|()| server("a: {url: \"http://127.0.0.1:1/\"}", "a"));
        let digested = Cell::new(0);
        let key = |last: u8, server: usize, value: &str| {
            let headers = HeaderMap::from_iter([(
                HeaderName::from_static("x-key"),
                HeaderValue::from_str(value).unwrap(),
            )]);
            let identity = Identity::Anonymous { source: [10, 0, 0, last].into() };
            let client_headers = connection_state.client_headers(&headers, &servers[server]);
            connection_state.caller_key(&identity, &client_headers, || {
                digested.set(digested.get() + 1);
                CallerKey::for_tables(&identity, &client_headers.caller_marks())
            })
        };
        let first = key(1, 0, "a");
        assert!(key(1, 0, "a") == first && digested.get() == 1);
        // The same on another endpoint, where something else may go up.
        assert!(key(1, 1, "a") == first && digested.get() == 2);
        assert!(key(2, 1, "a") != first && digested.get() == 3);
        assert!(key(1, 1, "b") != first && digested.get() == 4);
        let long = "x".repeat(4096);
        assert!(key(1, 1, &long) == key(1, 1, &long) && digested.get() == 6, "it is not kept");
    }

    #[test]
    fn what_went_up_lately_goes_up_again_only_if_nothing_differs_that_counts() {
        let (one, other) = (
            server("a: {url: \"http://127.0.0.1:1/\"}", "a"),
            server("a: {url: \"http://127.0.0.1:1/\"}", "a"),
        );
        let of = |fields: &[(&'static str, &'static str)]| -> HeaderMap {
            let fields = fields.iter();
            fields
                .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
                .collect()
        };
        let first =
            [("host", "h"), ("content-length", "7"), ("x-key", "k"), ("connection", "x-a"), ("x-a", "1")];
        let with = |place: usize, field: (&'static str, &'static str)| {
            let mut fields = first;
            fields[place] = field;
            of(&fields)
        };
        let cases = [
            ("the same", of(&first), true),
            ("what never goes up", with(1, ("content-length", "8")), true),
            ("what is of the hop", with(4, ("x-a", "2")), true),
            ("another key", with(2, ("x-key", "l")), false),
            ("another host", with(0, ("host", "i")), false),
            ("another name", with(2, ("x-kez", "k")), false),
            ("another hop", with(3, ("connection", "x-key")), false),
            ("one less", of(&first[..4]), false),
            ("one more", of(&[&first[..], &[("x-b", "1")]].concat()), false),
        ];
        for (name, headers, expected) in cases {
            let mut memory = None;
            let known = HeaderCache::choose(&mut memory, &of(&first), &one, 100);
            let chosen = HeaderCache::choose(&mut memory, &headers, &one, 100);
            assert_eq!(Arc::ptr_eq(&known, &chosen), expected, "{name}");
            assert_eq!(chosen.fields, ClientHeaders::of(&headers, &one).fields, "{name}");
            let shares = |(name, own): (&HeaderName, &HeaderValue)| {
                headers[name].as_bytes().as_ptr() == own.as_bytes().as_ptr()
            };
            assert!(!chosen.fields.iter().any(shares), "{name}: the memory of a request is let go");
            let elsewhere = HeaderCache::choose(&mut memory, &headers, &other, 100);
            assert!(!Arc::ptr_eq(&chosen, &elsewhere), "another server");
        }
        let mut memory = None;
        HeaderCache::choose(&mut memory, &of(&first), &one, 10);
        assert!(memory.is_none(), "too long");
    }

    #[test]
    fn the_order_of_names_tells_nothing_and_that_of_values_does() {
        let client_headers = |fields: &[(&'static str, &'static str)]| {
            let fields = fields
                .iter()
                .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
            ClientHeaders::from(fields.collect::<HeaderMap>())
        };
        let one = client_headers(&[("x-b", "1"), ("x-a", "1"), ("x-a", "2")]);
        assert_eq!(
            one.caller_marks(),
            client_headers(&[("x-a", "1"), ("x-b", "1"), ("x-a", "2")]).caller_marks()
        );
        assert_ne!(
            one.caller_marks(),
            client_headers(&[("x-a", "2"), ("x-b", "1"), ("x-a", "1")]).caller_marks()
        );
    }
}
