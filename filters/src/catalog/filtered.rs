//! A merged list without what a caller does not see.
//!
//! Neighbours that are all seen stay one slice of the list that is served to everyone, so that what is
//! kept for each view of a long list is little more than what is hidden from it.

use super::merge::PAGE_BYTES;
use super::served::{Served, Writer};
use super::{Catalog, Closing, Entry, ListKind, UnknownCursor};
use bytes::Bytes;

/// How an item stands in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shown {
    /// Not at all.
    Hidden,
    /// As it is.
    AsItIs,
    /// With another definition.
    Changed(String),
}

/// A list as one view of it has it.
#[derive(Debug)]
pub struct Filtered {
    kind: ListKind,
    served: Served,
    items: usize,
}

impl Catalog {
    /// A list with what `look` shows of it, in its order.
    pub fn filtered(&self, kind: ListKind, mut look: impl FnMut(&Entry) -> Shown) -> Filtered {
        let list = &self.lists[kind.index()];
        let mut writer = Writer::new(PAGE_BYTES);
        let pieces: Vec<&Bytes> = list.served.pieces().collect();
        let (mut at, mut items) = (0, 0);
        for (place, entry) in (0u32..).zip(&list.entries) {
            match look(entry) {
                Shown::Hidden => continue,
                Shown::Changed(text) => writer.changed(&text),
                Shown::AsItIs => {
                    let (piece, start) = place_of(&entry.definition, &pieces, &mut at);
                    writer.slice(piece, start..start + entry.definition.len(), place);
                }
            }
            items += 1;
        }
        Filtered { kind, served: writer.finish().0, items }
    }
}

/// The piece that a definition lies in, at or behind `at`, and where it begins there; a definition
/// that was copied is a piece of its own.
fn place_of<'p>(definition: &'p Bytes, pieces: &[&'p Bytes], at: &mut usize) -> (&'p Bytes, usize) {
    let found = pieces.iter().enumerate().skip(*at);
    let mut found = found.filter_map(|(index, piece)| Some((index, *piece, offset(piece, definition)?)));
    match found.next() {
        Some((index, piece, start)) => {
            *at = index;
            (piece, start)
        }
        None => (definition, 0),
    }
}

/// Where in `piece` a slice of it begins.
fn offset(piece: &Bytes, slice: &Bytes) -> Option<usize> {
    let start = (slice.as_ptr() as usize).checked_sub(piece.as_ptr() as usize)?;
    (start + slice.len() <= piece.len()).then_some(start)
}

impl Filtered {
    /// The result of a list request, as [`Catalog::result`] of the catalogue that it was made of.
    ///
    /// # Errors
    /// [`UnknownCursor`] for one that is not of this view of the list as it is now.
    pub fn result(
        &self,
        catalog: &Catalog,
        cursor: Option<&str>,
        closing: &Closing<'_>,
    ) -> Result<Vec<Bytes>, UnknownCursor> {
        Ok(catalog.closed(self.served.page(cursor)?, self.kind, closing))
    }

    /// Items that are seen.
    pub fn len(&self) -> usize {
        self.items
    }

    /// Whether nothing is seen.
    pub fn is_empty(&self) -> bool {
        self.items == 0
    }

    /// Bytes that it takes beside the list of everyone, at most.
    pub fn bytes(&self) -> usize {
        self.served.pieces().map(Bytes::len).sum()
    }
}
