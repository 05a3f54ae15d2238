//! Clients and servers of both eras: first that those of the harness understand each other.

use crate::harness::mcp::{Call, question, text, tool};
use crate::harness::{Balancer, Caller, Era, Mcp, Nature, free_address};
use serde_json::json;

/// A server whose `ask` wants the name of the user, and says hello to it.
async fn asking(era: Era) -> Mcp {
    let tools = vec![tool("ask"), tool("other"), tool("third")];
    let nature = Nature { page: 2, ..Nature::of(era) };
    Mcp::start(nature, tools, |call: Call| async move {
        if call.tool() != "ask" {
            return Err((-32602, "Unknown tool").into());
        }
        let name = match &call.session {
            Some(_) => call.elicit("Your name?").await["result"]["content"]["name"].clone(),
            None => call.params["inputResponses"]["who"]["content"]["name"].clone(),
        };
        match name.as_str() {
            Some(name) => Ok(text(format!("hello {name}"))),
            None => Ok(json!({
                "resultType": "input_required",
                "inputRequests": {"who": {"method": "elicitation/create", "params": question("Your name?")}},
                "requestState": "asked",
            })),
        }
    })
    .await
}

#[tokio::test]
async fn the_scripted_client_and_server_of_an_era_understand_each_other() {
    for era in [Era::Legacy, Era::Modern] {
        let server = asking(era).await;
        let mut caller = Caller::new(era, server.address()).presenting("Bo").ready().await;
        assert_eq!(caller.call("ask", json!({})).await.unwrap().text(), "hello Bo", "{era:?}");
        assert_eq!(caller.call("other", json!({})).await.unwrap().code(), Some(-32602), "{era:?}");
        let first = caller.request("tools/list", json!({})).await.unwrap().message["result"].clone();
        let rest = caller.request("tools/list", json!({"cursor": first["nextCursor"]})).await.unwrap();
        let names = [&first["tools"][0], &first["tools"][1], &rest.message["result"]["tools"][0]];
        assert_eq!(names.map(|tool| tool["name"].as_str().unwrap()), ["ask", "other", "third"], "{era:?}");
        assert_eq!(server.counted("tools/list"), 2, "{era:?}");
    }
}

#[tokio::test]
async fn the_scripted_server_of_one_era_refuses_the_other() {
    let (legacy, modern) = (asking(Era::Legacy).await, asking(Era::Modern).await);
    let said = Caller::new(Era::Legacy, modern.address()).open().await.unwrap();
    assert_eq!((said.head.status, said.code()), (400, Some(-32022)));
    let said = Caller::new(Era::Modern, legacy.address()).call("ask", json!({})).await.unwrap();
    assert_eq!(said.head.status, 400);
    let mut caller = Caller::new(Era::Legacy, legacy.address()).ready().await;
    legacy.forget();
    assert_eq!(caller.call("ask", json!({})).await.unwrap().head.status, 404);
}

#[tokio::test]
async fn the_balancer_takes_its_backends_in_turn_and_passes_over_a_dead_one() {
    let naming = async |name: &str| Mcp::naming(Nature::of(Era::Modern), &[name.to_owned()]).await;
    let (first, second, third) = (naming("a").await, naming("b").await, free_address());
    let balancer = Balancer::before(vec![first.address(), second.address(), third]).await;
    let mut caller = Caller::new(Era::Modern, balancer.address).fresh();
    let mut seen = Vec::new();
    for _ in 0..6 {
        let said = caller.request("tools/list", json!({})).await.unwrap();
        seen.push(said.message["result"]["tools"][0]["name"].as_str().unwrap().to_owned());
    }
    assert_eq!(seen, ["a", "b", "a", "a", "b", "a"]);
}
