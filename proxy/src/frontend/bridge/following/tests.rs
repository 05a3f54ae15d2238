//! What becomes of words that nobody may hear.

use super::*;
use crate::testing::{Bed, responses};
use portunus_filters::catalog::ListKind;
use std::net::Ipv4Addr;

#[tokio::test]
async fn only_who_is_told_of_a_server_hears_what_it_says() {
    let in_time = "package mcp.authz\nimport rego.v1\ndefault decision := false\n\
        decision if {\n\tinput.mcp.upstream == \"up\"\n\tinput.time.hour == 0\n}\n";
    let bed = Bed::under(in_time, (Ipv4Addr::LOCALHOST, 9).into(), ", era: modern");
    let (words, mut heard) = mpsc::channel(2);
    let place = bed.place("anna", "{}");
    let listener = Listener {
        gateway: Arc::clone(&bed.gateway),
        words,
        responses: Arc::new(responses()),
        acknowledged: Box::new(|| {}),
        client: Client::Subscriber,
        translates: true,
        holds: StreamHolds::default(),
        serial: bed.gateway.active().snapshot.serial,
        sent: (Arc::clone(&place.profile), Arc::clone(&place.headers)),
        place,
    };
    let changed = || Word::Changed(ListKind::Tools);
    assert!(listener.pass(changed()).await.is_ok() && heard.try_recv().is_ok());
    bed.clock.advance(Duration::from_secs(3600));
    assert!(listener.pass(changed()).await.is_ok() && heard.try_recv().is_err());
    drop(heard);
    assert!(listener.pass(changed()).await.is_ok(), "nobody waits for it");
}
