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
    /// Whether it is served at all.
    fn admits(&self, member: &str, original: &str) -> bool;
    /// The name it is served under instead of what the policy says. For tools and prompts.
    fn renamed(&self, member: &str, original: &str) -> Option<&str>;
    /// The description that stands instead of its own.
    fn described(&self, member: &str, original: &str) -> Option<&str>;
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
struct Given<'a> {
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

    fn given<'i>(&self, items: &'i [Key]) -> Given<'i>
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
        Given { items: items.iter().map(|(member, name)| (*member, &**name)).collect(), configured }
    }

    fn renamed(&self, (member, original): &Key) -> Option<Arc<str>> {
        if self.kind.by_uri() {
            return None;
        }
        self.names.rules.renamed(&self.members[*member], original).map(Arc::from)
    }

    /// A name that the configuration gives, if it gives it to this item first.
    fn configured(&self, name: Arc<str>, (member, original): &Key, given: &Given<'_>) -> Option<Arc<str>> {
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
    fn by_policy(&mut self, item: &Key, given: &Given<'_>) -> Option<Arc<str>> {
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
    fn obstacle(&self, (member, original): &Key, wanted: &str, given: &Given<'_>) -> Option<Obstacle> {
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
    fn conflicts(&self, items: &[Key], served: &[Option<Arc<str>>], given: &Given<'_>) -> Conflicts {
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
mod tests {
    use super::*;
    use proptest::prelude::*;

    struct Plain;

    impl Naming for Plain {
        fn admits(&self, _: &str, _: &str) -> bool {
            true
        }
        fn renamed(&self, member: &str, original: &str) -> Option<&str> {
            (member == "b" && original == "old").then_some("new")
        }
        fn described(&self, _: &str, _: &str) -> Option<&str> {
            None
        }
        fn renames(&self) -> Vec<(&str, &str, &str)> {
            vec![("b", "old", "new")]
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
        assign_from(3, policy, kind, ledger, items)
    }

    /// The same with the first member whose list was not read.
    fn assign_from(
        unread: usize,
        policy: Policy,
        kind: ListKind,
        ledger: &mut Ledger,
        items: &[(usize, &str)],
    ) -> Vec<Option<String>> {
        let members = ["a".into(), "b".into(), "c".into()];
        let names = names(policy);
        let items: Vec<(usize, Arc<str>)> =
            items.iter().map(|(member, name)| (*member, (*name).into())).collect();
        let mut christening = Christening { kind, names: &names, members: &members, ledger, unread };
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
            &[(0, "new"), (1, "old")],
        );
        assert_eq!(served, all(&["a_new", "new"]));
        let alone = assign(Policy::PrefixOnConflict, ListKind::Tools, &mut Ledger::default(), &[(0, "new")]);
        assert_eq!(alone, all(&["a_new"]), "also while its owner has none of it");
        let uris = assign(Policy::Prefix, ListKind::Resources, &mut Ledger::default(), &[(1, "old")]);
        assert_eq!(uris, all(&["old"]));
    }

    #[test]
    fn name_with_prefix_of_a_member_is_never_anothers() {
        let some = |name: &str| Some(name.to_owned());
        let cases: [(&str, Policy, &[(usize, &str)], Vec<Option<String>>); 6] = [
            (
                "of a later member",
                Policy::PrefixOnConflict,
                &[(0, "x"), (0, "b_x"), (1, "x")],
                all(&["x", "a_b_x", "b_x"]),
            ),
            ("of an earlier one", Policy::PrefixOnConflict, &[(1, "a_x")], all(&["b_a_x"])),
            ("its own", Policy::PrefixOnConflict, &[(0, "a_x"), (0, "y")], all(&["a_x", "y"])),
            ("its own twice", Policy::PrefixOnConflict, &[(0, "x"), (0, "a_x")], all(&["x", "a_a_x"])),
            ("all prefixed", Policy::Prefix, &[(0, "b_x"), (1, "x")], all(&["a_b_x", "b_x"])),
            ("nothing prefixed", Policy::None, &[(0, "b_x"), (1, "x")], vec![some("b_x"), some("x")]),
        ];
        for (name, policy, items, expected) in cases {
            for kind in [ListKind::Tools, ListKind::Prompts] {
                assert_eq!(assign(policy, kind, &mut Ledger::default(), items), expected, "{name}");
            }
        }
        let own = [(1, "portunus:a/u:1")];
        let uris = assign(Policy::None, ListKind::Resources, &mut Ledger::default(), &own);
        assert_eq!(uris, all(&["portunus:b/portunus:a/u:1"]));
    }

    #[test]
    fn bare_names_wait_for_the_lists_of_all_members_before() {
        let (tools, both) = (ListKind::Tools, Policy::PrefixOnConflict);
        let late = [(1, "pay"), (1, "b_own"), (1, "find"), (2, "find")];
        let whole = [(0, "pay"), (1, "pay"), (1, "b_own"), (1, "find"), (2, "find")];
        let expected = all(&["pay", "b_pay", "b_own", "find", "c_find"]);
        let mut ledger = Ledger::default();
        let waiting = assign_from(0, both, tools, &mut ledger, &late);
        assert_eq!(waiting, all(&["b_pay", "b_own", "b_find", "c_find"]));
        assert_eq!(assign(both, tools, &mut ledger, &whole), expected, "who came late has its names");
        assert_eq!(assign(both, tools, &mut Ledger::default(), &whole), expected, "as where it was there");
        assert_eq!(
            assign_from(0, both, tools, &mut ledger, &late),
            expected[1..],
            "an outage changes nothing"
        );

        let mut ledger = Ledger::default();
        assert_eq!(assign_from(0, Policy::None, tools, &mut ledger, &[(1, "pay")]), [None]);
        let whole = assign(Policy::None, tools, &mut ledger, &[(0, "pay"), (1, "pay"), (1, "own")]);
        assert_eq!(whole, [Some("pay".to_owned()), None, Some("own".to_owned())]);
        let prefixed = assign_from(0, Policy::Prefix, tools, &mut Ledger::default(), &[(1, "pay")]);
        assert_eq!(prefixed, all(&["b_pay"]), "nothing to wait for");
        let uris = assign_from(0, both, ListKind::Resources, &mut Ledger::default(), &[(1, "u:1")]);
        assert_eq!(uris, all(&["portunus:b/u:1"]));
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
        let (_, conflicts) = Christening {
            kind: ListKind::Tools,
            names: &names,
            members: &members,
            ledger: &mut ledger,
            unread: 2,
        }
        .assign(&items);
        assert_eq!((conflicts.named.len(), conflicts.more), (1_000, 1_000));
    }

    proptest! {
        /// Whatever comes and goes in whatever order: a name leads to one item.
        #[test]
        fn names_never_change_their_owner(
            rounds in proptest::collection::vec(
                (proptest::collection::btree_set((0usize..3, "[xyb_]{1,3}"), 0..8), 0usize..4), 1..8),
            policy in prop_oneof![Just(Policy::Prefix), Just(Policy::PrefixOnConflict), Just(Policy::None)],
        ) {
            let mut ledger = Ledger::default();
            let mut owners: HashMap<String, (usize, String)> = HashMap::new();
            for (round, unread) in rounds {
                let items: Vec<(usize, &str)> = round.iter().map(|(member, name)| (*member, name.as_str())).collect();
                let served = assign_from(unread, policy, ListKind::Tools, &mut ledger, &items);
                for ((member, original), name) in items.into_iter().zip(served) {
                    let Some(name) = name else { continue };
                    let owner = (member, original.to_owned());
                    prop_assert_eq!(owners.entry(name).or_insert_with(|| owner.clone()), &owner);
                }
            }
        }

        /// Whichever members were there first: once the lists of all were read, all processes agree.
        #[test]
        fn names_do_not_depend_on_who_was_there_first(
            items in proptest::collection::btree_set((0usize..3, "[xyabc_]{1,4}"), 0..12),
            rounds in proptest::collection::vec(proptest::collection::vec(any::<bool>(), 3), 0..4),
            policy in prop_oneof![Just(Policy::Prefix), Just(Policy::PrefixOnConflict), Just(Policy::None)],
        ) {
            let items: Vec<(usize, &str)> = items.iter().map(|(member, name)| (*member, name.as_str())).collect();
            let expected = assign(policy, ListKind::Tools, &mut Ledger::default(), &items);
            let mut ledger = Ledger::default();
            let mut there = vec![false; 3];
            for more in rounds {
                there.iter_mut().zip(more).for_each(|(there, more)| *there |= more);
                let read: Vec<(usize, &str)> = items.iter().filter(|(member, _)| there[*member]).copied().collect();
                let unread = there.iter().position(|there| !there).unwrap_or(3);
                assign_from(unread, policy, ListKind::Tools, &mut ledger, &read);
            }
            prop_assert_eq!(assign(policy, ListKind::Tools, &mut ledger, &items), expected);
        }
    }
}
