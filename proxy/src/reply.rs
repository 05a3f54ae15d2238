//! Answers of our own: the one table from a [`Reason`] to what the client gets.
//!
//! Clients were measured: only HTTP 200 with the request's id is understood by all of them, any
//! other status ends whole sessions of one SDK. So a request whose id is known is refused in band,
//! except where the specification fixes a status or a client reads one as something else (the
//! era, the session, authorization).

use bytes::Bytes;
use http::StatusCode;
use portunus_base::text::json;
use portunus_config::HttpStatus;
use portunus_filters::mcp::{Id, Method};
use portunus_filters::{Denial, Era, Kind, Reason};

/// The member of a result's `_meta` that says why a tool call was refused, in the words of `error.data`.
const DENIAL: &str = "io.portunus/denial";

/// What is known of the message that is refused.
#[derive(Debug, Default)]
pub struct Refused<'a> {
    /// Its kind; `None` if it could not be read.
    pub kind: Option<Kind>,
    /// Its era, or the likely one.
    pub era: Option<Era>,
    /// Ids of its requests; more than one only in a batch.
    pub ids: &'a [Id],
    /// It is a batch.
    pub batch: bool,
    /// Its method.
    pub method: Option<&'a Method>,
    /// Whether the virtual server wants refusals as HTTP statuses.
    pub http_status: HttpStatus,
}

/// An answer, but for the headers that every answer carries.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    /// HTTP status.
    pub status: StatusCode,
    /// JSON, or empty.
    pub body: Bytes,
    /// Value of `Allow`, for 405.
    pub allow: Option<&'static str>,
    /// Value of `Retry-After` in seconds.
    pub retry_after: Option<u32>,
    /// The connection cannot be used again.
    pub close: bool,
}

/// How a reason looks on the wire.
struct Row {
    status: StatusCode,
    code: i64,
    /// A request whose id is known gets HTTP 200.
    in_band: bool,
}

const fn fixed(status: StatusCode, code: i64) -> Row {
    Row { status, code, in_band: false }
}

const fn in_band(status: StatusCode, code: i64) -> Row {
    Row { status, code, in_band: true }
}

#[expect(clippy::too_many_lines, reason = "one row for each reason")]
fn row(reason: Reason, era: Era) -> Row {
    match reason {
        Reason::MalformedHttp => fixed(StatusCode::BAD_REQUEST, -32600),
        Reason::HeadersTooLarge => fixed(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, -32600),
        Reason::RequestTimeout => fixed(StatusCode::REQUEST_TIMEOUT, -31408),
        Reason::Overloaded | Reason::IdentityUnavailable => fixed(StatusCode::SERVICE_UNAVAILABLE, -31503),
        Reason::ForbiddenHost | Reason::ForbiddenOrigin => fixed(StatusCode::FORBIDDEN, -32600),
        Reason::UnknownRoute => fixed(StatusCode::NOT_FOUND, -31404),
        Reason::Unauthenticated | Reason::InvalidToken => fixed(StatusCode::UNAUTHORIZED, -31401),
        Reason::StepUpRequired => fixed(StatusCode::UNAUTHORIZED, -31401),
        Reason::InsufficientScope => fixed(StatusCode::FORBIDDEN, -31403),
        Reason::Forbidden | Reason::ApprovalRequired | Reason::PolicyError => {
            in_band(StatusCode::FORBIDDEN, -31403)
        }
        Reason::PolicyLimited
        | Reason::RateLimited
        | Reason::QuotaSpent
        | Reason::BudgetSpent
        | Reason::ConcurrencyReached
        | Reason::LoopDetected => in_band(StatusCode::TOO_MANY_REQUESTS, -31429),
        Reason::ResultTooLarge => in_band(StatusCode::FORBIDDEN, -31413),
        Reason::MethodNotAllowed => fixed(StatusCode::METHOD_NOT_ALLOWED, -32600),
        Reason::UnsupportedMediaType => fixed(StatusCode::UNSUPPORTED_MEDIA_TYPE, -32600),
        Reason::NotAcceptable => fixed(StatusCode::NOT_ACCEPTABLE, -32600),
        Reason::BodyTooLarge | Reason::BoundsExceeded => match era {
            Era::Legacy => in_band(StatusCode::PAYLOAD_TOO_LARGE, -31413),
            Era::Modern => fixed(StatusCode::PAYLOAD_TOO_LARGE, -31413),
        },
        Reason::ParseError => fixed(StatusCode::BAD_REQUEST, -32700),
        Reason::InvalidRequest => fixed(StatusCode::BAD_REQUEST, -32600),
        Reason::HeaderMismatch => fixed(StatusCode::BAD_REQUEST, -32020),
        Reason::UnsupportedVersion => match era {
            Era::Legacy => fixed(StatusCode::BAD_REQUEST, -32600),
            Era::Modern => fixed(StatusCode::BAD_REQUEST, -32022),
        },
        Reason::InvalidEnvelope => fixed(StatusCode::BAD_REQUEST, -32602),
        Reason::UnknownTool | Reason::UnknownPrompt | Reason::InvalidParams | Reason::UnknownState => {
            in_band(StatusCode::BAD_REQUEST, -32602)
        }
        Reason::UnknownResource => match era {
            Era::Legacy => in_band(StatusCode::NOT_FOUND, -32002),
            Era::Modern => in_band(StatusCode::NOT_FOUND, -32602),
        },
        Reason::UnknownMethod => match era {
            Era::Legacy => in_band(StatusCode::NOT_FOUND, -32601),
            Era::Modern => fixed(StatusCode::NOT_FOUND, -32601),
        },
        Reason::MissingCapability => match era {
            Era::Legacy => in_band(StatusCode::BAD_REQUEST, -32603),
            Era::Modern => fixed(StatusCode::BAD_REQUEST, -32021),
        },
        Reason::MissingSession => fixed(StatusCode::BAD_REQUEST, -32600),
        Reason::UnknownSession => fixed(StatusCode::NOT_FOUND, -32600),
        Reason::UpstreamUnavailable
        | Reason::Draining
        | Reason::RouteRemoved
        | Reason::Crowded
        | Reason::ReplicaLost
        | Reason::AnswerLost => in_band(StatusCode::SERVICE_UNAVAILABLE, -31503),
        Reason::UpstreamLimited => in_band(StatusCode::TOO_MANY_REQUESTS, -31429),
        Reason::Untranslatable | Reason::EraMismatch => in_band(StatusCode::BAD_GATEWAY, -32603),
        Reason::UpstreamTimeout => in_band(StatusCode::GATEWAY_TIMEOUT, -31504),
        Reason::UpstreamMalformed | Reason::UpstreamUnauthorized | Reason::UpstreamUntrusted => {
            in_band(StatusCode::BAD_GATEWAY, -31502)
        }
    }
}

/// The answer to a refused message.
pub fn refuse(denial: &Denial, refused: &Refused<'_>, request_id: &str) -> Answer {
    let row = row(denial.reason, refused.era.unwrap_or(Era::Legacy));
    let bare = |status| Answer { status, body: Bytes::new(), allow: None, retry_after: None, close: false };
    if row.in_band && matches!(refused.kind, Some(Kind::Notification | Kind::Response)) {
        // Nobody waits for an answer to it, and any other status ends the session of one SDK.
        return bare(StatusCode::ACCEPTED);
    }
    let probes = refused.method.and_then(Method::rules).is_some_and(|rules| rules.probes_era);
    let visible =
        row.in_band && !refused.ids.is_empty() && !probes && refused.http_status == HttpStatus::InBand;
    let is_call = refused.method.is_some_and(|method| method.name() == "tools/call");
    let for_model = visible && is_call && !refused.batch && is_for_model(denial.reason);
    let challenge = denial.challenge.as_ref().filter(|_| !refused.batch);
    let challenged = challenge.and_then(|challenge| StatusCode::from_u16(challenge.status).ok());
    Answer {
        // A client shows other credentials when it is asked by the status, and not otherwise.
        status: challenged.unwrap_or(if visible { StatusCode::OK } else { row.status }),
        body: Bytes::from(match refused.ids {
            [id] if for_model => tool_result(row.code, denial, (id, refused.era), request_id),
            _ => body(row.code, denial, refused, request_id),
        }),
        // 2026-07-28 streamable HTTP, "Earlier Revisions": POST is all that its endpoints take.
        allow: (row.status == StatusCode::METHOD_NOT_ALLOWED).then_some(match refused.era {
            Some(Era::Modern) => "POST, OPTIONS",
            _ => "GET, POST, DELETE, OPTIONS",
        }),
        retry_after: retry_after(denial),
        close: closes(denial.reason),
    }
}

/// When it is worth coming back, in seconds: as long as the denial says, if it says so.
fn retry_after(denial: &Denial) -> Option<u32> {
    let soon = [Reason::Overloaded, Reason::Draining, Reason::IdentityUnavailable].contains(&denial.reason);
    let told =
        denial.retry_after().map(|told| u32::try_from(told.as_millis().div_ceil(1000)).unwrap_or(u32::MAX));
    told.or(soon.then_some(1))
}

/// The refusal as the last event of a stream that has already begun; without an id, so that a
/// client never resumes from it.
pub fn last_event(denial: &Denial, id: &Id, era: Era, request_id: &str) -> Bytes {
    let body = error(row(denial.reason, era).code, denial, Some(id), request_id);
    Bytes::from(format!("event: message\ndata: {body}\n\n"))
}

/// The same for every request that is still open; `None` without one.
pub fn last_events(denial: &Denial, ids: &[Id], era: Era, request_id: &str) -> Option<Bytes> {
    let events = ids.iter().map(|id| last_event(denial, id, era, request_id));
    let joined = events.flat_map(|event| event.to_vec()).collect::<Vec<u8>>();
    (!ids.is_empty()).then(|| joined.into())
}

/// The answer that takes the place of one that a legacy client can no longer have.
pub fn lost(denial: &Denial, id: &Id, request_id: &str) -> String {
    error(row(denial.reason, Era::Legacy).code, denial, Some(id), request_id)
}

/// The graceful end of `subscriptions/listen` (2026-07-28, patterns/subscriptions).
pub fn listen_complete(id: &Id) -> Bytes {
    let id = id.as_json();
    Bytes::from(format!(
        "event: message\ndata: {{\"jsonrpc\":\"2.0\",\"id\":{id},\"result\":{{\"resultType\":\"complete\",\
         \"_meta\":{{\"io.modelcontextprotocol/subscriptionId\":{id}}}}}}}\n\n"
    ))
}

/// The refusal of what the end of the process cuts short.
pub fn draining() -> Denial {
    Denial::new(Reason::Draining, "the gateway is shutting down")
}

/// The refusal of a caller whose authorization has ended.
pub fn caller_lost() -> Denial {
    Denial::new(Reason::InvalidToken, "what was shown is not accepted here any more")
}

/// The refusal of what another replica has and does not serve.
pub fn replica_lost() -> Denial {
    Denial::new(Reason::ReplicaLost, "the replica that keeps this session does not answer")
}

/// The refusal of what a new configuration no longer serves.
pub fn route_removed() -> Denial {
    Denial::new(Reason::RouteRemoved, "this endpoint is no longer served")
}

/// Whether the connection cannot be trusted, or is not worth it, after this refusal.
fn closes(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::MalformedHttp | Reason::HeadersTooLarge | Reason::RequestTimeout | Reason::Overloaded
    )
}

/// True if a refused tool call is answered by a result: the model that made the call can do something about the refusal,
/// and clients show their models results rather than errors (MCP 2025-11-25, server/tools, "Error Handling").
fn is_for_model(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::RateLimited
            | Reason::QuotaSpent
            | Reason::BudgetSpent
            | Reason::ConcurrencyReached
            | Reason::LoopDetected
    )
}

/// The result of a tool call that is refused.
fn tool_result(code: i64, denial: &Denial, (id, era): (&Id, Option<Era>), request_id: &str) -> String {
    let complete = if era == Some(Era::Modern) { ",\"resultType\":\"complete\"" } else { "" };
    format!(
        "{{\"jsonrpc\":\"2.0\",\"id\":{},\"result\":{{\"content\":[{{\"type\":\"text\",\"text\":{}}}],\"isError\":true{complete},\
         \"_meta\":{{\"{DENIAL}\":{{\"code\":{code},{}}}}}}}}}",
        id.as_json(),
        json(&denial.detail),
        data(denial, request_id)
    )
}

/// One error, or one for each request of a batch (JSON-RPC 2.0 §6).
fn body(code: i64, denial: &Denial, refused: &Refused<'_>, request_id: &str) -> String {
    if !refused.batch || refused.ids.is_empty() {
        return error(code, denial, refused.ids.first(), request_id);
    }
    let errors: Vec<String> =
        refused.ids.iter().map(|id| error(code, denial, Some(id), request_id)).collect();
    format!("[{}]", errors.join(","))
}

fn error(code: i64, denial: &Denial, id: Option<&Id>, request_id: &str) -> String {
    let id = id.map_or("null", Id::as_json);
    let data = data(denial, request_id);
    let message = json(&denial.detail);
    format!(
        "{{\"jsonrpc\":\"2.0\",\"id\":{id},\"error\":{{\"code\":{code},\"message\":{message},\"data\":{{{data}}}}}}}"
    )
}

/// The members of `error.data`.
fn data(denial: &Denial, request_id: &str) -> String {
    let mut data =
        format!("\"reason\":\"{}\",\"origin\":\"gateway\",\"requestId\":{}", denial.reason, json(request_id));
    for (key, value) in &denial.data {
        data.push_str(&format!(",\"{key}\":{value}"));
    }
    data
}

#[cfg(test)]
mod tests {
    use super::*;
    use portunus_filters::mcp::Envelope;

    fn id() -> Id {
        Envelope::read(r#"{"jsonrpc":"2.0","id":7,"result":{}}"#).unwrap().id.unwrap()
    }

    fn status(reason: Reason, refused: &Refused<'_>) -> u16 {
        refuse(&Denial::new(reason, "text"), refused, "r").status.as_u16()
    }

    #[test]
    fn each_reason_has_the_status_its_clients_understand() {
        let ids = [id()];
        let call = Method::of("tools/call");
        let discover = Method::of("server/discover");
        let request = |era, method| Refused {
            kind: Some(Kind::Request),
            era: Some(era),
            ids: &ids,
            batch: false,
            method: Some(method),
            http_status: HttpStatus::InBand,
        };
        let legacy = request(Era::Legacy, &call);
        let modern = request(Era::Modern, &call);
        let probe = request(Era::Modern, &discover);
        let mirror = Refused { http_status: HttpStatus::Mirror, ..request(Era::Modern, &call) };
        let stream = Refused { kind: Some(Kind::Stream), era: Some(Era::Legacy), ..Refused::default() };
        let notification =
            Refused { kind: Some(Kind::Notification), era: Some(Era::Legacy), ..Refused::default() };
        let response = Refused { kind: Some(Kind::Response), era: Some(Era::Legacy), ..Refused::default() };
        let unread = Refused::default();
        let cases = [
            ("a call to a dead upstream", Reason::UpstreamUnavailable, &legacy, 200),
            ("the same, mirrored", Reason::UpstreamUnavailable, &mirror, 503),
            ("a probe of a dead upstream", Reason::UpstreamUnavailable, &probe, 503),
            ("a stream of a dead upstream", Reason::UpstreamUnavailable, &stream, 503),
            ("a notification to a dead upstream", Reason::UpstreamUnavailable, &notification, 202),
            ("an answer to a dead upstream", Reason::UpstreamUnavailable, &response, 202),
            ("a call to a limited upstream", Reason::UpstreamLimited, &legacy, 200),
            ("the same, mirrored", Reason::UpstreamLimited, &mirror, 429),
            ("a probe of a limited upstream", Reason::UpstreamLimited, &probe, 429),
            ("a slow upstream", Reason::UpstreamTimeout, &modern, 200),
            ("a slow probe", Reason::UpstreamTimeout, &probe, 504),
            ("rubbish", Reason::UpstreamMalformed, &legacy, 200),
            ("too large, legacy", Reason::BodyTooLarge, &legacy, 200),
            ("too large, modern", Reason::BodyTooLarge, &modern, 413),
            ("too large, unread", Reason::BodyTooLarge, &unread, 413),
            ("headers contradict", Reason::HeaderMismatch, &modern, 400),
            ("headers contradict in a notification", Reason::HeaderMismatch, &notification, 400),
            ("not JSON", Reason::ParseError, &unread, 400),
            ("foreign origin", Reason::ForbiddenOrigin, &unread, 403),
        ];
        for (name, reason, refused, expected) in cases {
            assert_eq!(status(reason, refused), expected, "{name}");
        }
    }

    #[test]
    fn an_error_names_its_request_and_reason_and_nothing_else() {
        let ids = [id()];
        let denial =
            Denial::new(Reason::UpstreamTimeout, "no answer in time").with("retryAfterMs", "500".into());
        let refused = Refused { kind: Some(Kind::Request), ids: &ids, ..Refused::default() };
        let body = refuse(&denial, &refused, "r-1").body;
        let expected = serde_json::json!({"jsonrpc": "2.0", "id": 7, "error": {
            "code": -31504, "message": "no answer in time",
            "data": {"reason": "upstream_timeout", "origin": "gateway", "requestId": "r-1", "retryAfterMs": 500}}});
        assert_eq!(serde_json::from_slice::<serde_json::Value>(&body).unwrap(), expected);
    }

    #[test]
    fn tool_call_beyond_a_limit_is_answered_for_its_model_and_all_else_by_an_error() {
        let ids = [id()];
        let denial =
            Denial::new(Reason::RateLimited, "try again \"soon\"").with("retryAfterMs", "500".into());
        let answer = |method: &str, change: fn(&mut Refused<'_>)| {
            let method = Method::of(method);
            let mut refused = Refused {
                kind: Some(Kind::Request),
                era: Some(Era::Modern),
                ids: &ids,
                method: Some(&method),
                ..Refused::default()
            };
            change(&mut refused);
            let answer = refuse(&denial, &refused, "r-1");
            (answer.status.as_u16(), serde_json::from_slice::<serde_json::Value>(&answer.body).unwrap())
        };
        let (status, said) = answer("tools/call", |_| {});
        let expected = serde_json::json!({"jsonrpc": "2.0", "id": 7, "result": {
            "content": [{"type": "text", "text": "try again \"soon\""}], "isError": true, "resultType": "complete",
            "_meta": {"io.portunus/denial": {"code": -31429, "reason": "rate_limited", "origin": "gateway",
                "requestId": "r-1", "retryAfterMs": 500}}}});
        assert_eq!((status, said), (200, expected));
        let legacy = answer("tools/call", |refused| refused.era = Some(Era::Legacy)).1;
        assert!(
            legacy["result"]["isError"] == true && legacy["result"].get("resultType").is_none(),
            "{legacy}"
        );
        type Change = fn(&mut Refused<'_>);
        let others: [(&str, u16, Change); 3] = [
            ("prompts/get", 200, |_| {}),
            ("tools/call", 429, |refused| refused.http_status = HttpStatus::Mirror),
            ("tools/call", 200, |refused| refused.batch = true),
        ];
        for (method, expected, change) in others {
            let (status, said) = answer(method, change);
            let error = if said.is_array() { &said[0]["error"] } else { &said["error"] };
            assert_eq!((status, &error["code"]), (expected, &serde_json::json!(-31429)), "{method} {said}");
        }
    }

    #[test]
    fn a_batch_is_refused_request_by_request() {
        let ids = [id(), Envelope::read(r#"{"jsonrpc":"2.0","id":"b","result":{}}"#).unwrap().id.unwrap()];
        let refused = Refused { kind: Some(Kind::Request), ids: &ids, batch: true, ..Refused::default() };
        let answer = refuse(&Denial::new(Reason::UpstreamUnavailable, "gone"), &refused, "r");
        let body: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
        assert_eq!((answer.status.as_u16(), &body[0]["id"], &body[1]["id"]), (200, &7.into(), &"b".into()));
    }

    #[test]
    fn own_codes_keep_out_of_the_reserved_range() {
        for reason in Reason::ALL {
            for era in [Era::Legacy, Era::Modern] {
                let code = row(*reason, era).code;
                let standard = matches!(code, -32700 | -32603..=-32600 | -32022..=-32020 | -32002);
                assert!(standard || !(-32768..=-32000).contains(&code), "{reason} {code}");
            }
        }
    }

    #[test]
    fn stream_ends_are_events_without_an_id_line() {
        let denial = Denial::new(Reason::UpstreamUnavailable, "broke off");
        for event in [last_event(&denial, &id(), Era::Modern, "r"), listen_complete(&id())] {
            let text = String::from_utf8(event.to_vec()).unwrap();
            assert!(text.ends_with("\n\n") && !text.lines().any(|line| line.starts_with("id:")), "{text}");
            let data = text.lines().find_map(|line| line.strip_prefix("data: ")).unwrap();
            assert_eq!(serde_json::from_str::<serde_json::Value>(data).unwrap()["id"], 7);
        }
    }
}
