//! Quantities as people write them: `5m`, `64KiB`, `1000/hour`.

use portunus_filters::limits::Period;
use std::time::Duration;

/// How many per how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// How many.
    pub count: u64,
    /// Per this.
    pub per: Duration,
}

/// Reads `250ms`, `30s`, `5m`, `1h` or `2d`.
///
/// # Errors
/// What is wrong, with an example.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    const EXAMPLE: &str = "a duration is a whole number and a unit (ms, s, m, h, d), such as `30s`";
    let (count, unit) = split_quantity(text).ok_or_else(|| EXAMPLE.to_owned())?;
    let unit_ms: u64 = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        "" => return Err(format!("a duration needs its unit: `{count}s` or `{count}ms`")),
        _ => return Err(EXAMPLE.to_owned()),
    };
    let milliseconds = count.checked_mul(unit_ms).ok_or("is longer than a clock can count")?;
    Ok(Duration::from_millis(milliseconds))
}

/// Reads a number of bytes: `512`, `64KiB`, `4MiB`, `1GiB`, `1MB` (decimal).
///
/// # Errors
/// What is wrong, with an example.
pub fn parse_size(text: &str) -> Result<u64, String> {
    const EXAMPLE: &str =
        "a size is a whole number and a unit (B, KiB, MiB, GiB, kB, MB, GB), such as `4MiB`";
    let (count, unit) = split_quantity(text).ok_or_else(|| EXAMPLE.to_owned())?;
    let unit_bytes: u64 = match unit {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "kB" | "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        _ => return Err(EXAMPLE.to_owned()),
    };
    count.checked_mul(unit_bytes).ok_or_else(|| "is more bytes than can be counted".to_owned())
}

/// Reads `1000/hour`, `10/s`, `5/minute`, `1/15m`.
///
/// # Errors
/// What is wrong, with an example.
pub fn parse_rate(text: &str) -> Result<Rate, String> {
    const EXAMPLE: &str = "a rate is a whole number per time, such as `1000/hour` or `10/s`";
    let (count, per) = text.split_once('/').ok_or(EXAMPLE)?;
    let (count, "") = split_quantity(count.trim()).ok_or(EXAMPLE)? else {
        return Err(EXAMPLE.to_owned());
    };
    let per = match per.trim() {
        "s" | "sec" | "second" => Duration::from_secs(1),
        "m" | "min" | "minute" => Duration::from_secs(60),
        "h" | "hour" => Duration::from_secs(3_600),
        "d" | "day" => Duration::from_secs(86_400),
        other => parse_duration(other).map_err(|_| EXAMPLE)?,
    };
    match count == 0 || per.is_zero() {
        true => Err("a rate of nothing: write at least 1, or remove the key".to_owned()),
        false => Ok(Rate { count, per }),
    }
}

/// Reads `500/hour`, `5000/day` or `100000/month`.
///
/// # Errors
/// What is wrong, with an example.
pub fn parse_quota(text: &str) -> Result<(u64, Period), &'static str> {
    const EXAMPLE: &str = "a quota is a whole number per hour, day or month, such as `5000/month`";
    let (count, per) = text.split_once('/').ok_or(EXAMPLE)?;
    let (most, "") = split_quantity(count.trim()).ok_or(EXAMPLE)? else { return Err(EXAMPLE) };
    let period = Period::NAMES.into_iter().find(|(name, _)| *name == per.trim()).ok_or(EXAMPLE)?.1;
    if most == 0 {
        Err("a quota of nothing: write at least 1, or remove the key")
    } else {
        Ok((most, period))
    }
}

/// Reads `$50` or `$0.05` as millionths.
///
/// # Errors
/// What is wrong, with an example.
pub fn parse_money(text: &str) -> Result<u64, &'static str> {
    const EXAMPLE: &str =
        "an amount of money is a `$` and a number with at most six decimals, such as `$0.05`";
    let number = text.strip_prefix('$').ok_or(EXAMPLE)?;
    let (whole, decimals) = number.split_once('.').unwrap_or((number, "0"));
    let is_number = |digits: &str| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    if !is_number(whole) || !is_number(decimals) || decimals.len() > 6 {
        return Err(EXAMPLE);
    }
    let whole: u64 = whole.parse().map_err(|_| MUCH)?;
    let micros: u64 = format!("{decimals:0<6}").parse().map_err(|_| EXAMPLE)?;
    let micros = whole.checked_mul(1_000_000).and_then(|whole| whole.checked_add(micros)).ok_or(MUCH)?;
    match micros {
        0 => Err("no money at all: write more, or remove the key"),
        _ if micros > MOST_MICROS => Err(MUCH),
        _ => Ok(micros),
    }
}

/// Most money that a document can say, in millionths.
const MOST_MICROS: u64 = 1_000_000_000_000_000;
const MUCH: &str = "is more than a billion";

/// Reads `$20/day` or `$50/month`.
///
/// # Errors
/// What is wrong, with an example.
pub fn parse_budget(text: &str) -> Result<(u64, Period), &'static str> {
    const EXAMPLE: &str = "a budget is money per hour, day or month, such as `$50/month`";
    let (money, per) = text.split_once('/').ok_or(EXAMPLE)?;
    let period = Period::NAMES.into_iter().find(|(name, _)| *name == per.trim()).ok_or(EXAMPLE)?.1;
    Ok((parse_money(money.trim())?, period))
}

/// Shows a rate, readable by [`parse_rate`].
pub fn show_rate(rate: Rate) -> String {
    let per = match rate.per.as_millis() {
        1_000 => "second".to_owned(),
        60_000 => "minute".to_owned(),
        3_600_000 => "hour".to_owned(),
        86_400_000 => "day".to_owned(),
        _ => show_duration(rate.per),
    };
    format!("{}/{per}", rate.count)
}

/// Shows a duration in the largest unit that keeps it whole, readable by [`parse_duration`].
pub fn show_duration(duration: Duration) -> String {
    let milliseconds = duration.as_millis();
    let units = [(86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1_000, "s")];
    match units.into_iter().find(|(unit_ms, _)| milliseconds > 0 && milliseconds.is_multiple_of(*unit_ms)) {
        Some((unit_ms, unit)) => format!("{}{unit}", milliseconds / unit_ms),
        None => format!("{milliseconds}ms"),
    }
}

/// A whole number and what follows it; `None` without digits or when they overflow.
fn split_quantity(text: &str) -> Option<(u64, &str)> {
    let end = text.find(|character: char| !character.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(end);
    Some((digits.parse().ok()?, unit.trim_start()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations() {
        let table = [
            ("250ms", Some(250)),
            ("30s", Some(30_000)),
            ("30 s", Some(30_000)),
            ("5m", Some(300_000)),
            ("1h", Some(3_600_000)),
            ("2d", Some(172_800_000)),
            ("0s", Some(0)),
            ("30", None),
            ("", None),
            ("s", None),
            ("-1s", None),
            ("1.5s", None),
            ("5 minutes", None),
            ("1h30m", None),
            ("18446744073709551616ms", None),
            ("18446744073709551615d", None),
        ];
        for (text, milliseconds) in table {
            assert_eq!(parse_duration(text).ok(), milliseconds.map(Duration::from_millis), "{text}");
        }
        assert!(parse_duration("30").unwrap_err().contains("`30s`"));
    }

    #[test]
    fn sizes() {
        let table = [
            ("512", Some(512)),
            ("512B", Some(512)),
            ("64KiB", Some(65_536)),
            ("4MiB", Some(4 << 20)),
            ("2GiB", Some(2 << 30)),
            ("1MB", Some(1_000_000)),
            ("1kB", Some(1_000)),
            ("4M", None),
            ("1.5MiB", None),
            ("-1", None),
            ("18446744073709551615GiB", None),
        ];
        for (text, bytes) in table {
            assert_eq!(parse_size(text).ok(), bytes, "{text}");
        }
    }

    #[test]
    fn money_quotas_and_budgets() {
        let table = [
            ("$50", Some(50_000_000)),
            ("$0.05", Some(50_000)),
            ("$0.000001", Some(1)),
            ("$1.5", Some(1_500_000)),
            ("$1000000000", Some(1_000_000_000_000_000)),
            ("$1000000000.01", None),
            ("$99999999999999999999", None),
            ("$0", None),
            ("$0.0000001", None),
            ("$1.", None),
            ("$.5", None),
            ("50", None),
            ("$-1", None),
            ("$1e3", None),
        ];
        for (text, micros) in table {
            assert_eq!(parse_money(text).ok(), micros, "{text}");
            if let Some(micros) = micros {
                assert_eq!(parse_money(&portunus_filters::limits::show_money(micros)), Ok(micros), "{text}");
            }
        }
        assert_eq!(parse_budget("$0.5 / day"), Ok((500_000, Period::Day)));
        assert_eq!(parse_quota("5000/month"), Ok((5_000, Period::Month)));
        assert!(["5000", "5000/week", "0/day", "/day"].iter().all(|text| parse_quota(text).is_err()));
        assert!(["$5", "$5/week", "5/day"].iter().all(|text| parse_budget(text).is_err()));
        for text in ["1000/hour", "10/second", "5/minute", "7/day", "1/15m"] {
            assert_eq!(show_rate(parse_rate(text).unwrap()), text);
        }
    }

    #[test]
    fn rates() {
        let rate = |count, seconds| Some(Rate { count, per: Duration::from_secs(seconds) });
        let table = [
            ("1000/hour", rate(1000, 3600)),
            ("10/s", rate(10, 1)),
            ("10 / minute", rate(10, 60)),
            ("1/day", rate(1, 86_400)),
            ("3/15m", rate(3, 900)),
            ("1000", None),
            ("1000/", None),
            ("/hour", None),
            ("10k/hour", None),
            ("0/hour", None),
            ("1/0s", None),
        ];
        for (text, expected) in table {
            assert_eq!(parse_rate(text).ok(), expected, "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_shown_duration_reads_back(milliseconds in 0..1_000_000_000_u64) {
            let duration = Duration::from_millis(milliseconds);
            prop_assert_eq!(parse_duration(&show_duration(duration)), Ok(duration));
        }
    }
}
