//! Which header fields no client may send.
//!
//! They are dropped before anything reads a request, so that no stage has to think of them.

use http::{HeaderMap, HeaderName};
use portunus_config::CallerFact;

/// Drops the fields that no client may send. Each request passes here before anything reads its headers,
/// whatever protocol and listener it came by, and whatever becomes of it.
pub fn strip(headers: &mut HeaderMap) {
    let dropped = |name: &&HeaderName| {
        let name = name.as_str();
        is_reserved(name) || !has_one_reading(name)
    };
    let dropped: Vec<HeaderName> = headers.keys().filter(dropped).cloned().collect();
    for name in dropped {
        headers.remove(name);
    }
}

/// Whether every server reads this name as itself. CGI, WSGI and Rack hand `X-Team`, `X_Team` and, some of
/// them, `X.Team` to a program under one name (RFC 3875 §4.1.18): the client's could take the place of ours.
///
/// What follows `Mcp-Param-` is chosen by the schema of a tool, and none of our own names begins so.
fn has_one_reading(name: &str) -> bool {
    // Without an early end: names are short, and seldom odd.
    name.bytes().fold(0, |odd, byte| odd | ODD[usize::from(byte)]) == 0 || name.starts_with("mcp-param-")
}

/// 0 for the bytes of names that every server reads as themselves, else 1.
const ODD: [u8; 256] = {
    let mut table = [1; 256];
    let mut byte = 0u8;
    while byte < 128 {
        if byte.is_ascii_alphanumeric() || byte == b'-' {
            table[byte as usize] = 0;
        }
        byte += 1;
    }
    table
};

/// Fields by which some servers read another method, path or host than those of the request, and those
/// that only the gateway may write.
fn is_reserved(name: &str) -> bool {
    const PREFIXES: [&str; 4] = [CallerFact::HEADER_PREFIX, "x-original-", "x-rewrite-", "x-envoy-original-"];
    if !name.starts_with(['x', 'p']) {
        // Most names are told by their first letter.
        return name.ends_with("-override");
    }
    name.ends_with("-override")
        || PREFIXES.iter().any(|prefix| name.starts_with(prefix))
        || matches!(
            name,
            "proxy"
                | "x-host"
                | "x-http-destinationurl"
                | "x-http-method"
                | "x-method"
                | "x-middleware-subrequest"
                | "x-override-url"
        )
}

/// Fields by which a client could pass for another address or another caller behind us.
pub(super) fn claims_route(name: &str) -> bool {
    const PREFIXES: [&str; 10] = [
        "x-forwarded",
        "forwarded-",
        "x-originating-",
        "x-remote-",
        "x-proxyuser-",
        "x-azure-",
        "x-appengine-",
        "x-envoy-external-",
        "wl-proxy-",
        "remote-",
    ];
    // Most names are told by their first letter.
    (name.starts_with(['f', 'r', 'w', 'x']) && PREFIXES.iter().any(|prefix| name.starts_with(prefix)))
        || matches!(
            name,
            "cf-connecting-ip"
                | "cf-connecting-ipv6"
                | "fly-client-ip"
                | "x-amzn-oidc-identity"
                | "x-client-cert"
                | "x-ssl-client-verify"
                | "ssl-client-cert"
                | "client-ip"
                | "fastly-client-ip"
                | "true-client-ip"
                | "x-client-ip"
                | "x-cluster-client-ip"
                | "x-real-ip"
        )
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn no_server_gets_what_it_could_read_as_another_request_or_another_field() {
        let kept = ["x-team", "mcp-param-user_id", "x-method-count", "x-overrides", "proxy-hint", "x1-b2"];
        let dropped = [
            "x_team",
            "x-team_",
            "x.team",
            "x+team",
            "x_portunus_subject",
            "mcp_param_region",
            "x-portunus-subject",
            "x-http-method-override",
            "x-http-method",
            "x-method-override",
            "x-method",
            "http-method-override",
            "x-http-host-override",
            "x-original-method",
            "x-original-url",
            "x-original-uri",
            "x-original-host",
            "x-rewrite-url",
            "x-envoy-original-path",
            "x-host",
            "proxy",
        ];
        let named = |names: &[&'static str]| -> HeaderMap {
            let value = HeaderValue::from_static("v");
            names.iter().map(|name| (HeaderName::from_static(name), value.clone())).collect()
        };
        let mut headers = named(&[&kept[..], &dropped].concat());
        strip(&mut headers);
        assert_eq!(headers, named(&kept));
    }
}
