//! Talks with servers that do what a script says.

mod http_sse;
mod legacy;
mod modern;
mod relayed;

use super::{CallEvent, Outcome, UpstreamCall};
use crate::testing::within;
use portunus_filters::ReleasedQuestion;

const NOBODY: &str = "{}";
const PERSON: &str = r#"{"elicitation":{}}"#;

fn call(more: &str) -> String {
    format!(
        r#"{{"jsonrpc":"2.0","id":"c","method":"tools/call","params":{{"name":"echo","arguments":{{"n":1.50}}{more}}}}}"#
    )
}

fn modern_call(more: &str) -> String {
    call(&format!(
        r#","_meta":{{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{{}}}}{more}"#
    ))
}

async fn turn(opened: &mut UpstreamCall) -> CallEvent {
    within("the next turn", opened.next()).await
}

async fn questions(opened: &mut UpstreamCall) -> Vec<ReleasedQuestion> {
    match turn(opened).await {
        CallEvent::Ask(questions) => questions,
        other => panic!("no question: {other:?}"),
    }
}

async fn note(opened: &mut UpstreamCall) -> serde_json::Value {
    match turn(opened).await {
        CallEvent::Note(note) => serde_json::from_str(note.text()).unwrap(),
        other => panic!("no notification: {other:?}"),
    }
}

async fn result(opened: &mut UpstreamCall) -> serde_json::Value {
    match turn(opened).await {
        CallEvent::Done(answer) => match answer.outcome {
            Outcome::Result(result) => serde_json::from_str(result.text()).unwrap(),
            Outcome::Error { error, .. } => panic!("an error: {error:?}"),
        },
        other => panic!("no answer: {other:?}"),
    }
}

async fn failure(opened: &mut UpstreamCall) -> crate::backend::forward::Failure {
    match turn(opened).await {
        CallEvent::Failed(failure) => failure,
        other => panic!("no failure: {other:?}"),
    }
}
