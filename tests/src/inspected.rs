//! Rules of a policy for answers hold for everything that a server says to a call: results, errors, notifications and
//! questions.

use crate::harness::mcp::{Call, text, tool};
use crate::harness::{Caller, Era, Gateway, Mcp, Nature, Said, within};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::timeout;

const ERAS: [Era; 2] = [Era::Legacy, Era::Modern];

/// Told on every way.
const SECRET: &str = "the salary is 7";

/// Texts that had to be read and were too long for it.
const COUNTER: &str = "portunus_long_texts_total";

/// More than the bound of these tests.
const LONG: usize = 4000;

/// The secret in a text of this length.
fn padding(length: usize) -> String {
    format!("{SECRET} {}", "x".repeat(length))
}

/// A server of which each tool tells the secret, before its answer too: in few words, or in many; one asks.
async fn padded(era: Era) -> Mcp {
    let tools = ["short", "long", "ask"].map(tool).to_vec();
    Mcp::start(Nature::of(era), tools, |call: Call| async move {
        if call.tool() == "ask" {
            return Ok(text(call.elicit(&padding(LONG)).await.to_string()));
        }
        let said = padding(if call.tool() == "long" { LONG } else { 1 });
        call.progress_saying(json!({"progress": 1, "message": said})).await;
        Ok(text(said))
    })
    .await
}

/// A server of which one tool fails after a notification, and the other asks.
async fn server(era: Era) -> Mcp {
    Mcp::start(Nature::of(era), vec![tool("fail"), tool("ask")], |call: Call| async move {
        call.progress_saying(json!({"progress": 1, "message": SECRET})).await;
        match call.tool() {
            "ask" if call.session.is_some() => Ok(text(call.elicit(SECRET).await.to_string())),
            "ask" => Ok(text(SECRET)),
            _ => Err((-32_000, SECRET).into()),
        }
    })
    .await
}

async fn gateway(server: &Mcp, obligations: Value) -> Gateway {
    obliging(server, "input.mcp.kind == \"tool\"", obligations).await
}

/// A gateway with these obligations for messages that meet a condition.
async fn obliging(server: &Mcp, condition: &str, obligations: Value) -> Gateway {
    bounded(server, "", condition, obligations).await
}

/// The same with further settings of its endpoint.
async fn bounded(server: &Mcp, settings: &str, condition: &str, obligations: Value) -> Gateway {
    let policy = format!(
        "package mcp.authz\nimport rego.v1\ndefault decision := {{\"allow\": true}}\nvisible := true\n\
         decision := {{\"allow\": true, \"obligations\": {obligations}}} if {condition}\n"
    );
    let document = format!(
        "upstreams:\n  up: {}\nservers:\n  /mcp: {{upstreams: up{settings}}}\n  /merged: {{upstreams: [up], names: prefix}}\npolicy: policy.rego\n",
        server.url()
    );
    Gateway::start_beside(&[("policy.rego", &policy)], &document).await
}

/// A call that wants to hear of its progress.
async fn call(client: &mut Caller, tool: &str) -> Said {
    let params = json!({"name": tool, "arguments": {}, "_meta": {"progressToken": "p"}});
    client.request("tools/call", params).await.unwrap()
}

fn progress(said: &Said) -> Vec<&Value> {
    let progress = said.before.iter().filter(|message| message["method"] == "notifications/progress");
    progress.map(|message| &message["params"]["message"]).collect()
}

/// The message that its user is asked by, in a request or in a result.
fn question(said: &Said) -> Option<&Value> {
    let asked = said.before.iter().find(|message| message["method"] == "elicitation/create");
    let required =
        said.message["result"]["inputRequests"].as_object().and_then(|asked| asked.values().next());
    asked.or(required).map(|question| &question["params"]["message"])
}

#[tokio::test]
async fn errors_notifications_and_questions_are_blanked_as_results_are() {
    for (client, era) in ERAS.into_iter().flat_map(|client| ERAS.map(|server| (client, server))) {
        for (obligations, told) in [(json!({}), SECRET), (json!({"redact": ["salary"]}), "[redacted]")] {
            let server = server(era).await;
            let gateway = gateway(&server, obligations).await;
            let mut client = Caller::new(client, gateway.address).ready().await;
            let said = call(&mut client, "fail").await;
            assert_eq!(said.message["error"]["message"], told, "{era:?} {}", said.all());
            assert_eq!(said.code(), Some(-32_000), "{era:?} {}", said.all());
            assert_eq!(progress(&said), [told], "{era:?} {:?}", said.before);
            let said = call(&mut client, "ask").await;
            assert_eq!(progress(&said), [told], "{era:?} {:?}", said.before);
            match era {
                Era::Legacy => {
                    assert_eq!(question(&said), Some(&json!(told)), "{:?} {}", said.before, said.all())
                }
                Era::Modern => assert_eq!(said.text(), told, "{}", said.all()),
            }
        }
    }
}

#[tokio::test]
async fn errors_notifications_and_questions_are_bounded_as_results_are() {
    for (client, era) in ERAS.into_iter().flat_map(|client| ERAS.map(|server| (client, server))) {
        let server = server(era).await;
        let gateway = gateway(&server, json!({"max_result_bytes": 20})).await;
        let mut client = Caller::new(client, gateway.address).ready().await;
        let said = call(&mut client, "fail").await;
        let reason = &said.message["error"]["data"]["reason"];
        assert_eq!((reason, progress(&said)), (&json!("result_too_large"), vec![]), "{era:?} {}", said.all());
        if era == Era::Legacy {
            let said = call(&mut client, "ask").await;
            assert_eq!((question(&said), progress(&said)), (None, vec![]), "{}", said.all());
        }
    }
}

#[tokio::test]
async fn what_a_server_says_on_a_stream_is_held_to_the_decision_on_it() {
    let bounded = (json!({"max_result_bytes": 100}), None);
    for (obligations, told) in
        [(json!({}), Some(SECRET)), (json!({"redact": ["salary"]}), Some("[redacted]")), bounded]
    {
        let server = server(Era::Legacy).await;
        let gateway = obliging(&server, "input.mcp.kind == \"stream\"", obligations).await;
        let client = Caller::new(Era::Legacy, gateway.address).at("/merged").ready().await;
        let (mut stream, _) = client.stream(None).await.unwrap();
        let mut heard = String::new();
        let last = async {
            while !heard.contains("notifications/x") {
                // Again, since the server may not be listened to yet.
                server.note(
                    "notifications/message",
                    json!({"level": "info", "data": SECRET, "logger": "a log"}),
                );
                server.note("notifications/x", json!({}));
                if let Ok(chunk) = timeout(Duration::from_millis(100), stream.chunk()).await {
                    heard.push_str(&chunk.expect("the stream goes on"));
                }
            }
        };
        within(20, "what the server says", last).await;
        assert_eq!(heard.contains("notifications/message"), told.is_some(), "{heard}");
        assert!(told.is_none_or(|told| heard.contains(told)), "{heard}");
        assert_eq!(heard.contains(SECRET), told == Some(SECRET), "{heard}");
    }
}

#[tokio::test]
async fn a_question_is_held_to_the_decision_on_itself_too() {
    for era in ERAS {
        for (obligations, told) in [(json!({}), SECRET), (json!({"redact": ["salary"]}), "[redacted]")] {
            let server = server(Era::Legacy).await;
            let gateway = obliging(&server, "input.mcp.direction == \"to_client\"", obligations).await;
            let mut client = Caller::new(era, gateway.address).ready().await;
            let said = call(&mut client, "ask").await;
            assert_eq!(progress(&said), [SECRET], "{era:?} {:?}", said.before);
            assert_eq!(question(&said), Some(&json!(told)), "{era:?} {:?} {}", said.before, said.all());
        }
    }
}

/// A question waits for its answer in the next call of a modern client: what its server says meanwhile is told in the
/// answer to that one.
#[tokio::test]
async fn what_is_said_while_a_call_is_parked_is_held_to_the_rules_of_the_retry() {
    let blanked = (json!({"redact": ["salary"]}), "[redacted]", "[redacted]");
    for (obligations, told, answer) in [(json!({}), SECRET, "done"), blanked] {
        let (parked, kept) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let signals = (Arc::clone(&parked), Arc::clone(&kept));
        let server = Mcp::start(Nature::of(Era::Legacy), vec![tool("ask")], move |call: Call| {
            let (parked, kept) = signals.clone();
            async move {
                let meanwhile = async {
                    parked.notified().await;
                    call.progress_saying(json!({"progress": 1, "message": SECRET})).await;
                    // Answered once what came before is kept.
                    call.ask("ping", json!({})).await;
                    kept.notify_one();
                };
                tokio::join!(call.elicit("Your name?"), meanwhile);
                Ok(text("done"))
            }
        })
        .await;
        let gateway = obliging(&server, "input.mcp.responses", obligations).await;
        let mut client = Caller::new(Era::Modern, gateway.address);
        let asked = call(&mut client, "ask").await;
        assert!(progress(&asked).is_empty(), "{:?}", asked.before);
        parked.notify_one();
        within(20, "what the server says is kept", kept.notified()).await;
        let mut retry = json!({"name": "ask", "arguments": {}, "_meta": {"progressToken": "p"}});
        let result = &asked.message["result"];
        let key = result["inputRequests"].as_object().unwrap().keys().next().unwrap();
        retry["requestState"] = result["requestState"].clone();
        retry["inputResponses"] = json!({key: {"action": "accept", "content": {"name": "Ada"}}});
        let done = client.request("tools/call", retry).await.unwrap();
        assert_eq!((done.text(), progress(&done)), (answer, vec![&json!(told)]), "{}", done.all());
    }
}

/// A text that has to be read, and is longer than `answers.hold`.
#[tokio::test]
async fn text_beyond_the_bound_is_blocked_or_passed_unread_and_a_shorter_one_is_read() {
    for (client, era) in ERAS.into_iter().flat_map(|client| ERAS.map(|server| (client, server))) {
        for (beyond, texts) in [("block", "texts_blocked"), ("pass", "texts_unread")] {
            let case = format!("{client:?} {era:?} {beyond}");
            let (server, long) = (padded(era).await, padding(LONG));
            let answers = format!(", answers: {{hold: 2KiB, beyond: {beyond}}}");
            let obligations = json!({"redact": ["salary"]});
            let gateway = bounded(&server, &answers, "input.mcp.kind == \"tool\"", obligations).await;
            let mut client = Caller::new(client, gateway.address).ready().await;
            let said = call(&mut client, "short").await;
            assert_eq!((said.text(), progress(&said)), ("[redacted]", vec![&json!("[redacted]")]), "{case}");
            let said = call(&mut client, "long").await;
            match beyond {
                "block" => {
                    let data = &said.message["error"]["data"];
                    assert_eq!((said.code(), &data["reason"]), (Some(-31_413), &json!("result_too_large")));
                    assert_eq!((&data["maxResultBytes"], progress(&said)), (&json!(2048), vec![]), "{case}");
                }
                _ => assert_eq!((said.text(), progress(&said)), (&*long, vec![&json!(long)]), "{case}"),
            }
            gateway.counts(COUNTER, &format!("{{outcome=\"{beyond}\",server_name=\"mcp\"}}"), 2.0).await;
            let record = gateway.recorded(&case, |record| record["tool_name"] == "long").await;
            assert_eq!(record[texts], 2, "{case} {record}");
            let record = gateway.recorded(&case, |record| record["tool_name"] == "short").await;
            assert_eq!(
                (&record["texts_blocked"], &record["texts_unread"]),
                (&Value::Null, &Value::Null),
                "{case}"
            );
        }
    }
}

#[tokio::test]
async fn long_question_is_refused_to_its_server_or_asked_unread() {
    for (beyond, asked) in [("block", None), ("pass", Some(json!(padding(LONG))))] {
        let server = padded(Era::Legacy).await;
        let answers = format!(", answers: {{hold: 2KiB, beyond: {beyond}}}");
        let obligations = json!({"redact": ["salary"]});
        let gateway = bounded(&server, &answers, "input.mcp.kind == \"tool\"", obligations).await;
        let mut client = Caller::new(Era::Modern, gateway.address).ready().await;
        let said = call(&mut client, "ask").await;
        assert_eq!(question(&said), asked.as_ref(), "{beyond} {}", said.all());
        gateway.counts(COUNTER, &format!("outcome=\"{beyond}\""), 1.0).await;
    }
}

#[tokio::test]
async fn length_that_policy_allows_holds_for_text_that_passes_unread() {
    let server = padded(Era::Modern).await;
    let answers = ", answers: {hold: 2KiB, beyond: pass}";
    for (most, reason) in [(LONG, json!("result_too_large")), (2 * LONG, Value::Null)] {
        let obligations = json!({"redact": ["salary"], "max_result_bytes": most});
        let gateway = bounded(&server, answers, "input.mcp.kind == \"tool\"", obligations).await;
        let mut client = Caller::new(Era::Modern, gateway.address).ready().await;
        let said = call(&mut client, "long").await;
        assert_eq!(said.message["error"]["data"]["reason"], reason, "{most} {}", said.all());
    }
}

/// A message is decided on once, whether or not something of it or of its answer is changed.
#[tokio::test]
async fn each_message_and_each_question_is_decided_on_once() {
    for (client, era) in ERAS.into_iter().flat_map(|client| ERAS.map(|server| (client, server))) {
        let server = server(era).await;
        let gateway = obliging(&server, "true", json!({"alert": true, "redact": ["salary"]})).await;
        for path in ["/mcp", "/merged"] {
            let mut caller = Caller::new(client, gateway.address).at(path).ready().await;
            let tool = |name: &str| if path == "/mcp" { name.to_owned() } else { format!("up_{name}") };
            // What the call, the question and its answer count for.
            for (name, decisions) in [("fail", 1.0), ("ask", if era == Era::Legacy { 3.0 } else { 1.0 })] {
                let alerts = gateway.counted("portunus_policy_alerts_total", "").await;
                let decided = gateway.counted("portunus_policy_decisions_total", "entry=\"decision\"").await;
                for _ in 0..6 {
                    caller.call(&tool(name), json!({})).await.unwrap();
                }
                let alerts = gateway.counted("portunus_policy_alerts_total", "").await - alerts;
                let decided =
                    gateway.counted("portunus_policy_decisions_total", "entry=\"decision\"").await - decided;
                let expected = 6.0 * decisions;
                assert_eq!((alerts, decided), (expected, expected), "{client:?} {era:?} {path} {name}");
            }
        }
    }
}
