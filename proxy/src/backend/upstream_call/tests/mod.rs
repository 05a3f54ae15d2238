//! Talks with servers that do what a script says.

mod http_sse;
mod legacy;
mod modern;
mod relayed;

use super::{Outcome, Talk, Turn};
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

async fn turn(talk: &mut Talk) -> Turn {
    within("the next turn", talk.next()).await
}

async fn questions(talk: &mut Talk) -> Vec<ReleasedQuestion> {
    match turn(talk).await {
        Turn::Ask(questions) => questions,
        other => panic!("no question: {other:?}"),
    }
}

async fn note(talk: &mut Talk) -> serde_json::Value {
    match turn(talk).await {
        Turn::Note(note) => serde_json::from_str(note.text()).unwrap(),
        other => panic!("no notification: {other:?}"),
    }
}

async fn result(talk: &mut Talk) -> serde_json::Value {
    match turn(talk).await {
        Turn::Done(answer) => match answer.outcome {
            Outcome::Result(result) => serde_json::from_str(result.text()).unwrap(),
            Outcome::Error { error, .. } => panic!("an error: {error:?}"),
        },
        other => panic!("no answer: {other:?}"),
    }
}

async fn failure(talk: &mut Talk) -> crate::backend::forward::Failure {
    match turn(talk).await {
        Turn::Failed(failure) => failure,
        other => panic!("no failure: {other:?}"),
    }
}
