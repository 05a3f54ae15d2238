//! `policy`: where the rules stand that say who may do what, and how they are asked.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::diagnostic::{Located, Place};
use crate::limits::{MAX_ENTRIES, POSITIVE_DURATION};
use crate::policy::{Lists, entry_point};
use crate::reader::{Section, Value};

/// `policy`, as it is written.
#[derive(Clone, Debug)]
pub struct PolicyDocument {
    /// Where its rules are.
    pub rules: PolicySourceDocument,
    /// `entrypoint`: the path of the rule that decides, without `data`.
    pub entrypoint: Option<Located<String>>,
    /// `cache_ttl`.
    pub cache_ttl: Option<Duration>,
    /// `cache_entries`.
    pub cache_entries: Option<usize>,
    /// `lists`; `None` leaves it to the rules.
    pub lists: Option<Located<Lists>>,
    /// `time_zone`, a name of the IANA database.
    pub time_zone: Option<Located<String>>,
    /// `time_limit`.
    pub time_limit: Option<Duration>,
    /// `strict`: whether what a builtin cannot take denies.
    pub strict: Option<bool>,
    /// `reasons_to_client`.
    pub reasons_to_client: bool,
    /// `shadow`.
    pub shadow: Option<ShadowDocument>,
    /// Where the section is written.
    pub place: Place,
}

/// Where rules are.
#[derive(Clone, Debug)]
pub enum PolicySourceDocument {
    /// `path`, and `data` where it is written.
    Path {
        /// A folder with Rego and data, or one Rego file.
        path: Located<PathBuf>,
        /// A folder with more data, or one file.
        data: Option<Located<PathBuf>>,
    },
    /// `builtin: rbac` with its `data`.
    Rbac(Located<PathBuf>),
}

/// A policy that is asked beside the one in force, and decides nothing.
#[derive(Clone, Debug)]
pub struct ShadowDocument {
    /// `path`.
    pub path: Located<PathBuf>,
    /// `data`.
    pub data: Option<Located<PathBuf>>,
    /// `sample`: of how many decisions one is judged by it as well.
    pub sample: usize,
}

impl PolicyDocument {
    /// A folder of rules, or one file, with every default.
    pub(crate) fn of_path(path: &Path) -> PolicyDocument {
        let path = Located { value: path.to_owned(), place: Place::default() };
        blank(PolicySourceDocument::Path { path, data: None }, Place::default())
    }
}

const SHORT: &str =
    "write the folder of the rules, `policy: policy/`, or `policy: {builtin: rbac, data: roles.yaml}`";

pub(super) fn read(section: &mut Section<'_>) -> Option<PolicyDocument> {
    let value = section.value("policy")?;
    if value.is_mapping() {
        return value.section(long)?;
    }
    if value.as_text().is_none() {
        value.error("no policy stands here", SHORT);
        return None;
    }
    let rules = PolicySourceDocument::Path { path: path(&value)?, data: None };
    Some(blank(rules, value.place()))
}

fn blank(rules: PolicySourceDocument, place: Place) -> PolicyDocument {
    PolicyDocument {
        rules,
        entrypoint: None,
        cache_ttl: None,
        cache_entries: None,
        lists: None,
        time_zone: None,
        time_limit: None,
        strict: None,
        reasons_to_client: true,
        shadow: None,
        place,
    }
}

fn long(section: &mut Section<'_>) -> Option<PolicyDocument> {
    let rules = source(section);
    let hint = "write the path of a rule, such as `mcp/authz/decision`";
    let zone = "write a name of the IANA time zone database, such as `Europe/Berlin`";
    let entrypoint = section.value("entrypoint").and_then(|value| value.parsed(hint, entry_point));
    let cache_ttl = section.value("cache_ttl").and_then(|value| value.duration(POSITIVE_DURATION));
    let cache_entries = section.value("cache_entries").and_then(|value| value.count(0..=MAX_ENTRIES));
    let lists = section
        .value("lists")
        .and_then(|value| Some(Located { value: value.one_of(&Lists::NAMES)?, place: value.place() }));
    let time_zone = section.value("time_zone").and_then(|value| value.parsed(zone, time_zone));
    let longest = Duration::from_millis(1)..=Duration::from_secs(10);
    let time_limit = section.value("time_limit").and_then(|value| value.duration(longest));
    let strict = section.value("strict").and_then(|value| value.flag());
    let reasons = section.value("reasons_to_client").and_then(|value| value.flag());
    let shadow = section.value("shadow").and_then(|value| value.section(shadow)?);
    Some(PolicyDocument {
        entrypoint,
        cache_ttl,
        cache_entries,
        lists,
        time_zone,
        time_limit,
        strict,
        reasons_to_client: reasons.unwrap_or(true),
        shadow,
        ..blank(rules?, section.place().clone())
    })
}

fn source(section: &mut Section<'_>) -> Option<PolicySourceDocument> {
    let builtin = section.value("builtin");
    let written = section.value("path");
    let data = section.value("data");
    section.exclusive("path", "builtin");
    let data = data.and_then(|value| path(&value));
    match (written, builtin) {
        (Some(written), _) => Some(PolicySourceDocument::Path { path: path(&written)?, data }),
        (None, Some(builtin)) => {
            builtin.one_of(&[("rbac", ())])?;
            let hint = "write the file of the roles: `data: roles.yaml`";
            if section.key_place("data").is_none() {
                section.error(section.place(), "`data` is missing", hint);
            }
            data.map(PolicySourceDocument::Rbac)
        }
        (None, None) => {
            section.error(section.place(), "`path` is missing", SHORT);
            None
        }
    }
}

fn shadow(section: &mut Section<'_>) -> Option<ShadowDocument> {
    let written = section.required("path", "write the folder of the policy that is tried: `path: next/`");
    let data = section.value("data").and_then(|value| path(&value));
    let sample = section.value("sample").and_then(|value| value.count(1..=1_000_000));
    Some(ShadowDocument { path: path(&written?)?, data, sample: sample.unwrap_or(1) })
}

fn path(value: &Value<'_>) -> Option<Located<PathBuf>> {
    value.text().map(|text| Located { value: PathBuf::from(text.value), place: text.place })
}

fn time_zone(text: &str) -> Result<String, &'static str> {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"/_+-".contains(&byte);
    match text.len() <= 64 && text.bytes().all(legal) {
        true => Ok(text.to_owned()),
        false => Err("is no name of a time zone"),
    }
}
