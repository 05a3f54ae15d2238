//! What clients find out before they have anything to show (RFC 9728 §3).

use super::facade::asked_about;
use crate::frontend::context::Active;
use portunus_config::{NormalPath, Profile, Resolution, Resource, VirtualServer};
use std::sync::Arc;

const PROTECTED_RESOURCE: &str = "/.well-known/oauth-protected-resource";

/// A question about a protected resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WellKnown {
    /// The whole path.
    path: String,
    /// What follows the well-known part: empty, or a path.
    rest: String,
    /// It is about the authorization server that the resource names.
    pub(crate) of_provider: bool,
}

impl WellKnown {
    /// The question that a path asks, if it is one.
    pub(crate) fn of(path: &str) -> Option<WellKnown> {
        if let Some(rest) = asked_about(path) {
            let path = format!("{PROTECTED_RESOURCE}{}", rest.trim_end_matches('/'));
            return Some(WellKnown { path, rest, of_provider: true });
        }
        let rest = path.strip_prefix(PROTECTED_RESOURCE)?;
        let rest = rest.trim_end_matches('/').to_owned();
        let whole = rest.is_empty() || rest.starts_with('/');
        whole.then(|| WellKnown { path: path.to_owned(), rest, of_provider: false })
    }

    /// The server that it is about, which says what it is: the one whose metadata is here, the one that
    /// answers at the rest of the path, or the only one there is.
    pub(crate) fn server(&self, active: &Active, host: &str) -> Option<Arc<VirtualServer>> {
        let routes = &active.snapshot.routes;
        let asks = |server: &&Arc<VirtualServer>| {
            let hosts = &server.hosts;
            let here = hosts.is_empty() || portunus_base::HostPattern::any_matches(hosts, host);
            let known = resource(server).is_some_and(|known| !self.of_provider || known.client.is_some());
            here && known
        };
        let named = |server: &&Arc<VirtualServer>| {
            resource(server).is_some_and(|resource| path_of(&resource.metadata_url) == self.path)
        };
        if let Some(server) = routes.iter().filter(asks).find(named) {
            return Some(Arc::clone(server));
        }
        if self.rest.is_empty() {
            let mut all = routes.iter().filter(asks);
            return all.next().filter(|_| all.next().is_none()).cloned();
        }
        match routes.resolve(Some(host), &NormalPath::parse(&self.rest).ok()?) {
            Resolution::Server(server) => Some(server).filter(asks).cloned(),
            Resolution::None => None,
        }
    }
}

/// What a server is to clients that look for authorization.
pub(crate) fn resource(server: &VirtualServer) -> Option<&Resource> {
    let profile: &Profile = server.identity.as_deref()?;
    profile.resource.as_ref()
}

fn path_of(url: &str) -> &str {
    let host = url.find("://").map_or(0, |scheme| scheme + 3);
    url[host..].find('/').map_or("", |path| &url[host + path..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_is_about_what_follows_it() {
        let rest = |path: &str| WellKnown::of(path).map(|known| known.rest);
        assert_eq!(rest("/.well-known/oauth-protected-resource").as_deref(), Some(""));
        assert_eq!(rest("/.well-known/oauth-protected-resource/").as_deref(), Some(""));
        assert_eq!(rest("/.well-known/oauth-protected-resource/team/mcp").as_deref(), Some("/team/mcp"));
        assert_eq!(rest("/.well-known/oauth-protected-resources"), None);
        assert_eq!(rest("/mcp"), None);
        assert_eq!(path_of("https://gw.example/.well-known/x/mcp"), "/.well-known/x/mcp");
    }
}
