//! Text of strangers that is kept: it is cut when it is made, so that no table of it can grow by its words.
//!
//! For text that is only looked at. What has to stay whole is refused where it is too long
//! ([`crate::frontend::bridge`], subscribed URIs), stands for itself by a digest, or is counted in bytes: by
//! [`crate::shares::Shares`] where it cannot make room, by [`portunus_base::table::weight_of`] where it can.

use std::fmt;
use std::ops::Deref;

/// What stands where text was cut.
const CUT: &str = "…";

/// At most `MAX` bytes of a text, and a sign where there was more.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct Clipped<const MAX: usize>(Box<str>);

impl<const MAX: usize> Clipped<MAX> {
    /// As much of `text` as is kept.
    pub fn new(text: &str) -> Clipped<MAX> {
        if text.len() <= MAX {
            return Clipped(text.into());
        }
        let end = text.floor_char_boundary(MAX);
        Clipped([&text[..end], CUT].concat().into())
    }
}

impl<const MAX: usize> Deref for Clipped<MAX> {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl<const MAX: usize> From<&str> for Clipped<MAX> {
    fn from(text: &str) -> Clipped<MAX> {
        Clipped::new(text)
    }
}

impl<const MAX: usize> fmt::Debug for Clipped<MAX> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_cut_between_two_characters_and_says_so() {
        for (text, kept) in [("", ""), ("abc", "abc"), ("abcd", "abcd"), ("abcde", "abcd…"), ("abcü", "abc…")]
        {
            assert_eq!(&*Clipped::<4>::new(text), kept);
        }
        assert_eq!(Clipped::<8>::new(&"ä".repeat(1 << 20)).len(), 8 + CUT.len());
    }
}
