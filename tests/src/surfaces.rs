//! The operating surfaces: whom they answer, and how many at once.

use crate::harness::{Client, Gateway, Upstream, dial_from, within};
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Connections that one source gets.
const OF_ONE: usize = 32;

async fn from(source: [u8; 4], to: SocketAddr) -> TcpStream {
    dial_from(source.into(), to).await.unwrap()
}

#[tokio::test]
async fn surfaces_on_loopback_answer_for_loopback_names_alone() {
    let upstream = Upstream::unreachable().await;
    let gateway = Gateway::before(upstream.address).await;
    for (surface, path, without_host) in [
        (gateway.telemetry, "/metrics", 200),
        (gateway.telemetry, "/livez", 200),
        (gateway.admin, "/status", 403),
    ] {
        let own = format!("Host: {surface}\r\n");
        let cases = [
            ("its own address", own.clone(), 200),
            ("localhost", "Host: localhost:9\r\n".to_owned(), 200),
            ("another loopback address", "Host: [::1]:9\r\n".to_owned(), 200),
            ("a name of the web", "Host: evil.example\r\n".to_owned(), 403),
            ("a name that begins well", "Host: localhost.evil.example\r\n".to_owned(), 403),
            ("a page", format!("{own}Origin: http://evil.example\r\n"), 403),
            ("no name", String::new(), without_host),
        ];
        for (name, fields, status) in cases {
            let mut client = Client::connect(surface).await;
            let version = if fields.is_empty() { "1.0" } else { "1.1" };
            client.send(format!("GET {path} HTTP/{version}\r\n{fields}\r\n").as_bytes()).await;
            assert_eq!(client.response().await.status, status, "{path}: {name}");
        }
    }
}

#[tokio::test]
async fn one_source_leaves_the_surfaces_to_others() {
    let upstream = Upstream::unreachable().await;
    let gateway = Gateway::before(upstream.address).await;
    for (surface, path) in [(gateway.telemetry, "/metrics"), (gateway.admin, "/status")] {
        let mut held = Vec::new();
        for _ in 0..OF_ONE + 8 {
            let mut connection = from([127, 0, 1, 1], surface).await;
            // Half a request; one that is closed already takes none.
            connection.write_all(b"GET / HTTP/1.1\r\nHost: ").await.ok();
            held.push(connection);
        }
        for beyond in &mut held[OF_ONE..] {
            let mut nothing = [0; 1];
            let read =
                within(10, "the end of a connection beyond the bound", beyond.read(&mut nothing)).await;
            assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
        }
        let mut other = from([127, 0, 1, 2], surface).await;
        other.write_all(format!("GET {path} HTTP/1.1\r\nHost: {surface}\r\n\r\n").as_bytes()).await.unwrap();
        let mut answer = [0; 12];
        within(10, "an answer to another source", other.read_exact(&mut answer)).await.unwrap();
        assert_eq!(&answer, b"HTTP/1.1 200");
    }
    let told = |entry: &serde_json::Value| {
        entry["message"].as_str().is_some_and(|said| said.contains("too many connections"))
    };
    gateway.logged("that there are too many connections", told).await;
}

#[tokio::test]
async fn sources_that_hold_all_connections_leave_a_place_to_a_scraper() {
    let upstream = Upstream::unreachable().await;
    let gateway = Gateway::before(upstream.address).await;
    let mut held = Vec::new();
    for source in 1..=4 {
        for _ in 0..OF_ONE {
            let mut connection = from([127, 0, 1, source], gateway.telemetry).await;
            connection.write_all(b"GET / HTTP/1.1\r\nHost: ").await.ok();
            held.push(connection);
        }
    }
    for _ in 0..3 {
        let mut scraper = from([127, 0, 1, 9], gateway.telemetry).await;
        let request = format!("GET /metrics HTTP/1.1\r\nHost: {}\r\n\r\n", gateway.telemetry);
        scraper.write_all(request.as_bytes()).await.unwrap();
        let mut answer = [0; 12];
        within(10, "an answer to the scraper", scraper.read_exact(&mut answer)).await.unwrap();
        assert_eq!(&answer, b"HTTP/1.1 200");
    }
}
