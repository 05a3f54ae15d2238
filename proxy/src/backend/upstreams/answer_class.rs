//! Classifies an answer of a server by its status and media type.

use super::retry_after::retry_after;
use super::wire::Head;
use http::StatusCode;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, WWW_AUTHENTICATE};
use portunus_config::Credentials;
use portunus_filters::{Denial, Kind, Reason};

/// How an answer is handled.
#[derive(Debug, PartialEq)]
pub(crate) enum Class {
    /// An event stream.
    Events,
    /// A JSON body.
    Json {
        /// What becomes of one that does not answer the request.
        otherwise: Otherwise,
    },
    /// Passed on unread.
    Opaque,
    /// Only the status is passed on.
    Bare,
    /// No MCP answer: what the client is told, and what the operator is told.
    Denied(Denial, String),
}

/// What becomes of a JSON body that does not answer the request.
#[derive(Debug, PartialEq)]
pub(crate) enum Otherwise {
    /// It passes: a refusal may have a form of its own.
    Passes,
    /// It is no answer.
    Malformed,
    /// Its status says enough.
    Denied(Denial),
}

/// Tells what to do with the answer to a message of the kind `sent`.
pub(crate) fn classify(head: &Head, sent: Kind, credentials: &Credentials) -> Class {
    let status = head.status;
    let media = media(head);
    if challenged(head) && !matches!(credentials, Credentials::Passthrough) {
        return denied(Reason::UpstreamUnauthorized, "the server refused the gateway's credentials", status);
    }
    if status.is_redirection() {
        return denied(Reason::UpstreamMalformed, "the server redirects, which is not followed", status);
    }
    if let Some(denial) = not_now(head) {
        return match (sent, media) {
            (Kind::Request, Media::Json) => Class::Json { otherwise: Otherwise::Denied(denial) },
            _ => {
                let cause = format!("{} (HTTP {})", denial.detail, status.as_u16());
                Class::Denied(denial, cause)
            }
        };
    }
    if status.is_server_error() {
        return match (sent, media) {
            (Kind::Request, Media::Json) => Class::Json { otherwise: Otherwise::Malformed },
            _ if matches!(status.as_u16(), 502..=504) || sent != Kind::Request => {
                denied(Reason::UpstreamUnavailable, "the server is unavailable", status)
            }
            _ => denied(Reason::UpstreamMalformed, "the server failed without an answer", status),
        };
    }
    if status.is_client_error() {
        return match media {
            Media::Json => Class::Json { otherwise: Otherwise::Passes },
            Media::Html => Class::Bare,
            _ => Class::Opaque,
        };
    }
    let coded = head.headers.get_all(CONTENT_ENCODING).iter().any(|coding| coding.as_bytes() != b"identity");
    match (sent, media, status) {
        (Kind::Request | Kind::Stream, Media::Events, StatusCode::OK) if coded => Class::Opaque,
        (Kind::Request | Kind::Stream, Media::Events, StatusCode::OK) => Class::Events,
        (Kind::Request, Media::Json, StatusCode::OK) if coded => Class::Opaque,
        (Kind::Request, Media::Json, StatusCode::OK) => Class::Json { otherwise: Otherwise::Malformed },
        (Kind::Request | Kind::Stream, ..) => denied(
            Reason::UpstreamMalformed,
            "the server's answer is neither JSON nor an event stream",
            status,
        ),
        _ => Class::Opaque,
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Media {
    Json,
    Events,
    Html,
    Other,
}

fn media(head: &Head) -> Media {
    let value = head.headers.get(CONTENT_TYPE).map_or(&b""[..], |value| value.as_bytes());
    let media =
        value.split(|&byte| byte == b';').next().unwrap_or_default().trim_ascii().to_ascii_lowercase();
    match media.as_slice() {
        b"application/json" => Media::Json,
        b"text/event-stream" => Media::Events,
        b"text/html" | b"application/xhtml+xml" => Media::Html,
        _ => Media::Other,
    }
}

/// 429 and 503: the server will take the message at another time, which it may name. Whatever else such an
/// answer holds, it says nothing of the message, nor of who can read it.
pub(crate) fn not_now(head: &Head) -> Option<Denial> {
    let denial = match head.status {
        StatusCode::TOO_MANY_REQUESTS => {
            Denial::new(Reason::UpstreamLimited, "the server takes no more requests for now")
        }
        StatusCode::SERVICE_UNAVAILABLE => {
            Denial::new(Reason::UpstreamUnavailable, "the server is unavailable")
        }
        _ => return None,
    };
    Some(denial.retry_in(retry_after(&head.headers)))
}

/// Whether the status of a refusal is about the message, so that it tells which era the server speaks: it
/// is not about who sends it, when, or how much at once.
pub(crate) fn is_about_message(status: StatusCode) -> bool {
    let others = [401, 403, 407, 408, 413, 425, 429, 431];
    status.is_client_error() && !others.contains(&status.as_u16())
}

/// 401, or 403 with a challenge: about the credential, not about the message.
pub(crate) fn challenged(head: &Head) -> bool {
    let forbidden = head.status == StatusCode::FORBIDDEN && head.headers.contains_key(WWW_AUTHENTICATE);
    head.status == StatusCode::UNAUTHORIZED || forbidden
}

fn denied(reason: Reason, detail: &'static str, status: StatusCode) -> Class {
    Class::Denied(Denial::new(reason, detail), format!("{detail} (HTTP {})", status.as_u16()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::upstreams::wire::Framing;
    use http::HeaderMap;

    fn class(kind: Kind, status: u16, media: &str, more: &[(&'static str, &str)]) -> Class {
        let mut headers = HeaderMap::new();
        headers.insert("content-type", media.parse().unwrap());
        for (name, value) in more {
            headers.insert(*name, value.parse().unwrap());
        }
        let status = StatusCode::from_u16(status).unwrap();
        let head = Head { status, headers, framing: Framing::Close, keep_alive: false };
        classify(&head, kind, &Credentials::None)
    }

    #[test]
    fn answers_are_told_from_rubbish() {
        let cases = [
            (
                "JSON answer",
                Kind::Request,
                200,
                "application/json",
                Ok(Class::Json { otherwise: Otherwise::Malformed }),
            ),
            (
                "with parameters",
                Kind::Request,
                200,
                "Application/JSON; charset=utf-8",
                Ok(Class::Json { otherwise: Otherwise::Malformed }),
            ),
            ("stream answer", Kind::Request, 200, "text/event-stream", Ok(Class::Events)),
            ("HTML page", Kind::Request, 200, "text/html", Err(Reason::UpstreamMalformed)),
            ("202 to a request", Kind::Request, 202, "text/plain", Err(Reason::UpstreamMalformed)),
            ("redirect", Kind::Request, 307, "text/html", Err(Reason::UpstreamMalformed)),
            ("bad gateway page", Kind::Request, 502, "text/html", Err(Reason::UpstreamUnavailable)),
            ("stack trace", Kind::Request, 500, "text/html", Err(Reason::UpstreamMalformed)),
            (
                "JSON failure",
                Kind::Request,
                500,
                "application/json",
                Ok(Class::Json { otherwise: Otherwise::Malformed }),
            ),
            (
                "session gone",
                Kind::Request,
                404,
                "application/json",
                Ok(Class::Json { otherwise: Otherwise::Passes }),
            ),
            ("plain 404", Kind::Request, 404, "text/plain", Ok(Class::Opaque)),
            ("HTML 404", Kind::Request, 404, "text/html", Ok(Class::Bare)),
            ("unauthorized", Kind::Request, 401, "application/json", Err(Reason::UpstreamUnauthorized)),
            ("accepted", Kind::Notification, 202, "text/plain", Ok(Class::Opaque)),
            ("limited page", Kind::Request, 429, "text/html", Err(Reason::UpstreamLimited)),
            ("limited notification", Kind::Notification, 429, "text/html", Err(Reason::UpstreamLimited)),
            ("limited stream", Kind::Stream, 429, "text/plain", Err(Reason::UpstreamLimited)),
            ("unavailable page", Kind::Request, 503, "text/html", Err(Reason::UpstreamUnavailable)),
            ("notification lost", Kind::Notification, 500, "text/html", Err(Reason::UpstreamUnavailable)),
            ("GET stream", Kind::Stream, 200, "text/event-stream", Ok(Class::Events)),
            ("no GET stream", Kind::Stream, 405, "text/plain", Ok(Class::Opaque)),
            ("GET page", Kind::Stream, 200, "text/html", Err(Reason::UpstreamMalformed)),
            ("deleted", Kind::End, 200, "text/plain", Ok(Class::Opaque)),
        ];
        for (name, kind, status, media, expected) in cases {
            match class(kind, status, media, &[]) {
                Class::Denied(denial, _) => assert_eq!(Err(denial.reason), expected, "{name}"),
                other => assert_eq!(Ok(other), expected, "{name}"),
            }
        }
    }

    #[test]
    fn coded_answers_pass_unread_and_plain_403_is_no_challenge() {
        let gzip = [("content-encoding", "gzip")];
        assert_eq!(class(Kind::Request, 200, "text/event-stream", &gzip), Class::Opaque);
        assert_eq!(class(Kind::Request, 200, "application/json", &gzip), Class::Opaque);
        assert_eq!(
            class(Kind::Request, 403, "application/json", &[]),
            Class::Json { otherwise: Otherwise::Passes }
        );
        let challenge = [("www-authenticate", "Bearer")];
        assert!(matches!(class(Kind::Request, 403, "application/json", &challenge), Class::Denied(..)));
    }
}
