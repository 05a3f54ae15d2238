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
    let uris = assign(Policy::None, ListKind::Resources, &mut Ledger::default(), &[(0, "u:1"), (1, "u:1")]);
    assert_eq!(uris, all(&["u:1", "portunus:b/u:1"]));
}

#[test]
fn a_configured_name_goes_before_any_other() {
    let served =
        assign(Policy::PrefixOnConflict, ListKind::Tools, &mut Ledger::default(), &[(0, "new"), (1, "old")]);
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
    assert_eq!(assign_from(0, both, tools, &mut ledger, &late), expected[1..], "an outage changes nothing");

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
        let mut there = [false; 3];
        for more in rounds {
            there.iter_mut().zip(more).for_each(|(there, more)| *there |= more);
            let read: Vec<(usize, &str)> = items.iter().filter(|(member, _)| there[*member]).copied().collect();
            let unread = there.iter().position(|there| !there).unwrap_or(3);
            assign_from(unread, policy, ListKind::Tools, &mut ledger, &read);
        }
        prop_assert_eq!(assign(policy, ListKind::Tools, &mut ledger, &items), expected);
    }
}
