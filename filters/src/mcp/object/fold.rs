//! Compares keys the way readers do that ignore case.
//!
//! Go's `encoding/json` and .NET's web defaults take `Name` for `name`, and of several such keys the
//! last one. Go folds by Unicode's simple folding, so `ſ` (U+017F) is an `s` and the Kelvin sign
//! (U+212A) a `k`; .NET folds by simple upper case. Readers in C end a key at its first U+0000. The
//! folding here equates at least what any of them equates, so what differs here differs for every reader.

use super::KnownKeys;
use std::borrow::Cow;

/// Whether some reader takes the two keys for one.
pub(super) fn alike(one: &str, other: &str) -> bool {
    if is_plain(one) && is_plain(other) {
        return one.eq_ignore_ascii_case(other);
    }
    folded(one).eq(folded(other))
}

/// A form that is equal for keys that are alike.
pub(super) fn form(key: &str) -> Cow<'_, str> {
    match key.bytes().all(|byte| byte.is_ascii() && !byte.is_ascii_uppercase() && byte != 0) {
        true => Cow::Borrowed(key),
        false => Cow::Owned(folded(key).collect()),
    }
}

/// The known key that `key` is taken for by some readers, if it is none of them itself.
#[inline]
pub(super) fn imitated(key: &str, known: &KnownKeys) -> Option<&'static str> {
    if (known.has)(key) {
        return None;
    }
    let mut all = known.all.iter().copied();
    match is_plain(key) {
        true => all.find(|known| key.eq_ignore_ascii_case(known)),
        false => all.find(|known| alike(key, known)),
    }
}

/// Whether only case can make other keys of it: no reader folds its letters otherwise, or ends it early.
pub(super) fn is_plain(key: &str) -> bool {
    // Without an early end: keys are short, and seldom anything else.
    key.bytes().fold(true, |plain, byte| plain & byte.is_ascii() & (byte != 0))
}

/// Lower case of upper case of lower case: `ẞ` becomes `ß`, `SS` and then `ss`, as `ß` and `SS` do.
fn folded(key: &str) -> impl Iterator<Item = char> {
    let key = key.split('\0').next().unwrap_or_default();
    key.chars().flat_map(char::to_lowercase).flat_map(char::to_uppercase).flat_map(char::to_lowercase)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mcp::object::known_keys;

    #[test]
    fn keys_are_alike_if_any_reader_takes_them_for_one() {
        let alike_pairs = [
            ("name", "name"),
            ("name", "Name"),
            ("arguments", "argument\u{17f}"),
            ("task", "tas\u{212a}"),
            ("méthode", "MÉTHODE"),
            ("σ", "ς"),
            ("å", "\u{212b}"),
            ("µ", "μ"),
            ("θ", "ϑ"),
            ("ß", "ẞ"),
            ("ǆ", "ǅ"),
            ("name", "name\0"),
            ("name", "NAME\0\0x"),
            ("ͅ", "ι"),
            ("ᏸ", "Ᏸ"),
        ];
        for (one, other) in alike_pairs {
            assert!(alike(one, other) && form(one) == form(other), "{one} {other}");
        }
        for (one, other) in [("name", "names"), ("name", "nаme"), ("a_b", "a-b"), ("", "a")] {
            assert!(!alike(one, other) && form(one) != form(other), "{one} {other}");
        }
    }

    #[test]
    fn every_simple_case_mapping_of_unicode_is_folded() {
        for character in '\u{0}'..=char::MAX {
            let one = character.to_string();
            for other in [one.to_lowercase(), one.to_uppercase()] {
                // Only mappings to one character are simple; others concern no reader.
                if other.chars().count() == 1 {
                    assert!(alike(&one, &other), "{character:?} {other}");
                }
            }
        }
    }

    #[test]
    fn a_known_key_imitates_nothing() {
        const KNOWN: KnownKeys = known_keys!["name", "arguments", "task"];
        let cases = [
            ("name", None),
            ("Name", Some("name")),
            ("ARGUMENT\u{17f}", Some("arguments")),
            ("tas\u{212a}", Some("task")),
            ("name\0", Some("name")),
            ("\0name", None),
            ("other", None),
            ("", None),
        ];
        for (key, expected) in cases {
            assert_eq!(imitated(key, &KNOWN), expected, "{key}");
        }
    }
}
