//! Computes the windows of the calendar in which quotas and budgets are counted.

use chrono::{DateTime, Datelike, Days, Months, NaiveDateTime, TimeDelta, TimeZone, Timelike};
use chrono_tz::Tz;
use std::time::Duration;

/// The length of a window beyond the calendar's last year.
const SHORTEST_S: u64 = 3_600;

/// The length of a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Period {
    /// From one full hour to the next.
    Hour,
    /// From one midnight to the next.
    Day,
    /// From the first of a month to the first of the next.
    Month,
}

impl Period {
    /// Every period by its name in quotas and budgets.
    pub const NAMES: [(&'static str, Period); 3] =
        [("hour", Period::Hour), ("day", Period::Day), ("month", Period::Month)];

    /// Seconds that no window of it lasts.
    pub(super) fn longest_s(self) -> u64 {
        match self {
            Period::Hour => 3 * 3_600,
            Period::Day => 3 * 86_400,
            Period::Month => 33 * 86_400,
        }
    }

    /// The name in quotas and budgets.
    pub fn as_str(self) -> &'static str {
        match self {
            Period::Hour => "hour",
            Period::Day => "day",
            Period::Month => "month",
        }
    }

    /// Seconds since the Unix epoch at which the window that holds `wall` ends in `zone`.
    ///
    /// A window ends when the clock there shows its end for the first time, so an hour that a clock shows twice is one window
    /// of two hours. Where the clock skips that time, the window ends when the clock is set.
    pub fn end_s(self, zone: Tz, wall: Duration) -> u64 {
        let now = i64::try_from(wall.as_secs()).ok().and_then(|seconds| DateTime::from_timestamp(seconds, 0));
        let now = now.unwrap_or_default();
        let end = self.next_start(now.with_timezone(&zone).naive_local());
        let end = end.and_then(|local| first_instant(zone, local)).filter(|end| *end > now.timestamp());
        end.and_then(|end| u64::try_from(end).ok()).unwrap_or(wall.as_secs() + SHORTEST_S)
    }

    fn next_start(self, local: NaiveDateTime) -> Option<NaiveDateTime> {
        let midnight = local.date().and_hms_opt(0, 0, 0)?;
        match self {
            Period::Hour => {
                local.date().and_hms_opt(local.hour(), 0, 0)?.checked_add_signed(TimeDelta::hours(1))
            }
            Period::Day => midnight.checked_add_days(Days::new(1)),
            Period::Month => midnight.with_day(1)?.checked_add_months(Months::new(1)),
        }
    }
}

/// The first instant at which clocks in `zone` show `local` or later.
fn first_instant(zone: Tz, local: NaiveDateTime) -> Option<i64> {
    // Clocks are set by quarters of an hour, and in one case by a day.
    let steps = (0..=4 * 25).filter_map(|step| local.checked_add_signed(TimeDelta::minutes(15 * step)));
    let mut instants = steps.filter_map(|time| zone.from_local_datetime(&time).earliest());
    instants.next().map(|instant| instant.timestamp())
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono_tz::{America, Asia, Europe, Pacific};

    fn seconds(text: &str) -> u64 {
        u64::try_from(DateTime::parse_from_rfc3339(text).unwrap().timestamp()).unwrap()
    }

    #[test]
    fn windows_end_by_the_clock_of_their_zone() {
        let cases = [
            ("an hour", Period::Hour, Tz::UTC, "2026-07-28T10:59:59Z", "2026-07-28T11:00:00Z"),
            ("its first second", Period::Hour, Tz::UTC, "2026-07-28T11:00:00Z", "2026-07-28T12:00:00Z"),
            ("half an hour off", Period::Hour, Asia::Kolkata, "2026-07-28T10:10:00Z", "2026-07-28T10:30:00Z"),
            ("a day", Period::Day, Europe::Berlin, "2026-07-28T21:00:00Z", "2026-07-28T22:00:00Z"),
            (
                "a day of 23 hours",
                Period::Day,
                Europe::Berlin,
                "2026-03-28T23:00:00Z",
                "2026-03-29T22:00:00Z",
            ),
            (
                "a day of 25 hours",
                Period::Day,
                Europe::Berlin,
                "2026-10-24T22:00:00Z",
                "2026-10-25T23:00:00Z",
            ),
            (
                "an hour that comes twice",
                Period::Hour,
                Europe::Berlin,
                "2026-10-25T00:30:00Z",
                "2026-10-25T02:00:00Z",
            ),
            (
                "the hour before a gap",
                Period::Hour,
                Europe::Berlin,
                "2026-03-29T00:30:00Z",
                "2026-03-29T01:00:00Z",
            ),
            (
                "midnight is skipped",
                Period::Day,
                America::Santiago,
                "2026-09-06T03:30:00Z",
                "2026-09-06T04:00:00Z",
            ),
            ("a day is skipped", Period::Day, Pacific::Apia, "2011-12-30T09:00:00Z", "2011-12-30T10:00:00Z"),
            ("a month", Period::Month, Tz::UTC, "2026-02-01T00:00:00Z", "2026-03-01T00:00:00Z"),
            ("its last day", Period::Month, Tz::UTC, "2026-12-31T23:59:59Z", "2027-01-01T00:00:00Z"),
            ("a leap year", Period::Month, Tz::UTC, "2028-02-29T12:00:00Z", "2028-03-01T00:00:00Z"),
            (
                "a month elsewhere",
                Period::Month,
                America::New_York,
                "2026-11-01T03:59:59Z",
                "2026-11-01T04:00:00Z",
            ),
        ];
        for (name, period, zone, at, end) in cases {
            let found = period.end_s(zone, Duration::from_secs(seconds(at)));
            assert_eq!(found, seconds(end), "{name}: {}", DateTime::from_timestamp(found as i64, 0).unwrap());
        }
    }

    #[test]
    fn every_window_ends_after_its_time_and_is_followed_by_another() {
        for zone in
            [Tz::UTC, Europe::Berlin, America::Santiago, Pacific::Apia, Asia::Kolkata, Tz::Africa__Casablanca]
        {
            for (name, period) in Period::NAMES {
                let mut at = seconds("2011-12-20T00:00:00Z");
                for _ in 0..2_000 {
                    let end = period.end_s(zone, Duration::from_secs(at));
                    assert!(end > at && end - at <= period.longest_s(), "{zone} {name} at {at}: {end}");
                    at = end;
                }
            }
        }
    }
}
