//! Policy: the rules that say who may do what, compiled, and how they are asked.

mod json;
mod rbac;
mod source;
mod zones;

pub(crate) use rbac::{Known, read as read_roles};
pub use source::PolicySource;
pub use zones::Zones;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use portunus_filters::authorize::trial::{Trial, run_tests};
use portunus_filters::authorize::{Policy, Problem, Settings};

/// A policy in force.
#[derive(Clone)]
pub struct PolicyRules {
    /// Its rules, compiled.
    pub policy: Arc<Policy>,
    /// What lists show.
    pub lists: ListRule,
    /// Networks with a name, for `input.context.zone`.
    pub zones: Zones,
    /// Most decisions that are remembered. Default 100,000.
    pub cache_entries: usize,
    /// Whether callers are told the reason that the policy gives. Default true.
    pub reasons_to_client: bool,
    /// What is tried beside it, without deciding anything.
    pub shadow: Option<Shadow>,
    /// What the rules were compiled from.
    pub source: Arc<PolicySource>,
    /// How they were compiled.
    pub settings: Settings,
    /// How the document says it, for [`crate::effective`].
    pub(crate) written: Written,
}

impl PolicyRules {
    /// Default of [`PolicyRules::cache_entries`].
    pub const DEFAULT_CACHE_ENTRIES: usize = 100_000;

    /// Whether its rules would say the same as those of `other` to every question: they were compiled
    /// from the same, in the same way.
    pub fn decides_as(&self, other: &PolicyRules) -> bool {
        let same =
            |one: &Arc<PolicySource>, other: &Arc<PolicySource>| Arc::ptr_eq(one, other) || one == other;
        self.settings == other.settings && same(&self.source, &other.source)
    }

    /// Runs the policy's own tests.
    ///
    /// # Errors
    /// Why they cannot be run.
    pub fn trial(&self) -> Result<Trial, Vec<Problem>> {
        run_tests(&self.source.modules, &self.source.documents(), &self.settings)
    }
}

impl fmt::Debug for PolicyRules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let modules: Vec<&str> = self.source.modules.iter().map(|module| module.path.as_str()).collect();
        f.debug_struct("PolicyRules").field("modules", &modules).field("lists", &self.lists).finish()
    }
}

/// A policy that is asked beside the one in force.
#[derive(Clone)]
pub struct Shadow {
    /// Its rules, compiled.
    pub policy: Arc<Policy>,
    /// Of how many decisions one is judged by it as well.
    pub sample: usize,
}

/// What lists show to a caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListRule {
    /// What the entry point `visible` says.
    Visible,
    /// What the entry point `decision` allows; it reads no arguments, so that is what calls may do.
    Decision,
    /// Everything: a refusal comes with the call.
    Show,
    /// What `decision` allows when it is asked without arguments.
    WithoutArguments,
}

/// `policy` as it can be written again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Written {
    /// `path`, as the document that is printed has to write it; `None` for `builtin: rbac`.
    pub(crate) path: Option<PathBuf>,
    pub(crate) data: Option<PathBuf>,
    pub(crate) entrypoint: String,
    pub(crate) cache_ttl: Duration,
    pub(crate) lists: Option<Lists>,
    pub(crate) time_zone: String,
    pub(crate) time_limit: Duration,
    pub(crate) strict: bool,
    /// `path`, `data` and `sample` of `shadow`.
    pub(crate) shadow: Option<(PathBuf, Option<PathBuf>, usize)>,
}

/// How lists of tools, prompts and resources follow from the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lists {
    /// The rule `visible` says what a caller sees.
    ByVisible,
    /// Everything is shown; what a caller may not do is refused when it is tried.
    Show,
    /// What the rule that decides refuses without arguments is hidden.
    Hide,
}

impl Lists {
    /// Every way by its name in the document.
    pub const NAMES: [(&'static str, Lists); 3] =
        [("by_visible", Lists::ByVisible), ("show", Lists::Show), ("hide", Lists::Hide)];

    /// The name in the document.
    pub fn as_str(self) -> &'static str {
        match self {
            Lists::ByVisible => "by_visible",
            Lists::Show => "show",
            Lists::Hide => "hide",
        }
    }
}

/// The path of a rule without `data`, its parts between slashes: `mcp/authz/decision`, written so or
/// as `data.mcp.authz.decision`.
pub(crate) fn entry_point(text: &str) -> Result<String, &'static str> {
    let path = text.strip_prefix("data.").map_or_else(|| text.to_owned(), |path| path.replace('.', "/"));
    let word = |part: &str| {
        part.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
            && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    };
    match path.len() <= 256 && path.contains('/') && path.split('/').all(word) {
        true => Ok(path),
        false => Err("is no path of a rule"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_point_has_a_package_and_a_rule() {
        let table = [
            ("mcp/authz/decision", Some("mcp/authz/decision")),
            ("data.mcp.authz.decision", Some("mcp/authz/decision")),
            ("decision", None),
            ("mcp//decision", None),
            ("mcp/authz/", None),
            ("mcp/1/decision", None),
            ("mcp/a-b/decision", None),
            ("", None),
        ];
        for (text, expected) in table {
            assert_eq!(entry_point(text).ok().as_deref(), expected, "{text}");
        }
    }
}
