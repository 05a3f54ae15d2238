//! Which eras a server speaks, found out as clients find it out: `server/discover`, `initialize`.
//!
//! A client reads a refusal in a 4xx, an unknown method or another result as "the other era"; a
//! server error, a silence or a redirect tells it nothing, and some clients then give up. Such a
//! server is served with a pinned `era`: the gateway answers clients of the other one itself.

use super::report::Stage;
use super::talk::{Reply, Talk, client};
use super::visit::{Visit, object};
use crate::json::Json;
use crate::link::{Answer, Content, Trouble, Until};
use http::StatusCode;
use portunus_base::text;
use portunus_config::EraMode;
use portunus_filters::Era;
use portunus_filters::mcp::Revision;
use serde_json::json;

/// JSON-RPC code of a server that speaks other revisions (2026-07-28 basic, "Error Codes").
const UNSUPPORTED_VERSION: i64 = -32022;
const METHOD_NOT_FOUND: i64 = -32601;

/// What an answer says of an era.
enum Sign {
    /// It is spoken; the result of the first message.
    Spoken(Json),
    /// It is not, in a way that clients understand; why, in safe words.
    Foreign(String),
    /// Nothing; why, in safe words.
    Unclear(String),
    /// Credentials are wanted, or others.
    Locked(String),
}

impl Visit {
    /// Tries both eras; fails unless one is spoken.
    pub(super) async fn find_eras(&mut self) -> Option<()> {
        self.steps.begin(Stage::Discover);
        let (modern, first) = self.discover().await;
        if let Sign::Locked(why) = &modern {
            return self.locked(why);
        }
        self.record_modern(&modern);
        self.steps.begin(Stage::Initialize);
        let (legacy, second) = self.initialize().await;
        if let (Sign::Locked(why), false) = (&legacy, self.modern.is_some()) {
            return self.locked(why);
        }
        if self.modern.is_none() && self.legacy.is_none() {
            return self.nothing_spoken(&legacy, first.or(second)).await;
        }
        self.server.pin = self.pin(&modern, &legacy);
        self.record_legacy(&legacy).await;
        Some(())
    }

    async fn discover(&mut self) -> (Sign, Option<StatusCode>) {
        let mut talk = Talk::modern();
        let answer = talk.call(&self.link, "server/discover", object(json!({}))).await;
        let status = answer.as_ref().ok().map(|answer| answer.status);
        let sign = match sign(answer, &mut self.server.resumable) {
            Sign::Spoken(result) => {
                let listed = revisions(result.get("supportedVersions"));
                match listed.iter().any(|revision| is_modern(revision)) {
                    true => {
                        self.introduce(Era::Modern, &result);
                        self.server.modern = Some(listed);
                        self.modern = Some(talk);
                        Sign::Spoken(result)
                    }
                    false => Sign::Foreign(format!("it lists {}", shown(&listed))),
                }
            }
            sign => sign,
        };
        (sign, status)
    }

    fn record_modern(&mut self, sign: &Sign) {
        match sign {
            Sign::Spoken(_) => {
                let listed = shown(self.server.modern.as_deref().unwrap_or_default());
                let title = self.server.title();
                self.steps.good(format!("{title} speaks {listed}"));
            }
            Sign::Foreign(why) => self.steps.absent(format!("not a 2026-07-28 server: {why}")),
            Sign::Unclear(why) | Sign::Locked(why) => self.steps.doubt(why.clone(), Vec::new()),
        }
    }

    async fn initialize(&mut self) -> (Sign, Option<StatusCode>) {
        let mut talk = Talk::legacy();
        let params = json!({
            "protocolVersion": Revision::V2025_11_25.as_str(),
            "capabilities": {},
            "clientInfo": client(),
        });
        let answer = talk.call(&self.link, "initialize", object(params)).await;
        let status = answer.as_ref().ok().map(|answer| answer.status);
        let session = answer.as_ref().ok().and_then(|answer| answer.field("mcp-session-id"));
        let session = session.map(str::to_owned);
        let sign = match sign(answer, &mut self.server.resumable) {
            Sign::Spoken(result) => match result.get("protocolVersion").and_then(Json::text) {
                Some(revision) if is_legacy(revision) => {
                    self.introduce(Era::Legacy, &result);
                    self.server.legacy = Some(revision.to_owned());
                    self.server.session = session.is_some();
                    talk.agree(revision.to_owned(), session);
                    self.legacy = Some(talk);
                    Sign::Spoken(result)
                }
                Some(revision) => Sign::Foreign(format!("it answers with revision {}", text::json(revision))),
                None => Sign::Unclear("the result of `initialize` has no `protocolVersion`".to_owned()),
            },
            sign => sign,
        };
        (sign, status)
    }

    /// Says what `initialize` brought, after the notification that concludes it.
    async fn record_legacy(&mut self, sign: &Sign) {
        let Some(talk) = &self.legacy else {
            match sign {
                Sign::Foreign(why) => self.steps.absent(format!("not a server up to 2025-11-25: {why}")),
                Sign::Unclear(why) | Sign::Locked(why) => self.steps.doubt(why.clone(), self.pin_hint()),
                Sign::Spoken(_) => {}
            }
            return;
        };
        let concluded = talk.notify(&self.link, "notifications/initialized").await;
        let revision = self.server.legacy.clone().unwrap_or_default();
        let kept = if self.server.session { "with a session" } else { "without sessions" };
        let detail = format!("{} speaks {revision}, {kept}", self.server.title());
        let mut hints = self.pin_hint();
        match concluded {
            Ok(answer) if answer.status == StatusCode::ACCEPTED => {}
            Ok(answer) => hints.push(format!(
                "a notification gets HTTP {} instead of 202: some clients then open no stream",
                answer.status.as_u16()
            )),
            Err(trouble) => hints.push(format!("`notifications/initialized`: {trouble}")),
        }
        match hints.is_empty() {
            true => self.steps.good(detail),
            false => self.steps.doubt(detail, hints),
        }
    }

    /// The era that has to be pinned because the other one's clients would get no clear answer.
    fn pin(&self, modern: &Sign, legacy: &Sign) -> Option<(EraMode, String)> {
        match (modern, legacy) {
            (Sign::Unclear(why), Sign::Spoken(_)) => {
                Some((EraMode::Legacy, format!("server/discover: {why}")))
            }
            (Sign::Spoken(_), Sign::Unclear(why) | Sign::Locked(why)) => {
                Some((EraMode::Modern, format!("initialize: {why}")))
            }
            _ => None,
        }
    }

    fn pin_hint(&self) -> Vec<String> {
        let hint = |(era, _): &(EraMode, String)| {
            let other = if *era == EraMode::Legacy { "server/discover" } else { "initialize" };
            format!(
                "write `era: {}` at the upstream: the server's answer to `{other}` misleads clients",
                era.as_str()
            )
        };
        self.server.pin.iter().map(hint).collect()
    }

    fn locked(&mut self, why: &str) -> Option<()> {
        let hint = match self.link.upstream.credentials {
            portunus_config::Credentials::None => {
                "the server wants credentials: put a token into a variable, and give `--bearer env:NAME`"
            }
            _ => "the server does not accept this credential: look at its value, scope and expiry",
        };
        self.steps.fail(why, hint)
    }

    async fn nothing_spoken(&mut self, legacy: &Sign, status: Option<StatusCode>) -> Option<()> {
        let why = match legacy {
            Sign::Foreign(why) | Sign::Unclear(why) | Sign::Locked(why) => why.clone(),
            Sign::Spoken(_) => "no revision in common".to_owned(),
        };
        if status.is_some_and(|status| status.is_client_error()) && self.is_old_transport().await {
            return self.steps.fail(
                "this is the deprecated HTTP+SSE transport of 2024-11-05",
                "look for the streamable HTTP endpoint of the same server, often `/mcp`",
            );
        }
        let hint = match status.map(|status| status.as_u16()) {
            Some(404 | 405) => "no MCP server is at this path: most are at `/mcp`",
            Some(403 | 421) => "the server refuses this Host: let it accept the one in the URL",
            Some(300..=399) => "a gateway follows no redirect: give the URL that it leads to",
            Some(500..=599) => "the server is at fault: look at its log",
            None => "look whether the server hangs, or speaks another protocol on this port",
            _ => "no MCP server that speaks streamable HTTP answers here",
        };
        self.steps.fail(why, hint)
    }

    /// GET of the old transport begins with an event that names where to post.
    async fn is_old_transport(&self) -> bool {
        let answer = Talk::legacy().listen(&self.link, self.within, Until::Event).await;
        matches!(answer.map(|answer| answer.content), Ok(Content::Event(name)) if name == "endpoint")
    }
}

fn sign(answer: Result<Answer, Trouble>, resumable: &mut bool) -> Sign {
    let answer = match answer {
        Ok(answer) => answer,
        Err(trouble) => return Sign::Unclear(trouble.to_string()),
    };
    *resumable |= answer.resumable;
    let reply = Reply::of(&answer);
    let told = reply.shown(answer.status);
    match (answer.status.as_u16(), reply) {
        (401, _) => Sign::Locked(challenge(&answer, 401)),
        (403, _) if answer.headers.contains_key("www-authenticate") => Sign::Locked(challenge(&answer, 403)),
        (300..=399, _) => Sign::Unclear(redirect(&answer)),
        (500..=599, _) => Sign::Unclear(told),
        (200..=299, Reply::Result(result)) => Sign::Spoken(result),
        (_, Reply::Error(UNSUPPORTED_VERSION, _, data)) => {
            Sign::Foreign(format!("it supports {}", shown(&revisions(data.get("supported")))))
        }
        (200..=299, Reply::Error(METHOD_NOT_FOUND, ..)) | (400..=499, _) | (_, Reply::Error(..)) => {
            Sign::Foreign(told)
        }
        _ => Sign::Unclear(told),
    }
}

fn challenge(answer: &Answer, status: u16) -> String {
    match answer.field("www-authenticate") {
        Some(challenge) => format!("HTTP {status}, it asks for {}", text::json(challenge)),
        None => format!("HTTP {status}"),
    }
}

fn redirect(answer: &Answer) -> String {
    let status = answer.status.as_u16();
    match answer.field("location") {
        Some(to) => format!("HTTP {status}, it redirects to {}", text::json(to)),
        None => format!("HTTP {status}"),
    }
}

fn revisions(list: Option<&Json>) -> Vec<String> {
    let items = list.map(Json::items).unwrap_or_default();
    items.iter().filter_map(Json::text).map(str::to_owned).collect()
}

fn shown(revisions: &[String]) -> String {
    let known: Vec<String> = revisions.iter().take(8).map(|revision| text::json(revision)).collect();
    if known.is_empty() { "no revision".to_owned() } else { known.join(", ").replace('"', "") }
}

fn is_modern(revision: &str) -> bool {
    Revision::parse(revision).is_some_and(|revision| revision.era() == Era::Modern)
}

fn is_legacy(revision: &str) -> bool {
    Revision::parse(revision).is_some_and(|revision| revision.era() == Era::Legacy)
}
