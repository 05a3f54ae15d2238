//! Splitting an event stream into events without changing a byte.
//!
//! Follows the WHATWG HTML standard, "Parsing an event stream": lines end in LF, CRLF or CR, an
//! empty line ends an event. Events come out as the raw bytes they arrived in, comments and all;
//! joined they are exactly the input, however it was cut into chunks.

use bytes::Bytes;
use portunus_base::Buffer;
use std::borrow::Cow;

/// Cuts a byte stream at the ends of its events.
#[derive(Debug)]
pub struct Splitter {
    buffer: Buffer,
    /// Where the search for the next line end goes on.
    scanned: usize,
    /// Where the line that is being read starts.
    line: usize,
    /// The last byte seen was a CR that ended a line: a LF right after it belongs to it.
    after_cr: bool,
    /// No event has come out: a byte order mark may still lead the stream.
    first: bool,
    max_event_bytes: usize,
}

/// One event as it came, with the empty line that ends it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    raw: Bytes,
    /// Where its first line starts: behind the mark that may lead a stream.
    text: usize,
}

/// An event longer than the limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Oversize;

impl Splitter {
    /// A splitter that refuses events above `max_event_bytes`.
    pub fn new(max_event_bytes: usize) -> Splitter {
        Splitter {
            buffer: Buffer::default(),
            scanned: 0,
            line: 0,
            after_cr: false,
            first: true,
            max_event_bytes,
        }
    }

    /// Takes the next chunk of the stream.
    pub fn push(&mut self, chunk: &[u8]) {
        self.buffer.push(chunk);
    }

    /// Tells how long the next event may be, so that a long one lies in memory of its own.
    pub fn plan(&mut self, bytes: usize) {
        self.buffer.plan(bytes);
    }

    /// The next complete event, if there is one.
    ///
    /// # Errors
    /// [`Oversize`] as soon as an event, complete or not, exceeds the limit.
    pub fn next_event(&mut self) -> Result<Option<Event>, Oversize> {
        if let Some(next) = self.buffer.get(self.scanned).filter(|_| self.after_cr) {
            if *next == b'\n' {
                self.scanned += 1;
                self.line = self.scanned;
            }
            self.after_cr = false;
        }
        while let Some(hit) = memchr::memchr2(b'\n', b'\r', &self.buffer[self.scanned..]) {
            let end = self.scanned + hit;
            let empty = end == self.line;
            let cr = self.buffer[end] == b'\r';
            let crlf = cr && self.buffer.get(end + 1) == Some(&b'\n');
            self.scanned = end + if crlf { 2 } else { 1 };
            self.line = self.scanned;
            self.after_cr = cr && !crlf && self.scanned == self.buffer.len();
            if empty {
                return self.take();
            }
        }
        self.scanned = self.buffer.len();
        if self.buffer.len() > self.max_event_bytes { Err(Oversize) } else { Ok(None) }
    }

    /// What has arrived since the last complete event.
    pub fn remainder(&self) -> &[u8] {
        &self.buffer
    }

    fn take(&mut self) -> Result<Option<Event>, Oversize> {
        if self.scanned > self.max_event_bytes {
            return Err(Oversize);
        }
        let raw = self.buffer.split_to(self.scanned);
        let text = if self.first && raw.starts_with(MARK) { MARK.len() } else { 0 };
        self.first = false;
        self.scanned = 0;
        self.line = 0;
        Ok(Some(Event { raw, text }))
    }
}

impl Event {
    /// The bytes as they came.
    pub fn raw(&self) -> &Bytes {
        &self.raw
    }

    /// The joined `data` lines; `None` if there is none (a comment, or only `id` and `retry`).
    pub fn data(&self) -> Option<Cow<'_, [u8]>> {
        let mut joined: Option<Cow<'_, [u8]>> = None;
        for line in lines(&self.raw[self.text..]) {
            let Some(value) = field(line, b"data") else { continue };
            joined = Some(match joined {
                None => Cow::Borrowed(value),
                Some(first) => {
                    let mut whole = first.into_owned();
                    whole.push(b'\n');
                    whole.extend_from_slice(value);
                    Cow::Owned(whole)
                }
            });
        }
        joined
    }

    /// What kind of event it is, where that is not `message`.
    pub fn name(&self) -> Option<&[u8]> {
        let names = lines(&self.raw[self.text..]).filter_map(|line| field(line, b"event"));
        names.last().filter(|name| !matches!(*name, b"" | b"message"))
    }

    /// Whether the event sets the client's last event id: it can resume from here.
    pub fn has_id(&self) -> bool {
        lines(&self.raw[self.text..]).any(|line| field(line, b"id").is_some())
    }

    /// The last event id that the event sets; one with a NUL is ignored, as the standard asks.
    pub fn id(&self) -> Option<&[u8]> {
        let ids = lines(&self.raw[self.text..]).filter_map(|line| field(line, b"id"));
        ids.filter(|id| !id.contains(&0)).last()
    }

    /// The reconnection time that the event sets, in milliseconds.
    pub fn retry_ms(&self) -> Option<u64> {
        let times = lines(&self.raw[self.text..]).filter_map(|line| field(line, b"retry"));
        times
            .filter(|time| !time.is_empty() && time.iter().all(u8::is_ascii_digit))
            .last()
            .and_then(|time| std::str::from_utf8(time).ok()?.parse().ok())
    }
}

/// The byte order mark, which is dropped at the start of a stream and nowhere else.
const MARK: &[u8] = b"\xef\xbb\xbf";

/// The lines of an event, without their ends.
fn lines(event: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(event);
    std::iter::from_fn(move || {
        let text = rest?;
        let Some(end) = memchr::memchr2(b'\n', b'\r', text) else {
            rest = None;
            return Some(text);
        };
        let ends_in_two = text[end..].starts_with(b"\r\n");
        rest = text.get(end + if ends_in_two { 2 } else { 1 }..);
        Some(&text[..end])
    })
}

/// The value of a field line, without the one space that may follow the colon.
fn field<'a>(line: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let rest = line.strip_prefix(name)?;
    match rest {
        [] => Some(rest),
        [b':', b' ', value @ ..] | [b':', value @ ..] => Some(value),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn split(chunks: &[&[u8]]) -> (Vec<String>, String) {
        let mut splitter = Splitter::new(1 << 20);
        let mut events = Vec::new();
        for chunk in chunks {
            splitter.push(chunk);
            while let Some(event) = splitter.next_event().unwrap() {
                events.push(String::from_utf8_lossy(event.raw()).into_owned());
            }
        }
        (events, String::from_utf8_lossy(splitter.remainder()).into_owned())
    }

    fn event(raw: &[u8]) -> Event {
        Event { raw: Bytes::copy_from_slice(raw), text: 0 }
    }

    #[test]
    fn only_events_that_are_no_messages_have_a_name() {
        let cases: [(&[u8], Option<&[u8]>); 5] = [
            (b"data: x\n\n", None),
            (b"event: message\ndata: x\n\n", None),
            (b"event:\ndata: x\n\n", None),
            (b"event: a\nevent:endpoint\r\ndata: x\n\n", Some(b"endpoint")),
            (b"events: a\ndata: event: b\n\n", None),
        ];
        for (raw, name) in cases {
            assert_eq!(event(raw).name(), name, "{}", String::from_utf8_lossy(raw));
        }
    }

    #[test]
    fn a_long_event_that_was_planned_is_not_moved() {
        let mut splitter = Splitter::new(1 << 21);
        splitter.push(b"data: ");
        splitter.plan(1 << 20);
        splitter.push(&[b'x'; 100_000]);
        let at = splitter.remainder().as_ptr();
        while splitter.remainder().len() + 16_002 <= 1 << 20 {
            splitter.push(&[b'x'; 16_000]);
            assert_eq!(splitter.next_event(), Ok(None));
        }
        splitter.push(b"\n\ndata: b\n");
        let event = splitter.next_event().unwrap().unwrap();
        assert_eq!(event.raw().as_ptr(), at);
        assert!(event.raw().len() > 1_000_000);
        splitter.push(b"\n");
        assert_eq!(splitter.next_event().unwrap().unwrap().raw(), &b"data: b\n\n"[..]);
    }

    #[test]
    fn ids_and_retry_times_are_those_set_last() {
        let said = event(b"id: 1\nid:2\nretry: 30\nretry: soon\ndata: x\n\n");
        assert_eq!((said.id(), said.retry_ms()), (Some(&b"2"[..]), Some(30)));
        let silent = event(b"id: a\0b\ndata: x\n\n");
        assert_eq!((silent.id(), silent.retry_ms()), (None, None));
        assert_eq!(event(b"id\n\n").id(), Some(&b""[..]));
    }

    #[test]
    fn events_end_at_empty_lines_of_any_kind() {
        let cases: &[(&str, &[u8], &[&str], &str)] = &[
            ("LF", b"data: a\n\ndata: b\n\n", &["data: a\n\n", "data: b\n\n"], ""),
            ("CRLF", b"data: a\r\n\r\ndata: b\r\n\r\n", &["data: a\r\n\r\n", "data: b\r\n\r\n"], ""),
            ("CR", b"data: a\r\rdata: b\r\r", &["data: a\r\r", "data: b\r\r"], ""),
            ("mixed", b"data: a\n\r\ndata: b\r\n\n", &["data: a\n\r\n", "data: b\r\n\n"], ""),
            ("comment with CRLF", b": ping\r\n\r\n", &[": ping\r\n\r\n"], ""),
            ("lone colon", b":\n\n", &[":\n\n"], ""),
            ("half an event", b"data: a\n\ndata: b\n", &["data: a\n\n"], "data: b\n"),
            ("empty lines between", b"\n\n\ndata: a\n\n", &["\n", "\n", "\n", "data: a\n\n"], ""),
        ];
        for (name, input, events, rest) in cases {
            let (got, remainder) = split(&[input]);
            assert_eq!(
                (got.as_slice(), remainder.as_str()),
                (events.iter().map(|e| (*e).to_owned()).collect::<Vec<_>>().as_slice(), *rest),
                "{name}"
            );
        }
    }

    #[test]
    fn an_event_is_out_before_the_line_feed_of_its_last_crlf_arrives() {
        let (events, _) = split(&[b"data: a\r\n\r"]);
        assert_eq!(events, ["data: a\r\n\r"]);
        let (events, _) = split(&[b"data: a\r\n\r", b"\ndata: b\n\n"]);
        assert_eq!(events, ["data: a\r\n\r", "\ndata: b\n\n"]);
    }

    #[test]
    fn data_lines_are_joined_and_other_fields_ignored() {
        let cases: &[(&str, &[u8], Option<&str>)] = &[
            ("one line", b"event: message\ndata: {}\n\n", Some("{}")),
            ("no space", b"data:{}\n\n", Some("{}")),
            ("two lines", b"data: a\ndata:  b\n\n", Some("a\n b")),
            ("empty data", b"data: \nid: 0\nretry: 3000\n\n", Some("")),
            ("bare field name", b"data\n\n", Some("")),
            ("comment", b": keepalive\n\n", None),
            ("another field", b"database: a\n\n", None),
            ("byte order mark within the stream", b"\xef\xbb\xbfdata: a\n\n", None),
            ("CR lines", b"id: 1\rdata: a\r\r", Some("a")),
            ("left-over line feed", b"\ndata: a\n\n", Some("a")),
        ];
        for (name, raw, expected) in cases {
            let data = event(raw).data().map(|data| String::from_utf8_lossy(&data).into_owned());
            assert_eq!(data.as_deref(), *expected, "{name}");
        }
        assert!(event(b"id: 7\ndata: a\n\n").has_id());
        assert!(!event(b"data: id: 7\n\n").has_id());
    }

    #[test]
    fn a_line_feed_belongs_to_one_carriage_return_only() {
        let (events, rest) = split(&[b"data: a\r", b"\n", b"\n", b"data: b\n\n"]);
        assert_eq!(
            (events.as_slice(), rest.as_str()),
            (&["data: a\r\n\n".to_owned(), "data: b\n\n".to_owned()][..], "")
        );
    }

    #[test]
    fn a_byte_order_mark_counts_at_the_start_of_the_stream_only() {
        let mut splitter = Splitter::new(1 << 20);
        splitter.push(b"\xef\xbb\xbfdata: a\n\n\xef\xbb\xbfdata: b\n\n");
        assert_eq!(splitter.next_event().unwrap().unwrap().data().as_deref(), Some(&b"a"[..]));
        assert_eq!(splitter.next_event().unwrap().unwrap().data(), None);
    }

    #[test]
    fn an_event_over_the_limit_is_refused_complete_or_not() {
        for input in [&b"data: 0123456789"[..], b"data: 0123456789\n\n"] {
            let mut splitter = Splitter::new(10);
            splitter.push(input);
            assert_eq!(splitter.next_event(), Err(Oversize));
        }
    }

    proptest! {
        #[test]
        fn splitting_keeps_every_byte_and_does_not_depend_on_chunks(
            input in proptest::collection::vec(prop_oneof![Just(b'\n'), Just(b'\r'), Just(b'a'), Just(b':')], 0..64),
            cuts in proptest::collection::vec(0usize..64, 0..8),
        ) {
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(input.len())).collect();
            cuts.extend([0, input.len()]);
            cuts.sort_unstable();
            let chunks: Vec<&[u8]> = cuts.windows(2).map(|pair| &input[pair[0]..pair[1]]).collect();
            let (events, rest) = split(&chunks);
            prop_assert_eq!(events.concat() + &rest, String::from_utf8_lossy(&input).into_owned());
            let data = |events: &[String]| -> Vec<Vec<u8>> {
                events.iter().filter_map(|e| Some(event(e.as_bytes()).data()?.into_owned())).collect()
            };
            let (whole, _) = split(&[&input]);
            prop_assert_eq!(data(&events), data(&whole));
        }
    }
}
