//! Pieces of a body, joined only if there is more than one.

use bytes::{Bytes, BytesMut};

/// A body that arrives in pieces; one that comes in a single piece is never copied.
#[derive(Default)]
pub struct Pieces {
    first: Bytes,
    joined: BytesMut,
}

impl Pieces {
    /// Adds the next piece; `likely` is how many bytes there will be in the end.
    pub fn push(&mut self, piece: Bytes, likely: usize) {
        if self.first.is_empty() {
            self.first = piece;
            return;
        }
        if self.joined.is_empty() {
            self.joined.reserve(likely.max(self.first.len() + piece.len()));
            self.joined.extend_from_slice(&self.first);
        }
        self.joined.extend_from_slice(&piece);
    }

    /// Bytes so far.
    pub fn len(&self) -> usize {
        self.joined.len().max(self.first.len())
    }

    /// Whether nothing has come yet.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All of them in one.
    pub fn into_bytes(self) -> Bytes {
        if self.joined.is_empty() { self.first } else { self.joined.freeze() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_joined_in_order() {
        let mut pieces = Pieces::default();
        assert!(pieces.is_empty());
        for piece in ["ab", "c", "", "def"] {
            pieces.push(Bytes::from_static(piece.as_bytes()), 6);
        }
        assert_eq!(pieces.len(), 6);
        assert_eq!(pieces.into_bytes(), "abcdef");
    }

    #[test]
    fn a_single_piece_stays_where_it_is() {
        let piece = Bytes::from(vec![7; 100]);
        let mut pieces = Pieces::default();
        pieces.push(piece.clone(), 100);
        assert_eq!(pieces.into_bytes().as_ptr(), piece.as_ptr());
    }
}
