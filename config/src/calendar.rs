//! Points in time as people write them: `2026-11-21` and `2026-11-21T19:30:00Z`, always UTC.

use std::time::Duration;

const DAY_SECONDS: u64 = 86_400;

/// Days from 0000-03-01 to 1970-01-01. Counting years from March puts the leap day at their end.
const EPOCH_DAYS: u64 = 719_468;
/// Days of 400 years, after which the calendar repeats.
const ERA_DAYS: u64 = 146_097;

/// Reads a day, which stands for its first second, or a second of one (RFC 3339 in UTC).
///
/// # Errors
/// What is wrong, with an example.
pub fn parse_time(text: &str) -> Result<Duration, &'static str> {
    const EXAMPLE: &str = "a time is a day, `2026-11-21`, or a second of it in UTC, `2026-11-21T19:30:00Z`";
    let (date, time) = match text.split_once('T') {
        Some((date, time)) => (date, Some(time.strip_suffix('Z').ok_or(EXAMPLE)?)),
        None => (text, None),
    };
    let [year, month, day] = numbers(date, '-', [4, 2, 2]).ok_or(EXAMPLE)?;
    let [hour, minute, second] =
        time.map_or(Some([0; 3]), |time| numbers(time, ':', [2; 3])).ok_or(EXAMPLE)?;
    let exists = (1970..=9999).contains(&year)
        && (1..=12).contains(&month)
        && (1..=days_of_month(year, month)).contains(&day)
        && hour < 24
        && minute < 60
        && second < 60;
    if !exists {
        return Err("no calendar has this time");
    }
    let seconds = days(year, month, day) * DAY_SECONDS + hour * 3_600 + minute * 60 + second;
    Ok(Duration::from_secs(seconds))
}

/// Shows a time since the Unix epoch to the second, readable by [`parse_time`].
pub fn show_time(time: Duration) -> String {
    let (days, second) = (time.as_secs() / DAY_SECONDS, time.as_secs() % DAY_SECONDS);
    let (year, month, day) = date(days);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", second / 3_600, second / 60 % 60, second % 60)
}

/// Three numbers of exactly these many digits.
fn numbers(text: &str, separator: char, digits: [usize; 3]) -> Option<[u64; 3]> {
    let parts: Vec<&str> = text.split(separator).collect();
    let spelt = parts.len() == 3
        && parts
            .iter()
            .zip(digits)
            .all(|(part, digits)| part.len() == digits && part.bytes().all(|byte| byte.is_ascii_digit()));
    let numbers: Option<Vec<u64>> = parts.iter().map(|part| part.parse().ok()).collect();
    numbers.filter(|_| spelt)?.try_into().ok()
}

fn days_of_month(year: u64, month: u64) -> u64 {
    match month {
        2 if year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400)) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days since the epoch.
fn days(year: u64, month: u64, day: u64) -> u64 {
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let leaps = year / 4 - year / 100 + year / 400;
    // From March on, months of 31, 30, 31, 30, 31 days repeat.
    year * 365 + leaps + (153 * month + 2) / 5 + day - 1 - EPOCH_DAYS
}

/// Year, month and day of a number of days since the epoch.
fn date(days: u64) -> (u64, u64, u64) {
    let days = days + EPOCH_DAYS;
    let (era, in_era) = (days / ERA_DAYS, days % ERA_DAYS);
    let year = (in_era - in_era / 1_460 + in_era / 36_524 - in_era / 146_096) / 365;
    let in_year = in_era - (365 * year + year / 4 - year / 100);
    let month = (5 * in_year + 2) / 153;
    let day = in_year - (153 * month + 2) / 5 + 1;
    let (year, month) = if month < 10 { (year, month + 3) } else { (year + 1, month - 9) };
    (era * 400 + year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn times_are_read() {
        let cases = [
            ("1970-01-01", 0),
            ("1970-01-02", 86_400),
            ("2000-02-29", 951_782_400),
            ("2026-11-21", 1_795_219_200),
            ("2026-11-21T19:30:01Z", 1_795_289_401),
            ("9999-12-31T23:59:59Z", 253_402_300_799),
        ];
        for (text, seconds) in cases {
            assert_eq!(parse_time(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for text in [
            "",
            "2026",
            "2026-1-1",
            "26-01-01",
            "2026-13-01",
            "2026-00-01",
            "2026-02-29",
            "2100-02-29",
            "2026-04-31",
            "1969-12-31",
            "2026-01-01T",
            "2026-01-01T00:00Z",
            "2026-01-01T24:00:00Z",
            "2026-01-01T00:60:00Z",
            "2026-01-01T00:00:00",
            "2026-01-01T00:00:00+01:00",
            "2026-01-01 00:00:00Z",
            "+026-01-01",
        ] {
            assert!(parse_time(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_shown_reads_back(seconds in 0_u64..253_402_300_800) {
            let time = Duration::from_secs(seconds);
            prop_assert_eq!(parse_time(&show_time(time)), Ok(time));
        }
    }
}
