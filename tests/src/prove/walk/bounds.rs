//! Bounds of what a reader meets on the way of a call; each may fall, and does not rise.

/// The figures of one walk.
#[derive(Default)]
pub(super) struct Figures {
    pub(super) files: usize,
    pub(super) spine: usize,
    pub(super) returns: usize,
    pub(super) shared_locks: usize,
}

/// The bound of one figure.
pub(super) struct Bound {
    pub(super) name: &'static str,
    pub(super) figure: fn(&Figures) -> usize,
    /// The most that is allowed now.
    pub(super) most: usize,
    /// The most that there should be.
    pub(super) wanted: usize,
}

const fn bound(name: &'static str, figure: fn(&Figures) -> usize, most: usize, wanted: usize) -> Bound {
    Bound { name, figure, most, wanted }
}

pub(super) const MODERN_TO_LEGACY: [Bound; 4] = [
    bound("files", |figures| figures.files, 131, 60),
    bound("files of the spine", |figures| figures.spine, 30, 12),
    bound("returns", |figures| figures.returns, 145, 30),
    bound("process-wide locks", |figures| figures.shared_locks, 6, 3),
];

pub(super) const LEGACY_TO_MODERN: [Bound; 4] = [
    bound("files", |figures| figures.files, 131, 60),
    bound("files of the spine", |figures| figures.spine, 30, 12),
    bound("returns", |figures| figures.returns, 144, 30),
    bound("process-wide locks", |figures| figures.shared_locks, 5, 3),
];
