use super::*;
use crate::identity::Identity;
use crate::mcp::headers::Mirror;
use crate::mcp::{Bounds, Revision, Span};
use crate::message::Kind;
use crate::message::read;
use portunus_base::Moment;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

struct Refuses(Kind);

impl Filter for Refuses {
    fn name(&self) -> &'static str {
        "refuses"
    }
    fn applies(&self, kind: Kind) -> bool {
        kind == self.0
    }
    fn judge(&self, _: &Call<'_>, _: &mut Verdict) -> Result<(), Denial> {
        Err(Denial::new(Reason::Forbidden, "no"))
    }
}

/// Replaces each occurrence of a text in a message, or in another text of a client.
struct Replaces(&'static str, &'static str);

impl Filter for Replaces {
    fn name(&self) -> &'static str {
        "replaces"
    }
    fn applies(&self, _: Kind) -> bool {
        true
    }
    fn judge(&self, call: &Call<'_>, verdict: &mut Verdict) -> Result<(), Denial> {
        let body = &call.message.body;
        let params = call.message.params.map(|span| span.of(body)).unwrap_or_default();
        for at in memchr::memmem::find_iter(params, self.0) {
            let span = Span::locate(body, &params[at..at + self.0.len()]).unwrap();
            verdict.edits.push(Edit { owner: self.name(), span, with: self.1.into() });
        }
        Ok(())
    }
    fn reads_client_texts(&self) -> bool {
        true
    }
    fn client_text<'t>(&self, _: ClientPlace<'_>, text: &'t str) -> Result<Cow<'t, str>, Denial> {
        Ok(if text.contains(self.0) { Cow::Owned(text.replace(self.0, self.1)) } else { Cow::Borrowed(text) })
    }
}

const CALL: &str =
    r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo","arguments":{"a":"one"}}}"#;

fn judge(filters: Vec<Box<dyn Filter>>, body: &str) -> (Result<Cleared, Denial>, Vec<&'static str>) {
    let source = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let arrival = Arrival {
        listener: "test".into(),
        source,
        identity: Identity::Anonymous { source },
        request_id: "r".into(),
        at: Moment { monotonic: Duration::ZERO, wall: Duration::ZERO },
    };
    let target = Target::new(&"s".into(), &"u".into());
    let body = Bytes::copy_from_slice(body.as_bytes());
    let reading = read(&body, &Bounds::default(), &Mirror::default(), &Revision::ALL).unwrap();
    let mut ran = Vec::new();
    let result = Pipeline::new(filters).judge(&arrival, reading.messages(), &target, |name| ran.push(name));
    (result, ran)
}

fn left(filters: Vec<Box<dyn Filter>>, body: &str) -> Result<String, Reason> {
    let cleared = judge(filters, body).0.map_err(|denial| denial.reason)?;
    if let Some(changed) = cleared.changed() {
        let params = changed.params.unwrap().of(&changed.body);
        assert!(params.starts_with(b"{") && changed.message_index.is_some() && changed.body == cleared.body);
    }
    Ok(String::from_utf8(cleared.into_body().to_vec()).unwrap())
}

#[test]
fn message_leaves_as_it_came_where_no_filter_changes_it() {
    assert_eq!(left(vec![], CALL), Ok(CALL.to_owned()));
    let unmatched = judge(vec![Box::new(Replaces("two", "three"))], CALL).0.unwrap();
    assert!(unmatched.changed().is_none());
}

#[test]
fn refusal_ends_the_message_before_later_filters() {
    let changes = || Box::new(Replaces("one", "two"));
    let (result, ran) = judge(vec![changes(), Box::new(Refuses(Kind::Request)), changes()], CALL);
    assert_eq!((result.unwrap_err().reason, ran), (Reason::Forbidden, vec!["replaces", "refuses"]));
}

#[test]
fn filters_run_in_the_order_of_the_list_whatever_order_they_are_given_in() {
    struct Named(&'static str);
    impl Filter for Named {
        fn name(&self) -> &'static str {
            self.0
        }
        fn applies(&self, _: Kind) -> bool {
            true
        }
        fn judge(&self, _: &Call<'_>, _: &mut Verdict) -> Result<(), Denial> {
            Ok(())
        }
    }
    let given = ["unlisted"].into_iter().chain(crate::FILTERS.iter().rev().copied());
    let filters = given.map(|name| Box::new(Named(name)) as Box<dyn Filter>).collect();
    let expected: Vec<&str> = crate::FILTERS.iter().copied().chain(["unlisted"]).collect();
    assert_eq!(judge(filters, CALL).1, expected);
}

#[test]
fn filter_sees_only_the_kinds_it_asked_for() {
    assert!(judge(vec![Box::new(Refuses(Kind::End))], CALL).0.is_ok());
}

#[test]
fn each_filter_changes_what_those_before_it_left() {
    let filters: [fn() -> Box<dyn Filter>; 2] =
        [|| Box::new(Replaces("one", "two and one")), || Box::new(Replaces("two", "three"))];
    let both = CALL.replace("one", "three and one");
    assert_eq!(left(vec![filters[0](), filters[1]()], CALL), Ok(both));
    let first_alone = CALL.replace("one", "two and one");
    assert_eq!(left(vec![filters[1](), filters[0]()], CALL), Ok(first_alone));
    let batch = format!("[{CALL},{}]", CALL.replace("\"id\":1", "\"id\":2"));
    assert_eq!(left(vec![filters[0](), filters[1]()], &batch), Ok(batch.replace("one", "three and one")));
}

#[test]
fn edit_that_breaks_a_message_or_its_aim_refuses_it() {
    let complete = r#"{"jsonrpc":"2.0","id":1,"method":"completion/complete","params":{"ref":{"type":"ref/prompt","name":"echo"},"argument":{"name":"a","value":"one"}}}"#;
    let subscribe = r#"{"jsonrpc":"2.0","id":1,"method":"resources/subscribe","params":{"uri":"echo:1"}}"#;
    for (body, what, with) in [
        (CALL, "\"one\"", "\"one"),
        (CALL, "echo", "other"),
        (CALL, "{\"name\"", "[\"name\""),
        (CALL, "{\"a\":\"one\"}}", "{}},\"id\":2"),
        (complete, "echo", "other"),
        (complete, "ref/prompt\",\"name", "ref/resource\",\"uri"),
        (subscribe, "echo", "other"),
    ] {
        let refused = left(vec![Box::new(Replaces(what, with))], body);
        assert_eq!(refused, Err(Reason::InvalidRequest), "{body} {what}");
    }
    assert!(left(vec![Box::new(Replaces("one", "two"))], complete).is_ok(), "positive control");
    struct Twice;
    impl Filter for Twice {
        fn name(&self) -> &'static str {
            "twice"
        }
        fn applies(&self, _: Kind) -> bool {
            true
        }
        fn judge(&self, call: &Call<'_>, verdict: &mut Verdict) -> Result<(), Denial> {
            Replaces("one", "two").judge(call, verdict)?;
            Replaces("one", "three").judge(call, verdict)
        }
    }
    assert_eq!(left(vec![Box::new(Twice)], CALL), Err(Reason::InvalidRequest));
}

#[test]
fn other_texts_of_clients_are_read_by_each_filter_in_turn() {
    let pipeline = Pipeline::new(vec![
        Box::new(Replaces("one", "two")),
        Box::new(Refuses(Kind::End)),
        Box::new(Replaces("two", "three")),
    ]);
    assert!(pipeline.reads_client_texts());
    let place = ClientPlace::Header("x-note");
    assert_eq!(pipeline.client_text(place, "one").unwrap(), "three");
    assert!(matches!(pipeline.client_text(place, "four").unwrap(), Cow::Borrowed("four")));
}
