//! Who is served under which name.
//!
//! A name that was served never leads to another tool as long as a revision of the configuration
//! stands: a [`Ledger`] goes from one catalogue to the next and remembers who had it, also while its
//! owner has none of it or is away.
//!
//! Processes with one configuration agree on names, whichever servers each could reach first: what the
//! configuration says goes before everything, names that begin with a member's prefix are that
//! member's, and a bare name is given only once the lists of all members before are known. Until then
//! its item is served prefixed, and stays reachable so.

use super::{ListKind, uri};
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Arc;

/// Names that a ledger remembers of a list beyond those that are served.
const MAX_REMEMBERED: usize = 50_000;

/// Conflicts that are reported by name; the rest is counted.
const MAX_CONFLICTS: usize = 1_000;

/// How names of several members are kept apart. URIs are always kept apart by
/// [`Policy::PrefixOnConflict`], in a form of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// Every name begins with its member's.
    Prefix,
    /// The member listed first has the bare name, every other the prefixed one. A member can always be
    /// called by the prefixed one.
    PrefixOnConflict,
    /// The member listed first has the name, the others are left out and reported.
    None,
}

/// What a configuration says of the items of a list, by member and original name or URI.
pub trait Naming: Send + Sync {
    /// Whether it is served at all. A URI is given in its normal form.
    fn admits(&self, member: &str, original: &str) -> bool;
    /// The name it is served under instead of what the policy says. For tools and prompts.
    fn renamed(&self, member: &str, original: &str) -> Option<&str>;
    /// The description that stands instead of its own.
    fn described(&self, member: &str, original: &str) -> Option<&str>;
    /// Whether anything is not served.
    fn is_selective(&self) -> bool {
        true
    }
    /// Every name that is served instead of what the policy says: member, original and the name.
    fn renames(&self) -> Vec<(&str, &str, &str)>;
}

/// How the names of one virtual server are made.
#[derive(Clone)]
pub struct Names {
    /// What keeps them apart.
    pub policy: Policy,
    /// What stands between the name of a member and that of a tool.
    pub separator: Arc<str>,
    /// Exceptions.
    pub rules: Arc<dyn Naming>,
}

impl fmt::Debug for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Names({:?}, {:?})", self.policy, self.separator)
    }
}

/// An item has not the name that it would have alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// The list it is about.
    pub kind: ListKind,
    /// The name or URI.
    pub name: Arc<str>,
    /// Index of the member that stands in the way.
    pub owner: usize,
    /// Index of the member that has it not.
    pub other: usize,
    /// The name under which the other's is served, if it is.
    pub served_as: Option<Arc<str>>,
    /// Why the other has it not.
    pub why: Why,
}

/// Why an item has not the name that it would have alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// The owner has it.
    Taken,
    /// The list of the owner, a member before, was not read yet.
    Unread,
    /// It begins with the prefix of the owner.
    Prefix,
    /// The configuration gives it to the owner.
    Configured,
}

impl Why {
    /// The word for reports.
    pub fn as_str(self) -> &'static str {
        match self {
            Why::Taken => "taken",
            Why::Unread => "not_read",
            Why::Prefix => "prefix",
            Why::Configured => "configured",
        }
    }
}

/// Conflicts of one list.
#[derive(Clone, Debug, Default)]
pub struct Conflicts {
    /// The first thousand.
    pub named: Vec<Conflict>,
    /// How many there are beyond.
    pub more: usize,
}

/// Who has which name of one list.
#[derive(Clone, Debug, Default)]
pub(super) struct Ledger {
    owners: HashMap<Arc<str>, Owner>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Owner {
    member: usize,
    original: Arc<str>,
}

/// The naming of one list.
pub(super) struct Christening<'a> {
    pub(super) kind: ListKind,
    pub(super) names: &'a Names,
    pub(super) members: &'a [Arc<str>],
    pub(super) ledger: &'a mut Ledger,
    /// The first member whose list was not read yet; their number if all were.
    pub(super) unread: usize,
}

/// What is to be named: by member, and name or URI there.
type Key = (usize, Arc<str>);

/// Why a name is not an item's, and the member that stands in the way.
type Obstacle = (Why, usize);

/// What decides on the names of one list beside the ledger.
struct NamingInput<'a> {
    /// Everything that is to be named.
    items: HashSet<(usize, &'a str)>,
    /// Names that the configuration gives, each with the item that has it.
    configured: HashMap<&'a str, (usize, &'a str)>,
}

impl<'a> Christening<'a> {
    /// The served name of each item, in the order of members; `None` for those that are left out.
    pub(super) fn assign(&mut self, items: &[Key]) -> (Vec<Option<Arc<str>>>, Conflicts) {
        let given = self.given(items);
        let mut served: Vec<Option<Arc<str>>> = vec![None; items.len()];
        for renamed in [true, false] {
            for (item, served) in items.iter().zip(&mut served) {
                let wanted = self.renamed(item);
                if wanted.is_some() == renamed {
                    *served = match wanted {
                        Some(name) => {
                            self.configured(name, item, &given).and_then(|name| self.take(name, item))
                        }
                        None => self.by_policy(item, &given),
                    };
                }
            }
        }
        let conflicts = self.conflicts(items, &served, &given);
        self.ledger.forget(items, &served);
        (served, conflicts)
    }

    fn given<'i>(&self, items: &'i [Key]) -> NamingInput<'i>
    where
        'a: 'i,
    {
        let names: &'a Names = self.names;
        let mut configured = HashMap::new();
        let renames = if self.kind.by_uri() { Vec::new() } else { names.rules.renames() };
        for (index, member) in self.members.iter().enumerate() {
            for (_, original, name) in renames.iter().filter(|(of, ..)| **of == **member) {
                configured.entry(*name).or_insert((index, *original));
            }
        }
        NamingInput { items: items.iter().map(|(member, name)| (*member, &**name)).collect(), configured }
    }

    fn renamed(&self, (member, original): &Key) -> Option<Arc<str>> {
        if self.kind.by_uri() {
            return None;
        }
        self.names.rules.renamed(&self.members[*member], original).map(Arc::from)
    }

    /// A name that the configuration gives, if it gives it to this item first.
    fn configured(
        &self,
        name: Arc<str>,
        (member, original): &Key,
        given: &NamingInput<'_>,
    ) -> Option<Arc<str>> {
        let owner = given.configured.get(&*name);
        owner.is_none_or(|owner| *owner == (*member, &**original)).then_some(name)
    }

    /// The name an item has by the policy if nobody else wants it.
    fn wanted(&self, (member, original): &Key) -> Arc<str> {
        match self.names.policy {
            Policy::Prefix if !self.kind.by_uri() => self.prefixed(*member, original),
            _ => original.clone(),
        }
    }

    /// Whether the policy has a prefixed name beside the bare one.
    fn has_both(&self) -> bool {
        self.kind.by_uri() || self.names.policy == Policy::PrefixOnConflict
    }

    fn prefixed(&self, member: usize, original: &str) -> Arc<str> {
        let name = &self.members[member];
        match self.kind.by_uri() {
            true => uri::prefixed(name, original).into(),
            false => self.names.prefixed(name, original).into(),
        }
    }

    /// The name that an item has by the policy: the one it wants, else the prefixed one where there is
    /// one.
    fn by_policy(&mut self, item: &Key, given: &NamingInput<'_>) -> Option<Arc<str>> {
        let wanted = self.wanted(item);
        if (self.ledger.has(&wanted, item) || self.obstacle(item, &wanted, given).is_none())
            && let Some(wanted) = self.take(wanted, item)
        {
            return Some(wanted);
        }
        let other = self.has_both().then(|| self.prefixed(item.0, &item.1))?;
        let is_its = self.kind.by_uri() || self.names.owner_of(&other, self.members) == Some(item.0);
        (is_its && !given.configured.contains_key(&*other)).then(|| self.take(other, item)).flatten()
    }

    /// What stands in the way of a name that nobody has.
    fn obstacle(&self, (member, original): &Key, wanted: &str, given: &NamingInput<'_>) -> Option<Obstacle> {
        if let Some((owner, _)) = given.configured.get(wanted) {
            return Some((Why::Configured, *owner));
        }
        match self.kind.by_uri() {
            true if uri::is_prefixed(wanted) => return Some((Why::Prefix, *member)),
            true => {}
            false if self.names.policy == Policy::None => {}
            false => match self.names.owner_of(wanted, self.members) {
                Some(owner) if owner != *member => return Some((Why::Prefix, owner)),
                Some(_) if self.names.policy == Policy::Prefix => return None,
                // Its own prefix: nobody else can have the name, but its item without the prefix may.
                Some(_) => {
                    let rest = self.names.unprefixed(&self.members[*member], original);
                    let has_rest = rest.is_some_and(|rest| given.items.contains(&(*member, rest)));
                    return has_rest.then_some((Why::Prefix, *member));
                }
                None => {}
            },
        }
        (*member > self.unread).then_some((Why::Unread, self.unread))
    }

    fn take(&mut self, name: Arc<str>, (member, original): &Key) -> Option<Arc<str>> {
        let owner = Owner { member: *member, original: original.clone() };
        let is_its = *self.ledger.owners.entry(name.clone()).or_insert_with(|| owner.clone()) == owner;
        is_its.then_some(name)
    }

    /// Every item that has not the name it would have alone.
    fn conflicts(&self, items: &[Key], served: &[Option<Arc<str>>], given: &NamingInput<'_>) -> Conflicts {
        let mut conflicts = Conflicts::default();
        for (item, served) in items.iter().zip(served) {
            let renamed = self.renamed(item);
            let name = renamed.clone().unwrap_or_else(|| self.wanted(item));
            if served.as_ref() == Some(&name) {
                continue;
            }
            let taken = self.ledger.owners.get(&name).map(|owner| (Why::Taken, owner.member));
            let obstacle = renamed.is_none().then(|| self.obstacle(item, &name, given)).flatten();
            let Some((why, owner)) = obstacle
                .or(taken)
                .or_else(|| given.configured.get(&*name).map(|(owner, _)| (Why::Configured, *owner)))
            else {
                continue;
            };
            if conflicts.named.len() == MAX_CONFLICTS {
                conflicts.more += 1;
                continue;
            }
            let (kind, served_as) = (self.kind, served.clone());
            conflicts.named.push(Conflict { kind, name, owner, other: item.0, served_as, why });
        }
        conflicts
    }
}

impl Names {
    /// A name with its member's before it.
    pub(super) fn prefixed(&self, member: &str, original: &str) -> String {
        format!("{member}{}{original}", self.separator)
    }

    /// What follows the prefix of a member in a name that begins with it.
    pub(super) fn unprefixed<'n>(&self, member: &str, name: &'n str) -> Option<&'n str> {
        let rest = name.strip_prefix(member)?.strip_prefix(&*self.separator)?;
        (!rest.is_empty()).then_some(rest)
    }

    /// The member whose prefix a name begins with: of several the longest.
    pub(super) fn owner_of(&self, name: &str, members: &[Arc<str>]) -> Option<usize> {
        let begun = members.iter().enumerate().filter(|(_, member)| self.unprefixed(member, name).is_some());
        begun.max_by_key(|(_, member)| member.len()).map(|(index, _)| index)
    }
}

impl Ledger {
    /// Whether an item has a name already.
    fn has(&self, name: &str, (member, original): &Key) -> bool {
        let owner = self.owners.get(name);
        owner.is_some_and(|owner| owner.member == *member && owner.original == *original)
    }

    /// Forgets names that lead to nothing now, once there are too many.
    fn forget(&mut self, items: &[Key], served: &[Option<Arc<str>>]) {
        if self.owners.len() <= served.len() + MAX_REMEMBERED {
            return;
        }
        let served: HashSet<&Arc<str>> = served.iter().flatten().collect();
        let items: HashSet<(usize, &str)> = items.iter().map(|(member, name)| (*member, &**name)).collect();
        let leads = |owner: &Owner| items.contains(&(owner.member, &*owner.original));
        self.owners.retain(|name, owner| served.contains(name) || leads(owner));
    }
}

#[cfg(test)]
mod tests;
