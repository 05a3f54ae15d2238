//! PROXY protocol: who may say whom it speaks for, and what becomes of that.

use crate::harness::{Authority, Client, Gateway, Request, Upstream, Wire, dial, rpc};
use std::sync::Arc;
use tokio::io::AsyncWriteExt;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio_rustls::TlsConnector;

const CLIENT: [u8; 4] = [198, 51, 100, 9];

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// A version 2 header with this command and these addresses.
pub(crate) fn header(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(body.len()).unwrap().to_be_bytes();
    [SIGNATURE, &[command, family], &length, body].concat()
}

/// For this address, over IPv4.
pub(crate) fn spoken_for(address: [u8; 4]) -> Vec<u8> {
    header(0x21, 0x11, &[&address[..], &[10, 0, 0, 1, 0, 1, 0, 2]].concat())
}

/// An upstream that tells of the `Forwarded` of each request.
async fn listening() -> (Upstream, UnboundedReceiver<String>) {
    let (told, heard) = unbounded_channel();
    let upstream = Upstream::start(move |request: Request, mut wire: Wire| {
        let told = told.clone();
        async move {
            told.send(request.header("forwarded").unwrap_or_default().to_owned()).unwrap();
            wire.result(&request).await;
            Some(wire)
        }
    })
    .await;
    (upstream, heard)
}

fn document(upstream: &Upstream, trusted: &str, tls: &str) -> String {
    format!(
        "listeners:\n  - {{ bind: 127.0.0.1:0, proxy_protocol: v2, trusted_proxies: [{trusted}]{tls} }}\n\
         upstreams:\n  up: http://{}/mcp\nservers:\n  /mcp: up\n",
        upstream.address
    )
}

async fn call(client: &mut Client, id: &str) -> bool {
    let body = rpc(1, "tools/call", r#"{"name":"echo","arguments":{}}"#);
    let sent = client.try_post("/mcp", &[("x-request-id", id.to_owned())], body.as_bytes()).await;
    sent.is_ok() && client.try_response().await.is_some_and(|response| response.status == 200)
}

#[tokio::test]
async fn a_trusted_balancer_names_its_client_in_the_record_and_to_the_upstream() {
    let (upstream, mut heard) = listening().await;
    let gateway = Gateway::start(&document(&upstream, "127.0.0.1", "")).await;
    let mut six = [0; 36];
    six[..2].copy_from_slice(&[0x20, 0x01]);
    six[15] = 7;
    let cases = [
        ("ipv4", spoken_for(CLIENT), "198.51.100.9", "for=198.51.100.9;"),
        ("ipv6", header(0x21, 0x21, &six), "2001::7", "for=\"[2001::7]\";"),
        ("local", header(0x20, 0, &[]), "127.0.0.1", "for=127.0.0.1;"),
    ];
    for (id, header, address, forwarded) in cases {
        let mut client = gateway.connect().await;
        client.send(&header).await;
        assert!(call(&mut client, id).await, "{id}");
        let record = gateway.recorded(id, |record| record["request_id"] == id).await;
        assert_eq!(record["ip_address"], address, "{id}");
        let told = heard.recv().await.unwrap();
        assert!(told.starts_with(forwarded), "{id}: {told}");
    }
}

#[tokio::test]
async fn what_is_no_header_or_comes_from_anybody_else_is_closed_unanswered() {
    let upstream = Upstream::unreachable().await;
    let trusting = Gateway::start(&document(&upstream, "127.0.0.1", "")).await;
    let strict = Gateway::start(&document(&upstream, "192.0.2.0/24", "")).await;
    let cases = [
        ("an untrusted peer", &strict, spoken_for(CLIENT)),
        ("no header", &trusting, Vec::new()),
        ("version 1", &trusting, b"PROXY TCP4 198.51.100.9 10.0.0.1 1 2\r\n".to_vec()),
        ("cut addresses", &trusting, header(0x21, 0x11, &[198, 51, 100])),
        ("too long", &trusting, header(0x21, 0x11, &[0; 5000])),
    ];
    for (name, gateway, header) in cases {
        let mut client = gateway.connect().await;
        client.try_send(&header).await.ok();
        let body = rpc(1, "tools/call", r#"{"name":"echo","arguments":{}}"#);
        client.try_post("/mcp", &[], body.as_bytes()).await.ok();
        assert_eq!(client.until_closed().await, "", "{name}");
    }
    trusting.counts("portunus_proxy_headers_refused_total", "", 4.0).await;
    strict.counts("portunus_proxy_headers_refused_total", "", 1.0).await;
    assert_eq!(upstream.requests(), 0);
}

#[tokio::test]
async fn the_header_comes_before_tls() {
    let (upstream, mut heard) = listening().await;
    let authority = Authority::new("of the gateway");
    let pair = authority.issue(&["gw.test"]);
    let tls = ", tls: { certificates: { certificate: gw.pem, key: gw.key } }";
    let files = [("gw.pem", pair.chain.as_str()), ("gw.key", pair.key.as_str())];
    let gateway = Gateway::start_beside(&files, &document(&upstream, "127.0.0.1", tls)).await;
    let mut stream = dial(gateway.address).await.unwrap();
    stream.write_all(&spoken_for(CLIENT)).await.unwrap();
    let connector = TlsConnector::from(Arc::new(authority.client(&["http/1.1"], None)));
    let secured = connector.connect("gw.test".try_into().unwrap(), stream).await.unwrap();
    assert!(call(&mut Client::over(secured, gateway.address), "behind").await);
    let told = heard.recv().await.unwrap();
    assert!(told.starts_with("for=198.51.100.9;") && told.ends_with(";proto=https"), "{told}");
}
