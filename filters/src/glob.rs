//! Patterns over names and URIs: `*` is any run of characters, everything else is itself.

use std::fmt;

/// A pattern over a name or URI.
///
/// There is no other wildcard: URIs and their templates are full of `?`, `[` and `{`.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Glob {
    text: Box<str>,
}

impl Glob {
    /// A pattern by its text.
    pub fn new(text: &str) -> Glob {
        Glob { text: text.into() }
    }

    /// Whether it stands for exactly one name.
    pub fn is_literal(&self) -> bool {
        !self.text.contains('*')
    }

    /// Whether it matches all of `name`. Linear: each piece is looked for once, leftmost first,
    /// which is right because only the first and the last are anchored.
    pub fn matches(&self, name: &str) -> bool {
        let Some((first, rest)) = self.text.split_once('*') else { return *self.text == *name };
        let (middle, last) = rest.rsplit_once('*').unwrap_or(("", rest));
        let inner = name.strip_prefix(first).and_then(|name| name.strip_suffix(last));
        let Some(inner) = inner else { return false };
        let mut rest = inner;
        middle.split('*').all(|piece| {
            let found = rest.find(piece).and_then(|at| rest.get(at + piece.len()..));
            rest = found.unwrap_or_default();
            found.is_some()
        })
    }

    /// Whether every name that `other` matches is matched by this as well.
    ///
    /// A `*` of `other` may be a run of any characters, so only a `*` can match it, and nothing else
    /// of this pattern does: its text stands for all its names.
    pub fn covers(&self, other: &Glob) -> bool {
        self.matches(&other.text)
    }

    /// Whether some name is matched by both.
    pub fn overlaps(&self, other: &Glob) -> bool {
        let (this, other) = (self.text.as_bytes(), other.text.as_bytes());
        // Whether the rest of `this` from the present byte on and that of `other` from `at` on can
        // be the same text, for every `at`; from the last byte to the first.
        let only_stars = |text: &[u8]| text.iter().all(|byte| *byte == b'*');
        let mut below: Vec<bool> = (0..=other.len()).map(|at| only_stars(&other[at..])).collect();
        for (index, byte) in this.iter().enumerate().rev() {
            let mut row = vec![only_stars(&this[index..]); other.len() + 1];
            for at in (0..other.len()).rev() {
                row[at] = match (byte, other[at]) {
                    (b'*', _) | (_, b'*') => below[at] || row[at + 1],
                    (byte, theirs) => *byte == theirs && below[at + 1],
                };
            }
            below = row;
        }
        below[0]
    }

    /// The narrower of two patterns of which one covers the other.
    pub fn narrower<'a>(&'a self, other: &'a Glob) -> Option<&'a Glob> {
        match (self.covers(other), other.covers(self)) {
            (true, _) => Some(other),
            (_, true) => Some(self),
            _ => None,
        }
    }
}

impl fmt::Display for Glob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Glob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.text)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_star_is_any_run_of_characters() {
        let table = [
            ("delete_*", "delete_all", true),
            ("delete_*", "delete_", true),
            ("delete_*", "undelete_all", false),
            ("*_admin", "user_admin", true),
            ("*_admin", "user_admins", false),
            ("*", "", true),
            ("**", "x", true),
            ("a*b*c", "a1b2c", true),
            ("a*b*c", "abc", true),
            ("a*b*c", "acb", false),
            ("ab*ba", "aba", false),
            ("*aa*aa*", "aaa", false),
            ("file:///etc/*", "file:///etc/passwd", true),
            ("file:///etc/*", "file:///etcetera", false),
            ("x?y", "xzy", false),
            ("x?y", "x?y", true),
            ("é*", "éa", true),
            ("", "", true),
            ("", "a", false),
        ];
        for (pattern, name, expected) in table {
            assert_eq!(Glob::new(pattern).matches(name), expected, "{pattern} {name}");
        }
    }

    /// The definition, one character at a time.
    fn by_definition(pattern: &[char], name: &[char]) -> bool {
        match (pattern.split_first(), name.split_first()) {
            (None, None) => true,
            (Some(('*', rest)), _) => {
                by_definition(rest, name)
                    || name.split_first().is_some_and(|(_, n)| by_definition(pattern, n))
            }
            (Some((a, rest)), Some((b, name))) => a == b && by_definition(rest, name),
            _ => false,
        }
    }

    /// Every name of at most this many characters.
    fn all_names(length: usize) -> Vec<String> {
        let mut names = vec![String::new()];
        let mut last = names.clone();
        for _ in 0..length {
            last = last.iter().flat_map(|name| ["a", "b", "c"].map(|next| format!("{name}{next}"))).collect();
            names.extend_from_slice(&last);
        }
        names
    }

    proptest! {
        #[test]
        fn it_matches_as_its_definition_does(pattern in "[ab*é]{0,8}", name in "[abé]{0,10}") {
            let characters = |text: &str| text.chars().collect::<Vec<_>>();
            let expected = by_definition(&characters(&pattern), &characters(&name));
            prop_assert_eq!(Glob::new(&pattern).matches(&name), expected);
        }

        #[test]
        fn covering_and_overlapping_are_about_names(a in "[ab*]{0,4}", b in "[ab*]{0,4}") {
            let (a, b) = (Glob::new(&a), Glob::new(&b));
            let names = all_names(7);
            let both = names.iter().any(|name| a.matches(name) && b.matches(name));
            prop_assert_eq!(a.overlaps(&b), both);
            // `c` is a character that no pattern has: with it, names tell a `*` from what it may match.
            let covered = names.iter().all(|name| !b.matches(name) || a.matches(name));
            prop_assert_eq!(a.covers(&b), covered);
        }
    }
}
