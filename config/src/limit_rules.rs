//! Holds the limits of one configuration as the gateway enforces them.

use portunus_filters::limits::Rule;

/// Limits of one configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LimitRules {
    /// The rules.
    pub rules: Vec<Rule>,
    /// Keys that each rule counts at once.
    pub max_keys: usize,
    /// The section as a document says it.
    pub(crate) section: serde_json::Value,
}
