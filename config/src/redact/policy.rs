//! `policy`.

use serde_json::{Value, json};

use super::duration;
use crate::policy::PolicyRules;

pub(super) fn policy(rules: &PolicyRules) -> Value {
    let written = &rules.written;
    let shadow = written.shadow.as_ref().map(|(path, data, sample)| {
        json!({
            "path": path.display().to_string(),
            "data": data.as_ref().map(|data| data.display().to_string()),
            "sample": sample,
        })
    });
    json!({
        "path": written.path.as_ref().map(|path| path.display().to_string()),
        "builtin": written.path.is_none().then_some("rbac"),
        "data": written.data.as_ref().map(|data| data.display().to_string()),
        "entrypoint": written.entrypoint,
        "cache_ttl": duration(written.cache_ttl),
        "cache_entries": rules.cache_entries,
        "lists": written.lists.map(|lists| lists.as_str()),
        "time_zone": written.time_zone,
        "time_limit": duration(written.time_limit),
        "strict": written.strict,
        "reasons_to_client": rules.reasons_to_client,
        "shadow": shadow,
    })
}
