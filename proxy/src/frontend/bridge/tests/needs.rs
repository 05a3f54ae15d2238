//! Lists are fetched for filters that need them, and for no others.

use super::*;
use crate::frontend::context::TEST_FILTERS;
use portunus_filters::call::Subject;
use portunus_filters::{Call, Denial, Filter, Kind, Needs, Verdict};
use std::sync::Mutex;

async fn asking() -> Server {
    Server::start(|asked, mut wire| async move {
        let result = match asked.method() {
            "prompts/get" => r#"{"resultType":"complete","messages":[]}"#,
            "prompts/list" => r#"{"resultType":"complete","prompts":[{"name":"p"}],"ttlMs":60000,"cacheScope":"private"}"#,
            _ => r#"{"resultType":"complete","supportedVersions":["2026-07-28"],"capabilities":{"prompts":{}},"ttlMs":60000,"cacheScope":"private"}"#,
        };
        wire.result(&asked, result).await;
        Some(wire)
    })
    .await
}

async fn lists_fetched(stand: Stand) -> usize {
    let fields = "MCP-Protocol-Version: 2026-07-28\r\nMcp-Method: prompts/get\r\nMcp-Name: p\r\n";
    let mut params = envelope();
    params["name"] = "p".into();
    let (_, said) = stand.ask("ada", fields, &request("prompts/get", params)).await;
    assert_eq!(said["result"]["messages"], json!([]), "{said}");
    stand.server.heard("prompts/list").len()
}

/// Reads what the configuration says of what messages name.
struct ReadsFacts(Mutex<Vec<Option<Subject>>>);

impl Filter for ReadsFacts {
    fn name(&self) -> &'static str {
        "reads-facts"
    }
    fn needs(&self) -> Needs {
        Needs::Facts
    }
    fn applies(&self, kind: Kind) -> bool {
        kind == Kind::Request
    }
    fn judge(&self, call: &Call<'_>, _: &mut Verdict) -> Result<(), Denial> {
        self.0.lock().unwrap().push(call.target.subject.clone());
        Ok(())
    }
}

#[tokio::test]
async fn prompt_is_looked_up_where_rules_may_hide_it_and_not_where_facts_suffice() {
    let server = asking().await;
    let changes = || Arc::new(Semaphore::new(0));
    let filter = Arc::new(ReadsFacts(Mutex::default()));
    TEST_FILTERS.set(vec![filter.clone()]);
    let bed = Bed::before(server.address, ", era: modern");
    assert_eq!(lists_fetched(Stand::of(server, changes(), bed)).await, 0);
    assert_eq!(*filter.0.lock().unwrap(), [Some(Subject::Prompt("p".into()))]);
    let server = asking().await;
    let allowing = "package mcp.authz\ndecision := true\n";
    let bed = Bed::under(allowing, server.address, ", era: modern");
    assert_eq!(lists_fetched(Stand::of(server, changes(), bed)).await, 1);
}
