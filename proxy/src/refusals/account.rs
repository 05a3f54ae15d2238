//! How a refusal came about, as JSON.

use crate::clipped::Clipped;
use portunus_base::text::push_json;
use portunus_filters::Reason;
use portunus_filters::authorize::Explanation;
use portunus_filters::decision_record::DecisionRecord;
use portunus_filters::limits::ReachedLimit;
use std::fmt::Write;

/// The stage that gives a reason.
pub(super) fn stage(reason: Reason) -> &'static str {
    match reason {
        Reason::MalformedHttp
        | Reason::HeadersTooLarge
        | Reason::RequestTimeout
        | Reason::Overloaded
        | Reason::ForbiddenHost
        | Reason::ForbiddenOrigin => "accept",
        Reason::Unauthenticated | Reason::InvalidToken | Reason::IdentityUnavailable => "identify",
        Reason::MethodNotAllowed
        | Reason::UnsupportedMediaType
        | Reason::NotAcceptable
        | Reason::BodyTooLarge
        | Reason::ParseError
        | Reason::InvalidRequest
        | Reason::BoundsExceeded
        | Reason::HeaderMismatch
        | Reason::UnsupportedVersion
        | Reason::InvalidEnvelope => "intake",
        Reason::UnknownRoute
        | Reason::UnknownTool
        | Reason::UnknownPrompt
        | Reason::UnknownResource
        | Reason::UnknownMethod
        | Reason::InvalidParams
        | Reason::MissingCapability
        | Reason::MissingSession
        | Reason::UnknownSession
        | Reason::UnknownState
        | Reason::EraMismatch => "resolve",
        Reason::InsufficientScope
        | Reason::Forbidden
        | Reason::StepUpRequired
        | Reason::ApprovalRequired
        | Reason::PolicyError
        | Reason::PolicyLimited => "authorize",
        Reason::RateLimited
        | Reason::QuotaSpent
        | Reason::BudgetSpent
        | Reason::ConcurrencyReached
        | Reason::LoopDetected => "limits",
        Reason::Crowded
        | Reason::ReplicaLost
        | Reason::UpstreamUnavailable
        | Reason::UpstreamLimited
        | Reason::UpstreamUntrusted
        | Reason::UpstreamTimeout
        | Reason::UpstreamUnauthorized
        | Reason::Draining
        | Reason::RouteRemoved => "forward",
        Reason::AnswerLost | Reason::Untranslatable | Reason::UpstreamMalformed | Reason::ResultTooLarge => {
            "respond"
        }
    }
}

/// Writes what was decided behind the members that are there.
pub(super) fn write(out: &mut String, decision_record: &DecisionRecord) {
    let mut field = |name: &str, value: Option<&str>| {
        if let Some(value) = value {
            let _ = write!(out, ",\"{name}\":");
            push_json(out, value);
        }
    };
    field("rule", decision_record.rule());
    field("policy_reason", decision_record.reason().map(|reason| &**reason));
    field("policy_fault", decision_record.fault().map(ToString::to_string).as_deref());
    field("risk_level", decision_record.facts.as_ref().map(|facts| facts.risk.as_str()));
    field("data_classification", decision_record.facts.as_ref().map(|facts| facts.class.as_str()));
    if let Some(explanation) = decision_record.explained.get() {
        explained(out, explanation);
    }
}

/// Writes the limit that was reached behind the members that are there.
pub(super) fn write_limit(out: &mut String, limit: &ReachedLimit) {
    out.push_str(",\"limit\":{\"rule\":");
    push_json(out, &limit.rule);
    out.push_str(",\"key\":{");
    for (index, (part, value)) in limit.key.iter().enumerate() {
        let value: Clipped<256> = Clipped::new(value);
        let _ = write!(out, "{}\"{part}\":", if index == 0 { "" } else { "," });
        push_json(out, &value);
    }
    out.push_str("},\"spent\":");
    push_json(out, &limit.spent);
    out.push_str(",\"limit\":");
    push_json(out, &limit.limit);
    if let Some(reset) = limit.reset {
        let _ = write!(out, ",\"reset_ms\":{}", reset.as_millis());
    }
    out.push_str(",\"place\":");
    push_json(out, &limit.place);
    out.push('}');
}

fn explained(out: &mut String, explanation: &Explanation) {
    out.push_str(",\"reads\":[");
    for (index, read) in explanation.reads.iter().enumerate() {
        out.push_str(if index == 0 { "{\"path\":" } else { ",{\"path\":" });
        push_json(out, &read.path);
        if let Some(value) = &read.value {
            out.push_str(",\"value\":");
            push_json(out, value);
        }
        out.push('}');
    }
    out.push_str("],\"rules\":[");
    for (index, rule) in explanation.rules.iter().enumerate() {
        out.push_str(if index == 0 { "{\"name\":" } else { ",{\"name\":" });
        push_json(out, &rule.name);
        out.push_str(",\"file\":");
        push_json(out, &rule.path);
        let _ = write!(out, ",\"line\":{}", rule.line);
        if let Some(stopped) = rule.stopped {
            let _ = write!(out, ",\"stopped\":{stopped}");
        }
        out.push('}');
    }
    out.push(']');
}
