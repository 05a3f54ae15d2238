//! What is enforced: the half of a configuration that swaps without a restart.
//!
//! A snapshot is immutable and whole: everything in it was compiled and checked together.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use portunus_filters::mcp::Bounds;
use portunus_filters::{AnswerBound, Controls};

use crate::identity::{Identities, Profile};
use crate::limit_rules::LimitRules;
use crate::members::{Choice, Member, NamePolicy};
use crate::policy::PolicyRules;
use crate::routes::Routes;
use crate::serving::{CacheRules, ParkedRules, ReplayRules, SessionRules};
use crate::tools::ToolRules;
use crate::upstream::{Transport, Upstream};
use crate::view::View;
use portunus_base::HostPattern;

/// One compiled revision.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Which revision this is.
    pub revision: Revision,
    /// Position among the activations of this process, from 1; 0 until [`crate::Carry::activate`].
    pub serial: u64,
    /// Which virtual server answers where.
    pub routes: Routes,
    /// Whom the gateway believes to be who they say; `None` asks nobody.
    pub identities: Option<Arc<Identities>>,
    /// Every upstream of the document, in its order.
    pub upstreams: Vec<Arc<Upstream>>,
    /// What is known of their tools.
    pub tools: Arc<ToolRules>,
    /// What tools are held to by their risk; `None` where nothing is asked for.
    pub controls: Option<Controls>,
    /// How much callers may use; `None` where nothing is limited.
    pub limits: Option<Arc<LimitRules>>,
    /// Who may do what; `None` where nothing is asked.
    pub policy: Option<Arc<PolicyRules>>,
}

/// Identity of a revision: equal sources and secrets give equal digests on every replica.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Revision {
    /// First 12 hex digits of a SHA-256 over the documents and the digests of their secrets.
    pub digest: String,
    /// The document's own `revision`, if it names one.
    pub label: Option<String>,
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.label {
            Some(label) => write!(f, "{label} ({})", self.digest),
            None => f.write_str(&self.digest),
        }
    }
}

/// Stable name of a virtual server across revisions: `<hosts or *>|<path>`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServerId(pub Arc<str>);

impl ServerId {
    /// The id of the server at `path` for `hosts`, whatever order those are written in.
    pub fn of(hosts: &[HostPattern], path: &str) -> ServerId {
        let mut names: Vec<String> = hosts.iter().map(HostPattern::to_string).collect();
        names.sort_unstable();
        let hosts = if names.is_empty() { "*".to_owned() } else { names.join(",") };
        ServerId(format!("{hosts}|{path}").into())
    }
}

impl fmt::Display for ServerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One MCP endpoint that the gateway offers.
#[derive(Clone, Debug)]
pub struct VirtualServer {
    /// Stable across revisions.
    pub id: ServerId,
    /// Label in metrics and records; unique: the path without its slash unless the document names it.
    pub name: Arc<str>,
    /// Normal form of the path, without a trailing slash.
    pub path: String,
    /// Hosts it answers to; empty for any.
    pub hosts: Vec<HostPattern>,
    /// Every upstream that may be chosen, in the order of the members, each once.
    pub upstreams: Vec<Arc<Upstream>>,
    /// What is merged, at least one: the first that has a name owns it.
    pub members: Vec<Member>,
    /// How names of several members share it.
    pub names: NamePolicy,
    /// Between a member's name and that of its tool or prompt. No name of a member, followed by it,
    /// begins another's: a prefixed name belongs to one member only. Default `_`.
    pub separator: Arc<str>,
    /// What callers see of its members.
    pub view: Arc<View>,
    /// Whether clients of an era that an upstream does not speak are served all the same.
    pub bridge: bool,
    /// Sessions that are given to clients.
    pub sessions: SessionRules,
    /// What is kept of its upstreams' answers.
    pub cache: CacheRules,
    /// Calls that wait for input of their caller.
    pub parked: ParkedRules,
    /// Events that are kept for clients that resume a stream; `None` keeps none.
    pub replay: Option<ReplayRules>,
    /// A comment goes over streams that begin here when nothing else did for this long. Default 15 s.
    pub keepalive: Duration,
    /// Deadline of each upstream where several are asked at once. Default 5 s.
    pub list_timeout: Duration,
    /// Whether clients are offered the transport of 2024-11-05 as well.
    pub http_sse: bool,
    /// Bounds on the shape of messages.
    pub bounds: Bounds,
    /// Largest request body; `None` leaves it to the listener. A listener's limit is never exceeded.
    pub max_body_bytes: Option<usize>,
    /// How much of an answer is held so that filters can read it.
    pub answers: AnswerBound,
    /// How refusals of calls show in HTTP.
    pub http_status: HttpStatus,
    /// What is asked of callers; `None` asks nothing.
    pub identity: Option<Arc<Profile>>,
}

impl VirtualServer {
    /// Default of [`VirtualServer::separator`]: what the interfaces of language models take as a name.
    pub const DEFAULT_SEPARATOR: &'static str = "_";
    /// Default of [`VirtualServer::keepalive`].
    pub const DEFAULT_KEEPALIVE: Duration = Duration::from_secs(15);
    /// Default of [`VirtualServer::list_timeout`].
    pub const DEFAULT_LIST_TIMEOUT: Duration = Duration::from_secs(5);

    /// Index of the member that an upstream of this name may serve.
    pub fn member_of(&self, upstream: &str) -> Option<usize> {
        self.members.iter().position(|member| member.choice.upstreams().any(|one| *one.name == *upstream))
    }

    /// True if it still has this upstream, or the one that it is an instance of: by name and URL.
    pub fn leads_to(&self, upstream: &Upstream) -> bool {
        let mut named = self.upstreams.iter().filter(|one| one.name == upstream.name);
        named.any(|one| one.urls().any(|url| *url == upstream.url))
    }

    /// Whether a client and its one upstream can be left to speak with each other, if they speak
    /// the same era: nothing is chosen, merged or changed between them.
    pub fn is_plain(&self) -> bool {
        let [Member { choice: Choice::Fixed(upstream), .. }] = self.members.as_slice() else { return false };
        self.view.is_empty()
            && self.names != NamePolicy::Prefix
            && upstream.transport == Transport::Streamable
            && upstream.replicas.is_empty()
    }
}

/// How refusals of calls show in HTTP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HttpStatus {
    /// Status 200, the refusal is a JSON-RPC answer: what every measured client understands.
    #[default]
    InBand,
    /// The status mirrors the refusal, for fleets whose clients can take it.
    Mirror,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_revision_shows_its_label_before_its_digest() {
        let bare = Revision { digest: "0123456789ab".into(), label: None };
        assert_eq!(bare.to_string(), "0123456789ab");
        let named = Revision { label: Some("v7".into()), ..bare };
        assert_eq!(named.to_string(), "v7 (0123456789ab)");
    }

    #[test]
    fn an_id_does_not_depend_on_the_order_of_hosts() {
        let hosts = |list: &[&str]| -> Vec<HostPattern> {
            list.iter().map(|text| HostPattern::parse(text).unwrap()).collect()
        };
        assert_eq!(ServerId::of(&[], "/mcp").to_string(), "*|/mcp");
        assert_eq!(ServerId::of(&hosts(&["b.org", "A.org"]), "/mcp").to_string(), "a.org,b.org|/mcp");
        assert_eq!(
            ServerId::of(&hosts(&["a.org", "b.org"]), "/"),
            ServerId::of(&hosts(&["b.org", "a.org"]), "/")
        );
    }
}
