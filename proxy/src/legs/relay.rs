//! Sessions over HTTP with SSE, the transport of 2024-11-05.
//!
//! The server names on its stream where messages are posted to, and whatever it says comes on that
//! stream: answers too. The session lasts as long as the stream.

use super::{Leg, Origin, Refused, Terms, founding, stream};
use crate::context::Gateway;
use crate::errand::{self, Addressed, Errand, Said};
use crate::forward::Failure;
use crate::talk::reading::{Patience, Reading, malformed};
use crate::talk::voice;
use crate::talk::{Outcome, Place};
use http::{HeaderMap, StatusCode};
use portunus_config::UpstreamUrl;
use portunus_filters::Kind;
use portunus_filters::mcp::Revision;
use std::sync::{Arc, Weak};
use tokio::time::timeout;

/// Founds a session on a stream of its own.
pub(super) async fn request(
    gateway: &Arc<Gateway>,
    place: &Place,
    origin: Origin,
    version: Revision,
) -> Result<Arc<Leg>, Refused> {
    let within = place.upstream.timeouts.first_byte;
    let (place, mut reading) =
        timeout(within, opened(gateway, place)).await.unwrap_or_else(|_| Err(silent()))?;
    let errand = Errand::Initialize { version };
    let addressed = || Addressed { fields: voice::posted(), leg: None };
    errand::post(gateway, &place, &errand, addressed(), "0").await?;
    let said = timeout(within, answered(&mut reading, "0")).await.unwrap_or_else(|_| Err(silent()))?;
    let (facts, agreed) = founding::read(&said)?;
    let terms = Terms { facts: Arc::new(facts), version: agreed, id: None };
    let leg = Arc::new(Leg::relayed(&gateway.estate.legs, place, origin, terms));
    leg.follow(tokio::spawn(listen(Arc::downgrade(gateway), Arc::downgrade(&leg), reading)));
    if let Err(failure) = errand::on_leg(gateway, &leg, Errand::Initialized).await {
        leg.end(gateway);
        return Err(failure.into());
    }
    Ok(leg)
}

/// Opens the stream; the place is where messages are posted to.
async fn opened(gateway: &Arc<Gateway>, place: &Place) -> Result<(Place, Reading), Failure> {
    let addressed = Addressed { fields: voice::listening(), leg: None };
    let exchange = errand::send(gateway, place, &Errand::Stream, addressed).await?;
    let mut reading = Reading::begin(exchange, &place.upstream, Kind::Stream)?;
    let named = reading.next(Patience::default()).await?;
    let named = named.as_deref().and_then(|named| std::str::from_utf8(named).ok());
    let path = named.filter(|_| reading.status() == StatusCode::OK);
    let path = path.and_then(|named| endpoint(&place.upstream.url, named));
    let path = path.ok_or_else(|| malformed("the server names no place of its own for messages"))?;
    let mut upstream = (*place.upstream).clone();
    upstream.url.path = path;
    Ok((Place { upstream: Arc::new(upstream), ..place.clone() }, reading))
}

/// The path that an `endpoint` event names, if it is at the same server (2024-11-05 transports).
fn endpoint(base: &UpstreamUrl, named: &str) -> Option<String> {
    let named = named.trim();
    let whole = if named.contains("://") {
        named.to_owned()
    } else if named.starts_with("//") {
        return None;
    } else {
        let path = base.path.split('?').next().unwrap_or_default();
        let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
        let path = if named.starts_with('/') { named.to_owned() } else { format!("{folder}/{named}") };
        format!("{}://{}{path}", base.scheme, base.authority)
    };
    let url = UpstreamUrl::parse(&whole).ok()?;
    let same = (url.scheme, &url.host, url.port) == (base.scheme, &base.host, base.port);
    same.then_some(url.path)
}

async fn answered(reading: &mut Reading, id: &str) -> Result<Said, Failure> {
    while let Some(message) = reading.next(Patience::default()).await? {
        if let Some(outcome) = Outcome::of(&message, id, false) {
            let (status, headers) = (StatusCode::OK, HeaderMap::new());
            return Ok(Said { status, headers, outcome: Some(outcome), refusal: None });
        }
    }
    Err(Failure::broken("the stream ended before `initialize` was answered".to_owned()))
}

/// Reads the stream until it ends, and the session with it.
async fn listen(gateway: Weak<Gateway>, leg: Weak<Leg>, mut reading: Reading) {
    loop {
        let idle = leg.upgrade().map(|leg| leg.place.upstream.timeouts.idle);
        let next = reading.next(Patience { idle, until: None }).await;
        let (Some(gateway), Some(leg)) = (gateway.upgrade(), leg.upgrade()) else { return };
        match next {
            Ok(Some(message)) => stream::sort(&gateway, &leg, &message),
            Ok(None) | Err(_) => return stream::gone(&gateway, &leg),
        }
    }
}

fn silent() -> Failure {
    use portunus_filters::{Denial, Reason};
    Denial::new(Reason::UpstreamTimeout, "the server did not answer in time").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_go_to_the_server_that_names_their_place_and_to_no_other() {
        let base = UpstreamUrl::parse("http://crm:81/a/sse?x=y").unwrap();
        let cases = [
            ("rooted", "/messages/?session_id=1", Some("/messages/?session_id=1")),
            ("beside", "messages?s=1", Some("/a/messages?s=1")),
            ("absolute", "http://crm:81/m", Some("/m")),
            ("elsewhere", "http://evil:81/m", None),
            ("another port", "http://crm/m", None),
            ("another scheme", "https://crm:81/m", None),
            ("no scheme", "//evil:81/m", None),
            ("a line end", "/m\r\nx: y", None),
        ];
        for (name, named, expected) in cases {
            assert_eq!(endpoint(&base, named).as_deref(), expected, "{name}");
        }
    }
}
