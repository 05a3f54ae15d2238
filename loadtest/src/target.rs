//! Where calls go.

use crate::poll::Poll;
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

/// How long after a refused connection the next is tried.
const AGAIN: Duration = Duration::from_millis(10);

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

    /// Waits until somebody listens there, for so long at most.
    ///
    /// # Errors
    /// If nobody does.
    pub(crate) fn wait(&self, limit: Duration) -> Result<(), String> {
        let end = Instant::now() + limit;
        let pause = Poll::new().map_err(|error| error.to_string())?;
        while let Err(error) = TcpStream::connect(self.address) {
            if Instant::now() >= end {
                return Err(format!("{}: {error}", self.address));
            }
            pause.wait(Some(AGAIN), &mut Vec::new()).map_err(|error| error.to_string())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn who_does_not_listen_is_waited_for_so_long_at_most() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let target = Target::parse(&format!("http://{}/", listener.local_addr().unwrap())).unwrap();
        assert_eq!(target.wait(Duration::ZERO), Ok(()));
        drop(listener);
        assert!(target.wait(Duration::from_millis(20)).unwrap_err().contains("refused"));
    }

    #[test]
    fn load_goes_to_this_machine_only() {
        let target = Target::parse("http://127.0.0.1:8080/a/mcp").unwrap();
        assert_eq!((target.authority.as_str(), target.path.as_str()), ("127.0.0.1:8080", "/a/mcp"));
        assert!(Target::parse("http://192.0.2.1:80/mcp").is_err());
        assert!(Target::parse("https://127.0.0.1/mcp").is_err());
    }
}
