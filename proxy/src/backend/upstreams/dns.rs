//! Names of upstreams, resolved by the system and refreshed in the background.
//!
//! A call never waits for a name that was resolved once: a stale answer is used while one task
//! refreshes it, and the last good answer outlives a resolver that fails.

use portunus_base::Host;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long an answer is used before it is asked for again.
///
/// The system's resolver does not tell the record's own lifetime; half a minute follows a failover
/// as fast as most records allow.
const REFRESH: Duration = Duration::from_secs(30);

/// Names that are resolved at once; more than a configuration can reasonably name.
const MAX_NAMES: usize = 4096;

/// How long a failure stands: a name that does not resolve must not cost a lookup for each call.
const FAILURE: Duration = Duration::from_secs(1);

/// Answers by name.
#[derive(Default)]
pub struct Resolver {
    names: Mutex<HashMap<String, Entry>>,
    flights: Mutex<HashMap<String, Arc<Flight>>>,
}

/// The first lookup of a name, which everybody who asks waits for.
#[derive(Default)]
struct Flight {
    landed: tokio::sync::Mutex<Option<Instant>>,
}

struct Entry {
    addresses: Arc<[IpAddr]>,
    at: Instant,
    refreshing: bool,
}

impl Resolver {
    /// The addresses of a host, in the order in which to try them; never empty.
    ///
    /// # Errors
    /// What the system's resolver says, if the name was never resolved.
    pub async fn resolve(self: &Arc<Self>, host: &Host) -> std::io::Result<Arc<[IpAddr]>> {
        let name = match host {
            Host::Ip(ip) => return Ok(Arc::new([*ip])),
            Host::Name(name) => name,
        };
        match self.cached(name) {
            Some((addresses, false)) => Ok(addresses),
            Some((addresses, true)) => {
                let (resolver, name) = (Arc::clone(self), name.clone());
                tokio::spawn(async move { resolver.refresh(&name).await.map(drop) });
                Ok(addresses)
            }
            None => self.first(name).await,
        }
    }

    /// Resolves a name that has no answer yet: one lookup for all who ask, and none right after a
    /// failure.
    async fn first(self: &Arc<Self>, name: &str) -> std::io::Result<Arc<[IpAddr]>> {
        let flight = {
            let mut flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
            if flights.len() >= MAX_NAMES {
                flights.clear();
            }
            Arc::clone(flights.entry(name.to_owned()).or_default())
        };
        let mut failed = flight.landed.lock().await;
        if let Some((addresses, _)) = self.cached(name) {
            return Ok(addresses);
        }
        if failed.is_some_and(|at| at.elapsed() < FAILURE) {
            return Err(std::io::Error::new(
                std::io::ErrorKind::NotFound,
                "the name did not resolve a moment ago",
            ));
        }
        let result = self.refresh(name).await;
        *failed = result.is_err().then(Instant::now);
        result
    }

    /// Names held.
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// Whether no name is held.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Forgets the names that no upstream uses any more.
    pub fn retain(&self, used: impl Fn(&str) -> bool) {
        self.lock().retain(|name, _| used(name));
    }

    /// The answer, and whether the caller is the one to refresh it.
    fn cached(&self, name: &str) -> Option<(Arc<[IpAddr]>, bool)> {
        let mut names = self.lock();
        let entry = names.get_mut(name)?;
        let due = !entry.refreshing && entry.at.elapsed() >= REFRESH;
        entry.refreshing |= due;
        Some((Arc::clone(&entry.addresses), due))
    }

    async fn refresh(&self, name: &str) -> std::io::Result<Arc<[IpAddr]>> {
        let answer = lookup(name).await;
        let mut names = self.lock();
        match answer {
            Ok(addresses) => {
                if names.len() < MAX_NAMES || names.contains_key(name) {
                    let entry =
                        Entry { addresses: Arc::clone(&addresses), at: Instant::now(), refreshing: false };
                    names.insert(name.to_owned(), entry);
                }
                Ok(addresses)
            }
            Err(error) => match names.get_mut(name) {
                Some(entry) => {
                    entry.refreshing = false;
                    entry.at = Instant::now();
                    tracing::warn!(host = name, %error, "name not refreshed, the last answer stays in use");
                    Ok(Arc::clone(&entry.addresses))
                }
                None => Err(error),
            },
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Entry>> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[expect(clippy::disallowed_methods, reason = "this is the resolver that everything else has to use")]
async fn lookup(name: &str) -> std::io::Result<Arc<[IpAddr]>> {
    let found = tokio::net::lookup_host((name, 0)).await?;
    let mut addresses: Vec<IpAddr> = Vec::new();
    for address in found {
        if !addresses.contains(&address.ip()) {
            addresses.push(address.ip());
        }
    }
    if addresses.is_empty() {
        return Err(std::io::Error::new(std::io::ErrorKind::NotFound, "the name has no address"));
    }
    Ok(addresses.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn literal_addresses_need_no_resolver() {
        let resolver = Arc::new(Resolver::default());
        let ip: IpAddr = "203.0.113.9".parse().unwrap();
        assert_eq!(resolver.resolve(&Host::Ip(ip)).await.unwrap().as_ref(), [ip]);
        assert!(resolver.is_empty());
    }

    #[tokio::test]
    async fn a_name_is_resolved_once_and_kept() {
        let resolver = Arc::new(Resolver::default());
        let host = Host::Name("localhost".to_owned());
        assert!(resolver.resolve(&host).await.unwrap().iter().all(IpAddr::is_loopback));
        assert_eq!(resolver.len(), 1);
        assert!(!resolver.cached("localhost").unwrap().1, "a fresh answer is not due");
        resolver.retain(|name| name != "localhost");
        assert!(resolver.is_empty());
    }

    #[tokio::test]
    async fn an_unknown_name_is_an_error() {
        let host = Host::Name("does-not-exist.invalid".to_owned());
        let resolver = Arc::new(Resolver::default());
        assert!(resolver.resolve(&host).await.is_err());
        let again = resolver.resolve(&host).await.unwrap_err();
        assert!(again.to_string().contains("a moment ago"), "the failure stands for a moment: {again}");
    }
}
