//! Method names and what a gateway has to know of each.

use std::borrow::Cow;

/// A JSON-RPC method of MCP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Method {
    /// A method of the specification, by its name there.
    Known(&'static Rules),
    /// Any other: an extension, or a method that does not exist. Forwarded as it is.
    Other(Box<str>),
}

/// What a known method means for a gateway.
#[derive(Debug, PartialEq, Eq)]
pub struct Rules {
    /// The name on the wire.
    pub name: &'static str,
    /// The parameter that `Mcp-Name` mirrors.
    pub target: Option<&'static str>,
    /// May be sent again when an upstream broke after it got the request.
    pub repeatable: bool,
    /// A client that probes for the era must see an unreachable upstream as HTTP 5xx.
    pub probes_era: bool,
    /// Its answer is a stream without an end of its own.
    pub endless: bool,
}

const fn rules(name: &'static str) -> Rules {
    Rules { name, target: None, repeatable: false, probes_era: false, endless: false }
}

const fn lists(name: &'static str) -> Rules {
    Rules { repeatable: true, ..rules(name) }
}

const fn aims(name: &'static str, target: &'static str) -> Rules {
    Rules { target: Some(target), ..rules(name) }
}

/// Every method with rules of its own, and those that metrics count by name.
const KNOWN: &[Rules] = &[
    aims("tools/call", "name"),
    lists("tools/list"),
    Rules { probes_era: true, ..rules("initialize") },
    rules("notifications/initialized"),
    Rules { repeatable: true, probes_era: true, ..rules("server/discover") },
    Rules { endless: true, ..rules("subscriptions/listen") },
    lists("ping"),
    lists("resources/list"),
    lists("resources/templates/list"),
    aims("resources/read", "uri"),
    rules("resources/subscribe"),
    rules("resources/unsubscribe"),
    lists("prompts/list"),
    aims("prompts/get", "name"),
    rules("completion/complete"),
    rules("logging/setLevel"),
    aims("tasks/get", "taskId"),
    aims("tasks/update", "taskId"),
    aims("tasks/cancel", "taskId"),
    rules("tasks/result"),
    rules("tasks/list"),
    rules("notifications/cancelled"),
    rules("notifications/progress"),
    rules("notifications/message"),
    rules("notifications/roots/list_changed"),
    rules("notifications/tools/list_changed"),
    rules("notifications/resources/list_changed"),
    rules("notifications/resources/updated"),
    rules("notifications/prompts/list_changed"),
    rules("notifications/subscriptions/acknowledged"),
    rules("notifications/elicitation/complete"),
    rules("notifications/tasks/status"),
    rules("sampling/createMessage"),
    rules("elicitation/create"),
    rules("roots/list"),
];

impl Method {
    /// Finds the rules of a method, or keeps its name.
    pub fn of(name: &str) -> Method {
        match KNOWN.iter().find(|rules| rules.name == name) {
            Some(rules) => Method::Known(rules),
            None => Method::Other(name.into()),
        }
    }

    /// The names of those that the specification knows.
    pub fn names() -> impl Iterator<Item = &'static str> {
        KNOWN.iter().map(|rules| rules.name)
    }

    /// The name on the wire.
    pub fn name(&self) -> &str {
        match self {
            Method::Known(rules) => rules.name,
            Method::Other(name) => name,
        }
    }

    /// The name on the wire, to keep: a known one costs nothing.
    pub fn to_name(&self) -> Cow<'static, str> {
        match self {
            Method::Known(rules) => Cow::Borrowed(rules.name),
            Method::Other(name) => Cow::Owned(name.to_string()),
        }
    }

    /// The name for a metric label: closed, `other` for what the specification does not know.
    pub fn label(&self) -> &'static str {
        match self {
            Method::Known(rules) => rules.name,
            Method::Other(_) => "other",
        }
    }

    /// The rules, if the specification knows this method.
    pub fn rules(&self) -> Option<&'static Rules> {
        match self {
            Method::Known(rules) => Some(rules),
            Method::Other(_) => None,
        }
    }

    /// Whether this is the method of that name.
    pub fn is(&self, name: &str) -> bool {
        self.name() == name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_read_back() {
        for (index, rules) in KNOWN.iter().enumerate() {
            assert!(KNOWN[index + 1..].iter().all(|other| other.name != rules.name), "{}", rules.name);
            assert_eq!(Method::of(rules.name).name(), rules.name);
        }
    }

    #[test]
    fn unknown_methods_keep_their_name_and_share_a_label() {
        let method = Method::of("x/made_up");
        assert_eq!((method.name(), method.label()), ("x/made_up", "other"));
    }

    #[test]
    fn nothing_that_acts_is_repeatable() {
        for name in ["tools/call", "prompts/get", "resources/subscribe", "initialize", "completion/complete"]
        {
            assert!(!Method::of(name).rules().unwrap().repeatable, "{name}");
        }
    }
}
