//! What policy answers.
//!
//! The decision document is read strictly: a member that is not known, or has another type, makes
//! the answer misshapen, and a misshapen answer denies. A misspelt obligation never goes unmet.

use regorus::Value;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Deref;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

/// An answer, shared by all who ask the same.
#[derive(Clone, Debug, PartialEq)]
pub struct Ruling {
    /// Whether it may pass.
    pub allow: bool,
    /// Why, as the policy says it; may be empty.
    pub reason: Arc<str>,
    /// What has to be done with what may pass.
    pub obligations: Arc<Obligations>,
    /// Why policy could not answer; then `allow` is false.
    pub fault: Option<Fault>,
}

/// A [`Ruling`] as it was given to one question.
#[derive(Clone, Debug)]
pub struct Decision {
    /// The answer.
    pub ruling: Arc<Ruling>,
    /// It was remembered.
    pub cached: bool,
    /// The projection decided otherwise than the full input: the caller raises an alarm. From here on
    /// the entry point reads the whole input.
    pub diverged: bool,
}

impl Deref for Decision {
    type Target = Ruling;

    fn deref(&self) -> &Ruling {
        &self.ruling
    }
}

/// Why policy could not answer. All of them deny.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The policy has no such entry point.
    NoEntry,
    /// No rule gave an answer.
    Undefined,
    /// The answer is no decision document. Carries what is wrong with it.
    Misshapen(String),
    /// A rule, function or key that may have one value has two. Carries where.
    Conflict(String),
    /// Evaluation took more CPU time than one may.
    TooLong,
    /// The caller has used up its CPU time for decisions. Carries when it may ask again.
    OverBudget(Duration),
    /// Evaluation failed. Carries where, and what was expected there; nothing of what was given.
    Failed(String),
    /// The projection decided otherwise than the full input.
    Diverged,
    /// What the policy reads of the arguments or findings cannot be read in one way. Carries why.
    Unreadable(crate::mcp::Fault),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::NoEntry => f.write_str("the policy has no such entry point"),
            Fault::Undefined => f.write_str("no rule gave a decision; give the entry point a default"),
            Fault::Misshapen(what) => write!(f, "the decision is misshapen: {what}"),
            Fault::Conflict(place) => write!(f, "two values where there may be one: {place}"),
            Fault::TooLong => f.write_str("evaluation took longer than it may"),
            Fault::OverBudget(wait) => {
                write!(f, "the caller has used up its CPU time for decisions, for {} ms", wait.as_millis())
            }
            Fault::Failed(what) => write!(f, "evaluation failed: {what}"),
            Fault::Diverged => f.write_str("the projected input decided otherwise than the full one"),
            Fault::Unreadable(fault) => write!(f, "what the policy reads cannot be read in one way: {fault}"),
        }
    }
}

impl Fault {
    /// Whether time ran out: asked again, or for less, it may well be answered.
    pub fn is_of_time(&self) -> bool {
        matches!(self, Fault::TooLong | Fault::OverBudget(_))
    }
}

/// What has to be done with what may pass.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Obligations {
    /// Places of the result that are blanked.
    pub redact: Vec<Place>,
    /// Arguments that the gateway sets, with their values as JSON text, whatever the caller sent.
    pub inject: Vec<(Place, String)>,
    /// People who have to agree first.
    pub approve: Option<Approval>,
    /// The caller has to authenticate better first.
    pub step_up: Option<StepUp>,
    /// The record has to be durable before the answer goes out.
    pub audit_strict: bool,
    /// Payloads are kept, sealed.
    pub capture_full: bool,
    /// Somebody is told.
    pub alert: bool,
    /// Units of budget, in place of the tool's own.
    pub cost: Option<f64>,
    /// Bytes that the result may have.
    pub max_result_bytes: Option<u64>,
}

/// How many people have to agree, and how long their word counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Approval {
    /// From 1 to 10.
    pub count: u8,
    /// From the first word on.
    pub within: Duration,
}

/// How the caller has to authenticate.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StepUp {
    /// The authentication context class to ask for (RFC 9470 §3); the provider's own if absent.
    pub acr: Option<Arc<str>>,
    /// How long ago the caller may have authenticated (RFC 9470 §3).
    pub max_age: Option<Duration>,
}

/// A place in a JSON document: member names or array positions; `*` is any.
///
/// Written as one name, or as a JSON Pointer (RFC 6901) with `*` added: `region`, `/content/*/text`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place(pub Vec<String>);

impl Place {
    /// Reads a place.
    ///
    /// # Errors
    /// What is wrong, for a pointer with an escape that is none, or a place that is empty.
    pub fn parse(text: &str) -> Result<Place, String> {
        let Some(pointer) = text.strip_prefix('/') else {
            return match text {
                "" => Err("an empty place".to_owned()),
                name => Ok(Place(vec![name.to_owned()])),
            };
        };
        let step = |step: &str| match step.replace("~0", "").replace("~1", "").contains('~') {
            true => Err(format!("`{text}` has a `~` that is neither `~0` nor `~1`")),
            false => Ok(step.replace("~1", "/").replace("~0", "~")),
        };
        pointer.split('/').map(step).collect::<Result<_, _>>().map(Place)
    }
}

static NO_REASON: LazyLock<Arc<str>> = LazyLock::new(|| Arc::from(""));
static NO_OBLIGATIONS: LazyLock<Arc<Obligations>> = LazyLock::new(Arc::default);

impl Ruling {
    /// Reads an answer as JSON text, as strictly as that of the engine here.
    pub fn parse(text: &str) -> Ruling {
        let misshapen = |fault: crate::mcp::Fault| Ruling::fault(Fault::Misshapen(fault.to_string()));
        super::json::value(text).map_or_else(misshapen, |value| Ruling::read(&value))
    }

    /// The answer of an engine that could not answer.
    pub(super) fn fault(fault: Fault) -> Ruling {
        Ruling { fault: Some(fault), ..Ruling::plain(false) }
    }

    pub(super) fn plain(allow: bool) -> Ruling {
        Ruling { allow, reason: NO_REASON.clone(), obligations: NO_OBLIGATIONS.clone(), fault: None }
    }

    /// Reads what the entry point gave: a boolean, or a decision document.
    pub(super) fn read(value: &Value) -> Ruling {
        let document = match value {
            Value::Bool(allow) => return Ruling::plain(*allow),
            Value::Undefined => return Ruling::fault(Fault::Undefined),
            document => document,
        };
        Ruling::document(document).unwrap_or_else(|what| Ruling::fault(Fault::Misshapen(what)))
    }

    fn document(value: &Value) -> Result<Ruling, String> {
        let members = Members::of("it", value)?;
        let mut ruling = Ruling::plain(false);
        let mut allow = None;
        for (name, value) in members.iter() {
            match name {
                "allow" => allow = Some(flag(name, value)?),
                "reason" => ruling.reason = text(name, value)?,
                "obligations" => ruling.obligations = Arc::new(Obligations::read(value)?),
                unknown => {
                    return Err(format!("it has a member `{unknown}`; there are allow, reason, obligations"));
                }
            }
        }
        ruling.allow = allow.ok_or("it has no member `allow`")?;
        Ok(ruling)
    }

    /// Whether `whole`, of all of the input, is the same answer; why there is none may be told in other
    /// words. One that took too long says nothing, nor does an input that cannot be read as a whole: a
    /// caller who writes such a number where no rule looks must not turn the rules against their
    /// projection.
    pub(super) fn agrees(&self, whole: &Ruling) -> bool {
        match (&self.fault, &whole.fault) {
            (Some(_), Some(_)) | (Some(Fault::TooLong), _) => true,
            (_, Some(Fault::TooLong | Fault::Unreadable(_))) => true,
            _ => self == whole,
        }
    }

    /// Whether the same question would be answered so again: time depends on the machine.
    pub(super) fn lasts(&self) -> bool {
        !self.fault.as_ref().is_some_and(Fault::is_of_time)
    }

    /// Roughly what it takes in memory, in bytes.
    pub(super) fn weight(&self) -> usize {
        let obligations = &self.obligations;
        let places = obligations.redact.iter().chain(obligations.inject.iter().map(|(place, _)| place));
        let injected: usize = obligations.inject.iter().map(|(_, json)| json.len()).sum();
        let named: usize = places.flat_map(|place| &place.0).map(|step| step.len() + 32).sum();
        size_of::<Ruling>() + size_of::<Obligations>() + self.reason.len() + injected + named
    }
}

impl Obligations {
    fn read(value: &Value) -> Result<Obligations, String> {
        let mut obligations = Obligations::default();
        for (name, value) in Members::of("obligations", value)?.iter() {
            match name {
                "redact" => obligations.redact = redact(value)?,
                "inject" => obligations.inject = inject(value)?,
                "approve" => obligations.approve = Some(Approval::read(value)?),
                "step_up" => obligations.step_up = StepUp::read(value)?,
                "audit" => obligations.audit_strict = one_of(name, value, "strict")?,
                "capture" => obligations.capture_full = one_of(name, value, "full")?,
                "alert" => obligations.alert = flag(name, value)?,
                "cost" => obligations.cost = Some(cost(value)?),
                "max_result_bytes" => obligations.max_result_bytes = Some(whole(name, value)?),
                unknown => return Err(format!("obligations have no member `{unknown}`")),
            }
        }
        Ok(obligations)
    }
}

impl Approval {
    fn read(value: &Value) -> Result<Approval, String> {
        let (mut count, mut within) = (1, Duration::from_secs(3_600));
        for (name, value) in Members::of("approve", value)?.iter() {
            match name {
                "count" => count = whole(name, value)?,
                "within" => within = duration(name, value)?,
                unknown => return Err(format!("approve has no member `{unknown}`; there are count, within")),
            }
        }
        match u8::try_from(count) {
            Ok(count @ 1..=10) => Ok(Approval { count, within }),
            _ => Err("approve.count is from 1 to 10".to_owned()),
        }
    }
}

impl StepUp {
    fn read(value: &Value) -> Result<Option<StepUp>, String> {
        if let Value::Bool(wanted) = value {
            return Ok(wanted.then(StepUp::default));
        }
        let mut step_up = StepUp::default();
        for (name, value) in Members::of("step_up", value)?.iter() {
            match name {
                "acr" => step_up.acr = Some(text(name, value)?),
                "max_age" => step_up.max_age = Some(duration(name, value)?),
                unknown => return Err(format!("step_up has no member `{unknown}`; there are acr, max_age")),
            }
        }
        Ok(Some(step_up))
    }
}

/// The members of an object, by name.
struct Members<'v>(BTreeMap<&'v str, &'v Value>);

impl<'v> Members<'v> {
    fn of(what: &str, value: &'v Value) -> Result<Members<'v>, String> {
        let object = value.as_object().map_err(|_| format!("{what} should be an object, {}", kind(value)))?;
        let name =
            |key: &'v Value| key.as_string().map(|name| &**name).map_err(|_| "a key is no string".to_owned());
        let members = object.iter().map(|(key, value)| Ok((name(key)?, value)));
        members.collect::<Result<_, String>>().map(Members)
    }

    fn iter(&self) -> impl Iterator<Item = (&'v str, &'v Value)> {
        self.0.iter().map(|(name, value)| (*name, *value))
    }
}

/// What a value is, without saying what is in it.
fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "it is null",
        Value::Bool(_) => "it is a boolean",
        Value::Number(_) => "it is a number",
        Value::String(_) => "it is a string",
        Value::Array(_) => "it is an array",
        Value::Set(_) => "it is a set",
        Value::Object(_) => "it is an object",
        Value::Undefined => "it is undefined",
    }
}

fn flag(name: &str, value: &Value) -> Result<bool, String> {
    value.as_bool().copied().map_err(|_| format!("`{name}` should be a boolean, {}", kind(value)))
}

fn text(name: &str, value: &Value) -> Result<Arc<str>, String> {
    value.as_string().cloned().map_err(|_| format!("`{name}` should be a string, {}", kind(value)))
}

fn whole(name: &str, value: &Value) -> Result<u64, String> {
    value.as_u64().map_err(|_| format!("`{name}` should be a whole number from 0, {}", kind(value)))
}

fn one_of(name: &str, value: &Value, only: &str) -> Result<bool, String> {
    if &*text(name, value)? == only { Ok(true) } else { Err(format!("`{name}` can only be \"{only}\"")) }
}

fn cost(value: &Value) -> Result<f64, String> {
    let cost = value.as_f64().map_err(|_| format!("`cost` should be a number, {}", kind(value)))?;
    if cost.is_finite() && cost >= 0.0 { Ok(cost) } else { Err("`cost` should be from 0".to_owned()) }
}

/// Seconds as a number, or a number with one of `s`, `m`, `h` and `d` behind it.
fn duration(name: &str, value: &Value) -> Result<Duration, String> {
    if let Ok(seconds) = value.as_u64() {
        return Ok(Duration::from_secs(seconds));
    }
    let text = text(name, value)?;
    let wrong = || format!("`{name}` should be a duration such as \"15m\" or \"1h\"");
    let (digits, unit) = text.split_at_checked(text.len().saturating_sub(1)).ok_or_else(wrong)?;
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return Err(wrong()),
    };
    let number: u64 = digits.parse().map_err(|_| wrong())?;
    number.checked_mul(seconds).map(Duration::from_secs).ok_or_else(wrong)
}

/// A list or a set: Rego's `contains` makes a set.
fn items<'v>(name: &str, value: &'v Value) -> Result<Vec<&'v Value>, String> {
    match value {
        Value::Array(array) => Ok(array.iter().collect()),
        Value::Set(set) => Ok(set.iter().collect()),
        other => Err(format!("`{name}` should be an array, {}", kind(other))),
    }
}

fn redact(value: &Value) -> Result<Vec<Place>, String> {
    items("redact", value)?.into_iter().map(|item| Place::parse(&text("redact", item)?)).collect()
}

fn inject(value: &Value) -> Result<Vec<(Place, String)>, String> {
    let members = Members::of("inject", value)?;
    let member = |(name, value): (&str, &Value)| {
        let json =
            serde_json::to_string(value).map_err(|_| format!("inject.{name} cannot be written as JSON"))?;
        Ok((Place::parse(name)?, json))
    };
    members.iter().map(member).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ruling(json: &str) -> Ruling {
        Ruling::read(&Value::from_json_str(json).unwrap())
    }

    #[test]
    fn a_boolean_is_enough() {
        assert!(ruling("true").allow);
        assert_eq!((ruling("false").allow, ruling("false").fault), (false, None));
    }

    #[test]
    fn every_obligation_is_read() {
        let ruling = ruling(
            r#"{"allow": true, "reason": "ok", "obligations": {
                "redact": ["salary", "/content/*/a~1b"], "inject": {"region": "eu", "/filter/max": 5},
                "approve": {"count": 2, "within": "15m"}, "step_up": {"acr": "gold", "max_age": 300},
                "audit": "strict", "capture": "full", "alert": true, "cost": 0.5, "max_result_bytes": 9}}"#,
        );
        let place = |steps: &[&str]| Place(steps.iter().map(|step| (*step).to_owned()).collect());
        let expected = Obligations {
            redact: vec![place(&["salary"]), place(&["content", "*", "a/b"])],
            inject: vec![
                (place(&["filter", "max"]), "5".to_owned()),
                (place(&["region"]), "\"eu\"".to_owned()),
            ],
            approve: Some(Approval { count: 2, within: Duration::from_secs(900) }),
            step_up: Some(StepUp { acr: Some("gold".into()), max_age: Some(Duration::from_secs(300)) }),
            audit_strict: true,
            capture_full: true,
            alert: true,
            cost: Some(0.5),
            max_result_bytes: Some(9),
        };
        assert_eq!((ruling.allow, &*ruling.reason, &*ruling.obligations), (true, "ok", &expected));
    }

    #[test]
    fn whatever_is_not_understood_denies() {
        for json in [
            "null",
            "1",
            "\"allow\"",
            "[]",
            "{}",
            r#"{"allow": "true"}"#,
            r#"{"allow": true, "alow": true}"#,
            r#"{"allow": true, "reason": 1}"#,
            r#"{"allow": true, "obligations": []}"#,
            r#"{"allow": true, "obligations": {"redcat": []}}"#,
            r#"{"allow": true, "obligations": {"redact": "a"}}"#,
            r#"{"allow": true, "obligations": {"redact": ["/a~2"]}}"#,
            r#"{"allow": true, "obligations": {"redact": [""]}}"#,
            r#"{"allow": true, "obligations": {"inject": ["a"]}}"#,
            r#"{"allow": true, "obligations": {"approve": {"count": 0}}}"#,
            r#"{"allow": true, "obligations": {"approve": {"within": "soon"}}}"#,
            r#"{"allow": true, "obligations": {"approve": true}}"#,
            r#"{"allow": true, "obligations": {"approve": {"cuont": 2}}}"#,
            r#"{"allow": true, "obligations": {"step_up": 1}}"#,
            r#"{"allow": true, "obligations": {"step_up": {"arc": "gold"}}}"#,
            r#"{"allow": true, "obligations": {"audit": "lax"}}"#,
            r#"{"allow": true, "obligations": {"cost": -1}}"#,
            r#"{"allow": true, "obligations": {"max_result_bytes": 1.5}}"#,
        ] {
            let ruling = ruling(json);
            assert!(!ruling.allow && matches!(ruling.fault, Some(Fault::Misshapen(_))), "{json}");
        }
        assert_eq!(Ruling::read(&Value::Undefined).fault, Some(Fault::Undefined));
    }

    #[test]
    fn faults_do_not_repeat_what_is_in_the_answer() {
        let Some(Fault::Misshapen(text)) = ruling(r#"{"allow": "s3cret"}"#).fault else { panic!("no fault") };
        assert!(!text.contains("s3cret"), "{text}");
    }

    #[test]
    fn an_evaluation_that_took_too_long_contradicts_nothing() {
        let late = Ruling::fault(Fault::TooLong);
        for json in ["true", "false", "null"] {
            assert!(late.agrees(&ruling(json)) && ruling(json).agrees(&late), "{json}");
        }
        assert!(!ruling("true").agrees(&ruling("null")) && !ruling("null").agrees(&ruling("false")));
    }

    #[test]
    fn what_is_said_counts_in_memory() {
        let said = |reason: &str, place: &str| {
            let json = format!(
                r#"{{"allow": true, "reason": "{reason}", "obligations": {{"redact": ["{place}"], "inject": {{"a": "{place}"}}}}}}"#
            );
            ruling(&json).weight()
        };
        let long = "x".repeat(1_000);
        assert!(said(&long, "b") >= said("", "b") + 1_000);
        assert!(said("", &long) >= said("", "b") + 1_998, "in redact and in inject");
    }
}
