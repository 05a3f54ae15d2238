//! Lists of which a caller sees only some.

use super::*;

fn names_of(catalog: &Catalog, filtered: &Filtered) -> Vec<String> {
    let mut names = Vec::new();
    let mut cursor = None;
    loop {
        let pieces = filtered.result(catalog, cursor.as_deref(), &closing(Era::Legacy)).unwrap();
        let page: Value = serde_json::from_str(&super::text(&pieces)).unwrap();
        names.extend(
            page["tools"].as_array().unwrap().iter().map(|tool| tool["name"].as_str().unwrap().to_owned()),
        );
        match page["nextCursor"].as_str() {
            Some(next) => cursor = Some(next.to_owned()),
            None => return names,
        }
    }
}

fn many(count: usize) -> Catalog {
    let names: Vec<String> = (0..count).map(|index| format!("tool_{index}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let (first, rest) = names.split_at(count / 10);
    merge(&[tools("crm", first), tools("wiki", rest)])
}

#[test]
fn what_is_seen_keeps_its_bytes_and_its_order() {
    let catalog = many(1_000);
    let whole = catalog.filtered(ListKind::Tools, |_| Shown::AsItIs);
    let parsed = |text: &str| serde_json::from_str::<Value>(text).unwrap();
    let shown = super::text(&whole.result(&catalog, None, &closing(Era::Legacy)).unwrap());
    assert!(parsed(&shown) == parsed(&result(&catalog, ListKind::Tools, Era::Legacy)));
    for step in [2, 3, 7, 500, 2_000] {
        let index = std::cell::Cell::new(0);
        let look = |entry: &Entry| {
            index.set(index.get() + 1);
            match index.get() % step {
                0 => Shown::Hidden,
                1 => Shown::Changed(format!(r#"{{"name":"{}","x":1}}"#, entry.name)),
                _ => Shown::AsItIs,
            }
        };
        let filtered = catalog.filtered(ListKind::Tools, look);
        let names = names_of(&catalog, &filtered);
        let expected: Vec<&str> = catalog
            .entries(ListKind::Tools)
            .iter()
            .enumerate()
            .filter(|(index, _)| (index + 1) % step != 0)
            .map(|(_, entry)| &*entry.name)
            .collect();
        assert_eq!(names, expected, "{step}");
        assert_eq!(filtered.len(), expected.len(), "{step}");
    }
}

#[test]
fn a_view_that_sees_nothing_is_an_empty_list() {
    let catalog = many(10);
    let none = catalog.filtered(ListKind::Tools, |_| Shown::Hidden);
    assert!(none.is_empty());
    assert_eq!(names_of(&catalog, &none), [""; 0]);
}

#[test]
fn a_cursor_leads_on_in_its_own_view_only() {
    let catalog = many(20_000);
    let odd = std::cell::Cell::new(false);
    let filtered = catalog.filtered(ListKind::Tools, |_| {
        odd.set(!odd.get());
        if odd.get() { Shown::AsItIs } else { Shown::Hidden }
    });
    let of_all = catalog.page(ListKind::Tools, None).unwrap().next_cursor.clone().unwrap();
    assert!(filtered.result(&catalog, Some(&of_all), &closing(Era::Legacy)).is_err());
}
