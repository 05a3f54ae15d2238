//! The call that a test's script answers, and its session.

use super::World;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use tokio::sync::{mpsc, oneshot};

/// What a legacy session remembers.
#[derive(Default)]
pub(crate) struct Session {
    /// Its id.
    pub(crate) id: String,
    /// What a tool has put there.
    pub(crate) state: Mutex<String>,
    pub(super) questions: AtomicUsize,
    pub(super) waiting: Mutex<HashMap<String, oneshot::Sender<Value>>>,
}

/// A `tools/call`, or in the modern era a message about a task.
pub(crate) struct Call {
    /// Its method.
    pub(crate) method: String,
    /// Its parameters.
    pub(crate) params: Value,
    /// Its session, in the legacy era.
    pub(crate) session: Option<Arc<Session>>,
    pub(super) stream: mpsc::Sender<Value>,
    pub(super) world: Arc<World>,
}

impl Call {
    /// Counts something that a test asks for.
    pub(crate) fn count(&self, what: &str) {
        self.world.count(what);
    }

    /// Name of the tool.
    pub(crate) fn tool(&self) -> &str {
        self.params["name"].as_str().unwrap_or_default()
    }

    /// An argument that is text.
    pub(crate) fn text(&self, name: &str) -> String {
        self.params["arguments"][name].as_str().unwrap_or_default().to_owned()
    }

    /// Reports progress on the stream of this call, to a client that wants to hear of it.
    pub(crate) async fn progress(&self, progress: u64) {
        self.progress_saying(json!({"progress": progress})).await;
    }

    /// As [`Call::progress`], with these members.
    pub(crate) async fn progress_saying(&self, mut params: Value) {
        params["progressToken"] = self.params["_meta"]["progressToken"].clone();
        let note = json!({"jsonrpc": "2.0", "method": "notifications/progress", "params": params});
        self.stream.send(note).await.unwrap();
    }

    /// Has other tools, and says so on the stream of this call.
    pub(crate) async fn change_tools(&self, tools: Vec<Value>) {
        *self.world.tools.lock().unwrap() = tools;
        let note = json!({"jsonrpc": "2.0", "method": "notifications/tools/list_changed"});
        self.stream.send(note).await.unwrap();
    }

    /// Asks the client's user on the stream of this call, and gives the whole answer; legacy only.
    pub(crate) async fn elicit(&self, message: &str) -> Value {
        self.ask("elicitation/create", question(message)).await
    }

    /// Sends the client a request, and gives its answer.
    pub(crate) async fn ask(&self, method: &str, params: Value) -> Value {
        let session = self.session.as_ref().expect("a legacy session");
        let id = format!("q-{}", session.questions.fetch_add(1, Ordering::SeqCst));
        let (told, answer) = oneshot::channel();
        session.waiting.lock().unwrap().insert(id.clone(), told);
        let request = json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params});
        self.stream.send(request).await.unwrap();
        answer.await.unwrap_or(Value::Null)
    }
}

/// The parameters of an elicitation that asks for a name.
pub(crate) fn question(message: &str) -> Value {
    let schema = json!({"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]});
    json!({"message": message, "requestedSchema": schema})
}
