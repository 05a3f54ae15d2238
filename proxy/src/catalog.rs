//! TEMPORARY SHIM of the lead, replaced by the catalogue's own.
use crate::context::Gateway;
use crate::errand::{self, Errand};
use crate::talk::Place;
use portunus_config::{NamePolicy, ServerId, Upstream, View, VirtualServer};
use portunus_filters::mcp::bridge::{Facts, Scope as _S};
use portunus_filters::mcp::catalog::*;
use portunus_filters::{Denial, Moment};
use std::sync::Arc;

#[derive(Default)]
pub struct Catalogs;
pub struct Current {
    pub catalog: Arc<Catalog>,
    pub facts: Vec<(Arc<str>, Arc<Facts>)>,
    pub scope: Scope,
    pub missing: Vec<(Arc<str>, Denial)>,
}
impl Current {
    pub fn ttl_ms(&self, _now: Moment) -> u64 {
        0
    }
}
struct Rules(Arc<View>);
impl Naming for Rules {
    fn admits(&self, m: &str, o: &str) -> bool {
        self.0.admits(m, o)
    }
    fn renamed(&self, m: &str, o: &str) -> Option<&str> {
        self.0.renamed(m, o)
    }
    fn described(&self, m: &str, o: &str) -> Option<&str> {
        self.0.described(m, o)
    }
}
impl Catalogs {
    pub fn changed(
        &self,
        _server: &ServerId,
        _caller: crate::sealing::CallerKey,
        _upstream: &Arc<Upstream>,
        _kind: ListKind,
    ) {
    }
    pub async fn current(
        &self,
        gateway: &Arc<Gateway>,
        server: &Arc<VirtualServer>,
        places: Vec<(Arc<str>, Place)>,
    ) -> Result<Arc<Current>, Denial> {
        let (mut sources, mut facts, mut missing) = (vec![], vec![], vec![]);
        for (member, place) in places {
            let mut lists = Lists::default();
            match errand::ask(gateway, &place, Errand::Discover).await {
                Ok(text) => {
                    let f = Facts::of_discover(std::str::from_utf8(&text).unwrap_or("")).map_err(|e| {
                        Denial::new(portunus_filters::Reason::UpstreamMalformed, e.to_string())
                    })?;
                    for kind in ListKind::ALL {
                        if !f.has(match kind {
                            ListKind::Tools => "tools",
                            ListKind::Prompts => "prompts",
                            _ => "resources",
                        }) {
                            continue;
                        }
                        let mut pages = vec![];
                        let mut cursor = None;
                        let mut bad = false;
                        loop {
                            match errand::ask(
                                gateway,
                                &place,
                                Errand::List { method: kind.method(), cursor: cursor.clone() },
                            )
                            .await
                            {
                                Ok(text) => match Page::read(&text, kind) {
                                    Ok(p) => {
                                        cursor = p.next_cursor.clone();
                                        pages.push(p);
                                        if cursor.is_none() {
                                            break;
                                        }
                                    }
                                    Err(_) => {
                                        bad = true;
                                        break;
                                    }
                                },
                                Err(_) => {
                                    bad = true;
                                    break;
                                }
                            }
                        }
                        lists.0[kind.index()] = if bad {
                            Known::missing("failed")
                        } else {
                            Known::fresh(Arc::new(Listing::join(pages)))
                        };
                    }
                    facts.push((Arc::clone(&member), Arc::new(f)));
                }
                Err(failure) => {
                    missing.push((Arc::clone(&member), failure.denial));
                    lists = Lists(ListKind::ALL.map(|_| Known::missing("unavailable")));
                }
            }
            sources.push(Source { member, offer: Offer::One(lists) });
        }
        let policy = match server.names {
            NamePolicy::Prefix => Policy::Prefix,
            NamePolicy::PrefixOnConflict => Policy::PrefixOnConflict,
            NamePolicy::None => Policy::None,
        };
        let names = Names {
            policy,
            separator: Arc::clone(&server.separator),
            rules: Arc::new(Rules(Arc::clone(&server.view))),
        };
        Ok(Arc::new(Current {
            catalog: Arc::new(Catalog::merge(&sources, &names, None, None)),
            facts,
            scope: Scope::Private,
            missing,
        }))
    }
}
