//! Lists of tools as servers give them, and what they are merged into.

use bytes::Bytes;
use portunus_filters::catalog::{
    Catalog, Known, ListKind, Listing, Lists, Names, Naming, Offer, Page, Policy, Source,
};
use std::sync::Arc;

struct All;

impl Naming for All {
    fn admits(&self, _: &str, _: &str) -> bool {
        true
    }
    fn renamed(&self, _: &str, _: &str) -> Option<&str> {
        None
    }
    fn described(&self, _: &str, _: &str) -> Option<&str> {
        None
    }
    fn renames(&self) -> Vec<(&str, &str, &str)> {
        Vec::new()
    }
}

/// A result of `tools/list`, each tool of about half a kilobyte.
pub fn result(tools: usize) -> Bytes {
    let tool = |number: usize| {
        format!(
            r#"{{"name":"tool_{number}","description":"{}","inputSchema":{{"type":"object","properties":{{"text":{{"type":"string"}},"limit":{{"type":"integer","default":10}}}},"required":["text"]}}}}"#,
            "What it does, and when to call it. ".repeat(9)
        )
    };
    let tools: Vec<String> = (0..tools).map(tool).collect();
    format!(r#"{{"tools":[{}]}}"#, tools.join(",")).into()
}

/// Two members, `crm` and `search`, that offer the same tools: so many in all.
///
/// # Panics
/// If the lists above cannot be read.
#[expect(clippy::panic, reason = "there is nothing to measure without one")]
pub fn sources(tools: usize) -> [Source; 2] {
    ["crm", "search"].map(|member| {
        let page = Page::read(&result(tools / 2), ListKind::Tools).unwrap_or_else(|fault| panic!("{fault}"));
        let mut lists = Lists::default();
        lists.0[ListKind::Tools.index()] = Known::fresh(Arc::new(Listing::join(vec![page], ListKind::Tools)));
        Source { member: member.into(), offer: Offer::One(lists) }
    })
}

/// Their catalogue; what both offer has the name of its member before it.
pub fn merged(sources: &[Source]) -> Catalog {
    let names = Names { policy: Policy::PrefixOnConflict, separator: "_".into(), rules: Arc::new(All) };
    Catalog::merge(sources, &names, None, None)
}
