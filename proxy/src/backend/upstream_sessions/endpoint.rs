//! Where messages go in the transport of 2024-11-05: a reference that the server names on its stream.

use portunus_base::UpstreamUrl;

/// Longest reference: a path and a session.
const MAX_BYTES: usize = 4096;

/// The path and query that `reference` leads to from `base` (RFC 3986 §5.2).
///
/// # Errors
/// Why it leads nowhere, without its text: it holds a session.
pub(super) fn resolve(base: &UpstreamUrl, reference: &[u8]) -> Result<String, &'static str> {
    if reference.len() > MAX_BYTES {
        return Err("is too long");
    }
    let reference = std::str::from_utf8(reference).map_err(|_| "is not UTF-8")?.trim_ascii();
    // A fragment is never sent.
    let reference = reference.split_once('#').map_or(reference, |(reference, _)| reference);
    let there = match reference {
        "" => return Err("is empty"),
        _ if has_scheme(reference) => reference.to_owned(),
        _ if reference.starts_with("//") => format!("{}:{reference}", base.scheme),
        _ => format!("{}://{}{}", base.scheme, base.authority, joined(&base.path, reference)),
    };
    let there = UpstreamUrl::parse(&there)?;
    let same = (there.scheme, &there.host, there.port) == (base.scheme, &base.host, base.port);
    if !same {
        return Err("is of another origin");
    }
    let (path, query) = split_query(&there.path);
    Ok(format!("{}{query}", without_dots(path)))
}

fn has_scheme(reference: &str) -> bool {
    let end = reference.find([':', '/', '?']);
    end.is_some_and(|end| reference[end..].starts_with(':'))
}

/// A reference without scheme and authority, from the path of the base.
fn joined(base: &str, reference: &str) -> String {
    let (path, _) = split_query(base);
    match reference.as_bytes().first() {
        Some(b'/') => reference.to_owned(),
        Some(b'?') => format!("{path}{reference}"),
        _ => format!("{}{reference}", &path[..path.rfind('/').map_or(0, |slash| slash + 1)]),
    }
}

/// A path, and its query with the mark before it.
fn split_query(path: &str) -> (&str, &str) {
    path.split_at(path.find('?').unwrap_or(path.len()))
}

/// Takes `.` and `..` out of an absolute path (RFC 3986 §5.2.4).
fn without_dots(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    let mut segments = path.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        let last = segments.peek().is_none();
        match segment {
            "." | ".." => {
                if segment == ".." {
                    kept.pop();
                }
                if last {
                    kept.push("");
                }
            }
            _ => kept.push(segment),
        }
    }
    format!("/{}", kept.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_lead_within_their_origin_only() {
        let base = UpstreamUrl::parse("http://crm:81/mcp/sse?key=1").unwrap();
        let cases: [(&str, Result<&str, &str>); 20] = [
            ("/messages/?session_id=a", Ok("/messages/?session_id=a")),
            ("messages?s=1", Ok("/mcp/messages?s=1")),
            ("./messages", Ok("/mcp/messages")),
            ("../a/./b/..", Ok("/a/")),
            ("../../../a", Ok("/a")),
            ("?session=1", Ok("/mcp/sse?session=1")),
            (" /a?b#c ", Ok("/a?b")),
            ("a?u=http://x/", Ok("/mcp/a?u=http://x/")),
            ("http://crm:81/a?b", Ok("/a?b")),
            ("//crm:81/a", Ok("/a")),
            ("http://crm/a", Err("is of another origin")),
            ("https://crm:81/a", Err("is of another origin")),
            ("//evil/a", Err("is of another origin")),
            ("http://crm:81@evil/a", Err("holds a user name or password; use `credentials`")),
            ("javascript:alert(1)", Err("does not begin with `http://` or `https://`")),
            ("file:///etc/passwd", Err("does not begin with `http://` or `https://`")),
            ("", Err("is empty")),
            ("#a", Err("is empty")),
            ("/\\evil/a", Err("has a space, control or non-ASCII character in its path; escape it with `%`")),
            (
                "/a\r\nx: y",
                Err("has a space, control or non-ASCII character in its path; escape it with `%`"),
            ),
        ];
        for (reference, expected) in cases {
            assert_eq!(resolve(&base, reference.as_bytes()), expected.map(str::to_owned), "{reference}");
        }
        assert_eq!(resolve(&base, &[b'a'; MAX_BYTES + 1]), Err("is too long"));
        assert_eq!(resolve(&base, b"/\xff"), Err("is not UTF-8"));
    }
}
