//! The list of all filters, from which their order and the labels of their times follow.

/// The filters by name, in the order in which each message meets them. A name is the one in metrics, the log and the record.
pub const FILTERS: &[&str] = &[
    "authorize",
    #[cfg(feature = "text-marker")]
    "text-marker",
];

/// The place of a filter in the order; one that is not in the list comes last.
pub(crate) fn place_of(name: &str) -> usize {
    FILTERS.iter().position(|known| *known == name).unwrap_or(FILTERS.len())
}
