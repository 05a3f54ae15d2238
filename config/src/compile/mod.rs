//! Documents to what a process runs: defaults filled in, names resolved, secrets read and confined.
//!
//! Everything is compiled even when something is wrong, so that one run reports all of it; the
//! caller discards the result if there are errors.

mod api_keys;
mod bootstrap;
mod caller;
mod identity;
mod keyring;
mod limits;
mod members;
mod peers;
mod policy;
mod servers;
mod tls;
mod tools;
mod upstreams;
mod views;

pub(crate) use bootstrap::compile_bootstrap;
pub(crate) use keyring::Keyring;
pub(crate) use policy::compile_alone;

use std::sync::Arc;

use crate::diagnostic::Findings;
use crate::document::{CeilingDocument, RulesDocument};
use crate::files::Files;
use crate::reader::Unenforced;
use crate::routes::Routes;
use crate::snapshot::{Revision, Snapshot};

/// What confines the rules of a document.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Confinement<'a> {
    /// `egress_ceiling` of the bootstrap.
    pub(crate) ceiling: Option<&'a CeilingDocument>,
    /// The rules are a bundle: nothing grants itself, and secrets have names.
    pub(crate) bundle: bool,
}

/// How policies are compiled.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terms {
    /// Threads that ask them, about.
    pub(crate) workers: usize,
    /// Whether their own tests have to pass.
    pub(crate) tested: bool,
}

/// Compiles the rules of a document; the revision's digest is the loader's to fill in.
pub(crate) fn compile_snapshot(
    rules: &RulesDocument,
    confinement: Confinement<'_>,
    files: &Files<'_>,
    keyring: &Keyring<'_>,
    terms: Terms,
) -> Snapshot {
    let findings = files.findings();
    refuse_unenforced(rules.unenforced(), findings);
    warn_without_policy(rules, findings);
    let upstreams = upstreams::compile(&rules.upstreams, confinement, files, keyring);
    let context = identity::Context { confinement, files, keyring };
    let identities = rules.identity.as_ref().map(|document| identity::compile(document, &context));
    let mut servers = servers::compile(rules, &upstreams, findings);
    identity::assign(&mut servers, identities.as_ref(), rules, findings);
    let limits = limits::compile(rules, &servers, findings);
    let label = rules.revision.as_ref().map(|label| label.value.clone());
    let mut snapshot = Snapshot {
        revision: Revision { digest: String::new(), label },
        serial: 0,
        identities: identities.map(Arc::new),
        routes: Routes::new(servers.into_iter().map(Arc::new).collect()),
        upstreams,
        tools: Arc::new(tools::compile(rules, findings)),
        controls: tools::controls(rules, limits.as_ref(), findings),
        limits: limits.map(Arc::new),
        policy: None,
    };
    snapshot.policy = policy::compile(rules, &snapshot, files, terms).map(Arc::new);
    snapshot
}

/// Turns sections that this build does not enforce into errors that name them.
fn refuse_unenforced<'a>(sections: impl Iterator<Item = &'a Unenforced>, findings: &Findings) {
    for section in sections {
        refuse(section, findings);
    }
}

fn refuse(section: &Unenforced, findings: &Findings) {
    let problem = format!("this build cannot enforce `{}`", section.section);
    let hint = "remove the section, or run a build that has it: a rule that is written but not applied \
                would look like protection";
    findings.error(&section.place, problem, hint);
}

fn warn_without_policy(rules: &RulesDocument, findings: &Findings) {
    if rules.policy.is_none() {
        let problem = "without `policy`, every caller may call every tool";
        let hint = "let only callers that may do so reach the listeners";
        findings.warn(&rules.place, problem, hint);
    }
}
