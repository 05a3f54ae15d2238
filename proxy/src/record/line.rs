//! Writes a record as a line of JSON, `record/1`.

use super::timestamp;
use portunus_base::text::push_json;
use portunus_filters::decision_record::DecisionRecord;
use portunus_filters::{Era, Reason, Record};
use std::fmt::Write;
use std::time::Duration;

/// A record as one line of `record/1`.
pub(super) fn write(record: &Record, event_id: &str) -> String {
    let status = record.status();
    let mut line = String::with_capacity(512);
    line.push_str("{\"schema\":\"record/1\",\"event_type\":\"mcp.message\",\"ts\":\"");
    line.push_str(&timestamp(record.arrived));
    line.push('"');
    let mut field = |name: &str, value: Option<&str>| {
        if let Some(value) = value {
            let _ = write!(line, ",\"{name}\":");
            push_json(&mut line, value);
        }
    };
    field("event_id", Some(event_id));
    field("request_id", Some(&record.request_id));
    field("trace_id", record.trace_id.as_deref());
    field("auth", Some(record.auth));
    if let Some(caller) = &record.caller {
        field("tenant_id", Some(&caller.tenant));
        field("user_id", Some(&caller.subject));
        field("agent_id", caller.agent.as_deref());
        field("on_behalf_of", caller.on_behalf_of.as_deref());
    }
    field("ip_address", record.source.map(|ip| ip.to_string()).as_deref());
    field("user_agent", record.user_agent.as_deref());
    field("listener", Some(&record.listener));
    field("era", record.era.map(Era::as_str));
    field("mcp_version", record.version);
    field("action", record.action.as_deref());
    field("resource", record.target.as_deref());
    field("server_name", record.server.as_deref());
    field("upstream", record.upstream.as_deref());
    field("tool_name", record.tool());
    field("decision", Some(if status.is_refusal() { "deny" } else { "allow" }));
    field("status", Some(status.as_str()));
    field("reason", record.reason.map(Reason::as_str));
    field("bundle_revision", record.revision.as_deref());
    field("revision_answered", record.revision_answered.as_deref());
    write_limits(&mut line, record);
    record.decision_record.iter().for_each(|decision_record| write_decision(&mut line, decision_record));
    if let Some(code) = record.rpc_error {
        let _ = write!(line, ",\"rpc_error\":{code}");
    }
    for (name, texts) in [("texts_blocked", record.texts_blocked), ("texts_unread", record.texts_unread)] {
        if texts > 0 {
            let _ = write!(line, ",\"{name}\":{texts}");
        }
    }
    if let Some(time) = record.upstream_time {
        let _ = write!(line, ",\"upstream_ms\":{:.3}", millis(time));
    }
    let _ = write!(
        line,
        ",\"http_status\":{},\"args_bytes\":{},\"result_size\":{},\"events\":{},\"duration_ms\":{:.3}}}",
        record.http_status,
        record.request_bytes,
        record.response_bytes,
        record.events,
        millis(record.elapsed)
    );
    line
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// Writes the rules of limits that refused the message, or would have.
fn write_limits(line: &mut String, record: &Record) {
    // Names of rules are labels, which need no escapes.
    if let Some(limit) = &record.limit {
        let _ = write!(line, ",\"limit\":\"{}\"", limit.rule);
    }
    if !record.observed.is_empty() {
        let _ = write!(line, ",\"observed\":[\"{}\"]", record.observed.join("\",\""));
    }
}

/// Writes the members that say what was decided.
fn write_decision(line: &mut String, decision_record: &DecisionRecord) {
    let mut field = |name: &str, value: Option<&str>| {
        if let Some(value) = value {
            let _ = write!(line, ",\"{name}\":");
            push_json(line, value);
        }
    };
    field("rule", decision_record.rule());
    field("policy_reason", decision_record.reason().map(|reason| &**reason));
    field("policy_fault", decision_record.fault().map(ToString::to_string).as_deref());
    field("risk_level", decision_record.facts.as_ref().map(|facts| facts.risk.as_str()));
    field("data_classification", decision_record.facts.as_ref().map(|facts| facts.class.as_str()));
    field("justification", decision_record.justification.as_deref());
    let obligations = decision_record.obligations();
    if !obligations.is_empty() {
        // Names of the closed list, which need no escapes.
        let _ = write!(line, ",\"obligations\":[\"{}\"]", obligations.join("\",\""));
    }
    if let Some(micros) = decision_record.cost_micros {
        let _ = write!(line, ",\"cost_usd\":{}.{:06}", micros / 1_000_000, micros % 1_000_000);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use portunus_filters::Status;

    #[test]
    fn a_record_is_one_line_of_json_with_hostile_text_defused() {
        let record = Record {
            request_id: "r-1".into(),
            arrived: Duration::from_millis(1_700_000_000_123),
            user_agent: Some("evil\n\x1b[31m\u{202e}".into()),
            action: Some("tools/call".into()),
            target: Some("echo\"}".into()),
            reason: Some(Reason::HeaderMismatch),
            status: Some(Status::Invalid),
            elapsed: Duration::from_micros(1500),
            ..Record::default()
        };
        let line = write(&record, "e-1");
        assert!(line.is_ascii() && !line.contains('\n'), "{line}");
        let said: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(said["ts"], "2023-11-14T22:13:20.123Z");
        assert_eq!(said["tool_name"], "echo\"}");
        assert_eq!(said["decision"], "deny");
        assert_eq!(said["duration_ms"], 1.5);
    }
}
