use super::*;
use crate::backend::upstream_sessions::LeaseOptions;
use crate::testing::{Asked, Bed, Server, Wire, responses};
use portunus_filters::Identity;
use portunus_filters::mcp::Revision;
use std::net::Ipv4Addr;
use std::time::Duration;

fn caller(last: u8) -> CallerKey {
    CallerKey::for_tables(&Identity::Anonymous { source: Ipv4Addr::new(10, 0, 0, last).into() }, &[])
}

fn bed() -> Bed {
    Bed::before((Ipv4Addr::LOCALHOST, 9).into(), ", era: legacy")
}

fn dropped(bed: &Bed, whom: &str) -> String {
    let metrics = String::from_utf8(bed.gateway.metrics.render()).unwrap();
    let name = format!("portunus_messages_dropped_total{{for=\"{whom}\"}} ");
    metrics.lines().find_map(|line| line.strip_prefix(&*name)).unwrap_or("0").to_owned()
}

#[tokio::test]
async fn what_a_listener_does_not_take_in_time_is_counted() {
    let bed = bed();
    let server = ServerId("*|/mcp".into());
    let subscription = Hub::subscribe_as(&bed.gateway, &server, caller(1), responses());
    let _other = Hub::subscribe_as(&bed.gateway, &server, caller(2), responses());
    let word = Word::Changed(ListKind::Tools);
    let listening = bed.gateway.estate.hub.listening(&server, caller(1));
    let lost: u64 = (0..MAX_WORDS + 3).map(|_| tell(&bed.gateway, &listening, "up", &word)).sum();
    assert_eq!((lost, subscription.words.len()), (3, MAX_WORDS));
    told(&bed.gateway, Err(Untold::Full));
    told(&bed.gateway, Err(Untold::Nobody));
    assert_eq!(dropped(&bed, "session"), "1", "who has no stream does not want to hear");
}

async fn greet(asked: Asked, mut wire: Wire) -> Option<Wire> {
    let result =
        r#"{"protocolVersion":"2025-11-25","capabilities":{},"serverInfo":{"name":"s","version":"1"}}"#;
    match asked.method() {
        "initialize" => wire.result(&asked, result).await,
        _ => wire.accepted().await,
    }
    Some(wire)
}

fn notice_of(upstream_session: &Arc<UpstreamSession>, content: NoticeContent) -> ServerNotice {
    let (upstream, server) = (Arc::clone(&upstream_session.place().upstream), ServerId("*|/mcp".into()));
    ServerNotice {
        upstream,
        server,
        caller: caller(1),
        upstream_session: Arc::clone(upstream_session),
        content,
        share: None,
    }
}

fn notice(method: &str) -> NoticeContent {
    let message = format!(r#"{{"method":"{method}","jsonrpc":"2.0","params":{{"uri":"a:1"}}}}"#);
    let method = Envelope::read(&message).unwrap().method.unwrap();
    NoticeContent::Notification { method, message: message.into() }
}

/// One legacy session at a server.
async fn upstream_session(bed: &Bed) -> Arc<UpstreamSession> {
    bed.gateway
        .backend
        .session_pools
        .own(&bed.gateway.backend, &bed.place("anna", "{}"), Revision::V2025_11_25)
        .await
        .unwrap()
}

#[tokio::test]
async fn a_notification_that_nobody_took_leaves_the_lists_out_of_date() {
    let server = Server::start(greet).await;
    let bed = Bed::before(server.address, ", era: legacy");
    let upstream_session = upstream_session(&bed).await;
    let notice_of = |content| notice_of(&upstream_session, content);
    let notice = || notice("notifications/m");
    let queue = &bed.gateway.backend.notices;
    assert!(queue.push(notice_of(NoticeContent::Gone)).is_none());
    while queue.push(notice_of(notice())).is_none() {}
    let size = queue.len();
    assert!(matches!(
        queue.push(notice_of(NoticeContent::Gone)).unwrap().content,
        NoticeContent::Notification { .. }
    ));
    assert_eq!(queue.len(), size);
    assert!(
        matches!(queue.next().await.content, NoticeContent::Gone),
        "that a session is gone is never lost"
    );
    bed.gateway.backend.missed(&upstream_session.place().upstream);
    assert_eq!(dropped(&bed, "queue"), "1");
}

#[tokio::test]
async fn only_who_is_told_of_a_server_hears_what_it_says() {
    let in_time = "package mcp.authz\nimport rego.v1\ndefault decision := false\n\
        decision if {\n\tinput.mcp.method == \"initialize\"\n\tinput.mcp.upstream == \"up\"\n\t\
        input.time.hour == 0\n}\n";
    let server = Server::start(greet).await;
    let bed = Bed::under(in_time, server.address, ", era: legacy");
    let (gateway, place) = (&bed.gateway, bed.place("anna", "{}"));
    let (own, pooled) = (
        upstream_session(&bed).await,
        gateway.backend.session_pools.lease(&gateway.backend, &place, LeaseOptions::any()).await.unwrap(),
    );
    let id = ServerId("*|/mcp".into());
    let profile = Arc::new(bridge::Profile::silent("client", "1"));
    let session = Arc::new(Session::new([1; 16], id.clone(), Revision::V2025_11_25, profile, true));
    let mut stream = session.listen(responses());
    gateway.estate.hub.own(&own, &session);
    hear(gateway, notice_of(&own, notice("notifications/resources/updated")));
    assert!(stream.try_recv().is_err(), "nobody asked for the resource");
    session.subscribe(&"up".into(), &"a:1".into(), &"a:1".into(), &bed.gateway.backend.texts).unwrap();
    let mut subscription = Hub::subscribe_as(gateway, &id, caller(1), responses());
    let says = [
        notice("notifications/tools/list_changed"),
        notice("notifications/resources/updated"),
        notice("notifications/message"),
        NoticeContent::Gap,
    ];
    let mut hears = |content: &NoticeContent| {
        hear(gateway, notice_of(&own, content.clone()));
        hear(gateway, notice_of(&pooled, content.clone()));
        let all = (stream.try_recv().is_ok(), subscription.words.try_recv().is_ok());
        while stream.try_recv().is_ok() || subscription.words.try_recv().is_ok() {}
        all
    };
    assert!(says.iter().all(|content| hears(content) == (true, true)));
    bed.clock.advance(Duration::from_secs(3600));
    assert!(says.iter().all(|content| hears(content) == (false, false)));
}
