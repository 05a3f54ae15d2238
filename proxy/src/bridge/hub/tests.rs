use super::*;
use crate::testing::Bed;
use portunus_filters::Identity;
use portunus_filters::mcp::Revision;
use std::net::Ipv4Addr;

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
    let seat = Hub::sit(&bed.gateway, &server, caller(1));
    let _other = Hub::sit(&bed.gateway, &server, caller(2));
    let word = Word::Changed(ListKind::Tools);
    let lost: u64 = (0..MAX_WORDS + 3).map(|_| bed.gateway.estate.hub.tell(&server, caller(1), &word)).sum();
    assert_eq!((lost, seat.words.len()), (3, MAX_WORDS));
    told(&bed.gateway, Err(Untold::Full));
    told(&bed.gateway, Err(Untold::Nobody));
    assert_eq!(dropped(&bed, "session"), "1", "who has no stream does not want to hear");
}

/// One legacy session at a server.
async fn leg(bed: &Bed) -> Arc<Leg> {
    bed.gateway.estate.legs.own(&bed.gateway, &bed.place("anna", "{}"), Revision::V2025_11_25).await.unwrap()
}

#[tokio::test]
async fn a_notification_that_nobody_took_leaves_the_lists_out_of_date() {
    let server = crate::testing::Server::start(|asked, mut wire| async move {
        let result =
            r#"{"protocolVersion":"2025-11-25","capabilities":{},"serverInfo":{"name":"s","version":"1"}}"#;
        match asked.method() {
            "initialize" => wire.result(&asked, result).await,
            _ => wire.accepted().await,
        }
        Some(wire)
    })
    .await;
    let bed = Bed::before(server.address, ", era: legacy");
    let leg = leg(&bed).await;
    let heard = |what| Heard {
        upstream: Arc::clone(&leg.place().upstream),
        server: ServerId("*|/mcp".into()),
        caller: caller(1),
        leg: Arc::clone(&leg),
        what,
    };
    let method = Envelope::read(r#"{"method":"notifications/m","jsonrpc":"2.0"}"#).unwrap().method.unwrap();
    let notice = || What::Notice { method: method.clone(), message: "{}".into() };
    let queue = &bed.gateway.estate.heard;
    assert!(queue.push(heard(What::Gone)).is_none());
    while queue.push(heard(notice())).is_none() {}
    let size = queue.len();
    assert!(matches!(queue.push(heard(What::Gone)).unwrap().what, What::Notice { .. }));
    assert_eq!(queue.len(), size);
    assert!(matches!(queue.next().await.what, What::Gone), "that a session is gone is never lost");
    missed(&bed.gateway, &leg.place().upstream);
    assert_eq!(dropped(&bed, "queue"), "1");
}
