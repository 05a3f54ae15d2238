//! One tool of several equal servers, with an argument that chooses among them.

use super::page::{Item, Quarantine};
use super::source::Twins;
use super::{Broken, ListKind};
use crate::mcp::object::{Object, elements};
use crate::mcp::{Fault, rewrite};
use std::collections::HashMap;
use std::sync::Arc;

/// The argument that chooses among equal servers.
#[derive(Debug, PartialEq, Eq)]
pub struct Selector {
    /// Its name. It is not for the server: take it out of the arguments.
    pub argument: Arc<str>,
    /// The regions it may name.
    pub regions: Vec<Arc<str>>,
}

/// A tool that one or more regions have.
pub(super) struct Twin {
    pub(super) item: Item,
    pub(super) selector: Arc<Selector>,
    /// The input schema with the argument in it.
    pub(super) schema: String,
}

/// The tools of all regions, the default's first. What differs from the first of its name, or
/// cannot take the argument, is set aside.
pub(super) fn tools(twins: &Twins, quarantine: &mut Quarantine) -> Vec<Twin> {
    let mut order: Vec<Arc<str>> = Vec::new();
    let mut found: HashMap<Arc<str>, Vec<(&Arc<str>, &Item)>> = HashMap::new();
    for (region, lists) in &twins.regions {
        let listing = lists.of(ListKind::Tools).listing.as_deref();
        for item in listing.into_iter().flat_map(|listing| &listing.items) {
            let equals = found.entry(item.key.clone()).or_insert_with_key(|key| {
                order.push(key.clone());
                Vec::new()
            });
            equals.push((region, item));
        }
    }
    let equals = order.iter().filter_map(|key| found.remove(key));
    equals.filter_map(|equals| twin(&twins.selector, &equals, quarantine)).collect()
}

fn twin(argument: &Arc<str>, equals: &[(&Arc<str>, &Item)], quarantine: &mut Quarantine) -> Option<Twin> {
    let ((_, first), _) = equals.split_first()?;
    let mut regions = Vec::with_capacity(equals.len());
    for (region, item) in equals {
        if same_schemas(first.text(), item.text()) {
            regions.push((*region).clone());
        } else {
            quarantine.add(Some(format!("{} ({region})", item.key).into()), Broken::Differs);
        }
    }
    let selector = Selector { argument: argument.clone(), regions };
    match with_selector(first.text(), &selector) {
        Ok(schema) => Some(Twin { item: (*first).clone(), selector: Arc::new(selector), schema }),
        Err(broken) => {
            quarantine.add(Some(first.key.clone()), broken);
            None
        }
    }
}

/// The input schema of a tool with the argument added.
fn with_selector(tool: &str, selector: &Selector) -> Result<String, Broken> {
    let tool = Object::read(tool).map_err(Broken::Text)?;
    let schema = tool.object("inputSchema").map_err(Broken::Text)?.ok_or(Broken::NoSchema)?;
    let properties = schema.object("properties").map_err(Broken::Text)?.unwrap_or_default();
    if properties.get(&selector.argument).is_some() {
        return Err(Broken::SelectorTaken);
    }
    let regions: Vec<String> = selector.regions.iter().map(|region| rewrite::string(region)).collect();
    let choice = format!(
        r#"{{"type":"string","enum":[{}],"description":"Which of these equal servers to ask."}}"#,
        regions.join(",")
    );
    let properties = properties.rewrite().set(&*selector.argument, choice).text();
    let required = with_required(schema.get("required"), &selector.argument).map_err(Broken::Text)?;
    Ok(schema.rewrite().set("properties", properties).set("required", required).text())
}

fn with_required(required: Option<&str>, argument: &str) -> Result<String, Fault> {
    let mut names: Vec<String> = match required {
        Some(required) => elements(required)?.into_iter().map(str::to_owned).collect(),
        None => Vec::new(),
    };
    names.push(rewrite::string(argument));
    Ok(format!("[{}]", names.join(",")))
}

/// Whether two definitions have the same schemas, white space aside.
fn same_schemas(one: &str, other: &str) -> bool {
    if one == other {
        return true;
    }
    let (Ok(one), Ok(other)) = (Object::read(one), Object::read(other)) else { return false };
    ["inputSchema", "outputSchema"].iter().all(|key| match (one.get(key), other.get(key)) {
        (Some(one), Some(other)) => tokens(one).eq(tokens(other)),
        (one, other) => one.is_none() && other.is_none(),
    })
}

/// The bytes of a JSON text without the white space between its tokens.
fn tokens(json: &str) -> impl Iterator<Item = u8> {
    let (mut quoted, mut escaped) = (false, false);
    json.bytes().filter(move |&byte| {
        let inside = quoted;
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = quoted,
            b'"' => quoted = !quoted,
            _ => {}
        }
        inside || !byte.is_ascii_whitespace()
    })
}

#[cfg(test)]
mod tests {
    use super::super::{Known, Listing, Lists, Page};
    use super::*;
    use bytes::Bytes;

    fn lists(tools: &str) -> Lists {
        let page = Page::read(&Bytes::from(format!(r#"{{"tools":[{tools}]}}"#)), ListKind::Tools).unwrap();
        let mut lists = Lists::default();
        lists.0[0] = Known::fresh(Arc::new(Listing::join(vec![page], ListKind::Tools)));
        lists
    }

    fn merged(regions: &[(&str, &str)]) -> (Vec<Twin>, Quarantine) {
        let regions = regions.iter().map(|(name, tools)| ((*name).into(), lists(tools))).collect();
        let mut quarantine = Quarantine::default();
        let twins = Twins { selector: "region".into(), regions };
        (tools(&twins, &mut quarantine), quarantine)
    }

    #[test]
    fn an_argument_is_added_and_the_rest_keeps_its_bytes() {
        let tool = r#"{"name":"q","inputSchema":{ "type" : "object","properties":{"a" : {"default":1.50}},"required":[ "a" ] }}"#;
        let spaced = tool.replace(':', " : ");
        let (twins, quarantine) = merged(&[("eu", tool), ("us", &spaced)]);
        assert!(quarantine.is_empty());
        assert_eq!(
            twins[0].schema,
            r#"{ "type" : "object","properties":{"a" : {"default":1.50},"region":{"type":"string","enum":["eu","us"],"description":"Which of these equal servers to ask."}},"required":["a","region"] }"#
        );
        let (twins, _) = merged(&[("eu", r#"{"name":"q","inputSchema":{}}"#)]);
        assert!(twins[0].schema.ends_with(r#""required":["region"]}"#), "{}", twins[0].schema);
    }

    #[test]
    fn a_twin_that_differs_is_set_aside() {
        let one = r#"{"name":"q","inputSchema":{"title":"a b"}}"#;
        let other = r#"{"name":"q","inputSchema":{"title":"ab"}}"#;
        let only = r#"{"name":"only","inputSchema":{}}"#;
        let (twins, quarantine) = merged(&[("eu", one), ("us", &format!("{only},{other}")), ("ap", one)]);
        let names: Vec<&str> = twins.iter().map(|twin| &*twin.item.key).collect();
        assert_eq!(names, ["q", "only"]);
        assert_eq!(twins[0].selector.regions, ["eu".into(), "ap".into()]);
        assert_eq!(twins[1].selector.regions, ["us".into()]);
        let aside = quarantine.iter().next().unwrap();
        assert_eq!((aside.key.as_deref(), &aside.reason), (Some("q (us)"), &Broken::Differs));
    }

    #[test]
    fn an_argument_of_the_same_name_is_not_overwritten() {
        let (twins, quarantine) =
            merged(&[("eu", r#"{"name":"q","inputSchema":{"properties":{"region":{}}}}"#)]);
        assert!(twins.is_empty());
        assert_eq!(quarantine.iter().next().unwrap().reason, Broken::SelectorTaken);
    }
}
