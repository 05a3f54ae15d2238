//! A merged list as text, without copying what nobody changed.
//!
//! Neighbours of one page that are served as they came are one slice of it, commas and all; what was
//! changed, and short runs between, stand in a text of their own. So a list of a thousand tools is a
//! few pieces.

use super::page::Item;
use bytes::Bytes;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Range;

/// A run of untouched definitions that is shorter is copied, so that pieces stay few.
const MIN_SLICE: usize = 16 << 10;

/// One page of a merged list.
#[derive(Debug, Default)]
pub struct ServedPage {
    /// What is between `[` and `]`, to be written one after another.
    pub pieces: Vec<Bytes>,
    /// Where the next page begins.
    pub next_cursor: Option<String>,
}

/// A cursor that is none of the present list: it was made up, is of another list, or the list has
/// changed since. Answer it with -32602, and the client begins anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownCursor;

/// All pages of a merged list.
#[derive(Debug, Default)]
pub(super) struct Served {
    pages: Vec<ServedPage>,
    generation: u64,
}

impl Served {
    /// The page that a cursor leads to.
    pub(super) fn page(&self, cursor: Option<&str>) -> Result<&ServedPage, UnknownCursor> {
        let place = match cursor {
            None => 0,
            Some(cursor) => {
                let (generation, place) = cursor.split_once('.').ok_or(UnknownCursor)?;
                if generation != format!("{:016x}", self.generation) {
                    return Err(UnknownCursor);
                }
                place.parse().ok().filter(|&place: &usize| place > 0).ok_or(UnknownCursor)?
            }
        };
        self.pages.get(place).ok_or(UnknownCursor)
    }

    /// Every piece of every page, in order.
    pub(super) fn pieces(&self) -> impl Iterator<Item = &Bytes> {
        self.pages.iter().flat_map(|page| &page.pieces)
    }

    /// Digest of all its text: the same list has the same cursors, on any replica.
    pub(super) fn generation(&self) -> u64 {
        self.generation
    }
}

/// Where a definition lies.
enum Lies {
    Page(Bytes),
    Own(usize, usize),
}

/// A run of neighbours within a page.
struct Run {
    page: Bytes,
    start: usize,
    end: usize,
    last: u32,
}

enum Piece {
    Slice(Bytes),
    Own(usize, usize),
}

/// Writes the definitions of a list in their order.
pub(super) struct Writer {
    page_bytes: usize,
    pages: Vec<Vec<Piece>>,
    pieces: Vec<Piece>,
    /// Bytes of the page under way.
    filled: usize,
    own: String,
    /// Up to where own text is in pieces.
    placed: usize,
    run: Option<Run>,
    lies: Vec<Lies>,
}

impl Writer {
    /// With pages of at most so many bytes, where single definitions are not longer.
    pub(super) fn new(page_bytes: usize) -> Writer {
        Writer {
            page_bytes,
            pages: Vec::new(),
            pieces: Vec::new(),
            filled: 0,
            own: String::new(),
            placed: 0,
            run: None,
            lies: Vec::new(),
        }
    }

    /// An item as its upstream wrote it.
    pub(super) fn untouched(&mut self, item: &Item) {
        self.slice(&item.page, item.span.start as usize..item.span.end as usize, item.place);
    }

    /// A definition that lies in a page, as the `place`th of its neighbours there.
    pub(super) fn slice(&mut self, page: &Bytes, span: Range<usize>, place: u32) {
        self.make_room(span.len());
        self.lies.push(Lies::Page(page.slice(span.clone())));
        let goes_on = |run: &Run| run.page.as_ptr() == page.as_ptr() && run.last + 1 == place;
        self.filled += span.len() + 1;
        match self.run.as_mut().filter(|run| goes_on(run)) {
            Some(run) => (run.end, run.last) = (span.end, place),
            None => {
                self.end_run();
                self.run = Some(Run { page: page.clone(), start: span.start, end: span.end, last: place });
            }
        }
    }

    /// An item that was changed.
    pub(super) fn changed(&mut self, text: &str) {
        self.make_room(text.len());
        self.end_run();
        self.comma();
        let start = self.own.len();
        self.own.push_str(text);
        self.lies.push(Lies::Own(start, self.own.len()));
        self.filled += text.len() + 1;
    }

    /// The pages, and each definition by itself in the order of writing.
    pub(super) fn finish(mut self) -> (Served, Vec<Bytes>) {
        self.end_page();
        let own = Bytes::from(self.own);
        let piece = |piece: Piece| match piece {
            Piece::Slice(slice) => slice,
            Piece::Own(start, end) => own.slice(start..end),
        };
        let pages = self.pages.into_iter().map(|page| page.into_iter().map(piece).collect());
        let definitions = self.lies.into_iter().map(|lies| match lies {
            Lies::Page(definition) => definition,
            Lies::Own(start, end) => own.slice(start..end),
        });
        (numbered(pages.collect()), definitions.collect())
    }

    fn make_room(&mut self, bytes: usize) {
        if self.filled > 0 && self.filled + bytes > self.page_bytes {
            self.end_page();
        }
    }

    fn end_page(&mut self) {
        self.end_run();
        self.place_own();
        self.pages.push(std::mem::take(&mut self.pieces));
        self.filled = 0;
    }

    /// Puts a run where it belongs: in a piece of its own if that saves a copy worth its piece.
    fn end_run(&mut self) {
        let Some(run) = self.run.take() else { return };
        self.comma();
        if run.end - run.start < MIN_SLICE {
            let text = std::str::from_utf8(&run.page[run.start..run.end]).unwrap_or_default();
            self.own.push_str(text);
        } else {
            self.place_own();
            self.pieces.push(Piece::Slice(run.page.slice(run.start..run.end)));
        }
    }

    /// A comma, unless it would be the first of a page.
    fn comma(&mut self) {
        if !self.pieces.is_empty() || self.own.len() > self.placed {
            self.own.push(',');
        }
    }

    fn place_own(&mut self) {
        if self.own.len() > self.placed {
            self.pieces.push(Piece::Own(self.placed, self.own.len()));
            self.placed = self.own.len();
        }
    }
}

fn numbered(pages: Vec<Vec<Bytes>>) -> Served {
    let mut hasher = DefaultHasher::new();
    for page in &pages {
        hasher.write_usize(page.iter().map(Bytes::len).sum());
        page.iter().for_each(|piece| hasher.write(piece));
    }
    pages.len().hash(&mut hasher);
    let generation = hasher.finish();
    let last = pages.len().saturating_sub(1);
    let cursor = |place: usize| (place < last).then(|| format!("{generation:016x}.{}", place + 1));
    let numbered = pages.into_iter().enumerate();
    let pages = numbered.map(|(place, pieces)| ServedPage { pieces, next_cursor: cursor(place) });
    Served { pages: pages.collect(), generation }
}
