//! Headers that mirror a tool's arguments (2026-07-28 streamable HTTP, "Custom Headers").

use crate::denial::{Denial, Reason};
use crate::mcp::object::{Object, unquoted};
use crate::mcp::{Fault, sentinel};
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
        if let Value::Plain(said) = value_at(params, &header.path)? {
            headers.push((header.field(), sentinel::encode(&said).into_owned()));
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
        let mismatch = |what: &str| Err(Denial::new(Reason::HeaderMismatch, format!("`{field}` {what}")));
        if again.is_some() {
            return mismatch("is there more than once");
        }
        match (value, value_at(params, &header.path)?) {
            (None, Value::None | Value::Unsayable) => {}
            (None, Value::Plain(_)) => return mismatch("is missing, but the body has its argument"),
            (Some(_), Value::None) => return mismatch("says what the body does not"),
            (Some(_), Value::Unsayable) => return mismatch("stands for an argument that no header can say"),
            (Some(value), Value::Plain(said)) => match sentinel::decode(value) {
                None => return mismatch("is not valid base64 of UTF-8 text"),
                Some(value) if is_same(&value, &said) => {}
                Some(_) => return mismatch("differs from the argument in the body"),
            },
        }
    }
    Ok(())
}

/// What a body has to say in a header.
enum Value<'a> {
    /// Nothing: absent or `null`.
    None,
    /// This.
    Plain(Cow<'a, str>),
    /// An object or an array.
    Unsayable,
}

fn value_at<'a>(params: &Object<'a>, path: &[Arc<str>]) -> Result<Value<'a>, Denial> {
    let Some(mut text) = params.get("arguments") else { return Ok(Value::None) };
    for key in path {
        if !text.starts_with('{') {
            return Ok(Value::None);
        }
        match Object::read(text).map_err(unreadable)?.get(key) {
            Some(value) => text = value,
            None => return Ok(Value::None),
        }
    }
    Ok(match text.as_bytes().first() {
        None | Some(b'n') => Value::None,
        Some(b'{' | b'[') => Value::Unsayable,
        Some(b'"') => unquoted(text).map_or(Value::Unsayable, Value::Plain),
        Some(_) => Value::Plain(match integer(text) {
            Some(integer) => Cow::Owned(integer),
            None => Cow::Borrowed(text),
        }),
    })
}

fn unreadable(fault: Fault) -> Denial {
    Denial::new(Reason::InvalidRequest, fault.to_string())
}

/// Integers are the same however they are written.
fn is_same(header: &str, said: &str) -> bool {
    header == said || integer(header).is_some_and(|value| integer(said) == Some(value))
}

/// The shortest form of a number that is whole: `42` for `42.0`. `None` for what is no whole number,
/// or written with an exponent and too large to be exact.
fn integer(text: &str) -> Option<String> {
    if text.contains(['e', 'E']) {
        const EXACT: f64 = 9_007_199_254_740_991.0;
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
