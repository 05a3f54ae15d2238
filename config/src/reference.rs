//! Reads where a document says that a credential is found; the value is a [`portunus_base::Secret`].

use std::fmt;
use std::path::PathBuf;

/// The place at which a document says that a credential is found.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reference {
    /// `env:NAME`, an environment variable of the process.
    Variable(String),
    /// `file:PATH`, a file without its trailing newline; a relative path begins at the document.
    File(PathBuf),
    /// `secret:NAME`, an entry of the bootstrap's `secrets`.
    Named(String),
    /// `vault:…`, which this build cannot read.
    Vault,
}

impl Reference {
    /// The forms of a reference, for hints.
    pub(crate) const FORMS: &'static str =
        "write `env:NAME`, `file:/path` or `secret:NAME`, never the value itself";

    /// Reads a reference; `None` for anything else, which may be a credential and must not be shown.
    pub fn parse(text: &str) -> Option<Reference> {
        let (scheme, rest) = text.split_once(':')?;
        let name = rest.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte));
        match scheme {
            "vault" => Some(Reference::Vault),
            _ if rest.is_empty() => None,
            "env" if name => Some(Reference::Variable(rest.to_owned())),
            "secret" if name => Some(Reference::Named(rest.to_owned())),
            "file" => Some(Reference::File(rest.into())),
            _ => None,
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reference::Variable(name) => write!(f, "env:{name}"),
            Reference::File(path) => write!(f, "file:{}", path.display()),
            Reference::Named(name) => write!(f, "secret:{name}"),
            Reference::Vault => f.write_str("vault:"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_have_four_forms() {
        let table = [
            ("env:TOKEN_1", Some(Reference::Variable("TOKEN_1".into()))),
            ("file:/run/token", Some(Reference::File("/run/token".into()))),
            ("secret:crm-token", Some(Reference::Named("crm-token".into()))),
            ("vault:kv/a#b", Some(Reference::Vault)),
            ("env:", None),
            ("secret:a b", None),
            ("sk-live-123", None),
            ("https://a", None),
            ("", None),
        ];
        for (text, expected) in table {
            assert_eq!(Reference::parse(text), expected, "{text}");
        }
    }
}
