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
    bound("files", |figures| figures.files, 148, 60),
    bound("files of the spine", |figures| figures.spine, 36, 12),
    bound("returns", |figures| figures.returns, 164, 30),
    bound("process-wide locks", |figures| figures.shared_locks, 17, 3),
];

pub(super) const LEGACY_TO_MODERN: [Bound; 4] = [
    bound("files", |figures| figures.files, 147, 60),
    bound("files of the spine", |figures| figures.spine, 35, 12),
    bound("returns", |figures| figures.returns, 160, 30),
    bound("process-wide locks", |figures| figures.shared_locks, 18, 3),
];
