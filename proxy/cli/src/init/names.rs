//! Names for upstreams: short, unique, and fit for a label.

use portunus_base::{Host, UpstreamUrl};

/// Leaves room for a number behind it; a label has at most 64.
const MAX_CHARACTERS: usize = 40;

/// Gives each server a name, from what it calls itself or else from its host.
pub(super) fn names<'a>(servers: impl Iterator<Item = (Option<&'a str>, &'a UpstreamUrl)>) -> Vec<String> {
    let mut given: Vec<String> = Vec::new();
    for (own, url) in servers {
        let name = own.map(plain).filter(|name| !name.is_empty()).unwrap_or_else(|| of_host(&url.host));
        let numbered = (2..).map(|number| format!("{name}-{number}"));
        let free = std::iter::once(name.clone()).chain(numbered).find(|name| !given.contains(name));
        given.extend(free);
    }
    given
}

/// `Example Servers/Everything (v2)` is `everything-v2`.
fn plain(text: &str) -> String {
    let last = text.rsplit('/').find(|part| part.chars().any(|one| one.is_ascii_alphanumeric()));
    let mut name = String::new();
    for one in last.unwrap_or_default().chars() {
        match one {
            one if one.is_ascii_alphanumeric() => name.push(one.to_ascii_lowercase()),
            _ if !name.is_empty() && !name.ends_with('-') => name.push('-'),
            _ => {}
        }
    }
    name.truncate(MAX_CHARACTERS);
    name.trim_end_matches('-').to_owned()
}

/// The first label of a name that says something.
fn of_host(host: &Host) -> String {
    let Host::Name(name) = host else { return "server".to_owned() };
    let telling = name.split('.').find(|label| !["www", "mcp", "api"].contains(label));
    match plain(telling.unwrap_or(name)) {
        name if name.is_empty() => "server".to_owned(),
        name => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_plain_and_unique() {
        let long = "x".repeat(100);
        let servers = [
            (Some("example-servers/everything"), "http://a/", "everything"),
            (Some("Everything"), "http://a/", "everything-2"),
            (Some("everything-2"), "http://a/", "everything-2-2"),
            (Some("My Server (v2.0)!"), "http://a/", "my-server-v2-0"),
            (Some("\u{202e}日本\n"), "http://mcp.search.internal/", "search"),
            (Some("///"), "http://127.0.0.1/", "server"),
            (None, "http://[::1]/", "server-2"),
            (None, "http://mcp/", "mcp"),
            (Some(long.as_str()), "http://a/", &long[..MAX_CHARACTERS]),
        ];
        let urls: Vec<UpstreamUrl> =
            servers.iter().map(|(_, url, _)| UpstreamUrl::parse(url).unwrap()).collect();
        let given = names(servers.iter().zip(&urls).map(|((own, ..), url)| (*own, url)));
        let expected = servers.map(|(.., expected)| expected);
        assert_eq!(given, expected);
    }
}
