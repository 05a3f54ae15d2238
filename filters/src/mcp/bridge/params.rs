//! Headers that mirror a tool's arguments (2026-07-28 streamable HTTP, "Custom Headers").

use crate::mcp::object::{Object, StrictObject, unquoted};
use crate::mcp::{Fault, sentinel};
use portunus_base::{Denial, Reason};
use std::borrow::Cow;
use std::sync::Arc;

/// A property of a tool's input that a header mirrors: its `x-mcp-header`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParamHeader {
    /// The header's name after `Mcp-Param-`, an HTTP token.
    pub name: Arc<str>,
    /// The keys that lead to the property from `arguments` on.
    pub path: Arc<[Arc<str>]>,
}

impl ParamHeader {
    fn field(&self) -> String {
        format!("Mcp-Param-{}", self.name)
    }
}

/// The value of `Mcp-Name` for a name or URI.
pub fn mcp_name(name: &str) -> Cow<'_, str> {
    sentinel::encode(name)
}

/// The headers that go with a call of a tool whose schema declares these; `params` are those of the
/// call.
///
/// # Errors
/// [`Reason::InvalidRequest`] for a key that is there twice on the way to a value.
pub fn param_headers(params: &Object<'_>, declared: &[ParamHeader]) -> Result<Vec<(String, String)>, Denial> {
    let mut headers = Vec::with_capacity(declared.len());
    for header in declared {
        match value_at(params, &header.path)? {
            Value::Text(said) | Value::Number(said) => {
                headers.push((header.field(), sentinel::encode(&said).into_owned()));
            }
            Value::None | Value::Unsayable => {}
        }
    }
    Ok(headers)
}

/// Holds the `Mcp-Param-*` headers that came with a call to its arguments; `sent` are their whole
/// names and values, in any case and order. Those that the schema does not know are not looked at.
///
/// # Errors
/// [`Reason::HeaderMismatch`] if one is missing, there twice, not what the body says, or says
/// something where the body says nothing; [`Reason::InvalidRequest`] as [`param_headers`].
pub fn check_param_headers(
    sent: &[(&str, &str)],
    params: &Object<'_>,
    declared: &[ParamHeader],
) -> Result<(), Denial> {
    for header in declared {
        let field = header.field();
        let mut values = sent.iter().filter(|(name, _)| name.eq_ignore_ascii_case(&field));
        let (value, again) = (values.next().map(|(_, value)| value.trim_matches([' ', '\t'])), values.next());
        let mismatch = |what: &str| Denial::new(Reason::HeaderMismatch, format!("`{field}` {what}"));
        if again.is_some() {
            return Err(mismatch("is there more than once"));
        }
        let value = value.map(sentinel::decode);
        if value == Some(None) {
            return Err(mismatch("is not valid base64 of UTF-8 text"));
        }
        contradiction(value.flatten().as_deref(), &value_at(params, &header.path)?)
            .map_or(Ok(()), |what| Err(mismatch(what)))?;
    }
    Ok(())
}

/// What is wrong with a header beside an argument.
fn contradiction(header: Option<&str>, argument: &Value<'_>) -> Option<&'static str> {
    match (header, argument) {
        (None, Value::None | Value::Unsayable) => None,
        // Some clients leave away what they cannot write exactly.
        (None, Value::Number(said)) if is_inexact(said) => None,
        (None, _) => Some("is missing, but the body has its argument"),
        (Some(_), Value::None) => Some("says what the body does not"),
        (Some(_), Value::Unsayable) => Some("stands for an argument that no header can say"),
        (Some(header), Value::Text(said)) if header == said => None,
        (Some(header), Value::Number(said)) if is_same(header, said) => None,
        (Some(_), _) => Some("differs from the argument in the body"),
    }
}

/// What a body has to say in a header.
enum Value<'a> {
    /// Nothing: absent or `null`.
    None,
    /// A string, or `true` or `false`.
    Text(Cow<'a, str>),
    /// A number, in its shortest form if it is whole.
    Number(Cow<'a, str>),
    /// An object or an array, or half of a surrogate pair.
    Unsayable,
}

fn value_at<'a>(params: &Object<'a>, path: &[Arc<str>]) -> Result<Value<'a>, Denial> {
    let Some(mut text) = params.get("arguments") else { return Ok(Value::None) };
    for key in path {
        if !text.starts_with('{') {
            return Ok(Value::None);
        }
        match StrictObject::read(text).and_then(|object| object.get(key)).map_err(unreadable)? {
            Some(value) => text = value,
            None => return Ok(Value::None),
        }
    }
    Ok(match text.as_bytes().first() {
        None | Some(b'n') => Value::None,
        Some(b'{' | b'[') => Value::Unsayable,
        Some(b'"') => unquoted(text).map_or(Value::Unsayable, Value::Text),
        Some(b't' | b'f') => Value::Text(Cow::Borrowed(text)),
        Some(_) => Value::Number(integer(text).map_or(Cow::Borrowed(text), Cow::Owned)),
    })
}

fn unreadable(fault: Fault) -> Denial {
    Denial::new(Reason::InvalidRequest, fault.to_string())
}

/// Whole numbers are the same with and without a fraction of zeros.
fn is_same(header: &str, said: &str) -> bool {
    header == said || (!header.contains(['e', 'E']) && integer(header).as_deref() == Some(said))
}

/// Whether a whole number is beyond those that every client can write.
fn is_inexact(said: &str) -> bool {
    said.parse::<f64>().is_ok_and(|value| value.abs() > EXACT)
}

/// The largest whole number below which every other has a floating-point number of its own.
const EXACT: f64 = 9_007_199_254_740_991.0;

/// The shortest form of a number that is whole: `42` for `42.0`. `None` for what is no whole number,
/// or written with an exponent and too large to be exact.
fn integer(text: &str) -> Option<String> {
    if text.contains(['e', 'E']) {
        let value: f64 = text.parse().ok()?;
        // Zero has a sign of its own.
        return (value.fract() == 0.0 && value.abs() <= EXACT).then(|| format!("{:.0}", value + 0.0));
    }
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => ("-", digits),
        None => ("", text),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, "0"));
    let is_number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    if !is_number(whole) || !is_number(fraction) || fraction.bytes().any(|digit| digit != b'0') {
        return None;
    }
    match whole.trim_start_matches('0') {
        "" => Some("0".to_owned()),
        whole => Some(format!("{sign}{whole}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn declared(name: &str, path: &[&str]) -> ParamHeader {
        ParamHeader { name: name.into(), path: path.iter().map(|&key| Arc::from(key)).collect() }
    }

    fn region(value: &str) -> String {
        format!(r#"{{"name":"t","arguments":{{"where":{{"region":{value}}}}}}}"#)
    }

    #[test]
    fn arguments_are_said_in_headers() {
        let header = [declared("Region", &["where", "region"])];
        let cases = [
            ("text", r#""eu""#, Some("eu")),
            ("escaped text", r#""\u0065u""#, Some("eu")),
            ("text beyond ASCII", r#""ż""#, Some("=?base64?xbw=?=")),
            ("line break", r#""a\r\nEvil: 1""#, Some("=?base64?YQ0KRXZpbDogMQ==?=")),
            ("empty text", r#""""#, Some("=?base64??=")),
            ("true", "true", Some("true")),
            ("whole number", "42", Some("42")),
            ("whole number with a fraction", "42.00", Some("42")),
            ("whole number with an exponent", "4.2e1", Some("42")),
            ("minus zero", "-0e0", Some("0")),
            ("large number", "123456789012345678901", Some("123456789012345678901")),
            ("fraction", "1.50", Some("1.50")),
            ("null", "null", None),
            ("object", "{}", None),
            ("half of a pair", r#""\ud800""#, None),
        ];
        for (name, value, expected) in cases {
            let params = region(value);
            let headers = param_headers(&Object::read(&params).unwrap(), &header).unwrap();
            let found = headers.first().map(|(field, value)| (field.as_str(), value.as_str()));
            assert_eq!(found, expected.map(|value| ("Mcp-Param-Region", value)), "{name}");
        }
        for absent in
            ["{}", r#"{"arguments":null}"#, r#"{"arguments":{"where":7}}"#, r#"{"arguments":{"where":{}}}"#]
        {
            assert_eq!(param_headers(&Object::read(absent).unwrap(), &header), Ok(Vec::new()), "{absent}");
        }
    }

    #[test]
    fn headers_must_say_what_the_arguments_say() {
        let header = [declared("Region", &["where", "region"])];
        let cases: &[(&str, &str, &[(&str, &str)], bool)] = &[
            ("same", r#""eu""#, &[("mcp-param-region", "eu")], true),
            ("space around", r#""eu""#, &[("Mcp-Param-Region", " eu\t")], true),
            ("coded", r#""ż""#, &[("Mcp-Param-Region", "=?base64?xbw=?=")], true),
            ("coded without need", r#""eu""#, &[("Mcp-Param-Region", "=?base64?ZXU=?=")], true),
            ("unknown ones pass", r#""eu""#, &[("Mcp-Param-Region", "eu"), ("Mcp-Param-X", "y")], true),
            ("other", r#""eu""#, &[("Mcp-Param-Region", "us")], false),
            ("other case", r#""eu""#, &[("Mcp-Param-Region", "EU")], false),
            ("missing", r#""eu""#, &[], false),
            ("missing number", "42", &[], false),
            ("twice", r#""eu""#, &[("Mcp-Param-Region", "eu"), ("mcp-param-region", "eu")], false),
            ("broken code", r#""eu""#, &[("Mcp-Param-Region", "=?base64?ZXU?=")], false),
            ("whole number", "42", &[("Mcp-Param-Region", "42.0")], true),
            ("whole number the other way", "42.0", &[("Mcp-Param-Region", "42")], true),
            ("text is no number", r#""42""#, &[("Mcp-Param-Region", "42.0")], false),
            ("another number", "42", &[("Mcp-Param-Region", "42.1")], false),
            ("header with an exponent", "42", &[("Mcp-Param-Region", "4.2e1")], false),
            ("beyond floats", "9007199254740993", &[("Mcp-Param-Region", "9007199254740992")], false),
            ("beyond floats, left away", "9007199254740993", &[], true),
            ("large text, left away", r#""9007199254740993""#, &[], false),
            ("null", "null", &[], true),
            ("null, yet said", "null", &[("Mcp-Param-Region", "eu")], false),
            ("object", "[]", &[], true),
            ("object, yet said", "[]", &[("Mcp-Param-Region", "[]")], false),
        ];
        for (name, value, sent, agrees) in cases {
            let params = region(value);
            let judged = check_param_headers(sent, &Object::read(&params).unwrap(), &header);
            let reason = judged.map_err(|denial| denial.reason);
            assert_eq!(reason, if *agrees { Ok(()) } else { Err(Reason::HeaderMismatch) }, "{name}");
        }
        let absent = Object::read("{}").unwrap();
        assert!(check_param_headers(&[("Mcp-Param-Region", "eu")], &absent, &header).is_err());
    }

    #[test]
    fn an_argument_that_readers_find_in_two_ways_is_refused() {
        let header = [declared("Region", &["region"])];
        for arguments in [
            r#"{"region":"eu","r\u0065gion":"us"}"#,
            r#"{"region":"eu","Region":"us"}"#,
            r#"{"REGION":"eu"}"#,
            r#"{"region":"eu","x":1,"X":2}"#,
        ] {
            let params = format!(r#"{{"arguments":{arguments}}}"#);
            let params = Object::read(&params).unwrap();
            let reason = param_headers(&params, &header).map_err(|denial| denial.reason);
            assert_eq!(reason, Err(Reason::InvalidRequest), "{arguments}");
            let judged = check_param_headers(&[("Mcp-Param-Region", "eu")], &params, &header);
            assert_eq!(judged.map_err(|denial| denial.reason), Err(Reason::InvalidRequest), "{arguments}");
        }
    }

    #[test]
    fn what_a_header_says_of_a_call_is_what_is_checked() {
        let header = [declared("Region", &["where", "region"])];
        for value in [r#""ż""#, r#"" a""#, "-7.0", "1e2", "1.5", "false", "99999999999999999999", "-0.0"] {
            let params = region(value);
            let params = Object::read(&params).unwrap();
            let headers = param_headers(&params, &header).unwrap();
            let sent: Vec<(&str, &str)> =
                headers.iter().map(|(field, value)| (field.as_str(), value.as_str())).collect();
            assert_eq!(check_param_headers(&sent, &params, &header), Ok(()), "{value}");
        }
    }
}
