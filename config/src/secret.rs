//! Credentials: how a document refers to one, and the value that nothing prints.

use std::fmt;
use std::path::PathBuf;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::digest::{SHA256, digest};

/// The value of a credential; `Debug` and `Display` print `[secret]`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret {
    value: String,
    /// Where it was read from, for people.
    source: Reference,
    /// `Bearer ` stands before what was read.
    bearer: bool,
}

impl Secret {
    /// Largest secret; more would not fit a request's header anywhere.
    pub const MAX_BYTES: usize = 16 << 10;

    /// Checks that a value can stand in a header field.
    ///
    /// # Errors
    /// What is wrong with it, never the value.
    pub(crate) fn new(value: String, source: Reference) -> Result<Secret, &'static str> {
        match value.as_bytes() {
            [] => Err("is empty"),
            long if long.len() > Secret::MAX_BYTES => Err("is longer than 16 KiB"),
            bytes if bytes.iter().any(|byte| matches!(byte, b'\r' | b'\n')) => Err("has more than one line"),
            bytes if !bytes.iter().all(|byte| matches!(byte, b' '..=b'~')) => {
                Err("has a character that a header field cannot hold")
            }
            [b' ', ..] | [.., b' '] => Err("begins or ends with a space"),
            _ => Ok(Secret { value, source, bearer: false }),
        }
    }

    /// The value, for the one place that writes it into a request.
    pub fn expose(&self) -> &str {
        &self.value
    }

    /// Where the value was read from, which is no secret.
    pub fn source(&self) -> &Reference {
        &self.source
    }

    /// Whether it was made a bearer token.
    pub(crate) fn is_bearer(&self) -> bool {
        self.bearer
    }

    /// The credential `Bearer <value>` (RFC 6750 §2.1).
    ///
    /// # Errors
    /// If the value is no bearer token.
    pub(crate) fn into_bearer(self) -> Result<Secret, &'static str> {
        match self.value.contains(' ') {
            true => Err("has a space in it, so it is no bearer token"),
            false => Ok(Secret { value: format!("Bearer {}", self.value), bearer: true, ..self }),
        }
    }

    /// The credential `Basic <id:value>`, both form-encoded (RFC 6749 §2.3.1, RFC 7617).
    pub(crate) fn into_basic(self, id: &str) -> Secret {
        let pair = format!("{}:{}", form_encoded(id), form_encoded(&self.value));
        Secret { value: format!("Basic {}", STANDARD.encode(pair)), ..self }
    }

    /// Identity of the value, for revisions and pool keys.
    pub(crate) fn digest(&self) -> [u8; 32] {
        sha256(self.value.as_bytes())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

/// Where a document says that a credential is found.
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
    /// What a reference looks like, for hints.
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

/// `application/x-www-form-urlencoded` of one value (WHATWG URL §5.2).
fn form_encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' | b'*' | b'-' | b'.' | b'_' => out.push(char::from(byte)),
            b' ' => out.push('+'),
            byte => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

pub(crate) fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(digest(&SHA256, bytes).as_ref());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(value: &str) -> Result<Secret, &'static str> {
        Secret::new(value.to_owned(), Reference::Variable("T".to_owned()))
    }

    #[test]
    fn a_secret_prints_nothing_of_itself() {
        let secret = secret("hunter2").unwrap();
        assert_eq!(
            format!("{secret} {secret:?} {:#?}", Some(&secret)),
            "[secret] [secret] Some(\n    [secret],\n)"
        );
        assert_eq!(secret.expose(), "hunter2");
    }

    #[test]
    fn a_client_is_told_by_id_and_secret() {
        let basic = secret("a:b c%").unwrap().into_basic("gate way");
        assert_eq!(basic.expose(), format!("Basic {}", STANDARD.encode("gate+way:a%3Ab+c%25")));
    }

    #[test]
    fn a_secret_can_stand_in_a_header() {
        let table = [
            ("plain", "abc.DEF-123==", true),
            ("space inside", "Basic abc", true),
            ("empty", "", false),
            ("newline inside", "a\nb", false),
            ("carriage return", "a\r", false),
            ("control", "a\u{1}", false),
            ("delete", "a\u{7f}", false),
            ("tab", "a\tb", false),
            ("non-ASCII", "ä", false),
            ("leading space", " a", false),
            ("trailing space", "a ", false),
        ];
        for (name, value, valid) in table {
            assert_eq!(secret(value).is_ok(), valid, "{name}");
        }
        assert!(secret(&"x".repeat(Secret::MAX_BYTES)).is_ok());
        assert!(secret(&"x".repeat(Secret::MAX_BYTES + 1)).is_err());
    }

    #[test]
    fn a_bearer_token_has_no_space() {
        assert_eq!(secret("abc").and_then(Secret::into_bearer).unwrap().expose(), "Bearer abc");
        assert!(secret("Bearer abc").and_then(Secret::into_bearer).is_err());
    }

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
