//! `portunus explain`: why a message was refused, told by the gateway that refused it.
//!
//! What was refused is in the memory of the running process; its `admin` surface is asked for it.

use clap::Args;
use portunus_base::text::tame;
use portunus_config::{ProcessEnvironment, load};
use serde_json::Value;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::time::Duration;

/// Which refusal, and where.
#[derive(Debug, Args)]
pub(crate) struct ExplainArguments {
    /// `Portunus-Request-Id` of the answer, or `requestId` of the error in it.
    id: String,
    /// The `admin` address of the gateway; by default that of the configuration.
    #[arg(long, value_name = "ADDRESS")]
    admin: Option<SocketAddr>,
    /// The configuration of the gateway.
    #[arg(long, short, default_value = "gateway.yaml", value_name = "FILE")]
    config: PathBuf,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// How long the gateway may take.
const WITHIN: Duration = Duration::from_secs(5);

/// Most bytes of its answer.
const MAX_BYTES: u64 = 16 << 20;

/// The answer of the command.
///
/// # Errors
/// What stands in the way, in words for the terminal.
pub(crate) fn run(arguments: &ExplainArguments) -> Result<String, String> {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:+/=".contains(&byte);
    if !arguments.id.bytes().all(legal) {
        return Err("that is no request id".to_owned());
    }
    let admin = match arguments.admin {
        Some(admin) => admin,
        None => configured(&arguments.config)?,
    };
    let body = fetched(admin, &format!("/refusals?limit=1&id={}", arguments.id))
        .map_err(|error| format!("{admin} does not answer: {error}; is the gateway running?"))?;
    let refusals: Vec<Value> = serde_json::from_str(&body)
        .map_err(|error| format!("what {admin} answers is no list of refusals: {error}"))?;
    let Some(refusal) = refusals.first() else {
        return Err(format!(
            "the gateway refused no message of the id {} among the last 10,000 refusals",
            arguments.id
        ));
    };
    match arguments.json {
        true => Ok(format!("{refusal:#}\n")),
        false => Ok(told(refusal)),
    }
}

fn configured(config: &std::path::Path) -> Result<SocketAddr, String> {
    let loaded = load(config, &ProcessEnvironment).map_err(|_| {
        format!("{} cannot be read: see `portunus check`, or name the address by --admin", config.display())
    })?;
    let missing = || format!("{} has no `admin` address, so nothing can be asked", config.display());
    loaded.bootstrap.admin.ok_or_else(missing)
}

/// The body of a GET.
fn fetched(admin: SocketAddr, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&admin, WITHIN)?;
    stream.set_read_timeout(Some(WITHIN))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {admin}\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.take(MAX_BYTES).read_to_string(&mut text)?;
    let whole = text.split_once("\r\n\r\n").filter(|(head, _)| head.starts_with("HTTP/1.1 200"));
    let body = whole.map(|(_, body)| body.to_owned());
    body.ok_or_else(|| std::io::Error::other("its answer is no success"))
}

/// A refusal for a person.
fn told(refusal: &Value) -> String {
    let text = |name: &str| refusal[name].as_str().map(tame);
    let mut out = String::new();
    let mut line = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            out.push_str(&format!("{name:<12}{value}\n"));
        }
    };
    let joined = |parts: &[Option<String>], between: &str| {
        let parts: Vec<String> = parts.iter().flatten().cloned().collect();
        (!parts.is_empty()).then(|| parts.join(between))
    };
    line("refused", joined(&[text("request_id"), text("ts")], ", "));
    line("reason", joined(&[text("reason"), text("detail")], ": "));
    line("stage", joined(&[text("stage"), text("rule")], ", by "));
    line("message", joined(&[text("action"), text("resource")], " "));
    line("at", joined(&[text("server_name"), text("ip_address")], ", from "));
    line("tool", joined(&[text("risk_level"), text("data_classification")], ", "));
    line("policy", joined(&[text("policy_reason"), text("policy_fault")], "; "));
    line("revision", text("bundle_revision"));
    out.push_str(&limit(&refusal["limit"]));
    out.push_str(&read(refusal));
    out.push_str(&rules(refusal));
    out
}

/// The limit that was reached: which rule, for whom, how much was used and when there is room again.
fn limit(limit: &Value) -> String {
    let Some(rule) = limit["rule"].as_str() else { return String::new() };
    let text = |name: &str| tame(limit[name].as_str().unwrap_or_default());
    let key = limit["key"].as_object().into_iter().flatten();
    let key: Vec<String> = key
        .map(|(part, value)| format!("{} {}", tame(part), tame(value.as_str().unwrap_or_default())))
        .collect();
    let counted = if key.is_empty() { "all calls together".to_owned() } else { key.join(", ") };
    let reset = limit["reset_ms"]
        .as_u64()
        .map_or("when a call ends".to_owned(), |ms| format!("{} s later", ms.div_ceil(1000)));
    format!(
        "\nThe limit:\n  rule    {} at {}\n  counts  {counted}\n  spent   {} of {}\n  room    {reset}\n",
        tame(rule),
        text("place"),
        text("spent"),
        text("limit")
    )
}

fn read(refusal: &Value) -> String {
    let reads = refusal["reads"].as_array().map(Vec::as_slice).unwrap_or_default();
    let line = |read: &Value| {
        let value = read["value"].as_str().map_or("undefined".to_owned(), tame);
        format!("  {} = {value}\n", tame(read["path"].as_str().unwrap_or_default()))
    };
    let lines: String = reads.iter().map(line).collect();
    if lines.is_empty() { lines } else { format!("\nWhat the policy read:\n{lines}") }
}

/// The rules that took part. One that stopped would have gone on if the condition behind that line had
/// held: that is what would allow the message.
fn rules(refusal: &Value) -> String {
    let rules = refusal["rules"].as_array().map(Vec::as_slice).unwrap_or_default();
    let place = |rule: &Value, line: &str| {
        format!("{}:{}", tame(rule["file"].as_str().unwrap_or_default()), rule[line])
    };
    let name = |rule: &Value| tame(rule["name"].as_str().unwrap_or_default());
    let took = |rule: &Value| format!("  {} at {}\n", name(rule), place(rule, "line"));
    let stopped = rules.iter().filter(|rule| rule.get("stopped").is_some());
    let would = |rule: &Value| {
        format!("  {}: the condition at {} did not hold\n", name(rule), place(rule, "stopped"))
    };
    let took: String = rules.iter().map(took).collect();
    let would: String = stopped.map(would).collect();
    match (took.is_empty(), would.is_empty()) {
        (true, _) => String::new(),
        (false, true) => format!("\nRules that took part:\n{took}"),
        (false, false) => format!("\nRules that took part:\n{took}\nWhat would allow it:\n{would}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn reached_limit_is_told_with_its_rule_key_and_reset() {
        let limit = json!({
            "rule": "per_tool", "key": {"principal": "ann\u{1b}", "tool": "crm/find"}, "spent": "60",
            "limit": "60/minute", "reset_ms": 800, "place": "gateway.yaml:12",
        });
        let told = told(&json!({"request_id": "r-1", "reason": "rate_limited", "limit": limit}));
        let parts =
            ["per_tool at gateway.yaml:12", "principal ann", "tool crm/find", "60 of 60/minute", "1 s later"];
        assert!(parts.iter().all(|part| told.contains(part)), "{told}");
        assert!(!told.contains('\u{1b}'));
    }

    #[test]
    fn a_refusal_is_told_with_what_would_allow_it() {
        let refusal = json!({
            "request_id": "r-1", "reason": "forbidden", "detail": "not your \u{1b}region", "stage": "authorize",
            "rule": "decision", "reads": [{"path": "input.principal.roles", "value": "[\"reader\"]"}, {"path": "input.x"}],
            "rules": [{"name": "data.mcp.authz.decision", "file": "p.rego", "line": 7, "stopped": 8}],
        });
        let told = told(&refusal);
        for part in [
            "reason      forbidden: not your",
            "stage       authorize, by decision",
            "  input.principal.roles = [\"reader\"]",
            "  input.x = undefined",
            "  data.mcp.authz.decision at p.rego:7",
            "  data.mcp.authz.decision: the condition at p.rego:8 did not hold",
        ] {
            assert!(told.contains(part), "{part}:\n{told}");
        }
        assert!(!told.contains('\u{1b}'));
    }
}
