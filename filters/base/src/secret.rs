//! Holds the value of a credential, which nothing prints and which is wiped when it is dropped.

use std::fmt;

use zeroize::Zeroizing;

/// The value of a credential; `Debug` and `Display` print `[secret]`.
///
/// Each clone wipes its own memory. Texts that are made of the value, such as the head of a request, are
/// not wiped.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret {
    value: Zeroizing<String>,
    /// Tells people where the value was read from.
    source: String,
    /// `Bearer ` stands before what was read.
    is_bearer: bool,
}

impl Secret {
    /// Largest secret; more would not fit a request's header anywhere.
    pub const MAX_BYTES: usize = 16 << 10;

    /// Checks that a value can stand in a header field. `source` tells people where it was read from.
    ///
    /// # Errors
    /// A text that says what is wrong, never the value.
    pub fn new(value: String, source: impl fmt::Display) -> Result<Secret, &'static str> {
        let value = Zeroizing::new(value);
        match value.as_bytes() {
            [] => Err("is empty"),
            long if long.len() > Secret::MAX_BYTES => Err("is longer than 16 KiB"),
            bytes if bytes.iter().any(|byte| matches!(byte, b'\r' | b'\n')) => Err("has more than one line"),
            bytes if !bytes.iter().all(|byte| matches!(byte, b' '..=b'~')) => {
                Err("has a character that a header field cannot hold")
            }
            [b' ', ..] | [.., b' '] => Err("begins or ends with a space"),
            _ => Ok(Secret { value, source: source.to_string(), is_bearer: false }),
        }
    }

    /// The value, for the one place that writes it into a request.
    pub fn expose(&self) -> &str {
        &self.value
    }

    /// The place that the value was read from, which is not secret.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Tells a bearer token from other credentials.
    pub fn is_bearer(&self) -> bool {
        self.is_bearer
    }

    /// The credential `Bearer <value>` (RFC 6750 §2.1).
    ///
    /// # Errors
    /// If the value is no bearer token.
    pub fn into_bearer(self) -> Result<Secret, &'static str> {
        match self.value.contains(' ') {
            true => Err("has a space in it, so it is no bearer token"),
            false => Ok(Secret { is_bearer: true, ..self.map(|token| ["Bearer ", token].concat()) }),
        }
    }

    /// The credential that `encode` makes of the value, such as `Basic <id:value>`, from the same source.
    /// It has to be one that can stand in a header field.
    #[must_use]
    pub fn map(self, encode: impl FnOnce(&str) -> String) -> Secret {
        Secret { value: Zeroizing::new(encode(&self.value)), ..self }
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

#[cfg(test)]
mod tests {
    use super::*;
    use zeroize::ZeroizeOnDrop;

    fn secret(value: &str) -> Result<Secret, &'static str> {
        Secret::new(value.to_owned(), "env:T")
    }

    #[test]
    fn a_secret_prints_nothing_of_itself() {
        let secret = secret("hunter2").unwrap();
        assert_eq!(
            format!("{secret} {secret:?} {:#?}", Some(&secret)),
            "[secret] [secret] Some(\n    [secret],\n)"
        );
        assert_eq!((secret.expose(), secret.source()), ("hunter2", "env:T"));
    }

    /// Reading memory that was freed takes `unsafe`; the type of the field tells as much.
    #[test]
    fn secret_is_wiped_on_drop() {
        fn assert_wiped(_: &impl ZeroizeOnDrop) {}
        let secret = secret("hunter2").unwrap();
        assert_wiped(&secret.value);
        assert_wiped(&secret.map(str::to_uppercase).value);
    }

    #[test]
    fn mapped_secret_keeps_its_source_and_hides_its_value() {
        let mapped = secret("hunter2").unwrap().map(|value| format!("Basic {value}"));
        assert_eq!((mapped.expose(), mapped.source(), mapped.is_bearer()), ("Basic hunter2", "env:T", false));
        assert_eq!(format!("{mapped:?}"), "[secret]");
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
        let bearer = secret("abc").and_then(Secret::into_bearer).unwrap();
        assert_eq!((bearer.expose(), bearer.source(), bearer.is_bearer()), ("Bearer abc", "env:T", true));
        assert!(secret("Bearer abc").and_then(Secret::into_bearer).is_err());
    }
}
