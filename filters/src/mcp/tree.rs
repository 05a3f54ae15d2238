//! JSON text as a tree of somebody else's making, in one pass.

use super::scan::{Scan, Stop};
use super::{Bounds, Fault};

/// What a tree is made of. A part that cannot be taken in refuses the whole.
pub trait Tree: Sized {
    /// `null`.
    fn null() -> Self;
    /// `true` or `false`.
    fn flag(value: bool) -> Self;
    /// A number as it is written.
    ///
    /// # Errors
    /// A [`Fault`] if it cannot be held without changing it.
    fn number(text: &str) -> Result<Self, Fault>;
    /// What a string says.
    ///
    /// # Errors
    /// A [`Fault`] for text that readers make different things of.
    fn text(text: &str) -> Result<Self, Fault>;
    /// An array.
    fn list(items: Vec<Self>) -> Self;
    /// An object, its members in order.
    ///
    /// # Errors
    /// [`Fault::DuplicateKey`] for a key that comes twice, and what else makes readers disagree.
    fn object(members: Vec<(String, Self)>) -> Result<Self, Fault>;
}

/// Reads a JSON value as a tree of at most `most` parts.
///
/// # Errors
/// [`Fault::Bound`] for more of them; [`Fault::Syntax`] if it is no JSON value or has half of a surrogate pair in it, and what the tree
/// cannot take in.
pub fn read<T: Tree>(text: &str, most: usize) -> Result<T, Fault> {
    let mut scan = Scan::bounded(text, &Bounds::NONE);
    let tree = next(&mut scan, &mut Parts { left: most, most })?;
    scan.end().map_err(unbounded)?;
    Ok(tree)
}

/// How many parts there may be, and how many more.
struct Parts {
    left: usize,
    most: usize,
}

impl Parts {
    fn take(&mut self) -> Result<(), Fault> {
        let beyond = Fault::Bound { what: "the number of values", limit: self.most };
        self.left = self.left.checked_sub(1).ok_or(beyond)?;
        Ok(())
    }
}

fn unbounded(stop: Stop) -> Fault {
    stop.fault(&Bounds::NONE)
}

/// Calls itself as deep as [`Bounds::MAX_DEPTH`] lets a scan go.
fn next<T: Tree>(scan: &mut Scan<'_>, parts: &mut Parts) -> Result<T, Fault> {
    parts.take()?;
    match scan.look() {
        Some(b'{') => object(scan, parts),
        Some(b'[') => list(scan, parts),
        Some(b'"') => {
            let text = scan.quoted().map_err(unbounded)?;
            let text = text.meaning().ok_or(Fault::Syntax("a string is half of a surrogate pair"))?;
            T::text(&text)
        }
        _ => match scan.value().map_err(unbounded)? {
            "null" => Ok(T::null()),
            "true" => Ok(T::flag(true)),
            "false" => Ok(T::flag(false)),
            number => T::number(number),
        },
    }
}

fn object<T: Tree>(scan: &mut Scan<'_>, parts: &mut Parts) -> Result<T, Fault> {
    let mut members = Vec::new();
    let mut more = scan.enter(b'{').map_err(unbounded)?;
    while more {
        let key = scan.key().map_err(unbounded)?;
        let key = key.meaning().ok_or(Fault::Syntax("a key is half of a surrogate pair"))?.into_owned();
        members.push((key, next(scan, parts)?));
        more = scan.next().map_err(unbounded)?;
    }
    T::object(members)
}

fn list<T: Tree>(scan: &mut Scan<'_>, parts: &mut Parts) -> Result<T, Fault> {
    let mut items = Vec::new();
    let mut more = scan.enter(b'[').map_err(unbounded)?;
    while more {
        items.push(next(scan, parts)?);
        more = scan.next().map_err(unbounded)?;
    }
    Ok(T::list(items))
}
