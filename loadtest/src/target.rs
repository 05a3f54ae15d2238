//! Where calls go.

use std::net::{SocketAddr, ToSocketAddrs};

/// An endpoint on this machine.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    /// Address to connect to; a loopback address.
    pub(crate) address: SocketAddr,
    /// Host and port as written, for the `Host` header.
    pub(crate) authority: String,
    /// Path, with its slash.
    pub(crate) path: String,
}

impl Target {
    /// Reads an URL; only addresses of this machine are taken, so that a slip of the finger does
    /// not become load on somebody else's server.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn parse(url: &str) -> Result<Target, String> {
        let rest = url.strip_prefix("http://").ok_or("the URL must begin with http://")?;
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let mut found = authority.to_socket_addrs().map_err(|error| format!("{authority}: {error}"))?;
        let address = found.find(|address| address.ip().is_loopback());
        Ok(Target {
            address: address.ok_or("load goes to addresses of this machine only")?,
            authority: authority.to_owned(),
            path: format!("/{path}"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn load_goes_to_this_machine_only() {
        let target = Target::parse("http://127.0.0.1:8080/a/mcp").unwrap();
        assert_eq!((target.authority.as_str(), target.path.as_str()), ("127.0.0.1:8080", "/a/mcp"));
        assert!(Target::parse("http://192.0.2.1:80/mcp").is_err());
        assert!(Target::parse("https://127.0.0.1/mcp").is_err());
    }
}
