//! From what an issuer says of a caller to a principal.

use super::{AuthMethod, Claims, Fault, Principal, names};
use crate::mcp::object::{Object, elements};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Longest name of a tenant, a subject, an agent, a role and the like, in bytes.
pub const MAX_NAME_BYTES: usize = 512;
/// Most roles, groups or scopes of one caller.
pub(super) const MAX_NAMES: usize = 512;
/// Attributes of one caller, in bytes of JSON.
pub(super) const MAX_CLAIMS_BYTES: usize = 8 << 10;
/// Actors behind each other (RFC 8693 §4.1).
const MAX_ACTORS: usize = 8;
/// The largest date that is believed, in seconds: the year 9999.
const MAX_DATE: f64 = 253_402_300_799.0;

/// Where a claim stands: names of members, one inside the other.
///
/// As text, `realm_access.roles`. A member whose own name is the whole text comes first, so that
/// names that are URLs need nothing special.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ClaimPath(Arc<str>);

/// What names something: the document, or a claim.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Naming {
    /// The same for all.
    Fixed(Arc<str>),
    /// As a claim says.
    Claim(ClaimPath),
}

/// Which claims say what of a caller.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ClaimRules {
    /// The tenant.
    pub tenant: Naming,
    /// The subject; default the claim `sub`.
    pub subject: Naming,
    /// The agent, where no `act` names it: the first claim of these that is there.
    pub agent: Vec<ClaimPath>,
    /// Roles: of all these claims.
    pub roles: Vec<ClaimPath>,
    /// Groups: of all these claims.
    pub groups: Vec<ClaimPath>,
    /// Scopes: of all these claims, separated by spaces or in an array.
    pub scopes: Vec<ClaimPath>,
    /// Attributes, by the names that policy knows them by.
    pub attributes: BTreeMap<Arc<str>, ClaimPath>,
}

impl ClaimPath {
    /// The path of a text; `None` if a part of it is empty.
    pub fn parse(text: &str) -> Option<ClaimPath> {
        let whole = !text.is_empty() && text.len() <= MAX_NAME_BYTES;
        (whole && text.split('.').all(|part| !part.is_empty())).then(|| ClaimPath(text.into()))
    }

    /// As it is written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The JSON text of what it leads to.
    fn follow<'a>(&self, claims: &Object<'a>) -> Option<&'a str> {
        follow(claims, &self.0)
    }
}

impl ClaimRules {
    /// The usual claims, for callers of `tenant`.
    pub fn of(tenant: Naming) -> ClaimRules {
        let paths = |paths: &[&str]| paths.iter().map(|path| ClaimPath((*path).into())).collect();
        ClaimRules {
            tenant,
            subject: Naming::Claim(ClaimPath("sub".into())),
            agent: paths(&["azp", "client_id", "cid", "appid"]),
            roles: paths(&["roles"]),
            groups: paths(&["groups"]),
            scopes: paths(&["scope", "scp"]),
            attributes: BTreeMap::new(),
        }
    }

    /// Who the claims speak of; without an index, a digest and an end.
    ///
    /// # Errors
    /// [`Fault::Unnamed`], [`Fault::TooMuch`] or [`Fault::Actors`].
    pub fn principal(&self, claims: &Object<'_>, auth: AuthMethod) -> Result<Principal, Fault> {
        let tenant = self.tenant.of(claims).ok_or(Fault::Unnamed)?;
        let subject = self.subject.of(claims).ok_or(Fault::Unnamed)?;
        let actor = actor(claims)?;
        let on_behalf_of = actor.is_some().then(|| Arc::clone(&subject));
        let agent = match actor {
            Some(actor) => Some(actor),
            None => self.agent.iter().find_map(|path| name(claims, path)),
        };
        let mut amr = Vec::new();
        if let Some(text) = claims.get("amr") {
            gather(text, false, &mut amr)?;
        }
        Ok(Principal {
            agent,
            on_behalf_of,
            roles: listed(claims, &self.roles, false)?,
            groups: listed(claims, &self.groups, false)?,
            scopes: listed(claims, &self.scopes, true)?,
            auth,
            mfa: amr.iter().any(|method| method == "mfa"),
            acr: claims.text("acr").as_deref().and_then(plain),
            auth_time: date(claims, "auth_time").ok().flatten().map(|date| date.as_secs()),
            claims: self.attributes(claims)?,
            ..Principal::named(tenant, subject)
        })
    }

    fn attributes(&self, claims: &Object<'_>) -> Result<Claims, Fault> {
        let found = self.attributes.iter().filter_map(|(name, path)| {
            let value = path.follow(claims)?;
            Some((Arc::clone(name), Arc::from(value)))
        });
        let found: Vec<(Arc<str>, Arc<str>)> = found.collect();
        let bytes: usize = found.iter().map(|(_, value)| value.len()).sum();
        if bytes > MAX_CLAIMS_BYTES { Err(Fault::TooMuch) } else { Ok(Claims::new(found)) }
    }
}

impl Naming {
    fn of(&self, claims: &Object<'_>) -> Option<Arc<str>> {
        match self {
            Naming::Fixed(name) => Some(Arc::clone(name)),
            Naming::Claim(path) => name(claims, path),
        }
    }
}

/// A date claim (RFC 7519 §2, NumericDate), since the epoch.
///
/// # Errors
/// [`Fault::Malformed`] if it is there and no date.
pub(super) fn date(claims: &Object<'_>, claim: &str) -> Result<Option<Duration>, Fault> {
    let Some(text) = claims.get(claim) else { return Ok(None) };
    let number = text.parse::<f64>().ok().filter(|number| (0.0..=MAX_DATE).contains(number));
    number.map(|number| Some(Duration::from_secs_f64(number))).ok_or(Fault::Malformed)
}

/// A name that can stand in records, labels and keys: short, and nothing that a terminal would obey.
pub fn plain(text: &str) -> Option<Arc<str>> {
    let short = (1..=MAX_NAME_BYTES).contains(&text.len());
    (short && !text.chars().any(char::is_control)).then(|| text.into())
}

/// Names of members may have dots in them: where one ends is what the object says.
fn follow<'a>(object: &Object<'a>, path: &str) -> Option<&'a str> {
    let further = || {
        path.match_indices('.').find_map(|(dot, _)| {
            let inside = Object::read(object.get(&path[..dot])?).ok()?;
            follow(&inside, &path[dot + 1..])
        })
    };
    object.get(path).or_else(further)
}

fn name(claims: &Object<'_>, path: &ClaimPath) -> Option<Arc<str>> {
    let text = path.follow(claims)?;
    match text.as_bytes().first()? {
        b'"' => plain(&serde_json::from_str::<String>(text).ok()?),
        // Some issuers number their subjects.
        b'0'..=b'9' => text.bytes().all(|byte| byte.is_ascii_digit()).then(|| plain(text))?,
        _ => None,
    }
}

/// Who acts for the subject now; whoever acted before stands further inside and has no say.
fn actor(claims: &Object<'_>) -> Result<Option<Arc<str>>, Fault> {
    let Some(text) = claims.get("act") else { return Ok(None) };
    let mut text = text;
    let mut now = None;
    for _ in 0..MAX_ACTORS {
        let actor = Object::read(text).map_err(|_| Fault::Actors)?;
        let named = actor.text("sub").or_else(|| actor.text("client_id"));
        let named = named.as_deref().and_then(plain).ok_or(Fault::Actors)?;
        now.get_or_insert(named);
        match actor.get("act") {
            Some(before) => text = before,
            None => return Ok(now),
        }
    }
    Err(Fault::Actors)
}

fn listed(claims: &Object<'_>, paths: &[ClaimPath], spaced: bool) -> Result<Arc<[Arc<str>]>, Fault> {
    let mut found = Vec::new();
    for text in paths.iter().filter_map(|path| path.follow(claims)) {
        gather(text, spaced, &mut found)?;
    }
    Ok(names(found))
}

/// The names in a claim: a text, an array of texts, or the keys of an object, which is how some
/// issuers write roles.
fn gather(text: &str, spaced: bool, found: &mut Vec<String>) -> Result<(), Fault> {
    let read = |text: &str| serde_json::from_str::<String>(text).ok();
    match text.as_bytes().first() {
        Some(b'"') => {
            let text = read(text).ok_or(Fault::Malformed)?;
            match spaced {
                true => found.extend(text.split_ascii_whitespace().map(str::to_owned)),
                false => found.push(text),
            }
        }
        Some(b'[') => {
            let texts = elements(text).map_err(|_| Fault::Malformed)?;
            // What is no text in the array is no name, and grants nothing.
            found.extend(texts.into_iter().filter_map(read));
        }
        Some(b'{') => {
            let object = Object::read(text).map_err(|_| Fault::Malformed)?;
            found.extend(object.members().map(|(key, _)| key.to_owned()));
        }
        _ => {}
    }
    let sound = found.len() <= MAX_NAMES && found.iter().all(|name| name.len() <= MAX_NAME_BYTES);
    if sound { Ok(()) } else { Err(Fault::TooMuch) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules() -> ClaimRules {
        ClaimRules::of(Naming::Fixed("acme".into()))
    }

    fn principal(rules: &ClaimRules, claims: &str) -> Result<Principal, Fault> {
        rules.principal(&Object::read(claims).unwrap(), AuthMethod::Jwt)
    }

    fn path(text: &str) -> ClaimPath {
        ClaimPath::parse(text).unwrap()
    }

    fn texts(list: &[Arc<str>]) -> Vec<&str> {
        list.iter().map(|one| &**one).collect()
    }

    #[test]
    fn the_usual_claims_need_no_rules() {
        let claims = r#"{"sub":"anna","azp":"desk","roles":["b","a","a"],"groups":"g","scope":"x y x",
            "acr":"2","amr":["pwd","mfa"],"auth_time":17}"#;
        let anna = principal(&rules(), claims).unwrap();
        assert_eq!((&*anna.tenant, &*anna.subject, anna.agent.as_deref()), ("acme", "anna", Some("desk")));
        assert_eq!((texts(&anna.roles), texts(&anna.groups)), (vec!["a", "b"], vec!["g"]));
        assert_eq!(texts(&anna.scopes), ["x", "y"]);
        assert_eq!((anna.mfa, anna.acr.as_deref(), anna.auth_time), (true, Some("2"), Some(17)));
        assert_eq!(anna.on_behalf_of, None);
    }

    #[test]
    fn claims_are_found_where_the_rules_say() {
        let rules = ClaimRules {
            tenant: Naming::Claim(path("org.tenant.id")),
            subject: Naming::Claim(path("https://acme.example/user")),
            roles: vec![path("realm_access.roles"), path("resource_access.gw.x.roles")],
            scopes: vec![path("scp")],
            attributes: BTreeMap::from([
                ("region".into(), path("address.region")),
                ("none".into(), path("address.planet")),
            ]),
            ..rules()
        };
        let claims = r#"{"org":{"tenant":{"id":42}},"https://acme.example/user":"u-1",
            "realm_access":{"roles":["a"]},"resource_access":{"gw.x":{"roles":{"b":{},"c":[]}}},
            "scp":["x","y z"],"address":{"region":"eu"},"sub":"other"}"#;
        let found = principal(&rules, claims).unwrap();
        assert_eq!((&*found.tenant, &*found.subject), ("42", "u-1"));
        assert_eq!(texts(&found.roles), ["a", "b", "c"]);
        assert_eq!(texts(&found.scopes), ["x", "y z"]);
        assert_eq!(found.claims.value("region").map(|value| &**value), Some("\"eu\""));
        assert_eq!(found.claims.iter().len(), 1);
    }

    #[test]
    fn who_acts_now_is_the_agent_and_the_subject_is_whom_it_acts_for() {
        let claims = r#"{"sub":"anna","azp":"desk","act":{"sub":"planner","act":{"sub":"chat"}}}"#;
        let anna = principal(&rules(), claims).unwrap();
        assert_eq!((&*anna.subject, anna.agent.as_deref()), ("anna", Some("planner")));
        assert_eq!(anna.on_behalf_of.as_deref(), Some("anna"));
        let deep = format!("{}1{}", r#"{"sub":"a","act":"#.repeat(20), "}".repeat(20));
        for act in ["\"planner\"", "{}", "{\"sub\":\"\"}", "{\"sub\":\"a\",\"act\":[]}", &deep] {
            let refused = principal(&rules(), &format!("{{\"sub\":\"anna\",\"act\":{act}}}"));
            assert_eq!(refused.map(drop), Err(Fault::Actors), "{act}");
        }
    }

    #[test]
    fn a_caller_without_a_proper_name_is_nobody() {
        let long = format!("\"{}\"", "x".repeat(MAX_NAME_BYTES + 1));
        for sub in ["null", "\"\"", "[]", "true", "-1", "\"a\\u0007b\"", "\"a\\nb\"", &long] {
            let refused = principal(&rules(), &format!("{{\"sub\":{sub}}}"));
            assert_eq!(refused.map(drop), Err(Fault::Unnamed), "{sub}");
        }
        assert_eq!(principal(&rules(), "{}").map(drop), Err(Fault::Unnamed));
    }

    #[test]
    fn lists_and_attributes_are_bounded() {
        let many: Vec<String> = (0..=MAX_NAMES).map(|index| format!("\"r{index}\"")).collect();
        let claims = format!("{{\"sub\":\"a\",\"roles\":[{}]}}", many.join(","));
        assert_eq!(principal(&rules(), &claims).map(drop), Err(Fault::TooMuch));
        let rules = ClaimRules { attributes: BTreeMap::from([("x".into(), path("x"))]), ..rules() };
        let claims = format!("{{\"sub\":\"a\",\"x\":\"{}\"}}", "y".repeat(MAX_CLAIMS_BYTES));
        assert_eq!(principal(&rules, &claims).map(drop), Err(Fault::TooMuch));
    }

    #[test]
    fn a_date_is_a_number_of_seconds_that_can_be_one() {
        let read = |text: &str| date(&Object::read(&format!("{{\"exp\":{text}}}")).unwrap(), "exp");
        assert_eq!(read("17"), Ok(Some(Duration::from_secs(17))));
        assert_eq!(read("17.5"), Ok(Some(Duration::from_millis(17_500))));
        for bad in ["-1", "\"17\"", "1e300", "null", "true"] {
            assert_eq!(read(bad), Err(Fault::Malformed), "{bad}");
        }
    }
}
