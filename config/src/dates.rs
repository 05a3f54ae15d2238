//! Days and times of UTC as people write them: `2026-12-31`, `2026-12-31T08:00:00Z`.

use std::time::Duration;

const SECONDS_A_DAY: u64 = 86_400;

/// Reads a time since the Unix epoch. A day by itself stands for its end, so that "not after" a day
/// includes it.
///
/// # Errors
/// What is wrong, with an example.
pub fn parse_end(text: &str) -> Result<Duration, &'static str> {
    parse(text, SECONDS_A_DAY)
}

/// Reads a time since the Unix epoch. A day by itself stands for its beginning.
///
/// # Errors
/// What is wrong, with an example.
pub fn parse_start(text: &str) -> Result<Duration, &'static str> {
    parse(text, 0)
}

/// `alone` is what a day without a time stands for, in seconds since its midnight.
fn parse(text: &str, alone: u64) -> Result<Duration, &'static str> {
    const EXAMPLE: &str = "is no time: write `2026-12-31`, or `2026-12-31T08:00:00Z`";
    let (date, time) = match text.split_once('T') {
        Some((date, time)) => (date, Some(time)),
        None => (text, None),
    };
    let day = parse_day(date).ok_or(EXAMPLE)?;
    let seconds = match time {
        None => alone,
        Some(time) => parse_time(time).ok_or(EXAMPLE)?,
    };
    Ok(Duration::from_secs(day * SECONDS_A_DAY + seconds))
}

/// Shows a time that both read back, to the second.
pub fn show_end(end: Duration) -> String {
    let (day, seconds) = (end.as_secs() / SECONDS_A_DAY, end.as_secs() % SECONDS_A_DAY);
    let (year, month, date) = civil(day);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{date:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// `2026-12-31` as days since the Unix epoch.
fn parse_day(text: &str) -> Option<u64> {
    let mut parts = text.splitn(3, '-');
    let year = digits(parts.next()?, 4).filter(|year| (1970..=9999).contains(year))?;
    let month = digits(parts.next()?, 2).filter(|month| (1..=12).contains(month))?;
    let date = digits(parts.next()?, 2).filter(|date| (1..=31).contains(date))?;
    let day = days(year, month, date);
    (civil(day) == (year, month, date)).then_some(day)
}

/// `08:00:00Z` as seconds since midnight.
fn parse_time(text: &str) -> Option<u64> {
    let mut parts = text.strip_suffix('Z')?.splitn(3, ':');
    let hour = digits(parts.next()?, 2).filter(|hour| *hour < 24)?;
    let minute = digits(parts.next()?, 2).filter(|minute| *minute < 60)?;
    let second = digits(parts.next()?, 2).filter(|second| *second < 60)?;
    Some(hour * 3600 + minute * 60 + second)
}

fn digits(text: &str, count: usize) -> Option<u64> {
    (text.len() == count && text.bytes().all(|byte| byte.is_ascii_digit())).then(|| text.parse().ok())?
}

/// Days since the Unix epoch, in the proleptic Gregorian calendar. Years begin with March, so that
/// the day that comes and goes is the last.
fn days(year: u64, month: u64, date: u64) -> u64 {
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let before = year * 365 + year / 4 - year / 100 + year / 400;
    before + (153 * month + 2) / 5 + date - 1 - EPOCH
}

/// Year, month and date of a day since the Unix epoch.
fn civil(day: u64) -> (u64, u64, u64) {
    let day = day + EPOCH;
    let (cycle, within) = (day / 146_097, day % 146_097);
    let year = (within - within / 1_460 + within / 36_524 - within / 146_096) / 365;
    let rest = within - (year * 365 + year / 4 - year / 100);
    let month = (5 * rest + 2) / 153;
    let date = rest - (153 * month + 2) / 5 + 1;
    let year = cycle * 400 + year;
    if month < 10 { (year, month + 3, date) } else { (year + 1, month - 9, date) }
}

/// Days from the first of March of year 0 to the Unix epoch.
const EPOCH: u64 = 719_468;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn days_and_times() {
        let table = [
            ("1970-01-01T00:00:00Z", Some(0)),
            ("1970-01-01", Some(86_400)),
            ("2000-02-29T00:00:01Z", Some(951_782_401)),
            ("2026-12-31T23:59:59Z", Some(1_798_761_599)),
            ("2026-12-31", Some(1_798_761_600)),
            ("2026-02-29", None),
            ("1900-02-28", None),
            ("2026-13-01", None),
            ("2026-04-31", None),
            ("2026-1-1", None),
            ("2026-01-01T24:00:00Z", None),
            ("2026-01-01T00:00:00", None),
            ("2026-01-01T00:00:00+01:00", None),
            ("tomorrow", None),
            ("", None),
        ];
        for (text, seconds) in table {
            assert_eq!(parse_end(text).ok(), seconds.map(Duration::from_secs), "{text}");
        }
    }

    #[test]
    fn a_day_begins_where_the_one_before_ends() {
        assert_eq!(parse_start("2026-12-31"), parse_end("2026-12-30"));
        let within = "2026-12-31T08:00:00Z";
        assert_eq!(parse_start(within), parse_end(within));
    }

    proptest! {
        #[test]
        fn a_shown_time_reads_back(seconds in 0..250_000_000_000_u64) {
            let end = Duration::from_secs(seconds);
            prop_assert_eq!(parse_end(&show_end(end)), Ok(end));
        }
    }
}
