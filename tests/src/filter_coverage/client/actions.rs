//! Everything that a client does.

use super::{MarkingClient, event_id, named};
use crate::filter_coverage::server::Transport;
use crate::filter_coverage::{HUGE, LARGE};
use crate::harness::{Client, Era, dial, within};
use serde_json::{Value, json};

impl MarkingClient {
    /// Does everything that a client can do.
    pub(in crate::filter_coverage) async fn do_everything(&mut self) {
        self.open().await;
        let [tools, prompts, resources] = self.lists().await;
        let item =
            resources.iter().find(|uri| uri.contains("item")).expect("the resource of the server").clone();
        for tool in ["work", "odd", "fails", "page", "challenges", "contents"] {
            self.call(&tools, tool).await;
        }
        for tool in ["large", "huge", "large_event", "huge_event"] {
            self.call_at_length(&tools, tool).await;
        }
        for tool in ["asks", "asks_all", "asks_in_vain"] {
            self.call_with_input(&tools, tool).await;
        }
        if self.era == Era::Modern {
            self.task(&tools).await;
        }
        let text = self.sent.write("prompt-arguments");
        self.request("prompts/get", json!({"name": prompts[0], "arguments": {"text": text}})).await;
        for _ in 0..2 {
            self.request("resources/read", json!({"uri": item})).await;
        }
        let uri = item.replace("item", &format!("any/{}", self.sent.write("read-uri")));
        self.request("resources/read", json!({"uri": uri})).await;
        let argument = json!({"name": "text", "value": self.sent.write("completion-value")});
        let reference = json!({"type": "ref/prompt", "name": prompts[0]});
        self.request("completion/complete", json!({"ref": reference, "argument": argument})).await;
        self.listen(&item).await;
        if self.era == Era::Legacy {
            self.cancel(&tools).await;
        }
        if self.era == Era::Legacy && self.transport == Transport::StreamableHttp {
            self.batch(&tools).await;
        }
        self.do_odd_things(&tools).await;
        if self.meets_refusals {
            self.be_refused().await;
        }
        for tool in ["forbids", "moves", "waits"] {
            self.call(&tools, tool).await;
        }
    }

    pub(in crate::filter_coverage) async fn open(&mut self) {
        match self.era {
            Era::Modern => drop(self.request("server/discover", json!({})).await),
            Era::Legacy => {
                if self.transport == Transport::HttpSse {
                    self.open_http_sse().await;
                }
                let info =
                    json!({"name": "client", "version": "1", "title": self.sent.write("client-title")});
                let capabilities = json!({"elicitation": {"form": {}, "url": {}}, "sampling": {}, "roots": {},
                    "experimental": {"x": {"x": self.sent.write("client-ability")}}});
                let params = json!({"protocolVersion": self.revision, "clientInfo": info,
                    "capabilities": capabilities});
                self.request("initialize", params).await;
                self.notify("notifications/initialized", json!({})).await;
            }
        }
    }

    /// Opens the stream of a session, whose first event says where messages go.
    async fn open_http_sse(&mut self) {
        let mut connection = Client::over(dial(self.owner).await.unwrap(), self.owner);
        connection.open_stream(&self.path, &self.fields(&Value::Null)).await;
        self.read_head(&mut connection).await;
        let event = connection.chunk().await.unwrap();
        self.received.push_str(&event);
        self.path = event.strip_prefix("event: endpoint\ndata: ").unwrap().trim_end().to_owned();
        self.stream = Some(connection);
    }

    /// Asks for all lists; gives the names of tools and prompts, and the URIs of resources.
    pub(in crate::filter_coverage) async fn lists(&mut self) -> [Vec<String>; 3] {
        let kinds = [
            ("tools/list", "tools", "name"),
            ("prompts/list", "prompts", "name"),
            ("resources/list", "resources", "uri"),
        ];
        let mut lists: [Vec<String>; 3] = Default::default();
        for (place, (method, key, name)) in kinds.into_iter().enumerate() {
            let answer = self.request(method, json!({})).await;
            let entries = answer["result"][key].as_array().cloned().unwrap_or_default();
            lists[place] =
                entries.iter().filter_map(|entry| entry[name].as_str().map(str::to_owned)).collect();
        }
        self.request("resources/templates/list", json!({})).await;
        let cursor = self.sent.write("client-cursor");
        self.request("resources/templates/list", json!({"cursor": cursor})).await;
        lists
    }

    pub(in crate::filter_coverage) async fn call(&mut self, tools: &[String], tool: &str) -> Value {
        let name = named(tools, tool);
        let arguments = json!({"x": self.sent.write("arguments")});
        let meta = json!({"progressToken": self.sent.write("progress-token"), "x": self.sent.write("meta")});
        self.request("tools/call", json!({"name": name, "arguments": arguments, "_meta": meta})).await
    }

    /// A call with an argument that filters read on another thread.
    async fn call_at_length(&mut self, tools: &[String], tool: &str) {
        let size = if tool.starts_with("huge") { HUGE } else { LARGE };
        let [first, last] = ["first", "last"].map(|end| self.sent.write(&format!("{tool}-argument-{end}")));
        let arguments = json!({"x": format!("{first}{}{last}", "x".repeat(size))});
        self.request("tools/call", json!({"name": named(tools, tool), "arguments": arguments})).await;
    }

    /// A call that asks, maybe more than once; a legacy client answers within [`MarkingClient::request`].
    async fn call_with_input(&mut self, tools: &[String], tool: &str) {
        let mut answer = self.call(tools, tool).await;
        while let Some(asked) = answer["result"]["inputRequests"].as_object() {
            let answers = asked.iter().map(|(key, question)| (key.clone(), self.result_for(question)));
            let answers = Value::Object(answers.collect());
            let arguments = json!({"x": self.sent.write("arguments")});
            let mut params =
                json!({"name": named(tools, tool), "arguments": arguments, "inputResponses": answers});
            if let Some(state) = answer["result"].get("requestState") {
                params["requestState"] = state.clone();
            }
            answer = self.request("tools/call", params).await;
        }
    }

    async fn task(&mut self, tools: &[String]) {
        let begun = self.call(tools, "task").await;
        let Some(task) = begun["result"]["taskId"].as_str() else { return };
        self.request("tasks/get", json!({"taskId": task})).await;
    }

    /// Reads what is said outside of calls until a list has changed.
    async fn listen(&mut self, uri: &str) {
        if self.stream.is_some() {
            let meta = json!({"x": self.sent.write("subscribe-meta")});
            self.request("resources/subscribe", json!({"uri": uri, "_meta": meta})).await;
            let mut stream = self.stream.take().unwrap();
            self.read_changes(&mut stream).await;
            self.stream = Some(stream);
            return;
        }
        let mut connection = if self.era == Era::Legacy {
            let meta = json!({"x": self.sent.write("subscribe-meta")});
            self.request("resources/subscribe", json!({"uri": uri, "_meta": meta})).await;
            let mut connection = self.connect(&Value::Null).await;
            connection.open_stream(&self.path, &self.fields(&Value::Null)).await;
            connection
        } else {
            let wanted = json!({"toolsListChanged": true, "resourceSubscriptions": [uri]});
            let meta = json!({"x": self.sent.write("listen-meta")});
            let message =
                self.message("subscriptions/listen", json!({"notifications": wanted, "_meta": meta}));
            self.send(&message).await
        };
        let head = self.read_head(&mut connection).await;
        if head.status != 200 {
            return;
        }
        let text = self.read_changes(&mut connection).await;
        if let Some(id) = event_id(&text).filter(|_| self.resumes) {
            let (mut connection, _) = self.resume(&id).await;
            self.read_changes(&mut connection).await;
        }
    }

    /// Reads a stream until everything that was said with the first two changes of a list has come, as it has with the third.
    async fn read_changes(&mut self, connection: &mut Client) -> String {
        let mut text = String::new();
        while text.matches("notifications/tools/list_changed").count() < 3 {
            let Some(chunk) = connection.chunk().await else { break };
            text.push_str(&chunk);
        }
        self.received.push_str(&text);
        text
    }

    /// Cancels a call that its server would never answer.
    async fn cancel(&mut self, tools: &[String]) {
        let params = json!({"name": named(tools, "hangs"), "arguments": {}, "_meta": {"progressToken": "h"}});
        let message = self.message("tools/call", params);
        let mut connection = self.send(&message).await;
        self.read_head(&mut connection).await;
        if self.stream.is_none() {
            let text = connection.chunk().await.unwrap_or_default();
            self.received.push_str(&text);
        }
        let reason = self.sent.write("cancel-reason");
        self.notify("notifications/cancelled", json!({"requestId": message["id"], "reason": reason})).await;
        if self.stream.is_some() {
            return;
        }
        // It ends when the server has heard of it.
        within(20, "the end of the call", async { while let Ok(Some(_)) = connection.try_chunk().await {} })
            .await;
    }

    /// Two calls in one body, in a session of the one revision that has batches.
    async fn batch(&mut self, tools: &[String]) {
        self.revision = "2025-03-26";
        self.session = None;
        self.open().await;
        let call = |id: u64| {
            let arguments = json!({"x": self.sent.write("batch-arguments")});
            let params = json!({"name": named(tools, "work"), "arguments": arguments});
            json!({"jsonrpc": "2.0", "id": format!("b{id}"), "method": "tools/call", "params": params})
        };
        self.post(&Value::Array(vec![call(1), call(2)])).await;
    }
}
