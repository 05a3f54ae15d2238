//! The `=?base64?…?=` form of header values that HTTP cannot carry as they are (2026-07-28 streamable
//! HTTP, "Value Encoding").

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use std::borrow::Cow;

const BEGIN: &str = "=?base64?";
const END: &str = "?=";

/// A value as a header can carry it: printable ASCII that no reader trims stays as it is.
pub(super) fn encode(value: &str) -> Cow<'_, str> {
    let printable = value.bytes().all(|byte| matches!(byte, b' '..=b'~'));
    if printable && !value.is_empty() && value.trim_matches(' ') == value && inside(value).is_none() {
        return Cow::Borrowed(value);
    }
    Cow::Owned(format!("{BEGIN}{}{END}", STANDARD.encode(value)))
}

/// What a header says; `None` if it is coded in a form that no encoder writes.
pub(super) fn decode(value: &str) -> Option<Cow<'_, str>> {
    let Some(coded) = inside(value) else { return Some(Cow::Borrowed(value)) };
    String::from_utf8(STANDARD.decode(coded).ok()?).ok().map(Cow::Owned)
}

fn inside(value: &str) -> Option<&str> {
    value.strip_prefix(BEGIN)?.strip_suffix(END)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn only_what_a_header_cannot_carry_is_coded() {
        let cases = [
            ("plain", "search items", "search items"),
            ("beyond ASCII", "zażółć", "=?base64?emHFvMOzxYLEhw==?="),
            ("space at an edge", " a", "=?base64?IGE=?="),
            ("line break", "a\r\nb", "=?base64?YQ0KYg==?="),
            ("tab", "a\tb", "=?base64?YQli?="),
            ("empty", "", "=?base64??="),
            ("looks coded", "=?base64?YQ==?=", "=?base64?PT9iYXNlNjQ/WVE9PT89?="),
        ];
        for (name, plain, coded) in cases {
            assert_eq!(encode(plain), coded, "{name}");
            assert_eq!(decode(coded).as_deref(), Some(plain), "{name}");
        }
    }

    #[test]
    fn forms_that_no_encoder_writes_are_refused() {
        for value in ["=?base64?!!?=", "=?base64?YQ?=", "=?base64?YR==?=", "=?base64?/w==?="] {
            assert_eq!(decode(value), None, "{value}");
        }
    }

    proptest! {
        #[test]
        fn every_text_comes_back_out_of_a_safe_header(text in any::<String>()) {
            let coded = encode(&text);
            prop_assert!(coded.bytes().all(|byte| matches!(byte, b' '..=b'~')));
            prop_assert_eq!(decode(&coded).unwrap(), &*text);
        }
    }
}
