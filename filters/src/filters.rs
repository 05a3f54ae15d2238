//! The list of all filters, from which their order and the labels of their times follow.

use portunus_base::Denial;
use std::borrow::Cow;

/// The filters by name, in the order in which each message meets them. A name is the one in metrics, the log and the record.
pub const FILTERS: &[&str] = &[
    "authorize",
    "limits",
    #[cfg(feature = "text-marker")]
    "text-marker",
];

/// Has each of several readers read a text as those before it left it.
///
/// # Errors
/// The first [`Denial`].
pub(crate) fn read_in_turn<'t, R>(
    readers: impl IntoIterator<Item = R>,
    text: &'t str,
    read: impl for<'p> Fn(&R, &'p str) -> Result<Cow<'p, str>, Denial>,
) -> Result<Cow<'t, str>, Denial> {
    let mut permitted = Cow::Borrowed(text);
    for reader in readers {
        if let Cow::Owned(changed) = read(&reader, &permitted)? {
            permitted = Cow::Owned(changed);
        }
    }
    Ok(permitted)
}

/// The place of a filter in the order; one that is not in the list comes last.
pub(crate) fn place_of(name: &str) -> usize {
    FILTERS.iter().position(|known| *known == name).unwrap_or(FILTERS.len())
}
