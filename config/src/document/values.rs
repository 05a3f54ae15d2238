//! Values of sections that describe themselves, see [`Described`].

use crate::dates::{parse_end, show_end};
use crate::described::{Described, words};
use crate::diagnostic::Located;
use crate::limits::is_label;
use crate::reader::Value;
use crate::units::{Rate, parse_budget, parse_money, parse_quota, parse_rate, show_rate};
use chrono_tz::Tz;
use portunus_filters::glob::Glob;
use portunus_filters::limits::{KeyPart, Mode, Period, Unit, show_money};
use serde_json::{Value as Json, json};
use std::time::Duration;

words!(KeyPart, Mode, Unit);

/// A whole number from 1 to 10⁹.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Positive(pub u64);

impl Positive {
    const MOST: usize = 1_000_000_000;
}

impl Described for Positive {
    fn form() -> String {
        "a whole number".to_owned()
    }

    fn read(value: &Value<'_>) -> Option<Positive> {
        value.count(1..=Positive::MOST).and_then(|count| u64::try_from(count).ok()).map(Positive)
    }

    fn schema() -> Json {
        json!({ "type": "integer", "minimum": 1, "maximum": Positive::MOST })
    }

    fn shown(&self) -> Json {
        json!(self.0)
    }
}

impl Described for Rate {
    fn form() -> String {
        "`1000/hour`".to_owned()
    }

    fn read(value: &Value<'_>) -> Option<Rate> {
        let hint = "write a whole number per time, such as `1000/hour` or `10/s`";
        if value.is_number() {
            value.error("a rate without its time", hint);
            return None;
        }
        Some(value.parsed(hint, parse_rate)?.value)
    }

    fn schema() -> Json {
        json!({
            "type": "string",
            "pattern": "^[0-9]+\\s*/\\s*(s|sec|second|m|min|minute|h|hour|d|day|[0-9]+\\s*(ms|s|m|h|d))$",
            "examples": ["1000/hour", "10/s", "1/15m"],
        })
    }

    fn shown(&self) -> Json {
        json!(show_rate(*self))
    }
}

/// So many in each window of the calendar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    /// How many.
    pub most: u64,
    /// The window.
    pub period: Period,
}

impl Described for Quota {
    fn form() -> String {
        "`5000/month`".to_owned()
    }

    fn read(value: &Value<'_>) -> Option<Quota> {
        let (most, period) =
            value.parsed("write `500/hour`, `5000/day` or `100000/month`", parse_quota)?.value;
        Some(Quota { most, period })
    }

    fn schema() -> Json {
        json!({
            "type": "string",
            "pattern": "^[0-9]+\\s*/\\s*(hour|day|month)$",
            "examples": ["5000/day", "100000/month"],
        })
    }

    fn shown(&self) -> Json {
        json!(format!("{}/{}", self.most, self.period.as_str()))
    }
}

/// An amount of money, in millionths of the author's currency.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Money {
    /// How much.
    pub micros: u64,
}

impl Described for Money {
    fn form() -> String {
        "`$0.50`".to_owned()
    }

    fn read(value: &Value<'_>) -> Option<Money> {
        let micros = value.parsed("write `$50` or `$0.05`", parse_money)?.value;
        Some(Money { micros })
    }

    fn schema() -> Json {
        json!({ "type": "string", "pattern": "^\\$[0-9]+(\\.[0-9]{1,6})?$", "examples": ["$50", "$0.05"] })
    }

    fn shown(&self) -> Json {
        json!(show_money(self.micros))
    }
}

/// So much money in each window of the calendar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// How much, in millionths of the author's currency.
    pub most_micros: u64,
    /// The window.
    pub period: Period,
}

impl Described for Budget {
    fn form() -> String {
        "`$50/month`".to_owned()
    }

    fn read(value: &Value<'_>) -> Option<Budget> {
        let (most_micros, period) =
            value.parsed("write `$5/hour`, `$20/day` or `$50/month`", parse_budget)?.value;
        Some(Budget { most_micros, period })
    }

    fn schema() -> Json {
        json!({
            "type": "string",
            "pattern": "^\\$[0-9]+(\\.[0-9]{1,6})?\\s*/\\s*(hour|day|month)$",
            "examples": ["$20/day", "$50/month"],
        })
    }

    fn shown(&self) -> Json {
        json!(format!("{}/{}", show_money(self.most_micros), self.period.as_str()))
    }
}

/// A zone of the IANA time zone database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Zone(pub Tz);

impl Described for Zone {
    fn form() -> String {
        "a time zone".to_owned()
    }

    fn read(value: &Value<'_>) -> Option<Zone> {
        let hint = "write a name of the IANA time zone database, such as `Europe/Berlin`";
        value.parsed(hint, |text| text.parse().map_err(|_| "is not a time zone")).map(|zone| Zone(zone.value))
    }

    fn schema() -> Json {
        json!({ "type": "string", "pattern": "^[A-Za-z0-9/_+-]{1,64}$", "examples": ["Europe/Berlin"] })
    }

    fn shown(&self) -> Json {
        json!(self.0.name())
    }
}

/// A name that can be a label of metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Label(pub Located<String>);

impl Described for Label {
    fn form() -> String {
        "a name".to_owned()
    }

    fn read(value: &Value<'_>) -> Option<Label> {
        let legal = |text: &str| is_label(text).then(|| text.to_owned()).ok_or("is not a name");
        value.parsed(crate::limits::LABEL, legal).map(Label)
    }

    fn schema() -> Json {
        json!({ "$ref": "#/$defs/label" })
    }

    fn shown(&self) -> Json {
        json!(self.0.value)
    }
}

/// A pattern over names, where it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamePattern(pub Located<String>);

impl NamePattern {
    /// The pattern.
    pub fn glob(&self) -> Glob {
        Glob::new(&self.0.value)
    }
}

impl Described for NamePattern {
    fn form() -> String {
        "a pattern".to_owned()
    }

    fn read(value: &Value<'_>) -> Option<NamePattern> {
        value.text().map(NamePattern)
    }

    fn schema() -> Json {
        json!({ "type": "string", "minLength": 1 })
    }

    fn shown(&self) -> Json {
        json!(self.0.value)
    }
}

/// An end, where it is written: a day by itself stands for its own end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndTime(pub Located<Duration>);

impl Described for EndTime {
    fn form() -> String {
        "`2026-12-31`".to_owned()
    }

    fn read(value: &Value<'_>) -> Option<EndTime> {
        value.parsed("write a day or a time of UTC", parse_end).map(EndTime)
    }

    fn schema() -> Json {
        json!({ "type": "string", "examples": ["2026-12-31", "2026-12-31T08:00:00Z"] })
    }

    fn shown(&self) -> Json {
        json!(show_end(self.0.value))
    }
}
