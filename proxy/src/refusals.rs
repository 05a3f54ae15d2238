//! The last refusals, for whoever has to explain one.

mod account;

use crate::clipped::Clipped;
use crate::record::timestamp;
use portunus_base::text::push_json;
use portunus_filters::decision_record::DecisionRecord;
use portunus_filters::limits::ReachedLimit;
use portunus_filters::{Reason, Record};
use std::collections::VecDeque;
use std::fmt::Write;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

/// Refusals that are remembered.
pub const CAPACITY: usize = 10_000;

/// One refused message. What a client chose of it is cut.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// The id that the client was given.
    pub request_id: Clipped<128>,
    /// When it arrived, RFC 3339.
    pub at: String,
    /// Why.
    pub reason: Reason,
    /// Address of the client.
    pub source: Option<IpAddr>,
    /// Label of the virtual server, if it came that far.
    pub server: Option<Arc<str>>,
    /// Method.
    pub action: Option<Clipped<128>>,
    /// Tool, prompt, resource or task.
    pub target: Option<Clipped<256>>,
    /// Revision of the configuration.
    pub revision: Option<Arc<str>>,
    /// Internal detail; never shown to the client.
    pub detail: Clipped<512>,
    /// What was decided, if it came that far.
    pub decision_record: Option<Arc<DecisionRecord>>,
    /// The limit that was reached, if one was.
    pub limit: Option<Arc<ReachedLimit>>,
}

impl Refusal {
    /// The refusal that a record tells of.
    pub fn of(record: &Record, reason: Reason) -> Refusal {
        Refusal {
            request_id: Clipped::new(&record.request_id),
            at: timestamp(record.arrived),
            reason,
            source: record.source,
            server: record.server.clone(),
            action: record.action.as_deref().map(Clipped::new),
            target: record.target.as_deref().map(Clipped::new),
            revision: record.revision.clone(),
            detail: record.detail.as_deref().map(Clipped::new).unwrap_or_default(),
            decision_record: record.decision_record.clone(),
            limit: record.limit.clone(),
        }
    }
}

/// A ring of [`CAPACITY`] refusals.
#[derive(Default)]
pub struct Refusals {
    ring: Mutex<VecDeque<Refusal>>,
}

impl Refusals {
    /// Remembers one, forgetting the oldest if there is no room.
    pub fn push(&self, refusal: Refusal) {
        if let Some(decision_record) = &refusal.decision_record {
            // Nobody has looked at it, and nobody will: payload is not kept.
            drop(decision_record.question.take());
        }
        let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        if ring.len() == CAPACITY {
            ring.pop_front();
        }
        ring.push_back(refusal);
    }

    /// How many are remembered.
    pub fn len(&self) -> usize {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Whether none is remembered.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The newest `limit` as a JSON array, newest first; with `id`, only that request's.
    pub fn render(&self, limit: usize, id: Option<&str>) -> String {
        let ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        let mut out = String::from("[");
        let chosen = ring.iter().rev().filter(|refusal| id.is_none_or(|id| &*refusal.request_id == id));
        for (index, refusal) in chosen.take(limit).enumerate() {
            out.push_str(if index == 0 { "\n" } else { ",\n" });
            refusal.render(&mut out);
        }
        out.push_str("\n]\n");
        out
    }
}

impl Refusal {
    fn render(&self, out: &mut String) {
        let source = self.source.map(|source| source.to_string()).unwrap_or_default();
        let fields = [
            ("request_id", Some(&*self.request_id)),
            ("ts", Some(&*self.at)),
            ("reason", Some(self.reason.as_str())),
            ("stage", Some(account::stage(self.reason))),
            ("ip_address", Some(&*source)),
            ("server_name", self.server.as_deref()),
            ("action", self.action.as_deref()),
            ("resource", self.target.as_deref()),
            ("bundle_revision", self.revision.as_deref()),
            ("detail", Some(&*self.detail)),
        ];
        let present = fields.iter().filter_map(|(name, value)| Some((name, (*value)?)));
        for (index, (name, value)) in present.enumerate() {
            let _ = write!(out, "{}\"{name}\":", if index == 0 { "{" } else { "," });
            push_json(out, value);
        }
        if let Some(decision_record) = &self.decision_record {
            account::write(out, decision_record);
        }
        if let Some(limit) = &self.limit {
            account::write_limit(out, limit);
        }
        out.push('}');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(id: &str) -> Refusal {
        Refusal {
            request_id: id.into(),
            at: "t".into(),
            reason: Reason::UnknownRoute,
            source: Some(IpAddr::from([127, 0, 0, 1])),
            server: None,
            action: None,
            target: None,
            revision: None,
            detail: "<b>".into(),
            decision_record: None,
            limit: None,
        }
    }

    #[test]
    fn the_oldest_is_forgotten_and_the_newest_comes_first() {
        let refusals = Refusals::default();
        for index in 0..CAPACITY + 5 {
            refusals.push(refusal(&index.to_string()));
        }
        assert_eq!(refusals.len(), CAPACITY);
        let shown: serde_json::Value = serde_json::from_str(&refusals.render(2, None)).unwrap();
        assert_eq!(shown[0]["request_id"], (CAPACITY + 4).to_string());
        assert_eq!(shown.as_array().unwrap().len(), 2);
        assert!(refusals.render(10, Some("0")).contains("[\n]"), "forgotten");
        assert!(refusals.render(10, Some("7")).contains(r#""detail":"\u003cb\u003e""#));
    }
}
