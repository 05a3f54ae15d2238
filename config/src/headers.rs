//! Which header fields a document may touch, and which are the gateway's own.

use http::{HeaderName, header};

use crate::caller::CallerFact;

/// Why a document may not touch a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) problem: &'static str,
    pub(crate) hint: &'static str,
}

/// A field that `headers.set` may name.
pub(crate) fn settable(text: &str) -> Result<HeaderName, Refusal> {
    let name = removable(text)?;
    match name == header::AUTHORIZATION {
        true => Err(Refusal {
            problem: "`Authorization` is not set as a header",
            hint: "write `credentials: {bearer: REFERENCE}`",
        }),
        false => Ok(name),
    }
}

/// A field that `headers.remove` may name.
pub(crate) fn removable(text: &str) -> Result<HeaderName, Refusal> {
    let name = credential(text)?;
    let owned = [header::CONTENT_TYPE, header::CONTENT_ENCODING, header::ACCEPT, header::ACCEPT_ENCODING];
    match owned.contains(&name) || name == header::FORWARDED {
        true => Err(OWNED),
        false => Ok(name),
    }
}

/// A field that may carry a credential.
pub(crate) fn credential(text: &str) -> Result<HeaderName, Refusal> {
    let name = HeaderName::try_from(text)
        .map_err(|_| Refusal { problem: "no header name", hint: "use letters, digits and `-`" })?;
    if !name.as_str().bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') {
        return Err(AMBIGUOUS);
    }
    let framing = [
        "connection",
        "content-length",
        "expect",
        "host",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    ];
    let ours = ["mcp-", CallerFact::HEADER_PREFIX].iter().any(|start| name.as_str().starts_with(start));
    match framing.contains(&name.as_str()) || ours {
        true => Err(OWNED),
        false => Ok(name),
    }
}

/// Whether a field is known to carry a credential, so that its value is never shown.
pub(crate) fn carries_credential(name: &HeaderName) -> bool {
    let name = name.as_str();
    matches!(name, "authorization" | "cookie" | "api-key" | "apikey")
        || ["-key", "-token", "-secret", "-password", "-authorization"].iter().any(|end| name.ends_with(end))
}

const OWNED: Refusal = Refusal {
    problem: "this field belongs to the gateway: it frames, routes or describes the message",
    hint: "leave it out; for `Host` there is `host: preserve`",
};

/// CGI, WSGI and Rack hand `X-Team` and `X_Team` to a program under one name (RFC 3875 §4.1.18).
const AMBIGUOUS: Refusal = Refusal {
    problem: "many servers read this name as another one: `_` and `.` as `-`",
    hint: "use letters, digits and `-`; clients' fields with other characters never pass the gateway",
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gateway_keeps_its_own_fields() {
        let table = [
            ("X-Team", true, true, true),
            ("X-Api-Key", true, true, true),
            ("Cookie", true, true, true),
            ("Authorization", false, true, true),
            ("Content-Type", false, false, true),
            ("Accept", false, false, true),
            ("Accept-Encoding", false, false, true),
            ("Content-Encoding", false, false, true),
            ("Forwarded", false, false, true),
            ("Host", false, false, false),
            ("Connection", false, false, false),
            ("Keep-Alive", false, false, false),
            ("Proxy-Authorization", false, false, false),
            ("Proxy-Authenticate", false, false, false),
            ("Proxy-Connection", false, false, false),
            ("TE", false, false, false),
            ("Trailer", false, false, false),
            ("Transfer-Encoding", false, false, false),
            ("Upgrade", false, false, false),
            ("Expect", false, false, false),
            ("Content-Length", false, false, false),
            ("Mcp-Session-Id", false, false, false),
            ("mcp-name", false, false, false),
            ("X-Portunus-Subject", false, false, false),
            ("X_Team", false, false, false),
            ("X.Team", false, false, false),
            ("X-Portunus_Subject", false, false, false),
            ("a b", false, false, false),
            ("", false, false, false),
        ];
        for (name, set, remove, carry) in table {
            let allowed = (settable(name).is_ok(), removable(name).is_ok(), credential(name).is_ok());
            assert_eq!(allowed, (set, remove, carry), "{name}");
        }
    }

    #[test]
    fn fields_that_carry_credentials_are_known_by_name() {
        for (name, expected) in [
            ("x-api-key", true),
            ("cookie", true),
            ("x-auth-token", true),
            ("x-team", false),
            ("x-token-limit", false),
        ] {
            assert_eq!(carries_credential(&HeaderName::from_static(name)), expected, "{name}");
        }
    }
}
