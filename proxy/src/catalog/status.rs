//! What operators are told of a virtual server's lists.

use super::MergedCatalog;
use portunus_filters::Moment;
use portunus_filters::catalog::{Catalog, Conflict, ListKind, Quarantine, Server, State};
use serde_json::{Value, json};

/// Names that one report holds of each sort.
const MAX_NAMED: usize = 20;

/// The lists of one audience: the one that asked last.
pub(super) fn report(merged: &MergedCatalog, audiences: usize, now: Moment) -> Value {
    let catalog = &merged.catalog;
    let members: Vec<Value> = catalog.servers().iter().map(|server| member(server, now)).collect();
    let count = |kind: ListKind| (kind.result_key().to_owned(), catalog.entries(kind).len().into());
    json!({
        "audiences": audiences,
        "served": ListKind::ALL.map(count).into_iter().collect::<serde_json::Map<String, Value>>(),
        "members": members,
        "conflicts": conflicts(catalog),
        "lookupsCutShort": catalog.lookups_cut_short(),
    })
}

fn member(server: &Server, now: Moment) -> Value {
    let list = |kind: ListKind| {
        let index = kind.index();
        let mut list = state(server.states[index], now);
        if !server.quarantined[index].is_empty() {
            list["quarantined"] = quarantined(&server.quarantined[index]);
        }
        (kind.result_key().to_owned(), list)
    };
    let lists: serde_json::Map<String, Value> = ListKind::ALL.map(list).into_iter().collect();
    json!({"name": &*server.name, "lists": lists})
}

fn state(state: State, now: Moment) -> Value {
    match state {
        State::Fresh => json!({"state": "known"}),
        State::Stale { read_at, reason } => {
            let age = now.wall.saturating_sub(read_at.wall).as_secs();
            json!({"state": "stale", "ageSeconds": age, "reason": reason})
        }
        State::Missing { reason } => json!({"state": "missing", "reason": reason}),
    }
}

fn quarantined(items: &Quarantine) -> Value {
    let shown = items.iter().take(MAX_NAMED);
    let named: Vec<Value> =
        shown.map(|item| json!({"name": item.key.as_deref(), "reason": item.reason.to_string()})).collect();
    json!({"count": items.len(), "items": named})
}

fn conflicts(catalog: &Catalog) -> Value {
    let member = |index: usize| catalog.members().get(index).map(|name| &**name);
    let shown = |conflict: &Conflict| {
        json!({
            "list": conflict.kind.result_key(),
            "name": &*conflict.name,
            "owner": member(conflict.owner),
            "other": member(conflict.other),
            "servedAs": conflict.served_as.as_deref(),
            "reason": conflict.why.as_str(),
        })
    };
    let count: usize = catalog.conflicts().map(|list| list.named.len() + list.more).sum();
    let named = catalog.conflicts().flat_map(|list| &list.named).take(MAX_NAMED);
    json!({"count": count, "items": named.map(shown).collect::<Vec<_>>()})
}
