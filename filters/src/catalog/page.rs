//! One page of one upstream's list, as slices of its text.

use super::{Broken, ListKind, schema};
use crate::mcp::bridge::{Caching, ParamHeader, Scope};
use crate::mcp::object::{Object, elements_up_to};
use crate::mcp::uri::{normal, normal_template};
use crate::mcp::{Fault, Span, text};
use bytes::Bytes;
use std::borrow::Cow;
use std::collections::HashSet;
use std::sync::Arc;

/// Bytes of one definition.
const MAX_ITEM_BYTES: usize = 1 << 20;

/// Items of one list, broken ones counted; one with more is not read.
pub const MAX_LIST_ITEMS: usize = 20_000;

/// Templates of one list. A URI that nobody lists is held against all of them.
const MAX_TEMPLATES: usize = 1_000;

/// Bytes of a template.
const MAX_TEMPLATE: usize = 2 << 10;

/// Bytes of a tool's name, upstream and as served.
pub(super) const MAX_TOOL_NAME: usize = 128;

/// Bytes of any other name or URI.
const MAX_KEY: usize = 8 << 10;

/// Broken items that a list remembers by name; more are only counted.
const MAX_REMEMBERED: usize = 100;

/// A page as it was read.
#[derive(Debug)]
pub struct Page {
    /// What can be served, in the upstream's order.
    pub items: Vec<Item>,
    /// What cannot, and why.
    pub quarantined: Quarantine,
    /// Where the next page begins.
    pub next_cursor: Option<String>,
    /// How long and for whom it may be kept; `None` if its server knows nothing of that.
    pub caching: Option<Caching>,
}

/// One definition of a page.
#[derive(Clone, Debug)]
pub struct Item {
    pub(super) key: Arc<str>,
    /// What rules are asked of: its key, of a URI its normal form.
    pub(super) judged: Arc<str>,
    pub(super) page: Bytes,
    pub(super) span: Span,
    /// Its place in the array, broken items counted.
    pub(super) place: u32,
    pub(super) params: Arc<[ParamHeader]>,
    pub(super) hints: Hints,
}

/// What an upstream claims of its tool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hints {
    /// `annotations.readOnlyHint`.
    pub read_only: bool,
    /// `annotations.idempotentHint`.
    pub idempotent: bool,
}

/// Items that are not served.
#[derive(Clone, Debug, Default)]
pub struct Quarantine {
    kept: Vec<Quarantined>,
    more: usize,
}

/// An item that is not served.
#[derive(Clone, Debug)]
pub struct Quarantined {
    /// Its name or URI, where it has one.
    pub key: Option<Arc<str>>,
    /// What is wrong with it.
    pub reason: Broken,
}

/// All pages of one list of one upstream.
#[derive(Debug, Default)]
pub struct Listing {
    /// What can be served, in the upstream's order, no name twice.
    pub items: Vec<Item>,
    /// What cannot, and why.
    pub quarantined: Quarantine,
    /// The most careful of its pages.
    pub caching: Option<Caching>,
}

impl Page {
    /// Reads the result of a list request. What is broken in it is set aside; the rest stands.
    ///
    /// # Errors
    /// [`Fault`] if the result as a whole is no page, or one of more than [`MAX_LIST_ITEMS`].
    pub fn read(result: &Bytes, kind: ListKind) -> Result<Page, Fault> {
        let object = Object::read(text(result)?)?;
        let list = object.get(kind.result_key()).ok_or(Fault::Shape("the result has no list"))?;
        if !list.starts_with('[') {
            return Err(Fault::Shape("the list is no array"));
        }
        let next_cursor = match object.get("nextCursor") {
            None | Some("null") => None,
            Some(_) => Some(object.text("nextCursor").ok_or(Fault::Shape("`nextCursor` is no string"))?),
        };
        let mut page = Page {
            items: Vec::new(),
            quarantined: Quarantine::default(),
            next_cursor: next_cursor.map(|cursor| cursor.into_owned()),
            caching: object.get("ttlMs").map(|_| Caching::of(&object)),
        };
        for (place, element) in elements_up_to(list, MAX_LIST_ITEMS)?.into_iter().enumerate() {
            let span =
                Span::locate(result, element.as_bytes()).ok_or(Fault::Shape("the result is too long"))?;
            let place = u32::try_from(place).map_err(|_| Fault::Shape("the list is too long"))?;
            match read_item(element, kind) {
                Ok((key, params, hints)) => {
                    let (judged, page_text) = (judged(&key, kind), result.clone());
                    page.items.push(Item { key, judged, page: page_text, span, place, params, hints });
                }
                Err((key, reason)) => page.quarantined.add(key, reason),
            }
        }
        Ok(page)
    }
}

/// What rules are asked of in the place of a key.
fn judged(key: &Arc<str>, kind: ListKind) -> Arc<str> {
    let form = match kind {
        ListKind::Tools | ListKind::Prompts => return Arc::clone(key),
        ListKind::Resources => normal(key).form,
        ListKind::Templates => normal_template(key).form,
    };
    match form {
        Cow::Borrowed(_) => Arc::clone(key),
        Cow::Owned(form) => form.into(),
    }
}

type Read = (Arc<str>, Arc<[ParamHeader]>, Hints);

fn read_item(element: &str, kind: ListKind) -> Result<Read, (Option<Arc<str>>, Broken)> {
    let object = Object::read(element).map_err(|fault| (None, Broken::Text(fault)))?;
    let Some(key) = object.text(kind.item_key()) else {
        return Err((None, Broken::Unnamed { key: kind.item_key() }));
    };
    let shown = || Some(shortened(&key));
    check_key(&key, kind).map_err(|broken| (shown(), broken))?;
    if element.len() > MAX_ITEM_BYTES {
        return Err((shown(), Broken::TooLong { limit: MAX_ITEM_BYTES }));
    }
    if kind != ListKind::Tools {
        return Ok((key.as_ref().into(), Arc::default(), Hints::default()));
    }
    let (params, hints) = read_tool(&object).map_err(|broken| (shown(), broken))?;
    Ok((key.as_ref().into(), params, hints))
}

fn read_tool(tool: &Object<'_>) -> Result<(Arc<[ParamHeader]>, Hints), Broken> {
    let schema = tool.get("inputSchema").filter(|schema| schema.starts_with('{'));
    let params = schema::param_headers(schema.ok_or(Broken::NoSchema)?)?;
    if let Some(output) = tool.get("outputSchema").filter(|schema| schema.starts_with('{')) {
        schema::check(output)?;
    }
    let annotations = tool.object("annotations").map_err(Broken::Text)?.unwrap_or_default();
    let says = |hint: &str| annotations.get(hint) == Some("true");
    Ok((params, Hints { read_only: says("readOnlyHint"), idempotent: says("idempotentHint") }))
}

fn check_key(key: &str, kind: ListKind) -> Result<(), Broken> {
    let limit = match kind {
        ListKind::Tools => MAX_TOOL_NAME,
        ListKind::Templates => MAX_TEMPLATE,
        ListKind::Prompts | ListKind::Resources => MAX_KEY,
    };
    if key.is_empty() || key.len() > limit {
        return Err(Broken::KeyLength { limit });
    }
    let legal = match kind {
        ListKind::Tools => is_tool_name(key),
        _ => !key.chars().any(char::is_control),
    };
    if legal { Ok(()) } else { Err(Broken::KeyCharacters) }
}

/// Whether a tool can have this name in a list that is served. The specification recommends letters,
/// digits, `_`, `-` and `.`; `/` and `:` are in use.
pub fn is_tool_name(name: &str) -> bool {
    name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-./:".contains(&byte))
}

/// A name for a report.
fn shortened(key: &str) -> Arc<str> {
    match key.char_indices().nth(MAX_TOOL_NAME) {
        Some((end, _)) => format!("{}…", &key[..end]).into(),
        None => key.into(),
    }
}

impl Item {
    /// Its name or URI at its upstream.
    pub fn key(&self) -> &Arc<str> {
        &self.key
    }

    /// Its definition as the upstream wrote it.
    pub fn definition(&self) -> Bytes {
        self.page.slice(self.span.start as usize..self.span.end as usize)
    }

    /// As [`Item::definition`].
    pub(super) fn text(&self) -> &str {
        std::str::from_utf8(self.span.of(&self.page)).unwrap_or_default()
    }
}

impl Quarantine {
    /// Sets an item aside.
    pub(super) fn add(&mut self, key: Option<Arc<str>>, reason: Broken) {
        if self.kept.len() < MAX_REMEMBERED {
            self.kept.push(Quarantined { key, reason });
        } else {
            self.more += 1;
        }
    }

    pub(super) fn append(&mut self, other: Quarantine) {
        self.more += other.more;
        for item in other.kept {
            self.add(item.key, item.reason);
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.kept.len() + self.more
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Those that are remembered: the first 100.
    pub fn iter(&self) -> std::slice::Iter<'_, Quarantined> {
        self.kept.iter()
    }
}

impl Listing {
    /// Joins the pages of a list in their order. Of items with one name the first counts.
    pub fn join(pages: Vec<Page>, kind: ListKind) -> Listing {
        let limit = if kind == ListKind::Templates { MAX_TEMPLATES } else { MAX_LIST_ITEMS };
        let mut seen: HashSet<Arc<str>> = HashSet::new();
        let mut joined = Listing { caching: most_careful(&pages), ..Listing::default() };
        for page in pages {
            joined.quarantined.append(page.quarantined);
            for item in page.items {
                if !seen.insert(item.key.clone()) {
                    joined.quarantined.add(Some(shortened(&item.key)), Broken::Repeated);
                } else if joined.items.len() < limit {
                    joined.items.push(item);
                } else {
                    joined.quarantined.add(Some(shortened(&item.key)), Broken::TooMany { limit });
                }
            }
        }
        joined
    }
}

impl Listing {
    /// Bytes of its definitions.
    pub fn bytes(&self) -> usize {
        self.items.iter().map(|item| (item.span.end - item.span.start) as usize).sum()
    }
}

/// What goes for all pages together.
fn most_careful(pages: &[Page]) -> Option<Caching> {
    let said = pages.iter().filter_map(|page| page.caching);
    said.reduce(|one, other| Caching {
        ttl_ms: one.ttl_ms.min(other.ttl_ms),
        scope: if one.scope == other.scope { one.scope } else { Scope::Private },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(text: &str, kind: ListKind) -> Page {
        Page::read(&Bytes::copy_from_slice(text.as_bytes()), kind).unwrap()
    }

    #[test]
    fn items_are_slices_of_their_page() {
        let text = r#"{ "tools" : [ {"name":"a","inputSchema":{"type":"object"}} ,
            { "x":1.50, "name":"b\u002fc", "inputSchema": {} , "annotations":{"readOnlyHint":true,"idempotentHint":false}} ],
            "nextCursor":"p\n2","ttlMs":60000,"cacheScope":"public","_meta":{} }"#;
        let read = page(text, ListKind::Tools);
        let keys: Vec<&str> = read.items.iter().map(|item| &**item.key()).collect();
        assert_eq!(keys, ["a", "b/c"]);
        assert_eq!(read.items[0].definition(), r#"{"name":"a","inputSchema":{"type":"object"}}"#);
        assert!(read.items[1].text().starts_with(r#"{ "x":1.50, "name":"b\u002fc""#));
        assert_eq!(read.items[1].hints, Hints { read_only: true, idempotent: false });
        assert_eq!((read.next_cursor.as_deref(), read.quarantined.len()), (Some("p\n2"), 0));
        assert_eq!(read.caching, Some(Caching { ttl_ms: 60_000, scope: Scope::Public }));
    }

    #[test]
    fn one_broken_item_leaves_the_others() {
        let long = "n".repeat(129);
        let cases = [
            ("no object", "7".to_owned(), "not valid JSON"),
            ("no name", r#"{"inputSchema":{}}"#.to_owned(), "no `name`"),
            ("a number as name", r#"{"name":7,"inputSchema":{}}"#.to_owned(), "no `name`"),
            ("an empty name", r#"{"name":"","inputSchema":{}}"#.to_owned(), "1 to 128"),
            ("a long name", format!(r#"{{"name":"{long}","inputSchema":{{}}}}"#), "1 to 128"),
            ("a space", r#"{"name":"a b","inputSchema":{}}"#.to_owned(), "characters"),
            ("a line end", r#"{"name":"a\nb","inputSchema":{}}"#.to_owned(), "characters"),
            ("a letter of another script", r#"{"name":"а","inputSchema":{}}"#.to_owned(), "characters"),
            ("a key twice", r#"{"name":"a","name":"b","inputSchema":{}}"#.to_owned(), "twice"),
            ("no schema", r#"{"name":"a"}"#.to_owned(), "`inputSchema`"),
            ("a schema that is no object", r#"{"name":"a","inputSchema":"x"}"#.to_owned(), "`inputSchema`"),
            ("a remote schema", r#"{"name":"a","inputSchema":{"$ref":"http://x/"}}"#.to_owned(), "outside"),
            (
                "a remote answer",
                r#"{"name":"a","inputSchema":{},"outputSchema":{"$ref":"http://x/"}}"#.to_owned(),
                "outside",
            ),
            (
                "a longer one than any",
                format!(r#"{{"name":"a","inputSchema":{{}},"d":"{}"}}"#, "x".repeat(1 << 20)),
                "longer",
            ),
        ];
        for (name, item, part) in cases {
            let text = format!(
                r#"{{"tools":[{{"name":"good","inputSchema":{{}}}},{item},{{"name":"too","inputSchema":{{}}}}]}}"#
            );
            let read = page(&text, ListKind::Tools);
            assert_eq!(read.items.len(), 2, "{name}");
            assert_eq!((read.items[0].place, read.items[1].place), (0, 2), "{name}");
            let reason = read.quarantined.iter().next().unwrap().reason.to_string();
            assert!(reason.contains(part), "{name}: {reason}");
        }
    }

    #[test]
    fn what_is_no_page_is_a_fault() {
        for text in ["{}", r#"{"tools":{}}"#, "[]", r#"{"tools":[]"#, r#"{"tools":[],"nextCursor":7}"#] {
            let read = Page::read(&Bytes::from(text), ListKind::Tools);
            assert!(read.is_err(), "{text}");
        }
        assert!(page(r#"{"tools":[],"nextCursor":null}"#, ListKind::Tools).next_cursor.is_none());
    }

    #[test]
    fn other_lists_go_by_their_own_key() {
        let read =
            page(r#"{"resources":[{"uri":"file:///a b","name":"x"},{"name":"x"}]}"#, ListKind::Resources);
        assert_eq!((&**read.items[0].key(), read.quarantined.len()), ("file:///a b", 1));
        let read = page(r#"{"resourceTemplates":[{"uriTemplate":"db://{t}"}]}"#, ListKind::Templates);
        assert_eq!(&**read.items[0].key(), "db://{t}");
        let read = page(r#"{"prompts":[{"name":"ask me"}]}"#, ListKind::Prompts);
        assert_eq!(&**read.items[0].key(), "ask me");
    }

    #[test]
    fn pages_join_to_a_list_without_repetitions() {
        let one = page(
            r#"{"prompts":[{"name":"a"},{"name":"b"}],"ttlMs":500,"cacheScope":"public"}"#,
            ListKind::Prompts,
        );
        let two =
            page(r#"{"prompts":[{"name":"b","title":"again"},{"name":"c"}],"ttlMs":100}"#, ListKind::Prompts);
        let joined = Listing::join(vec![one, two], ListKind::Prompts);
        let keys: Vec<&str> = joined.items.iter().map(|item| &**item.key()).collect();
        assert_eq!(keys, ["a", "b", "c"]);
        assert_eq!(joined.caching, Some(Caching { ttl_ms: 100, scope: Scope::Private }));
        assert_eq!(joined.quarantined.iter().next().unwrap().reason, Broken::Repeated);
    }

    #[test]
    fn reports_of_broken_items_are_bounded() {
        let items = vec!["{}"; 1_000].join(",");
        let read = page(&format!(r#"{{"tools":[{items}]}}"#), ListKind::Tools);
        assert_eq!((read.quarantined.len(), read.quarantined.iter().count()), (1_000, 100));
    }
}
