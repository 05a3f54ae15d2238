//! What a catalogue is made of: the lists of each member, and how well they are known.

use super::{ListKind, Listing};
use portunus_base::Moment;
use std::sync::Arc;

/// One member of a virtual server.
#[derive(Clone, Debug)]
pub struct Source {
    /// Its name: the prefix of its names, and what globs begin with.
    pub member: Arc<str>,
    /// What it offers.
    pub offer: Offer,
}

/// The servers behind a member.
#[derive(Clone, Debug)]
pub enum Offer {
    /// One.
    One(Lists),
    /// Equal servers in several regions.
    Twins(Twins),
}

/// Equal servers in several regions, among which an argument of each tool chooses.
#[derive(Clone, Debug)]
pub struct Twins {
    /// The argument's name.
    pub selector: Arc<str>,
    /// Each region and its lists. The first is the default: what is no tool is served from it.
    pub regions: Vec<(Arc<str>, Lists)>,
}

/// The four lists of one server, by [`ListKind::index`].
#[derive(Clone, Debug, Default)]
pub struct Lists(pub Box<[Known; 4]>);

/// One list of one server.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// The list, or the last that was read. `None` also for a server that has no such list.
    pub listing: Option<Arc<Listing>>,
    /// How well it is known.
    pub state: State,
    /// Names that its server is known to have where the list is not: nobody else gets them meanwhile.
    pub reserved: Arc<[Arc<str>]>,
    /// These are all that it had when it was last read, so that other names are not its own.
    pub is_remembered: bool,
}

/// How well a list is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum State {
    /// As its server says.
    #[default]
    Fresh,
    /// As its server last said; it could not be read again.
    Stale {
        /// When it was read.
        read_at: Moment,
        /// Why it could not be read again, by a stable name.
        reason: &'static str,
    },
    /// Not at all.
    Missing {
        /// Why it could not be read, by a stable name.
        reason: &'static str,
    },
}

impl Known {
    /// A list that was just read.
    pub fn fresh(listing: Arc<Listing>) -> Known {
        Known { listing: Some(listing), ..Known::default() }
    }

    /// A list that could not be read and never was.
    pub fn missing(reason: &'static str) -> Known {
        Known { state: State::Missing { reason }, ..Known::default() }
    }
}

impl Lists {
    /// One of them.
    pub fn of(&self, kind: ListKind) -> &Known {
        &self.0[kind.index()]
    }
}

impl Source {
    /// Names that are kept free for it in lists of which nothing is known.
    pub(super) fn reserved(&self, kind: ListKind) -> impl Iterator<Item = &Arc<str>> {
        let unknown = self.lists(kind).into_iter().filter(|known| known.listing.is_none());
        unknown.flat_map(|known| known.reserved.iter())
    }

    /// Whether it is known which names it has: of twins by all of them.
    pub(super) fn is_read(&self, kind: ListKind) -> bool {
        let is_read = |known: &Known| {
            known.listing.is_some() || known.is_remembered || !matches!(known.state, State::Missing { .. })
        };
        self.lists(kind).into_iter().all(is_read)
    }

    /// The lists that its items come from.
    fn lists(&self, kind: ListKind) -> Vec<&Known> {
        let lists: Vec<&Lists> = match &self.offer {
            Offer::One(lists) => vec![lists],
            Offer::Twins(twins) if kind == ListKind::Tools => {
                twins.regions.iter().map(|(_, lists)| lists).collect()
            }
            Offer::Twins(twins) => twins.regions.first().map(|(_, lists)| lists).into_iter().collect(),
        };
        lists.into_iter().map(|lists| lists.of(kind)).collect()
    }

    /// Every server of it with its name for reports: the member's, for twins `member/region`.
    pub(super) fn servers(&self) -> Vec<(Arc<str>, &Lists)> {
        match &self.offer {
            Offer::One(lists) => vec![(self.member.clone(), lists)],
            Offer::Twins(twins) => {
                let named = |region: &str| format!("{}/{region}", self.member).into();
                twins.regions.iter().map(|(region, lists)| (named(region), lists)).collect()
            }
        }
    }
}
