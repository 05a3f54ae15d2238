//! `upstreams` of a virtual server: what it is made of.

use crate::diagnostic::{Located, Place};
use crate::reader::{Section, Value};

/// A part of a virtual server.
#[derive(Clone, Debug)]
pub struct MemberDocument {
    /// `name`, or the name of its one upstream.
    pub name: Located<String>,
    /// Where its messages go.
    pub choice: ChoiceDocument,
}

/// Which upstream a member's messages go to; upstreams by name.
#[derive(Clone, Debug)]
pub enum ChoiceDocument {
    /// Its name alone, or `upstream`.
    Fixed(Located<String>),
    /// `by_tenant` and `otherwise`.
    ByTenant {
        /// `by_tenant`: tenants and their upstreams.
        map: Vec<(Located<String>, Located<String>)>,
        /// `otherwise`.
        otherwise: Option<Located<String>>,
    },
    /// `regions`, `selector` and `default`.
    Twins {
        /// `selector`.
        selector: Located<String>,
        /// `regions`: values of the selector and their upstreams.
        map: Vec<(Located<String>, Located<String>)>,
        /// `default`.
        default: Located<String>,
        /// Where `regions` is written.
        place: Place,
    },
}

impl ChoiceDocument {
    /// Every upstream that is named.
    pub(crate) fn names(&self) -> impl Iterator<Item = &Located<String>> {
        let (map, one) = match self {
            ChoiceDocument::Fixed(name) => (&[][..], Some(name)),
            ChoiceDocument::ByTenant { map, otherwise } => (&map[..], otherwise.as_ref()),
            ChoiceDocument::Twins { map, .. } => (&map[..], None),
        };
        map.iter().map(|(_, name)| name).chain(one)
    }
}

/// One member or a list of them, each a name of an upstream or a mapping.
pub(super) fn read(value: &Value<'_>) -> Vec<MemberDocument> {
    let items = value.items_or_one();
    if items.is_empty() {
        value.error("no upstream is named", "name the upstream that this server offers");
    }
    items.iter().filter_map(member).collect()
}

fn member(value: &Value<'_>) -> Option<MemberDocument> {
    if value.is_mapping() {
        return value.section(long)?;
    }
    let name = value.text()?;
    Some(MemberDocument { name: name.clone(), choice: ChoiceDocument::Fixed(name) })
}

const FORMS: &str = "write `upstream: NAME`, or `by_tenant: {TENANT: NAME}`, or \
                     `regions: {REGION: NAME}` with `selector` and `default`";

fn long(section: &mut Section<'_>) -> Option<MemberDocument> {
    let name = section.required("name", "name the member: it stands before its tools' names");
    let name = name.and_then(|name| name.text());
    let [upstream, by_tenant, regions] = ["upstream", "by_tenant", "regions"].map(|key| section.value(key));
    let [otherwise, selector, default] =
        ["otherwise", "selector", "default"].map(|key| section.value(key).and_then(|value| value.text()));
    refuse_alone(section, "by_tenant", &["otherwise"]);
    refuse_alone(section, "regions", &["selector", "default"]);
    let choice = match (upstream, by_tenant, regions) {
        (Some(upstream), None, None) => upstream.text().map(ChoiceDocument::Fixed),
        (None, Some(map), None) => Some(ChoiceDocument::ByTenant { map: names(&map), otherwise }),
        (None, None, Some(map)) => twins(&map, selector, default, section),
        _ => {
            section.error(section.place(), "exactly one choice of upstreams should stand here", FORMS);
            None
        }
    };
    Some(MemberDocument { name: name?, choice: choice? })
}

fn twins(
    map: &Value<'_>,
    selector: Option<Located<String>>,
    default: Option<Located<String>>,
    section: &Section<'_>,
) -> Option<ChoiceDocument> {
    let hints = [
        ("selector", "name the argument that tools gain: `selector: region`"),
        ("default", "name the region for what has no arguments: `default: eu`"),
    ];
    for (key, hint) in hints {
        if section.key_place(key).is_none() {
            section.error(section.place(), format!("`{key}` is missing"), hint);
        }
    }
    let place = map.place();
    let map = names(map);
    Some(ChoiceDocument::Twins { selector: selector?, map, default: default?, place })
}

/// Names of upstreams by tenant or region.
fn names(value: &Value<'_>) -> Vec<(Located<String>, Located<String>)> {
    let entries = value.entries();
    if entries.is_empty() && value.is_mapping() {
        value.error("no upstream is named", FORMS);
    }
    entries.into_iter().filter_map(|(key, value)| Some((key, value.text()?))).collect()
}

/// Keys that mean nothing without another.
fn refuse_alone(section: &Section<'_>, with: &str, keys: &[&str]) {
    if section.key_place(with).is_some() {
        return;
    }
    for key in keys {
        if let Some(place) = section.key_place(key) {
            section.error(&place, format!("`{key}` says nothing without `{with}`"), FORMS);
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{loaded, problems};
    use crate::{Choice, Upstream, VirtualServer};

    const UPSTREAMS: &str = "version: 1\nupstreams: {a: 'http://localhost:1/', b: 'http://localhost:2/'}\n";

    fn server(upstreams: &str) -> VirtualServer {
        let loaded = loaded(&format!("{UPSTREAMS}servers: {{/mcp: {{upstreams: {upstreams}}}, /b: b}}\n"));
        VirtualServer::clone(loaded.snapshot.routes.iter().next().unwrap())
    }

    fn name(upstream: Option<&std::sync::Arc<Upstream>>) -> Option<&str> {
        upstream.map(|upstream| &*upstream.name)
    }

    #[test]
    fn a_member_is_one_upstream_under_its_name_or_another() {
        for (text, expected) in [("a", "a"), ("{name: a, upstream: a}", "a"), ("{name: x, upstream: a}", "x")]
        {
            let server = server(text);
            assert_eq!(&*server.members[0].name, expected, "{text}");
            assert_eq!(name(server.members[0].choice.for_tenant(Some("acme"))), Some("a"), "{text}");
            assert_eq!(server.upstreams.len(), 1, "{text}");
        }
    }

    #[test]
    fn tenants_have_their_upstreams() {
        let server = server("[{name: x, by_tenant: {acme: a, init: b}, otherwise: b}, b]");
        let choice = &server.members[0].choice;
        assert_eq!(name(choice.for_tenant(Some("acme"))), Some("a"));
        assert_eq!(name(choice.for_tenant(Some("ACME"))), Some("b"));
        assert_eq!(name(choice.for_tenant(None)), Some("b"));
        assert_eq!(choice.upstreams().count(), 3);
        let each_once: Vec<_> = server.upstreams.iter().map(|upstream| &*upstream.name).collect();
        assert_eq!(each_once, ["a", "b"]);
    }

    #[test]
    fn who_has_no_tenant_of_the_map_sees_nothing_of_it() {
        let server = server("{name: x, by_tenant: {acme: a}}");
        let choice = &server.members[0].choice;
        assert_eq!((name(choice.for_tenant(Some("other"))), name(choice.for_tenant(None))), (None, None));
    }

    #[test]
    fn twins_are_selected_by_an_argument() {
        let server = server("{name: db, selector: region, regions: {us: b, eu: a}, default: us}");
        let Choice::Twins { selector, map, default } = &server.members[0].choice else { panic!("no twins") };
        let places: Vec<_> = map.iter().map(|(region, one)| (&**region, &*one.name)).collect();
        assert_eq!((&**selector, &**default), ("region", "us"));
        assert_eq!(places, [("eu", "a"), ("us", "b")]);
        assert_eq!(name(server.members[0].choice.for_tenant(Some("acme"))), Some("b"));
    }

    #[test]
    fn wrong_members_are_named() {
        let at = "servers./mcp.upstreams";
        let table = [
            ("[]", ": no upstream is named"),
            ("5", ": a number where text should be"),
            ("{upstream: a}", ": `name` is missing"),
            ("{name: x}", ": exactly one choice of upstreams should stand here"),
            (
                "{name: x, upstream: a, by_tenant: {t: a}}",
                ": exactly one choice of upstreams should stand here",
            ),
            (
                "{name: x, upstream: a, otherwise: b}",
                ".otherwise: `otherwise` says nothing without `by_tenant`",
            ),
            ("{name: x, upstream: a, default: b}", ".default: `default` says nothing without `regions`"),
            ("{name: x, by_tenant: {}}", ".by_tenant: no upstream is named"),
            ("{name: x, by_tenant: {t: nope}}", ".by_tenant.t: no upstream is named `nope`"),
            ("{name: x, by_tenant: {t: a}, otherwise: nope}", ".otherwise: no upstream is named `nope`"),
            ("{name: x, selector: r, regions: {eu: a}}", ": `default` is missing"),
            ("{name: x, default: eu, regions: {eu: a}}", ": `selector` is missing"),
            (
                "{name: x, selector: r, default: us, regions: {eu: a}}",
                ".default: `us` is none of the regions",
            ),
            (
                "{name: x, selector: 'a b', default: eu, regions: {eu: a}}",
                ".selector: `a b`: no name of an argument",
            ),
            ("[a, a]", "[1]: another member is named `a`"),
            ("[a, {name: a, upstream: b}]", "[1].name: another member is named `a`"),
        ];
        for (upstreams, problem) in table {
            let text = format!("{UPSTREAMS}servers: {{/mcp: {{upstreams: {upstreams}}}, /b: [a]}}\n");
            assert_eq!(problems(&text), [format!("{at}{problem}")], "{upstreams}");
        }
    }
}
