use super::*;
use crate::frontend::session::one::{Rest, Session};
use crate::testing::{Bed, arrival};
use bytes::BytesMut;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use tokio::io::{AsyncReadExt, DuplexStream};

const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// A client that takes `room` bytes without reading, and its other end.
fn client(version: Version, room: usize) -> (Client, DuplexStream) {
    let head = http::Request::builder().method("POST").version(version);
    let (near, far) = tokio::io::duplex(room);
    let rest = Rest { stream: Box::new(near), ahead: BytesMut::new() };
    (Client::One(Box::new(Session::new(&head.body(()).unwrap().into_parts().0, rest))), far)
}

/// Answers into `sink`.
async fn answer(
    sink: Sink<'_>,
    version: Version,
    bed: &Bed,
    say: impl AsyncFnOnce(&mut Responder<'_>) -> End,
) -> End {
    let arrival = arrival(bed.gateway.clock.now());
    let mut record = RecordGuard::new(&bed.gateway.recorder, &arrival);
    let mut out = Responder {
        sink,
        record: &mut record,
        stamp: Stamp { request_id: "r-1", origin: None },
        write_timeout: Duration::from_secs(1),
        phases: bed.gateway.drain.phases(),
        version,
        takes_events: true,
        begun: false,
    };
    say(&mut out).await
}

fn bed() -> Bed {
    Bed::before(SocketAddr::from((LOCAL, 9)), "")
}

/// All that a client receives.
async fn received(version: Version, say: impl AsyncFnOnce(&mut Responder<'_>) -> End) -> String {
    let (mut client, mut far) = client(version, 1 << 20);
    let end = answer(Sink::Client(&mut client), version, &bed(), say).await;
    assert!(matches!(end, End::Done));
    drop(client.finish().await);
    let mut bytes = Vec::new();
    far.read_to_end(&mut bytes).await.unwrap();
    String::from_utf8(bytes).unwrap()
}

async fn last(out: &mut Responder<'_>) -> End {
    out.last(StatusCode::NOT_FOUND, Released::own("{\"id\":1}")).await
}

#[tokio::test]
async fn an_answer_that_comes_first_is_json_with_its_own_status() {
    let text = received(Version::HTTP_11, async |out| last(out).await).await;
    assert!(text.starts_with("HTTP/1.1 404 ") && text.ends_with("\r\n\r\n{\"id\":1}"), "{text}");
    assert!(text.contains("content-type: application/json\r\n"), "{text}");
    assert!(text.contains("portunus-request-id: r-1\r\n"), "{text}");
}

#[tokio::test]
async fn a_client_that_takes_json_alone_gets_the_answer_without_what_came_before_it() {
    let text = received(Version::HTTP_11, async |out| {
        out.takes_events = false;
        out.event(Released::own("{\"method\":\"m\"}"), None).await.unwrap();
        out.comment().await.unwrap();
        last(out).await
    });
    let text = text.await;
    assert!(text.starts_with("HTTP/1.1 404 ") && text.ends_with("\r\n\r\n{\"id\":1}"), "{text}");
    assert!(text.contains("content-type: application/json\r\n"), "{text}");
}

#[tokio::test]
async fn what_comes_before_it_makes_the_answer_the_last_event_of_a_stream() {
    let text = received(Version::HTTP_11, async |out| {
        out.event(Released::own("{\"a\":\n1}"), None).await.unwrap();
        out.event(Released::own("{}"), Some("e1")).await.unwrap();
        last(out).await
    });
    let text = text.await;
    assert!(
        text.starts_with("HTTP/1.1 200 ") && text.contains("content-type: text/event-stream\r\n"),
        "{text}"
    );
    let at = |part: &str| text.find(part).unwrap_or_else(|| panic!("{part:?} in {text}"));
    let first = at("event: message\ndata: {\"a\":\ndata: 1}\n\n");
    let second = at("event: message\nid: e1\ndata: {}\n\n");
    assert!(first < second && second < at("event: message\ndata: {\"id\":1}\n\n"), "{text}");
    assert!(text.ends_with("\r\n0\r\n\r\n"), "{text}");
}

#[tokio::test]
async fn a_sign_of_life_begins_the_stream_too() {
    let text = received(Version::HTTP_10, async |out| {
        out.comment().await.unwrap();
        last(out).await
    });
    let text = text.await;
    assert!(text.starts_with("HTTP/1.0 200 ") || text.starts_with("HTTP/1.1 200 "), "{text}");
    assert!(text.ends_with("\r\n\r\n: keepalive\n\nevent: message\ndata: {\"id\":1}\n\n"), "{text}");
    assert!(!text.contains("chunked"), "HTTP/1.0 knows no chunks: {text}");
}

#[tokio::test]
async fn a_session_is_named_and_an_acceptance_is_empty() {
    let text = received(Version::HTTP_11, async |out| out.founding("s-1", Released::own("{}")).await).await;
    assert!(text.contains("mcp-session-id: s-1\r\n") && text.ends_with("\r\n\r\n{}"), "{text}");
    let text = received(Version::HTTP_11, async |out| out.status(StatusCode::ACCEPTED).await).await;
    assert!(text.starts_with("HTTP/1.1 202 ") && text.ends_with("\r\n\r\n"), "{text}");
    assert!(text.contains("content-length: 0\r\n"), "{text}");
}

#[tokio::test]
async fn an_answer_in_pieces_is_the_same_whole_or_as_an_event() {
    for bytes in [8, JOINED_BYTES] {
        let long = format!("\"{}\"", "x".repeat(bytes));
        let pieces = || ["[", &long, "]"].map(|piece| Released::own(piece.to_owned())).to_vec();
        let text = received(Version::HTTP_11, async |out| out.pieces(pieces()).await).await;
        assert!(text.ends_with(&format!("\r\n\r\n[{long}]")), "{bytes}");
        assert!(text.contains(&format!("content-length: {}\r\n", long.len() + 2)), "{bytes}");
        let text = received(Version::HTTP_11, async |out| {
            out.begin().await.unwrap();
            out.pieces(pieces()).await
        });
        assert!(text.await.contains(&format!("data: [{long}]\n\n")), "{bytes}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_read_is_not_waited_for() {
    for (phase, patience) in [(Phase::Serving, 1), (Phase::Expired, 0)] {
        let start = tokio::time::Instant::now();
        let (mut client, _far) = client(Version::HTTP_11, 16);
        let bed = bed();
        bed.gateway.drain.advance(phase);
        let said = answer(Sink::Client(&mut client), Version::HTTP_11, &bed, async |out| last(out).await);
        let end = tokio::time::timeout(Duration::from_secs(60), said).await;
        assert!(matches!(end, Ok(End::Broken)), "{phase:?}");
        assert_eq!(start.elapsed().as_secs(), patience, "{phase:?}");
    }
}

#[tokio::test]
async fn parts_of_a_batch_go_to_who_joins_them() {
    let (bed, (parts, mut joined)) = (bed(), mpsc::channel(8));
    let end = answer(Sink::Batch(parts.clone()), Version::HTTP_11, &bed, async |out| {
        out.comment().await.unwrap();
        out.event(Released::own("{}"), None).await.unwrap();
        last(out).await
    });
    assert!(matches!(end.await, End::Done));
    assert!(matches!(joined.recv().await, Some(Part::Ahead(note)) if note.text() == "{}"));
    assert!(matches!(joined.recv().await, Some(Part::Answer(answer, None)) if answer.text() == "{\"id\":1}"));
    drop(joined);
    let end = answer(Sink::Batch(parts), Version::HTTP_11, &bed, async |out| last(out).await).await;
    assert!(matches!(end, End::Broken), "nobody joins them");
}

#[tokio::test]
async fn part_that_waits_holds_no_buffer_that_it_was_cut_from() {
    let buffer = Bytes::from(vec![b'1'; 16 << 10]);
    let cut = || Released::own(buffer.slice(..4));
    let (bed, (parts, mut joined)) = (bed(), mpsc::channel(8));
    let end = answer(Sink::Batch(parts), Version::HTTP_11, &bed, async |out| {
        out.event(cut(), None).await.unwrap();
        out.last(StatusCode::OK, cut()).await
    });
    assert!(matches!(end.await, End::Done));
    for _ in 0..2 {
        let (message, _) = joined.recv().await.unwrap().into_message();
        assert_eq!(message, cut());
        assert!(!buffer.as_ptr_range().contains(&message.bytes().as_ptr()));
    }
}
