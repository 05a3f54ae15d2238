//! Heads on their way up and down.

use super::*;
use crate::backend::forward::RequestOrigin;
use crate::testing::{Hand, arrival, origin};
use portunus_config::{Snapshot, load_text};
use portunus_filters::{Arrival, Clock};
use std::path::Path;
use std::sync::Arc;

struct Variables;

impl portunus_config::Environment for Variables {
    fn variable(&self, name: &str) -> Option<String> {
        (name == "TOKEN").then(|| "s3cret".to_owned())
    }
    fn file(&self, path: &Path) -> std::io::Result<String> {
        std::fs::read_to_string(path)
    }
}

fn upstream(more: &str) -> Arc<Upstream> {
    let text = format!(
        "version: 1\nlisten: 127.0.0.1:0\nupstreams:\n  up: {{ url: \"http://127.0.0.1:9/base\"{more} }}\nservers:\n  /mcp: up\n"
    );
    let loaded = load_text(&text, Path::new("gateway.yaml"), &Variables).unwrap();
    let Snapshot { upstreams, .. } = loaded.snapshot;
    Arc::clone(&upstreams[0])
}

fn written(upstream: &Upstream, fields: &[(&'static str, &'static str)], behind_proxy: bool) -> String {
    let mut headers = HeaderMap::new();
    for (name, value) in fields {
        headers.append(HeaderName::from_static(name), value.parse().unwrap());
    }
    let source = "198.51.100.7".parse().unwrap();
    let arrival = Arrival { source, request_id: "r-1".into(), ..arrival(Hand::default().now()) };
    let origin = RequestOrigin { behind_proxy, ..origin(arrival) };
    let (method, query, owner) = (&Method::POST, Some("a=1"), Default::default());
    let inbound = Inbound { method, headers: &headers, query, owner, origin: &origin };
    let mut out = Vec::new();
    write_request_head(&mut out, &inbound, upstream, 5);
    String::from_utf8(out).unwrap()
}

#[test]
fn a_request_keeps_what_is_end_to_end_and_nothing_else() {
    let fields = [
        ("host", "gw.example"),
        ("mcp-session-id", "s-1"),
        ("accept", "application/json, text/event-stream"),
        ("connection", "keep-alive, x-hop, mcp-session-id"),
        ("x-hop", "1"),
        ("te", "trailers"),
        ("authorization", "Bearer client"),
        ("cookie", "c=1"),
        ("origin", "http://gw.example"),
        ("x-forwarded-for", "6.6.6.6"),
        ("forwarded", "for=6.6.6.6"),
        ("tracestate", "a=b"),
        ("content-length", "999"),
        ("accept-encoding", "gzip"),
    ];
    let expected = "POST /base?a=1 HTTP/1.1\r\nhost: 127.0.0.1:9\r\nmcp-session-id: s-1\r\n\
        accept: application/json, text/event-stream\r\naccept-encoding: identity\r\n\
        forwarded: for=198.51.100.7;host=\"gw.example\";proto=http\r\nx-request-id: r-1\r\n\
        traceparent: 00-a-b-00\r\ncontent-length: 5\r\n\r\n";
    assert_eq!(written(&upstream(""), &fields, false), expected);
}

#[test]
fn credentials_go_where_the_configuration_sends_them() {
    let shown = [("host", "gw"), ("authorization", "Bearer client")];
    let cases = [
        ("none", "", None),
        ("reference", ", credentials: { bearer: \"env:TOKEN\" }", Some("authorization: Bearer s3cret")),
        ("passthrough", ", credentials: passthrough", Some("authorization: Bearer client")),
    ];
    for (name, more, expected) in cases {
        let head = written(&upstream(more), &shown, false);
        let line = head.lines().find(|line| line.starts_with("authorization"));
        assert_eq!(line, expected, "{name}");
    }
}

#[test]
fn an_upstream_is_told_of_callers_what_its_document_names() {
    let stamped = [
        ("host", "gw"),
        ("connection", "x-portunus-subject, x-portunus-roles"),
        ("x-portunus-subject", "anna"),
        ("x-portunus-roles", "a,b"),
    ];
    let cases = [
        ("", vec![]),
        (", caller: { headers: roles }", vec!["x-portunus-roles: a,b"]),
        (", caller: headers", vec!["x-portunus-subject: anna", "x-portunus-roles: a,b"]),
    ];
    for (more, expected) in cases {
        let head = written(&upstream(more), &stamped, false);
        let told: Vec<&str> = head.lines().filter(|line| line.starts_with("x-portunus-")).collect();
        assert_eq!(told, expected, "{more}");
    }
}

#[test]
fn what_a_trusted_proxy_says_is_kept_in_one_clean_element() {
    let fields = [("host", "gw"), ("x-forwarded-proto", "https"), ("x-forwarded-host", "mcp.example.com")];
    let trusted = written(&upstream(""), &fields, true);
    assert!(
        trusted.contains("forwarded: for=198.51.100.7;host=\"mcp.example.com\";proto=https\r\n"),
        "{trusted}"
    );
    let stranger = written(&upstream(""), &fields, false);
    assert!(stranger.contains("host=\"gw\";proto=http\r\n"), "{stranger}");
}

#[test]
fn preserved_hosts_keep_their_origin() {
    let fields = [("host", "gw.example"), ("origin", "http://gw.example")];
    let head = written(&upstream(", host: preserve"), &fields, false);
    assert!(
        head.contains("\r\nhost: gw.example\r\n") && head.contains("\r\norigin: http://gw.example\r\n"),
        "{head}"
    );
}

#[test]
fn an_answer_loses_what_belongs_to_the_hop_or_to_us() {
    let mut headers = HeaderMap::new();
    for (name, value) in [
        ("content-type", "text/event-stream"),
        ("connection", "close, x-hop"),
        ("x-hop", "1"),
        ("transfer-encoding", "chunked"),
        ("content-length", "5"),
        ("access-control-allow-origin", "*"),
        ("portunus-outcome", "forged"),
        ("portunus-request-id", "forged"),
        ("set-cookie", "a=1"),
        ("alt-svc", "h3=\":443\""),
        ("clear-site-data", "\"*\""),
        ("strict-transport-security", "max-age=1"),
        ("mcp-session-id", "s-1"),
    ] {
        headers.append(HeaderName::from_static(name), value.parse().unwrap());
    }
    let stamp = Stamp { request_id: "r-1", origin: None };
    let head = response_head(StatusCode::OK, headers, (None, false), &upstream(""), &stamp).unwrap();
    let mut names: Vec<&str> = head.headers.keys().map(HeaderName::as_str).collect();
    names.sort_unstable();
    assert_eq!(names, ["content-type", "mcp-session-id", "portunus-request-id"]);
    assert_eq!(head.headers["portunus-request-id"], "r-1", "not the upstream's");
}

#[test]
fn answer_keeps_its_length_whatever_the_server_says_of_its_connection() {
    let stamp = Stamp { request_id: "r-1", origin: None };
    for hop in ["content-length", "transfer-encoding", "close, content-length"] {
        let mut headers = HeaderMap::new();
        headers.insert("connection", hop.parse().unwrap());
        headers.insert("content-length", "5".parse().unwrap());
        let up = upstream("");
        let whole = response_head(StatusCode::OK, headers.clone(), (Some(5), false), &up, &stamp).unwrap();
        assert_eq!(whole.headers["content-length"], "5", "{hop}");
        let pieces = response_head(StatusCode::OK, headers, (None, true), &up, &stamp).unwrap();
        assert_eq!(pieces.headers["transfer-encoding"], "chunked", "{hop}");
        assert!(!pieces.headers.contains_key("content-length"), "{hop}");
    }
}

#[test]
fn numbers_are_spelt_as_they_are_counted() {
    for number in [0, 7, 9, 10, 99, 100, 65_535, usize::MAX] {
        let mut out = Vec::new();
        put_decimal(&mut out, number);
        assert_eq!(String::from_utf8(out).unwrap(), number.to_string());
    }
}
