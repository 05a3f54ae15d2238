//! The steps of a probe, in the order in which a gateway would come to them.

use super::report::{Recorder, Report, Server, Stage, Tools, Watcher, counted};
use super::schemas;
use super::talk::{Reply, Talk};
use crate::json::Json;
use crate::link::{Link, Until};
use portunus::backend::upstreams::dial::{DialError, dial};
use portunus::backend::upstreams::tls::secure;
use portunus::clock::SystemClock;
use portunus_base::{AddressClass, Host, text};
use portunus_config::Upstream;
use portunus_filters::Clock;
use portunus_filters::Era;
use serde_json::{Map, Value, json};
use std::collections::{BTreeSet, HashSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::TcpStream;

/// Pages of one list.
const MAX_PAGES: usize = 100;

/// Problems of tools that are shown one by one; the JSON report has all.
const SHOWN_PROBLEMS: usize = 5;

/// Some servers send the head of a stream only with its first event.
const STREAM_HEAD: Duration = Duration::from_secs(2);

/// Looks at a server, step by step, and ends what it began, when interrupted too.
pub(crate) async fn probe(upstream: Arc<Upstream>, within: Duration, watcher: Watcher) -> Report {
    let mut visit = Visit {
        within,
        link: Link::new(upstream, within),
        steps: Recorder::new(watcher),
        addresses: Vec::new(),
        server: Server::default(),
        modern: None,
        legacy: None,
    };
    let interrupted = tokio::select! {
        _ = visit.look() => false,
        heard = tokio::signal::ctrl_c() => heard.is_ok(),
    };
    if interrupted {
        visit.steps.fail::<()>("interrupted", "run it again to see the rest");
    }
    visit.leave().await;
    let Visit { link, steps, addresses, server, .. } = visit;
    let grants = grants(&link.upstream.url.host, &addresses);
    Report { url: link.upstream.url.redacted(), steps: steps.into_steps(), addresses, grants, server }
}

/// One look at one server.
pub(super) struct Visit {
    pub(super) within: Duration,
    pub(super) link: Link,
    pub(super) steps: Recorder,
    addresses: Vec<IpAddr>,
    pub(super) server: Server,
    pub(super) modern: Option<Talk>,
    pub(super) legacy: Option<Talk>,
}

impl Visit {
    /// `None` as soon as a step has failed.
    async fn look(&mut self) -> Option<()> {
        self.resolve().await?;
        self.judge_addresses()?;
        let stream = self.connect().await?;
        self.secure(stream).await?;
        self.find_eras().await?;
        self.list_tools().await?;
        self.server.resources = self.count(Stage::Resources, "resources").await?;
        self.server.prompts = self.count(Stage::Prompts, "prompts").await?;
        self.open_stream().await;
        Some(())
    }

    async fn resolve(&mut self) -> Option<()> {
        self.steps.begin(Stage::Dns);
        let host = self.link.upstream.url.host.clone();
        let answer = tokio::time::timeout(self.within, self.link.resolver.resolve(&host)).await;
        match (answer, &host) {
            (Ok(Ok(addresses)), host) => {
                self.addresses = addresses.to_vec();
                let shown: Vec<String> = addresses.iter().map(IpAddr::to_string).collect();
                match host {
                    Host::Ip(_) => self.steps.absent("the URL has an address"),
                    Host::Name(name) => self.steps.good(format!("{name} is {}", shown.join(", "))),
                }
                Some(())
            }
            (Ok(Err(error)), host) => self.steps.fail(
                format!("{host} has no address: {error}"),
                "mend the name in the URL, or the resolver of this machine",
            ),
            (Err(_), host) => self.steps.fail(
                format!("no answer for {host} within {:?}", self.within),
                "look at the resolver of this machine (`/etc/resolv.conf`)",
            ),
        }
    }

    fn judge_addresses(&mut self) -> Option<()> {
        self.steps.begin(Stage::Address);
        let classes: BTreeSet<&str> =
            self.addresses.iter().map(|ip| class_name(AddressClass::of(*ip))).collect();
        let shown = classes.into_iter().collect::<Vec<_>>().join(" and ");
        let dialled = |ip: &&IpAddr| AddressClass::of(**ip) != AddressClass::Forbidden;
        if !self.addresses.iter().any(|ip| dialled(&ip)) {
            return self.steps.fail(
                format!("{shown}: a metadata, link-local or reserved address is never dialled"),
                "name the address of an MCP server",
            );
        }
        let grants = grants(&self.link.upstream.url.host, &self.addresses);
        match grants.as_slice() {
            [] => self.steps.good(shown),
            grants => {
                let hint = format!("the upstream needs `addresses: [{}]`", grants.join(", "));
                self.steps.doubt(format!("{shown}, behind a name"), vec![hint]);
            }
        }
        Some(())
    }

    async fn connect(&mut self) -> Option<TcpStream> {
        self.steps.begin(Stage::Connect);
        let upstream = Arc::clone(&self.link.upstream);
        let (host, port) = (&upstream.url.host, upstream.url.port);
        match dial(&self.link.resolver, host, port, &upstream.addresses, self.within).await {
            Ok(stream) => {
                let peer = stream.peer_addr().map_or_else(|_| "connected".to_owned(), |at| at.to_string());
                self.steps.good(peer);
                Some(stream)
            }
            Err(error) => {
                let hint = match error {
                    DialError::TimedOut => "look whether a firewall drops packets to this port",
                    _ => "start the server, or mend the port in the URL",
                };
                self.steps.fail(format!("port {port}: {error}"), hint)
            }
        }
    }

    /// The handshake, on a connection that is for this step alone.
    async fn secure(&mut self, stream: TcpStream) -> Option<()> {
        let upstream = Arc::clone(&self.link.upstream);
        let Some(tls) = &upstream.tls else { return Some(()) };
        self.steps.begin(Stage::Tls);
        match tokio::time::timeout(self.within, secure(stream, tls)).await {
            Ok(Ok(stream)) => {
                match super::tls::seen(&stream, SystemClock::new().now().wall) {
                    (detail, hints) if hints.is_empty() => self.steps.good(detail),
                    (detail, hints) => self.steps.doubt(detail, hints),
                }
                Some(())
            }
            Ok(Err(fault)) => self.steps.fail(fault.to_string(), super::tls::mend(&fault)),
            Err(_) => self.steps.fail(
                format!("no handshake within {:?}", self.within),
                "look whether this port speaks TLS; if it speaks plain HTTP, the URL begins with `http://`",
            ),
        }
    }

    async fn list_tools(&mut self) -> Option<()> {
        self.steps.begin(Stage::Tools);
        if !self.declares("tools") {
            self.steps.absent("it declares no tools");
            return Some(());
        }
        let listing = match self.list("tools").await {
            Ok(listing) => listing,
            Err(why) => {
                let hint = "look at the log of the server: clients will not see its tools either";
                return self.steps.fail(format!("tools/list: {why}"), hint);
            }
        };
        let broken = schemas::broken(&listing.items);
        let count = listing.items.len();
        let mut detail = counted(count, "tool");
        if listing.pages > 1 {
            detail += &format!(" on {} pages", listing.pages);
        }
        let hints = tool_hints(&broken, &listing.doubts);
        if !broken.is_empty() {
            detail += &format!(", {}", counted(broken.len(), "problem"));
        }
        self.server.tools = Some(Tools { count, pages: listing.pages, broken });
        match hints.is_empty() {
            true => self.steps.good(detail),
            false => self.steps.doubt(detail, hints),
        }
        Some(())
    }

    /// How many `what` are listed; a list that fails is no reason not to serve the rest.
    async fn count(&mut self, stage: Stage, what: &str) -> Option<Option<usize>> {
        self.steps.begin(stage);
        if !self.declares(what) {
            self.steps.absent(format!("it declares no {what}"));
            return Some(None);
        }
        match self.list(what).await {
            Ok(listing) => {
                let count = listing.items.len();
                let detail = counted(count, what.trim_end_matches('s'));
                match listing.doubts.is_empty() {
                    true => self.steps.good(detail),
                    false => self.steps.doubt(detail, listing.doubts),
                }
                Some(Some(count))
            }
            Err(why) => {
                let hint = "clients that ask for it will see this error".to_owned();
                self.steps.doubt(format!("{what}/list: {why}"), vec![hint]);
                Some(None)
            }
        }
    }

    fn declares(&self, capability: &str) -> bool {
        self.server.capabilities.iter().any(|declared| declared == capability)
    }

    /// Reads `what`/list to its last page, within three times the time of one answer.
    async fn list(&mut self, what: &str) -> Result<Listing, String> {
        let until = Instant::now() + self.within * 3;
        let mut listing = Listing::default();
        let mut seen = HashSet::new();
        let mut cursor: Option<String> = None;
        loop {
            let page = self.page(what, cursor.as_deref()).await?;
            listing.pages += 1;
            listing.items.extend(page.get(what).map(Json::items).unwrap_or_default().iter().cloned());
            cursor = page.get("nextCursor").and_then(Json::text).map(str::to_owned);
            let Some(next) = &cursor else { return Ok(listing) };
            let stop = if !seen.insert(next.clone()) {
                "a cursor comes back again: the list has no end".to_owned()
            } else if listing.pages == MAX_PAGES || Instant::now() >= until {
                format!("only the first {} were read", counted(listing.pages, "page"))
            } else {
                continue;
            };
            listing.doubts.push(stop);
            return Ok(listing);
        }
    }

    async fn page(&mut self, what: &str, cursor: Option<&str>) -> Result<Json, String> {
        let mut params = Map::new();
        params.extend(cursor.map(|cursor| ("cursor".to_owned(), json!(cursor))));
        let link = &self.link;
        // The newest era that the server speaks.
        let Some(talk) = self.modern.as_mut().or(self.legacy.as_mut()) else {
            return Err("no era is known".to_owned());
        };
        let answer = talk.call(link, &format!("{what}/list"), params).await;
        let answer = answer.map_err(|trouble| trouble.to_string())?;
        self.server.resumable |= answer.resumable;
        match Reply::of(&answer) {
            Reply::Result(result) => match result.get(what) {
                Some(Json::List(_)) => Ok(result),
                _ => Err(format!("the result has no list `{what}`")),
            },
            reply => Err(reply.shown(answer.status)),
        }
    }

    async fn open_stream(&mut self) {
        let Some(talk) = &self.legacy else { return };
        self.steps.begin(Stage::Stream);
        let answer = talk.listen(&self.link, STREAM_HEAD, Until::Head).await;
        let resumable = if self.server.resumable { ", events can be resumed" } else { "" };
        match answer {
            Ok(answer) if answer.status.is_success() && answer.media() == "text/event-stream" => {
                self.steps.good(format!("it speaks on its own by GET{resumable}"));
            }
            Ok(answer) if answer.status.as_u16() == 405 => {
                self.steps.absent(format!("it never speaks on its own (405){resumable}"));
            }
            Ok(answer) => {
                let hint = "a stream is 200 with text/event-stream, or 405 where there is none".to_owned();
                self.steps.doubt(format!("HTTP {} to GET", answer.status.as_u16()), vec![hint]);
            }
            Err(trouble) => {
                let hint =
                    "clients wait for the head of the stream; let the server send it at once".to_owned();
                self.steps.doubt(format!("GET: {trouble}"), vec![hint]);
            }
        }
    }

    /// Ends the session, whatever went wrong before.
    async fn leave(&mut self) {
        let Some(talk) = self.legacy.as_ref().filter(|talk| talk.has_session()) else { return };
        self.steps.begin(Stage::End);
        match talk.end(&self.link).await {
            Ok(answer) if answer.status.is_success() => self.steps.good("the session of the probe is ended"),
            Ok(answer) if answer.status.as_u16() == 405 => {
                self.steps.absent("clients cannot end sessions (405); the probe's is left to expire");
            }
            Ok(answer) => {
                let hint = "sessions that clients leave will stay until they expire".to_owned();
                self.steps.doubt(format!("HTTP {} to DELETE", answer.status.as_u16()), vec![hint]);
            }
            Err(trouble) => {
                let hint = "the session of the probe is left to expire".to_owned();
                self.steps.doubt(format!("DELETE: {trouble}"), vec![hint]);
            }
        }
    }

    /// Takes what a first answer says of the server.
    pub(super) fn introduce(&mut self, era: Era, result: &Json) {
        let own = match era {
            Era::Legacy => result.get("serverInfo"),
            Era::Modern => result
                .get("_meta")
                .and_then(|meta| meta.get("io.modelcontextprotocol/serverInfo"))
                .or_else(|| result.get("serverInfo")),
        };
        let text = |key| own.and_then(|own| own.get(key)).and_then(Json::text).map(str::to_owned);
        self.server.name = text("name").or(self.server.name.take());
        self.server.version = text("version").or(self.server.version.take());
        let declared = result.get("capabilities").map(Json::members).unwrap_or_default();
        for (name, _) in declared {
            if !self.server.capabilities.contains(name) {
                self.server.capabilities.push(name.clone());
            }
        }
    }
}

/// A list, read page by page.
#[derive(Default)]
struct Listing {
    items: Vec<Json>,
    pages: usize,
    doubts: Vec<String>,
}

fn tool_hints(broken: &[(String, String)], doubts: &[String]) -> Vec<String> {
    let shown = broken.iter().take(SHOWN_PROBLEMS);
    let mut hints: Vec<String> =
        shown.map(|(tool, problem)| format!("tool {}: {problem}", text::json(tool))).collect();
    if broken.len() > SHOWN_PROBLEMS {
        hints.push(format!("and {} more; `--json` names all", broken.len() - SHOWN_PROBLEMS));
    }
    hints.extend(doubts.iter().cloned());
    hints
}

/// The classes that an upstream has to be granted because a name leads there.
fn grants(host: &Host, addresses: &[IpAddr]) -> Vec<&'static str> {
    let own = host.own_grant();
    let leads_to = |class| addresses.iter().any(|ip| AddressClass::of(*ip) == class);
    let mut grants = Vec::new();
    if leads_to(AddressClass::Loopback) && !own.loopback {
        grants.push("loopback");
    }
    if leads_to(AddressClass::Private) && !own.private {
        grants.push("private");
    }
    grants
}

fn class_name(class: AddressClass) -> &'static str {
    match class {
        AddressClass::Public => "public",
        AddressClass::Loopback => "loopback",
        AddressClass::Private => "private",
        AddressClass::Forbidden => "forbidden",
    }
}

/// Parameters of a request as an object.
pub(super) fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(members) => members,
        _ => Map::new(),
    }
}
