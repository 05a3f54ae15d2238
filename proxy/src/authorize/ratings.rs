//! What the configuration says of each tool, looked up once.

use portunus_config::{Snapshot, ToolRules};
use portunus_filters::call::KnownTool;
use quick_cache::sync::Cache;
use std::collections::HashMap;
use std::sync::Arc;

/// Tools of one upstream that are remembered.
const MAX_TOOLS: usize = 10_000;

/// A longer name, which no server should have, is looked up each time.
const MAX_NAME_BYTES: usize = 256;

/// Tools by their upstream and the name they have there.
pub struct Ratings {
    rules: Arc<ToolRules>,
    by_upstream: HashMap<Arc<str>, Cache<Arc<str>, Arc<KnownTool>>>,
}

impl Ratings {
    /// Of the tools of a configuration.
    pub fn of(snapshot: &Snapshot) -> Ratings {
        let upstreams = snapshot.upstreams.iter();
        let by_upstream =
            upstreams.map(|upstream| (Arc::clone(&upstream.name), Cache::new(MAX_TOOLS))).collect();
        Ratings { rules: Arc::clone(&snapshot.tools), by_upstream }
    }

    /// What is known of a tool.
    pub fn tool(&self, upstream: &str, original: &Arc<str>) -> Arc<KnownTool> {
        let known = || {
            let facts = Arc::new(self.rules.facts(upstream, original));
            Arc::new(KnownTool { original: Arc::clone(original), facts, claimed: None, task: None })
        };
        let Some(tools) = self.by_upstream.get(upstream) else { return known() };
        if let Some(tool) = tools.get(original) {
            return tool;
        }
        let tool = known();
        if original.len() <= MAX_NAME_BYTES {
            tools.insert(Arc::clone(original), Arc::clone(&tool));
        }
        tool
    }
}
