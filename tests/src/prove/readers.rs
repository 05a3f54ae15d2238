//! A million messages, read here and by servers of five kinds: whoever reads what a rule reads finds what
//! the rule found, or the message is refused.

mod messages;

use super::policy::{Dice, lenient_settings};
use bytes::Bytes;
use portunus_filters::authorization_filter::{AuthorizationFilter, Lists, Rules};
use portunus_filters::authorize::{DecisionCache, Document, Module, Policy};
use portunus_filters::call::{KnownTool, Subject, Target};
use portunus_filters::mcp::bridge::{self, Aim};
use portunus_filters::mcp::headers::Mirror;
use portunus_filters::mcp::{Bounds, Revision};
use portunus_filters::message::{Reading, read};
use portunus_filters::{Arrival, Cleared, Identity, Kind, Message, Moment, Pipeline};
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Lines, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

const MESSAGES: usize = 1_000_000;
/// Messages at a time: readers give their answers out by the thousand.
const BATCH: usize = 2_000;

/// Says what it read, and sets an argument.
const RULES: &str = "package mcp.authz\n\nimport rego.v1\n\ndefault decision := false\n\n\
    decision := {\"allow\": true, \"reason\": json.marshal(seen), \"obligations\": obligations}\n\n\
    default obligations := {}\n\nobligations := {\"inject\": {\"region\": \"eu\"}} if input.mcp.method == \"tools/call\"\n\n\
    seen := {\"method\": input.mcp.method, \"name\": name, \"uri\": uri, \"amount\": amount, \"account\": account, \
    \"filter\": filter, \"action\": action}\n\n\
    default name := null\n\nname := input.mcp.name\n\n\
    default uri := null\n\nuri := input.mcp.uri\n\n\
    default amount := null\n\namount := input.mcp.arguments.amount\n\n\
    default account := null\n\naccount := input.mcp.arguments.account.id\n\n\
    default filter := null\n\nfilter := input.mcp.arguments.filter\n\n\
    default action := null\n\naction := input.mcp.responses.q.action\n";

/// The places that readers tell of, in their order.
#[derive(Clone, Copy)]
enum Place {
    Method,
    Name,
    Uri,
    RefType,
    RefName,
    RefUri,
    Amount,
    Account,
    Min,
    Max,
    Region,
    Action,
}

/// The gateway, as far as it reads and judges.
struct Judge {
    pipeline: Pipeline,
    arrival: Arrival,
    target: Target,
}

impl Judge {
    fn new() -> Judge {
        let module = Module { path: "p.rego".to_owned(), text: RULES.to_owned() };
        let data = Document { path: "data".to_owned(), mount: String::new(), text: "{}".to_owned() };
        let policy = Policy::compile(&[module], &[data], &lenient_settings());
        let policy = Arc::new(policy.unwrap_or_else(|problems| panic!("{problems:?}")));
        let decisions = Arc::new(DecisionCache::new(100_000, 256 << 20));
        let rules = Rules {
            policy,
            decisions,
            budgets: Arc::default(),
            lists: Lists::Show,
            reasons_to_client: false,
        };
        let source = IpAddr::V4(Ipv4Addr::LOCALHOST);
        Judge {
            pipeline: Pipeline::new(vec![Box::new(AuthorizationFilter::new(Some(rules), None, false))]),
            arrival: Arrival {
                listener: "l".into(),
                source,
                identity: Identity::Anonymous { source },
                request_id: "r".into(),
                at: Moment { monotonic: Duration::ZERO, wall: Duration::from_secs(1) },
            },
            target: Target::new(&"s".into(), &"u".into()),
        }
    }

    /// What rules read of a message, and the text that its server gets; `None` if it is refused.
    fn judged(&self, message: &str) -> Option<(Value, String)> {
        let body = Bytes::copy_from_slice(message.as_bytes());
        let reading = read(&body, &Bounds::default(), &Mirror::default(), &Revision::ALL).ok()?;
        let Reading::One(message) = reading else { return None };
        // What has no id is answered by nobody, and goes to no server where a policy is in force.
        if message.kind != Kind::Request {
            return None;
        }
        let target = Target { subject: subject(&message)?, ..self.target.clone() };
        let cleared: Cleared = self.pipeline.judge(&self.arrival, &[message], &target, |_| {}).ok()?;
        let seen = serde_json::from_str(cleared.decision_record()?.reason()?).unwrap();
        Some((seen, String::from_utf8(cleared.into_body().to_vec()).unwrap()))
    }
}

/// What a message is aimed at, at an endpoint that renames nothing; `None` if that cannot be read.
fn subject(message: &Message) -> Option<Option<Subject>> {
    let params = message.message_index.as_ref()?.params(std::str::from_utf8(&message.body).ok()?);
    let aim = bridge::aim(message.method.as_ref()?.name(), &params).ok()?;
    Some(aim.map(|aim| match aim {
        Aim::Tool(name) => Subject::Tool(Arc::new(KnownTool::unrated(name.as_ref().into()))),
        Aim::Prompt(name) => Subject::Prompt(name.as_ref().into()),
        Aim::Resource(name) | Aim::Task(name) => Subject::Resource(name.as_ref().into()),
    }))
}

/// A program that reads messages as servers of some language do.
struct Reader {
    name: &'static str,
    child: Child,
    input: Option<ChildStdin>,
    output: Lines<BufReader<ChildStdout>>,
}

impl Reader {
    fn start(name: &'static str, command: &mut Command) -> Reader {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (input, output) = (child.stdin.take(), BufReader::new(child.stdout.take().unwrap()).lines());
        Reader { name, child, input, output }
    }

    /// What it finds in each message; null where it refuses one.
    fn read(&mut self, messages: &[&str]) -> Vec<Value> {
        let mut input = self.input.take().unwrap();
        let text = messages.join("\n") + "\n";
        std::thread::scope(|scope| {
            let writing = scope.spawn(move || {
                input.write_all(text.as_bytes()).unwrap();
                input
            });
            let lines: Vec<String> =
                self.output.by_ref().take(messages.len()).collect::<Result<_, _>>().unwrap();
            let answers = lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
            self.input = Some(writing.join().unwrap());
            assert_eq!(lines.len(), messages.len(), "{} ended early", self.name);
            answers
        })
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("readers").join(name)
}

/// The readers; the one in Go is built first.
fn readers(built: &Path) -> Vec<Reader> {
    let go = built.join("reader");
    let made = Command::new("go").arg("build").arg("-o").arg(&go).arg(script("reader.go")).status();
    assert!(made.is_ok_and(|status| status.success()), "Go builds its reader");
    let python = |kind: &str| {
        let mut command = Command::new("python3");
        command.arg(script("reader.py")).arg(kind);
        command
    };
    vec![
        Reader::start("Python", &mut python("last")),
        Reader::start("the first of equal keys", &mut python("first")),
        Reader::start("the last, in any case", &mut python("fold")),
        Reader::start("JavaScript", Command::new("node").arg(script("reader.mjs"))),
        Reader::start("Go", &mut Command::new(go)),
    ]
}

pub(super) fn run() {
    let built = std::env::temp_dir().join(format!("portunus-readers-{}", std::process::id()));
    std::fs::create_dir_all(&built).unwrap();
    let (mut readers, judge, mut dice) = (readers(&built), Judge::new(), Dice(7));
    let (mut refused, mut allowed) = (0, 0);
    // Who agreed, refused or would have read something else had the message not been refused.
    let mut tally: BTreeMap<&str, [usize; 3]> = BTreeMap::new();
    let mut wrong = Vec::new();
    for _ in 0..MESSAGES / BATCH {
        let sent: Vec<String> = (0..BATCH).map(|_| messages::message(&mut dice)).collect();
        let judged: Vec<_> = sent.iter().map(|message| judge.judged(message)).collect();
        refused += judged.iter().filter(|one| one.is_none()).count();
        allowed += judged.iter().flatten().count();
        // Of what is refused, the readers are asked as well: it shows what the refusal was for.
        let texts: Vec<&str> = sent
            .iter()
            .zip(&judged)
            .map(|(sent, judged)| judged.as_ref().map_or(sent.as_str(), |(_, text)| text.as_str()))
            .collect();
        let answers: Vec<Vec<Value>> = readers.iter_mut().map(|reader| reader.read(&texts)).collect();
        for (index, one) in judged.iter().enumerate() {
            for (reader, answers) in readers.iter().zip(&answers) {
                let counts = tally.entry(reader.name).or_default();
                match (one, &answers[index]) {
                    (Some(_), Value::Null) => counts[1] += 1,
                    (Some((seen, text)), found) if !agrees(seen, found) => {
                        wrong.push(format!("{}: {text}\n  rules {seen}\n  reads {found}", reader.name));
                    }
                    (Some(_), _) => counts[0] += 1,
                    (None, found) => counts[2] += usize::from(found != &answers[0][index]),
                }
            }
        }
    }
    std::fs::remove_dir_all(&built).ok();
    println!("{allowed} messages let through, {refused} refused; {} read otherwise", wrong.len());
    println!("{:<26} {:>10} {:>10} {:>34}", "", "agrees", "refuses", "refused here, not read as by Python");
    for (reader, [agrees, refuses, differs]) in &tally {
        println!("{reader:<26} {agrees:>10} {refuses:>10} {differs:>34}");
    }
    assert!(wrong.is_empty(), "{}", wrong[..wrong.len().min(10)].join("\n"));
    assert!(allowed + refused >= MESSAGES && allowed > MESSAGES / 5 && refused > MESSAGES / 5);
    assert!(tally.values().any(|counts| counts[2] > 1_000), "no message was worth refusing: {tally:?}");
}

/// Whether a reader finds what rules read.
fn agrees(seen: &Value, found: &Value) -> bool {
    let at = |place: Place| &found[place as usize];
    let method = seen["method"].as_str().unwrap_or_default();
    let (name, uri) = match method {
        "tools/call" | "prompts/get" => (at(Place::Name), &Value::Null),
        "resources/read" => (&Value::Null, at(Place::Uri)),
        "completion/complete" if at(Place::RefType) == "ref/prompt" => (at(Place::RefName), &Value::Null),
        "completion/complete" => (&Value::Null, at(Place::RefUri)),
        _ => (&Value::Null, &Value::Null),
    };
    // What is no string names nothing, and is refused by every server.
    let text = |seen: &Value, found: &Value| seen == found || (seen.is_null() && !found.is_string());
    let target =
        same(&seen["method"], at(Place::Method)) && text(&seen["name"], name) && text(&seen["uri"], uri);
    // Of a completion, policy reads its one argument.
    let arguments = method == "completion/complete"
        || (same(&seen["amount"], at(Place::Amount))
            && same(&seen["account"], at(Place::Account))
            && is_seen(&seen["filter"], "min", at(Place::Min))
            && is_seen(&seen["filter"], "max", at(Place::Max)));
    let set = method != "tools/call" || at(Place::Region) == "eu";
    target && arguments && set && same(&seen["action"], at(Place::Action))
}

/// Whether a member that a reader finds is one that rules have seen. They read the object as a whole and
/// name no key of it: they see each as it is written, and some readers take `MAX` for `max`.
fn is_seen(object: &Value, name: &str, found: &Value) -> bool {
    let members = object.as_object().into_iter().flatten();
    let seen = members.filter(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value).next();
    let is_absent = object.get(name).is_none() && found.is_null();
    is_absent || seen.is_some_and(|seen| same(seen, found))
}

/// Whether two values are one to whoever reads them: numbers by their value.
fn same(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Number(one), Value::Number(other)) => match (one.as_i64(), other.as_i64()) {
            (Some(one), Some(other)) => one == other,
            _ => one.as_f64() == other.as_f64(),
        },
        (Value::Array(one), Value::Array(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| same(one, other))
        }
        (Value::Object(one), Value::Object(other)) => {
            let found =
                |(key, value): (&String, &Value)| other.get(key).is_some_and(|other| same(value, other));
            one.len() == other.len() && one.iter().all(found)
        }
        _ => one == other,
    }
}
