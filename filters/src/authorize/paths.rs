//! Places in the input document that a policy can read.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

/// A place below `input`: member names. Empty is the whole input.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InputPath(pub Vec<Arc<str>>);

impl InputPath {
    /// The place one member further down.
    #[must_use]
    pub fn below(&self, name: &str) -> InputPath {
        let mut names = self.0.clone();
        names.push(name.into());
        InputPath(names)
    }

    /// The place as far down as `names` lead from here.
    #[must_use]
    pub(super) fn along(&self, names: &[Arc<str>]) -> InputPath {
        InputPath(self.0.iter().chain(names).cloned().collect())
    }

    /// Whether `other` is this place or lies in it.
    pub fn holds(&self, other: &InputPath) -> bool {
        other.0.starts_with(&self.0)
    }
}

impl fmt::Display for InputPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("input")?;
        self.0.iter().try_for_each(|name| write!(f, ".{name}"))
    }
}

/// What is read of the input.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Reads {
    /// Places whose value is read.
    values: BTreeSet<InputPath>,
    /// Places of which only whether they exist is read.
    existence: BTreeSet<InputPath>,
}

impl Reads {
    pub(super) fn value(&mut self, path: InputPath) {
        self.values.insert(path);
    }

    pub(super) fn existence(&mut self, path: InputPath) {
        self.existence.insert(path);
    }

    /// Whether somebody who is given what `self` reads can tell what `other` reads.
    ///
    /// Along the way to a value, what exists is kept, so a place whose existence matters may also
    /// lie above a value.
    pub(super) fn covers(&self, other: &Reads) -> bool {
        let valued = |path: &InputPath| self.values.iter().any(|mine| mine.holds(path));
        let on_the_way = |path: &InputPath| self.values.iter().any(|mine| path.holds(mine));
        other.values.iter().all(valued) && other.existence.iter().all(|path| valued(path) || on_the_way(path))
    }

    /// The places, none within another.
    pub(super) fn places(&self) -> Vec<&InputPath> {
        let mut places: Vec<&InputPath> = Vec::new();
        for path in &self.values {
            if !places.last().is_some_and(|last| last.holds(path)) {
                places.push(path);
            }
        }
        places
    }

    #[cfg(test)]
    pub(super) fn without(mut self, dropped: &str) -> Reads {
        self.values.retain(|path| path.to_string() != dropped);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(crate) fn path(text: &str) -> InputPath {
        InputPath(text.split('.').skip(1).map(Into::into).collect())
    }

    fn reads(values: &[&str], existence: &[&str]) -> Reads {
        let mut reads = Reads::default();
        values.iter().for_each(|text| reads.value(path(text)));
        existence.iter().for_each(|text| reads.existence(path(text)));
        reads
    }

    #[test]
    fn covering_asks_for_values_and_for_what_exists_on_the_way() {
        let mine = reads(&["input.a.b", "input.c"], &[]);
        let covered = [
            reads(&["input.a.b", "input.c"], &[]),
            reads(&["input.a.b.x", "input.c.d.e"], &["input.a"]),
            reads(&[], &["input", "input.c.z"]),
        ];
        let missed = [
            reads(&["input.a"], &[]),
            reads(&["input.ab"], &[]),
            reads(&["input"], &[]),
            reads(&[], &["input.d"]),
        ];
        assert!(covered.iter().all(|other| mine.covers(other)));
        assert!(!missed.iter().any(|other| mine.covers(other)));
    }

    #[test]
    fn places_leave_out_what_lies_within_others() {
        let reads = reads(&["input.a.b", "input.a", "input.ab", "input.a.c.d"], &["input.q"]);
        let places: Vec<String> = reads.places().iter().map(ToString::to_string).collect();
        assert_eq!(places, ["input.a", "input.ab"]);
    }
}
