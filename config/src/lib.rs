//! Configuration documents, compiled to the snapshot that a proxy enforces.
//!
//! A load goes one way: text → tree with positions (`yaml`) → typed [`document::Document`]
//! (`reader`) → [`Bootstrap`] and [`Snapshot`] (`compile`). Every step reports into one list, so
//! that a document is refused once, with everything that is wrong with it, and a configuration
//! that comes out is whole: names resolved, secrets read and confined, defaults filled in.
//!
//! There is no network here and no runtime, and the only clock is the [`Environment`]'s.

mod bootstrap;
mod caller;
mod carry;
mod compile;
pub mod dates;
mod described;
mod diagnostic;
mod digest;
pub mod document;
mod environment;
mod files;
mod headers;
mod identity;
mod json_schema;
mod keys;
mod keys_file;
mod limit_rules;
mod limits;
mod load;
mod members;
mod peers;
mod policy;
mod print;
mod reader;
mod reads;
mod redact;
mod reference;
mod replicas;
mod routes;
mod schema;
mod serving;
mod snapshot;
#[cfg(test)]
mod testing;
mod tls;
mod tools;
pub mod units;
mod upstream;
mod upstream_mark;
mod view;
mod yaml;

pub use bootstrap::{AccessLog, Bootstrap, Drain, ForwardedBy, Listener, LogFormat, LogLevel, LogSettings};
pub use caller::{AssertionRules, CallerFact, CallerRules};
pub use carry::Carry;
pub use diagnostic::{Diagnostic, Located, Location, Place, Report, Severity};
pub use environment::{Environment, MapEnvironment, ProcessEnvironment};
pub use identity::{
    Asked, ClientNames, Identities, Inspection, KeySource, Metadata, Profile, Resource, Shows, Stranger,
    TokenCaller, Trust, TrustId, Written,
};
pub use keys::{ApiKeys, KeyEntry, Shown, holder_name};
pub use keys_file::KeysFile;
pub use limit_rules::LimitRules;
pub use load::{Attempt, Loaded, load, load_policy, load_text, load_untested};
pub use members::{Choice, Member, NamePolicy};
pub use peers::{Peers, ReplicaId, Sealing};
pub use policy::{ListRule, Lists, PolicyRules, PolicySource, Shadow, Zones};
pub use print::as_yaml;
pub use reads::Fingerprint;
pub use redact::{effective, redacted};
pub use reference::Reference;
pub use replicas::{Ejection, Health};
pub use routes::{NormalPath, PathProblem, Resolution, Routes};
pub use schema::{schema, schema_text};
pub use serving::{CacheRules, ParkedRules, ReplayRules, SessionRules};
pub use snapshot::{HttpStatus, Revision, ServerId, Snapshot, VirtualServer};
pub use tls::{
    CertificateFacts, ClientCertificates, ListenerTls, ListenerTlsSettings, Signers, UpstreamTls,
    UpstreamTlsSettings,
};
pub use tools::{Fact, ToolRules};
pub use upstream::{
    Credentials, EraMode, HeaderRules, HostPolicy, SessionSharing, Transport, Upstream, UpstreamKey,
};
pub use upstream_mark::UpstreamMark;
pub use view::View;
pub use yaml::value_of;
