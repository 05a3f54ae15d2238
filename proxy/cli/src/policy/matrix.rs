//! `portunus matrix`: who may call what, as the policy in force says it.
//!
//! Every principal is asked for every tool of every server, with no arguments. What is shown but
//! refused without arguments may be allowed with some.

use super::shown::{obligations, why};
use super::{Trouble, text};
use clap::Args;
use portunus_base::text::tame;
use portunus_config::{
    Choice, ListRule, Loaded, Member, PolicyRules, ProcessEnvironment, VirtualServer, load_untested, value_of,
};
use portunus_filters::authorize::{Entry, Ruling};
use portunus_filters::{Demands, ToolFacts};
use serde_json::{Value, json};
use std::path::PathBuf;

/// Who and what the table is about.
#[derive(Debug, Args)]
pub(crate) struct MatrixArguments {
    /// The configuration.
    path: PathBuf,
    /// A YAML or JSON list of callers: `{name, principal: {…}, context: {…}, time: {…}}`. Without it,
    /// one caller for each role of `builtin: rbac`.
    #[arg(long, value_name = "FILE")]
    principals: Option<PathBuf>,
    /// A YAML or JSON list of tools, `UPSTREAM.NAME`.
    #[arg(long, value_name = "FILE")]
    tools: PathBuf,
}

/// Most cells of a table.
const MAX_CELLS: usize = 5_000_000;

const HEAD: [&str; 10] =
    ["revision", "principal", "server", "upstream", "tool", "risk", "class", "shown", "call", "remarks"];

/// The table as CSV (RFC 4180).
///
/// # Errors
/// [`Trouble`] if there is no policy, or a file cannot be read.
pub(crate) fn run(arguments: &MatrixArguments) -> Result<String, Trouble> {
    let loaded = load_untested(&arguments.path, &ProcessEnvironment)
        .map_err(|report| Trouble::Configuration(arguments.path.clone(), report))?;
    let policy = loaded.snapshot.policy.clone();
    let rules = policy.ok_or_else(|| format!("{}: there is no `policy`", arguments.path.display()))?;
    let callers = match &arguments.principals {
        Some(file) => listed(file)?.iter().map(Caller::read).collect::<Result<Vec<_>, _>>()?,
        None => roles(&rules)?,
    };
    let tools = listed(&arguments.tools)?;
    let tools = tools.iter().map(|tool| named(tool, &loaded)).collect::<Result<Vec<_>, _>>()?;
    let servers = loaded.snapshot.routes.iter().count();
    if callers.len().saturating_mul(tools.len()).saturating_mul(servers) > MAX_CELLS {
        return Err(format!("more than {MAX_CELLS} cells; ask for fewer callers or tools").into());
    }
    Ok(Table { loaded: &loaded, rules: &rules }.csv(&callers, &tools)?)
}

fn listed(file: &std::path::Path) -> Result<Vec<Value>, Trouble> {
    let text = text(file)?;
    let value = value_of(&text, file).map_err(|report| Trouble::Configuration(file.to_owned(), report))?;
    match value {
        Value::Array(items) => Ok(items),
        _ => Err(format!("{}: no list", file.display()).into()),
    }
}

/// Who asks, from where and when.
struct Caller {
    name: String,
    parts: Value,
}

impl Caller {
    fn read(value: &Value) -> Result<Caller, String> {
        let Some(principal) = value.get("principal").filter(|principal| principal.is_object()) else {
            return Err("a caller has no `principal: {…}`".to_owned());
        };
        let name = value.get("name").or(principal.get("subject")).and_then(Value::as_str);
        let parts = json!({
            "principal": principal,
            "context": value.get("context").cloned().unwrap_or_else(|| json!({})),
            "time": value.get("time").cloned().unwrap_or_else(|| json!({})),
            "threat": { "level": "none" },
        });
        Ok(Caller { name: name.unwrap_or("unnamed").to_owned(), parts })
    }
}

/// One caller for each role of `builtin: rbac`, who has nothing else.
fn roles(rules: &PolicyRules) -> Result<Vec<Caller>, String> {
    let roles = rules.source.data.get("rbac").and_then(|rbac| rbac.get("roles"));
    let roles = roles.and_then(Value::as_object);
    let roles =
        roles.ok_or("name the callers: `--principals FILE`; only `builtin: rbac` has roles to go by")?;
    let caller = |(name, role): (&String, &Value)| {
        let first = |key: &str| role.pointer(&format!("/{key}/0")).cloned();
        let parts = json!({
            "principal": {
                "tenant": first("tenants"),
                "subject": first("subjects").unwrap_or_else(|| json!(name)),
                "roles": role.get("roles"),
                "groups": role.get("groups"),
                "scopes": [],
                "mfa": false,
                "claims": {},
            },
            "context": {},
            "time": {},
            "threat": { "level": "none" },
        });
        Caller { name: name.clone(), parts }
    };
    Ok(roles.iter().map(caller).collect())
}

/// The upstream and the name of a tool.
fn named(tool: &Value, loaded: &Loaded) -> Result<(String, String), String> {
    let text = tool.as_str().ok_or("a tool is no text; write `UPSTREAM.NAME`")?;
    let upstreams = loaded.snapshot.upstreams.iter().map(|upstream| &*upstream.name);
    let halves = upstreams.filter_map(|name| Some((name, text.strip_prefix(name)?.strip_prefix('.')?)));
    let halves = halves.max_by_key(|(name, _)| name.len());
    let (upstream, name) = halves.ok_or_else(|| format!("no upstream has the tool `{}`", tame(text)))?;
    Ok((upstream.to_owned(), name.to_owned()))
}

struct Table<'a> {
    loaded: &'a Loaded,
    rules: &'a PolicyRules,
}

impl Table<'_> {
    fn csv(&self, callers: &[Caller], tools: &[(String, String)]) -> Result<String, String> {
        let mut csv = HEAD.join(",") + "\n";
        for caller in callers {
            for server in self.loaded.snapshot.routes.iter() {
                for (upstream, tool) in tools {
                    for row in self.rows(caller, server, upstream, tool)? {
                        csv += &row.map(|field| quoted(&field)).join(",");
                        csv.push('\n');
                    }
                }
            }
        }
        Ok(csv)
    }

    /// The rows of a tool at a server: none if it is not there, several if several members have it.
    fn rows(
        &self,
        caller: &Caller,
        server: &VirtualServer,
        upstream: &str,
        tool: &str,
    ) -> Result<Vec<[String; 10]>, String> {
        let has =
            |member: &&Member| is_served(member, caller, upstream) && server.view.admits(&member.name, tool);
        let facts = self.loaded.snapshot.tools.facts(upstream, tool);
        let row = |member: &Member| {
            let served = server.view.renamed(&member.name, tool).unwrap_or(tool);
            let input = self.input(caller, (&server.name, upstream), tool, &facts);
            let (shown, ruling) = self.asked(&input)?;
            let call = match (ruling.allow, shown) {
                (true, _) => "yes",
                (false, true) if self.rules.policy.reads_arguments(Entry::Decision) => "by_arguments",
                (false, _) => "no",
            };
            Ok([
                self.loaded.snapshot.revision.to_string(),
                caller.name.clone(),
                server.name.to_string(),
                upstream.to_owned(),
                served.to_owned(),
                facts.risk.as_str().to_owned(),
                facts.class.as_str().to_owned(),
                if shown { "yes" } else { "no" }.to_owned(),
                call.to_owned(),
                self.remarks(&ruling, call, &facts),
            ])
        };
        server.members.iter().filter(has).map(row).collect()
    }

    fn input(
        &self,
        caller: &Caller,
        (server, upstream): (&str, &str),
        original: &str,
        facts: &ToolFacts,
    ) -> String {
        let mut input = caller.parts.clone();
        input["mcp"] = json!({
            "method": "tools/call",
            "direction": "to_server",
            "server": server,
            "upstream": upstream,
            "kind": "tool",
            "name": original,
            "arguments": {},
            "era": "modern",
        });
        let mut tool = json!({
            "original": original,
            "risk": facts.risk.as_str(),
            "class": facts.class.as_str(),
            "labels": facts.labels.iter().map(|label| &**label).collect::<Vec<_>>(),
            "scopes": facts.scopes.iter().map(|scope| &**scope).collect::<Vec<_>>(),
        });
        for (key, flag) in [("read_only", facts.read_only), ("idempotent", facts.idempotent)] {
            if let Some(flag) = flag {
                tool[key] = json!(flag);
            }
        }
        if let Some(owner) = &facts.owner {
            tool["owner"] = json!(&**owner);
        }
        input["tool"] = tool;
        input.to_string()
    }

    /// Whether lists show it, and what is said to a call without arguments.
    fn asked(&self, input: &str) -> Result<(bool, Ruling), String> {
        let ask = |entry| {
            let ruling = self.rules.policy.ask(entry, input);
            ruling.map_err(|fault| format!("a caller or a tool cannot be read in one way: {fault}"))
        };
        let ruling = ask(Entry::Decision)?;
        let shown = match self.rules.lists {
            ListRule::Visible => ask(Entry::Visible)?.allow,
            ListRule::Decision | ListRule::WithoutArguments => ruling.allow,
            ListRule::Show => true,
        };
        Ok((shown, ruling))
    }

    /// Why it is refused, or what else is asked for.
    fn remarks(&self, ruling: &Ruling, call: &str, facts: &ToolFacts) -> String {
        let mut remarks = Vec::new();
        if call == "no" {
            remarks.push(why(ruling));
        }
        if !facts.scopes.is_empty() {
            remarks.push(format!("scopes {}", facts.scopes.join(" ")));
        }
        let demands = self.loaded.snapshot.controls.as_ref().map(|controls| controls.demands(facts.risk));
        let demands = demands.unwrap_or_default();
        remarks.extend(demanded(demands));
        let obligations = obligations(&ruling.obligations);
        remarks.extend(obligations.iter().map(|(name, value)| format!("{name} {value}")));
        remarks.retain(|remark| !remark.is_empty());
        remarks.join("; ")
    }
}

/// Whether the messages of this caller may go to the upstream.
fn is_served(member: &Member, caller: &Caller, upstream: &str) -> bool {
    let tenant = caller.parts.pointer("/principal/tenant").and_then(Value::as_str);
    match &member.choice {
        choice @ Choice::Twins { .. } => choice.upstreams().any(|one| &*one.name == upstream),
        choice => choice.for_tenant(tenant).is_some_and(|one| &*one.name == upstream),
    }
}

/// What the tool's risk asks for beyond the policy.
fn demanded(demands: Demands) -> Vec<String> {
    let approvals =
        (demands.approvals > 0).then(|| format!("controls ask for {} approval(s)", demands.approvals));
    let word = |asked: bool, what: &str| asked.then(|| format!("controls ask for {what}"));
    let words =
        [word(demands.step_up, "a second factor"), approvals, word(demands.justification, "a reason")];
    words.into_iter().flatten().collect()
}

/// A field of CSV that no spreadsheet takes for a formula.
fn quoted(field: &str) -> String {
    let field = tame(field).replace('\n', " ");
    let field = match field.starts_with(['=', '+', '-', '@']) {
        true => format!("'{field}"),
        false => field,
    };
    match field.contains([',', '"']) {
        true => format!("\"{}\"", field.replace('"', "\"\"")),
        false => field,
    }
}
