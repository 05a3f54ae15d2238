//! A hidden name and an absent one cause the same work, and operators are told of the hidden one alone.

use super::*;

const RULES: &str = "package mcp.authz\nimport rego.v1\ndefault decision := false\n\
    decision if input.mcp.kind in {\"server\", \"stream\"}\n\
    decision if {\n\tinput.mcp.name\n\tnot contains(input.mcp.name, \"hidden\")\n}\n\
    decision if {\n\tinput.mcp.uri\n\tnot contains(input.mcp.uri, \"hidden\")\n}\n";

const LISTS: &str = r#"{"resultType":"complete","tools":[{"name":"hidden","inputSchema":{"type":"object"}}],"prompts":[{"name":"hidden"}],"resources":[{"name":"hidden","uri":"doc://hidden"}],"resourceTemplates":[],"supportedVersions":["2026-07-28"],"capabilities":{"tools":{},"prompts":{},"resources":{},"completions":{}},"ttlMs":60000,"cacheScope":"private"}"#;

/// A method, its parameters, and the member by which a header names the target.
type Named = (&'static str, Value, Option<&'static str>);

/// Ways to name a thing. A server gets URIs of its schemes even if no list has them, so absent ones have another.
fn requests(name: &str) -> [Named; 5] {
    let completion = |reference: Value| json!({"ref": reference, "argument": {"name": "id", "value": ""}});
    let uri = match name {
        "hidden" => "doc://hidden".to_owned(),
        name => format!("none://{name}"),
    };
    [
        ("tools/call", json!({"name": name, "arguments": {}}), Some("name")),
        ("prompts/get", json!({"name": name}), Some("name")),
        ("resources/read", json!({"uri": uri}), Some("uri")),
        ("resources/read", json!({"uri": format!("{uri}/1")}), Some("uri")),
        ("completion/complete", completion(json!({"type": "ref/prompt", "name": name})), None),
    ]
}

impl Stand {
    /// Sends a request that is refused. Gives the decisions that policy made for it, and the record of the refusal.
    async fn refused(&self, (method, params, member): &Named) -> (usize, Value) {
        let gateway = &self.bed.gateway;
        let decisions = || gateway.active().policy_runtime.filter.rules().unwrap().decisions.len();
        let (refusals, before) = (gateway.recorder.refusals.len(), decisions());
        let mut fields = format!("MCP-Protocol-Version: 2026-07-28\r\nMcp-Method: {method}\r\n");
        if let Some(member) = member {
            fields += &format!("Mcp-Name: {}\r\n", params[member].as_str().unwrap());
        }
        let mut all = envelope();
        all.as_object_mut().unwrap().extend(params.as_object().unwrap().clone());
        let (_, said) = self.ask("ada", &fields, &request(method, all)).await;
        assert!(said["error"]["code"].is_number(), "{method}: {said}");
        let recorded = async {
            while gateway.recorder.refusals.len() == refusals {
                tokio::task::yield_now().await;
            }
        };
        within("the record", recorded).await;
        let mut newest: Value = serde_json::from_str(&gateway.recorder.refusals.render(1, None)).unwrap();
        (decisions() - before, newest[0].take())
    }
}

#[tokio::test]
async fn absent_name_causes_as_many_decisions_as_hidden_one_and_is_not_recorded_as_hidden() {
    for number in 0..5 {
        let server = Server::start(|asked, mut wire| async move {
            wire.result(&asked, LISTS).await;
            Some(wire)
        });
        let server = server.await;
        let bed = Bed::under(RULES, server.address, ", era: modern");
        let stand = Stand::of(server, Arc::new(Semaphore::new(0)), bed);
        // Questions about the server as a whole are decided before.
        stand.refused(&requests("neither")[number]).await;
        let (for_hidden, hidden) = stand.refused(&requests("hidden")[number]).await;
        let (for_absent, absent) = stand.refused(&requests("absent")[number]).await;
        let what = format!("{:?}: {hidden} {absent}", requests("absent")[number]);
        assert!(for_hidden > 0, "{what}");
        assert_eq!(for_hidden, for_absent, "{what}");
        assert_eq!((&hidden["rule"], &absent["rule"]), (&json!("decision"), &Value::Null), "{what}");
        assert_eq!(hidden["reason"], absent["reason"], "{what}");
    }
}
