use super::*;
use crate::frontend::bridge::served_call::params;
use portunus_filters::mcp::headers::Mirror;
use portunus_filters::mcp::{Bounds, Revision};
use portunus_filters::message::{Reading, read};

fn batch(text: &str) -> Vec<Message> {
    let mirror = Mirror { version: Some("2025-03-26"), method: None, name: None };
    let body = Bytes::copy_from_slice(text.as_bytes());
    match read(&body, &Bounds::default(), &mirror, &Revision::ALL).unwrap() {
        Reading::Batch(messages) => messages,
        Reading::One(_) => panic!("no batch"),
    }
}

#[test]
fn every_element_has_its_own_body_and_parameters() {
    let texts = [
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name" : "a"}}"#,
        r#"{"jsonrpc":"2.0","method":"notifications/progress","params":{"progress":1.50}}"#,
        r#"{"jsonrpc":"2.0","id":"2","method":"ping"}"#,
    ];
    let split = split(&batch(&format!(" [ {} ]", texts.join(" ,\n")))).unwrap();
    let bodies: Vec<&[u8]> = split.iter().map(|message| &*message.body).collect();
    assert_eq!(bodies, texts.map(str::as_bytes));
    assert_eq!(params(&split[0]).unwrap().text("name").as_deref(), Some("a"));
    assert_eq!(params(&split[1]).unwrap().get("progress"), Some("1.50"));
    assert!(split[2].params.is_none());
}

#[test]
fn a_batch_is_bounded() {
    let note = r#"{"jsonrpc":"2.0","method":"notifications/x"}"#;
    let of = |elements: usize| split(&batch(&format!("[{}]", vec![note; elements].join(","))));
    assert_eq!(of(MAX_BATCH).unwrap().len(), MAX_BATCH);
}
