//! Long lists for callers that the gateway never saw before: what one costs, and how long others wait
//! for an answer at another endpoint meanwhile.

use super::spare_threads::SpareThreads;
use crate::harness::mcp::{Call, text, tool};
use crate::harness::{Caller, Era, Gateway, Issuer, Key, Mcp, Nature};
use serde_json::{Map, Value, json};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio::task::JoinHandle;

const SERVERS: usize = 10;
const TOOLS: usize = 1_000;
const ROLES: usize = 10;
const CALLERS: usize = 1_000;
/// Callers each of whom has a grant for each tool, by roles of their own.
const WIDE: usize = 10;
/// Longest that a call at another endpoint may wait.
const PATIENCE: Duration = Duration::from_millis(20);
const PROBE_PAUSE: Duration = Duration::from_millis(2);

struct Bed {
    gateway: Gateway,
    issuer: Issuer,
    key: Key,
    _servers: Vec<Mcp>,
    _other: Mcp,
    _aside: SpareThreads,
}

impl Bed {
    async fn start() -> Bed {
        let key = Key::new("k1");
        let issuer = Issuer::start(&[&key]).await;
        let names: Vec<String> = (0..TOOLS).map(|number| format!("tool_{number}")).collect();
        // The probe and its server share no thread with those that write long lists.
        let aside = SpareThreads::start(1, 0);
        let mut servers = Vec::new();
        for _ in 0..SERVERS {
            let nature = Nature { ttl_ms: 3_600_000, scope: "public", ..Nature::of(Era::Modern) };
            let names = names.clone();
            servers
                .push(aside.runtime().spawn(async move { Mcp::naming(nature, &names).await }).await.unwrap());
        }
        let echo = |call: Call| async move { Ok(text(call.text("word"))) };
        let other = Mcp::start(Nature::of(Era::Modern), vec![tool("echo")], echo).await;
        let upstreams: String = servers
            .iter()
            .enumerate()
            .map(|(number, server)| {
                format!("  s{number}: {{url: '{}', trust_cache_scope: true}}\n", server.url())
            })
            .collect();
        let members: Vec<String> = (0..SERVERS).map(|number| format!("s{number}")).collect();
        let document = format!(
            "level: info\nupstreams:\n  other: {}\n{upstreams}servers:\n  /other: other\n  /mcp: {{upstreams: [{}], names: prefix}}\n\
             identity:\n  url: https://gw.example\n  jwt: {{issuer: '{}', roles: roles}}\n\
             policy: {{builtin: rbac, data: roles.yaml, time_limit: 10ms}}\n",
            other.url(),
            members.join(", "),
            issuer.url()
        );
        let gateway = Gateway::start_beside(&[("roles.yaml", &roles().to_string())], &document).await;
        Bed { gateway, issuer, key, _servers: servers, _other: other, _aside: aside }
    }

    fn caller(&self, path: &str, name: &str, roles: &[String]) -> Caller {
        let audience = format!("https://gw.example{path}");
        let token = self.issuer.token_with(&self.key, &audience, json!({"roles": roles, "sub": name}));
        Caller::new(Era::Modern, self.gateway.address).at(path).presenting(&token)
    }

    /// CPU time that the gateway has used.
    fn cpu(&self) -> Duration {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.gateway.pid())).unwrap();
        let times = tasks.filter_map(|task| {
            let stat = std::fs::read_to_string(task.ok()?.path().join("schedstat")).ok()?;
            stat.split_whitespace().next()?.parse::<u64>().ok()
        });
        Duration::from_nanos(times.sum())
    }

    /// Calls at another endpoint until it is told to stop; all the times that they took.
    fn probe(&self, mut stop: watch::Receiver<bool>) -> JoinHandle<Vec<Duration>> {
        let mut caller = self.caller("/other", "prober", &["prober".to_owned()]);
        tokio::spawn(async move {
            let mut waits = Vec::new();
            while !*stop.borrow_and_update() {
                let start = Instant::now();
                let said = caller.call("echo", json!({"word": "hello"})).await.unwrap();
                waits.push(start.elapsed());
                assert_eq!(said.text(), "hello", "{}", said.all());
                tokio::time::sleep(PROBE_PAUSE).await;
            }
            waits
        })
    }
}

/// Ten roles that may use a tenth of the tools each, others with a grant for each tool, and that of the
/// probe.
fn roles() -> Value {
    let mut roles = Map::new();
    for role in 0..ROLES {
        roles.insert(format!("role_{role}"), json!({"allow": [format!("*.tool_*{role}")]}));
    }
    for wide in 0..WIDE {
        for server in 0..SERVERS {
            let grants: Vec<String> = (0..TOOLS).map(|tool| format!("s{server}.tool_{tool}")).collect();
            roles.insert(format!("wide_{wide}_{server}"), json!({"allow": grants}));
        }
    }
    roles.insert("prober".to_owned(), json!({"allow": ["other.*"]}));
    json!({"roles": roles})
}

/// The tools of the whole list.
async fn list(caller: &mut Caller) -> usize {
    let (mut count, mut cursor) = (0, None::<String>);
    loop {
        let params = cursor.map_or_else(|| json!({}), |cursor| json!({"cursor": cursor}));
        let said = caller.request("tools/list", params).await.unwrap();
        let result = &said.message["result"];
        count += result["tools"].as_array().unwrap_or_else(|| panic!("{}", said.all())).len();
        match result["nextCursor"].as_str() {
            Some(next) => cursor = Some(next.to_owned()),
            None => return count,
        }
    }
}

/// A caller: its name, and its roles.
type Fresh = (String, Vec<String>);

/// Lists of fresh callers, one after the other, with a probe beside them.
async fn measure(bed: &Arc<Bed>, what: &str, callers: Vec<Fresh>, expected: usize) -> Duration {
    let (stop, mut took) = (watch::Sender::new(false), Vec::new());
    let probe = bed.probe(stop.subscribe());
    let (start, count) = (bed.cpu(), callers.len());
    for (name, roles) in callers {
        let mut caller = bed.caller("/mcp", &name, &roles);
        let began = Instant::now();
        assert_eq!(list(&mut caller).await, expected, "{name} as {roles:?}");
        took.push(began.elapsed());
    }
    let spent = bed.cpu() - start;
    stop.send_replace(true);
    let mut waits = probe.await.unwrap();
    waits.sort_unstable();
    took.sort_unstable();
    let per = |part: usize, times: &[Duration]| times[(times.len() - 1) * part / 1_000];
    println!(
        "{what}: {count} lists of {expected} tools, median {:.1?}, longest {:.1?}; CPU of the gateway {:.2?} a list, \
         probes included; {} probes, median {:.1?}, 99.9 % {:.1?}, longest {:.1?}",
        per(500, &took),
        per(1_000, &took),
        spent / u32::try_from(count).unwrap(),
        waits.len(),
        per(500, &waits),
        per(999, &waits),
        per(1_000, &waits),
    );
    per(1_000, &waits)
}

pub(super) async fn run() {
    let bed = Arc::new(Bed::start().await);
    let of_role =
        |kind: &'static str| move |n: usize| (format!("{kind}_{n}"), vec![format!("role_{}", n % ROLES)]);
    let wide =
        |n: usize| (format!("wide_{n}"), (0..SERVERS).map(|server| format!("wide_{n}_{server}")).collect());
    let share = SERVERS * TOOLS / ROLES;
    let mut longest = Duration::ZERO;
    for (what, callers, expected) in [
        ("the first of all", (0..1).map(of_role("fetching")).collect(), share),
        ("the first of each role", (0..ROLES).map(of_role("first")).collect(), share),
        ("fresh callers of ten roles", (0..CALLERS).map(of_role("fresh")).collect(), share),
        ("callers with 10,000 grants", (0..WIDE).map(wide).collect(), SERVERS * TOOLS),
    ] {
        longest = longest.max(measure(&bed, what, callers, expected).await);
    }
    assert!(longest <= PATIENCE, "a probe waited {longest:?}");
}
