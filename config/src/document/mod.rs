//! The whole configuration document as types, short and long forms alike.
//!
//! Reading parses each value by itself; what concerns several values (secrets, ceilings, names of
//! upstreams) is `compile`'s. Sections that no code of this build enforces have their
//! field as well: an `Unenforced`, which compile turns into an error.

mod api_keys;
mod caller;
mod controls;
mod credentials;
mod identity;
mod key_entries;
mod limits;
mod listeners;
mod members;
mod peers;
mod policy;
mod process;
mod replicas;
mod rules;
mod secrets;
mod servers;
mod serving;
mod tls;
mod tools;
mod upstreams;
mod values;
mod views;

pub use api_keys::ApiKeysDocument;
pub(crate) use caller::KEY_HINT as ASSERTION_KEY_HINT;
pub use caller::{AssertionDocument, CallerDocument};
pub use controls::ControlsDocument;
pub use credentials::{CredentialsDocument, HeaderSource, HeadersDocument};
pub use identity::{
    AnonymousDocument, AskedDocument, ClientDocument, IdentityDocument, IntrospectionDocument,
    IssuerDocument, KeysDocument, MappingDocument, MetadataDocument, MtlsDocument, NamingDocument,
    RevokedDocument, ServerIdentityDocument,
};
pub(crate) use key_entries::entries as key_entries;
pub use limits::reference as limits_reference;
pub use limits::{
    CallLimit, ConcurrencyLimit, LimitExceptionDocument, LimitMatchDocument, LimitRuleDocument,
    LimitsDocument, LoopLimit,
};
pub use listeners::{HostsDocument, ListenerDocument};
pub use members::{ChoiceDocument, MemberDocument};
pub use peers::{PeersDocument, SealingDocument};
pub use policy::{PolicyDocument, PolicySourceDocument, ShadowDocument};
pub use process::{BundleSource, CeilingDocument, ProcessDocument};
pub use rules::RulesDocument;
pub use secrets::SecretDocument;
pub use servers::ServerDocument;
pub use serving::ServingDefaults;
pub use tls::{CertificateDocument, ClientCertificatesDocument, ListenerTlsDocument, UpstreamTlsDocument};
pub(crate) use tls::{DEFAULT_HANDSHAKE_TIMEOUT, DEFAULT_MAX_HANDSHAKES};
pub use tools::ToolLine;
pub use upstreams::UpstreamDocument;
pub use values::{Budget, EndTime, Label, Money, NamePattern, Positive, Quota, Zone};
pub(crate) use views::Change;
pub use views::ViewDocument;

use std::path::Path;

use crate::diagnostic::Findings;
use crate::reader::{Section, Source, Unenforced, Value};
use crate::yaml;

/// A configuration document. A file holds both halves, or one of them.
#[derive(Clone, Debug)]
pub struct Document {
    /// What a process is; `None` in a bundle.
    pub process: Option<ProcessDocument>,
    /// What is enforced; `None` where `bundle` says that it is elsewhere.
    pub rules: Option<RulesDocument>,
}

/// Which half a file may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// A file named on the command line: both halves, or the process and a `bundle`.
    Whole,
    /// `gateway.yaml` in a bundle folder: the rules only.
    Bundle,
}

impl Document {
    /// Reads a document. What is wrong is among `findings`; what could be read is in the result.
    pub(crate) fn read(text: &str, file: &Path, part: Part, findings: &Findings) -> Option<Document> {
        let root = yaml::parse(text, file, findings)?;
        Value::root(&root, Source { file, findings }).section(|section| {
            read_version(section);
            let elsewhere = section.key_place("bundle").is_some();
            let process = match part {
                Part::Whole => Some(ProcessDocument::read(section)),
                Part::Bundle => {
                    refuse(
                        section,
                        &ProcessDocument::KEYS,
                        "what a process is stands in the bootstrap, not in a bundle",
                    );
                    None
                }
            };
            let rules = match (part, elsewhere) {
                (Part::Whole, true) => {
                    refuse(section, &RulesDocument::KEYS, "move it into the bundle that `bundle` names");
                    None
                }
                _ => Some(RulesDocument::read(section)),
            };
            Document { process, rules }
        })
    }
}

fn read_version(section: &mut Section<'_>) {
    let hint = "begin the document with `version: 1`";
    if let Some(value) = section.required("version", hint)
        && value.count(1..=1).is_none()
    {
        value.error("this build reads version 1 only", hint);
    }
}

fn refuse(section: &mut Section<'_>, keys: &[&'static str], hint: &str) {
    for key in keys {
        section.value(key);
        if let Some(place) = section.key_place(key) {
            section.error(&place, format!("`{key}` does not belong in this file"), hint);
        }
    }
}

/// The sections among `keys` that are written.
fn unenforced(section: &mut Section<'_>, keys: &[&'static str]) -> Vec<Unenforced> {
    keys.iter().filter_map(|key| section.unenforced(key)).collect()
}

#[cfg(test)]
mod tests {
    use crate::testing::problems;

    #[test]
    fn the_version_is_written_and_known() {
        let rest = "upstreams: {a: 'http://localhost:1/'}\nservers: {/mcp: a}\n";
        let table = [
            ("missing", "", "`version` is missing"),
            ("another", "version: 2\n", "version: this build reads version 1 only"),
            ("text", "version: '1'\n", "version: this build reads version 1 only"),
        ];
        for (name, version, problem) in table {
            let found = problems(&format!("{version}{rest}"));
            assert!(found.iter().any(|shown| shown == problem), "{name}: {found:?}");
        }
    }

    #[test]
    fn rules_beside_a_bundle_are_refused() {
        let found = problems("version: 1\nbundle: nowhere\nservers: {/mcp: a}\n");
        assert!(found.contains(&"servers: `servers` does not belong in this file".to_owned()), "{found:?}");
    }
}
