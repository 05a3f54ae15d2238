//! The time that policy reads: coarse, in one time zone, and never read by a rule itself.

use chrono::{DateTime, Datelike, Offset, TimeZone, Timelike};
use chrono_tz::Tz;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

/// How fine a policy reads the time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Unit {
    /// `input.time.minute`.
    Minute,
    /// `input.time.hour`.
    Hour,
    /// `input.time.weekday` or `input.time.date`.
    Day,
}

impl Unit {
    /// The name in `check` and in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Unit::Minute => "minute",
            Unit::Hour => "hour",
            Unit::Day => "day",
        }
    }
}

/// A time of day and a date as people at one place write them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct LocalTime {
    pub(super) hour: u8,
    pub(super) minute: u8,
    pub(super) year: i32,
    pub(super) month: u8,
    pub(super) day: u8,
    /// From 0 for Monday.
    weekday: u8,
}

impl LocalTime {
    /// `Monday` to `Sunday`, as `time.weekday` of Rego says it.
    pub(super) fn weekday(self) -> &'static str {
        const NAMES: [&str; 7] =
            ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];
        NAMES[usize::from(self.weekday) % NAMES.len()]
    }

    /// `2026-07-28`.
    pub(super) fn date(self) -> String {
        format!("{:04}-{:02}-{:02}", self.year, self.month, self.day)
    }
}

/// One time zone.
#[derive(Debug)]
pub(super) struct Calendar {
    zone: Tz,
    /// The minute since the epoch that was looked up last, and the zone's offset in it: seconds east,
    /// plus a day so that they are positive. Both in one word, so no reader sees half of it.
    last: AtomicU64,
}

const OFFSET_BITS: u32 = 20;

impl Calendar {
    pub(super) fn new(zone: Tz) -> Calendar {
        Calendar { zone, last: AtomicU64::new(u64::MAX) }
    }

    /// The time there at `wall` since the epoch.
    pub(super) fn at(&self, wall: Duration) -> LocalTime {
        let utc = wall.as_secs();
        let local = utc.saturating_add(self.offset(utc)).saturating_sub(DAY);
        let local = DateTime::from_timestamp(i64::try_from(local).unwrap_or_default(), 0).unwrap_or_default();
        let small = |number: u32| u8::try_from(number).unwrap_or_default();
        LocalTime {
            hour: small(local.hour()),
            minute: small(local.minute()),
            year: local.year(),
            month: small(local.month()),
            day: small(local.day()),
            weekday: small(local.weekday().num_days_from_monday()),
        }
    }

    /// When the unit in which `wall` lies ends there.
    ///
    /// Where clocks are set on the same day it may be told an hour early, never late.
    pub(super) fn boundary(&self, unit: Unit, wall: Duration) -> Duration {
        let utc = wall.as_secs();
        let offset = self.offset(utc);
        let local = utc.saturating_add(offset);
        let length = match unit {
            Unit::Minute => MINUTE,
            Unit::Hour => HOUR,
            Unit::Day => DAY,
        };
        let mut end = utc + length - local % length;
        if self.offset(end) != offset {
            end = utc + HOUR.min(length) - local % HOUR.min(length);
        }
        Duration::from_secs(end)
    }

    /// Seconds east of Greenwich, plus a day.
    fn offset(&self, utc: u64) -> u64 {
        let minute = utc / MINUTE;
        let last = self.last.load(Ordering::Relaxed);
        if last >> OFFSET_BITS == minute {
            return last & ((1 << OFFSET_BITS) - 1);
        }
        let instant = DateTime::from_timestamp(i64::try_from(utc).unwrap_or_default(), 0).unwrap_or_default();
        let east = self.zone.offset_from_utc_datetime(&instant.naive_utc()).fix().local_minus_utc();
        let offset = DAY.saturating_add_signed(i64::from(east));
        self.last.store(minute << OFFSET_BITS | offset, Ordering::Relaxed);
        offset
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wall(text: &str) -> Duration {
        let seconds = DateTime::parse_from_rfc3339(text).unwrap().timestamp();
        Duration::from_secs(u64::try_from(seconds).unwrap())
    }

    #[test]
    fn time_is_told_as_people_there_tell_it() {
        let berlin = Calendar::new(chrono_tz::Europe::Berlin);
        let kolkata = Calendar::new(chrono_tz::Asia::Kolkata);
        let newfoundland = Calendar::new(chrono_tz::America::St_Johns);
        let cases = [
            (&berlin, "2026-01-01T22:59:59Z", "2026-01-01", 23, 59, "Thursday"),
            (&berlin, "2026-07-28T22:30:00Z", "2026-07-29", 0, 30, "Wednesday"),
            (&kolkata, "2026-02-28T18:29:00Z", "2026-02-28", 23, 59, "Saturday"),
            (&kolkata, "2026-02-28T18:30:00Z", "2026-03-01", 0, 0, "Sunday"),
            (&newfoundland, "2026-01-01T00:00:00Z", "2025-12-31", 20, 30, "Wednesday"),
        ];
        for (calendar, at, date, hour, minute, weekday) in cases {
            let time = calendar.at(wall(at));
            let told = (time.date(), time.hour, time.minute, time.weekday());
            assert_eq!(told, (date.to_owned(), hour, minute, weekday), "{at}");
        }
    }

    #[test]
    fn units_end_where_the_next_one_starts() {
        let berlin = Calendar::new(chrono_tz::Europe::Berlin);
        let cases = [
            (Unit::Minute, "2026-07-28T10:20:30Z", "2026-07-28T10:21:00Z"),
            (Unit::Hour, "2026-07-28T10:20:30Z", "2026-07-28T11:00:00Z"),
            (Unit::Day, "2026-07-28T10:20:30Z", "2026-07-28T22:00:00Z"),
            (Unit::Day, "2026-07-28T22:00:00Z", "2026-07-29T22:00:00Z"),
            // Clocks are set back at 01:00 UTC on this day: told early, which only costs one evaluation.
            (Unit::Day, "2026-10-25T00:30:00Z", "2026-10-25T01:00:00Z"),
        ];
        for (unit, at, end) in cases {
            assert_eq!(berlin.boundary(unit, wall(at)), wall(end), "{unit:?} {at}");
        }
    }

    #[test]
    fn the_remembered_offset_changes_with_the_season() {
        let berlin = Calendar::new(chrono_tz::Europe::Berlin);
        assert_eq!(berlin.at(wall("2026-10-25T00:59:59Z")).hour, 2);
        assert_eq!(berlin.at(wall("2026-10-25T01:00:00Z")).hour, 2);
        assert_eq!(berlin.at(wall("2026-10-25T02:00:00Z")).hour, 3);
    }
}
