//! A request on its way to the replica that keeps the state behind it.

use super::assertion::{Assertion, CREDENTIALS, Relayed, head_digest, target};
use super::receive::Verdict;
use super::window::MessageKind;
use super::{Line, Member};
use crate::backend::forward::Exchange;
use crate::backend::headers::{hop_tokens, is_hop, put};
use crate::backend::upstreams::fault::Fault;
use crate::backend::upstreams::pool::{Checkout, CheckoutOptions, Connection};
use crate::backend::upstreams::request::Outgoing;
use crate::frontend::context::Gateway;
use crate::request_ids::Trace;
use crate::sealing::{Home, Token};
use bytes::Bytes;
use http::HeaderMap;
use http::header::HOST;
use http::request::Parts;
use std::fmt;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// A client's request that another replica has to serve.
pub struct Passenger<'a> {
    /// Its head, as it came.
    pub head: &'a Parts,
    /// Its body, as it came.
    pub body: Bytes,
    /// What was found out about it here.
    pub relayed: Relayed,
    /// The trace that it belongs to.
    pub trace: &'a Trace,
    /// Its answer has no end of its own.
    pub endless: bool,
    /// How long the head of its answer may take, the connection included.
    pub within: Duration,
}

/// Why the other replica gave no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerFailure {
    /// It cannot be reached: it has not seen the request, and this replica may adopt what the token
    /// alone allows.
    Gone(String),
    /// As [`PeerFailure::Gone`]: a later run of it answers than the one that kept the state.
    Restarted,
    /// As [`PeerFailure::Gone`], but it may have acted on the request before it ended: only one that
    /// changes nothing may be served again.
    Ended(String),
    /// It may have acted on the request, and its answer is lost.
    Lost(String),
    /// It is there and does not take the request.
    Refused(String),
}

impl fmt::Display for PeerFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PeerFailure::Gone(why) => write!(f, "the replica is gone: {why}"),
            PeerFailure::Restarted => f.write_str("the replica was started again"),
            PeerFailure::Ended(why) => write!(f, "the replica has ended: {why}"),
            PeerFailure::Lost(why) => write!(f, "the replica's answer is lost: {why}"),
            PeerFailure::Refused(why) => write!(f, "the replica refuses: {why}"),
        }
    }
}

/// Sends a request to the replica that `home` is a run of, and waits for the head of the answer; of a
/// replica that is known to be frozen, for nothing.
///
/// It is sent once more if the connection turns out to be dead: the other side takes each assertion
/// once, so that nothing is done twice. The answer is the client's, to be passed on as any server's
/// would be.
///
/// # Errors
/// [`PeerFailure`].
pub async fn relay(
    gateway: &Gateway,
    member: &Member,
    home: &Home,
    passenger: Passenger<'_>,
) -> Result<Exchange, PeerFailure> {
    if member.is_frozen() {
        return Err(PeerFailure::Lost("it has answered nothing for a while".to_owned()));
    }
    let Passenger { head, body, relayed, trace, endless, within } = passenger;
    let owner = relayed.identity.owner(relayed.source.client);
    let options = CheckoutOptions { fresh: false, endless, owner };
    let request_id = relayed.request_id.clone();
    let assertion = Assertion {
        from: gateway.peers.own().clone(),
        boot: home.boot(),
        issued: gateway.clock.now().wall.as_secs(),
        number: member.numbers.next(MessageKind::Relay),
        head: head_digest(head),
        relayed,
    };
    let sealed = assertion.seal(&gateway.estate.seals, &member.address.binding());
    let sealed = sealed.map_err(|oversize| PeerFailure::Refused(oversize.to_string()))?;
    let mut out = Outgoing::buffer(body.len());
    let fields =
        [(Verdict::FIELD, sealed.as_str()), ("x-request-id", &request_id), ("traceparent", &trace.parent)];
    write_head(&mut out, head, &fields, body.len());
    let request = Outgoing::new(out, body);
    let until = Instant::now() + within;
    let line = member.line();
    let exchange = deliver(gateway, &line, &request, options, until).await?;
    judge(exchange)
}

/// Gets a request to the other side, and the head of its answer.
pub(super) async fn deliver(
    gateway: &Gateway,
    line: &Line,
    request: &Outgoing,
    options: CheckoutOptions,
    until: Instant,
) -> Result<Exchange, PeerFailure> {
    match attempt(gateway, line, request, options, until).await {
        Err(Attempt::Dead(fault)) => {
            tracing::debug!(peer = &*line.upstream.name, %fault, "relayed again on a new connection");
            let second =
                attempt(gateway, line, request, CheckoutOptions { fresh: true, ..options }, until).await;
            // What the first attempt did is unknown, unless there was none to read it.
            second.map_err(|second| match (fault, second) {
                (Fault::Unsent(_), Attempt::Unreached(why)) => PeerFailure::Gone(why),
                (fault, Attempt::Unreached(_)) => PeerFailure::Ended(fault.to_string()),
                (_, second) => second.into(),
            })
        }
        result => result.map_err(PeerFailure::from),
    }
}

enum Attempt {
    /// There is no connection.
    Unreached(String),
    /// The connection ended before a byte of the answer.
    Dead(Fault),
    /// The answer broke off, or did not begin in time.
    Broken(String),
}

impl From<Attempt> for PeerFailure {
    fn from(attempt: Attempt) -> PeerFailure {
        match attempt {
            Attempt::Unreached(why) => PeerFailure::Gone(why),
            Attempt::Dead(Fault::Unsent(error)) => PeerFailure::Gone(error.to_string()),
            Attempt::Dead(fault) => PeerFailure::Lost(fault.to_string()),
            Attempt::Broken(why) => PeerFailure::Lost(why),
        }
    }
}

async fn attempt(
    gateway: &Gateway,
    line: &Line,
    request: &Outgoing,
    options: CheckoutOptions,
    until: Instant,
) -> Result<Exchange, Attempt> {
    let unreached = |why: String| Attempt::Unreached(why);
    let checkout = line.pool.checkout(&line.upstream, &gateway.backend.resolver, options);
    let mut checkout: Checkout = match timeout_at(until, checkout).await {
        Ok(checkout) => checkout.map_err(|error| unreached(error.to_string()))?,
        Err(_) => return Err(unreached("no connection in time".to_owned())),
    };
    let Some(connection) = checkout.connection() else { return Err(unreached("no connection".to_owned())) };
    let connection: &mut Connection = connection;
    match connection.exchange_until(until, request).await {
        Some(Ok(head)) => Ok(Exchange { head, checkout, deadline: None }),
        Some(Err(fault @ (Fault::Unsent(_) | Fault::Silent(_)))) => Err(Attempt::Dead(fault)),
        Some(Err(fault)) => Err(Attempt::Broken(fault.to_string())),
        None => {
            connection.suspect();
            Err(Attempt::Broken("no answer in time".to_owned()))
        }
    }
}

/// Tells the answer to the client from what the other side says to us. No server can say it: fields
/// of this name do not pass a gateway.
fn judge(exchange: Exchange) -> Result<Exchange, PeerFailure> {
    let Some(verdict) = exchange.head.headers.get(Verdict::FIELD) else { return Ok(exchange) };
    let verdict = Verdict::ALL.into_iter().find(|known| verdict == known.as_str());
    exchange.checkout.put_back();
    Err(match verdict {
        Some(Verdict::Gone) => PeerFailure::Restarted,
        Some(Verdict::Repeated) => PeerFailure::Lost("it has taken the request already".to_owned()),
        Some(verdict) => PeerFailure::Refused(verdict.in_words().to_owned()),
        None => PeerFailure::Refused("it says something that this version does not know".to_owned()),
    })
}

/// The client's head for the other replica, with `fields` of ours.
fn write_head(out: &mut Vec<u8>, head: &Parts, fields: &[(&str, &str)], body_bytes: usize) {
    out.extend_from_slice(format!("{} {} HTTP/1.1\r\n", head.method, target(head)).as_bytes());
    put(out, "host", head.headers.get(HOST).map_or(b"", |host| host.as_bytes()));
    put_kept(out, &head.headers, fields);
    for (name, value) in fields {
        put(out, name, value.as_bytes());
    }
    if head.method == http::Method::POST {
        put(out, "content-length", body_bytes.to_string().as_bytes());
    }
    out.extend_from_slice(b"\r\n");
}

fn put_kept(out: &mut Vec<u8>, headers: &HeaderMap, fields: &[(&str, &str)]) {
    let hop = hop_tokens(headers);
    for (name, value) in headers {
        let text = name.as_str();
        let ours = matches!(text, "host" | "content-length" | "expect") || text.starts_with("portunus-");
        let replaced = fields.iter().any(|(field, _)| *field == text);
        if !(ours || replaced || CREDENTIALS.contains(name) || is_hop(text) || hop.contains(name)) {
            put(out, text, value.as_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use portunus_config::{MapEnvironment, load_text};
    use std::path::Path;

    #[test]
    fn what_a_client_shows_goes_to_no_other_replica_but_sealed_and_where_a_server_gets_it() {
        let text = "version: 1\nupstreams:\n  plain: {url: 'http://localhost:1/'}\n  \
            passing: {url: 'http://localhost:2/', credentials: passthrough}\nservers: {/plain: plain, /passing: passing}\n";
        let loaded = load_text(text, Path::new("g.yaml"), &MapEnvironment::default()).unwrap();
        let request = http::Request::post("/mcp").header("host", "h").header("x-kept", "1");
        let request = request.header("authorization", "Bearer secret").header("cookie", "secret");
        let (head, ()) = request.body(()).unwrap().into_parts();
        let mut wire = Vec::new();
        write_head(&mut wire, &head, &[], 2);
        let wire = String::from_utf8(wire).unwrap();
        assert!(wire.contains("x-kept: 1") && !wire.contains("secret"), "{wire}");
        for (path, sealed) in [("/plain", 0), ("/passing", 2)] {
            let server = loaded.snapshot.routes.iter().find(|server| server.path == path).unwrap();
            assert_eq!(Relayed::credentials_for(server, &head.headers).len(), sealed, "{path}");
        }
    }
}
