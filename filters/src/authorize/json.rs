//! JSON text as a value of the policy engine.
//!
//! A number that a rule reads is the number that every other reader sees: one that an `i64` or an
//! `f64` would change is refused, and so is an object with a key that comes twice. Text that is passed
//! on to a server is held to more: see [`passed_on`].

use crate::mcp::object::keys_differ;
use crate::mcp::{Fault, tree};
use regorus::Value;
use std::collections::BTreeMap;

/// Values in a text that a policy reads: to make so many takes about as long as a decision may.
const MAX_VALUES: usize = 65_536;

/// The value of a JSON text.
///
/// # Errors
/// As [`tree::read`]; [`Fault::Shape`] for a number that would change.
pub(super) fn value(text: &str) -> Result<Value, Fault> {
    tree::read::<Rego>(text, MAX_VALUES).map(|rego| rego.0)
}

/// The value of a document that the operator wrote: it is read once, however many values it has.
///
/// # Errors
/// As [`value`], but for their number.
pub(super) fn document(text: &str) -> Result<Value, Fault> {
    tree::read::<Rego>(text, usize::MAX).map(|rego| rego.0)
}

/// The value of a JSON text that its server reads too, in a language of its own choice: readers that
/// ignore the case of keys and readers whose numbers are all floating-point find the same in it.
///
/// # Errors
/// As [`value`]; [`Fault::FoldedKey`] for two keys of an object that differ in case alone;
/// [`Fault::Shape`] for a whole number that is another one where numbers are `f64`.
pub(super) fn passed_on(text: &str) -> Result<Value, Fault> {
    tree::read::<PassedOn>(text, MAX_VALUES).map(|passed_on| passed_on.0.0)
}

struct Rego(Value);

struct PassedOn(Rego);

impl tree::Tree for PassedOn {
    fn null() -> PassedOn {
        PassedOn(Rego::null())
    }

    fn flag(value: bool) -> PassedOn {
        PassedOn(Rego::flag(value))
    }

    fn number(text: &str) -> Result<PassedOn, Fault> {
        if text.parse().is_ok_and(|whole| !survives_rounding(whole, text)) {
            let detail = "a whole number is one that JavaScript rounds: send it as a string";
            return Err(Fault::Shape(detail));
        }
        Rego::number(text).map(PassedOn)
    }

    fn text(text: &str) -> Result<PassedOn, Fault> {
        if text.contains('\0') {
            return Err(Fault::Shape("a text has U+0000 in it, where some servers end it"));
        }
        Rego::text(text).map(PassedOn)
    }

    fn list(items: Vec<PassedOn>) -> PassedOn {
        PassedOn(Rego::list(items.into_iter().map(|item| item.0).collect()))
    }

    fn object(members: Vec<(String, PassedOn)>) -> Result<PassedOn, Fault> {
        let differ = keys_differ(members.iter().map(|(key, _)| key.as_str()));
        let object = Rego::object(members.into_iter().map(|(key, member)| (key, member.0)).collect())?;
        if differ { Ok(PassedOn(object)) } else { Err(Fault::FoldedKey(None)) }
    }
}

/// Whether who reads a whole number as an `f64` and writes it again writes the same number.
fn survives_rounding(whole: i64, text: &str) -> bool {
    const EXACT: u64 = 1 << 53;
    #[expect(clippy::cast_precision_loss, reason = "what is lost is what is looked for")]
    let rounded = || format!("{:e}", whole as f64);
    whole.unsigned_abs() <= EXACT || Digits::of(text) == Digits::of(&rounded())
}

impl tree::Tree for Rego {
    fn null() -> Rego {
        Rego(Value::Null)
    }

    fn flag(value: bool) -> Rego {
        Rego(Value::Bool(value))
    }

    fn number(text: &str) -> Result<Rego, Fault> {
        if let Ok(whole) = text.parse::<i64>() {
            return Ok(Rego(Value::from(whole)));
        }
        let number: f64 = text.parse().map_err(|_| Fault::Syntax("a number is none"))?;
        if !number.is_finite() || Digits::of(text) != Digits::of(&format!("{number:e}")) {
            return Err(Fault::Shape("a number is written with more digits than it can keep"));
        }
        Ok(Rego(Value::from(number)))
    }

    fn text(text: &str) -> Result<Rego, Fault> {
        Ok(Rego(Value::from(text)))
    }

    fn list(items: Vec<Rego>) -> Rego {
        Rego(Value::from(items.into_iter().map(|item| item.0).collect::<Vec<Value>>()))
    }

    fn object(members: Vec<(String, Rego)>) -> Result<Rego, Fault> {
        let mut object = BTreeMap::new();
        for (key, member) in members {
            if object.insert(Value::from(key), member.0).is_some() {
                return Err(Fault::DuplicateKey);
            }
        }
        Ok(Rego(Value::from(object)))
    }
}

/// A decimal number in one form: sign, digits without zeros around them, and the power of ten of the
/// last digit.
#[derive(PartialEq, Eq)]
struct Digits {
    negative: bool,
    digits: String,
    exponent: i64,
}

impl Digits {
    /// `None` for what is no number, or one whose exponent nobody can write down.
    fn of(text: &str) -> Option<Digits> {
        let (mantissa, exponent) = match text.find(['e', 'E']) {
            Some(at) => (&text[..at], text[at + 1..].parse::<i64>().ok()?),
            None => (text, 0),
        };
        let negative = mantissa.starts_with('-');
        let mantissa = mantissa.trim_start_matches('-');
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let all = format!("{whole}{fraction}");
        let digits = all.trim_end_matches('0');
        let dropped = i64::try_from(all.len() - digits.len()).ok()?;
        let exponent = exponent.checked_sub(i64::try_from(fraction.len()).ok()?)?.checked_add(dropped)?;
        let digits = digits.trim_start_matches('0').to_owned();
        if digits.is_empty() {
            return Some(Digits { negative: false, digits, exponent: 0 });
        }
        Some(Digits { negative, digits, exponent })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_only_where_nobody_reads_them_otherwise() {
        for text in ["0", "-0", "-0.0", "7", "-9223372036854775808", "1.50", "1e2", "0.1", "2.5e-3", "1E400e"]
        {
            assert_eq!(value(text).is_ok(), text != "1E400e", "{text}");
        }
        for text in
            ["9223372036854775808", "0.10000000000000001", "1e400", "123456789.123456789123", "1e-400"]
        {
            assert!(matches!(value(text), Err(Fault::Shape(_))), "{text}");
        }
    }

    #[test]
    fn whole_numbers_are_equal_however_they_are_written() {
        assert_eq!(value("100").unwrap(), value("1e2").unwrap());
        assert_eq!(value("3.0").unwrap(), Value::from(3));
    }

    #[test]
    fn what_readers_would_disagree_on_is_refused_at_every_depth() {
        for text in [r#"{"a":1,"a":1}"#, r#"[{"a":{"b":1,"\u0062":2}}]"#] {
            assert_eq!(value(text), Err(Fault::DuplicateKey), "{text}");
        }
        assert!(matches!(value(r#"["\ud800"]"#), Err(Fault::Syntax(_))));
        assert!(matches!(value(r#"{"a":1}x"#), Err(Fault::Syntax(_))));
    }

    #[test]
    fn what_is_passed_on_is_the_same_to_every_server() {
        let cases = [
            ("the last that every f64 holds", "9007199254740992", true),
            ("the first that none holds", "9007199254740993", false),
            ("the same below zero", "-9007199254740993", false),
            ("an even one beyond", "9007199254740994", true),
            ("a round one beyond", "1000000000000000000", true),
            ("one that is written shorter", "1152921504606846976", false),
            ("the least of all", "-9223372036854775808", false),
            ("the greatest of all", "9223372036854775807", false),
            ("zero", "0", true),
            ("keys of several names", r#"{"a":1,"b":{"a":2}}"#, true),
            ("keys of one name", r#"{"a":1,"A":2}"#, false),
            ("deeper", r#"[{"x":{"size":1,"\u017fize":2}}]"#, false),
            ("values that differ in case", r#"["a","A"]"#, true),
            ("a key that ends early in C", r#"{"a":1,"a\u0000b":2}"#, false),
            ("a text that ends early in C", r#"["/etc/passwd\u0000.txt"]"#, false),
        ];
        for (name, text, agrees) in cases {
            assert_eq!(passed_on(text).is_ok(), agrees, "{name}");
            assert!(value(text).is_ok(), "{name}");
        }
    }

    #[test]
    fn a_text_of_more_values_than_a_decision_has_time_for_is_refused() {
        let list = |count: usize| format!("[{}]", vec!["[{}]"; count].join(","));
        assert!(value(&list(MAX_VALUES / 2 - 1)).is_ok());
        let bound = Fault::Bound { what: "the number of values", limit: MAX_VALUES };
        assert_eq!(value(&list(MAX_VALUES / 2)), Err(bound.clone()));
        assert!(document(&list(MAX_VALUES)).is_ok(), "a document may hold all roles of a company");
        assert_eq!(passed_on(&list(MAX_VALUES / 2)), Err(bound));
    }

    #[test]
    fn values_are_what_the_engine_reads_itself() {
        let text = r#" {"a":[1,-2.5,null,true,"\u00e9\n"],"b":{"c":{}}, "d":[]} "#;
        assert_eq!(value(text).unwrap(), Value::from_json_str(text).unwrap());
    }
}
