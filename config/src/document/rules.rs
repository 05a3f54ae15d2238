//! The half of a document that says what is enforced.

use super::controls::{self, ControlsDocument};
use super::identity::{self, IdentityDocument};
use super::limits::{self, LimitsDocument};
use super::listeners::label;
use super::policy::{self, PolicyDocument};
use super::servers::{self, ServerDocument};
use super::serving::ServingDefaults;
use super::tools::{self, ToolLine};
use super::upstreams::{self, UpstreamDocument};
use crate::diagnostic::{Located, Place};
use crate::reader::Section;
use crate::reader::Unenforced;

/// What is enforced.
#[derive(Clone, Debug)]
pub struct RulesDocument {
    /// Where the document begins.
    pub place: Place,
    /// `revision`, a label of the author's choosing.
    pub revision: Option<Located<String>>,
    /// `upstreams`.
    pub upstreams: Vec<UpstreamDocument>,
    /// `servers`.
    pub servers: Vec<ServerDocument>,
    /// `tools`.
    pub tools: Vec<ToolLine>,
    /// `identity`.
    pub identity: Option<IdentityDocument>,
    /// `policy`.
    pub policy: Option<PolicyDocument>,
    /// `limits`.
    pub limits: Option<LimitsDocument>,
    /// `egress`.
    pub egress: Option<Unenforced>,
    /// `dlp`.
    pub dlp: Option<Unenforced>,
    /// `injection`.
    pub injection: Option<Unenforced>,
    /// `schema`.
    pub schema: Option<Unenforced>,
    /// `controls`.
    pub controls: Option<ControlsDocument>,
    /// `audit`.
    pub audit: Option<Unenforced>,
    /// `checks`.
    pub checks: Option<Unenforced>,
    /// `approvals`.
    pub approvals: Option<Unenforced>,
}

impl RulesDocument {
    /// Every key of this half.
    pub(crate) const KEYS: [&'static str; 17] = [
        "revision",
        "upstreams",
        "servers",
        "tools",
        "identity",
        "policy",
        "limits",
        "egress",
        "dlp",
        "injection",
        "schema",
        "controls",
        "audit",
        "checks",
        "approvals",
        "sessions",
        "cache",
    ];

    pub(crate) fn read(section: &mut Section<'_>) -> RulesDocument {
        let defaults = ServingDefaults::read(section);
        RulesDocument {
            place: section.place().clone(),
            revision: section.value("revision").and_then(|value| label(&value)),
            upstreams: upstreams::read(section),
            servers: servers::read(section, &defaults),
            tools: tools::read(section),
            identity: identity::read(section),
            policy: policy::read(section),
            limits: limits::read(section),
            egress: section.unenforced("egress"),
            dlp: section.unenforced("dlp"),
            injection: section.unenforced("injection"),
            schema: section.unenforced("schema"),
            controls: controls::read(section),
            audit: section.unenforced("audit"),
            checks: section.unenforced("checks"),
            approvals: section.unenforced("approvals"),
        }
    }

    /// Every section of this half that is written and not enforced.
    pub(crate) fn unenforced(&self) -> impl Iterator<Item = &Unenforced> {
        let sections = [
            &self.egress,
            &self.dlp,
            &self.injection,
            &self.schema,
            &self.audit,
            &self.checks,
            &self.approvals,
        ];
        let servers = self.servers.iter().flat_map(|server| &server.unenforced);
        sections
            .into_iter()
            .flatten()
            .chain(self.limits.iter().flat_map(LimitsDocument::unenforced))
            .chain(servers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::ProcessDocument;
    use crate::testing::{loaded, problems};

    const RULES: &str = "version: 1\nupstreams: {a: 'http://localhost:1/'}\nservers: {/mcp: a}\n";

    #[test]
    fn every_section_that_is_not_enforced_is_an_error_that_names_it() {
        let enforced = [
            "revision",
            "upstreams",
            "servers",
            "sessions",
            "cache",
            "tools",
            "controls",
            "policy",
            "identity",
            "limits",
        ];
        let sections = RulesDocument::KEYS.into_iter().filter(|key| !enforced.contains(key));
        for key in sections.chain(["agent", "traces"]) {
            for value in ["{anything: [1, {x: y}]}", "short", ""] {
                let found = problems(&format!("{RULES}{key}: {value}\n"));
                assert_eq!(found, [format!("{key}: this build cannot enforce `{key}`")], "{value}");
            }
        }
    }

    #[test]
    fn no_key_belongs_to_both_halves() {
        assert!(RulesDocument::KEYS.iter().all(|key| !ProcessDocument::KEYS.contains(key)));
    }

    #[test]
    fn a_revision_is_a_label() {
        let label = |text: &str| loaded(&format!("{RULES}{text}")).snapshot.revision.label;
        assert_eq!(label("revision: 2026-08-01.2\n").as_deref(), Some("2026-08-01.2"));
        assert_eq!(label(""), None);
        assert_eq!(
            problems(&format!("{RULES}revision: 1.10\n")),
            ["revision: a number where text should be"]
        );
    }
}
