//! Finds the patterns that match a name without trying them one after the other.
//!
//! Names without a `*` are looked up, patterns by the text ahead of their first `*` and then by that behind their
//! last one. Only what lies between two `*` is searched for.

use serde::Deserialize;
use std::collections::{BTreeMap, HashMap};

/// A pattern over names, as the file of roles is lowered for the rules.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged, deny_unknown_fields)]
pub(super) enum NamePattern {
    Exact {
        exact: Box<str>,
    },
    Ends {
        prefix: Box<str>,
        suffix: Box<str>,
        #[serde(rename = "least")]
        _least: u64,
    },
    Glob {
        glob: Box<str>,
        #[serde(rename = "regex")]
        _regex: Box<str>,
    },
}

impl NamePattern {
    /// The name that it is, or the pattern.
    fn parts(&self) -> Result<&str, Glob> {
        match self {
            NamePattern::Exact { exact } => Ok(exact),
            NamePattern::Ends { prefix, suffix, .. } => {
                Err(Glob { prefix: prefix.clone(), middles: Box::default(), suffix: suffix.clone() })
            }
            NamePattern::Glob { glob, .. } => Glob::parse(glob).map_or_else(|| Ok(&**glob), Err),
        }
    }
}

/// A pattern with at least one `*`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Glob {
    prefix: Box<str>,
    /// Texts between two `*`.
    middles: Box<[Box<str>]>,
    suffix: Box<str>,
}

impl Glob {
    /// `None` without a `*`.
    fn parse(pattern: &str) -> Option<Glob> {
        let (prefix, rest) = pattern.split_once('*')?;
        let (middles, suffix) =
            rest.rsplit_once('*').map_or(("", rest), |(middles, suffix)| (middles, suffix));
        let middles = middles.split('*').filter(|middle| !middle.is_empty()).map(Box::from).collect();
        Some(Glob { prefix: prefix.into(), middles, suffix: suffix.into() })
    }

    fn matches(&self, name: &str) -> bool {
        let Some(rest) = name.strip_prefix(&*self.prefix) else { return false };
        let Some(mut rest) = rest.strip_suffix(&*self.suffix) else { return false };
        for middle in &self.middles {
            let Some(at) = rest.find(&**middle) else { return false };
            rest = &rest[at + middle.len()..];
        }
        true
    }
}

/// What is filed under pairs of patterns, over upstreams and over the names of their things.
#[derive(Debug)]
pub(super) struct PatternIndex<T> {
    upstreams: HashMap<Box<str>, Names<T>>,
    wild: Vec<(Glob, Names<T>)>,
}

/// What is filed under patterns over names.
#[derive(Debug)]
struct Names<T> {
    exact: HashMap<Box<str>, Vec<T>>,
    /// By how a name begins, and then by how it ends.
    globs: ByText<ByText<Vec<(Glob, T)>>>,
}

/// By a text, and before that by its length.
type ByText<T> = BTreeMap<usize, HashMap<Box<[u8]>, T>>;

impl<T> Default for PatternIndex<T> {
    fn default() -> PatternIndex<T> {
        PatternIndex { upstreams: HashMap::new(), wild: Vec::new() }
    }
}

impl<T> Default for Names<T> {
    fn default() -> Names<T> {
        Names { exact: HashMap::new(), globs: BTreeMap::new() }
    }
}

impl<T> PatternIndex<T> {
    pub(super) fn insert(&mut self, upstream: &NamePattern, name: &NamePattern, item: T) {
        let names = match upstream.parts() {
            Ok(upstream) => self.upstreams.entry(upstream.into()).or_default(),
            Err(glob) => {
                let known = self.wild.iter().position(|(known, _)| *known == glob);
                let place = known.unwrap_or_else(|| {
                    self.wild.push((glob, Names::default()));
                    self.wild.len() - 1
                });
                &mut self.wild[place].1
            }
        };
        names.insert(name, item);
    }

    /// Whether `is_it` holds for something that matches.
    pub(super) fn any(&self, upstream: &str, name: &str, mut is_it: impl FnMut(&T) -> bool) -> bool {
        let exact = self.upstreams.get(upstream);
        let wild = self.wild.iter().filter(|(glob, _)| glob.matches(upstream)).map(|(_, names)| names);
        exact.into_iter().chain(wild).any(|names| names.any(name, &mut is_it))
    }
}

impl<T> Names<T> {
    fn insert(&mut self, name: &NamePattern, item: T) {
        match name.parts() {
            Ok(name) => self.exact.entry(name.into()).or_default().push(item),
            Err(glob) => {
                let by_prefix = by_text(&mut self.globs, &glob.prefix);
                by_text(by_prefix, &glob.suffix).push((glob, item));
            }
        }
    }

    fn any(&self, name: &str, is_it: &mut impl FnMut(&T) -> bool) -> bool {
        if self.exact.get(name).is_some_and(|items| items.iter().any(&mut *is_it)) {
            return true;
        }
        let bytes = name.as_bytes();
        let ahead = self.globs.range(..=bytes.len());
        let ahead = ahead.filter_map(|(length, by_prefix)| by_prefix.get(&bytes[..*length]));
        let behind = ahead.flat_map(|by_suffix| by_suffix.range(..=bytes.len()));
        let behind = behind.filter_map(|(length, globs)| globs.get(&bytes[bytes.len() - length..]));
        // The item first: it costs less to see that it is nobody's than to search the name.
        behind.flatten().any(|(glob, item)| is_it(item) && glob.matches(name))
    }
}

fn by_text<'t, T: Default>(texts: &'t mut ByText<T>, text: &str) -> &'t mut T {
    texts.entry(text.len()).or_default().entry(text.as_bytes().into()).or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_matches_what_its_parts_are_found_in() {
        let table = [
            ("*", "", true),
            ("get_*", "get_", true),
            ("get_*", "ge", false),
            ("ab*ba", "aba", false),
            ("ab*ba", "abba", true),
            ("*a*a*", "a", false),
            ("*a*a*", "xaxax", true),
            ("a**b", "ab", true),
            ("a*é*b", "aéb", true),
            ("a*é*b", "aeb", false),
            ("*aab", "aaab", true),
            ("*b*bc", "bbc", true),
            ("*b*bc", "bc", false),
        ];
        for (pattern, name, expected) in table {
            assert_eq!(Glob::parse(pattern).unwrap().matches(name), expected, "{pattern} {name}");
        }
    }
}
