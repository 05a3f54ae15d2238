//! Who is served under which name.
//!
//! A name that was served never leads to another tool as long as a revision of the configuration
//! stands: a [`Ledger`] goes from one catalogue to the next and remembers who had it, also while its
//! owner has none of it or is away.

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
    /// The member listed first has the bare name, every other the prefixed one.
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

/// Two items wanted one name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// The list it is about.
    pub kind: ListKind,
    /// The name or URI.
    pub name: Arc<str>,
    /// Index of the member that has it.
    pub owner: usize,
    /// Index of the member that has it not.
    pub other: usize,
    /// The name under which the other's is served, if it is.
    pub served_as: Option<Arc<str>>,
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
}

impl Christening<'_> {
    /// The served name of each item, given by member and original and in the order of members; `None`
    /// for those that are left out.
    pub(super) fn assign(&mut self, items: &[(usize, Arc<str>)]) -> (Vec<Option<Arc<str>>>, Conflicts) {
        let held = self.ledger.held();
        let owner =
            |(member, original): &(usize, Arc<str>)| Owner { member: *member, original: original.clone() };
        let mut served: Vec<Option<Arc<str>>> =
            items.iter().map(|item| held.get(&owner(item)).cloned()).collect();
        for renamed in [true, false] {
            for (item, served) in items.iter().zip(&mut served) {
                let wanted = self.renamed(item);
                if served.is_none() && wanted.is_some() == renamed {
                    *served = self.claim(wanted.unwrap_or_else(|| self.wanted(item)), owner(item), !renamed);
                }
            }
        }
        let conflicts = self.conflicts(items, &served);
        self.ledger.forget(&served);
        (served, conflicts)
    }

    fn renamed(&self, (member, original): &(usize, Arc<str>)) -> Option<Arc<str>> {
        if self.kind.by_uri() {
            return None;
        }
        self.names.rules.renamed(&self.members[*member], original).map(Arc::from)
    }

    /// The name an item has by the policy if nobody else wants it.
    fn wanted(&self, (member, original): &(usize, Arc<str>)) -> Arc<str> {
        match self.names.policy {
            Policy::Prefix if !self.kind.by_uri() => self.prefixed(*member, original),
            _ => original.clone(),
        }
    }

    fn prefixed(&self, member: usize, original: &str) -> Arc<str> {
        let member = &self.members[member];
        match self.kind.by_uri() {
            true => uri::prefixed(member, original).into(),
            false => format!("{member}{}{original}", self.names.separator).into(),
        }
    }

    /// Takes a name, or the prefixed one where the policy has one.
    fn claim(&mut self, wanted: Arc<str>, owner: Owner, by_policy: bool) -> Option<Arc<str>> {
        if self.ledger.take(&wanted, &owner) {
            return Some(wanted);
        }
        let has_other = self.kind.by_uri() || (by_policy && self.names.policy == Policy::PrefixOnConflict);
        let other = has_other.then(|| self.prefixed(owner.member, &owner.original))?;
        self.ledger.take(&other, &owner).then_some(other)
    }

    /// Every item that has not the name it would have alone.
    fn conflicts(&self, items: &[(usize, Arc<str>)], served: &[Option<Arc<str>>]) -> Conflicts {
        let mut conflicts = Conflicts::default();
        for (item, served) in items.iter().zip(served) {
            let name = self.renamed(item).unwrap_or_else(|| self.wanted(item));
            let Some(owner) = self.ledger.owners.get(&name).filter(|_| served.as_ref() != Some(&name)) else {
                continue;
            };
            if conflicts.named.len() == MAX_CONFLICTS {
                conflicts.more += 1;
                continue;
            }
            let (kind, owner, served_as) = (self.kind, owner.member, served.clone());
            conflicts.named.push(Conflict { kind, name, owner, other: item.0, served_as });
        }
        conflicts
    }
}

impl Ledger {
    /// What each owner's item is called.
    fn held(&self) -> HashMap<Owner, Arc<str>> {
        self.owners.iter().map(|(name, owner)| (owner.clone(), name.clone())).collect()
    }

    fn take(&mut self, name: &Arc<str>, owner: &Owner) -> bool {
        self.owners.entry(name.clone()).or_insert_with(|| owner.clone()) == owner
    }

    /// Forgets names that nobody has now, once there are too many.
    fn forget(&mut self, served: &[Option<Arc<str>>]) {
        if self.owners.len() <= served.len() + MAX_REMEMBERED {
            return;
        }
        let served: HashSet<&Arc<str>> = served.iter().flatten().collect();
        self.owners.retain(|name, _| served.contains(name));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    struct Plain;

    impl Naming for Plain {
        fn admits(&self, _: &str, _: &str) -> bool {
            true
        }
        fn renamed(&self, member: &str, original: &str) -> Option<&str> {
            (member == "b" && original == "old").then_some("x")
        }
        fn described(&self, _: &str, _: &str) -> Option<&str> {
            None
        }
    }

    fn names(policy: Policy) -> Names {
        Names { policy, separator: "_".into(), rules: Arc::new(Plain) }
    }

    fn assign(
        policy: Policy,
        kind: ListKind,
        ledger: &mut Ledger,
        items: &[(usize, &str)],
    ) -> Vec<Option<String>> {
        let members = ["a".into(), "b".into(), "c".into()];
        let names = names(policy);
        let items: Vec<(usize, Arc<str>)> =
            items.iter().map(|(member, name)| (*member, (*name).into())).collect();
        let mut christening = Christening { kind, names: &names, members: &members, ledger };
        let (served, conflicts) = christening.assign(&items);
        let unwanted = |name: &Option<Arc<str>>| name.is_none();
        assert!(served.iter().filter(|name| unwanted(name)).count() <= conflicts.named.len());
        served.into_iter().map(|name| name.map(|name| name.to_string())).collect()
    }

    fn all(names: &[&str]) -> Vec<Option<String>> {
        names.iter().map(|name| Some((*name).to_owned())).collect()
    }

    #[test]
    fn policies_keep_names_apart() {
        let items = [(0, "x"), (0, "y"), (1, "x"), (2, "x")];
        let tools = ListKind::Tools;
        let given = |policy| assign(policy, tools, &mut Ledger::default(), &items);
        assert_eq!(given(Policy::Prefix), all(&["a_x", "a_y", "b_x", "c_x"]));
        assert_eq!(given(Policy::PrefixOnConflict), all(&["x", "y", "b_x", "c_x"]));
        let some = |name: &str| Some(name.to_owned());
        assert_eq!(given(Policy::None), [some("x"), some("y"), None, None]);
        let uris =
            assign(Policy::None, ListKind::Resources, &mut Ledger::default(), &[(0, "u:1"), (1, "u:1")]);
        assert_eq!(uris, all(&["u:1", "portunus:b/u:1"]));
    }

    #[test]
    fn a_configured_name_goes_before_any_other() {
        let served = assign(
            Policy::PrefixOnConflict,
            ListKind::Tools,
            &mut Ledger::default(),
            &[(0, "x"), (1, "old")],
        );
        assert_eq!(served, all(&["a_x", "x"]));
        let uris = assign(Policy::Prefix, ListKind::Resources, &mut Ledger::default(), &[(1, "old")]);
        assert_eq!(uris, all(&["old"]));
    }

    #[test]
    fn a_prefixed_name_that_is_taken_leaves_an_item_out() {
        let served = assign(
            Policy::PrefixOnConflict,
            ListKind::Tools,
            &mut Ledger::default(),
            &[(0, "x"), (0, "b_x"), (1, "x")],
        );
        assert_eq!(served, [Some("x".to_owned()), Some("b_x".to_owned()), None]);
    }

    #[test]
    fn an_outage_lets_nobody_take_a_name() {
        let mut ledger = Ledger::default();
        let mut serve =
            |items: &[(usize, &str)]| assign(Policy::PrefixOnConflict, ListKind::Tools, &mut ledger, items);
        assert_eq!(serve(&[(0, "x")]), all(&["x"]));
        assert_eq!(serve(&[(1, "x")]), all(&["b_x"]), "its owner has none of it");
        assert_eq!(serve(&[(0, "x"), (1, "x")]), all(&["x", "b_x"]));
        assert_eq!(serve(&[(1, "y")]), all(&["y"]), "the first of two was never seen");
        assert_eq!(serve(&[(0, "y"), (1, "y")]), all(&["a_y", "y"]));
    }

    #[test]
    fn ledgers_and_reports_are_bounded() {
        let mut ledger = Ledger::default();
        for round in 0..8 {
            let names: Vec<String> = (0..10_000).map(|n| format!("t{round}x{n}")).collect();
            let items: Vec<(usize, &str)> = names.iter().map(|name| (0, name.as_str())).collect();
            assign(Policy::None, ListKind::Tools, &mut ledger, &items);
            assert!(ledger.owners.len() <= 60_000);
        }
        let items: Vec<(usize, Arc<str>)> =
            (0..4_000).map(|n| (n / 2_000, format!("r{}", n % 2_000).into())).collect();
        let names = names(Policy::None);
        let members = ["a".into(), "b".into()];
        let (_, conflicts) =
            Christening { kind: ListKind::Tools, names: &names, members: &members, ledger: &mut ledger }
                .assign(&items);
        assert_eq!((conflicts.named.len(), conflicts.more), (1_000, 1_000));
    }

    proptest! {
        /// Whatever comes and goes in whatever order: a name leads to one item, and an item that is
        /// served keeps its name.
        #[test]
        fn names_never_change_their_owner(
            rounds in proptest::collection::vec(
                proptest::collection::btree_set((0usize..3, "[xyb_]{1,3}"), 0..8), 1..8),
            policy in prop_oneof![Just(Policy::Prefix), Just(Policy::PrefixOnConflict), Just(Policy::None)],
        ) {
            let mut ledger = Ledger::default();
            let mut owners: HashMap<String, (usize, String)> = HashMap::new();
            for round in rounds {
                let items: Vec<(usize, &str)> = round.iter().map(|(member, name)| (*member, name.as_str())).collect();
                let served = assign(policy, ListKind::Tools, &mut ledger, &items);
                for ((member, original), name) in items.into_iter().zip(served) {
                    let Some(name) = name else { continue };
                    let owner = (member, original.to_owned());
                    prop_assert_eq!(owners.entry(name).or_insert_with(|| owner.clone()), &owner);
                }
                let kept = owners.values().collect::<HashSet<_>>().len();
                prop_assert_eq!(kept, owners.len());
            }
        }
    }
}
