//! Catalogues as a whole.

use super::*;
use crate::mcp::bridge::{Caching, Scope};
use portunus_base::Era;
use portunus_base::{Clock, ManualClock, Moment};
use proptest::prelude::*;
use serde_json::Value;
use std::time::Duration;

mod filtered;

/// Hides what has `secret` in it, calls one tool otherwise and describes another.
struct View;

impl Naming for View {
    fn admits(&self, _: &str, original: &str) -> bool {
        !original.contains("secret")
    }
    fn renamed(&self, member: &str, original: &str) -> Option<&str> {
        (member == "crm" && original == "find_customer").then_some("find")
    }
    fn described(&self, member: &str, original: &str) -> Option<&str> {
        (member == "crm" && original == "find_customer").then_some("Looks \"customers\" up")
    }
    fn renames(&self) -> Vec<(&str, &str, &str)> {
        vec![("crm", "find_customer", "find")]
    }
}

fn names(policy: Policy) -> Names {
    Names { policy, separator: "_".into(), rules: Arc::new(View) }
}

fn known(kind: ListKind, items: &str) -> Known {
    let result = format!(r#"{{"{}":[{items}]}}"#, kind.result_key());
    let page = Page::read(&Bytes::from(result), kind).unwrap();
    Known::fresh(Arc::new(Listing::join(vec![page], kind)))
}

fn source(member: &str, lists: Vec<(ListKind, Known)>) -> Source {
    let mut of = Lists::default();
    for (kind, known) in lists {
        of.0[kind.index()] = known;
    }
    Source { member: member.into(), offer: Offer::One(of) }
}

fn tool(name: &str) -> String {
    format!(r#"{{"name":"{name}","description":"{}","inputSchema":{{ "type" : "object" }}}}"#, "d".repeat(40))
}

fn tools(member: &str, names: &[&str]) -> Source {
    let items: Vec<String> = names.iter().map(|name| tool(name)).collect();
    source(member, vec![(ListKind::Tools, known(ListKind::Tools, &items.join(" , ")))])
}

fn uris(member: &str, resources: &[&str], templates: &[&str]) -> Source {
    let items = |kind: ListKind, uris: &[&str]| {
        let items: Vec<String> =
            uris.iter().map(|uri| format!(r#"{{"{}":"{uri}"}}"#, kind.item_key())).collect();
        (kind, known(kind, &items.join(",")))
    };
    source(member, vec![items(ListKind::Resources, resources), items(ListKind::Templates, templates)])
}

fn merge(sources: &[Source]) -> Catalog {
    Catalog::merge(sources, &names(Policy::PrefixOnConflict), None, None)
}

fn at(seconds: u64) -> Moment {
    let clock = ManualClock::default();
    clock.advance(Duration::from_secs(seconds));
    clock.now()
}

fn closing(era: Era) -> Closing<'static> {
    let caching = Caching { ttl_ms: 4_000, scope: Scope::Private };
    Closing { era, caching, server_info: Some(r#"{"name":"p"}"#), now: at(100), untold: &[] }
}

fn text(pieces: &[Bytes]) -> String {
    pieces.iter().map(|piece| std::str::from_utf8(piece).unwrap()).collect()
}

fn result(catalog: &Catalog, kind: ListKind, era: Era) -> String {
    text(&catalog.result(kind, None, &closing(era)).unwrap())
}

#[test]
fn tools_lead_to_their_member_and_keep_their_bytes() {
    let catalog =
        merge(&[tools("crm", &["find_customer", "secret", "echo"]), tools("search", &["echo", "find"])]);
    let found = |name: &str| catalog.tool(name).map(|entry| (entry.member, entry.original.to_string()));
    assert_eq!(found("find"), Some((0, "find_customer".to_owned())));
    assert_eq!(found("echo"), Some((0, "echo".to_owned())));
    assert_eq!(found("search_echo"), Some((1, "echo".to_owned())));
    assert_eq!(found("search_find"), Some((1, "find".to_owned())));
    assert_eq!((found("find_customer"), found("secret")), (None, None));
    let definition = |name: &str| text(&[catalog.tool(name).unwrap().definition().clone()]);
    assert_eq!(definition("echo"), tool("echo"));
    assert_eq!(definition("search_echo"), tool("search_echo"));
    let d = "d".repeat(40);
    let expected = tool("find").replace(&d, r#"Looks \"customers\" up"#);
    assert_eq!(definition("find"), expected);
    assert_eq!(catalog.tool("find").unwrap().input_schema(), Some(r#"{ "type" : "object" }"#));
    let conflicts: Vec<&Conflict> = catalog.conflicts().flat_map(|list| &list.named).collect();
    assert_eq!(conflicts.len(), 2);
    assert_eq!((&*conflicts[0].name, conflicts[0].owner, conflicts[0].other), ("echo", 0, 1));
}

#[test]
fn results_are_json_in_the_words_of_each_era() {
    let catalog = merge(&[tools("crm", &["a", "b"]), tools("search", &["a"])]);
    assert_eq!(
        result(&catalog, ListKind::Tools, Era::Legacy),
        format!(r#"{{"tools":[{} , {},{}]}}"#, tool("a"), tool("b"), tool("search_a"))
    );
    let modern: Value = serde_json::from_str(&result(&catalog, ListKind::Tools, Era::Modern)).unwrap();
    assert_eq!((&modern["resultType"], &modern["ttlMs"]), (&"complete".into(), &4_000.into()));
    assert_eq!(modern["_meta"]["io.modelcontextprotocol/serverInfo"]["name"], "p");
    assert_eq!(modern["cacheScope"], "private");
    assert_eq!(result(&catalog, ListKind::Prompts, Era::Legacy), r#"{"prompts":[]}"#);
}

#[test]
fn a_list_names_what_is_missing_from_it() {
    let mut old = known(ListKind::Tools, &tool("a"));
    old.state = State::Stale { read_at: at(88), reason: "it is unreachable" };
    let slow = Known::missing("it did not answer in time");
    let catalog = merge(&[
        source("crm", vec![(ListKind::Tools, old)]),
        source("slow", vec![(ListKind::Tools, slow)]),
        tools("search", &["b"]),
    ]);
    let listed: Value = serde_json::from_str(&result(&catalog, ListKind::Tools, Era::Legacy)).unwrap();
    let expected = serde_json::json!([
        {"upstream": "crm", "state": "stale", "ageSeconds": 12, "reason": "it is unreachable"},
        {"upstream": "slow", "state": "missing", "reason": "it did not answer in time"},
    ]);
    assert_eq!(listed["_meta"][INCOMPLETE], expected);
    assert_eq!(listed["tools"].as_array().unwrap().len(), 2);
    assert_eq!(catalog.incomplete(ListKind::Prompts, at(100), &[]), None);
    let told = |untold: &[usize]| catalog.incomplete(ListKind::Tools, at(100), untold).unwrap_or_default();
    assert!(told(&[0]).contains("slow") && !told(&[0]).contains("crm"), "{}", told(&[0]));
    assert_eq!(told(&[0, 1]), "");
}

#[test]
fn names_of_a_list_that_is_not_known_are_kept_free() {
    let away = |names: &[&str]| {
        let reserved = names.iter().map(|name| Arc::from(*name)).collect();
        let known = Known { reserved, is_remembered: true, ..Known::missing("upstream_unavailable") };
        source("crm", vec![(ListKind::Tools, known)])
    };
    let served = |sources: &[Source]| {
        let catalog = merge(sources);
        let names = catalog.entries(ListKind::Tools).iter().map(|entry| entry.name.to_string());
        (names.collect::<Vec<_>>(), catalog)
    };
    let (names, catalog) = served(&[away(&["search", "secret"]), tools("wiki", &["search", "read"])]);
    assert_eq!(names, ["wiki_search", "read"]);
    assert!(catalog.tool("search").is_none());
    let back = [tools("crm", &["search"]), tools("wiki", &["search", "read"])];
    let again = Catalog::merge(&back, &self::names(Policy::PrefixOnConflict), Some(&catalog), None);
    assert_eq!(again.tool("search").unwrap().member, 0);
    let (names, _) = served(&[tools("wiki", &["search"]), away(&["search"])]);
    assert_eq!(names, ["search"], "who stands first owns it");
    let known = Known { reserved: [Arc::from("search")].into(), ..known(ListKind::Tools, "") };
    let (names, _) = served(&[source("crm", vec![(ListKind::Tools, known)]), tools("wiki", &["search"])]);
    assert_eq!(names, ["search"], "a list that is known says what is in it");
}

#[test]
fn uris_lead_to_their_owner() {
    let catalog = merge(&[
        uris("files", &["file:///a", "file:///secret"], &["file:///{+path}"]),
        uris(
            "db",
            &["file:///a", "db://x"],
            &["db://{table}", "db://{table}/{id}", "file:///db/{x}", "file:///{+path}"],
        ),
    ]);
    let located = |uri: &str| {
        let located = catalog.resource(uri)?;
        Some((located.member, located.original.into_owned()))
    };
    let cases = [
        ("listed", "file:///a", Some((0, "file:///a"))),
        ("listed by both", "portunus:db/file:///a", Some((1, "file:///a"))),
        ("of a template", "db://users", Some((1, "db://users"))),
        ("of the closest template", "file:///db/7", Some((1, "file:///db/7"))),
        ("of the same template twice", "file:///x/y", Some((0, "file:///x/y"))),
        ("of the second's template", "portunus:db/file:///x/y", Some((1, "file:///x/y"))),
        ("named and in no list", "portunus:files/odd:1", Some((0, "odd:1"))),
        ("of a scheme", "db:other", Some((1, "db:other"))),
        ("of a scheme that nobody has", "http://x", None),
        ("of a member that is none", "portunus:nobody/odd:1", None),
        ("hidden from the list", "file:///secret", None),
        ("hidden, by name", "portunus:files/file:///secret", None),
    ];
    for (name, uri, expected) in cases {
        assert_eq!(located(uri), expected.map(|(member, uri)| (member, uri.to_owned())), "{name}");
    }
    assert_eq!(catalog.served_uri(1, "file:///a", &catalog.steps()), "portunus:db/file:///a");
    assert_eq!(catalog.served_uri(0, "file:///a", &catalog.steps()), "file:///a");
    assert!(catalog.template("portunus:db/file:///{+path}").is_some());
}

#[test]
fn uris_in_results_lead_back_to_who_wrote_them() {
    let catalog = merge(&[uris("fs", &["file:///a"], &[]), uris("db", &["file:///a", "own:1"], &[])]);
    let db = |method, result: &str| catalog.with_served_uris(1, method, result);
    let link = r#"{"type":"resource_link","uri":"file:///a","size":1.50}"#;
    let served = r#"{"type":"resource_link","uri":"portunus:db/file:///a","size":1.50}"#;
    let embedded = r#"{"type":"resource","resource":{"text":"t","uri":"file:\/\/\/a"}}"#;
    let text = r#"{"type":"text","text":"file:///a"}"#;
    assert_eq!(
        db("tools/call", &format!(r#"{{ "content" : [{text}, {link} ,{embedded}],"isError":false}}"#)),
        Some(format!(
            r#"{{ "content" : [{text},{served},{{"type":"resource","resource":{{"text":"t","uri":"portunus:db/file:///a"}}}}],"isError":false}}"#
        )),
    );
    assert_eq!(
        db("prompts/get", &format!(r#"{{"messages":[{{"role":"user","content":{link}}}]}}"#)),
        Some(format!(r#"{{"messages":[{{"role":"user","content":{served}}}]}}"#)),
    );
    let contents = r#"{"contents":[{"uri":"file:///a"},{"uri":"own:1"}]}"#;
    let renamed = r#"{"contents":[{"uri":"portunus:db/file:///a"},{"uri":"own:1"}]}"#;
    assert_eq!(db("resources/read", contents).as_deref(), Some(renamed));
    for (method, same) in [
        ("resources/read", r#"{"contents":[{"uri":"own:1"},7]}"#),
        ("resources/read", r#"{"contents":{"uri":"file:///a"}}"#),
        ("tools/call", &format!(r#"{{"structuredContent":{link}}}"#)),
        ("tools/call", &format!(r#"{{"content":[{text}]}}"#)),
        ("completion/complete", contents),
    ] {
        assert_eq!(db(method, same), None, "{method} {same}");
    }
    let owned = r#"{"contents":[{"uri":"file:///a"}]}"#;
    assert_eq!(catalog.with_served_uris(0, "resources/read", owned), None, "the owner's own");
    assert!(
        names_resources("tools/call", link.as_bytes()) && !names_resources("tools/list", link.as_bytes())
    );
    assert!(names_resources("tools/call", br#"{"\u0075ri":"file:///a"}"#));
    assert!(!names_resources("tools/call", br#"{"content":[]}"#));
}

#[test]
fn twins_are_one_tool_with_a_selector() {
    let lists = |names: &[&str]| match tools("x", names).offer {
        Offer::One(lists) => lists,
        Offer::Twins(_) => unreachable!(),
    };
    let regions = vec![("eu".into(), lists(&["q"])), ("us".into(), lists(&["q"]))];
    let twins = Offer::Twins(Twins { selector: "region".into(), regions });
    let catalog = merge(&[Source { member: "db".into(), offer: twins }, tools("crm", &["q"])]);
    let entry = catalog.tool("q").unwrap();
    assert_eq!(entry.selector.as_ref().unwrap().regions, ["eu".into(), "us".into()]);
    let schema: Value = serde_json::from_str(entry.input_schema().unwrap()).unwrap();
    assert_eq!(schema["required"], serde_json::json!(["region"]));
    assert!(catalog.tool("crm_q").unwrap().selector.is_none());
    let servers: Vec<&str> = catalog.servers().iter().map(|server| &*server.name).collect();
    assert_eq!(servers, ["db/eu", "db/us", "crm"]);
}

#[test]
fn a_name_that_a_prefix_makes_too_long_is_set_aside() {
    let long = "n".repeat(127);
    let catalog = Catalog::merge(&[tools("crm", &["x", &long])], &names(Policy::Prefix), None, None);
    assert_eq!(catalog.entries(ListKind::Tools).len(), 1);
    assert_eq!(catalog.servers()[0].quarantined[0].len(), 1);
}

#[test]
fn cursors_are_of_one_list_as_it_is() {
    let names: Vec<String> = (0..100).map(|n| format!("t{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let small = |sources: &[Source]| {
        Catalog::merge(sources, &super::tests::names(Policy::PrefixOnConflict), None, Some(1_000))
    };
    let catalog = small(&[tools("crm", &names)]);
    let cursor = catalog.page(ListKind::Tools, None).unwrap().next_cursor.clone().unwrap();
    assert!(catalog.page(ListKind::Tools, Some(&cursor)).is_ok());
    assert!(
        small(&[tools("crm", &names)]).page(ListKind::Tools, Some(&cursor)).is_ok(),
        "on another replica"
    );
    assert!(small(&[tools("crm", &names[1..])]).page(ListKind::Tools, Some(&cursor)).is_err());
    let (generation, _) = cursor.split_once('.').unwrap();
    for bad in [
        "",
        "1",
        ".",
        "x.1",
        &format!("{generation}.0"),
        &format!("{generation}.99"),
        &format!("{generation}.-1"),
    ] {
        assert_eq!(catalog.page(ListKind::Tools, Some(bad)).map(drop), Err(UnknownCursor), "{bad}");
    }
}

#[test]
fn a_thousand_untouched_tools_are_one_piece() {
    let names: Vec<String> = (0..1_000).map(|n| format!("t{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let one = tools("crm", &names);
    let catalog = merge(std::slice::from_ref(&one));
    let page = catalog.page(ListKind::Tools, None).unwrap();
    assert_eq!(page.pieces.len(), 1);
    let Offer::One(lists) = &one.offer else { unreachable!() };
    let upstream = &lists.of(ListKind::Tools).listing.as_ref().unwrap().items[0].page;
    assert!(upstream.as_ptr_range().contains(&page.pieces[0].as_ptr()), "it was copied");
}

fn rounds() -> impl Strategy<Value = Vec<(Vec<String>, Vec<String>)>> {
    let list = || proptest::collection::vec("[a-d]{1,2}", 0..12);
    proptest::collection::vec((list(), list()), 1..5)
}

fn source_of(member: &str, names: &[String]) -> Source {
    tools(member, &names.iter().map(String::as_str).collect::<Vec<_>>())
}

proptest! {
    /// Pages of any size together are the whole list, in order, and every definition stands in it as
    /// it is looked up.
    #[test]
    fn joined_pages_are_the_whole_list(
        lists in proptest::collection::vec(proptest::collection::vec("[a-f]{1,2}", 0..40), 1..4),
        page_bytes in 1usize..4_000,
        policy in prop_oneof![Just(Policy::Prefix), Just(Policy::PrefixOnConflict), Just(Policy::None)],
        bulk in prop_oneof![Just(0usize), Just(1_500)],
    ) {
        let listed = |names: &Vec<String>| {
            let items: Vec<String> = names.iter().map(|name| tool(name).replacen("dd", &"d".repeat(bulk + 2), 1)).collect();
            vec![(ListKind::Tools, known(ListKind::Tools, &items.join(",")))]
        };
        let members = lists.iter().enumerate();
        let sources: Vec<Source> =
            members.map(|(member, names)| source(&format!("m{member}"), listed(names))).collect();
        let whole = Catalog::merge(&sources, &names(policy), None, None);
        let paged = Catalog::merge(&sources, &names(policy), None, Some(page_bytes));
        let mut items: Vec<Value> = Vec::new();
        let mut cursor = None;
        loop {
            let page = text(&paged.result(ListKind::Tools, cursor.as_deref(), &closing(Era::Legacy)).unwrap());
            let page: Value = serde_json::from_str(&page).unwrap();
            items.extend(page["tools"].as_array().unwrap().iter().cloned());
            cursor = page["nextCursor"].as_str().map(str::to_owned);
            if cursor.is_none() { break }
        }
        let all: Value = serde_json::from_str(&result(&whole, ListKind::Tools, Era::Legacy)).unwrap();
        prop_assert_eq!(&Value::from(items), &all["tools"]);
        for (entry, item) in whole.entries(ListKind::Tools).iter().zip(all["tools"].as_array().unwrap()) {
            let definition: Value = serde_json::from_slice(entry.definition()).unwrap();
            prop_assert_eq!(&definition, item);
            prop_assert_eq!(item["name"].as_str(), Some(&*entry.name));
            let found = whole.tool(&entry.name).unwrap();
            prop_assert_eq!((found.member, &found.original), (entry.member, &entry.original));
        }
        let again = Catalog::merge(&sources, &names(policy), None, None);
        prop_assert_eq!(again.generation(ListKind::Tools), whole.generation(ListKind::Tools));
    }

    /// Whatever members say from one time to the next, a name that was served leads to one tool.
    #[test]
    fn names_lead_to_one_tool_from_catalogue_to_catalogue(rounds in rounds()) {
        let mut owners: HashMap<Arc<str>, (usize, Arc<str>)> = HashMap::new();
        let mut previous: Option<Catalog> = None;
        for (one, two) in rounds {
            let sources = [source_of("m", &one), source_of("m_a", &two)];
            let catalog = Catalog::merge(&sources, &names(Policy::PrefixOnConflict), previous.as_ref(), None);
            for entry in catalog.entries(ListKind::Tools) {
                let owner = (entry.member, entry.original.clone());
                prop_assert_eq!(owners.entry(entry.name.clone()).or_insert_with(|| owner.clone()), &owner);
            }
            previous = Some(catalog);
        }
    }
}
